// The arguments that losses over classes by softmax share: options, labels or a distribution, weights of rows.

#ifndef FUSEPROP_BIND_LOSSES_CLASS_ARGS_H_
#define FUSEPROP_BIND_LOSSES_CLASS_ARGS_H_

#include "bind/formula.h"
#include "bind/losses/loss_args.h"
#include "kernels/losses/softmax_cross_entropy.h"

namespace fuseprop {
namespace bind {

// The method _bind(name, parameters): () for a loss without options, which has code of its own, or (label_smoothing,
// class_weight, ignore_index, temperature, scale_by_temperature, z_loss), checked already.
Ref BindClassOptions(PyObject* self, PyObject* const* args, Py_ssize_t nargs);
bool HasClassOptions(const Formula& formula);

// The options of a formula that has some.
template <class T>
SoftmaxCrossEntropyOptions<T> ClassOptions(const Formula& formula);

// The target and the rows' weights of logits of a shape, classes last.
struct ClassTarget {
  const Formula& formula;
  const ClassNames& names;
  Ref labels;        // or
  Ref distribution;  // of the logits' shape
  Ref weight;
  LabelKind kind = LabelKind::kInt64;
  size_t rows = 1;
  size_t classes = 0;
  double weight_sum = 0.0;      // what "mean" divides by
  bool mean_of_labels = false;  // the kernel finds out that sum

  // `given_weight` may be null.
  ClassTarget(const Formula& loss, int ndim, const npy_intp* shape, int typenum, const Ref& given_target,
              const Ref& given_weight, bool mean, const ClassNames& argument_names);

  // All of the arguments but the logits and the outputs; `options` is memory for them.
  template <class T>
  void Fill(SoftmaxCrossEntropyArgs<T>* args, SoftmaxCrossEntropyOptions<T>* options) const {
    if (HasClassOptions(formula)) {
      *options = ClassOptions<T>(formula);
      args->options = options;
      args->mean_of_labels = mean_of_labels;
    }
    args->rows = rows;
    args->classes = classes;
    args->labels = labels ? Data<void>(labels) : nullptr;
    args->label_kind = kind;
    args->distribution = distribution ? Data<T>(distribution) : nullptr;
    args->weight = weight ? Data<T>(weight) : nullptr;
  }

  // Raises what is wrong with the target if something is, and takes over what "mean" divides by.
  void Finish(const SoftmaxCrossEntropyResult& result) {
    if (result.first_invalid_row < rows) RaiseInvalid(result.first_invalid_row);
    if (mean_of_labels) weight_sum = result.denominator;
  }

 private:
  [[noreturn]] void RaiseInvalid(size_t row) const;
};

}  // namespace bind
}  // namespace fuseprop

#endif  // FUSEPROP_BIND_LOSSES_CLASS_ARGS_H_
