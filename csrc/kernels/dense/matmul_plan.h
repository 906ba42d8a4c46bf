// How a matrix product is computed: which of four regimes, and in which blocks. Scalar, and apart from the vector code,
// which asks it for a plan. No choice here changes a result.
//
// The names are the field's (Goto and van de Geijn 2008; BLIS): a micro-tile of C has MR x NR elements; it multiplies a
// block of A of MC rows with a block of B of NC columns, KC steps of k at a time.

#ifndef FUSEPROP_KERNELS_DENSE_MATMUL_PLAN_H_
#define FUSEPROP_KERNELS_DENSE_MATMUL_PLAN_H_

#include <algorithm>
#include <cstddef>

#include "simd/partition.h"

namespace fuseprop {

// What the plan has to know of a product.
struct MatmulShape {
  size_t m, n, k;
  size_t lda;
  bool transpose_a, transpose_b;
  bool accumulate;   // C += instead of C =
  bool transpose_c;  // the product computed is that of C's transpose
};

// By who B is read, and what of it stands where.
enum class MatmulRegime {
  kSquares,  // few rows, B transposed: squares of B are transposed in registers, while they are multiplied
  kWide,     // few rows: wide tiles read B in long pieces, where it is
  kInPlace,  // B is read where it is
  kPacked    // B is copied, as panels of NR columns
};

struct MatmulPlan {
  MatmulRegime regime;
  size_t threads;
  size_t vectors;     // of a tile's row: NR / lanes
  size_t mc, nc, kc;  // of a block
  size_t row_blocks, col_blocks;
  bool copy_a;
  bool packed_factors;               // of squares; if not, A is row-major
  bool fetch_ahead;                  // A, B and C, while other tiles are multiplied
  bool through_sums;                 // keeps the sums of a block in memory of its own until they are finished
  size_t b_size, a_size, sums_size;  // elements per thread of the copies and the sums

  bool copies_b() const { return regime == MatmulRegime::kPacked; }
  bool squares() const { return regime == MatmulRegime::kSquares; }
  size_t ScratchSize() const { return b_size + a_size + sums_size; }
  // Elements from one copied panel of B, with k rows, to the next. The padding keeps panels, and the rows of a copied
  // panel of A, out of each other's cache sets.
  static constexpr size_t kPadding = 16;
  static size_t PanelSize(size_t k, size_t nr) { return k * nr + kPadding; }
};

// Plans for the tiles of one target and type. `Tiles` has kItemSize, kLanes, kRows (MR), kVectors (NR / kLanes),
// kWideRows, WideVectors(rows), kSquareRows and kSquareWideRows: matmul-inl.h says what they are.
//
// A small product takes no longer than a dozen divisions: those here are by constants, or for large ones alone.
template <class Tiles>
class MatmulPlanner {
 public:
  static MatmulPlan Plan(const MatmulShape& shape, size_t num_threads) {
    MatmulPlan plan;
    plan.regime = RegimeOf(shape);
    plan.copy_a = plan.packed_factors = false;
    size_t panels = 0;  // of NR columns
    switch (plan.regime) {
      case MatmulRegime::kSquares:
        panels = PlanSquares(shape, &plan);
        break;
      case MatmulRegime::kWide:
        panels = PlanWide(shape, &plan);
        break;
      case MatmulRegime::kInPlace:
      case MatmulRegime::kPacked:
        panels = PlanTiles(shape, &plan);
        break;
    }
    plan.threads = WorkOf(shape, plan) < kParallelWork ? 1 : num_threads;
    plan.fetch_ahead = (shape.m * shape.k + shape.k * shape.n + shape.m * shape.n) * Tiles::kItemSize >
                       (FewRows(shape) ? kFetchBytesFewRows : kFetchBytes);
    Split(shape, panels, &plan);
    Measure(shape, &plan);
    return plan;
  }

  static MatmulRegime RegimeOf(const MatmulShape& shape) {
    if (shape.transpose_b) return shape.m <= Tiles::kSquareRows ? MatmulRegime::kSquares : MatmulRegime::kPacked;
    if (shape.m <= Tiles::kWideRows && shape.n > Tiles::kVectors * Tiles::kLanes) return MatmulRegime::kWide;
    const bool is_large = shape.k * shape.n * Tiles::kItemSize >= kInPlaceBytes;
    return is_large && !FewRows(shape) ? MatmulRegime::kPacked : MatmulRegime::kInPlace;
  }

 private:
  // Below this many multiply-adds a second thread costs more than it saves.
  static constexpr size_t kParallelWork = size_t{3} << 17;
  // KC; and the bytes of a row of NC columns: what a thread copies and multiplies with all rows of A.
  static constexpr size_t kKC = 512;
  static constexpr size_t kBlockBytes = 4096;
  // Of a copy of A for squares, which waits in the second cache. Shorter blocks of k would break up the reading of B's
  // rows.
  static constexpr size_t kFactorBytes = size_t{256} << 10;
  // For so many columns A is packed for squares: it is read once for every vector of columns.
  static constexpr size_t kPackColumns = 128;
  // A matrix B of this size is copied, as its rows would evict each other and miss the TLB.
  static constexpr size_t kInPlaceBytes = size_t{1} << 20;
  // Operands larger than this together are far from the second cache: what comes next is fetched ahead. For smaller
  // ones that costs more than it gives. With few rows, each element of B is read once, and less is near.
  static constexpr size_t kFetchBytes = size_t{4} << 20;
  static constexpr size_t kFetchBytesFewRows = size_t{1} << 20;
  // MC of a block that keeps sums.
  static constexpr size_t kSumsRows = 256;
  // Rows so far apart share a set of the first cache.
  static constexpr size_t kPageBytes = 4096;

