// The table of activations and the loops behind its rows.

#include "kernels/activations/activations.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activations/activations.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "kernels/activations/activations-inl.h"
#include "simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

template <template <class> class F, class T>
void Forward(const double* parameters, const T* x, T* y, size_t n, bool stream) {
  using D = hn::ScalableTag<T>;
  const F<D> f(D(), parameters);
  MapRange(f, y, 0, n, stream, x);
}

template <template <class> class F, class T>
void Backward(const double* parameters, const T* x, const T* dy, T* dx, size_t n, bool stream) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const F<D> f(D(), parameters);
  MapRange([&](D d, V vx, V vdy) HWY_ATTR { return hn::Mul(vdy, f.Derivative(d, vx)); }, dx, 0, n, stream, x, dy);
}

template <template <class> class F>
constexpr ActivationRow Row(const char* name) {
  return {name,
          F<hn::ScalableTag<float>>::kNumParameters,
          {Forward<F, float>, Backward<F, float>},
          {Forward<F, double>, Backward<F, double>}};
}

const ActivationTable& Table() {
  static constexpr ActivationRow rows[] = {
      Row<activations::Identity>("identity"),
      Row<activations::Step>("step"),
      Row<activations::ReLU>("relu"),
      Row<activations::LeakyReLU>("leaky_relu"),
      Row<activations::Sigmoid>("sigmoid"),
      Row<activations::Tanh>("tanh"),
      Row<activations::Softplus>("softplus"),
      Row<activations::ELU>("elu"),
      Row<activations::SELU>("selu"),
      Row<activations::CELU>("celu"),
      Row<activations::Swish>("swish"),
      Row<activations::GELU>("gelu"),
      Row<activations::LogSigmoid>("log_sigmoid"),
      Row<activations::Mish>("mish"),
      Row<activations::Softsign>("softsign"),
      Row<activations::Hardtanh>("hardtanh"),
      Row<activations::Hardsigmoid>("hardsigmoid"),
      Row<activations::Hardswish>("hardswish"),
  };
  static constexpr ActivationTable table = {rows, sizeof(rows) / sizeof(rows[0])};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(Table);

const ActivationTable& Activations() { return FUSEPROP_DISPATCH(Table)(); }

namespace {

// A gradient of ones, for derivatives: multiplying by 1 is exact. Short enough to stay in the first cache.
constexpr size_t kOnes = 2048;

// A constant, not made at the first use: a process that is forked meanwhile would wait for it for ever.
template <class T>
struct Ones {
  constexpr Ones() {
    for (T& one : values) one = T(1);
  }
  T values[kOnes] = {};
};
template <class T>
constexpr Ones<T> kAllOnes;

}  // namespace

template <class T>
void ActivationForward(const ActivationOps<T>& ops, const double* parameters, const T* x, T* y, size_t n) {
  const bool stream = x != y && n * sizeof(T) >= kStreamBytes;
  ForEachRange(n,
               [&](size_t begin, size_t end) { ops.forward(parameters, x + begin, y + begin, end - begin, stream); });
}

template <class T>
void ActivationBackward(const ActivationOps<T>& ops, const double* parameters, const T* x, const T* dy, T* dx,
                        size_t n) {
  const bool stream = x != dx && dy != dx && n * sizeof(T) >= kStreamBytes;
  if (dy != nullptr) {
    ForEachRange(n, [&](size_t begin, size_t end) {
      ops.backward(parameters, x + begin, dy + begin, dx + begin, end - begin, stream);
    });
    return;
  }
  const T* ones = kAllOnes<T>.values;
  ForEachRange(n, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i += kOnes) {
      ops.backward(parameters, x + i, ones, dx + i, std::min(kOnes, end - i), stream);
    }
  });
}

template void ActivationForward(const ActivationOps<float>&, const double*, const float*, float*, size_t);
template void ActivationForward(const ActivationOps<double>&, const double*, const double*, double*, size_t);
template void ActivationBackward(const ActivationOps<float>&, const double*, const float*, const float*, float*,
                                 size_t);
template void ActivationBackward(const ActivationOps<double>&, const double*, const double*, const double*, double*,
                                 size_t);

}  // namespace fuseprop
#endif  // HWY_ONCE
