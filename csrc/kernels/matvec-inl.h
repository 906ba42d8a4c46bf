// The product of a matrix with a column, y = A b: each element of A is used once, so that reading it is what counts.
// Per-target header.

#if defined(FUSEPROP_KERNELS_MATVEC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSEPROP_KERNELS_MATVEC_INL_H_
#undef FUSEPROP_KERNELS_MATVEC_INL_H_
#else
#define FUSEPROP_KERNELS_MATVEC_INL_H_
#endif

#include <cstddef>

#include "simd/compat-inl.h"
#include "simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {

// Step i of k belongs to chain i % kChains<T> of an element; the chains are added in a tree, i and i + kChains / 2 and
// so on. So rows of A need not be transposed to fill vectors.
template <class T>
constexpr size_t kChains = 64 / sizeof(T);
// Elements of y at once, where A is stored by columns: their chains stay in the first cache.
constexpr size_t kColumnPart = 256;

// y[r] = the product of row r of A with b, for kRows rows, which are a_row elements apart.
template <size_t kRows, class T>
HWY_INLINE void MultiplyRows(const T* a, size_t a_row, const T* HWY_RESTRICT b, size_t k, T* y) {
  using D = hn::ScalableTag<T>;
  const D d;
  constexpr size_t kLanes = hn::MaxLanes(D());
  constexpr size_t kVectors = kChains<T> / kLanes;
  hn::Vec<D> acc[kRows][kVectors];
  HWY_UNROLL(8)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (size_t v = 0; v < kVectors; ++v) acc[r][v] = hn::Zero(d);
  }
  size_t i = 0;
  for (; i + kChains<T> <= k; i += kChains<T>) {
    HWY_UNROLL(8)
    for (size_t v = 0; v < kVectors; ++v) {
      const auto factor = hn::LoadU(d, b + i + v * kLanes);
      HWY_UNROLL(8)
      for (size_t r = 0; r < kRows; ++r) {
        acc[r][v] = hn::MulAdd(hn::LoadU(d, a + r * a_row + i + v * kLanes), factor, acc[r][v]);
      }
    }
  }
  HWY_UNROLL(8)
  for (size_t v = 0; v < kVectors; ++v, i += kLanes) {
    if (i >= k) break;
    const size_t count = HWY_MIN(kLanes, k - i);
    const auto factor = LoadPartial(d, b + i, count);
    HWY_UNROLL(8)
    for (size_t r = 0; r < kRows; ++r) {
      const auto sum = hn::MulAdd(LoadPartial(d, a + r * a_row + i, count), factor, acc[r][v]);
      acc[r][v] = hn::IfThenElse(hn::FirstN(d, count), sum, acc[r][v]);
    }
  }
  HWY_UNROLL(8)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(4)
    for (size_t width = kVectors / 2; width != 0; width /= 2) {
      HWY_UNROLL(4)
      for (size_t v = 0; v < width; ++v) acc[r][v] = hn::Add(acc[r][v], acc[r][v + width]);
    }
    y[r] = static_cast<T>(SumOfHalves(d, acc[r][0]));
  }
}

// The same for `rows` rows, all that there are.
template <class T>
HWY_NOINLINE void MultiplyAllRows(const T* a, size_t a_row, size_t rows, const T* b, size_t k, T* y) {
  // So many chains that a multiply-add need not wait for the one before.
  constexpr size_t kRows = 8 * hn::MaxLanes(hn::ScalableTag<T>()) / kChains<T>;
  size_t r = 0;
  for (; r + kRows <= rows; r += kRows) MultiplyRows<kRows>(a + r * a_row, a_row, b, k, y + r);
  for (; r < rows; ++r) MultiplyRows<1>(a + r * a_row, a_row, b, k, y + r);
}

// The same for an A that is stored transposed, a_k elements from one step of k to the next; rows <= kColumnPart.
template <class T>
HWY_NOINLINE void MultiplyColumns(const T* a, size_t a_k, size_t rows, const T* b, size_t k, T* y) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  HWY_ALIGN T chains[kChains<T>][kColumnPart];
  for (T* chain = chains[0]; chain < chains[0] + kChains<T> * kColumnPart; chain += lanes) {
    hn::Store(hn::Zero(d), d, chain);
  }
  const size_t whole = rows / lanes * lanes;
  for (size_t i = 0; i < k; ++i, a += a_k) {
    const auto factor = hn::Set(d, b[i]);
    T* const chain = chains[i % kChains<T>];
    for (size_t r = 0; r < whole; r += lanes) {
      hn::Store(hn::MulAdd(hn::LoadU(d, a + r), factor, hn::Load(d, chain + r)), d, chain + r);
    }
    if (whole < rows) {
      const auto part = LoadPartial(d, a + whole, rows - whole);
      hn::Store(hn::MulAdd(part, factor, hn::Load(d, chain + whole)), d, chain + whole);
    }
  }
  for (size_t r = 0; r < rows; r += lanes) {
    hn::Vec<decltype(d)> sum[kChains<T>];
    HWY_UNROLL(16)
    for (size_t c = 0; c < kChains<T>; ++c) sum[c] = hn::Load(d, chains[c] + r);
    HWY_UNROLL(4)
    for (size_t width = kChains<T> / 2; width != 0; width /= 2) {
      HWY_UNROLL(8)
      for (size_t c = 0; c < width; ++c) sum[c] = hn::Add(sum[c], sum[c + width]);
    }
    StorePartial(sum[0], d, y + r, HWY_MIN(lanes, rows - r));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#endif  // FUSEPROP_KERNELS_MATVEC_INL_H_