  static bool FewRows(const MatmulShape& shape) { return shape.m <= Tiles::kRows; }
  // One of equal shares.
  static size_t Share(size_t size, size_t shares) { return shares == 1 ? size : CeilDiv(size, shares); }

  static size_t PlanSquares(const MatmulShape& shape, MatmulPlan* plan) {
    const bool stand_packed = shape.transpose_a ? shape.lda == shape.m : shape.m == 1;
    plan->packed_factors = stand_packed || shape.transpose_a || shape.n >= kPackColumns;
    plan->copy_a = plan->packed_factors && !stand_packed;
    const bool narrow = shape.m > Tiles::kSquareWideRows || !plan->packed_factors;
    plan->vectors = narrow ? 1 : Tiles::kVectors;
    plan->kc = shape.k;
    if (plan->copy_a && shape.k > kKC) plan->kc = EvenKC(shape.k, kFactorBytes / Tiles::kItemSize / shape.m);
    return CeilDiv(shape.n, narrow ? Tiles::kLanes : Tiles::kVectors * Tiles::kLanes);
  }

  static size_t PlanWide(const MatmulShape& shape, MatmulPlan* plan) {
    plan->vectors = Tiles::WideVectors(shape.m);
    plan->kc = shape.k > kKC ? EvenKC(shape.k, kKC) : shape.k;
    return CeilDiv(shape.n, plan->vectors * Tiles::kLanes);
  }

  static size_t PlanTiles(const MatmulShape& shape, MatmulPlan* plan) {
    constexpr size_t kNR = Tiles::kVectors * Tiles::kLanes;
    plan->vectors = Tiles::kVectors;
    plan->kc = shape.k > kKC ? EvenKC(shape.k, kKC) : shape.k;
    plan->copy_a = !FewRows(shape) && shape.n >= 4 * kNR && shape.lda * Tiles::kItemSize % kPageBytes == 0;
    return CeilDiv(shape.n, kNR);
  }

  // Equal blocks of k, in whole lines.
  static size_t EvenKC(size_t k, size_t most) { return RoundUp(CeilDiv(k, CeilDiv(k, most)), 64 / Tiles::kItemSize); }

  // Few rows wait for B rather than for multiply-adds.
  static size_t WorkOf(const MatmulShape& shape, const MatmulPlan& plan) {
    return std::max(shape.m, plan.squares() ? 2 * Tiles::kWideRows : Tiles::kWideRows) * shape.n * shape.k;
  }

  // Deals blocks to the threads.
  static void Split(const MatmulShape& shape, size_t panels, MatmulPlan* plan) {
    const size_t nr = plan->vectors * Tiles::kLanes;
    size_t col_threads = 1;
    plan->row_blocks = 1;
    if (plan->threads > 1) {
      // If B is copied, columns are dealt to the threads first, as then each is copied once; but not if that makes
      // unequal shares. Otherwise rows are, if there are two tiles for each: threads that share rows of C take lines
      // from each other.
      const bool few_rows = FewRows(shape);
      col_threads = std::min(plan->threads, few_rows ? panels : CeilDiv(panels, 2));
      const size_t share = CeilDiv(panels, col_threads) * nr;
      if (!few_rows && share * col_threads * 8 > shape.n * 9) col_threads = 1;
      if (!plan->copies_b() && shape.m >= 2 * Tiles::kRows * plan->threads) col_threads = 1;
      if (!few_rows) plan->row_blocks = CeilDiv(plan->threads, col_threads);
    }
    plan->col_blocks = CeilDiv(Share(shape.n, col_threads), kBlockBytes / Tiles::kItemSize) * col_threads;
    // Sums cannot wait in C if it is needed to the end, or is not row-major.
    plan->through_sums = shape.transpose_c || (shape.accumulate && plan->kc < shape.k);
    if (plan->through_sums) plan->row_blocks = std::max(plan->row_blocks, CeilDiv(shape.m, kSumsRows));

    plan->mc = Share(shape.m, plan->row_blocks);
    if (plan->row_blocks > 1) plan->row_blocks = CeilDiv(shape.m, plan->mc);
    plan->nc = Share(panels, plan->col_blocks) * nr;
    if (plan->col_blocks > 1) plan->col_blocks = CeilDiv(shape.n, plan->nc);
  }

  // The memory of a thread.
  static void Measure(const MatmulShape& shape, MatmulPlan* plan) {
    constexpr size_t kLanes = Tiles::kLanes;
    const size_t nr = plan->vectors * kLanes;
    plan->b_size = 0;
    if (plan->copies_b()) {
      plan->b_size = MatmulPlan::PanelSize(plan->kc, nr) * (plan->nc / (Tiles::kVectors * kLanes));
    } else if (!plan->squares() && shape.n % kLanes != 0) {
      plan->b_size = plan->kc * nr;  // the last, partial panel
    }
    plan->a_size = !plan->copy_a     ? 0
                   : plan->squares() ? RoundUp(shape.m * plan->kc, kLanes)
                                     : RoundUp(Tiles::kRows, kLanes) * (RoundUp(plan->kc, kLanes) + plan->kPadding);
    plan->sums_size = plan->through_sums ? RoundUp(plan->mc, kLanes) * plan->nc : 0;
  }
};

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_DENSE_MATMUL_PLAN_H_
