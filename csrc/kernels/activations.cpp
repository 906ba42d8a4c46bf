// The table of activations and the loops behind its rows.

#include "kernels/activations.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activations.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "kernels/activations-inl.h"
#include "simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

template <template <class> class F, class T>
void Forward(const double* parameters, const T* x, T* y, size_t n) {
  using D = hn::ScalableTag<T>;
  Map(F<D>(D(), parameters), y, n, x);
}

template <template <class> class F, class T>
void Backward(const double* parameters, const T* x, const T* dy, T* dx, size_t n) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const F<D> f(D(), parameters);
  Map([&](D d, V vx, V vdy) HWY_ATTR { return hn::Mul(vdy, f.Derivative(d, vx)); }, dx, n, x, dy);
}

template <template <class> class F, class T>
void Derivative(const double* parameters, const T* x, T* dx, size_t n) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const F<D> f(D(), parameters);
  Map([&](D d, V vx) HWY_ATTR { return f.Derivative(d, vx); }, dx, n, x);
}

template <template <class> class F>
constexpr ActivationRow Row(const char* name) {
  return {name,
          F<hn::ScalableTag<float>>::kNumParameters,
          {Forward<F, float>, Backward<F, float>, Derivative<F, float>},
          {Forward<F, double>, Backward<F, double>, Derivative<F, double>}};
}

const ActivationTable& Table() {
  static constexpr ActivationRow rows[] = {
      Row<activations::Identity>("identity"), Row<activations::ReLU>("relu"), Row<activations::LeakyReLU>("leaky_relu"),
      Row<activations::Sigmoid>("sigmoid"),   Row<activations::Tanh>("tanh"), Row<activations::Softplus>("softplus"),
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
}  // namespace fuseprop
#endif  // HWY_ONCE
