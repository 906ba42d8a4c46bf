// The activations as functors: f(d, x) is the value, f.Derivative(d, x) the first derivative. Per-target header.
//
// "Error" is the largest one measured, in ULP, of the value and of the derivative, at default parameters: over all
// float32 inputs of size 2^-24 to 2^8 and every 61st beyond, on the targets with FMA, then on those without. Functors
// without a figure are exact, or a function of math-inl.h with the figure there. Where a derivative changes sign, its
// error is measured against the sizes of its terms instead: none reaches 0.3 of 2^-23 of their sum.
//
// To add one: the functor here and its row in activations.cpp (then the class and its Spec in activations.py and
// the formula in reference.py).

#if defined(FUSEPROP_KERNELS_ACTIVATIONS_ACTIVATIONS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSEPROP_KERNELS_ACTIVATIONS_ACTIVATIONS_INL_H_
#undef FUSEPROP_KERNELS_ACTIVATIONS_ACTIVATIONS_INL_H_
#else
#define FUSEPROP_KERNELS_ACTIVATIONS_ACTIVATIONS_INL_H_
#endif

#include <limits>

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

// +-1 for infinities, NaN for NaN, something finite elsewhere: a factor whose product with 0 is 0.
template <class D, class V>
HWY_INLINE V FiniteOrNaN(D d, V x) {
  return hn::IfThenElse(hn::IsNaN(x), x, hn::CopySign(hn::Set(d, hn::TFromD<D>(1)), x));
}

// factor e^x for x <= 0, rounded to a subnormal number once at most; NaN for NaN.
template <class D, class V>
HWY_INLINE V MulExpNonPositive(D d, V factor, V x) {
  using math::C;
  const V down = hn::Set(d, C<D>::kDownScale);
  const V one = hn::Set(d, hn::TFromD<D>(1));
  const V e = math::ScaledExp(d, ClampLowOrNaN(x, hn::Set(d, C<D>::kExpMin)));
  // Down before a factor that may overflow, after one that may vanish.
  const auto large = hn::Ge(hn::Abs(factor), one);
  const V first = hn::IfThenElse(large, hn::Mul(factor, down), factor);
  return hn::Mul(hn::Mul(e, first), hn::IfThenElse(large, one, down));
}

// The same for a factor of more than 10^6, for which e^x counts below kExpMin too: there, the square of e^(x/2).
template <class D, class V>
HWY_INLINE V MulLargeExpNonPositive(D d, V factor, V x) {
  using math::C;
  const V down = hn::Set(d, C<D>::kDownScale);
  const V half = hn::Mul(x, hn::Set(d, hn::TFromD<D>(0.5)));
  const V limit = hn::Set(d, C<D>::kExpMin);
  const V e = math::ScaledExp(d, ClampLowOrNaN(half, limit));
  const V below = hn::Mul(hn::Mul(hn::Mul(hn::Mul(factor, down), e), e), down);
  return hn::IfThenElse(hn::Lt(x, limit), below, MulExpNonPositive(d, factor, x));
}

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

