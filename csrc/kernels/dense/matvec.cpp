// Step i of k belongs to virtual lane i % kChains of an element, 64 bytes of lanes as in other sums; a lane is one
// chain of fused multiply-adds in increasing order, and the lanes are added in a tree: i and i + kChains / 2, and so
// on.

#include "kernels/dense/matvec.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dense/matvec.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "simd/compat-inl.h"
#include "simd/loops-inl.h"
#include "threads/pool.h"
#include "threads/scratch.h"

#ifndef FUSEPROP_KERNELS_DENSE_MATVEC_ONCE
#define FUSEPROP_KERNELS_DENSE_MATVEC_ONCE
namespace fuseprop {
namespace {

thread_local Scratch scratch;

// Below this many elements of the matrix a second thread costs more than it saves.
constexpr size_t kParallelMatrix = size_t{3} << 14;
// A matrix by columns that is larger is far from the second cache, and one whose columns are so far apart shares few
// sets of the first: either is read along its columns, as no piece of them stays until the next is wanted.
constexpr size_t kFarBytes = size_t{1} << 19;
constexpr size_t kCrowdedBytes = 2048;

struct MatvecTable {
  void (*f32)(const MatmulArgs<float>&, bool reserve);
  void (*f64)(const MatmulArgs<double>&, bool reserve);
};

// y = A x with A (rows, k).
template <class T>
struct MatvecOperands {
  size_t rows, k;
  const T* a;
  size_t a_stride;
  bool by_columns;  // A(r, i) is a[i * a_stride + r], not a[r * a_stride + i]
  const T* x;
};

}  // namespace
}  // namespace fuseprop
#endif  // FUSEPROP_KERNELS_DENSE_MATVEC_ONCE

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

template <class T>
constexpr size_t kChains = 64 / sizeof(T);
// Vectors of one row's lanes.
template <class T>
constexpr size_t kChainVectors = kChains<T> / hn::MaxLanes(hn::ScalableTag<T>());

// So many sums at once that a multiply-add need not wait for the one before.
template <class T>
constexpr size_t kRowsAtOnce = 8 / kChainVectors<T>;
// Of a matrix by columns that is near: vectors of rows, and lanes at once.
constexpr size_t kNearVectors = 3;
#if HWY_TARGET == HWY_AVX3 || (HWY_ARCH_ARM_A64 && HWY_TARGET == HWY_NEON)  // 32 registers
constexpr size_t kLanesAtOnce = 8;
#else
constexpr size_t kLanesAtOnce = 4;
#endif
// Of one that is far: rows whose lanes stay in the first cache, and steps of a lane that share a pass over them.
constexpr size_t kRowsOfLanes = 256;
constexpr size_t kSteps = 4;

// y[r] = the sum of the lanes of sums[r], in a tree, for two rows for each block of 128 bits.
template <size_t kRows, class D, class V = hn::Vec<D>, class T = hn::TFromD<D>>
HWY_INLINE void SumLanes(D d, const V (&sums)[kRows], T* y) {
  constexpr size_t kBlocks = kRows / 2;
  static_assert(kBlocks * 16 == hn::MaxLanes(D()) * sizeof(T), "two rows for each block");
  V rows[2];  // block b of rows[q] belongs to row q * kBlocks + b
  if constexpr (kBlocks == 1) {
    rows[0] = sums[0];
    rows[1] = sums[1];
  } else {
    V halves[kBlocks];
    HWY_UNROLL(4)
    for (size_t i = 0; i < kBlocks; ++i) {
      const V low = hn::ConcatLowerLower(d, sums[2 * i + 1], sums[2 * i]);
      halves[i] = hn::Add(low, hn::ConcatUpperUpper(d, sums[2 * i + 1], sums[2 * i]));
    }
    for (size_t q = 0; q < 2; ++q) {
      if constexpr (kBlocks == 2) {
        rows[q] = halves[q];
      } else {
        const V even = ConcatEvenBlocks(d, halves[2 * q + 1], halves[2 * q]);
        rows[q] = hn::Add(even, ConcatOddBlocks(d, halves[2 * q + 1], halves[2 * q]));
      }
    }
  }
  const hn::Repartition<double, D> d_half;  // of a block
  const auto rows0 = hn::BitCast(d_half, rows[0]);
  const auto rows1 = hn::BitCast(d_half, rows[1]);
  V sum = hn::Add(hn::BitCast(d, hn::InterleaveLower(d_half, rows0, rows1)),
                  hn::BitCast(d, hn::InterleaveUpper(d_half, rows0, rows1)));
  if constexpr (sizeof(T) == 4) sum = hn::Add(sum, hn::Shuffle2301(sum));
  HWY_ALIGN T lanes[hn::MaxLanes(D())];
  hn::Store(sum, d, lanes);
  for (size_t r = 0; r < kRows; ++r) y[r] = lanes[(r % kBlocks * 16 + r / kBlocks * 8) / sizeof(T)];
}

