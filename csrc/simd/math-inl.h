// Elementary functions on vectors of float or double: Exp, Expm1, Log, Log1p, Tanh, Sigmoid, Softplus, Erf, x times
// the normal distribution function, and the derivatives of the activations. Per-target header: include it after
// hwy/highway.h, in files compiled through hwy/foreach_target.h. Highway's own contrib/math is not used: it is wrong at
// NaN and infinity.
//
// Rules kept throughout: a NaN gives a NaN; infinities give the limit; subnormals are neither flushed nor
// ignored; a lane's result depends on that lane's input alone; and all targets that have FMA agree in every bit
// (explicit MulAdd, true division, selects or their equals, no instruction that only some targets have).
//
// "Error" below is the largest one measured, in ULP of the exact value, over all 2^32 floats against float64
// and over 20 million doubles against long double: on the targets with FMA, then on those without. It covers
// the inputs with a normal result; results in the subnormal range are within 1 ULP (of a subnormal).
//
// Polynomials are minimax fits in relative error (Remez exchange on the remainder stated at each table, in
// 50-digit arithmetic). Float coefficients were rounded one at a time, lowest power first, refitting the others
// each time.

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
  static constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer, left in the low bits

  static constexpr float kLog2E = 0x1.715476p+0f;
  static constexpr float kLn2 = 0x1.62e43p-1f;
  static constexpr float kLn2Hi = 0x1.62e4p-1f;  // 15 bits, so that its product with an exponent is exact
  static constexpr float kLn2Lo = 0x1.7f7d1cp-20f;

  // Outside [kExpMin, kExpMax] e^x, and even 10^6 x e^x, round to 0 or infinity; below kExpm1Min e^x-1 rounds to -1.
  static constexpr float kExpMin = -128.0f;
  static constexpr float kExpMax = 89.0f;
  static constexpr float kExpm1Min = -18.0f;
  static constexpr float kTiny = 0x1p-26f;  // e^x-1 rounds to x for smaller |x|
  static constexpr float kTanhMax = 9.5f;   // tanh rounds to 1 beyond
  static constexpr float kTanhSmall = 0.625f;

  // e^kExpMin / kDownScale is normal.
  static constexpr int kUpScaleExponent = 64;  // 1/kDownScale is 2 to this
  static constexpr float kDownScale = 0x1p-64f;

  // (e^r - 1 - r)/r^2 on |r| <= ln(2)/2, for an error of 2^-28.2 relative to e^r
  static constexpr float kExp[] = {0x1.fffffcp-2f, 0x1.55548cp-3f, 0x1.555858p-5f, 0x1.123de2p-7f, 0x1.6ac778p-10f};
  // The same in -2r, over 4
  static constexpr float kExpHalf[] = {0x1.fffffcp-4f, -0x1.55548cp-6f, 0x1.555858p-9f, -0x1.123de2p-12f,
                                       0x1.6ac778p-16f};
  // (e^r - 1 - r - r^2/2)/r^3 on |r| <= ln(2)/2, for an error of 2^-28.1 relative to e^r - 1
  static constexpr float kExpm1[] = {0x1.55552cp-3f, 0x1.555502p-5f, 0x1.1155a8p-7f, 0x1.6d2e4ap-10f, 0x1.3b8ap-13f};
  // 2 (atanh(s)/s - 1)/z, z = s^2, for |s| <= 1/5 (2^-28.4) and |s| <= 1/3 (2^-27.7), relative to atanh(s)
  static constexpr float kLog[] = {0x1.5555b4p-1f, 0x1.992a9ap-2f, 0x1.36eeb4p-2f};
  static constexpr float kLogWide[] = {0x1.555502p-1f, 0x1.99d1ccp-2f, 0x1.1ec03ap-2f, 0x1.1eca5ep-2f};
  // (tanh(x)/x - 1)/z, z = x^2, for |x| <= kTanhSmall: 2^-27.7
  static constexpr float kTanh[] = {-0x1.555532p-2f, 0x1.1106f6p-3f, -0x1.b835a4p-5f, 0x1.51f8cep-6f, -0x1.750ce2p-8f};

  // The normal distribution: e^(-a^2/2), and even a times it, rounds to 0 from kNormalMax on.
  static constexpr float kNormalMax = 14.75f;
  // (a+c) R(a) kDownScale, R the normal distribution's upper tail over e^(-a^2/2), in a/(a+c) - 1/2,
  // a >= 1/2: 2^-28.4
  static constexpr float kTailCentre = 3.90625f;
  static constexpr float kTail[] = {0x1.81cb8cp-65f, -0x1.339e7p-64f,  0x1.7faeacp-64f,  -0x1.634e7ep-64f,
                                    0x1.a62666p-65f, -0x1.fcc1d6p-68f, -0x1.03434cp-66f, 0x1.45db88p-67f,
                                    0x1.1e24b8p-68f, -0x1.21de7p-68f};
  // (Phi(x) - 1/2)/x in x^2, |x| <= 5/8: 2^-28.554 relative to Phi(x)
  static constexpr float kNormalCentre[] = {0x1.988454p-2f, -0x1.10587cp-4f, 0x1.46ddaep-7f, -0x1.37fccap-10f,
                                            0x1.d73f4ep-14f};
  // kDownScale (R(a) - a/sqrt(2 pi)) / (root - a) in (a-c)/(a+c), another c: 2^-28.2
  static constexpr float kTailSlopeCentre = 2.90625f;
  static constexpr float kTailSlope[] = {0x1.ebbda4p-66f,  -0x1.f24e7ep-68f, 0x1.ac824ep-69f, -0x1.95c15cp-71f,
                                         -0x1.0d188p-75f,  0x1.1c9b7ap-74f,  0x1.0b0f52p-81f, -0x1.04b37p-77f,
                                         -0x1.4f598ap-81f, 0x1.24d602p-81f};
  static constexpr float kTailRoot = 0x1.80ead2p-1f;
  static constexpr float kTailRootLow = -0x1.a03fd4p-27f;
  // erf(x)/x - 1 in x^2, |x| <= kErfSmall: 2^-29.2 relative to erf(x)/x
  static constexpr float kErf[] = {0x1.06eba8p-3f, -0x1.81273ep-2f,  0x1.ce2ce2p-4f, -0x1.b7f6a6p-6f,
                                   0x1.53edccp-8f, -0x1.a32fa8p-11f, 0x1.4717p-14f};
  static constexpr float kErfSmall = 1.0078125f;
  static constexpr float kErfMax = 4.0f;  // erf rounds to 1 beyond
  static constexpr float kSqrt2 = 0x1.6a09e6p+0f;
};