// f(x) = 0 if x < 0, at_zero if x = 0, 1 if x > 0; f' = 0, and NaN for NaN
template <class D>
struct Step : Base<D> {
  static constexpr size_t kNumParameters = 1;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Step(D d, const double* parameters) : at_zero(hn::Set(d, Parameter<T>(parameters[0]))) {}
  HWY_INLINE V operator()(D d, V x) const {
    const V zero = hn::Zero(d);
    const V not_zero = hn::IfThenElse(hn::Gt(x, zero), hn::Set(d, T(1)), hn::IfThenZeroElse(hn::Lt(x, zero), x));
    return hn::IfThenElse(hn::Eq(x, zero), at_zero, not_zero);
  }
  HWY_INLINE V Derivative(D d, V x) const { return hn::IfThenElse(hn::IsNaN(x), x, hn::Zero(d)); }
  V at_zero;
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
    const V left = is_zero ? FiniteOrNaN(d, x) : x;
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

// --- functions of the shape x s(z), s the sigmoid and z a function of x: Swish, GELU's approximation

// x s(z + z_error) for kExpMin <= z, with full relative accuracy in both tails.
template <class D, class V>
HWY_INLINE V Gated(D d, V x, V z, V z_error) {
  using math::C;
  using T = hn::TFromD<D>;
  const hn::RebindToUnsigned<D> du;
  using TU = hn::TFromD<decltype(du)>;
  const V limit = hn::Set(d, C<D>::kExpMin);
  // As in Sigmoid, with x times a power of two for a numerator: s itself may be subnormal where x s is not.
  const auto e = math::ReduceExp<2 * C<D>::kBias>(d, ClampOrNaN(hn::Neg(z), limit, hn::Neg(limit)));
  const auto inverse_a = math::ToExponent(d, hn::ShiftRight<1>(e.biased));
  const V a = hn::BitCast(d, hn::Sub(hn::Set(du, static_cast<TU>(2 * C<D>::kBias) << C<D>::kMantissaBits), inverse_a));
  const V b = hn::BitCast(d, hn::Sub(math::ToExponent(d, e.biased), inverse_a));
  const V r = hn::Sub(e.r, z_error);
  const V y = hn::Div(hn::Mul(x, a), hn::Add(hn::Max(a, b), math::MulExpm1Add(d, r, e.r_error, b, hn::Min(a, b))));
  // Where s rounds to 1, x a may overflow.
  return hn::IfThenElse(hn::Gt(z, hn::Set(d, T(C<D>::kMantissaBits - 5))), x, y);
}

// Its derivative s(z) (1 + v s(-z)), v = x dz/dx = v_high + v_low, which must be held to a few hundred. With
// t = e^-|z| that is (1 + t (1 + v)) / (1 + t)^2 for z >= 0 and t ((1 + v) + t) / (1 + t)^2 for z < 0.
template <class D, class V>
HWY_INLINE V GatedDerivative(D d, V z, V z_error, V v_high, V v_low) {
  using math::C;
  using T = hn::TFromD<D>;
  const V one = hn::Set(d, T(1));
  const auto negative = hn::Lt(z, hn::Zero(d));
  const V minus_a = math::NearerZero(d, math::NegAbs(d, z), hn::Set(d, C<D>::kExpMin));
  const auto e = math::SplitExp(d, minus_a, hn::IfThenElse(negative, z_error, hn::Neg(z_error)));
  const V t = hn::Mul(hn::MulAdd(e.scale, e.q, e.scale), hn::Set(d, C<D>::kDownScale));
  // e^-|z| is multiplied in two steps, by 1 + q and by a power of two: one rounding less.
  const V sum = hn::Add(hn::Add(one, v_high), hn::IfThenElse(negative, hn::Add(t, v_low), v_low));
  const V t_2 = hn::Add(t, hn::Set(d, T(2)));
  const V square = hn::MulAdd(t, t_2, one);
  V q = e.q;
#if !FUSEPROP_HAVE_FMA  // more roundings: make up for the square's, over the square, about 2 where they matter
  const V lost =
      hn::MulAdd(t, hn::Sub(t, hn::Sub(t_2, hn::Set(d, T(2)))), hn::Sub(hn::Mul(t, t_2), hn::Sub(square, one)));
  q = hn::Sub(q, hn::IfThenElseZero(negative, hn::Mul(lost, hn::Set(d, T(0.5)))));
#endif
  const V numerator =
      hn::MulAdd(hn::MulAdd(sum, q, sum), e.scale, hn::IfThenZeroElse(negative, hn::Set(d, T(1) / C<D>::kDownScale)));
  // Scaled last, so that a subnormal result is rounded once.
  return hn::Mul(hn::Div(numerator, square), hn::Set(d, C<D>::kDownScale));
}

// f(x) = x s(beta x); f'(x) = s(beta x) (1 + beta x s(-beta x))
// Error: 2.00, 3.60; without FMA 2.00, 3.22.
template <class D>
struct Swish : Base<D> {
  static constexpr size_t kNumParameters = 1;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Swish(D d, const double* parameters)
      : beta(hn::Set(d, Parameter<T>(parameters[0]))), is_one(parameters[0] == 1.0), is_zero(parameters[0] == 0.0) {}
  HWY_INLINE V operator()(D d, V x) const {
    const V limit = hn::Set(d, math::C<D>::kExpMin);
    if (is_one) {
      x = ClampLowOrNaN(x, limit);
      return Gated(d, x, x, hn::Zero(d));
    }
    V error;
    const V z = Argument(d, x, &error);
    // With a tiny beta a huge x reaches x a, which must not overflow.
    const V down = hn::Set(d, math::C<D>::kDownScale);
    const V one = hn::Set(d, T(1));
    const auto huge = hn::Gt(hn::Abs(x), hn::Set(d, std::numeric_limits<T>::max() * math::C<D>::kDownScale));
    const V y = Gated(d, hn::Mul(x, hn::IfThenElse(huge, down, one)), z, error);
    const V scaled = hn::Mul(y, hn::IfThenElse(huge, hn::Set(d, T(1) / math::C<D>::kDownScale), one));
    return hn::IfThenElse(hn::Lt(z, limit), hn::And(x, hn::SignBit(d)), scaled);
  }
  HWY_INLINE V Derivative(D d, V x) const {
    V error;
    const V z = Argument(d, x, &error);
    const V limit = hn::Set(d, math::C<D>::kExpMin);
    return GatedDerivative(d, z, error, ClampOrNaN(z, limit, hn::Neg(limit)), error);
  }
  // beta x in two pieces: one rounding would be amplified by abs(beta x) in the tail.
  HWY_INLINE V Argument(D d, V x, V* error) const {
    if (is_one) {
      *error = hn::Zero(d);
      return x;
    }
    if (is_zero) x = FiniteOrNaN(d, x);
    const V z = hn::Mul(beta, x);
    // Beyond the limit s(beta x) is constant, and the error not small.
    const V limit = hn::Set(d, -math::C<D>::kExpMin);
    *error = hn::IfThenElseZero(hn::Lt(hn::Abs(z), limit), ProductError(d, beta, x, z));
    return z;
  }
  V beta;
  bool is_one;
  bool is_zero;
};

// f(x) = x Phi(x), Phi the normal distribution function; f'(x) = Phi(x) + x phi(x). Or Hendrycks & Gimpel's
// approximation f(x) = x s(2u) = x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3).
template <class D>
struct GELU : Base<D> {
  static constexpr size_t kNumParameters = 1;  // 0: "none", 1: "tanh"
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE GELU(D, const double* parameters) : approximate(parameters[0] != 0.0) {}
  HWY_INLINE V operator()(D d, V x) const {
    if (!approximate) return XNormalCdf(d, x);
    const Cubic u = DoubleU(d, x);
    return Gated(d, ClampLowOrNaN(x, hn::Set(d, -kLargest)), u.value, u.error);
  }
  HWY_INLINE V Derivative(D d, V x) const {
    if (!approximate) return XNormalCdfDerivative(d, x);
    const Cubic u = DoubleU(d, x);
    // x d(2u)/dx = 2u + 2 (2 sqrt(2/pi) 0.044715 x^3)
    const V more = hn::Add(u.cube, u.cube);
    const V slope = hn::Add(u.value, more);
    const V lost = hn::Sub(more, hn::Sub(slope, u.value));
    return GatedDerivative(d, u.value, u.error, slope, hn::Add(lost, u.error));
  }

