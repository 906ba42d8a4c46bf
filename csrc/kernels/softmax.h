// Softmax, log-softmax and log-sum-exp over the rows of a matrix (SPEC 1).

#ifndef FUSEPROP_KERNELS_SOFTMAX_H_
#define FUSEPROP_KERNELS_SOFTMAX_H_

#include <cstddef>

namespace fuseprop {

// x and y are (rows, classes), row-major without gaps; y may be x. A row with a NaN, a +inf or nothing but -inf
// is NaN throughout.
void Softmax(const float* x, size_t rows, size_t classes, float* y);
void Softmax(const double* x, size_t rows, size_t classes, double* y);
void LogSoftmax(const float* x, size_t rows, size_t classes, float* y);
void LogSoftmax(const double* x, size_t rows, size_t classes, double* y);

// y[row] = log(sum_j exp(x[row, j])): -inf for a row of nothing but -inf (or of nothing), inf for one with an
// inf.
void LogSumExp(const float* x, size_t rows, size_t classes, float* y);
void LogSumExp(const double* x, size_t rows, size_t classes, double* y);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_SOFTMAX_H_
