// The product is cut into blocks of C for the threads, blocks into micro-tiles.

#include "kernels/dense/matmul.h"

#include <atomic>
#include <cstdint>

#include "kernels/dense/matvec.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dense/matmul.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "kernels/dense/matmul-inl.h"
#include "simd/partition.h"
#include "threads/pool.h"
#include "threads/scratch.h"

#ifndef FUSEPROP_KERNELS_DENSE_MATMUL_ONCE
#define FUSEPROP_KERNELS_DENSE_MATMUL_ONCE
namespace fuseprop {
namespace {

thread_local Scratch scratch;

struct MatmulTable {
  void (*multiply_f32)(const MatmulArgs<float>&, bool reserve);
  void (*multiply_f64)(const MatmulArgs<double>&, bool reserve);
  MatmulPlan (*plan_f32)(const MatmulArgs<float>&);
  MatmulPlan (*plan_f64)(const MatmulArgs<double>&);
};

}  // namespace
}  // namespace fuseprop
#endif  // FUSEPROP_KERNELS_DENSE_MATMUL_ONCE

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

// So many columns hardly fill vectors.
constexpr size_t kFewColumns = 14;
// Rows of B that a wide tile fetches ahead.
constexpr size_t kRowsAhead = 8;

template <class T>
MatmulPlan MakePlan(const MatmulArgs<T>& args, bool transpose_c) {
  const MatmulShape shape = {args.m,           args.n,           args.k,          args.lda,
                             args.transpose_a, args.transpose_b, args.accumulate, transpose_c};
  return MatmulPlanner<Tiles<T>>::Plan(shape, static_cast<size_t>(NumThreads()));
}

// Asks for a (rows, cols) matrix to be brought to the first cache.
template <class T>
HWY_INLINE void FetchRows(const T* from, size_t from_row, size_t rows, size_t cols) {
  for (size_t r = 0; r < rows; ++r, from += from_row) {
    for (size_t c = 0; c < cols; c += kLineBytes / sizeof(T)) __builtin_prefetch(from + c);
  }
}

