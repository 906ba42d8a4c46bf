// The loops over arrays, written once: map, map with sums, stream. A kernel is a functor on vectors; a tail goes
// through the same functor, so that an element's result does not depend on where it stands in the array.
// Per-target header.

#if defined(FUSEPROP_SIMD_LOOPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSEPROP_SIMD_LOOPS_INL_H_
#undef FUSEPROP_SIMD_LOOPS_INL_H_
#else
#define FUSEPROP_SIMD_LOOPS_INL_H_
#endif

#include "hwy/cache_control.h"
#include "simd/compat-inl.h"
#include "simd/partition.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {

// Elements from `p` up to the next address at which whole vectors can be stored aligned.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE size_t ElementsToAlignment(D d, const T* p) {
  const size_t lanes = hn::Lanes(d);
  return (lanes - reinterpret_cast<uintptr_t>(p) / sizeof(T) % lanes) % lanes;
}

// out[i] = f(d, in[i]...) for i in [begin, end). `out` may be one of the inputs. With `stream`, the stores go
// around the caches: for outputs that would only evict what others need.
template <class T, class F, class... In>
HWY_INLINE void MapRange(const F& f, T* out, size_t begin, size_t end, bool stream, const In*... in) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const bool align = end - begin >= 32 * lanes;  // stores across cache lines cost more than a partial vector
  stream = stream && align;
  size_t i = begin;
  size_t part = align ? ElementsToAlignment(d, out + begin) : 0;
  // A partial vector up to the alignment, whole ones, a partial one for the rest. f stands here twice only, for
  // whole and for partial vectors: it may be long.
  do {
    if (part != 0) StorePartial(f(d, LoadPartial(d, in + i, part)...), d, out + i, part);
    for (i += part; i + lanes <= end; i += lanes) {
      const auto y = f(d, hn::LoadU(d, in + i)...);
      if (stream) {
        hn::Stream(y, d, out + i);
      } else {
        hn::StoreU(y, d, out + i);
      }
    }
    part = end - i;
  } while (part != 0);
  if (stream) hwy::FlushStream();
}

// out[i] = f(d, in[i]...) for i in [0, n), on all threads.
template <class T, class F, class... In>
HWY_INLINE void Map(const F& f, T* out, size_t n, const In*... in) {
  const bool in_place = ((static_cast<const void*>(in) == static_cast<const void*>(out)) || ...);
  const bool stream = !in_place && n * sizeof(T) >= kStreamBytes;
  ForEachRange(n, [&](size_t begin, size_t end) HWY_ATTR { MapRange(f, out, begin, end, stream, in...); });
}

// Copies a block that is in the first cache to memory, around the caches. The caller fences: hwy::FlushStream().
template <class T>
HWY_INLINE void StreamOut(const T* HWY_RESTRICT block, T* HWY_RESTRICT to, size_t n) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = HWY_MIN(ElementsToAlignment(d, to), n);
  if (i != 0) StorePartial(LoadPartial(d, block, i), d, to, i);
  for (; i + lanes <= n; i += lanes) hn::Stream(hn::LoadU(d, block + i), d, to + i);
  if (i < n) StorePartial(LoadPartial(d, block + i, n - i), d, to + i, n - i);
}

// A sum in float64 whose bits do not depend on the target: element i of a block goes to virtual lane i % kLanes,
// and the lanes are added in a fixed tree. One Accumulator holds the kLanes sums of one block.
template <class T>
class Accumulator {
 public:
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  static constexpr size_t kLanes = 64 / sizeof(T);
  // Vectors of T in one row of virtual lanes.
  static constexpr size_t kVectors = kLanes * sizeof(T) / HWY_MAX_BYTES;

  HWY_INLINE Accumulator() {
    for (auto& sum : sums_) sum = hn::Zero(hn::ScalableTag<double>());
  }

  // Adds the vector that holds elements i = k * kLanes + index * Lanes ... of the block.
  HWY_INLINE void Add(size_t index, V v) {
    const hn::ScalableTag<double> d64;
    if constexpr (sizeof(T) == 4) {
      const hn::Half<D> half;
      sums_[2 * index] = hn::Add(sums_[2 * index], hn::PromoteTo(d64, hn::LowerHalf(half, v)));
      sums_[2 * index + 1] = hn::Add(sums_[2 * index + 1], hn::PromoteTo(d64, hn::UpperHalf(half, v)));
    } else {
      sums_[index] = hn::Add(sums_[index], v);
    }
  }

  // Likewise, the squares, formed in float64.
  HWY_INLINE void AddSquare(size_t index, V v) {
    const hn::ScalableTag<double> d64;
    if constexpr (sizeof(T) == 4) {
      const hn::Half<D> half;
      const auto low = hn::PromoteTo(d64, hn::LowerHalf(half, v));
      const auto high = hn::PromoteTo(d64, hn::UpperHalf(half, v));
      sums_[2 * index] = hn::MulAdd(low, low, sums_[2 * index]);
      sums_[2 * index + 1] = hn::MulAdd(high, high, sums_[2 * index + 1]);
    } else {
      sums_[index] = hn::MulAdd(v, v, sums_[index]);
    }
  }

  HWY_INLINE double Total() const {
    const hn::ScalableTag<double> d64;
    HWY_ALIGN double lanes[kLanes];
    for (size_t i = 0; i < kSums; ++i) hn::Store(sums_[i], d64, lanes + i * hn::Lanes(d64));
    for (size_t width = kLanes / 2; width != 0; width /= 2) {
      for (size_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    }
    return lanes[0];
  }

 private:
  static constexpr size_t kSums = kLanes * sizeof(double) / HWY_MAX_BYTES;
  hn::Vec<hn::ScalableTag<double>> sums_[kSums];
};

// Calls step(i, index, count) for each vector of [begin, end) in order, where begin is the start of a block,
// `index` is the vector's place in its row of virtual lanes, and `count` < Lanes for the last one alone.
// `full` is a std::true_type for whole vectors, so that the step can leave the masks out.
template <class T, class Step>
HWY_INLINE void ForEachVector(size_t begin, size_t end, const Step& step) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  constexpr size_t kVectors = Accumulator<T>::kVectors;
  size_t i = begin;
  for (; i + kVectors * lanes <= end; i += kVectors * lanes) {
    HWY_UNROLL(2)
    for (size_t index = 0; index < kVectors; ++index) step(i + index * lanes, index, lanes, std::true_type());
  }
  for (size_t index = 0; i < end; ++index, i += lanes) {
    step(i, index, HWY_MIN(lanes, end - i), std::false_type());
  }
}

// Sum of x[0, n) in float64, the same bits on any number of threads.
template <class T>
HWY_INLINE double SumRange(const T* HWY_RESTRICT x, size_t begin, size_t end) {
  const hn::ScalableTag<T> d;
  Accumulator<T> sum;
  ForEachVector<T>(begin, end, [&](size_t i, size_t index, size_t count, auto full) HWY_ATTR {
    sum.Add(index, full ? hn::LoadU(d, x + i) : LoadPartial(d, x + i, count));
  });
  return sum.Total();
}

}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#endif  // FUSEPROP_SIMD_LOOPS_INL_H_