  struct Cubic {
    V value;
    V error;  // what the roundings of `value` lost
    V cube;   // its term in x^3
  };
  // 2u, in two pieces, for x held to where s(2u) is within [e^kExpMin, 1].
  HWY_INLINE Cubic DoubleU(D d, V x) const {
    const V largest = hn::Set(d, kLargest);
    const V linear = hn::Set(d, static_cast<T>(0x1.9884533d43651p+0));  // 2 sqrt(2/pi)
    const V linear_low = hn::Set(d, static_cast<T>(kFloat ? -0x1.857936p-25 : -0x1.cbc0d30ebfd15p-54));
    const V cubic = hn::Set(d, static_cast<T>(0x1.2444f2a4d8b4bp-4));  // times 0.044715
    const V cubic_low = hn::Set(d, static_cast<T>(kFloat ? 0x1.49b16ap-29 : -0x1.6c843a29d1c70p-61));
    x = ClampOrNaN(x, hn::Neg(largest), largest);
    const V square = hn::Mul(x, x);
    const V square_error = FiniteProductError(d, x, x, square);
    const V product = hn::Mul(cubic, square);
    const V product_error = hn::Add(FiniteProductError(d, cubic, square, product),
                                    hn::MulAdd(cubic, square_error, hn::Mul(cubic_low, square)));
    // Either summand may be the larger one.
    const V sum = hn::Add(linear, product);
    const V from_product = hn::Sub(sum, linear);
    const V sum_error = hn::Add(hn::Sub(linear, hn::Sub(sum, from_product)), hn::Sub(product, from_product));
    const V low = hn::Add(hn::Add(sum_error, product_error), linear_low);
    const V value = hn::Mul(x, sum);
    return {value, hn::MulAdd(x, low, FiniteProductError(d, x, sum, value)), hn::Mul(x, product)};
  }
  static constexpr bool kFloat = sizeof(T) == 4;
  static constexpr T kLargest = kFloat ? T(11.4) : T(21.7);
  bool approximate;
};

// f(x) = x if x > 0 else alpha (e^x - 1)
// Error: 0.81, 0.90; without FMA 0.81, 0.89.
template <class D>
struct ELU : Base<D> {
  static constexpr size_t kNumParameters = 1;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE ELU(D d, const double* parameters)
      : alpha(hn::Set(d, Parameter<T>(parameters[0]))), is_large(parameters[0] > 1e6 || parameters[0] < -1e6) {}
  HWY_INLINE V operator()(D d, V x) const {
    return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), x, hn::Mul(alpha, Expm1(d, x)));
  }
  HWY_INLINE V Derivative(D d, V x) const {
    const V left = is_large ? MulLargeExpNonPositive(d, alpha, x) : MulExpNonPositive(d, alpha, x);
    return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), hn::Set(d, T(1)), left);
  }
  V alpha;
  bool is_large;
};

