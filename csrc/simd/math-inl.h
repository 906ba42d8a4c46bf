// Elementary functions on vectors of float or double: Exp, Expm1, Log, Log1p, Tanh, Sigmoid, Softplus and the
// derivatives of the two activations. Per-target header: include it after hwy/highway.h, in files compiled
// through hwy/foreach_target.h. Highway's own contrib/math is not used: it is wrong at NaN and infinity.
//
// Rules kept throughout: a NaN gives a NaN; infinities give the limit; subnormals are neither flushed nor
// ignored; a lane's result depends on that lane's input alone; and all targets that have FMA agree in every bit
// (explicit MulAdd, true division, compare-and-select, no instruction that only some targets have).
//
// Polynomials are minimax fits in relative error (Remez exchange on the remainder stated at each table, in 50-digit
// arithmetic). Float coefficients were rounded one at a time, lowest power first, refitting the others each time.

#if defined(FUSEPROP_SIMD_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSEPROP_SIMD_MATH_INL_H_
#undef FUSEPROP_SIMD_MATH_INL_H_
#else
#define FUSEPROP_SIMD_MATH_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <limits>

#include "hwy/highway.h"
#include "simd/compat-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

namespace math {

// ------------------------------------------------------------------------------------------------ constants

template <typename T>
struct Constants;

template <>
struct Constants<float> {
  static constexpr int kMantissaBits = 23;
  static constexpr int kBias = 127;
  static constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer and leaves that in the low bits

  static constexpr float kLog2E = 0x1.715476p+0f;
  static constexpr float kLn2Hi = 0x1.62e4p-1f;  // 15 bits, so that its product with an exponent is exact
  static constexpr float kLn2Lo = 0x1.7f7d1cp-20f;

  // Outside [kExpMin, kExpMax] e^x rounds to 0 or infinity; below kExpm1Min e^x-1 rounds to -1.
  static constexpr float kExpMin = -104.0f;
  static constexpr float kExpMax = 89.0f;
  static constexpr float kExpm1Min = -18.0f;
  static constexpr float kTiny = 0x1p-26f;  // below it e^x-1 rounds to x
  static constexpr int kDownScale = 64;     // e^kExpMin * 2^kDownScale is normal

  // (e^r - 1 - r) / r^2 on |r| <= ln(2)/2: 2^-26.1
  static constexpr float kExp[] = {0x1.fffffep-2f, 0x1.5554aap-3f, 0x1.55579ep-5f, 0x1.122c58p-7f, 0x1.6ab682p-10f};
  // (log(1+f) - f) / f^2 on [-1/4, 1/2]: 2^-27.3
  static constexpr float kLog[] = {-0.5f,          0x1.5555a4p-2f,  -0x1.00002cp-2f, 0x1.9968c6p-3f, -0x1.54f5bcp-3f,
                                   0x1.28a23p-3f,  -0x1.0d6e52p-3f, 0x1.aa9548p-4f,  -0x1.6d09f6p-5f};
  // (log(1+e) - e) / e^2 on [0, 1]: 2^-27.5
  static constexpr float kLog1pUnit[] = {-0x1.ffffd2p-2f, 0x1.554ddp-2f,  -0x1.ff23e8p-3f, 0x1.934b6cp-3f, -0x1.3a43d2p-3f,
                                         0x1.b4b042p-4f,  -0x1.d6b668p-5f, 0x1.491faap-6f,  -0x1.af5aaep-9f};
  // (tanh(x)/x - 1) / x^2, as a function of x^2, on |x| <= kTanhSmall: 2^-27.7
  static constexpr float kTanhSmall = 0.625f;
  static constexpr float kTanhMax = 9.5f;  // tanh rounds to 1 beyond
  static constexpr float kTanh[] = {-0x1.555532p-2f, 0x1.1106f6p-3f, -0x1.b835a4p-5f, 0x1.51f8cep-6f, -0x1.750ce2p-8f};
};

template <>
struct Constants<double> {
  static constexpr int kMantissaBits = 52;
  static constexpr int kBias = 1023;
  static constexpr double kRound = 0x1.8p52;