// y[r] for kRows rows.
template <size_t kRows, class T>
HWY_INLINE void MultiplyRows(const MatvecOperands<T>& operands, size_t row, T* y) {
  using D = hn::ScalableTag<T>;
  const D d;
  constexpr size_t kLanes = hn::MaxLanes(D());
  constexpr size_t kVectors = kChainVectors<T>;
  const T* const a = operands.a + row * operands.a_stride;
  const size_t stride = operands.a_stride;
  const T* const x = operands.x;
  const size_t k = operands.k;
  hn::Vec<D> sums[kRows][kVectors];
  HWY_UNROLL(8)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
  }
  size_t i = 0;
  for (; i + kChains<T> <= k; i += kChains<T>) {
    HWY_UNROLL(8)
    for (size_t v = 0; v < kVectors; ++v) {
      const auto factor = hn::LoadU(d, x + i + v * kLanes);
      HWY_UNROLL(8)
      for (size_t r = 0; r < kRows; ++r) {
        sums[r][v] = hn::MulAdd(hn::LoadU(d, a + r * stride + i + v * kLanes), factor, sums[r][v]);
      }
    }
  }
  HWY_UNROLL(8)
  for (size_t v = 0; v < kVectors; ++v, i += kLanes) {
    if (i >= k) break;
    const size_t count = HWY_MIN(kLanes, k - i);
    const FirstLanes<D> part(d, count);
    const auto factor = part.Load(d, x + i);
    HWY_UNROLL(8)
    for (size_t r = 0; r < kRows; ++r) {
      // Lanes beyond k stay as they are: adding zero would change a -0.
      const auto sum = hn::MulAdd(part.Load(d, a + r * stride + i), factor, sums[r][v]);
      sums[r][v] = hn::IfThenElse(hn::FirstN(d, count), sum, sums[r][v]);
    }
  }
  hn::Vec<D> row_sums[kRows];
  HWY_UNROLL(8)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(4)
    for (size_t width = kVectors / 2; width != 0; width /= 2) {
      HWY_UNROLL(4)
      for (size_t v = 0; v < width; ++v) sums[r][v] = hn::Add(sums[r][v], sums[r][v + width]);
    }
    row_sums[r] = sums[r][0];
  }
  if constexpr (kRows == kRowsAtOnce<T>) {
    SumLanes(d, row_sums, y);
  } else {
    for (size_t r = 0; r < kRows; ++r) y[r] = static_cast<T>(SumOfHalves(d, row_sums[r]));
  }
}

template <size_t kRows, class T>
HWY_INLINE size_t MultiplyRowsWhile(const MatvecOperands<T>& operands, size_t row, size_t end, T* y) {
  for (; row + kRows <= end; row += kRows, y += kRows) MultiplyRows<kRows>(operands, row, y);
  return row;
}

