// Losses of one prediction per target, and sums of such over classes: value, gradient and Hessian in one pass
// (docs/mathematics.md 2).

#ifndef FUSEPROP_KERNELS_LOSSES_LOSSES_H_
#define FUSEPROP_KERNELS_LOSSES_LOSSES_H_

#include <cstddef>

namespace fuseprop {

// The values a loss is defined for. A NaN is in those only whose line says so.
enum class Domain : int {
  kReal,         // anything, NaN and infinities included
  kUnit,         // [0, 1]
  kUnitOrNaN,    // likewise; for predictions, whose NaN gives a NaN
  kSign,         // -1 or 1
  kNonNegative,  // finite, >= 0
  kPositive,     // finite, > 0
  kNonZero,      // anything but 0, NaN and infinities included
  kNonPositive,  // <= 0, -infinity included
};

// Elements of a piece, which a loss computes at once. Small enough that a piece of everything stays in the first cache.
constexpr size_t kLossPiece = 1024;

template <class T>
struct LossArgs {
  const T* pred = nullptr;
  const T* target = nullptr;
  // One weight for each run of `weight_run` elements; null for ones.
  const T* weight = nullptr;
  size_t weight_run = 1;
  // The parameter of each column, for losses that may have one per column, tiled: element i has column[i % num_columns]
  // where kLossPiece + num_columns elements can be read; null for the same everywhere.
  const T* column = nullptr;
  const T* complement = nullptr;  // likewise, 1 minus it
  size_t num_columns = 1;
  size_t n = 0;
  // Outputs; those that the pass does not compute are not touched.
  T* value = nullptr;  // weighted, per element; null: the sum alone is wanted
  T* grad = nullptr;   // d1 * weight * scale
  T* hess = nullptr;   // max(d2, hess_floor) * weight
  double scale = 1.0;
  double value_scale = 1.0;  // what weights are multiplied by for the values alone
  double hess_floor = 0.0;
  bool floor_hess = false;
  bool check = true;  // whether to look for elements outside of the domain
};

struct LossResult {
  double sum = 0.0;          // of the weighted values
  size_t first_invalid = 0;  // the first element outside of the domain; n if there is none, or none was looked for
};

// What one call computes.
enum class LossPass : int { kValue, kGrad, kValueGrad, kGradHess };

// What a row's functions compute at once.
template <class T>
struct LossPiece {
  const T* pred;
  const T* target;
  const T* weight;  // per element; null for ones
  const T* column;  // per element; null for the row's parameter
  const T* complement;
  T* value;
  T* grad;
  T* hess;
  size_t n;
  T scale;
  T value_scale;
  T hess_floor;
  bool floor_hess;
  bool stream;  // whether grad and hess, then aligned as vectors, are stored around the caches
};

// The only code that each loss has for itself.
template <class T>
struct LossLeaves {
  using Leaf = void (*)(const double* parameters, const LossPiece<T>& piece);
  Leaf value;
  Leaf value_grad;
  Leaf grad_hess;
  Leaf grad;  // null where the value is cheap enough to be computed along with it
};

struct LossRow {
  const char* name;
  size_t num_parameters;
  bool per_column;                               // whether the first parameter may differ from column to column
  bool has_derivatives;                          // a metric has none, and null in their place
  bool over_classes;                             // whether the loss of a row is the sum over its last axis
  bool (*skips_zero)(const double* parameters);  // whether targets of 0 are left out of a mean
  Domain (*target_domain)(const double* parameters);
  Domain pred_domain;
  LossLeaves<float> f32;
  LossLeaves<double> f64;
};

// What all rows share.
template <class T>
struct LossOps {
  // Computes a pass of the loss.
  LossResult (*run)(const LossRow& row, LossPass pass, const double* parameters, const LossArgs<T>& args);
  // The first element outside of the loss's domain, or n; writes nothing.
  size_t (*first_invalid)(const LossRow& row, const double* parameters, const LossArgs<T>& args);
  // Sum of the weights (ones without) of the elements whose target is not 0.
  double (*weight_of_nonzero)(const LossArgs<T>& args);
  // sums[i] = sum of x[i * length, (i + 1) * length), in float64: the losses of rows.
  void (*sum_rows)(const T* x, size_t rows, size_t length, T* sums);
  // Of the residuals r = scale (pred - target), formed in float64: sum w r^2, max abs r, and grad = w r factor.
  double (*sum_squares)(const LossArgs<T>& args, double scale);
  double (*largest_residual)(const LossArgs<T>& args, double scale);
  void (*residuals)(const LossArgs<T>& args, double scale, double factor);
  // The gradient of the root of the mean where residuals are infinite; false if none is.
  bool (*infinite_residuals)(const LossArgs<T>& args, double weight_sum);
};

struct LossTable {
  const LossRow* rows;
  size_t size;
  LossOps<float> f32;
  LossOps<double> f64;
};

// The member for T of a row or a table.
template <class T, class Both>
const auto& OfType(const Both& both) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return both.f32;
  } else {
    return both.f64;
  }
}

// The table of the active target; every target's has the same rows in the same order.
const LossTable& Losses();

// Sum of x[0, n) in float64; the same bits on any target and any number of threads.
double Sum(const float* x, size_t n);
double Sum(const double* x, size_t n);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_LOSSES_LOSSES_H_