  static constexpr double kLog2E = 0x1.71547652b82fep+0;
  static constexpr double kLn2Hi = 0x1.62e42fefa38p-1;  // 41 bits
  static constexpr double kLn2Lo = 0x1.ef35793c7673p-45;

  static constexpr double kExpMin = -746.0;
  static constexpr double kExpMax = 710.0;
  static constexpr double kExpm1Min = -38.0;
  static constexpr double kTiny = 0x1p-55;
  static constexpr int kDownScale = 128;

  // 2^-59.9
  static constexpr double kExp[] = {0.5,
                                    0x1.5555555555559p-3,
                                    0x1.555555555553fp-5,
                                    0x1.111111110f6d5p-7,
                                    0x1.6c16c16c1f097p-10,
                                    0x1.a01a01afd6503p-13,
                                    0x1.a01a017bbfd96p-16,
                                    0x1.71ddf877ec9eep-19,
                                    0x1.27e536340f701p-22,
                                    0x1.af5e81f57d4e1p-26,
                                    0x1.1ee88545c8143p-29};
  // 2^-56.3
  static constexpr double kLog[] = {-0.5,
                                    0x1.55555555555a0p-2,
                                    -0x1.0000000000772p-2,
                                    0x1.999999998c6bdp-3,
                                    -0x1.55555554591d5p-3,
                                    0x1.24924929753c5p-3,
                                    -0x1.00000063e13b8p-3,
                                    0x1.c71c70de96071p-4,
                                    -0x1.999972c9d0a7ep-4,
                                    0x1.745cec1f14b16p-4,
                                    -0x1.555939696eb20p-4,
                                    0x1.3b1f035588c33p-4,
                                    -0x1.2465759e4c0f2p-4,
                                    0x1.101cae71e3ce1p-4,
                                    -0x1.fffcdb3af8cf4p-5,
                                    0x1.f252b473ac1c3p-5,
                                    -0x1.e8e810d0ea0fbp-5,
                                    0x1.9f4c55fa1a271p-5,
                                    -0x1.e1816dab7fa52p-6,
                                    0x1.091f2bd44d865p-7};
  // 2^-54.5
  static constexpr double kLog1pUnit[] = {-0x1.fffffffffffeep-2,
                                          0x1.55555555547b1p-2,
                                          -0x1.ffffffff87a69p-3,
                                          0x1.9999998891b97p-3,
                                          -0x1.555553df824a6p-3,
                                          0x1.249233ca08b0fp-3,
                                          -0x1.fffe45ae140b1p-4,
                                          0x1.c70f38c38ad54p-4,
                                          -0x1.994c7eab8ea8dp-4,
                                          0x1.72fe7d2a14c18p-4,
                                          -0x1.5063c165ed76dp-4,
                                          0x1.2cb4421ec079cp-4,
                                          -0x1.027ee59e8e168p-4,
                                          0x1.9ccc96ee3932ap-5,
                                          -0x1.25e7eaeca935dp-5,
                                          0x1.654e814895ca2p-6,
                                          -0x1.6227bd71615b5p-7,
                                          0x1.0f4f365730139p-8,
                                          -0x1.2ac0abc514234p-10,
                                          0x1.a245f0516bb1bp-13,
                                          -0x1.167c0e0674c5ap-16};
  // 2^-55.9
  static constexpr double kTanhSmall = 0.625;
  static constexpr double kTanhMax = 20.0;
  static constexpr double kTanh[] = {-0x1.55555555554ffp-2,
                                     0x1.111111110accep-3,
                                     -0x1.ba1ba1b50652ep-5,
                                     0x1.664f477adc17cp-6,
                                     -0x1.226e162c17555p-7,
                                     0x1.d6cf28127e3ccp-9,
                                     -0x1.7d68a35336973p-10,
                                     0x1.336613bd3a617p-11,
                                     -0x1.df55801dc0d31p-13,
                                     0x1.43912f1805583p-14,
                                     -0x1.0da7411f664dap-16};
};

template <class D>
using C = Constants<hn::TFromD<D>>;

// -------------------------------------------------------------------------------------------- building blocks

// c[kFirst] + c[kFirst+2] x2 + c[kFirst+4] x2^2 + ...
template <size_t kFirst, class D, class V, typename T, size_t N>
HWY_INLINE V EveryOther(D d, V x2, const T (&c)[N]) {
  if constexpr (kFirst + 2 < N) {
    return hn::MulAdd(EveryOther<kFirst + 2>(d, x2, c), x2, hn::Set(d, c[kFirst]));
  } else {
    return hn::Set(d, c[kFirst]);
  }
}

// c[0] + c[1] x + c[2] x^2 + ..., as two interleaved chains; x2 = x*x.
template <class D, class V, typename T, size_t N>
HWY_INLINE V Polynomial(D d, V x, V x2, const T (&c)[N]) {
  return hn::MulAdd(EveryOther<1>(d, x2, c), x, EveryOther<0>(d, x2, c));
}

// c[0] + c[1] x + c[2] x^2 + ..., as one chain.
template <size_t kFirst = 0, class D, class V, typename T, size_t N>
HWY_INLINE V Horner(D d, V x, const T (&c)[N]) {
  if constexpr (kFirst + 1 < N) {
    return hn::MulAdd(Horner<kFirst + 1>(d, x, c), x, hn::Set(d, c[kFirst]));
  } else {
    return hn::Set(d, c[kFirst]);
  }
}

// x = n ln(2) + r with an integer n and |r| <= ln(2)/2.
template <class D>
struct Reduced {
  hn::Vec<D> n;
  hn::Vec<D> r;
  hn::Vec<D> r_error;                       // the exact r is r + r_error; computed only where it is used
  hn::Vec<hn::RebindToUnsigned<D>> biased;  // n + bias in the low bits
};

template <int kBias, class D, class V>
HWY_INLINE Reduced<D> ReduceExp(D d, V x) {
  using T = hn::TFromD<D>;
  const hn::RebindToUnsigned<D> du;
  const V round = hn::Set(d, C<D>::kRound + static_cast<T>(kBias));
  const V shifted = hn::MulAdd(x, hn::Set(d, C<D>::kLog2E), round);
  const V n = hn::Sub(shifted, round);
  const V ln2_lo = hn::Set(d, C<D>::kLn2Lo);
  const V r_hi = hn::NegMulAdd(n, hn::Set(d, C<D>::kLn2Hi), x);  // exact
  const V r = hn::NegMulAdd(n, ln2_lo, r_hi);
  return {n, r, hn::NegMulAdd(n, ln2_lo, hn::Sub(r_hi, r)), hn::BitCast(du, shifted)};
}

// The bits of 2^(e - bias), from e in the low bits (what is above them is shifted out).
template <class D, class VU>
HWY_INLINE VU ToExponent(D /*d*/, VU e) {
  return hn::ShiftLeft<C<D>::kMantissaBits>(e);
}

// (e^r - 1 - r) for a reduced r.
template <class D, class V>
HWY_INLINE V ExpRemainder(D d, V r) {
  const V r2 = hn::Mul(r, r);
  return hn::Mul(r2, Polynomial(d, r, r2, C<D>::kExp));
}

// e^r - 1 for a reduced r.
template <class D, class V>
HWY_INLINE V Expm1Reduced(D d, V r) {
  const V r2 = hn::Mul(r, r);
  return hn::MulAdd(r2, Polynomial(d, r, r2, C<D>::kExp), r);
}

// 2^kDownScale e^x for x <= 0: normal wherever e^x is not zero. NaN where x is.
template <class D, class V>
HWY_INLINE V ScaledExpNonPositive(D d, V x) {
  const auto e = ReduceExp<C<D>::kBias + C<D>::kDownScale>(d, SelectMax(x, hn::Set(d, C<D>::kExpMin)));
  const V scale = hn::BitCast(d, ToExponent(d, e.biased));
  return hn::MulAdd(Expm1Reduced(d, e.r), scale, scale);
}

// 2^-kDownScale
template <class D>
HWY_INLINE hn::Vec<D> DownScale(D d) {
  using T = hn::TFromD<D>;
  return hn::Set(d, T(1) / static_cast<T>(sizeof(T) == 4 ? 0x1p64 : 0x1p128));
}

// k ln(2) + log(1+f) for an integer k and f in [-1/4, 1/2]. The larger terms are added without error.
template <class D, class V>
HWY_INLINE V LogSum(D d, V k, V f) {
  const V k_hi = hn::Mul(k, hn::Set(d, C<D>::kLn2Hi));  // exact
  const V k_lo = hn::Mul(k, hn::Set(d, C<D>::kLn2Lo));
  const V sum = hn::Add(k_hi, f);
  const V error = hn::Sub(f, hn::Sub(sum, k_hi));
  const V f2 = hn::Mul(f, f);
  const V rest = hn::MulAdd(f2, Polynomial(d, f, f2, C<D>::kLog), k_lo);
  return hn::Add(sum, hn::Add(error, rest));
}

// For a positive, normal x = 2^k m with 3/4 <= m < 3/2: the bits of x that stand for k, that is, k shifted left by
// the size of the mantissa.
template <class D, class V>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> ExponentBits(D /*d*/, V x) {
  const hn::RebindToUnsigned<D> du;
  using TU = hn::TFromD<decltype(du)>;
  constexpr TU kThreeQuarters = (static_cast<TU>(C<D>::kBias) << C<D>::kMantissaBits) - (TU(1) << (C<D>::kMantissaBits - 1));
  constexpr TU kMask = ~((TU(1) << C<D>::kMantissaBits) - 1);
  return hn::And(hn::Sub(hn::BitCast(du, x), hn::Set(du, kThreeQuarters)), hn::Set(du, kMask));
}

// k as a number, from ExponentBits. Without conversions, which some targets lack for 64-bit integers.
template <class D, class VU>
HWY_INLINE hn::Vec<D> ExponentValue(D d, VU exponent_bits) {
  const hn::RebindToUnsigned<D> du;
  using T = hn::TFromD<D>;
  using TU = hn::TFromD<decltype(du)>;
  constexpr int kBits = C<D>::kMantissaBits;
  constexpr TU kOne = static_cast<TU>(C<D>::kBias) << kBits;
  constexpr TU kUnit = static_cast<TU>(C<D>::kBias + kBits) << kBits;  // 2^kBits, whose unit is 1
  const auto biased = hn::ShiftRight<kBits>(hn::Add(exponent_bits, hn::Set(du, kOne)));
  return hn::Sub(hn::BitCast(d, hn::Or(biased, hn::Set(du, kUnit))),
                 hn::Set(d, static_cast<T>(TU(1) << kBits) + static_cast<T>(C<D>::kBias)));
}

// Log and Log1p at the edges: y where x is inside the domain; -inf at `pole`, NaN below it, x itself for NaN and inf.
template <class D, class V>
HWY_INLINE V LogEdges(D d, V x, V pole, V y) {
  using T = hn::TFromD<D>;
  const V inf = hn::Set(d, std::numeric_limits<T>::infinity());
  const V outside = hn::IfThenElse(hn::Eq(x, pole), hn::Neg(inf), hn::Set(d, std::numeric_limits<T>::quiet_NaN()));
  y = hn::IfThenElse(hn::Lt(x, inf), y, x);
  return hn::IfThenElse(hn::Le(x, pole), outside, y);
}

}  // namespace math

