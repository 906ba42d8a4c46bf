// What our kernels need from Highway beyond its public operations, and every difference between its versions.
// Per-target header: include it after hwy/highway.h, in files compiled through hwy/foreach_target.h.

#if defined(FUSEPROP_SIMD_COMPAT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSEPROP_SIMD_COMPAT_INL_H_
#undef FUSEPROP_SIMD_COMPAT_INL_H_
#else
#define FUSEPROP_SIMD_COMPAT_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <limits>

#include "hwy/highway.h"
#include "simd/parameter.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// True where MulAdd rounds once. Results are identical among the targets for which it is.
#undef FUSEPROP_HAVE_FMA
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || (HWY_ARCH_ARM_A64 && HWY_TARGET == HWY_NEON)
#define FUSEPROP_HAVE_FMA 1
#else
#define FUSEPROP_HAVE_FMA 0
#endif

// max and min by compare-and-select: unlike the hardware instructions, the same on every target for NaN and
// for zeros of both signs. A NaN in `a` is returned; a NaN in `b` is not.
template <class V>
HWY_INLINE V SelectMax(V a, V b) {
  return hn::IfThenElse(hn::Lt(a, b), b, a);
}
template <class V>
HWY_INLINE V SelectMin(V a, V b) {
  return hn::IfThenElse(hn::Lt(b, a), b, a);
}

// x held within [low, high], above `low`, or below `high`; NaN stays NaN. The bounds must be neither zero nor NaN: then
// these instructions give what the selects would, in half the time. (x86 returns the second operand of min and max if
// either is NaN, AArch64 returns the NaN.)
#if HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || \
    (HWY_ARCH_ARM_A64 && HWY_TARGET == HWY_NEON)
template <class V>
HWY_INLINE V ClampLowOrNaN(V x, V low) {
  return hn::Max(low, x);
}
template <class V>
HWY_INLINE V ClampHighOrNaN(V x, V high) {
  return hn::Min(high, x);
}
template <class V>
HWY_INLINE V ClampOrNaN(V x, V low, V high) {
  return hn::Max(low, hn::Min(high, x));
}
#else
template <class V>
HWY_INLINE V ClampLowOrNaN(V x, V low) {
  return SelectMax(x, low);
}
template <class V>
HWY_INLINE V ClampHighOrNaN(V x, V high) {
  return SelectMin(x, high);
}
template <class V>
HWY_INLINE V ClampOrNaN(V x, V low, V high) {
  return SelectMax(SelectMin(x, high), low);
}
#endif

// a * b - product, where product = round(a * b) is finite: what one rounding lost.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V FiniteProductError(D d, V a, V b, V product) {
#if FUSEPROP_HAVE_FMA
  static_cast<void>(d);
  return hn::MulSub(a, b, product);
#else  // Dekker: split both factors into halves whose products are exact.
  using T = hn::TFromD<D>;
  const V splitter = hn::Set(d, sizeof(T) == 4 ? T(4097) : T(134217729));
  const V a_wide = hn::Mul(a, splitter);
  const V a_high = hn::Sub(a_wide, hn::Sub(a_wide, a));
  const V a_low = hn::Sub(a, a_high);
  const V b_wide = hn::Mul(b, splitter);
  const V b_high = hn::Sub(b_wide, hn::Sub(b_wide, b));
  const V b_low = hn::Sub(b, b_high);
  const V rest =
      hn::Sub(hn::Sub(hn::Sub(product, hn::Mul(a_high, b_high)), hn::Mul(a_low, b_high)), hn::Mul(a_high, b_low));
  return hn::Sub(hn::Mul(a_low, b_low), rest);
#endif
}

// c - a * b for a finite product near c, as if rounded once.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Residual(D d, V a, V b, V c) {
#if FUSEPROP_HAVE_FMA
  static_cast<void>(d);
  return hn::NegMulAdd(a, b, c);
#else
  const V product = hn::Mul(a, b);
  return hn::Sub(hn::Sub(c, product), FiniteProductError(d, a, b, product));
#endif
}

// FiniteProductError for any factors; 0 where the product is not finite.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ProductError(D d, V a, V b, V product) {
  const V error = FiniteProductError(d, a, b, product);
  return hn::IfThenElse(hn::Lt(hn::Abs(error), hn::Abs(product)), error, hn::Zero(d));
}

// The first `count` lanes from memory, the others zero; nothing beyond them is read. count <= Lanes(d).
template <class D, class T = hn::TFromD<D>, class V = hn::Vec<D>>
HWY_INLINE V LoadPartial(D d, const T* HWY_RESTRICT from, size_t count) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  return hn::MaskedLoad(hn::FirstN(d, count), d, from);
#else  // MaskedLoad may read the whole vector here
  HWY_ALIGN T lanes[HWY_MAX_BYTES / sizeof(T)] = {};
  for (size_t i = 0; i < count; ++i) lanes[i] = from[i];
  return hn::Load(d, lanes);
#endif
}

// Stores the first `count` lanes; nothing beyond them is written.
template <class D, class T = hn::TFromD<D>, class V = hn::Vec<D>>
HWY_INLINE void StorePartial(V v, D d, T* HWY_RESTRICT to, size_t count) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  hn::BlendedStore(v, hn::FirstN(d, count), d, to);
#else  // BlendedStore may write the whole vector here
  HWY_ALIGN T lanes[HWY_MAX_BYTES / sizeof(T)];
  hn::Store(v, d, lanes);
  for (size_t i = 0; i < count; ++i) to[i] = lanes[i];
#endif
}

// LoadPartial and StorePartial for many vectors with one count: the mask is made once.
template <class D>
class FirstLanes {
 public:
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  HWY_INLINE FirstLanes(D d, size_t count) : mask_(hn::FirstN(d, count)) {}
  HWY_INLINE V Load(D d, const T* HWY_RESTRICT from) const { return hn::MaskedLoad(mask_, d, from); }
  HWY_INLINE void Store(V v, D d, T* HWY_RESTRICT to) const { hn::BlendedStore(v, mask_, d, to); }

 private:
  hn::Mask<D> mask_;
#else
  HWY_INLINE FirstLanes(D, size_t count) : count_(count) {}
  HWY_INLINE V Load(D d, const T* HWY_RESTRICT from) const { return LoadPartial(d, from, count_); }
  HWY_INLINE void Store(V v, D d, T* HWY_RESTRICT to) const { StorePartial(v, d, to, count_); }

 private:
  size_t count_;
#endif
};

#if HWY_TARGET == HWY_AVX3
// The same vector, which stays in a register: GCC may load it from memory again for each use otherwise.
template <class V>
HWY_INLINE V InRegister(V v) {
  asm("" : "+v"(v.raw));
  return v;
}

// Of the 128-bit blocks of `low`, then of `high`, those with even or odd numbers.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ConcatEvenBlocks(D d, V high, V low) {
  const hn::Repartition<float, D> df;
  const auto blocks = _mm512_shuffle_f32x4(hn::BitCast(df, low).raw, hn::BitCast(df, high).raw, 0x88);
  return hn::BitCast(d, hn::Vec<decltype(df)>{blocks});
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ConcatOddBlocks(D d, V high, V low) {
  const hn::Repartition<float, D> df;
  const auto blocks = _mm512_shuffle_f32x4(hn::BitCast(df, low).raw, hn::BitCast(df, high).raw, 0xdd);
  return hn::BitCast(d, hn::Vec<decltype(df)>{blocks});
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#endif  // FUSEPROP_SIMD_COMPAT_INL_H_