template <class T>
HWY_NOINLINE void MultiplyByRows(const MatvecOperands<T>& operands, size_t begin, size_t end, T* y) {
  size_t row = MultiplyRowsWhile<kRowsAtOnce<T>>(operands, begin, end, y);
  if constexpr (kRowsAtOnce<T> > 4) row = MultiplyRowsWhile<4>(operands, row, end, y + (row - begin));
  if constexpr (kRowsAtOnce<T> > 2) row = MultiplyRowsWhile<2>(operands, row, end, y + (row - begin));
  MultiplyRowsWhile<1>(operands, row, end, y + (row - begin));
}

// The sum of virtual lanes, of which those from k on are zero: adding one zero is what adding all of them would be.
template <class D, size_t kCount, class V = hn::Vec<D>>
HWY_INLINE V AddLanes(D d, V (&lanes)[kCount], size_t k) {
  HWY_UNROLL(4)
  for (size_t width = kCount / 2; width != 0; width /= 2) {
    if (width >= k) continue;
    HWY_UNROLL(8)
    for (size_t c = 0; c < width; ++c) lanes[c] = hn::Add(lanes[c], lanes[c + width]);
  }
  return k < kCount ? hn::Add(lanes[0], hn::Zero(d)) : lanes[0];
}

// y[r] for kVectors vectors of rows of a matrix by columns, of the last of which `last` are there. So many lanes at
// once as there are registers for their sums.
template <size_t kVectors, bool kWhole, class T>
HWY_NOINLINE void MultiplyNearColumns(const MatvecOperands<T>& operands, size_t row, size_t last, T* y) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const D d;
  constexpr size_t kLanes = hn::MaxLanes(D());
  constexpr size_t kAtOnce = HWY_MIN(kLanesAtOnce, kChains<T>);
  const FirstLanes<D> part(d, last);
  const auto load = [&](const T* from, size_t v) HWY_ATTR {
    return v + 1 < kVectors || kWhole ? hn::LoadU(d, from + v * kLanes) : part.Load(d, from + v * kLanes);
  };
  const size_t stride = operands.a_stride;
  const T* const x = operands.x;
  const size_t k = operands.k;
  V sums[kChains<T> / kAtOnce][kAtOnce][kVectors];
  HWY_UNROLL(4)
  for (size_t q = 0; q < kChains<T> / kAtOnce; ++q) {
    V(&acc)[kAtOnce][kVectors] = sums[q];
    HWY_UNROLL(8)
    for (size_t c = 0; c < kAtOnce; ++c) {
      HWY_UNROLL(4)
      for (size_t v = 0; v < kVectors; ++v) acc[c][v] = hn::Zero(d);
    }
    size_t i = q * kAtOnce;
    if (i >= k) continue;
    const T* a = operands.a + i * stride + row;
    for (; i + kAtOnce <= k; i += kChains<T>, a += kChains<T> * stride) {
      HWY_UNROLL(8)
      for (size_t c = 0; c < kAtOnce; ++c) {
        const V factor = hn::Set(d, x[i + c]);
        HWY_UNROLL(4)
        for (size_t v = 0; v < kVectors; ++v) {
          acc[c][v] = hn::MulAdd(load(a + c * stride, v), factor, acc[c][v]);
        }
      }
    }
    HWY_UNROLL(8)
    for (size_t c = 0; c < kAtOnce; ++c) {
      if (i + c >= k) break;
      const V factor = hn::Set(d, x[i + c]);
      HWY_UNROLL(4)
      for (size_t v = 0; v < kVectors; ++v) acc[c][v] = hn::MulAdd(load(a + c * stride, v), factor, acc[c][v]);
    }
  }
  HWY_UNROLL(4)
  for (size_t v = 0; v < kVectors; ++v) {
    V lanes[kChains<T>];
    HWY_UNROLL(16)
    for (size_t c = 0; c < kChains<T>; ++c) lanes[c] = sums[c / kAtOnce][c % kAtOnce][v];
    StorePartial(AddLanes(d, lanes, k), d, y + v * kLanes, v + 1 < kVectors ? kLanes : last);
  }
}