// --------------------------------------------------------------------------------------------------- functions

// e^x.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D d, V x) {
  using math::C;
  x = SelectMax(SelectMin(x, hn::Set(d, C<D>::kExpMax)), hn::Set(d, C<D>::kExpMin));
  // 2^n in two factors, 2^(n/2) and the rest, so that the one rounding of a subnormal result, or overflow, is last.
  const auto e = math::ReduceExp<2 * C<D>::kBias>(d, x);
  const auto half_bits = math::ToExponent(d, hn::ShiftRight<1>(e.biased));
  const V half = hn::BitCast(d, half_bits);
  const V rest = hn::BitCast(d, hn::Sub(math::ToExponent(d, e.biased), half_bits));
  return hn::Mul(hn::MulAdd(math::Expm1Reduced(d, e.r), half, half), rest);
}

// e^x for x <= 0: cheaper.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpNonPositive(D d, V x) {
  return hn::Mul(math::ScaledExpNonPositive(d, x), math::DownScale(d));
}

// e^x - 1.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Expm1(D d, V x) {
  using math::C;
  using T = hn::TFromD<D>;
  const V clamped = SelectMax(SelectMin(x, hn::Set(d, C<D>::kExpMax)), hn::Set(d, C<D>::kExpm1Min));
  // (e^x - 1)/2 = (s - 1/2) + s r + s (e^r - 1 - r), s = 2^(n-1); what the first two additions lose joins the last term.
  const auto e = math::ReduceExp<C<D>::kBias - 1>(d, clamped);
  const V s = hn::BitCast(d, math::ToExponent(d, e.biased));
  const V one_half = hn::Set(d, T(0.5));
  const V s_less = hn::Sub(s, one_half);
  const V sum = hn::MulAdd(s, e.r, s_less);
  const V lost = hn::Add(hn::Sub(hn::Sub(s, s_less), one_half), hn::MulSub(s, e.r, hn::Sub(sum, s_less)));
  const V rest = hn::Add(math::ExpRemainder(d, e.r), e.r_error);
  const V y = hn::Add(sum, hn::MulAdd(s, rest, lost));
  return hn::IfThenElse(hn::Lt(hn::Abs(x), hn::Set(d, C<D>::kTiny)), x, hn::Add(y, y));
}

