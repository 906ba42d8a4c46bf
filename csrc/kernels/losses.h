// Losses of one prediction per target: value, gradient and Hessian in one pass (SPEC 2).

#ifndef FUSEPROP_KERNELS_LOSSES_H_
#define FUSEPROP_KERNELS_LOSSES_H_

#include <cstddef>

namespace fuseprop {

// The values a loss is defined for.
enum class Domain : int {
  kReal,  // anything, NaN and infinities included
  kUnit,  // [0, 1]
};

template <class T>
struct LossArgs {
  const T* pred = nullptr;
  const T* target = nullptr;
  // One weight for each run of `weight_run` elements; null for ones.
  const T* weight = nullptr;
  size_t weight_run = 1;
  size_t n = 0;
  // Outputs; those that the pass does not compute are not touched.
  T* value = nullptr;  // weighted, per element; null: the sum alone is wanted
  T* grad = nullptr;   // d1 * weight * scale
  T* hess = nullptr;   // max(d2, hess_floor) * weight
  double scale = 1.0;
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

// What a row's functions compute at once: some elements that fit in the first cache with all that belongs to them.
template <class T>
struct LossPiece {
  const T* pred;
  const T* target;
  const T* weight;  // per element; null for ones
  T* value;
  T* grad;
  T* hess;
  size_t n;
  T scale;
  T hess_floor;
  bool floor_hess;
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
  Domain target_domain;
  LossLeaves<float> f32;
  LossLeaves<double> f64;
};

// What all rows share.
template <class T>
struct LossOps {
  // Computes a pass of the loss.
  LossResult (*run)(const LossRow& row, LossPass pass, const double* parameters, const LossArgs<T>& args);
  // The first element outside of the loss's domain, or n; writes nothing.
  size_t (*first_invalid)(const LossRow& row, const LossArgs<T>& args);
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

#endif  // FUSEPROP_KERNELS_LOSSES_H_