template <>
struct Constants<double> {
  static constexpr int kMantissaBits = 52;
  static constexpr int kBias = 1023;
  static constexpr double kRound = 0x1.8p52;

  static constexpr double kLog2E = 0x1.71547652b82fep+0;
  static constexpr double kLn2 = 0x1.62e42fefa39efp-1;
  static constexpr double kLn2Hi = 0x1.62e42fefa38p-1;  // 41 bits
  static constexpr double kLn2Lo = 0x1.ef35793c7673p-45;

  static constexpr double kExpMin = -770.0;
  static constexpr double kExpMax = 710.0;
  static constexpr double kExpm1Min = -38.0;
  static constexpr double kTiny = 0x1p-55;
  static constexpr double kTanhMax = 20.0;
  static constexpr double kTanhSmall = 0.625;

  static constexpr int kUpScaleExponent = 128;
  static constexpr double kDownScale = 0x1p-128;

  // 2^-60.3
  static constexpr double kExp[] = {0.5,
                                    0x1.555555555555bp-3,
                                    0x1.5555555555503p-5,
                                    0x1.111111110ec55p-7,
                                    0x1.6c16c16c304f2p-10,
                                    0x1.a01a01b38156cp-13,
                                    0x1.a01a01367a425p-16,
                                    0x1.71ddf018e2094p-19,
                                    0x1.27e5b46304684p-22,
                                    0x1.af6bf5e8ee0ccp-26,
                                    0x1.1e3d1608147a3p-29};
  static constexpr double kExpHalf[] = {0.125,
                                        -0x1.555555555555bp-6,
                                        0x1.5555555555503p-9,
                                        -0x1.111111110ec55p-12,
                                        0x1.6c16c16c304f2p-16,
                                        -0x1.a01a01b38156cp-20,
                                        0x1.a01a01367a425p-24,
                                        -0x1.71ddf018e2094p-28,
                                        0x1.27e5b46304684p-32,
                                        -0x1.af6bf5e8ee0ccp-37,
                                        0x1.1e3d1608147a3p-41};
  // 2^-59.9
  static constexpr double kExpm1[] = {0x1.5555555555559p-3,  0x1.555555555553fp-5,  0x1.111111110f6d5p-7,
                                      0x1.6c16c16c1f097p-10, 0x1.a01a01afd6503p-13, 0x1.a01a017bbfd96p-16,
                                      0x1.71ddf877ec9eep-19, 0x1.27e536340f701p-22, 0x1.af5e81f57d4e1p-26,
                                      0x1.1ee88545c8143p-29};
  // 2^-62.4
  static constexpr double kLog[] = {0x1.555555555554fp-1, 0x1.999999999c182p-2, 0x1.24924921e3cf2p-2,
                                    0x1.c71c749030157p-3, 0x1.745c4ac04ef08p-3, 0x1.3b35c476f449ep-3,
                                    0x1.0dcb545db1248p-3, 0x1.1b83687191df0p-3};
  // 2^-58.6
  static constexpr double kLogWide[] = {
      0x1.5555555555535p-1, 0x1.99999999a06dcp-2, 0x1.24924920902fdp-2, 0x1.c71c741a79a49p-3, 0x1.745cb44930a21p-3,
      0x1.3b1dd519bdaa5p-3, 0x1.10681b7afbe97p-3, 0x1.efd2c96487dadp-4, 0x1.55c9ca498117cp-4, 0x1.5c616d3075398p-3};
  // 2^-55.9
  static constexpr double kTanh[] = {-0x1.55555555554ffp-2,  0x1.111111110accep-3,  -0x1.ba1ba1b50652ep-5,
                                     0x1.664f477adc17cp-6,   -0x1.226e162c17555p-7, 0x1.d6cf28127e3ccp-9,
                                     -0x1.7d68a35336973p-10, 0x1.336613bd3a617p-11, -0x1.df55801dc0d31p-13,
                                     0x1.43912f1805583p-14,  -0x1.0da7411f664dap-16};