// Pieces of kVectors vectors from `row` on, while there are such.
template <size_t kVectors, class T>
HWY_INLINE size_t MultiplyNearWhile(const MatvecOperands<T>& operands, size_t row, size_t end, T* y) {
  constexpr size_t kLanes = hn::MaxLanes(hn::ScalableTag<T>());
  for (; row + kVectors * kLanes <= end; row += kVectors * kLanes, y += kVectors * kLanes) {
    MultiplyNearColumns<kVectors, true>(operands, row, kLanes, y);
  }
  return row;
}

template <class T>
void MultiplyNear(const MatvecOperands<T>& operands, size_t begin, size_t end, T* y) {
  size_t row = MultiplyNearWhile<kNearVectors>(operands, begin, end, y);
  row = MultiplyNearWhile<1>(operands, row, end, y + (row - begin));
  if (row < end) MultiplyNearColumns<1, false>(operands, row, end - row, y + (row - begin));
}

// lane[r] = (first ? 0 : lane[r]) + the next kCount steps of the lane for each of `rows` rows of a matrix by columns.
// Reads along the columns, as they lie in memory: `step` is from one of the lane's columns to its next.
template <size_t kCount, class T>
HWY_INLINE void AddSteps(const T* a, size_t stride, const T* x, size_t rows, bool first, T* HWY_RESTRICT lane) {
  using D = hn::ScalableTag<T>;
  const D d;
  constexpr size_t kLanes = hn::MaxLanes(D());
  const size_t step = kChains<T> * stride;
  hn::Vec<D> factors[kCount];
  HWY_UNROLL(4)
  for (size_t j = 0; j < kCount; ++j) factors[j] = hn::Set(d, x[j * kChains<T>]);
  size_t r = 0;
  for (; r + kLanes <= rows; r += kLanes) {
    auto sum = first ? hn::Zero(d) : hn::Load(d, lane + r);
    HWY_UNROLL(4)
    for (size_t j = 0; j < kCount; ++j) {
      __builtin_prefetch(a + stride + j * step + r);
      sum = hn::MulAdd(hn::LoadU(d, a + j * step + r), factors[j], sum);
    }
    hn::Store(sum, d, lane + r);
  }
  if (r == rows) return;
  const FirstLanes<D> part(d, rows - r);
  auto sum = first ? hn::Zero(d) : hn::Load(d, lane + r);
  HWY_UNROLL(4)
  for (size_t j = 0; j < kCount; ++j) sum = hn::MulAdd(part.Load(d, a + j * step + r), factors[j], sum);
  hn::Store(sum, d, lane + r);
}

// At most kRowsOfLanes rows.
template <class T>
HWY_NOINLINE void MultiplyFarColumns(const MatvecOperands<T>& operands, size_t begin, size_t rows, T* y) {
  const hn::ScalableTag<T> d;
  const size_t kLanes = hn::Lanes(d);
  HWY_ALIGN T lanes[kChains<T>][kRowsOfLanes];
  const size_t stride = operands.a_stride;
  const size_t k = operands.k;
  const size_t num_lanes = HWY_MIN(k, kChains<T>);
  for (size_t i = 0; i < k; i += kSteps * kChains<T>) {
    for (size_t c = 0; c < num_lanes && i + c < k; ++c) {
      const T* const a = operands.a + (i + c) * stride + begin;
      const T* const x = operands.x + i + c;
      const size_t steps = HWY_MIN(kSteps, CeilDiv(k - i - c, kChains<T>));
      switch (steps) {
        case 1:
          AddSteps<1>(a, stride, x, rows, i == 0, lanes[c]);
          break;
        case 2:
          AddSteps<2>(a, stride, x, rows, i == 0, lanes[c]);
          break;
        case 3:
          AddSteps<3>(a, stride, x, rows, i == 0, lanes[c]);
          break;
        default:
          static_assert(kSteps == 4, "the cases");
          AddSteps<4>(a, stride, x, rows, i == 0, lanes[c]);
      }
    }
  }
  for (size_t r = 0; r < rows; r += kLanes) {
    hn::Vec<decltype(d)> sums[kChains<T>];
    HWY_UNROLL(16)
    for (size_t c = 0; c < kChains<T>; ++c) sums[c] = c < num_lanes ? hn::Load(d, lanes[c] + r) : hn::Zero(d);
    StorePartial(AddLanes(d, sums, k), d, y + r, HWY_MIN(kLanes, rows - r));
  }
}

