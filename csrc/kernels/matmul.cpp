// The product is cut into blocks of C for the threads, blocks into micro-tiles.

#include "kernels/matmul.h"

#include <atomic>
#include <cstdint>

#include "kernels/matvec.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "kernels/matmul-inl.h"
#include "simd/partition.h"
#include "threads/pool.h"
#include "threads/scratch.h"

#ifndef FUSEPROP_KERNELS_MATMUL_ONCE
#define FUSEPROP_KERNELS_MATMUL_ONCE
namespace fuseprop {
namespace {

thread_local Scratch scratch;

struct MatmulTable {
  void (*multiply_f32)(const MatmulArgs<float>&, bool reserve);
  void (*multiply_f64)(const MatmulArgs<double>&, bool reserve);
};

constexpr size_t CeilDiv(size_t a, size_t b) { return (a + b - 1) / b; }
constexpr size_t RoundUp(size_t a, size_t b) { return CeilDiv(a, b) * b; }
// One of equal shares.
constexpr size_t Share(size_t size, size_t shares) { return shares == 1 ? size : CeilDiv(size, shares); }

}  // namespace
}  // namespace fuseprop
#endif  // FUSEPROP_KERNELS_MATMUL_ONCE

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

// Below this many multiply-adds a second thread costs more than it saves.
constexpr size_t kParallelWork = size_t{3} << 17;
// Bounds of a block of B: what a thread copies and multiplies with all rows of A.
constexpr size_t kBlockK = 512;
constexpr size_t kBlockBytes = 4096;  // of a row
// Of a copy of A for transposed tiles, which waits in the second cache. Shorter blocks of k would break up the reading
// of B's rows.
constexpr size_t kFactorBytes = size_t{256} << 10;
// For so many columns A is packed for transposed tiles: it is read once for every vector of columns.
constexpr size_t kPackColumns = 128;
// A matrix B of this size is copied, as its rows would evict each other and miss the TLB. Smaller ones are used
// in place.
constexpr size_t kInPlaceBytes = size_t{1} << 20;
// Operands larger than this together are far from the second cache: what comes next is fetched ahead. For smaller
// ones that costs more than it gives. With few rows, each element of B is read once, and less is near.
constexpr size_t kFetchBytes = size_t{4} << 20;
constexpr size_t kFetchBytesFewRows = size_t{1} << 20;
// So many columns hardly fill vectors.
constexpr size_t kFewColumns = 14;
// Rows of B that a wide tile fetches ahead.
constexpr size_t kRowsAhead = 8;
// Rows of a block that keeps sums.
constexpr size_t kSumsRows = 256;
// Elements between the rows of a copied panel of A, and between the panels of B: keeps them out of each other's
// cache sets.
constexpr size_t kPadding = 16;

// How a product is computed. No choice here changes a result.
struct Plan {
  size_t threads;
  size_t vectors;  // of a tile
  size_t block_rows, block_cols, block_k;
  size_t row_blocks, col_blocks;
  bool transpose_tiles;  // transposes B in registers, while it is multiplied
  bool copy_a, copy_b;
  bool packed_factors;               // of transposed tiles; if not, A is row-major
  bool fetch_ahead;                  // A, B and C, while other tiles are multiplied
  bool through_sums;                 // keeps the sums of a block in memory of its own until they are finished
  size_t b_size, a_size, sums_size;  // elements per thread of the copies and the sums

  // Elements from one copied panel of B, with k rows, to the next.
  size_t PanelSize(size_t k, size_t width) const { return k * width + kPadding; }
  size_t ScratchSize() const { return b_size + a_size + sums_size; }
};