  static constexpr double kNormalMax = 38.75;
  // 2^-57.7
  static constexpr double kTailCentre = 5.96875;
  static constexpr double kTail[] = {
      0x1.8de6ce8685a3p-129,   -0x1.6675b01825fcep-128, 0x1.225589acd97bp-127,   -0x1.a50729cf5c8bdp-127,
      0x1.0f4de51b60a0ap-126,  -0x1.3322a159b2c18p-126, 0x1.2baca3024424fp-126,  -0x1.e77b9c145659p-127,
      0x1.3497522b1ac62p-127,  -0x1.f18bc0569fb8cp-129, -0x1.a29bc60ed0255p-134, 0x1.7f9cd5c3c4f6dp-130,
      -0x1.ede1253ab29cap-131, -0x1.55dbd4000da8p-135,  0x1.caf2ca473211bp-132,  -0x1.94051b4e35c79p-133,
      -0x1.11d417ebf265ep-133, 0x1.304cdc941ba59p-133,  0x1.860f897b190d4p-136,  -0x1.4c3bb5eed554cp-134,
      0x1.25a242c726bc1p-140,  0x1.f00c62aa6c30ep-136};
  // 2^-58.295
  static constexpr double kNormalCentre[] = {0x1.9884533d43651p-2,   -0x1.1058377e2cfb1p-4,  0x1.46d04297784dp-7,
                                             -0x1.37403f740a489p-10, 0x1.e42b1282c467ep-14,  -0x1.3ce9f02e57dc4p-17,
                                             0x1.65c1af0f0e97fp-21,  -0x1.69aeb5a40b50bp-25, 0x1.c902f115d344ap-29,
                                             -0x1.6164801d8345dp-31};
  // 2^-57.5
  static constexpr double kTailSlopeCentre = 4.265625;
  static constexpr double kTailSlope[] = {
      0x1.d5f73f55b6547p-130,  -0x1.97663ebc72e16p-132, 0x1.f2d12f46e183ap-133, -0x1.f57a5d8191f43p-134,
      0x1.875872fa30f8p-135,   -0x1.9df524fdc1f3bp-137, 0x1.26f4680123c3p-140,  0x1.5d4e3db83ed16p-141,
      -0x1.06ccc78314611p-142, -0x1.7a52c41c2238ep-146, 0x1.02c5e84acf837p-145, -0x1.f10cbbaec76eap-154,
      -0x1.0cfe2c4c1b229p-148, 0x1.76beb55da1cc8p-154,  0x1.3cf7bf6d7cb4ep-151, 0x1.ea2ac865f38f5p-157,
      -0x1.925cc196d4911p-154, -0x1.8ec415f704e81p-157, 0x1.dd509b000946ap-157, 0x1.e9b69929c427bp-159,
      -0x1.767c2ad6abc6p-160,  -0x1.277541d7198ccp-161};
  static constexpr double kTailRoot = 0x1.80ead197f00b4p-1;
  static constexpr double kTailRootLow = -0x1.13e74c58cada8p-56;
  // 2^-56.3
  static constexpr double kErf[] = {0x1.06eba8214db69p-3,   -0x1.812746b037a06p-2,  0x1.ce2f21a043cc5p-4,
                                    -0x1.b82ce312c82b9p-6,  0x1.565bcd1679cc4p-8,   -0x1.c02db53c8b1c0p-11,
                                    0x1.f9a345f8c5570p-14,  -0x1.f4d459ec42fbfp-17, 0x1.b9fc222272b2fp-20,
                                    -0x1.60021119018acp-23, 0x1.004b64410c401p-26,  -0x1.52484b0d93003p-30,
                                    0x1.47313e9b650eep-34};
  static constexpr double kErfSmall = 1.0;
  static constexpr double kErfMax = 6.0;
  static constexpr double kSqrt2 = 0x1.6a09e667f3bcdp+0;
};

template <class D>
using C = Constants<hn::TFromD<D>>;

// -------------------------------------------------------------------------------------------- building blocks

// c[kFirst] + c[kFirst+kStep] x + c[kFirst+2 kStep] x^2 + ...
template <size_t kFirst, size_t kStep, class D, class V, typename T, size_t N>
HWY_INLINE V Horner(D d, V x, const T (&c)[N]) {
  if constexpr (kFirst + kStep < N) {
    return hn::MulAdd(Horner<kFirst + kStep, kStep>(d, x, c), x, hn::Set(d, c[kFirst]));
  } else {
    return hn::Set(d, c[kFirst]);
  }
}

// c[0] + c[1] x + c[2] x^2 + ... The processor overlaps the chains of successive vectors; a long one is halved
// first.
template <class D, class V, typename T, size_t N>
HWY_INLINE V Polynomial(D d, V x, const T (&c)[N]) {
  if constexpr (N < 8) {
    return Horner<0, 1>(d, x, c);
  } else {
    const V x2 = hn::Mul(x, x);
    return hn::MulAdd(Horner<1, 2>(d, x2, c), x, Horner<0, 2>(d, x2, c));
  }
}

