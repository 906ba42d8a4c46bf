// What all losses' arguments have in common: reductions and sample weights.

#ifndef FUSEPROP_BIND_LOSSES_LOSS_ARGS_H_
#define FUSEPROP_BIND_LOSSES_LOSS_ARGS_H_

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "bind/args.h"
#include "kernels/losses/losses.h"
#include "kernels/losses/row_weights.h"

namespace fuseprop {
namespace bind {

// The type _core.Loss, whose verbs other kinds of losses override.
extern PyTypeObject* loss_type;

enum class Reduction { kMean, kSum, kNone };

inline Reduction AsReduction(PyObject* object) {
  if (PyUnicode_Check(object)) {
    if (PyUnicode_CompareWithASCIIString(object, "mean") == 0) return Reduction::kMean;
    if (PyUnicode_CompareWithASCIIString(object, "sum") == 0) return Reduction::kSum;
    if (PyUnicode_CompareWithASCIIString(object, "none") == 0) return Reduction::kNone;
  }
  Raise(PyExc_ValueError, "reduction is %R; expected \"mean\", \"sum\" or \"none\"", object);
}

// Sample weights in pred's dtype. Raises a ValueError if that cannot hold the largest of them: what it rounds to 0
// beside one that it holds, is nothing beside that.
inline Ref SampleWeights(const Ref& given, int typenum) {
  const Ref exact = FloatArray(given, "sample_weight");
  if (typenum == NPY_FLOAT32 && !IsFloat32(exact)) {
    const Ref ordered = COrdered(exact);
    const double largest = LargestSize(Data<double>(ordered), Size(ordered));
    const bool is_small = largest != 0.0 && largest < static_cast<double>(std::numeric_limits<float>::min());
    if (is_small || (std::isfinite(largest) && std::isinf(static_cast<float>(largest)))) {
      const Ref number = Ref::Check(PyFloat_FromDouble(largest));
      Raise(
          PyExc_ValueError,
          "sample_weight has a largest size of %R; float32, the dtype of the predictions, cannot hold it: multiply all "
          "weights by a constant",
          number.get());
    }
  }
  return FloatArrayAs(exact, "sample_weight", typenum);
}

// sum_i w_i in float64.
inline double SumOf(const Ref& array) {
  const ReleaseGil release(Size(array));
  return IsFloat32(array) ? Sum(Data<float>(array), Size(array)) : Sum(Data<double>(array), Size(array));
}

// The sum of the weights of a "mean", which are divided by a power of two before if they, on average, are far from 1.
inline double SumForMean(Ref* weight) {
  const double sum = SumOf(*weight);
  const size_t n = Size(*weight);
  if (n == 0 || IsModerate(sum / static_cast<double>(n))) return sum;
  PyArrayObject* const given = weight->array();
  Ref moderate = Ref::Check(PyArray_NewLikeArray(given, NPY_KEEPORDER, nullptr, 0));
  if (IsFloat32(*weight)) {
    Normalised(Data<float>(*weight), n, static_cast<float*>(PyArray_DATA(moderate.array())));
  } else {
    Normalised(Data<double>(*weight), n, static_cast<double*>(PyArray_DATA(moderate.array())));
  }
  *weight = std::move(moderate);
  return SumOf(*weight);
}

// What a "mean" divides by and a gradient is multiplied with.
struct Scale {
  double value = 1.0;
  double grad = 1.0;
  Scale() = default;
  Scale(Reduction reduction, double denominator) {
    if (reduction != Reduction::kMean) return;
    value = denominator;
    // A batch with nothing in it has value 0 and gradient 0.
    grad = denominator == 0.0 ? 0.0 : 1.0 / denominator;
  }
  bool IsEmpty() const { return value == 0.0; }
  double Reduce(double sum) const { return IsEmpty() ? 0.0 : sum / value; }
  // 0 for an empty batch, whatever its elements are.
  void Finish(const Ref& gradient) const {
    if (IsEmpty())
      std::memset(PyArray_DATA(gradient.array()), 0, static_cast<size_t>(PyArray_NBYTES(gradient.array())));
  }
};

// None, or a number to raise the Hessian to.
struct HessFloor {
  explicit HessFloor(PyObject* object) : given(object != Py_None) {
    if (!given) return;
    value = AsDouble(object, "hess_floor");
    if (!std::isfinite(value)) Raise(PyExc_ValueError, "hess_floor is %R; expected a finite number or None", object);
  }
  bool given;
  double value = 0.0;
};

// What a loss is called with, as the caller gave it: an output must not overlap these.
struct LossArrays {
  LossArrays(PyObject* pred_object, PyObject* target_object, PyObject* weight_object)
      : pred(AnyArray(pred_object, "pred")),
        target(AnyArray(target_object, "target")),
        weight(OptionalArray(weight_object, "sample_weight")) {}
  Ref pred;
  Ref target;
  Ref weight;  // may be null
};

// What the arguments are called in messages: the target, that with a row for each of its, that with a class for each.
struct ClassNames {
  const char* target;
  const char* rows;
  const char* classes;
};

// What a message says of a target that has no integers: how to make them, if all are whole numbers.
std::string LabelAdvice(const Ref& target, const char* name);

// Raises a ValueError if integers, cast to `distributions`, are none: labels that have the shape of distributions, as
// for one row of predictions or for one class, would be taken for unnormalised ones and give a senseless loss.
void CheckAreDistributions(const Ref& distributions, int ndim, const ClassNames& names, bool takes_labels);

}  // namespace bind
}  // namespace fuseprop

#endif  // FUSEPROP_BIND_LOSSES_LOSS_ARGS_H_
