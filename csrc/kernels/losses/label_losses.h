// Losses of a row with one integer label: negative log-likelihood and the focal loss of a softmax
// (docs/mathematics.md 3).

#ifndef FUSEPROP_KERNELS_LOSSES_LABEL_LOSSES_H_
#define FUSEPROP_KERNELS_LOSSES_LABEL_LOSSES_H_

#include <cstddef>
#include <cstdint>

namespace fuseprop {

template <class T>
struct LabelLossArgs {
  const T* pred = nullptr;          // (rows, classes), row-major without gaps
  const int64_t* labels = nullptr;  // (rows,), in [0, classes)
  size_t rows = 0;
  size_t classes = 0;
  const T* weight = nullptr;             // (rows,); null for ones
  const double* class_weight = nullptr;  // (classes,), a factor of the loss by label; null for ones
  double scale = 1.0;
  // Outputs, null if not wanted. grad may be pred; hess may not, and comes with grad.
  T* row_value = nullptr;  // (rows,): loss * weight
  T* grad = nullptr;       // gradient * weight * scale
  T* hess = nullptr;       // max(the Hessian's diagonal, hess_floor) * weight
  double hess_floor = 0.0;
  bool floor_hess = false;
};

// Each returns the sum of the weighted losses, the same bits on any number of threads.
double NegativeLogLikelihood(const LabelLossArgs<float>& args);
double NegativeLogLikelihood(const LabelLossArgs<double>& args);
double SoftmaxFocal(const LabelLossArgs<float>& args, double gamma);
double SoftmaxFocal(const LabelLossArgs<double>& args, double gamma);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_LOSSES_LABEL_LOSSES_H_
