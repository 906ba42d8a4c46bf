// The activations as functors: f(d, x) is the value, f.Derivative(d, x) the first derivative. Per-target header.
//
// To add one: the functor here and its row in activations.cpp (then the class and its Spec in activations.py and
// the formula in reference.py).

#if defined(FUSEPROP_KERNELS_ACTIVATIONS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSEPROP_KERNELS_ACTIVATIONS_INL_H_
#undef FUSEPROP_KERNELS_ACTIVATIONS_INL_H_
#else
#define FUSEPROP_KERNELS_ACTIVATIONS_INL_H_
#endif

#include "simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace activations {

// The defaults of a functor: no parameters.
template <class D>
struct Base {
  static constexpr size_t kNumParameters = 0;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
};

// f(x) = x
template <class D>
struct Identity : Base<D> {
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Identity(D, const double*) {}
  HWY_INLINE V operator()(D, V x) const { return x; }
  // 1, and NaN for NaN.
  HWY_INLINE V Derivative(D d, V x) const { return hn::IfThenElse(hn::IsNaN(x), x, hn::Set(d, T(1))); }
};

// f(x) = max(0, x); f'(0) = 0; -0 gives +0
template <class D>
struct ReLU : Base<D> {
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE ReLU(D, const double*) {}
  // Not less or equal: keeps NaN.
  HWY_INLINE V operator()(D d, V x) const { return hn::IfThenZeroElse(hn::Le(x, hn::Zero(d)), x); }
  HWY_INLINE V Derivative(D d, V x) const {
    const V one_or_nan = hn::IfThenElse(hn::IsNaN(x), x, hn::Set(d, T(1)));
    return hn::IfThenZeroElse(hn::Le(x, hn::Zero(d)), one_or_nan);
  }
};

// f(x) = x if x > 0 else slope x
template <class D>
struct LeakyReLU : Base<D> {
  static constexpr size_t kNumParameters = 1;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE LeakyReLU(D d, const double* parameters)
      : slope(hn::Set(d, Parameter<T>(parameters[0]))), is_zero(parameters[0] == 0.0) {}
  HWY_INLINE V operator()(D d, V x) const {
    // With slope 0, -inf gives the limit 0, not 0 * inf.
    const V left = is_zero ? hn::IfThenElse(hn::IsNaN(x), x, hn::CopySign(hn::Set(d, T(1)), x)) : x;
    return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), x, hn::Mul(slope, left));
  }
  HWY_INLINE V Derivative(D d, V x) const {
    const V left = hn::IfThenElse(hn::IsNaN(x), x, slope);
    return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), hn::Set(d, T(1)), left);
  }
  V slope;
  bool is_zero;
};

// s(x) = 1 / (1 + e^-x); s'(x) = s(x) s(-x)
template <class D>
struct Sigmoid : Base<D> {
  using typename Base<D>::V;
  HWY_INLINE Sigmoid(D, const double*) {}
  HWY_INLINE V operator()(D d, V x) const { return HWY_NAMESPACE::Sigmoid(d, x); }
  HWY_INLINE V Derivative(D d, V x) const { return HWY_NAMESPACE::SigmoidDerivative(d, x); }
};

// tanh x; tanh'(x) = 1 / cosh^2 x
template <class D>
struct Tanh : Base<D> {
  using typename Base<D>::V;
  HWY_INLINE Tanh(D, const double*) {}
  HWY_INLINE V operator()(D d, V x) const { return HWY_NAMESPACE::Tanh(d, x); }
  HWY_INLINE V Derivative(D d, V x) const { return HWY_NAMESPACE::TanhDerivative(d, x); }
};

// f(x) = log(1 + e^(beta x)) / beta; f'(x) = s(beta x)
template <class D>
struct Softplus : Base<D> {
  static constexpr size_t kNumParameters = 1;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Softplus(D d, const double* parameters)
      : beta(hn::Set(d, Parameter<T>(parameters[0]))), is_one(parameters[0] == 1.0) {}
  HWY_INLINE V operator()(D d, V x) const {
    if (is_one) return HWY_NAMESPACE::Softplus(d, x);
    // max(x, 0) + softplus(z) / beta with z = -abs(beta x), which overflows only where f(x) does. One rounding of
    // beta x would be amplified by abs(z) in the tail: its error e is put back to first order,
    // softplus(z + e) = softplus(z) + e s(z).
    const V product = hn::Mul(beta, x);
    const V lost = ProductError(d, beta, x, product);
    const V z = hn::Neg(hn::Abs(product));
    const V error = hn::IfThenElse(hn::Gt(x, hn::Zero(d)), hn::Neg(lost), lost);
    const V tail = hn::MulAdd(error, HWY_NAMESPACE::Sigmoid(d, z), HWY_NAMESPACE::Softplus(d, z));
    return hn::Add(SelectMax(x, hn::Zero(d)), hn::Div(tail, beta));
  }
  HWY_INLINE V Derivative(D d, V x) const {
    if (is_one) return HWY_NAMESPACE::Sigmoid(d, x);
    const V z = hn::Mul(beta, x);
    const V error = ProductError(d, beta, x, z);
    const V s = HWY_NAMESPACE::Sigmoid(d, z);
    return hn::MulAdd(hn::Mul(error, s), hn::Sub(hn::Set(d, T(1)), s), s);
  }
  V beta;
  bool is_one;
};

}  // namespace activations
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#endif  // FUSEPROP_KERNELS_ACTIVATIONS_INL_H_