// c[kFirst] + c[kFirst+1] x + ... + c[kLast] x^(kLast-kFirst), in a tree (Estrin): for long formulas, in which
// successive vectors overlap too little. `powers` are x, x^2, x^4, ...
template <size_t kFirst, size_t kLast, class D, class V, typename T, size_t N>
HWY_INLINE V Tree(D d, const V* powers, const T (&c)[N]) {
  if constexpr (kFirst == kLast) {
    return hn::Set(d, c[kFirst]);
  } else {
    constexpr size_t kTerms = kLast - kFirst + 1;
    constexpr size_t kLog = kTerms > 16 ? 4 : kTerms > 8 ? 3 : kTerms > 4 ? 2 : kTerms > 2 ? 1 : 0;
    constexpr size_t kHalf = size_t{1} << kLog;
    return hn::MulAdd(Tree<kFirst + kHalf, kLast>(d, powers, c), powers[kLog],
                      Tree<kFirst, kFirst + kHalf - 1>(d, powers, c));
  }
}

// The coefficients from kFirst on.
template <size_t kFirst = 0, class D, class V, typename T, size_t N>
HWY_INLINE V WidePolynomial(D d, V x, const T (&c)[N]) {
  const V x2 = hn::Mul(x, x);
  const V x4 = hn::Mul(x2, x2);
  const V x8 = hn::Mul(x4, x4);
  const V powers[] = {x, x2, x4, x8, hn::Mul(x8, x8)};
  return Tree<kFirst, N - 1>(d, powers, c);
}

// -|x|
template <class D, class V>
HWY_INLINE V NegAbs(D d, V x) {
  return hn::Or(x, hn::SignBit(d));
}

// The one of x and bound that is nearer to zero; both have the same sign, NaN counts as far away. One integer
// instruction on most targets, for where the NaN is brought back by other means.
template <class D, class V>
HWY_INLINE V NearerZero(D d, V x, V bound) {
  const hn::RebindToSigned<D> di;
  return hn::BitCast(d, hn::Min(hn::BitCast(di, x), hn::BitCast(di, bound)));
}

// x = n ln(2) + r with an integer n and |r| <= ln(2)/2.
template <class D>
struct Reduced {
  hn::Vec<D> r;
  hn::Vec<D> r_error;                       // a more exact r is r + r_error; costs nothing where it is not used
  hn::Vec<hn::RebindToUnsigned<D>> biased;  // n + kOffset in the low bits
};

template <int kOffset, class D, class V>
HWY_INLINE Reduced<D> ReduceExp(D d, V x) {
  const hn::RebindToUnsigned<D> du;
  const V round = hn::Set(d, C<D>::kRound + static_cast<hn::TFromD<D>>(kOffset));
  const V shifted = hn::MulAdd(x, hn::Set(d, C<D>::kLog2E), round);
  const V n = hn::Sub(shifted, round);
  const V ln2_lo = hn::Set(d, C<D>::kLn2Lo);
  const V r_hi = hn::NegMulAdd(n, hn::Set(d, C<D>::kLn2Hi), x);  // exact
  const V r = hn::NegMulAdd(n, ln2_lo, r_hi);
  return {r, hn::NegMulAdd(n, ln2_lo, hn::Sub(r_hi, r)), hn::BitCast(du, shifted)};
}

// The bits of 2^(e - bias), from e in the low bits; what stands above them is shifted out.
template <class D, class VU>
HWY_INLINE VU ToExponent(D /*d*/, VU e) {
  return hn::ShiftLeft<C<D>::kMantissaBits>(e);
}

// scale (e^r - 1) + addend for a power of two `scale`: e^r itself is never rounded.
template <class D, class V>
HWY_INLINE V MulExpm1Add(D d, V r, V r_error, V scale, V addend) {
  const V p = Polynomial(d, r, C<D>::kExp);
#if FUSEPROP_HAVE_FMA
  static_cast<void>(r_error);
  return hn::MulAdd(hn::Mul(scale, r), hn::MulAdd(p, r, hn::Set(d, hn::TFromD<D>(1))), addend);
#else  // two more roundings: make up for them
  const V rest = hn::Add(hn::Mul(hn::Mul(r, r), p), r_error);
  return hn::Add(hn::Mul(scale, hn::Add(r, rest)), addend);
#endif
}

// e^x / kDownScale for kExpMin <= x <= 0: always a normal number.
template <class D, class V>
HWY_INLINE V ScaledExp(D d, V x) {
  const auto e = ReduceExp<C<D>::kBias + C<D>::kUpScaleExponent>(d, x);
  const V scale = hn::BitCast(d, ToExponent(d, e.biased));
  return MulExpm1Add(d, e.r, e.r_error, scale, scale);
}

// e^(x + x_error) = scale (1 + q) / 2^kUpScaleExponent with a power of two `scale`, for kExpMin <= x <= 0: q is never
// rounded to the precision of 1 + q, so that a factor can take the two at one rounding, y + y q.
template <class D>
struct ExpParts {
  hn::Vec<D> q;
  hn::Vec<D> scale;
};

template <class D, class V>
HWY_INLINE ExpParts<D> SplitExp(D d, V x, V x_error) {
  constexpr int kOffset = C<D>::kBias + C<D>::kUpScaleExponent;
  const hn::RebindToUnsigned<D> du;
  const V round = hn::Set(d, C<D>::kRound + static_cast<hn::TFromD<D>>(kOffset));
  const V shifted = hn::MulAdd(x, hn::Set(d, C<D>::kLog2E), round);
  const V n = hn::Sub(shifted, round);
  const V r_hi = hn::NegMulAdd(n, hn::Set(d, C<D>::kLn2Hi), x);  // exact
  const V r_lo = hn::NegMulAdd(n, hn::Set(d, C<D>::kLn2Lo), x_error);
  const V r = hn::Add(r_hi, r_lo);
  const V r_error = hn::Add(hn::Sub(r_hi, r), r_lo);
  const V q = hn::Add(r, hn::MulAdd(hn::Mul(r, r), WidePolynomial(d, r, C<D>::kExp), r_error));
  return {q, hn::BitCast(d, ToExponent(d, hn::BitCast(du, shifted)))};
}