// log x.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log(D d, V x) {
  using math::C;
  using T = hn::TFromD<D>;
  const hn::RebindToUnsigned<D> du;
  constexpr T kUp = static_cast<T>(hn::TFromD<decltype(du)>(1) << (C<D>::kMantissaBits + 1));
  const auto subnormal = hn::Lt(x, hn::Set(d, std::numeric_limits<T>::min()));
  const V u = hn::IfThenElse(subnormal, hn::Mul(x, hn::Set(d, kUp)), x);
  const auto exponent_bits = math::ExponentBits(d, u);
  const V m = hn::BitCast(d, hn::Sub(hn::BitCast(du, u), exponent_bits));
  const V adjust = hn::IfThenElseZero(subnormal, hn::Set(d, static_cast<T>(C<D>::kMantissaBits + 1)));
  const V k = hn::Sub(math::ExponentValue(d, exponent_bits), adjust);
  return math::LogEdges(d, x, hn::Zero(d), math::LogSum(d, k, hn::Sub(m, hn::Set(d, T(1)))));
}

// log(1 + x).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log1p(D d, V x) {
  using T = hn::TFromD<D>;
  const hn::RebindToUnsigned<D> du;
  const V one = hn::Set(d, T(1));
  // k from 1+x; then 1+f = 2^-k (1+x) is formed from x itself: f = 2^-k x + (2^-k - 1).
  const auto exponent_bits = math::ExponentBits(d, hn::Add(one, x));
  const V scaled_x = hn::BitCast(d, hn::Sub(hn::BitCast(du, x), exponent_bits));
  const V scaled_1 = hn::ZeroIfNegative(hn::BitCast(d, hn::Sub(hn::BitCast(du, one), exponent_bits)));
  const V f = hn::Add(scaled_x, hn::Sub(scaled_1, one));
  const V y = hn::CopySign(math::LogSum(d, math::ExponentValue(d, exponent_bits), f), x);
  return math::LogEdges(d, x, hn::Neg(one), y);
}

