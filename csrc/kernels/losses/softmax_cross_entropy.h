// Softmax cross-entropy: value, gradient and Hessian of a row in one read of its logits (docs/mathematics.md 3).

#ifndef FUSEPROP_KERNELS_LOSSES_SOFTMAX_CROSS_ENTROPY_H_
#define FUSEPROP_KERNELS_LOSSES_SOFTMAX_CROSS_ENTROPY_H_

#include <cstddef>
#include <cstdint>

namespace fuseprop {

enum class LabelKind : int { kInt8, kInt16, kInt32, kInt64, kUint8, kUint16, kUint32, kUint64 };

// What makes the loss another than -sum_j q_j log p_j, see docs/mathematics.md 3: with Y the one-hot label or the
// distribution, a_j = class_weight_j ((1 - smoothing) Y_j + smoothing / C), p = softmax(z / temperature),
// l = logsumexp(z / temperature),
//   loss = c (A l - sum_j a_j z_j / temperature) + z_loss l^2, c = temperature^2 or 1.
template <class T>
struct SoftmaxCrossEntropyOptions {
  double smoothing = 0.0;
  const T* class_weight = nullptr;             // (classes,); null for ones
  const double* exact_class_weight = nullptr;  // the same
  bool ignores = false;                        // rows with this label count for nothing
  int64_t ignored_label = 0;
  double temperature = 1.0;
  bool scale_by_temperature = false;
  double z_loss = 0.0;
};

template <class T>
struct SoftmaxCrossEntropyArgs {
  const T* logits = nullptr;  // (rows, classes), row-major without gaps
  size_t rows = 0;
  size_t classes = 0;
  // The target: labels, (rows,), in [0, classes); or, if that is null, a distribution, (rows, classes), of
  // values in [0, 1] whose sum A over a row need not be 1.
  const void* labels = nullptr;
  LabelKind label_kind = LabelKind::kInt64;
  const T* distribution = nullptr;
  const T* weight = nullptr;  // (rows,); null for ones
  double scale = 1.0;
  const SoftmaxCrossEntropyOptions<T>* options = nullptr;  // null for none
  // With options and labels: divide by the sum of weight * class_weight[label] over the rows that are not ignored,
  // instead of multiplying with `scale`. Everything is 0 if that sum is.
  bool mean_of_labels = false;
  // Outputs, null if not wanted. grad may be logits; hess may not.
  T* row_value = nullptr;  // (rows,): loss * weight
  T* grad = nullptr;       // (A p - a) * weight * scale; with options, that of their loss
  T* hess = nullptr;       // max(A p (1 - p) * hessian_factor, hess_floor) * weight
  double hessian_factor = 1.0;
  double hess_floor = 0.0;
  bool floor_hess = false;
  bool want_sum = true;  // of the losses; without it and row_value no logarithm is taken
  // Whether to look at the whole distribution before anything is written. All labels are.
  bool check_first = false;
  // Whether the labels are known to be valid.
  bool labels_are_checked = false;
};

struct SoftmaxCrossEntropyResult {
  double sum = 0.0;              // of the weighted losses; the same bits on any number of threads
  double denominator = 0.0;      // of mean_of_labels
  size_t first_invalid_row = 0;  // the first row whose label or distribution is out of range; `rows` if none
};

// With an invalid label, or with an invalid distribution under check_first, nothing is written; with an invalid
// distribution otherwise, the outputs are unspecified.
SoftmaxCrossEntropyResult SoftmaxCrossEntropy(const SoftmaxCrossEntropyArgs<float>& args);
SoftmaxCrossEntropyResult SoftmaxCrossEntropy(const SoftmaxCrossEntropyArgs<double>& args);

// Its denominator and first_invalid_row as SoftmaxCrossEntropy finds them from labels, with or without options. Looks
// at nothing but the labels, the weights and the options.
SoftmaxCrossEntropyResult CheckSoftmaxCrossEntropyLabels(const SoftmaxCrossEntropyArgs<float>& args);
SoftmaxCrossEntropyResult CheckSoftmaxCrossEntropyLabels(const SoftmaxCrossEntropyArgs<double>& args);

// The rows from `begin` on that do not have the ignored label, at most `most` of them, and their labels, all of which
// are valid. Returns how many they are.
size_t FindKeptRows(const void* labels, LabelKind kind, size_t rows, int64_t ignored_label, size_t begin, size_t most,
                    size_t* kept, int64_t* kept_labels);

// The first row whose label is outside of [0, classes); `rows` if there is none.
size_t FirstInvalidLabel(const void* labels, LabelKind kind, size_t rows, size_t classes);
// The first row of (rows, classes) with an element outside of [0, 1]; `rows` if there is none.
size_t FirstInvalidDistribution(const float* distribution, size_t rows, size_t classes);
size_t FirstInvalidDistribution(const double* distribution, size_t rows, size_t classes);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_LOSSES_SOFTMAX_CROSS_ENTROPY_H_