// Likewise, e^(-a^2/2) for 0 <= a <= kNormalMax: the square is formed in two pieces, or its rounding error would be
// amplified by its size. From u = -2r on.
template <class D, class V>
HWY_INLINE ExpParts<D> SplitGauss(D d, V a) {
  using T = hn::TFromD<D>;
  constexpr int kOffset = C<D>::kBias + C<D>::kUpScaleExponent;
  const hn::RebindToUnsigned<D> du;
  const V square = hn::Mul(a, a);
  const V round = hn::Set(d, C<D>::kRound + static_cast<T>(kOffset));
  const V shifted = hn::MulAdd(square, hn::Set(d, T(-0.5) * C<D>::kLog2E), round);
  const V n = hn::Sub(shifted, round);
  const V u_hi = hn::MulAdd(n, hn::Set(d, 2 * C<D>::kLn2Hi), square);  // exact
  const V u_lo = hn::MulAdd(n, hn::Set(d, 2 * C<D>::kLn2Lo), FiniteProductError(d, a, a, square));
  const V u = hn::Add(u_hi, u_lo);
  const V q = hn::MulAdd(hn::Mul(u, u), WidePolynomial(d, u, C<D>::kExpHalf), hn::Mul(u, hn::Set(d, T(-0.5))));
  return {q, hn::BitCast(d, ToExponent(d, hn::BitCast(du, shifted)))};
}

// scale e^-a / (1 + e^-a)^2 for -a <= 0; NaN where a is.
template <class D, class V>
HWY_INLINE V Bell(D d, V minus_a, hn::TFromD<D> scale) {
  using T = hn::TFromD<D>;
  const V e = ScaledExp(d, ClampLowOrNaN(minus_a, hn::Set(d, C<D>::kExpMin)));
  const V t = hn::Mul(e, hn::Set(d, C<D>::kDownScale));
  const V square = hn::MulAdd(t, hn::Add(t, hn::Set(d, T(2))), hn::Set(d, T(1)));
  // Scaled last, so that a subnormal result is rounded once.
  return hn::Mul(hn::Div(e, square), hn::Set(d, scale * C<D>::kDownScale));
}

// log(1+f) - f. With s = f/(2+f), log(1+f) = 2 atanh(s) = f - f^2/2 + s (f^2/2 + z p(z)), z = s^2: the
// roundings in s touch a small term only.
template <class D, class V, typename T, size_t N>
HWY_INLINE V Log1pMinus(D d, V f, const T (&p)[N]) {
  const V s = hn::Div(f, hn::Add(f, hn::Set(d, T(2))));
  const V z = hn::Mul(s, s);
  const V half_square = hn::Mul(hn::Mul(f, hn::Set(d, T(0.5))), f);
  return hn::MulSub(s, hn::MulAdd(z, Polynomial(d, z, p), half_square), half_square);
}

// k ln(2) + log(1+f) for an integer k and f in [-1/4, 1/2]. The sum of the two large terms is kept to the last
// bit.
template <class D, class V>
HWY_INLINE V LogSum(D d, V k, V f) {
  const V k_hi = hn::Mul(k, hn::Set(d, C<D>::kLn2Hi));  // exact
  const V sum = hn::Add(k_hi, f);
  const V lost = hn::Sub(f, hn::Sub(sum, k_hi));
  const V rest = hn::MulAdd(k, hn::Set(d, C<D>::kLn2Lo), Log1pMinus(d, f, C<D>::kLog));
  return hn::Add(sum, hn::Add(lost, rest));
}

// For a positive, normal x = 2^k m with 3/4 <= m < 3/2: the bits of x that stand for k, that is, k shifted left
// by the size of the mantissa.
template <class D, class V>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> ExponentBits(D /*d*/, V x) {
  const hn::RebindToUnsigned<D> du;
  using TU = hn::TFromD<decltype(du)>;
  constexpr TU kThreeQuarters =
      (static_cast<TU>(C<D>::kBias) << C<D>::kMantissaBits) - (TU(1) << (C<D>::kMantissaBits - 1));
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

// Log and Log1p at the edges: -inf at `pole`, NaN below it, x itself if it is NaN or inf; elsewhere y.
template <class D, class V>
HWY_INLINE V LogEdges(D d, V x, V pole, V y) {
  using T = hn::TFromD<D>;
  const V inf = hn::Set(d, std::numeric_limits<T>::infinity());
  const V nan = hn::Set(d, std::numeric_limits<T>::quiet_NaN());
  y = hn::IfThenElse(hn::Lt(x, inf), y, x);
  return hn::IfThenElse(hn::Le(x, pole), hn::IfThenElse(hn::Eq(x, pole), hn::Neg(inf), nan), y);
}

}  // namespace math

// --------------------------------------------------------------------------------------------------- functions

