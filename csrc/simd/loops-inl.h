// The loops over arrays, written once: map, stream, sums. A kernel is a functor on vectors; a tail goes
// through the same functor, so that an element's result does not depend on where it stands in the array.
// Per-target header.

#if defined(FUSEPROP_SIMD_LOOPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSEPROP_SIMD_LOOPS_INL_H_
#undef FUSEPROP_SIMD_LOOPS_INL_H_
#else
#define FUSEPROP_SIMD_LOOPS_INL_H_
#endif

#include <utility>

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

template <class D, class V, class T = hn::TFromD<D>>
HWY_INLINE void StoreOrStream(V v, D d, T* to, bool stream) {
  if (stream) {
    hn::Stream(v, d, to);
  } else {
    hn::StoreU(v, d, to);
  }
}

// f(d, in[0][i...], in[1][i...], ...).
template <class T, class F, class D, size_t... k>
HWY_INLINE hn::Vec<D> Apply(const F& f, D d, const T* const* in, size_t i, std::index_sequence<k...> /*inputs*/) {
  return f(d, hn::LoadU(d, in[k] + i)...);
}

// out[i] = f(d, in[i]...) for i in [begin, end). `out` may be one of the inputs. With `stream`, the stores go
// around the caches: for outputs that would only evict what others need.
template <class T, class F, class... In>
HWY_INLINE void MapRange(const F& f, T* out, size_t begin, size_t end, bool stream, const In*... in) {
  constexpr size_t kInputs = sizeof...(In);
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const bool align = end - begin >= 32 * lanes;  // stores across cache lines cost more than a partial vector
  const T* const inputs[kInputs] = {in...};
  HWY_ALIGN T copies[kInputs][HWY_MAX_BYTES / sizeof(T)];
  size_t i = begin;
  size_t part = align ? ElementsToAlignment(d, out + begin) : 0;
  // A partial vector up to the alignment, whole ones, a partial one for the rest. f may be long, and stands here
  // once: a partial vector goes through the same loop, as a whole one in a copy.
  while (i < end) {
    const size_t whole = (end - i) / lanes * lanes;
    if (part == 0 && whole == 0) part = end - i;
    const bool is_part = part != 0;
    const T* from[kInputs];
    for (size_t k = 0; k < kInputs; ++k) {
      from[k] = inputs[k] + i;
      if (is_part) {
        hn::Store(LoadPartial(d, from[k], part), d, copies[k]);
        from[k] = copies[k];
      }
    }
    T* const to = is_part ? copies[0] : out + i;
    const size_t n = is_part ? lanes : whole;
    const bool around = stream && align && !is_part;
    for (size_t j = 0; j < n; j += lanes) {
      const auto y = Apply(f, d, from, j, std::make_index_sequence<kInputs>());
      StoreOrStream(y, d, to + j, around);
    }
    if (is_part) StorePartial(hn::Load(d, copies[0]), d, out + i, part);
    i += is_part ? part : whole;
    part = 0;
  }
  if (stream && align) hwy::FlushStream();
}

// The same with a functor of two results: f(d, in[i]..., &v0, &v1).
template <class T, class F, class D, class V, size_t... k>
HWY_INLINE void ApplyPair(const F& f, D d, const T* const* in, size_t i, V* v0, V* v1,
                          std::index_sequence<k...> /*inputs*/) {
  f(d, hn::LoadU(d, in[k] + i)..., v0, v1);
}