// tanh x.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Tanh(D d, V x) {
  using math::C;
  using T = hn::TFromD<D>;
  const V one = hn::Set(d, T(1));
  const V two = hn::Set(d, T(2));
  const V magnitude = hn::Abs(x);
  // large: 1 - 2/(e^2|x| + 1)
  const V a = SelectMin(magnitude, hn::Set(d, C<D>::kTanhMax));
  const auto e = math::ReduceExp<C<D>::kBias>(d, hn::Add(a, a));
  const V s = hn::BitCast(d, math::ToExponent(d, e.biased));
  const V large = hn::Sub(one, hn::Div(two, hn::MulAdd(math::Expm1Reduced(d, e.r), s, hn::Add(s, one))));
  // small: x + x^3 p(x^2)
  const V z = hn::Mul(magnitude, magnitude);
  const V small = hn::MulAdd(hn::Mul(magnitude, z), math::Horner(d, z, C<D>::kTanh), magnitude);
  return hn::CopySign(hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, C<D>::kTanhSmall)), small, large), x);
}

// 1 / cosh^2 x.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V TanhDerivative(D d, V x) {
  using T = hn::TFromD<D>;
  const V a = hn::Abs(x);
  const V e = math::ScaledExpNonPositive(d, hn::Neg(hn::Add(a, a)));
  const V down = math::DownScale(d);
  const V one_plus = hn::MulAdd(e, down, hn::Set(d, T(1)));
  return hn::Mul(hn::Div(e, hn::Mul(one_plus, one_plus)), hn::Mul(down, hn::Set(d, T(4))));
}