// lambda ELU(x; alpha), with constants for which mean 0 and variance 1 are a fixed point
// Error: 1.79, 1.82; without FMA 1.79, 1.77.
template <class D>
struct SELU : Base<D> {
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE SELU(D, const double*) {}
  HWY_INLINE V operator()(D d, V x) const {
    // The rounding of lambda must not make an infinity of what rounds to the largest number.
    const V product = hn::Mul(hn::Set(d, kLambda), x);
    const V finite = ClampHighOrNaN(product, hn::Set(d, std::numeric_limits<T>::max()));
    const V right = hn::IfThenElse(hn::Le(x, hn::Set(d, kLastFinite)), finite, product);
    return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), right, hn::Mul(hn::Set(d, kLambdaAlpha), Expm1(d, x)));
  }
  HWY_INLINE V Derivative(D d, V x) const {
    const V e = math::ScaledExp(d, ClampLowOrNaN(x, hn::Set(d, math::C<D>::kExpMin)));
    const V left = hn::Mul(e, hn::Set(d, kLambdaAlpha * math::C<D>::kDownScale));
    return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), hn::Set(d, kLambda), left);
  }
  static constexpr T kLambda = static_cast<T>(1.0507009873554805);
  static constexpr T kLambdaAlpha = static_cast<T>(1.7580993408473766);
  // The largest x for which lambda x, lambda not rounded, rounds to a finite number.
  static constexpr T kLastFinite = static_cast<T>(sizeof(T) == 4 ? 0x1.e74b3p+127 : 0x1.e74b31afded6dp+1023);
};

