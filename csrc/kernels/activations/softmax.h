// Log-sum-exp over the rows of a matrix. Softmax and log-softmax are in axis_activations.h (docs/mathematics.md 1).

#ifndef FUSEPROP_KERNELS_ACTIVATIONS_SOFTMAX_H_
#define FUSEPROP_KERNELS_ACTIVATIONS_SOFTMAX_H_

#include <cstddef>

namespace fuseprop {

// y[row] = log(sum_j exp(x[row, j])): -inf for a row of nothing but -inf (or of nothing), inf for one with an
// inf.
void LogSumExp(const float* x, size_t rows, size_t classes, float* y);
void LogSumExp(const double* x, size_t rows, size_t classes, double* y);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_ACTIVATIONS_SOFTMAX_H_