// 1 / (1 + e^-x).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Sigmoid(D d, V x) {
  using math::C;
  const hn::RebindToUnsigned<D> du;
  using TU = hn::TFromD<decltype(du)>;
  // e^-x = b/a (1+p) with a and b powers of two of about the same size, so that neither overflows:
  // s = a / (a + b + b p).
  const V limit = hn::Set(d, C<D>::kExpMin);
  const V negated = SelectMax(SelectMin(hn::Neg(x), hn::Neg(limit)), limit);
  const auto e = math::ReduceExp<2 * C<D>::kBias>(d, negated);
  const auto inverse_a = math::ToExponent(d, hn::ShiftRight<1>(e.biased));
  const V a = hn::BitCast(d, hn::Sub(hn::Set(du, static_cast<TU>(2 * C<D>::kBias) << C<D>::kMantissaBits), inverse_a));
  const V b = hn::BitCast(d, hn::Sub(math::ToExponent(d, e.biased), inverse_a));
  return hn::Div(a, hn::MulAdd(math::Expm1Reduced(d, e.r), b, hn::Add(a, b)));
}

// s(x) s(-x) = e^-|x| / (1 + e^-|x|)^2, s = Sigmoid.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SigmoidDerivative(D d, V x) {
  using T = hn::TFromD<D>;
  const V e = math::ScaledExpNonPositive(d, hn::Neg(hn::Abs(x)));
  const V down = math::DownScale(d);
  const V one_plus = hn::MulAdd(e, down, hn::Set(d, T(1)));
  return hn::Mul(hn::Div(e, hn::Mul(one_plus, one_plus)), down);
}

// log(1 + e^x).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Softplus(D d, V x) {
  using math::C;
  const V e = ExpNonPositive(d, hn::Neg(hn::Abs(x)));
  const V e2 = hn::Mul(e, e);
  const V tail = hn::MulAdd(e2, math::Polynomial(d, e, e2, C<D>::kLog1pUnit), e);
  return hn::Add(SelectMax(x, hn::Zero(d)), tail);
}

}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#endif  // FUSEPROP_SIMD_MATH_INL_H_
