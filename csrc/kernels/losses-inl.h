// The elementwise losses as functors: f(d, pred, target) gives the value and its first two derivatives by the
// prediction. What the caller does not use, the compiler removes. Per-target header.
//
// To add one: the functor here and its row in losses.cpp (then the class and its Spec in losses.py and the
// formulas in reference.py).

#if defined(FUSEPROP_KERNELS_LOSSES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSEPROP_KERNELS_LOSSES_INL_H_
#undef FUSEPROP_KERNELS_LOSSES_INL_H_
#else
#define FUSEPROP_KERNELS_LOSSES_INL_H_
#endif

#include "kernels/losses.h"
#include "simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace losses {

template <class V>
struct Terms {
  V value, d1, d2;
};

// Defaults of a functor: no parameters, any target.
template <class D>
struct Base {
  static constexpr size_t kNumParameters = 0;
  static constexpr Domain kTargetDomain = Domain::kReal;
  // Whether a gradient may be computed by the code that computes the value too. Else it is compiled by itself.
  static constexpr bool kCheapValue = true;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
};

// r^2 / 2, with r = pred - target
template <class D>
struct HalfSquaredError : Base<D> {
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE HalfSquaredError(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V target) const {
    const V r = hn::Sub(pred, target);
    const V nan_or_one = hn::IfThenElse(hn::IsNaN(r), r, hn::Set(d, T(1)));
    // Halved first, so that r^2 overflows only where r^2 / 2 does.
    return {hn::Mul(hn::Mul(r, hn::Set(d, T(0.5))), r), r, nan_or_one};
  }
};

// r^2 / 2 if abs r <= delta, else delta (abs r - delta / 2)
template <class D>
struct Huber : Base<D> {
  static constexpr size_t kNumParameters = 1;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Huber(D d, const double* parameters) : delta(hn::Set(d, Parameter<T>(parameters[0]))) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V target) const {
    const V r = hn::Sub(pred, target);
    const V size = hn::Abs(r);
    // With m = min(abs r, delta) both branches are m (abs r - m / 2); m is NaN for NaN.
    const V m = SelectMin(size, delta);
    const auto linear = hn::Gt(size, delta);
    const V one = hn::IfThenElse(hn::IsNaN(r), r, hn::Set(d, T(1)));
    return {hn::Mul(m, hn::Sub(size, hn::Mul(m, hn::Set(d, T(0.5))))), hn::CopySign(m, r),
            hn::IfThenZeroElse(linear, one)};
  }
  V delta;
};

// log cosh r, with r = pred - target
template <class D>
struct LogCosh : Base<D> {
  static constexpr bool kCheapValue = false;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE LogCosh(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V target) const {
    const V r = hn::Sub(pred, target);
    const V size = hn::Abs(r);
    const V one = hn::Set(d, T(1));
    // log1p(sinh^2 r) / 2 for small r, where nothing cancels; abs r - log 2 + log1p(e^(-2 abs r)) for large r, where
    // nothing overflows. Both from u = e^abs(r) - 1.
    const V u = Expm1(d, size);
    const V inverse = hn::Div(one, hn::Add(one, u));
    const V sinh = hn::Mul(hn::Set(d, T(0.5)), hn::MulAdd(u, inverse, u));
    const auto small = hn::Lt(size, one);
    const V log = Log1p(d, hn::IfThenElse(small, hn::Mul(sinh, sinh), hn::Mul(inverse, inverse)));
    const V far = hn::Sub(size, hn::Set(d, static_cast<T>(0.693147180559945309417)));
    const V value = hn::IfThenElse(small, hn::Mul(hn::Set(d, T(0.5)), log), hn::Add(far, log));
    return {value, Tanh(d, r), TanhDerivative(d, r)};
  }
};

// w y softplus(-z) + (1 - y) softplus(z), with w = pos_weight, y in [0, 1]
template <class D>
struct BinaryCrossEntropyWithLogits : Base<D> {
  static constexpr size_t kNumParameters = 1;
  static constexpr Domain kTargetDomain = Domain::kUnit;
  static constexpr bool kCheapValue = false;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE BinaryCrossEntropyWithLogits(D d, const double* parameters)
      : pos_weight(hn::Set(d, Parameter<T>(parameters[0]))) {}
  HWY_INLINE Terms<V> operator()(D d, V z, V y) const {
    const V one = hn::Set(d, T(1));
    const V zero = hn::Zero(d);
    const V positive = hn::Mul(pos_weight, y);
    const V negative = hn::Sub(one, y);
    // One exponential serves everything, e = e^-abs z: softplus(+-z) = max(+-z, 0) + log1p(e), and s(z) and s(-z)
    // are 1 / (1 + e) and e / (1 + e). A term whose factor is 0 is left out, so that 0 * inf does not arise.
    const V size = hn::Abs(z);
    const V e = ExpNonPositive(d, hn::Neg(size));
    const V sum = hn::Add(positive, negative);
    const auto right = hn::Gt(z, zero);
    const V factor = hn::IfThenElse(right, negative, positive);
    const V linear = hn::IfThenZeroElse(hn::Eq(factor, zero), hn::Mul(factor, size));
    const V rest = hn::Mul(sum, Log1pUnit(d, e));
    const V large = hn::Div(one, hn::Add(one, e));
    const V small = hn::Mul(e, large);
    const V s = hn::IfThenElse(right, large, small);
    const V s_minus = hn::IfThenElse(right, small, large);
    return {hn::Add(linear, rest), hn::NegMulAdd(positive, s_minus, hn::Mul(negative, s)),
            hn::Mul(sum, hn::Mul(small, large))};
  }
  V pos_weight;
};

}  // namespace losses
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#endif  // FUSEPROP_KERNELS_LOSSES_INL_H_