template <class T>
void MultiplyFar(const MatvecOperands<T>& operands, size_t begin, size_t end, T* y) {
  for (size_t row = begin; row < end; row += kRowsOfLanes) {
    MultiplyFarColumns(operands, row, HWY_MIN(kRowsOfLanes, end - row), y + (row - begin));
  }
}

// With `reserve`, only gets the memory.
template <class T>
void Multiply(const MatmulArgs<T>& args, bool reserve) {
  const bool one_column = args.n == 1;  // or C is one row, and what follows computes its transpose
  MatvecOperands<T> operands;
  operands.k = args.k;
  operands.rows = one_column ? args.m : args.n;
  operands.a = one_column ? args.a : args.b;
  operands.a_stride = one_column ? args.lda : args.ldb;
  operands.by_columns = one_column && args.transpose_a;
  operands.x = one_column ? args.b : args.a;
  const size_t x_stride = one_column ? (args.transpose_b ? 1 : args.ldb) : (args.transpose_a ? args.lda : 1);
  const bool copy_x = x_stride != 1 && args.k > 1;
  // The results wait beside each other until they are finished.
  T* const memory = static_cast<T*>(scratch.Get((operands.rows + (copy_x ? args.k : 0)) * sizeof(T)));
  if (reserve || operands.rows == 0) return;
  if (copy_x) {
    T* const copy = memory + operands.rows;
    for (size_t i = 0; i < args.k; ++i) copy[i] = operands.x[i * x_stride];
    operands.x = copy;
  }

  const size_t stride_bytes = operands.a_stride * sizeof(T);
  const bool far_columns =
      operands.by_columns && (stride_bytes * operands.k >= kFarBytes || stride_bytes % kCrowdedBytes == 0);
  const auto multiply = [&](size_t begin, size_t end) {
    T* const y = memory + begin;
    if (far_columns) {
      MultiplyFar(operands, begin, end, y);
    } else if (operands.by_columns) {
      MultiplyNear(operands, begin, end, y);
    } else {
      MultiplyByRows(operands, begin, end, y);
    }
    const size_t c_stride = one_column ? args.ldc : 1;
    T* const c = args.c + begin * c_stride;
    for (size_t i = 0; i < end - begin; ++i) {
      T sum = y[i];
      if (args.bias != nullptr) sum += args.bias[one_column ? 0 : begin + i];
      c[i * c_stride] = args.accumulate ? c[i * c_stride] + sum : sum;
    }
    if (args.epilogue == nullptr) return;
    const size_t count = end - begin;
    args.epilogue(args.context, one_column ? MatmulRectangle<T>{c, args.ldc, begin, count, 0, 1}
                                           : MatmulRectangle<T>{c, args.ldc, 0, 1, begin, count});
  };
  const size_t threads = operands.rows * operands.k < kParallelMatrix ? 1 : static_cast<size_t>(NumThreads());
  if (threads == 1) return multiply(0, operands.rows);
  // One share of whole lines of y for each thread, so that most often a thread reads what it has read the last time.
  const size_t share = RoundUp(CeilDiv(operands.rows, threads), 128 / sizeof(T));
  ParallelFor(CeilDiv(operands.rows, share),
              [&](size_t part) { multiply(part * share, std::min(operands.rows, (part + 1) * share)); });
}

const MatvecTable& Table() {
  static constexpr MatvecTable table = {Multiply<float>, Multiply<double>};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(Table);

void Matvec(const MatmulArgs<float>& args, bool reserve) { FUSEPROP_DISPATCH(Table)().f32(args, reserve); }
void Matvec(const MatmulArgs<double>& args, bool reserve) { FUSEPROP_DISPATCH(Table)().f64(args, reserve); }
}  // namespace fuseprop
#endif  // HWY_ONCE