// e^x = 2^n e^r. 0 at -inf, inf at inf.
// Error: float 0.89, without FMA 0.89; double 0.89, 0.89.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D d, V x) {
  using math::C;
  x = ClampOrNaN(x, hn::Set(d, C<D>::kExpMin), hn::Set(d, C<D>::kExpMax));
  // 2^n in two factors, 2^(n/2) and the rest: overflow, and the rounding of a subnormal result, come last.
  const auto e = math::ReduceExp<2 * C<D>::kBias>(d, x);
  const auto half_bits = math::ToExponent(d, hn::ShiftRight<1>(e.biased));
  const V half = hn::BitCast(d, half_bits);
  const V rest = hn::BitCast(d, hn::Sub(math::ToExponent(d, e.biased), half_bits));
  return hn::Mul(math::MulExpm1Add(d, e.r, e.r_error, half, half), rest);
}

// e^x for x <= 0 only, with fewer instructions than Exp. 0 at -inf.
// Error: float 0.89, without FMA 0.89; double 0.90, 0.89.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpNonPositive(D d, V x) {
  using math::C;
  return hn::Mul(math::ScaledExp(d, ClampLowOrNaN(x, hn::Set(d, C<D>::kExpMin))), hn::Set(d, C<D>::kDownScale));
}

// e^x - 1 = (2^n - 1) + 2^n (e^r - 1), summed with compensation. Keeps the sign of zero; -1 at -inf, inf at
// inf. Error: float 0.86, without FMA 0.86; double 1.03, 1.04.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Expm1(D d, V x) {
  using math::C;
  using T = hn::TFromD<D>;
  const V clamped = ClampOrNaN(x, hn::Set(d, C<D>::kExpm1Min), hn::Set(d, C<D>::kExpMax));
  // (e^x - 1)/2 = (s - 1/2) + s r + s (e^r - 1 - r), s = 2^(n-1). What the first two additions lose joins the
  // last term.
  const auto e = math::ReduceExp<C<D>::kBias - 1>(d, clamped);
  const V s = hn::BitCast(d, math::ToExponent(d, e.biased));
  const V one_half = hn::Set(d, T(0.5));
  const V s_less = hn::Sub(s, one_half);
  const V sum = hn::MulAdd(s, e.r, s_less);
  const V lost = hn::Add(hn::Sub(hn::Sub(s, s_less), one_half), hn::MulSub(s, e.r, hn::Sub(sum, s_less)));
  const V r2 = hn::Mul(e.r, e.r);
  const V cubic = hn::MulAdd(hn::Mul(r2, e.r), math::Polynomial(d, e.r, C<D>::kExpm1), e.r_error);
  const V rest = hn::MulAdd(r2, one_half, cubic);
  const V y = hn::Add(sum, hn::MulAdd(s, rest, lost));
  return hn::IfThenElse(hn::Lt(hn::Abs(x), hn::Set(d, C<D>::kTiny)), x, hn::Add(y, y));
}

// log x = k ln(2) + log(m), 3/4 <= m < 3/2. -inf at both zeros, NaN below, inf at inf.
// Error: float 0.95, without FMA 0.98; double 0.89, 0.96.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log(D d, V x) {
  using math::C;
  using T = hn::TFromD<D>;
  const hn::RebindToUnsigned<D> du;
  const V min_normal = hn::Set(d, std::numeric_limits<T>::min());
  const V inf = hn::Set(d, std::numeric_limits<T>::infinity());
  const bool ordinary = hn::AllTrue(d, hn::And(hn::Le(min_normal, x), hn::Lt(x, inf)));
  V u = x;
  V adjust = hn::Zero(d);
  if (HWY_UNLIKELY(!ordinary)) {
    constexpr int kUp = C<D>::kMantissaBits + 1;
    const auto subnormal = hn::Lt(x, min_normal);
    u = hn::IfThenElse(subnormal, hn::Mul(x, hn::Set(d, static_cast<T>(int64_t{1} << kUp))), x);
    adjust = hn::IfThenElseZero(subnormal, hn::Set(d, static_cast<T>(kUp)));
  }
  const auto exponent_bits = math::ExponentBits(d, u);
  const V m = hn::BitCast(d, hn::Sub(hn::BitCast(du, u), exponent_bits));
  const V k = hn::Sub(math::ExponentValue(d, exponent_bits), adjust);
  const V y = math::LogSum(d, k, hn::Sub(m, hn::Set(d, T(1))));
  return HWY_LIKELY(ordinary) ? y : math::LogEdges(d, x, hn::Zero(d), y);
}

// log(1 + x), as Log. Keeps the sign of zero; -inf at -1, NaN below, inf at inf.
// Error: float 0.95, without FMA 0.98; double 0.91, 0.94.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log1p(D d, V x) {
  using T = hn::TFromD<D>;
  const hn::RebindToUnsigned<D> du;
  const V one = hn::Set(d, T(1));
  const V minus_one = hn::Set(d, T(-1));
  const V big = hn::Set(d, std::numeric_limits<T>::max() / 4);
  const bool ordinary = hn::AllTrue(d, hn::And(hn::Lt(minus_one, x), hn::Lt(x, big)));
  // k from 1+x; then 1+f = 2^-k (1+x) is formed from x itself: f = 2^-k x + (2^-k - 1).
  const auto exponent_bits = math::ExponentBits(d, hn::Add(one, x));
  const V scaled_x = hn::BitCast(d, hn::Sub(hn::BitCast(du, x), exponent_bits));
  V scaled_1 = hn::BitCast(d, hn::Sub(hn::BitCast(du, one), exponent_bits));
  if (HWY_UNLIKELY(!ordinary)) scaled_1 = hn::ZeroIfNegative(scaled_1);  // k may be one too many for 2^-k
  const V f = hn::Add(scaled_x, hn::Sub(scaled_1, one));
  const V y = hn::CopySign(math::LogSum(d, math::ExponentValue(d, exponent_bits), f), x);  // for -0
  return HWY_LIKELY(ordinary) ? y : math::LogEdges(d, x, minus_one, y);
}