// f(x) = x if x > 0 else alpha (e^(x/alpha) - 1), alpha > 0
// Error: 0.81, 0.90; without FMA 0.81, 0.89.
template <class D>
struct CELU : Base<D> {
  static constexpr size_t kNumParameters = 1;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE CELU(D d, const double* parameters)
      : alpha(hn::Set(d, Parameter<T>(parameters[0]))), is_one(parameters[0] == 1.0) {}
  HWY_INLINE V operator()(D d, V x) const {
    const V z = Quotient(d, x);
    const V e = Expm1(d, z);
    // z + rest/alpha is more exact: alpha (e^(z + rest/alpha) - 1) = alpha (e^z - 1) + rest e^z, to first order.
    V left = hn::Mul(alpha, e);
    if (!is_one) left = hn::Add(left, hn::MulAdd(Rest(d, x, z), e, Rest(d, x, z)));
    return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), x, hn::CopySign(left, x));
  }
  HWY_INLINE V Derivative(D d, V x) const {
    const V one = hn::Set(d, T(1));
    const V z = Quotient(d, x);
    V factor = one;
    if (!is_one) {
      const V error = hn::Div(Rest(d, x, z), alpha);
      factor = hn::Add(one, hn::IfThenElseZero(hn::Gt(z, hn::Set(d, math::C<D>::kExpMin)), error));
    }
    return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), one, MulExpNonPositive(d, factor, z));
  }
  HWY_INLINE V Quotient(D d, V x) const {
    static_cast<void>(d);
    return is_one ? x : hn::Div(x, alpha);
  }
  // x - z alpha; 0 where that overflows.
  HWY_INLINE V Rest(D d, V x, V z) const {
    const V rest = Residual(d, z, alpha, x);
    return hn::IfThenElseZero(hn::Le(hn::Abs(rest), hn::Abs(x)), rest);
  }
  V alpha;
  bool is_one;
};

// f(x) = -log(1 + e^-x); f'(x) = s(-x)
// Error: 1.86, 2.00; without FMA 1.95, 2.00.
template <class D>
struct LogSigmoid : Base<D> {
  using typename Base<D>::V;
  HWY_INLINE LogSigmoid(D, const double*) {}
  HWY_INLINE V operator()(D d, V x) const { return hn::Neg(HWY_NAMESPACE::Softplus(d, hn::Neg(x))); }
  HWY_INLINE V Derivative(D d, V x) const { return HWY_NAMESPACE::Sigmoid(d, hn::Neg(x)); }
};

