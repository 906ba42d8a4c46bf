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
  // Outputs; those that the called function does not compute are not touched.
  T* value = nullptr;  // weighted, per element; null: the sum alone is wanted
  T* grad = nullptr;   // d1 * weight * scale
  T* hess = nullptr;   // max(d2, hess_floor) * weight
  double scale = 1.0;
  double hess_floor = 0.0;
  bool floor_hess = false;
};

struct LossResult {
  double sum = 0.0;          // of the weighted values
  size_t first_invalid = 0;  // the first element outside of the domain; n if there is none
};

template <class T>
struct LossOps {
  using Function = LossResult (*)(const double* parameters, const LossArgs<T>& args);
  Function check;  // looks for elements outside of the domain, writes nothing; null if there can be none
  Function value;
  Function grad;
  Function value_grad;
  Function grad_hess;
};

struct LossRow {
  const char* name;
  size_t num_parameters;
  Domain target_domain;
  LossOps<float> f32;
  LossOps<double> f64;

  template <class T>
  const LossOps<T>& Ops() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return f32;
    } else {
      return f64;
    }
  }
};

struct LossTable {
  const LossRow* rows;
  size_t size;
};

// The table of the active target; every target's has the same rows in the same order.
const LossTable& Losses();

// Sum of x[0, n) in float64; the same bits on any target and any number of threads.
double Sum(const float* x, size_t n);
double Sum(const double* x, size_t n);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_LOSSES_H_
