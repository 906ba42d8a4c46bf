// Batch and layer normalisation of row-major (rows, n) arrays, forward and backward:
//   t = x - mean;  y = t / sqrt(var + eps) * weight + bias
// with the mean and the (biased) variance of each column (batch) or of each row (layer).

#ifndef FUSEPROP_KERNELS_DENSE_NORMS_H_
#define FUSEPROP_KERNELS_DENSE_NORMS_H_

#include <cstddef>

namespace fuseprop {

template <class T>
struct NormForward {
  const T* x = nullptr;
  size_t rows = 0, n = 0;
  const T* weight = nullptr;  // (n,), or null: ones
  const T* bias = nullptr;    // (n,), or null: zeros
  double eps = 0.0;
  double* mean = nullptr;  // batch: (n,); layer: (rows,), or null if not wanted
  double* var = nullptr;   // likewise
  T* y = nullptr;          // may be x
};

template <class T>
struct NormBackward {
  const T* x = nullptr;
  const T* dy = nullptr;
  size_t rows = 0, n = 0;
  const T* weight = nullptr;
  double eps = 0.0;
  const double* mean = nullptr;  // what the forward pass found
  const double* var = nullptr;
  T* dx = nullptr;       // may be dy or x; null: not wanted
  T* dweight = nullptr;  // (n,); null: not wanted
  T* dbias = nullptr;
  bool accumulate = false;  // dweight and dbias += instead of =
};

// All of them: sums in float64, in an order that depends on the shape alone; otherwise each element is
//   y  = MulAdd(t, weight / sqrt(var + eps), bias), with t = (x - high) - low, mean = high + low,
// within a few roundings of its terms. They may throw std::bad_alloc before anything is written.

// With `training`, mean and var are computed and written; else they are given.
void BatchNorm(const NormForward<float>& args, bool training);
void BatchNorm(const NormForward<double>& args, bool training);
// Through the statistics, too: dx = weight rstd (dy - mean(dy) - t rstd^2 mean(dy t)), means over the rows.
void BatchNormBackward(const NormBackward<float>& args);
void BatchNormBackward(const NormBackward<double>& args);

// Moves running statistics towards those of a batch of `rows` rows, by the share `momentum`; the variance towards the
// unbiased one. One row has none: running_var stays.
void UpdateRunning(const double* mean, const double* var, size_t rows, size_t n, double momentum, float* running_mean,
                   float* running_var);
void UpdateRunning(const double* mean, const double* var, size_t rows, size_t n, double momentum, double* running_mean,
                   double* running_var);

void LayerNorm(const NormForward<float>& args);
void LayerNorm(const NormForward<double>& args);
// With g = dy weight: dx = rstd (g - mean(g) - t rstd^2 mean(g t)), means over the row.
void LayerNormBackward(const NormBackward<float>& args);
void LayerNormBackward(const NormBackward<double>& args);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_DENSE_NORMS_H_