// tanh x: a polynomial near zero, 1 - 2/(e^2|x| + 1) elsewhere. Keeps the sign of zero; -1 and 1 at -inf and
// inf. Error: float 1.17, without FMA 1.20; double 1.29, 1.42.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Tanh(D d, V x) {
  using math::C;
  using T = hn::TFromD<D>;
  const hn::RebindToUnsigned<D> du;
  const V one = hn::Set(d, T(1));
  const V magnitude = hn::Abs(x);
  // Large: 1 - 2/(e^2|x| + 1). Errors in e^2|x| hardly matter, so that a plain ln(2) will do.
  const V a = math::NearerZero(d, magnitude, hn::Set(d, C<D>::kTanhMax));
  const V a2 = hn::Add(a, a);
  const V round = hn::Set(d, C<D>::kRound + static_cast<T>(C<D>::kBias));
  const V shifted = hn::MulAdd(a2, hn::Set(d, C<D>::kLog2E), round);
  const V r = hn::NegMulAdd(hn::Sub(shifted, round), hn::Set(d, C<D>::kLn2), a2);
  const V s = hn::BitCast(d, math::ToExponent(d, hn::BitCast(du, shifted)));
  const V large = hn::Sub(one, hn::Div(hn::Set(d, T(2)), math::MulExpm1Add(d, r, hn::Zero(d), s, hn::Add(s, one))));
  // Small, and NaN: x + x^3 p(x^2).
  const V z = hn::Mul(magnitude, magnitude);
  const V small = hn::MulAdd(hn::Mul(magnitude, z), math::Polynomial(d, z, C<D>::kTanh), magnitude);
  return hn::CopySign(hn::IfThenElse(hn::Ge(magnitude, hn::Set(d, C<D>::kTanhSmall)), large, small), x);
}

// 1 / cosh^2 x = 4 e^-2|x| / (1 + e^-2|x|)^2. 0 at -inf and inf.
// Error: float 2.38, without FMA 2.42; double 2.34, 2.36.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V TanhDerivative(D d, V x) {
  return math::Bell(d, math::NegAbs(d, hn::Add(x, x)), 4);
}

// 1 / (1 + e^-x), with full relative accuracy in the left tail. 0 at -inf, 1 at inf.
// Error: float 2.00 (1.9991), without FMA the same; double 1.99, 1.99.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Sigmoid(D d, V x) {
  using math::C;
  const hn::RebindToUnsigned<D> du;
  using TU = hn::TFromD<decltype(du)>;
  const V limit = hn::Set(d, C<D>::kExpMin);
  const V minus_x = ClampOrNaN(hn::Neg(x), limit, hn::Neg(limit));
  // e^-x = (b/a) e^r with powers of two a and b of about the same distance from 1, so that neither overflows.
  // Then s = a / (a + b + b (e^r - 1)), adding the larger of a and b last.
  const auto e = math::ReduceExp<2 * C<D>::kBias>(d, minus_x);
  const auto inverse_a = math::ToExponent(d, hn::ShiftRight<1>(e.biased));
  const V a = hn::BitCast(d, hn::Sub(hn::Set(du, static_cast<TU>(2 * C<D>::kBias) << C<D>::kMantissaBits), inverse_a));
  const V b = hn::BitCast(d, hn::Sub(math::ToExponent(d, e.biased), inverse_a));
  return hn::Div(a, hn::Add(hn::Max(a, b), math::MulExpm1Add(d, e.r, e.r_error, b, hn::Min(a, b))));
}

// s(x) s(-x) = e^-|x| / (1 + e^-|x|)^2, s = Sigmoid. 0 at -inf and inf.
// Error: float 2.38, without FMA 2.42; double 2.31, 2.31.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SigmoidDerivative(D d, V x) {
  return math::Bell(d, math::NegAbs(d, x), 1);
}

// log(1 + x) for x in [0, 1] only, with fewer instructions than Log1p.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log1pUnit(D d, V x) {
  return hn::Add(x, math::Log1pMinus(d, x, math::C<D>::kLogWide));
}

// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), with full relative accuracy in the left tail. 0 at -inf, inf at
// inf. The derivative is Sigmoid. Error: float 1.85, without FMA 1.95; double 1.91, 1.77.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Softplus(D d, V x) {
  using math::C;
  const V minus_a = math::NearerZero(d, math::NegAbs(d, x), hn::Set(d, C<D>::kExpMin));
  const V e = hn::Mul(math::ScaledExp(d, minus_a), hn::Set(d, C<D>::kDownScale));
  // The largest term last. A NaN comes through the maximum.
  return hn::Add(e, hn::Add(SelectMax(x, hn::Zero(d)), math::Log1pMinus(d, e, C<D>::kLogWide)));
}

