#include "kernels/dense/dropout.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dense/dropout.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "simd/loops-inl.h"

#ifndef FUSEPROP_KERNELS_DENSE_DROPOUT_ONCE
#define FUSEPROP_KERNELS_DENSE_DROPOUT_ONCE
namespace fuseprop {
namespace {

struct DropoutTable {
  void (*f32)(const float*, size_t, double, uint64_t, float*);
  void (*f64)(const double*, size_t, double, uint64_t, double*);
};

}  // namespace
}  // namespace fuseprop
#endif  // FUSEPROP_KERNELS_DENSE_DROPOUT_ONCE

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

// A bijection of 32-bit integers in which each input bit changes each output bit with probability 1/2, within 1.1e-4
// (found by search: Wellons, "Prospecting for hash functions").
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Mix(D d, V x) {
  x = hn::Xor(x, hn::ShiftRight<16>(x));
  x = hn::Mul(x, hn::Set(d, 0x21f0aaadu));
  x = hn::Xor(x, hn::ShiftRight<15>(x));
  x = hn::Mul(x, hn::Set(d, 0xd35a2d97u));
  return hn::Xor(x, hn::ShiftRight<15>(x));
}

// x m for the elements whose lower halves of the index are `at`: 0 where m is 0, with the sign of x, even if x is
// infinite or NaN.
template <class T, class D, class DU>
class Masks {
 public:
  HWY_INLINE Masks(double p, uint64_t key, uint64_t high)
      : k0_(hn::Set(DU(), static_cast<uint32_t>(key))),
        k1_(hn::Set(DU(), static_cast<uint32_t>((key >> 32) + 0x9e3779b9u * high))),
        threshold_(
            Signed(hn::Set(DU(), static_cast<uint32_t>(std::min(std::nearbyint(std::ldexp(p, 32)), 4294967295.0))))),
        scale_(hn::Set(D(), static_cast<T>(1.0 / (1.0 - p)))) {}

  HWY_INLINE hn::Vec<D> operator()(hn::Vec<DU> at, hn::Vec<D> x) const {
    const D d;
    const auto zero = hn::And(x, hn::SignBit(d));
    const auto kept = hn::Mul(x, scale_);
    const auto hash = Mix(DU(), hn::Add(Mix(DU(), hn::Xor(at, k0_)), k1_));
    const auto dropped = hn::VecFromMask(hn::RebindToSigned<DU>(), hn::Lt(Signed(hash), threshold_));
    if constexpr (sizeof(T) == sizeof(float)) {
      return hn::IfThenElse(hn::MaskFromVec(hn::BitCast(d, dropped)), zero, kept);
    } else {
      const auto wide = hn::PromoteTo(hn::RebindToSigned<D>(), dropped);
      return hn::IfThenElse(hn::MaskFromVec(hn::BitCast(d, wide)), zero, kept);
    }
  }

 private:
  // Order as of unsigned integers.
  static HWY_INLINE hn::Vec<hn::RebindToSigned<DU>> Signed(hn::Vec<DU> v) {
    return hn::BitCast(hn::RebindToSigned<DU>(), hn::Xor(v, hn::Set(DU(), 0x80000000u)));
  }

  hn::Vec<DU> k0_, k1_;
  hn::Vec<hn::RebindToSigned<DU>> threshold_;
  hn::Vec<D> scale_;
};

template <class T>
void Run(const T* x, size_t n, double p, uint64_t key, T* y) {
  using D = hn::ScalableTag<T>;
  using DU = hn::Rebind<uint32_t, D>;
  const D d;
  const DU du;
  const size_t lanes = hn::Lanes(d);
  const auto first = hn::Iota(du, 0);
  ForEachRange(n, [&](size_t range_begin, size_t range_end) HWY_ATTR {
    // The upper half of the index is the same throughout a block.
    for (size_t begin = range_begin; begin < range_end; begin += kBlock) {
      const size_t end = HWY_MIN(range_end, begin + kBlock);
      const Masks<T, D, DU> masks(p, key, static_cast<uint64_t>(begin) >> 32);
      size_t i = begin;
      for (; i + lanes <= end; i += lanes) {
        const auto at = hn::Add(first, hn::Set(du, static_cast<uint32_t>(i)));
        hn::StoreU(masks(at, hn::LoadU(d, x + i)), d, y + i);
      }
      if (i == end) continue;
      const auto at = hn::Add(first, hn::Set(du, static_cast<uint32_t>(i)));
      StorePartial(masks(at, LoadPartial(d, x + i, end - i)), d, y + i, end - i);
    }
  });
}

const DropoutTable& Table() {
  static constexpr DropoutTable table = {Run<float>, Run<double>};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(Table);

void Dropout(const float* x, size_t n, double p, uint64_t key, float* y) {
  FUSEPROP_DISPATCH(Table)().f32(x, n, p, key, y);
}
void Dropout(const double* x, size_t n, double p, uint64_t key, double* y) {
  FUSEPROP_DISPATCH(Table)().f64(x, n, p, key, y);
}
}  // namespace fuseprop
#endif  // HWY_ONCE