// One block of C. With `transpose_c`, args is the transposed product, except for c, bias, accumulate, epilogue.
template <class T>
void ComputeBlock(const MatmulArgs<T>& args, const MatmulPlan& plan, bool transpose_c, size_t row_block,
                  size_t col_block, T* memory) {
  const size_t lanes = hn::Lanes(hn::ScalableTag<T>());
  const size_t width = plan.vectors * lanes;
  const size_t row_begin = row_block * plan.mc;
  const size_t row_end = HWY_MIN(args.m, row_begin + plan.mc);
  const size_t col_begin = col_block * plan.nc;
  const size_t cols = HWY_MIN(args.n - col_begin, plan.nc);
  T* const b_copy = memory;
  T* const a_copy = b_copy + plan.b_size;
  T* const sums = a_copy + plan.a_size;
  const size_t row_panels = CeilDiv(row_end - row_begin, kTileRows);
  const size_t rows_least = row_panels == 1 ? row_end - row_begin : (row_end - row_begin) / row_panels;
  const size_t rows_more = (row_end - row_begin) - rows_least * row_panels;  // panels with one row more

  // Of the columns after the whole panels, the tiles take kTileVectors vectors each; the last, which may be
  // partial, starts here.
  size_t tail = plan.vectors > kTileVectors ? cols / width * width : 0;
  tail += plan.vectors == 1 ? cols / lanes * lanes : (cols - tail) / (kTileVectors * lanes) * (kTileVectors * lanes);
  const size_t tail_width = RoundUp(cols - tail, lanes);
  const size_t panel_size = plan.PanelSize(plan.kc, width);
  // Only whole vectors are read of B.
  const bool copy_tail = !plan.copies_b() && !args.transpose_b && cols % lanes != 0;

  for (size_t k_begin = 0;;) {
    const size_t k = HWY_MIN(plan.kc, args.k - k_begin);
    const bool last_k = k_begin + k == args.k;
    const T* b = args.b + (args.transpose_b ? col_begin * args.ldb + k_begin : k_begin * args.ldb + col_begin);
    if (copy_tail) CopyRows(b + tail, args.ldb, k, cols - tail, b_copy, tail_width);
    if (plan.copies_b()) {
      if (args.transpose_b) {
        CopyTransposedPanels(b, args.ldb, cols, k, b_copy, panel_size);
      } else {
        CopyPanels(b, args.ldb, k, cols, b_copy, panel_size);
      }
    }

    size_t row = row_begin;
    for (size_t row_panel = 0; row_panel < row_panels; ++row_panel) {
      const size_t rows = rows_least + (row_panel < rows_more ? 1 : 0);
      Tile<T> tile;
      tile.k = k;
      tile.a = args.a + (args.transpose_a ? k_begin * args.lda + row : row * args.lda + k_begin);
      tile.a_row = args.transpose_a ? 1 : args.lda;
      tile.a_k = args.transpose_a ? args.lda : 1;
      if (plan.copy_a && plan.squares()) {
        if (args.transpose_a) {
          PackRows(tile.a, args.lda, k, rows, a_copy);
        } else {
          PackTransposed(tile.a, args.lda, rows, k, a_copy);
        }
        tile.a = a_copy;
      } else if (plan.copy_a && args.transpose_a) {
        tile.a_k = RoundUp(rows, lanes);
        CopyRows(tile.a, args.lda, k, rows, a_copy, tile.a_k);
        tile.a = a_copy;
      } else if (plan.copy_a) {
        tile.a_row = RoundUp(k, lanes) + MatmulPlan::kPadding;
        CopyRows(tile.a, args.lda, rows, k, a_copy, tile.a_row);
        tile.a = a_copy;
      }
      T* const c = args.c + row * args.ldc + col_begin;
      T* const c_sums = sums + (row - row_begin) * plan.nc;
      const bool to_sums = transpose_c || (plan.through_sums && !last_k);
      tile.from_row = plan.through_sums ? plan.nc : args.ldc;
      tile.to_row = to_sums ? plan.nc : args.ldc;
      tile.accumulate = args.accumulate && last_k && !transpose_c;
      for (size_t panel = 0; panel < cols; panel += width) {
        const size_t panel_cols = HWY_MIN(width, cols - panel);
        tile.fetch = nullptr;
        size_t vectors = plan.vectors;
        for (size_t col = panel; col < panel + panel_cols; col += vectors * lanes) {
          if (col == tail) {
            vectors = tail_width / lanes;
          } else if (panel_cols < width) {
            vectors = kTileVectors;
          }
          tile.last = HWY_MIN(lanes, cols - col - (vectors - 1) * lanes);
          if (plan.copies_b()) {
            tile.b = b_copy + panel / width * panel_size;
            tile.b_k = width;
          } else if (copy_tail && col == tail) {
            tile.b = b_copy;
            tile.b_k = tail_width;
          } else {
            tile.b = b + (plan.squares() ? col * args.ldb : col);
            tile.b_k = args.ldb;
          }
          tile.from = k_begin == 0 ? nullptr : (plan.through_sums ? c_sums : c) + col;
          tile.to = (to_sums ? c_sums : c) + col;
          if (plan.fetch_ahead) {
            if (plan.vectors > kTileVectors && !Crowded<T>(tile.b_k)) {
              tile.fetch = tile.b + kRowsAhead * tile.b_k;
              tile.fetch_k = tile.b_k;
            }
            if (col + vectors * lanes < cols) FetchRows(tile.to + vectors * lanes, tile.to_row, rows, vectors * lanes);
            if (!args.transpose_a && row_panel + 1 < row_panels) {
              // The next panel's rows of A, a few for each tile of this one.
              const size_t first = rows_least * col / cols;
              const size_t end = rows_least * HWY_MIN(cols, col + vectors * lanes) / cols;
              FetchRows(args.a + (row + rows + first) * args.lda + k_begin, args.lda, end - first, k);
            }
          }
          tile.bias = args.bias != nullptr && last_k && !transpose_c ? args.bias + col_begin + col : nullptr;
          const auto multiply = plan.squares() ? FindTransposedTileFunction<T>(rows, vectors, plan.packed_factors)
                                               : FindTileFunction<T>(rows, vectors);
          multiply(tile);
        }
      }
      if (last_k && !transpose_c && args.epilogue != nullptr) {
        args.epilogue(args.context, {c, args.ldc, row, rows, col_begin, cols});
      }
      row += rows;
    }
    k_begin += k;
    if (last_k) break;
  }

  if (transpose_c) {
    const size_t rows = row_end - row_begin;
    T* const c = args.c + col_begin * args.ldc + row_begin;
    const T* bias = args.bias != nullptr ? args.bias + row_begin : nullptr;
    FinishTransposed(sums, plan.nc, rows, cols, bias, args.accumulate, c, args.ldc);
    if (args.epilogue != nullptr) args.epilogue(args.context, {c, args.ldc, col_begin, cols, row_begin, rows});
  }
}