// f(x) = x tanh(log(1 + e^x)). With t = e^-|x| and g = 4 (1 + x):
//   x < 0: f = x t (1 - t (1 + t) / D), f' = t (g + t (g + 2 + t (4 + t))) / D^2, D = 2 + t (2 + t)
//   x > 0: f = x (1 - 2t^2 / D), f' = (1 + t (4 + t (g + 2 + t g))) / D^2, D = 1 + t (2 + 2t)
// in which nothing cancels but g and its neighbour, where g is exact.
// Error: 3.00 (2.992), 3.35; without FMA 2.85, 3.05.
template <class D>
struct Mish : Base<D> {
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Mish(D, const double*) {}
  HWY_INLINE V operator()(D d, V x) const {
    const V zero = hn::Zero(d);
    const V one = hn::Set(d, T(1));
    const V limit = hn::Set(d, math::C<D>::kExpMin);
    const auto negative = hn::Lt(x, zero);
    x = ClampLowOrNaN(x, limit);
    const auto e = math::SplitExp(d, math::NearerZero(d, math::NegAbs(d, x), limit), zero);
    const V t = hn::Mul(hn::MulAdd(e.scale, e.q, e.scale), hn::Set(d, math::C<D>::kDownScale));
    const auto denominator = Denominator(d, t, negative);
    // The quotient is about 0.4 t where the rounding of the denominator matters.
    const V rounding = hn::Mul(hn::Mul(t, hn::Set(d, T(0.4))), denominator.error);
    const V numerator = hn::Sub(hn::MulAdd(t, t, hn::IfThenElse(negative, t, hn::Mul(t, t))), rounding);
    const V lost = hn::Div(numerator, denominator.value);
    const V rest = hn::Sub(one, lost);
    V rest_error = hn::Sub(hn::Sub(one, rest), lost);
#if !FUSEPROP_HAVE_FMA  // the numerator's roundings over the denominator, about 4 where they matter
    const V square = hn::Mul(t, t);
    const V square_error = FiniteProductError(d, t, t, square);
    const V sum_error = hn::Add(hn::Sub(t, hn::Sub(hn::Add(square, t), square)), square_error);
    rest_error = hn::NegMulAdd(hn::Set(d, T(0.25)), hn::IfThenElse(negative, sum_error, hn::Zero(d)), rest_error);
#endif
    const V v = hn::Add(rest, hn::MulAdd(rest, e.q, rest_error));  // times e^x without its power of two
    const V left = hn::Mul(hn::Mul(hn::Mul(x, v), e.scale), hn::Set(d, math::C<D>::kDownScale));
    return hn::IfThenElse(negative, left, hn::Mul(x, rest));
  }
  HWY_INLINE V Derivative(D d, V x) const {
    const V zero = hn::Zero(d);
    const V one = hn::Set(d, T(1));
    const V four = hn::Set(d, T(4));
    const V limit = hn::Set(d, math::C<D>::kExpMin);
    const auto negative = hn::Lt(x, zero);
    x = ClampOrNaN(x, limit, hn::Neg(limit));
    const auto e = math::SplitExp(d, math::NearerZero(d, math::NegAbs(d, x), limit), zero);
    const V t = hn::Mul(hn::MulAdd(e.scale, e.q, e.scale), hn::Set(d, math::C<D>::kDownScale));
    const V g = hn::Mul(four, hn::Add(one, x));
    const V g2 = hn::Add(g, hn::Set(d, T(2)));
    const V inner =
        hn::IfThenElse(negative, hn::MulAdd(t, hn::Add(t, four), g2), hn::MulAdd(t, hn::MulAdd(t, g, g2), four));
    const V first = hn::IfThenElse(negative, g, one);
    const V numerator = hn::MulAdd(t, inner, first);
    // numerator / D^2 without the roundings of D, its square and the quotient.
    const auto denominator = Denominator(d, t, negative);
    const V square = hn::Mul(denominator.value, denominator.value);
    const V square_error = hn::MulAdd(hn::Add(denominator.value, denominator.value), denominator.error,
                                      FiniteProductError(d, denominator.value, denominator.value, square));
    const V inverse = hn::Div(one, square);
    const V quotient = hn::Mul(numerator, inverse);
    V rest = hn::NegMulAdd(quotient, square_error, Residual(d, quotient, square, numerator));
#if !FUSEPROP_HAVE_FMA
    const V product = hn::Mul(t, inner);
    rest =
        hn::Add(rest, hn::Add(hn::Sub(first, hn::Sub(numerator, product)), FiniteProductError(d, t, inner, product)));
#endif
    const V y = hn::MulAdd(rest, inverse, quotient);
    const V left = hn::Mul(hn::Mul(hn::MulAdd(y, e.q, y), e.scale), hn::Set(d, math::C<D>::kDownScale));
    return hn::IfThenElse(negative, left, y);
  }

  struct Sum {
    V value;
    V error;  // what its roundings lost
  };
  template <class M>
  HWY_INLINE Sum Denominator(D d, V t, M negative) const {
    const V two = hn::Set(d, T(2));
    const V first = hn::IfThenElse(negative, two, hn::Set(d, T(1)));
    const V step = hn::IfThenElse(negative, t, hn::Add(t, t));
    const V factor = hn::Add(step, two);
    const V product = hn::Mul(t, factor);
    const V product_error =
        hn::MulAdd(t, hn::Sub(step, hn::Sub(factor, two)), FiniteProductError(d, t, factor, product));
    const V value = hn::Add(first, product);
    return {value, hn::Add(hn::Sub(product, hn::Sub(value, first)), product_error)};
  }
};