// Likewise with two results, which are stored in out0[i] and out1[i].
template <class T, class F, class... In>
HWY_INLINE void MapPairRange(const F& f, T* out0, T* out1, size_t begin, size_t end, bool stream, const In*... in) {
  constexpr size_t kInputs = sizeof...(In);
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  const bool align = end - begin >= 32 * lanes;
  stream = stream && align && ElementsToAlignment(d, out0) == ElementsToAlignment(d, out1);
  const T* const inputs[kInputs] = {in...};
  HWY_ALIGN T copies[kInputs][HWY_MAX_BYTES / sizeof(T)];
  HWY_ALIGN T results[2][HWY_MAX_BYTES / sizeof(T)];
  size_t i = begin;
  size_t part = align ? ElementsToAlignment(d, out0 + begin) : 0;
  while (i < end) {
    const size_t whole = (end - i) / lanes * lanes;
    if (part == 0 && whole == 0) part = end - i;
    const bool is_part = part != 0;
    const T* from[kInputs];
    for (size_t k = 0; k < kInputs; ++k) {
      from[k] = inputs[k] + i;
      if (is_part) {
        hn::Store(LoadPartial(d, from[k], part), d, copies[k]);
        from[k] = copies[k];
      }
    }
    T* const to0 = is_part ? results[0] : out0 + i;
    T* const to1 = is_part ? results[1] : out1 + i;
    const size_t n = is_part ? lanes : whole;
    const bool around = stream && !is_part;
    for (size_t j = 0; j < n; j += lanes) {
      V v0, v1;
      ApplyPair(f, d, from, j, &v0, &v1, std::make_index_sequence<kInputs>());
      StoreOrStream(v0, d, to0 + j, around);
      StoreOrStream(v1, d, to1 + j, around);
    }
    if (is_part) {
      StorePartial(hn::Load(d, results[0]), d, out0 + i, part);
      StorePartial(hn::Load(d, results[1]), d, out1 + i, part);
    }
    i += is_part ? part : whole;
    part = 0;
  }
  if (stream) hwy::FlushStream();
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

// The sum of a vector's lanes in a tree: i and i + Lanes(d) / 2, and so on.
template <class D>
HWY_INLINE double SumOfHalves(D d, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(d) == 1) {
    return hn::GetLane(v);
  } else {
    const hn::Half<D> half;
    return SumOfHalves(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
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

  // Likewise, the squares (a - b)^2, formed in float64.
  HWY_INLINE void AddSquaredDifference(size_t index, V a, V b) {
    const hn::ScalableTag<double> d64;
    if constexpr (sizeof(T) == 4) {
      const hn::Half<D> half;
      const auto low = hn::Sub(hn::PromoteTo(d64, hn::LowerHalf(half, a)), hn::PromoteTo(d64, hn::LowerHalf(half, b)));
      const auto high = hn::Sub(hn::PromoteTo(d64, hn::UpperHalf(half, a)), hn::PromoteTo(d64, hn::UpperHalf(half, b)));
      sums_[2 * index] = hn::MulAdd(low, low, sums_[2 * index]);
      sums_[2 * index + 1] = hn::MulAdd(high, high, sums_[2 * index + 1]);
    } else {
      const V r = hn::Sub(a, b);
      sums_[index] = hn::MulAdd(r, r, sums_[index]);
    }
  }

  // Likewise, the products a * b, formed in float64.
  HWY_INLINE void AddProduct(size_t index, V a, V b) {
    const hn::ScalableTag<double> d64;
    if constexpr (sizeof(T) == 4) {
      const hn::Half<D> half;
      const auto a_low = hn::PromoteTo(d64, hn::LowerHalf(half, a));
      const auto a_high = hn::PromoteTo(d64, hn::UpperHalf(half, a));
      const auto b_low = hn::PromoteTo(d64, hn::LowerHalf(half, b));
      const auto b_high = hn::PromoteTo(d64, hn::UpperHalf(half, b));
      sums_[2 * index] = hn::MulAdd(a_low, b_low, sums_[2 * index]);
      sums_[2 * index + 1] = hn::MulAdd(a_high, b_high, sums_[2 * index + 1]);
    } else {
      sums_[index] = hn::MulAdd(a, b, sums_[index]);
    }
  }

  // Likewise, the products a * b * root^2.
  HWY_INLINE void AddProduct(size_t index, V a, V b, V root) {
    const hn::ScalableTag<double> d64;
    if constexpr (sizeof(T) == 4) {
      const hn::Half<D> half;
      const auto root_low = hn::PromoteTo(d64, hn::LowerHalf(half, root));
      const auto root_high = hn::PromoteTo(d64, hn::UpperHalf(half, root));
      const auto a_low = hn::Mul(hn::PromoteTo(d64, hn::LowerHalf(half, a)), root_low);
      const auto a_high = hn::Mul(hn::PromoteTo(d64, hn::UpperHalf(half, a)), root_high);
      const auto b_low = hn::Mul(hn::PromoteTo(d64, hn::LowerHalf(half, b)), root_low);
      const auto b_high = hn::Mul(hn::PromoteTo(d64, hn::UpperHalf(half, b)), root_high);
      sums_[2 * index] = hn::MulAdd(a_low, b_low, sums_[2 * index]);
      sums_[2 * index + 1] = hn::MulAdd(a_high, b_high, sums_[2 * index + 1]);
    } else {
      sums_[index] = hn::MulAdd(hn::Mul(a, root), hn::Mul(b, root), sums_[index]);
    }
  }

  // The lanes in a tree: i and i + kLanes / 2, and so on.
  HWY_INLINE double Total() const {
    const hn::ScalableTag<double> d64;
    hn::Vec<hn::ScalableTag<double>> sums[kSums];
    for (size_t i = 0; i < kSums; ++i) sums[i] = sums_[i];
    HWY_UNROLL(8)
    for (size_t width = kSums / 2; width != 0; width /= 2) {
      HWY_UNROLL(4)
      for (size_t i = 0; i < width; ++i) sums[i] = hn::Add(sums[i], sums[i + width]);
    }
    return SumOfHalves(d64, sums[0]);
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
