// Gated linear units: y = a * g(b), where a and b are the halves of an axis and g is an elementwise activation.
//
// To add one: its row below, with the functor g (then the class and its Spec in activations.py and the formula in
// reference.py).

#include "kernels/activations/axis_activations.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activations/gated.cpp"
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

// The gates whose functor has parameters, at their defaults.
constexpr double kOne[] = {1.0};
template <class D>
struct SiLU : activations::Swish<D> {
  HWY_INLINE SiLU(D d, const double*) : activations::Swish<D>(d, kOne) {}
};
constexpr double kExact[] = {0.0};
template <class D>
struct GELU : activations::GELU<D> {
  HWY_INLINE GELU(D d, const double*) : activations::GELU<D>(d, kExact) {}
};

// dy a slope for abs(slope) < 2, in an order that overflows, or rounds to a subnormal number, only if the product does.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Product(D d, V dy, V a, V slope) {
  const V one = hn::Set(d, hn::TFromD<D>(1));
  const auto large = hn::And(hn::Ge(hn::Abs(dy), one), hn::Ge(hn::Abs(a), one));
  const V product = hn::Mul(hn::IfThenElse(large, a, hn::Mul(dy, a)), slope);
  return hn::IfThenElse(large, hn::Mul(product, dy), product);
}

template <template <class> class G, class T>
void Forward(const double*, const AxisShape& shape, const T* x, T* y) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const G<D> g(D(), nullptr);
  const size_t half = shape.length / 2 * shape.inner;
  const bool stream = shape.outer * half * sizeof(T) >= kStreamBytes;
  ForEachRowPiece(shape.outer, half, [&](size_t row, size_t begin, size_t end) HWY_ATTR {
    const T* a = x + 2 * row * half;
    MapRange([&](D d, V va, V vb) HWY_ATTR { return hn::Mul(va, g(d, vb)); }, y + row * half, begin, end, stream, a,
             a + half);
  });
}

template <template <class> class G, class T>
void Backward(const double*, const AxisShape& shape, const T* x, const T* dy, T* dx) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const G<D> g(D(), nullptr);
  const size_t half = shape.length / 2 * shape.inner;
  const bool stream = x != dx && shape.outer * half * 2 * sizeof(T) >= kStreamBytes;
  ForEachRowPiece(shape.outer, half, [&](size_t row, size_t begin, size_t end) HWY_ATTR {
    const T* a = x + 2 * row * half;
    T* da = dx + 2 * row * half;
    const auto f = [&](D d, V va, V vb, V vdy, V* vda, V* vdb) HWY_ATTR {
      *vda = hn::Mul(vdy, g(d, vb));
      *vdb = Product(d, vdy, va, g.Derivative(d, vb));
    };
    MapPairRange(f, da, da + half, begin, end, stream, a, a + half, dy + row * half);
  });
}

template <template <class> class G>
constexpr AxisActivationRow Row(const char* name) {
  return {name, 0, -1, 1, 2, {Forward<G, float>, Backward<G, float>}, {Forward<G, double>, Backward<G, double>}};
}

const AxisActivationTable& Table() {
  static constexpr AxisActivationRow rows[] = {Row<activations::Sigmoid>("glu"), Row<SiLU>("swiglu"),
                                               Row<GELU>("geglu")};
  static constexpr AxisActivationTable table = {rows, sizeof(rows) / sizeof(rows[0])};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(Table);

const AxisActivationTable& GatedActivations() { return FUSEPROP_DISPATCH(Table)(); }
}  // namespace fuseprop
#endif  // HWY_ONCE