// A small product takes no longer than a dozen divisions: those here are by constants, or for large ones alone.
template <class T>
Plan MakePlan(const MatmulArgs<T>& args, bool transpose_c) {
  const size_t lanes = hn::Lanes(hn::ScalableTag<T>());
  const bool few_rows = args.m <= kTileRows;
  Plan plan;
  plan.transpose_tiles = args.transpose_b && args.m <= kTransposedRows;
  // Few rows wait for B rather than for multiply-adds.
  const size_t work = HWY_MAX(args.m, plan.transpose_tiles ? 2 * kWideRows : kWideRows) * args.n * args.k;
  plan.threads = work < kParallelWork ? 1 : static_cast<size_t>(NumThreads());
  plan.copy_b =
      !plan.transpose_tiles && (args.transpose_b || (!few_rows && args.k * args.n * sizeof(T) >= kInPlaceBytes));
  const bool wide = args.m <= kWideRows && args.n > kTileVectors * lanes && !args.transpose_b;
  const bool stand_packed = args.transpose_a ? args.lda == args.m : args.m == 1;
  plan.packed_factors = stand_packed || args.transpose_a || args.n >= kPackColumns;
  const bool narrow = plan.transpose_tiles && (args.m > kTransposedWideRows || !plan.packed_factors);
  plan.vectors = wide ? WideVectors(args.m) : narrow ? 1 : kTileVectors;
  const size_t width = plan.vectors * lanes;
  const size_t panels = wide ? CeilDiv(args.n, width) : CeilDiv(args.n, narrow ? lanes : kTileVectors * lanes);
  if (plan.transpose_tiles) {
    plan.copy_a = plan.packed_factors && !stand_packed;
  } else {
    plan.copy_a = !few_rows && args.n >= 4 * width && Crowded<T>(args.lda);
  }
  plan.fetch_ahead =
      (args.m * args.k + args.k * args.n + args.m * args.n) * sizeof(T) > (few_rows ? kFetchBytesFewRows : kFetchBytes);
  plan.block_k = args.k;
  if (args.k > kBlockK && (plan.copy_a || !plan.transpose_tiles)) {
    const size_t most = plan.transpose_tiles ? kFactorBytes / sizeof(T) / args.m : kBlockK;
    plan.block_k = RoundUp(CeilDiv(args.k, CeilDiv(args.k, most)), 64 / sizeof(T));
  }

  size_t col_threads = 1;
  plan.row_blocks = 1;
  if (plan.threads > 1) {
    // If B is copied, columns are dealt to the threads first, as then each is copied once; but not if that makes
    // unequal shares. Otherwise rows are, if there are two tiles for each: threads that share rows of C take lines from
    // each other.
    col_threads = HWY_MIN(plan.threads, few_rows ? panels : CeilDiv(panels, 2));
    const size_t share = CeilDiv(panels, col_threads) * width;
    if (!few_rows && share * col_threads * 8 > args.n * 9) col_threads = 1;
    if (!plan.copy_b && args.m >= 2 * kTileRows * plan.threads) col_threads = 1;
    if (!few_rows) plan.row_blocks = CeilDiv(plan.threads, col_threads);
  }
  plan.col_blocks = CeilDiv(Share(args.n, col_threads), kBlockBytes / sizeof(T)) * col_threads;
  // Sums cannot wait in C if it is needed to the end, or is not row-major.
  plan.through_sums = transpose_c || (args.accumulate && plan.block_k < args.k);
  if (plan.through_sums) plan.row_blocks = HWY_MAX(plan.row_blocks, CeilDiv(args.m, kSumsRows));

  plan.block_rows = Share(args.m, plan.row_blocks);
  if (plan.row_blocks > 1) plan.row_blocks = CeilDiv(args.m, plan.block_rows);
  plan.block_cols = Share(panels, plan.col_blocks) * width;
  if (plan.col_blocks > 1) plan.col_blocks = CeilDiv(args.n, plan.block_cols);

  plan.b_size = 0;
  if (plan.copy_b) {
    plan.b_size = plan.PanelSize(plan.block_k, width) * (plan.block_cols / (kTileVectors * lanes));
  } else if (!plan.transpose_tiles && args.n % lanes != 0) {
    plan.b_size = plan.block_k * width;
  }
  plan.a_size = !plan.copy_a           ? 0
                : plan.transpose_tiles ? RoundUp(args.m * plan.block_k, lanes)
                                       : RoundUp(kTileRows, lanes) * (RoundUp(plan.block_k, lanes) + kPadding);
  plan.sums_size = plan.through_sums ? RoundUp(plan.block_rows, lanes) * plan.block_cols : 0;
  return plan;
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
void ComputeBlock(const MatmulArgs<T>& args, const Plan& plan, bool transpose_c, size_t row_block, size_t col_block,
                  T* memory) {
  const size_t lanes = hn::Lanes(hn::ScalableTag<T>());
  const size_t width = plan.vectors * lanes;
  const size_t row_begin = row_block * plan.block_rows;
  const size_t row_end = HWY_MIN(args.m, row_begin + plan.block_rows);
  const size_t col_begin = col_block * plan.block_cols;
  const size_t cols = HWY_MIN(args.n - col_begin, plan.block_cols);
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
  const size_t panel_size = plan.PanelSize(plan.block_k, width);
  // Only whole vectors are read of B.
  const bool copy_tail = !plan.copy_b && !args.transpose_b && cols % lanes != 0;

  for (size_t k_begin = 0;;) {
    const size_t k = HWY_MIN(plan.block_k, args.k - k_begin);
    const bool last_k = k_begin + k == args.k;
    const T* b = args.b + (args.transpose_b ? col_begin * args.ldb + k_begin : k_begin * args.ldb + col_begin);
    if (copy_tail) CopyRows(b + tail, args.ldb, k, cols - tail, b_copy, tail_width);
    if (plan.copy_b) {
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
      if (plan.copy_a && plan.transpose_tiles) {
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
        tile.a_row = RoundUp(k, lanes) + kPadding;
        CopyRows(tile.a, args.lda, rows, k, a_copy, tile.a_row);
        tile.a = a_copy;
      }
      T* const c = args.c + row * args.ldc + col_begin;
      T* const c_sums = sums + (row - row_begin) * plan.block_cols;
      const bool to_sums = transpose_c || (plan.through_sums && !last_k);
      tile.from_row = plan.through_sums ? plan.block_cols : args.ldc;
      tile.to_row = to_sums ? plan.block_cols : args.ldc;
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
          if (plan.copy_b) {
            tile.b = b_copy + panel / width * panel_size;
            tile.b_k = width;
          } else if (copy_tail && col == tail) {
            tile.b = b_copy;
            tile.b_k = tail_width;
          } else {
            tile.b = b + (plan.transpose_tiles ? col * args.ldb : col);
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
          const auto multiply = plan.transpose_tiles ? FindTransposedTileFunction<T>(rows, vectors, plan.packed_factors)
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
    FinishTransposed(sums, plan.block_cols, rows, cols, bias, args.accumulate, c, args.ldc);
    if (args.epilogue != nullptr) args.epilogue(args.context, {c, args.ldc, col_begin, cols, row_begin, rows});
  }
}

// With `reserve`, only gets the memory.
template <class T>
void Multiply(const MatmulArgs<T>& original, bool reserve) {
  if (original.m == 0 || original.n == 0) return;
  MatmulArgs<T> args = original;
  // With few columns the vectors are better filled by the transposed product, B^T A^T. If its B must be transposed on
  // the way, that has to pay: for fewer columns or many steps of k.
  const size_t lanes = hn::Lanes(hn::ScalableTag<T>());
  const bool b_stands_ready = args.transpose_a && !args.transpose_b;
  const size_t few_cols = b_stands_ready ? kFewColumns : args.k < 4 * lanes ? kWideRows : kTransposedRows;
  const bool transpose_c = args.n < args.m && args.n <= few_cols && args.n % lanes != 0;
  if (transpose_c) {
    args.m = original.n;
    args.n = original.m;
    args.a = original.b;
    args.lda = original.ldb;
    args.transpose_a = !original.transpose_b;
    args.b = original.a;
    args.ldb = original.lda;
    args.transpose_b = !original.transpose_a;
  }
  const Plan plan = MakePlan(args, transpose_c);
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
  static constexpr MatmulTable table = {Multiply<float>, Multiply<double>};
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
}  // namespace fuseprop
#endif  // HWY_ONCE