// x Phi(x), Phi the normal distribution function: GELU, with full relative accuracy in the left tail. -0 at -inf, inf
// at inf.
//
// With a = |x| and the upper tail R(a) e^(-a^2/2) = 1 - Phi(a), it is x/|x| (max(x, 0) - a R(a) e^(-a^2/2)), and
// a R(a) = (a/(a+c)) S(a/(a+c)) with a polynomial S. The error of a/(a+c) matters for small a alone, as a R(a) tends to
// a constant: for those there is another polynomial.
// Error: float 2.92, without FMA 2.95; double 3.07, 2.92.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V XNormalCdf(D d, V x) {
  using math::C;
  using T = hn::TFromD<D>;
  const V a = ClampHighOrNaN(hn::Abs(x), hn::Set(d, C<D>::kNormalMax));
  const auto gauss = math::SplitGauss(d, a);
  const V ratio = hn::Div(a, hn::Add(a, hn::Set(d, C<D>::kTailCentre)));
  const V t = hn::Sub(ratio, hn::Set(d, T(0.5)));
  // (1 + q) (first + rest) = first + (rest + q (first + rest)), the larger term last. Scaled down, so that a subnormal
  // result is rounded once.
  const V first = hn::Set(d, C<D>::kTail[0]);
  const V second = hn::Set(d, C<D>::kTail[1]);
  const V rest = hn::Mul(t, hn::MulAdd(t, math::WidePolynomial<2>(d, t, C<D>::kTail), second));
  const V s = hn::Add(first, hn::MulAdd(gauss.q, hn::Add(first, rest), rest));
  // A NaN comes through the tail.
  const V outer = hn::CopySign(hn::NegMulAdd(hn::Mul(ratio, gauss.scale), s, hn::Max(hn::Zero(d), x)), x);
  // x (1/2 + x p(x^2))
  const V half = hn::Set(d, T(0.5));
  const V inner = hn::Mul(x, hn::MulAdd(x, math::Polynomial(d, hn::Mul(x, x), C<D>::kNormalCentre), half));
  return hn::IfThenElse(hn::Lt(a, hn::Set(d, T(0.625))), inner, outer);
}

// Its derivative, Phi(x) + x phi(x) = e^(-x^2/2) (R(a) - a/sqrt(2 pi)) for x < 0, and 1 - this for x > 0. The bracket
// is the distance from its root times a polynomial: full relative accuracy there too. 0 at -inf, 1 at inf.
// Error: float 3.21, without FMA 3.17; double 3.61, 3.59, save near the root, where it is 0.17 of 2^-23 of the sum of
// the terms' sizes.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V XNormalCdfDerivative(D d, V x) {
  using math::C;
  using T = hn::TFromD<D>;
  const V one = hn::Set(d, T(1));
  const V centre = hn::Set(d, C<D>::kTailSlopeCentre);
  const V a = ClampHighOrNaN(hn::Abs(x), hn::Set(d, C<D>::kNormalMax));
  const auto gauss = math::SplitGauss(d, a);
  const V w = hn::Div(hn::Sub(a, centre), hn::Add(a, centre));
  const V distance = hn::Add(hn::Sub(hn::Set(d, C<D>::kTailRoot), a), hn::Set(d, C<D>::kTailRootLow));
  // As above.
  const V first = hn::Set(d, C<D>::kTailSlope[0]);
  const V second = hn::Set(d, C<D>::kTailSlope[1]);
  const V rest = hn::Mul(w, hn::MulAdd(w, math::WidePolynomial<2>(d, w, C<D>::kTailSlope), second));
  const V slope = hn::Add(first, hn::MulAdd(gauss.q, hn::Add(first, rest), rest));
  const V scaled = hn::Mul(distance, gauss.scale);
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Mul(scaled, slope), hn::NegMulAdd(scaled, slope, one));
}

// erf x: a polynomial near zero, 1 - 2 R(sqrt(2) |x|) e^(-x^2) elsewhere, R as above. Keeps the sign of zero; -1 and 1
// at -inf and inf. Error: float 1.40, without FMA 1.50; double 1.54, 1.68.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Erf(D d, V x) {
  using math::C;
  using T = hn::TFromD<D>;
  const V one = hn::Set(d, T(1));
  const V magnitude = hn::Abs(x);
  const V a = math::NearerZero(d, magnitude, hn::Set(d, C<D>::kErfMax));
  const V z = hn::Mul(a, a);
  const auto gauss = math::SplitExp(d, hn::Neg(z), hn::Neg(FiniteProductError(d, a, a, z)));
  const V sqrt2 = hn::Set(d, C<D>::kSqrt2);
  const V v = hn::Div(one, hn::MulAdd(sqrt2, a, hn::Set(d, C<D>::kTailCentre)));
  const V t = hn::NegMulAdd(hn::Set(d, C<D>::kTailCentre), v, hn::Set(d, T(0.5)));
  const V tail = hn::Mul(hn::MulAdd(v, gauss.q, v), math::Polynomial(d, t, C<D>::kTail));
  const V large = hn::NegMulAdd(tail, hn::Add(gauss.scale, gauss.scale), one);
  // Small, and NaN: x + x p(x^2).
  const V square = hn::Mul(magnitude, magnitude);
  const V small = hn::MulAdd(magnitude, math::Polynomial(d, square, C<D>::kErf), magnitude);
  return hn::CopySign(hn::IfThenElse(hn::Ge(magnitude, hn::Set(d, C<D>::kErfSmall)), large, small), x);
}

}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#endif  // FUSEPROP_SIMD_MATH_INL_H_
