#include "kernels/dense/dense_gradient.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dense/dense_gradient.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "simd/compat-inl.h"
#include "simd/partition.h"
#include "threads/pool.h"
#include "threads/scratch.h"

#ifndef FUSEPROP_KERNELS_DENSE_DENSE_GRADIENT_ONCE
#define FUSEPROP_KERNELS_DENSE_DENSE_GRADIENT_ONCE
namespace fuseprop {
namespace {

thread_local Scratch scratch;

struct DenseGradientTable {
  void (*f32)(const OutputGradient<float>&, bool reserve);
  void (*f64)(const OutputGradient<double>&, bool reserve);
};

}  // namespace
}  // namespace fuseprop
#endif  // FUSEPROP_KERNELS_DENSE_DENSE_GRADIENT_ONCE

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

// Rows of a block are dealt to this many sums for each column, so that additions need not wait for each other.
constexpr size_t kRowSums = 4;
// A block of the sums over rows: it stays in the first cache between its two uses.
constexpr size_t kBlockSumRows = 32;
constexpr size_t kBlockSumCols = 512;

// `count` elements as float64; count <= the lanes of DF64.
template <class T, class DF64>
HWY_INLINE hn::Vec<DF64> LoadAsDouble(DF64 d, const T* from, size_t count) {
  if constexpr (sizeof(T) == sizeof(double)) {
    return count == hn::Lanes(d) ? hn::LoadU(d, from) : LoadPartial(d, from, count);
  } else {
    const hn::Rebind<float, DF64> d_float;
    const auto v = count == hn::Lanes(d) ? hn::LoadU(d_float, from) : LoadPartial(d_float, from, count);
    return hn::PromoteTo(d, v);
  }
}

// sums[j] = the sum of column j of a block of `rows` rows.
template <class T>
void SumBlock(const T* x, size_t rows, size_t cols, size_t stride, double* sums) {
  const hn::ScalableTag<double> d;
  const size_t lanes = hn::Lanes(d);
  constexpr size_t kVectors = 2;
  for (size_t begin = 0; begin < cols; begin += kVectors * lanes) {
    const size_t left = HWY_MIN(kVectors * lanes, cols - begin);
    const size_t count[kVectors] = {HWY_MIN(lanes, left), left - HWY_MIN(lanes, left)};
    hn::Vec<decltype(d)> sum[kRowSums][kVectors];
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRowSums; ++r) {
      HWY_UNROLL(2)
      for (size_t v = 0; v < kVectors; ++v) sum[r][v] = hn::Zero(d);
    }
    const T* row = x + begin;
    size_t i = 0;
    for (; i + kRowSums <= rows; i += kRowSums) {
      HWY_UNROLL(4)
      for (size_t r = 0; r < kRowSums; ++r, row += stride) {
        HWY_UNROLL(2)
        for (size_t v = 0; v < kVectors; ++v) {
          sum[r][v] = hn::Add(sum[r][v], LoadAsDouble(d, row + v * lanes, count[v]));
        }
      }
    }
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRowSums; ++r) {
      if (i + r >= rows) break;
      HWY_UNROLL(2)
      for (size_t v = 0; v < kVectors; ++v) {
        sum[r][v] = hn::Add(sum[r][v], LoadAsDouble(d, row + v * lanes, count[v]));
      }
      row += stride;
    }
    HWY_UNROLL(2)
    for (size_t v = 0; v < kVectors; ++v) {
      const auto total = hn::Add(hn::Add(sum[0][v], sum[1][v]), hn::Add(sum[2][v], sum[3][v]));
      if (count[v] == lanes) {
        hn::StoreU(total, d, sums + begin + v * lanes);
      } else {
        StorePartial(total, d, sums + begin + v * lanes, count[v]);
      }
    }
  }
}

// With `reserve`, only gets the memory.
template <class T>
void FinishGradient(const OutputGradient<T>& args, bool reserve) {
  const size_t m = args.m;
  const size_t n = args.n;
  if (n == 0) return;
  const ActivationOps<T>* ops = args.activation;
  // The sums of each block of rows, which are added in order at the end.
  const size_t row_blocks = HWY_MAX(CeilDiv(m, kBlockSumRows), size_t{1});
  double* const sums = static_cast<double*>(scratch.Get(row_blocks * n * sizeof(double)));
  if (reserve) return;
  const auto compute = [&](size_t row_block, size_t col) {
    const size_t row = row_block * kBlockSumRows;
    const size_t rows = HWY_MIN(kBlockSumRows, m - row);
    const size_t cols = HWY_MIN(kBlockSumCols, n - col);
    const T* du = args.dy + row * args.stride + col;
    if (ops != nullptr) {
      const size_t begin = row * n + col;
      // Whole rows are one piece.
      const size_t pieces = cols == n ? 1 : rows;
      for (size_t i = 0; i < pieces; ++i) {
        const size_t at = begin + i * n;
        ops->backward(args.parameters, args.u + at, args.dy + at, args.du + at, cols == n ? rows * n : cols, false);
      }
      du = args.du + begin;
    }
    if (args.sums != nullptr) SumBlock(du, rows, cols, args.stride, sums + row_block * n + col);
  };
  // Enough rows for a task that takes longer than claiming it.
  const size_t blocks_each = m * n < kParallelElements ? row_blocks : CeilDiv(kBlock, kBlockSumRows * n);
  const size_t col_tasks = m * n < kParallelElements ? 1 : CeilDiv(n, kBlockSumCols);
  const size_t cols_each = col_tasks == 1 ? n : kBlockSumCols;
  ParallelFor(CeilDiv(row_blocks, blocks_each) * col_tasks, [&](size_t task) {
    const size_t first = task / col_tasks * blocks_each;
    const size_t begin = task % col_tasks * cols_each;
    for (size_t row_block = first; row_block < HWY_MIN(row_blocks, first + blocks_each); ++row_block) {
      for (size_t col = begin; col < HWY_MIN(n, begin + cols_each); col += kBlockSumCols) compute(row_block, col);
    }
  });
  if (args.sums == nullptr) return;
  for (size_t row_block = 1; row_block < row_blocks; ++row_block) {
    for (size_t j = 0; j < n; ++j) sums[j] += sums[row_block * n + j];
  }
  for (size_t j = 0; j < n; ++j) args.sums[j] = static_cast<T>(args.accumulate ? args.sums[j] + sums[j] : sums[j]);
}

const DenseGradientTable& Table() {
  static constexpr DenseGradientTable table = {FinishGradient<float>, FinishGradient<double>};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(Table);

void FinishGradient(const OutputGradient<float>& args) { FUSEPROP_DISPATCH(Table)().f32(args, false); }
void FinishGradient(const OutputGradient<double>& args) { FUSEPROP_DISPATCH(Table)().f64(args, false); }

void ReserveGradient(const OutputGradient<float>& args) { FUSEPROP_DISPATCH(Table)().f32(args, true); }
void ReserveGradient(const OutputGradient<double>& args) { FUSEPROP_DISPATCH(Table)().f64(args, true); }
}  // namespace fuseprop
#endif  // HWY_ONCE