// A product, or that of C's transpose, B^T A^T (but for c, bias, accumulate, epilogue, which stay as they are): with
// few columns it fills the vectors better. If its B must be transposed on the way, that has to pay: for fewer columns
// or many steps of k.
template <class T>
MatmulArgs<T> Orient(const MatmulArgs<T>& args, bool* transpose_c) {
  const size_t lanes = hn::Lanes(hn::ScalableTag<T>());
  const bool b_stands_ready = args.transpose_a && !args.transpose_b;
  const size_t few_cols = b_stands_ready ? kFewColumns : args.k < 4 * lanes ? kWideRows : kSquareRows;
  *transpose_c = args.n < args.m && args.n <= few_cols && args.n % lanes != 0;
  MatmulArgs<T> oriented = args;
  if (*transpose_c) {
    oriented.m = args.n;
    oriented.n = args.m;
    oriented.a = args.b;
    oriented.lda = args.ldb;
    oriented.transpose_a = !args.transpose_b;
    oriented.b = args.a;
    oriented.ldb = args.lda;
    oriented.transpose_b = !args.transpose_a;
  }
  return oriented;
}

template <class T>
MatmulPlan PlanOf(const MatmulArgs<T>& args) {
  bool transpose_c;
  const MatmulArgs<T> oriented = Orient(args, &transpose_c);
  return MakePlan(oriented, transpose_c);
}

// With `reserve`, only gets the memory.
template <class T>
void Multiply(const MatmulArgs<T>& original, bool reserve) {
  if (original.m == 0 || original.n == 0) return;
  bool transpose_c;
  const MatmulArgs<T> args = Orient(original, &transpose_c);
  const MatmulPlan plan = MakePlan(args, transpose_c);
  const size_t blocks = plan.row_blocks * plan.col_blocks;
  const size_t threads = plan.threads < blocks ? plan.threads : blocks;
  T* const memory = static_cast<T*>(scratch.Get(threads * plan.ScratchSize() * sizeof(T)));
  if (reserve) return;
  if (threads == 1) {
    for (size_t row_block = 0; row_block < plan.row_blocks; ++row_block) {
      for (size_t col_block = 0; col_block < plan.col_blocks; ++col_block) {
        ComputeBlock(args, plan, transpose_c, row_block, col_block, memory);
      }
    }
    return;
  }
  // One task for each thread's share of the memory; tasks claim blocks.
  std::atomic<size_t> next_block{0};
  ParallelFor(threads, [&](size_t task) {
    for (;;) {
      const size_t block = next_block.fetch_add(1, std::memory_order_relaxed);
      if (block >= blocks) return;
      ComputeBlock(args, plan, transpose_c, block / plan.col_blocks, block % plan.col_blocks,
                   memory + task * plan.ScratchSize());
    }
  });
}

const MatmulTable& Table() {
  static constexpr MatmulTable table = {Multiply<float>, Multiply<double>, PlanOf<float>, PlanOf<double>};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(Table);

namespace {

void Multiply(const MatmulArgs<float>& args, bool reserve) { FUSEPROP_DISPATCH(Table)().multiply_f32(args, reserve); }
void Multiply(const MatmulArgs<double>& args, bool reserve) { FUSEPROP_DISPATCH(Table)().multiply_f64(args, reserve); }

template <class T>
void MultiplyAny(const MatmulArgs<T>& args, bool reserve) {
  if (IsMatvec(args)) {
    Matvec(args, reserve);
  } else {
    Multiply(args, reserve);
  }
}

}  // namespace

void Matmul(const MatmulArgs<float>& args) { MultiplyAny(args, false); }
void Matmul(const MatmulArgs<double>& args) { MultiplyAny(args, false); }

void ReserveMatmul(const MatmulArgs<float>& args) { MultiplyAny(args, true); }
void ReserveMatmul(const MatmulArgs<double>& args) { MultiplyAny(args, true); }

MatmulPlan PlanMatmul(const MatmulArgs<float>& args) { return FUSEPROP_DISPATCH(Table)().plan_f32(args); }
MatmulPlan PlanMatmul(const MatmulArgs<double>& args) { return FUSEPROP_DISPATCH(Table)().plan_f64(args); }
}  // namespace fuseprop
#endif  // HWY_ONCE