// f(x) = x / (1 + |x|); f'(x) = 1 / (1 + |x|)^2
// Error: 1.50, 3.50; without FMA the same.
template <class D>
struct Softsign : Base<D> {
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Softsign(D, const double*) {}
  HWY_INLINE V operator()(D d, V x) const {
    const V largest = hn::Set(d, std::numeric_limits<T>::max());
    x = ClampOrNaN(x, hn::Neg(largest), largest);
    return hn::Div(x, hn::Add(hn::Set(d, T(1)), hn::Abs(x)));
  }
  // Squared after the division: the square may overflow.
  HWY_INLINE V Derivative(D d, V x) const {
    const V one = hn::Set(d, T(1));
    const V inverse = hn::Div(one, hn::Add(one, hn::Abs(x)));
    return hn::Mul(inverse, inverse);
  }
};

// f(x) = x held within [min_val, max_val]; f' = 1 if min_val < x <= max_val else 0
template <class D>
struct Hardtanh : Base<D> {
  static constexpr size_t kNumParameters = 2;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Hardtanh(D d, const double* parameters)
      : low(hn::Set(d, Parameter<T>(parameters[0]))), high(hn::Set(d, Parameter<T>(parameters[1]))) {}
  HWY_INLINE V operator()(D, V x) const { return SelectMax(SelectMin(x, high), low); }
  HWY_INLINE V Derivative(D d, V x) const {
    const V one_or_nan = hn::IfThenElse(hn::IsNaN(x), x, hn::Set(d, T(1)));
    return hn::IfThenZeroElse(hn::Or(hn::Le(x, low), hn::Gt(x, high)), one_or_nan);
  }
  V low;
  V high;
};

// f(x) = (x + 3)/6 held within [0, 1]; f' = 1/6 if -3 < x <= 3 else 0
// Error: 1.34, 0.34; without FMA the same.
template <class D>
struct Hardsigmoid : Base<D> {
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Hardsigmoid(D, const double*) {}
  HWY_INLINE V operator()(D d, V x) const {
    const V line = hn::Mul(hn::Add(x, hn::Set(d, T(3))), hn::Set(d, T(1) / 6));
    const V right = hn::IfThenElse(hn::Ge(x, hn::Set(d, T(3))), hn::Set(d, T(1)), line);
    return hn::IfThenZeroElse(hn::Le(x, hn::Set(d, T(-3))), right);
  }
  HWY_INLINE V Derivative(D d, V x) const {
    const V three = hn::Set(d, T(3));
    const V sixth_or_nan = hn::IfThenElse(hn::IsNaN(x), x, hn::Set(d, T(1) / 6));
    return hn::IfThenZeroElse(hn::Or(hn::Le(x, hn::Neg(three)), hn::Gt(x, three)), sixth_or_nan);
  }
};

// f(x) = x Hardsigmoid(x); f' = 0, (2x + 3)/6, 1 for x <= -3, -3 < x <= 3, 3 < x
// Error: 2.23, 1.34; without FMA the same.
template <class D>
struct Hardswish : Base<D> {
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Hardswish(D, const double*) {}
  HWY_INLINE V operator()(D d, V x) const {
    const V three = hn::Set(d, T(3));
    const V parabola = hn::Mul(hn::Mul(x, hn::Add(x, three)), hn::Set(d, T(1) / 6));
    const V right = hn::IfThenElse(hn::Ge(x, three), x, parabola);
    return hn::IfThenElse(hn::Le(x, hn::Neg(three)), hn::Set(d, T(-0.0)), right);
  }
  HWY_INLINE V Derivative(D d, V x) const {
    const V three = hn::Set(d, T(3));
    const V line = hn::Mul(hn::Add(hn::Add(x, x), three), hn::Set(d, T(1) / 6));
    const V right = hn::IfThenElse(hn::Gt(x, three), hn::Set(d, T(1)), line);
    return hn::IfThenZeroElse(hn::Le(x, hn::Neg(three)), right);
  }
};

}  // namespace activations
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#endif  // FUSEPROP_KERNELS_ACTIVATIONS_ACTIVATIONS_INL_H_
