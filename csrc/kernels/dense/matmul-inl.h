// The micro-kernels of the matrix product and the packing of their operands. Per-target header.

#if defined(FUSEPROP_KERNELS_DENSE_MATMUL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSEPROP_KERNELS_DENSE_MATMUL_INL_H_
#undef FUSEPROP_KERNELS_DENSE_MATMUL_INL_H_
#else
#define FUSEPROP_KERNELS_DENSE_MATMUL_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <utility>

#include "simd/compat-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {

// A micro-tile is up to kTileRows x kTileVectors vectors of C: as many accumulators as leave registers for a
// row of B and an element of A. With few rows it is wider, to read B in longer pieces.
#if HWY_TARGET == HWY_AVX3 || (HWY_ARCH_ARM_A64 && HWY_TARGET == HWY_NEON)  // 32 registers
constexpr size_t kTileRows = 14;
constexpr size_t kWideAccumulators = 24;
// A tile that transposes B in registers keeps a square of vectors there too.
constexpr size_t kSquareRows = 12;
#else  // 16 registers
constexpr size_t kTileRows = 6;
constexpr size_t kWideAccumulators = 12;
constexpr size_t kSquareRows = 6;
#endif
constexpr size_t kTileVectors = 2;
constexpr size_t kWideRows = 4;
constexpr size_t kSquareWideRows = 2;
constexpr size_t WideVectors(size_t rows) { return HWY_MIN(kWideAccumulators / rows, size_t{16}); }

// The same for the plan.
template <class T>
struct Tiles {
  static constexpr size_t kItemSize = sizeof(T);
  static constexpr size_t kLanes = hn::MaxLanes(hn::ScalableTag<T>());
  static constexpr size_t kRows = kTileRows;
  static constexpr size_t kVectors = kTileVectors;
  static constexpr size_t kWideRows = HWY_NAMESPACE::kWideRows;
  static constexpr size_t kSquareRows = HWY_NAMESPACE::kSquareRows;
  static constexpr size_t kSquareWideRows = HWY_NAMESPACE::kSquareWideRows;
  static constexpr size_t WideVectors(size_t rows) { return HWY_NAMESPACE::WideVectors(rows); }
};

// Operands of a micro-tile. Strides count elements.
template <class T>
struct Tile {
  size_t k;
  const T* a;
  size_t a_row, a_k;  // strides of A over rows and over k
  const T* b;
  size_t b_k;     // stride of B over k; its rows are whole vectors
  size_t last;    // elements of C in the last vector
  const T* from;  // where the chains go on from; null: they start at zero
  size_t from_row;
  T* to;
  size_t to_row;
  const T* bias;    // for these columns, or null
  bool accumulate;  // adds what `to` holds, last
  // For a wide tile: what to bring nearer meanwhile, a row of B's shape for each step of k; or null.
  const T* fetch;
  size_t fetch_k;
};

constexpr size_t kLineBytes = 64;
// Rows of B that are fetched ahead while it is copied.
constexpr size_t kCopyAhead = 4;
constexpr size_t kPageBytes = 4096;
// Squares between those of a transposed tile's vectors if the rows of B share a set of the first cache.
constexpr size_t kSquaresApart = 4;

// The vectors of a row of a tile, the last of which may be partial. On AVX-512 it is accessed under a mask always, as
// masks cost nothing.
template <size_t kVectors, class D>
class TileRow {
 public:
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE TileRow(D d, size_t last) : first_(d, last), whole_(HWY_TARGET != HWY_AVX3 && last == hn::Lanes(d)) {}

  HWY_INLINE V Load(D d, const T* row, size_t v) const {
    const T* from = row + v * hn::Lanes(d);
    return v + 1 < kVectors || whole_ ? hn::LoadU(d, from) : first_.Load(d, from);
  }
  HWY_INLINE void Store(V value, D d, T* row, size_t v) const {
    T* to = row + v * hn::Lanes(d);
    if (v + 1 < kVectors || whole_) {
      hn::StoreU(value, d, to);
    } else {
      first_.Store(value, d, to);
    }
  }

 private:
  FirstLanes<D> first_;
  bool whole_;
};

template <size_t kRows, size_t kVectors, class D, class T = hn::TFromD<D>>
HWY_INLINE void StartTile(D d, const Tile<T>& tile, const TileRow<kVectors, D>& in_row,
                          hn::Vec<D> (&acc)[kRows][kVectors]) {
  if (tile.from == nullptr) {
    HWY_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r) {
      HWY_UNROLL(16)
      for (size_t v = 0; v < kVectors; ++v) acc[r][v] = hn::Zero(d);
    }
  } else {
    const T* row = tile.from;
    HWY_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r, row += tile.from_row) {
      HWY_UNROLL(16)
      for (size_t v = 0; v < kVectors; ++v) acc[r][v] = in_row.Load(d, row, v);
    }
  }
}

template <size_t kRows, size_t kVectors, class D, class T = hn::TFromD<D>>
HWY_INLINE void FinishTile(D d, const Tile<T>& tile, const TileRow<kVectors, D>& in_row,
                           hn::Vec<D> (&acc)[kRows][kVectors]) {
  if (tile.bias != nullptr) {
    HWY_UNROLL(16)
    for (size_t v = 0; v < kVectors; ++v) {
      const auto bias = in_row.Load(d, tile.bias, v);
      HWY_UNROLL(16)
      for (size_t r = 0; r < kRows; ++r) acc[r][v] = hn::Add(acc[r][v], bias);
    }
  }
  if (tile.accumulate) {
    const T* row = tile.to;
    HWY_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r, row += tile.to_row) {
      HWY_UNROLL(16)
      for (size_t v = 0; v < kVectors; ++v) acc[r][v] = hn::Add(acc[r][v], in_row.Load(d, row, v));
    }
  }
  T* row = tile.to;
  HWY_UNROLL(16)
  for (size_t r = 0; r < kRows; ++r, row += tile.to_row) {
    HWY_UNROLL(16)
    for (size_t v = 0; v < kVectors; ++v) in_row.Store(acc[r][v], d, row, v);
  }
}

// The elements of A that a step of k takes, one of each row. Two pointers and three strides in bytes reach 14 rows as
// base + scale * index: few enough for registers.
template <size_t kRows, class T>
class FactorRows {
 public:
  HWY_INLINE explicit FactorRows(const Tile<T>& tile, size_t k = 0)
      : stride_(tile.a_row * sizeof(T)),
        stride3_(3 * stride_),
        stride5_(5 * stride_),
        step_(tile.a_k * sizeof(T)),
        row0_(reinterpret_cast<const char*>(tile.a) + k * step_),
        row7_(row0_ + (kRows > 7 ? 7 * stride_ : 0)) {}
  HWY_INLINE T At(size_t r, size_t element = 0) const {
    const size_t q = r < 7 ? r : r - 7;
    const size_t offset = q == 6 ? 2 * stride3_ : q == 5 ? stride5_ : q == 3 ? stride3_ : q * stride_;
    return reinterpret_cast<const T*>((r < 7 ? row0_ : row7_) + offset)[element];
  }
  HWY_INLINE void Next() {
    row0_ += step_;
    row7_ += step_;
  }

 private:
  const size_t stride_, stride3_, stride5_, step_;
  const char* HWY_RESTRICT row0_;
  const char* HWY_RESTRICT row7_;
};

// The same where the factors of each step stand together, and one step after the other: one pointer reaches them all.
template <size_t kRows, class T>
class PackedFactors {
 public:
  HWY_INLINE PackedFactors(const Tile<T>& tile, size_t k) : from_(tile.a + k * kRows) {}
  HWY_INLINE T At(size_t r, size_t step) const { return from_[step * kRows + r]; }

 private:
  const T* HWY_RESTRICT from_;
};

template <size_t kRows, size_t kVectors, class T>
void MultiplyTile(const Tile<T>& tile) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const D d;
  const size_t lanes = hn::Lanes(d);
  const TileRow<kVectors, D> in_row(d, tile.last);
  V acc[kRows][kVectors];
  StartTile(d, tile, in_row, acc);

  FactorRows<kRows, T> a(tile);
  const T* HWY_RESTRICT b = tile.b;
  const size_t b_step = tile.b_k;
  const T* fetch = tile.fetch;
  const size_t fetch_step = tile.fetch_k;
  for (size_t k = tile.k; k != 0; --k) {
    if (kVectors > kTileVectors && fetch != nullptr) {
      HWY_UNROLL(16)
      for (size_t v = 0; v < kVectors * lanes; v += kLineBytes / sizeof(T)) __builtin_prefetch(fetch + v);
      fetch += fetch_step;
    }
    V b_row[kVectors];
    HWY_UNROLL(16)
    for (size_t v = 0; v < kVectors; ++v) b_row[v] = hn::LoadU(d, b + v * lanes);
    HWY_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r) {
      const V factor = hn::Set(d, a.At(r));
      HWY_UNROLL(16)
      for (size_t v = 0; v < kVectors; ++v) acc[r][v] = hn::MulAdd(factor, b_row[v], acc[r][v]);
    }
    a.Next();
    b += b_step;
  }

  FinishTile(d, tile, in_row, acc);
}

// Copies a (rows, cols) matrix. The rows of `to` are aligned, and filled with zeros up to whole vectors.
template <class T>
void CopyRows(const T* from, size_t from_row, size_t rows, size_t cols, T* to, size_t to_row) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  for (size_t r = 0; r < rows; ++r, from += from_row, to += to_row) {
    size_t c = 0;
    for (; c + lanes <= cols; c += lanes) hn::Store(hn::LoadU(d, from + c), d, to + c);
    if (c != cols) hn::Store(LoadPartial(d, from + c, cols - c), d, to + c);
  }
}

// Copies a (rows, cols) matrix as panels of kTileVectors vectors, one panel's rows after the other. Whole rows are
// read, as their pieces of a panel's width would need a page each.
template <class T>
void CopyPanels(const T* from, size_t from_row, size_t rows, size_t cols, T* to, size_t panel_size) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const size_t width = kTileVectors * lanes;
  for (size_t r = 0; r < rows; ++r, from += from_row, to += width) {
    T* panel = to;
    size_t c = 0;
    for (; c + width <= cols; c += width, panel += panel_size) {
      HWY_UNROLL(2)
      for (size_t v = 0; v < kTileVectors; ++v) {
        __builtin_prefetch(from + kCopyAhead * from_row + c + v * lanes);
        hn::Store(hn::LoadU(d, from + c + v * lanes), d, panel + v * lanes);
      }
    }
    for (size_t v = 0; c < cols; c += lanes, ++v) {
      hn::Store(LoadPartial(d, from + c, HWY_MIN(lanes, cols - c)), d, panel + v * lanes);
    }
  }
}

// One row's half vector below another's.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadHalves(D d, const T* low, const T* high) {
  const hn::Half<D> half;
  return hn::Combine(d, hn::LoadU(half, high), hn::LoadU(half, low));
}

// kRows rows at one distance, up to 16. Four pointers and two strides in bytes reach them as base + scale * index: few
// enough for registers.
template <size_t kRows, class T>
class SquareRows {
 public:
  HWY_INLINE SquareRows(const T* from, size_t stride)
      : stride_(stride * sizeof(T)),
        stride3_(3 * stride_),
        row0_(reinterpret_cast<const char*>(from)),
        row4_(row0_ + (kRows > 4 ? 4 * stride_ : 0)),
        row8_(row4_ + (kRows > 8 ? 4 * stride_ : 0)),
        row12_(row8_ + (kRows > 8 ? 4 * stride_ : 0)) {}
  HWY_INLINE const T* At(size_t r, size_t element) const {
    const char* const base = r < 4 ? row0_ : r < 8 ? row4_ : r < 12 ? row8_ : row12_;
    return reinterpret_cast<const T*>(base + (r % 4 == 3 ? stride3_ : r % 4 * stride_)) + element;
  }

 private:
  const size_t stride_, stride3_;
  const char* const row0_;
  const char* const row4_;
  const char* const row8_;
  const char* const row12_;
};
// Those of a square of elements, as many as a vector has lanes.
template <class D>
using Square = SquareRows<hn::MaxLanes(D()), hn::TFromD<D>>;

// What there is of a square: `rows` rows of `cols` elements. The others are of no use: the last row stands for more
// rows, and a copy in memory of its own has room for more columns.
template <class D, class T = hn::TFromD<D>>
class PartOfSquare {
 public:
  HWY_INLINE PartOfSquare(D d, const T* from, size_t stride, size_t rows, size_t cols) {
    if (cols == kLanes) {
      for (size_t r = 0; r < kLanes; ++r) {
        row_[r] = from;
        if (r + 1 < rows) from += stride;
      }
      return;
    }
    const FirstLanes<D> part(d, cols);
    for (size_t r = 0; r < kLanes; ++r) {
      row_[r] = copy_ + HWY_MIN(r, rows - 1) * kLanes;
      if (r < rows) hn::Store(part.Load(d, from + r * stride), d, copy_ + r * kLanes);
    }
  }
  HWY_INLINE const T* At(size_t r, size_t element) const { return row_[r] + element; }

 private:
  static constexpr size_t kLanes = hn::MaxLanes(D());
  const T* row_[kLanes];
  HWY_ALIGN T copy_[kLanes * kLanes];
};

// Columns of a square of elements, from `column` on: blocks of 128 bits are put in place, and transposed. Either all
// columns, which reads each cache line once; or, with four blocks in a vector, half of them, which needs less of the
// machine at a time and is faster where lines stay in the cache.
template <size_t kColumns, class D, class Rows, class T = hn::TFromD<D>, class V = hn::Vec<D>>
HWY_INLINE void LoadColumns(D d, const Rows& rows, size_t column, V (&v)[kColumns]) {
  constexpr size_t kInBlock = 16 / sizeof(T);  // elements of a block of 128 bits
  constexpr size_t kBlocks = hn::MaxLanes(D()) / kInBlock;
  static_assert(kBlocks == 1 || kBlocks == 2 || kBlocks == 4, "no network for this size");
  // Vector q * kInBlock + i receives the q-th blocks of the rows i, kInBlock + i, 2 * kInBlock + i ...
  HWY_UNROLL(4)
  for (size_t i = 0; i < kInBlock; ++i) {
    if constexpr (kBlocks == 1) {
      v[i] = hn::LoadU(d, rows.At(i, column));
    } else if constexpr (kBlocks == 2) {
      // Half vectors find their places as they are loaded.
      v[i] = LoadHalves(d, rows.At(i, column), rows.At(kInBlock + i, column));
      v[kInBlock + i] = LoadHalves(d, rows.At(i, column + kInBlock), rows.At(kInBlock + i, column + kInBlock));
    } else if constexpr (kColumns == 2 * kInBlock) {
      const V low = LoadHalves(d, rows.At(i, column), rows.At(kInBlock + i, column));
      const V high = LoadHalves(d, rows.At(2 * kInBlock + i, column), rows.At(3 * kInBlock + i, column));
      v[i] = ConcatEvenBlocks(d, high, low);
      v[kInBlock + i] = ConcatOddBlocks(d, high, low);
    } else {
      const V row0 = InRegister(hn::LoadU(d, rows.At(i, column)));
      const V row1 = InRegister(hn::LoadU(d, rows.At(kInBlock + i, column)));
      const V row2 = InRegister(hn::LoadU(d, rows.At(2 * kInBlock + i, column)));
      const V row3 = InRegister(hn::LoadU(d, rows.At(3 * kInBlock + i, column)));
      const V lower01 = hn::ConcatLowerLower(d, row1, row0);
      const V lower23 = hn::ConcatLowerLower(d, row3, row2);
      const V upper01 = hn::ConcatUpperUpper(d, row1, row0);
      const V upper23 = hn::ConcatUpperUpper(d, row3, row2);
      v[i] = ConcatEvenBlocks(d, lower23, lower01);
      v[kInBlock + i] = ConcatOddBlocks(d, lower23, lower01);
      v[2 * kInBlock + i] = ConcatEvenBlocks(d, upper23, upper01);
      v[3 * kInBlock + i] = ConcatOddBlocks(d, upper23, upper01);
    }
  }
  HWY_UNROLL(4)
  for (size_t q = 0; q < kColumns / kInBlock; ++q) {
    // Transposes within blocks.
    V* const w = v + q * kInBlock;
    if constexpr (kInBlock == 2) {
      const V low = hn::InterleaveLower(d, w[0], w[1]);
      w[1] = hn::InterleaveUpper(d, w[0], w[1]);
      w[0] = low;
    } else {
      const V low02 = hn::InterleaveLower(d, w[0], w[2]);
      const V low13 = hn::InterleaveLower(d, w[1], w[3]);
      const V high02 = hn::InterleaveUpper(d, w[0], w[2]);
      const V high13 = hn::InterleaveUpper(d, w[1], w[3]);
      w[0] = hn::InterleaveLower(d, low02, low13);
      w[1] = hn::InterleaveUpper(d, low02, low13);
      w[2] = hn::InterleaveLower(d, high02, high13);
      w[3] = hn::InterleaveUpper(d, high02, high13);
    }
  }
}

// Copies a (rows, cols) matrix, with nothing between the rows of `to`.
template <class T>
void PackRows(const T* from, size_t from_row, size_t rows, size_t cols, T* to) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  for (size_t r = 0; r < rows; ++r, from += from_row, to += cols) {
    for (size_t c = 0; c < cols; c += lanes) {
      const size_t count = HWY_MIN(lanes, cols - c);
      StorePartial(LoadPartial(d, from + c, count), d, to + c, count);
    }
  }
}

// Rows that are a multiple of kPageBytes apart share a set of the first cache: when many are read square by square, no
// line stays there until the next square.
template <class T>
HWY_INLINE bool Crowded(size_t stride) {
  return stride * sizeof(T) % kPageBytes == 0;
}
// So squares should not straddle lines then. By how many elements `from` is beyond a vector's alignment.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE size_t BeyondLine(D d, const T* from, size_t stride) {
  return Crowded<T>(stride) ? reinterpret_cast<uintptr_t>(from) / sizeof(T) % hn::Lanes(d) : 0;
}

// Copies the transpose of a (rows, cols) matrix: to[c * to_row + r]. The rows of `to` are aligned and hold
// whole vectors; copies of the last element fill them up.
template <class T>
void CopyTransposed(const T* from, size_t from_row, size_t rows, size_t cols, T* to, size_t to_row) {
  using D = hn::ScalableTag<T>;
  const D d;
  constexpr size_t kLanes = hn::MaxLanes(d);
  hn::Vec<D> columns[kLanes];
  for (size_t r = 0; r < rows; r += kLanes) {
    const T* const row = from + r * from_row;
    const size_t beyond = BeyondLine(d, row, from_row);
    for (size_t c = 0; c < cols;) {
      const size_t count = HWY_MIN(cols - c, c == 0 ? kLanes - beyond : kLanes);
      if (count == kLanes && rows - r >= kLanes) {
        LoadColumns(d, Square<D>(row + c, from_row), 0, columns);
        HWY_UNROLL(16)
        for (size_t i = 0; i < kLanes; ++i) hn::Store(columns[i], d, to + (c + i) * to_row + r);
      } else {
        LoadColumns(d, PartOfSquare<D>(d, row + c, from_row, rows - r, count), 0, columns);
        HWY_UNROLL(16)
        for (size_t i = 0; i < kLanes; ++i) {
          if (i == count) break;
          hn::Store(columns[i], d, to + (c + i) * to_row + r);
        }
      }
      c += count;
    }
  }
}

// The same for the transpose of a (rows, cols) matrix.
template <class T>
void CopyTransposedPanels(const T* from, size_t from_row, size_t rows, size_t cols, T* to, size_t panel_size) {
  const size_t width = kTileVectors * hn::Lanes(hn::ScalableTag<T>());
  for (size_t r = 0; r < rows; r += width, to += panel_size) {
    CopyTransposed(from + r * from_row, from_row, HWY_MIN(width, rows - r), cols, to, width);
  }
}

// Copies the transpose of a (rows, cols) matrix, with nothing between the rows of `to`.
template <class T>
void PackTransposed(const T* from, size_t from_row, size_t rows, size_t cols, T* to) {
  using D = hn::ScalableTag<T>;
  const D d;
  constexpr size_t kLanes = hn::MaxLanes(d);
  hn::Vec<D> columns[kLanes];
  for (size_t r = 0; r < rows; r += kLanes) {
    const FirstLanes<D> part(d, HWY_MIN(kLanes, rows - r));
    for (size_t c = 0; c < cols; c += kLanes) {
      const size_t count = HWY_MIN(kLanes, cols - c);
      LoadColumns(d, PartOfSquare<D>(d, from + r * from_row + c, from_row, rows - r, count), 0, columns);
      HWY_UNROLL(16)
      for (size_t i = 0; i < kLanes; ++i) {
        if (i == count) break;
        part.Store(columns[i], d, to + (c + i) * rows + r);
      }
    }
  }
}

// to = the transpose of a (rows, cols) matrix [+ bias] [+ to]; bias has `rows` elements. `from` consists of whole
// squares of vectors; what it holds outside of the matrix, if only what memory held before, is read but not used.
template <class T>
void FinishTransposed(const T* from, size_t from_row, size_t rows, size_t cols, const T* bias, bool accumulate, T* to,
                      size_t to_row) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const D d;
  constexpr size_t kLanes = hn::MaxLanes(d);
  if (rows == 1 && to_row == 1) {  // as it stands
    const V v_bias = hn::Set(d, bias != nullptr ? *bias : T(0));
    for (size_t c = 0; c < cols; c += kLanes) {
      const FirstLanes<D> part(d, HWY_MIN(kLanes, cols - c));
      V v = hn::LoadU(d, from + c);
      if (bias != nullptr) v = hn::Add(v, v_bias);
      if (accumulate) v = hn::Add(v, part.Load(d, to + c));
      part.Store(v, d, to + c);
    }
    return;
  }
  V columns[kLanes];
  for (size_t r = 0; r < rows; r += kLanes) {
    const FirstLanes<D> part(d, HWY_MIN(kLanes, rows - r));
    const V v_bias = bias != nullptr ? part.Load(d, bias + r) : hn::Zero(d);
    for (size_t c = 0; c < cols; c += kLanes) {
      const size_t count = HWY_MIN(kLanes, cols - c);
      LoadColumns(d, Square<D>(from + r * from_row + c, from_row), 0, columns);
      HWY_UNROLL(16)
      for (size_t i = 0; i < kLanes; ++i) {
        if (i == count) break;
        T* to_here = to + (c + i) * to_row + r;
        V v = columns[i];
        if (bias != nullptr) v = hn::Add(v, v_bias);
        if (accumulate) v = hn::Add(v, part.Load(d, to_here));
        part.Store(v, d, to_here);
      }
    }
  }
}

// Continues the chains of vector v of a tile by the first `count` of the kColumns columns of a square from `column` on.
template <size_t kColumns, size_t kRows, size_t kVectors, class D, class Factors, class Rows>
HWY_INLINE void MultiplyColumns(D d, const Factors& a, const Rows& b, size_t column, size_t count, size_t v,
                                hn::Vec<D> (&acc)[kRows][kVectors]) {
  hn::Vec<D> columns[kColumns];
  LoadColumns(d, b, column, columns);
  HWY_UNROLL(16)
  for (size_t i = 0; i < kColumns; ++i) {
    if (i == count) break;
    HWY_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r) acc[r][v] = hn::MulAdd(hn::Set(d, a.At(r, column + i)), columns[i], acc[r][v]);
  }
}

// The same by the whole square that begins with step k.
template <class Factors, size_t kColumns, size_t kRows, size_t kVectors, class D, class T = hn::TFromD<D>>
HWY_INLINE void MultiplySquare(D d, const Tile<T>& tile, size_t k, size_t v, hn::Vec<D> (&acc)[kRows][kVectors]) {
  constexpr size_t kLanes = hn::MaxLanes(D());
  const Factors a(tile, k);
  const Square<D> b(tile.b + v * kLanes * tile.b_k + k, tile.b_k);
  MultiplyColumns<kColumns>(d, a, b, 0, kColumns, v, acc);
  static_assert(kLanes <= 2 * kColumns, "not written out");
  if constexpr (kColumns < kLanes) MultiplyColumns<kColumns>(d, a, b, kColumns, kColumns, v, acc);
}

// All vectors of a tile by squares from step k on; the second one `apart` squares behind the first.
template <class Factors, size_t kColumns, size_t kRows, size_t kVectors, class D, class T = hn::TFromD<D>>
HWY_INLINE void MultiplySquares(D d, const Tile<T>& tile, size_t k, size_t squares, size_t apart,
                                hn::Vec<D> (&acc)[kRows][kVectors]) {
  constexpr size_t kLanes = hn::MaxLanes(D());
  static_assert(kVectors <= 2, "not written out");
  for (size_t step = 0; step < squares + (kVectors - 1) * apart; ++step) {
    if (step < squares) MultiplySquare<Factors, kColumns>(d, tile, k + step * kLanes, 0, acc);
    if constexpr (kVectors == 2) {
      const size_t late = step - apart;
      if (late < squares) MultiplySquare<Factors, kColumns>(d, tile, k + late * kLanes, 1, acc);  // not below 0 either
    }
  }
}

// For few rows: a tile whose B is transposed in memory, with row stride b_k, and in registers as it is read, square by
// square. Factors is PackedFactors, or FactorRows for an A with a_k = 1.
template <class Factors, size_t kRows, size_t kVectors, class T>
void MultiplyTransposedTile(const Tile<T>& tile) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const D d;
  constexpr size_t kLanes = hn::MaxLanes(d);
  constexpr size_t kColumns = kLanes * sizeof(T) == 64 ? kLanes / 2 : kLanes;
  const TileRow<kVectors, D> in_row(d, tile.last);
  V acc[kRows][kVectors];
  StartTile(d, tile, in_row, acc);
  const size_t beyond = BeyondLine(d, tile.b, tile.b_k);
  for (size_t k = 0; k < tile.k;) {
    const size_t count = HWY_MIN(tile.k - k, k == 0 ? kLanes - beyond : kLanes);
    if (count < kLanes || tile.last < kLanes) {
      HWY_UNROLL(2)
      for (size_t v = 0; v < kVectors; ++v) {
        const size_t filled = v + 1 < kVectors ? kLanes : tile.last;
        const PartOfSquare<D> b(d, tile.b + v * kLanes * tile.b_k + k, tile.b_k, filled, count);
        MultiplyColumns<kLanes>(d, Factors(tile, k), b, 0, count, v, acc);
      }
      k += count;
      continue;
    }
    const size_t squares = (tile.k - k) / kLanes;
    const bool crowded = Crowded<T>(tile.b_k);
    if (kColumns == kLanes || crowded) {
      // No line stays until the other half of a square, either; and the two vectors keep out of each other's way.
      MultiplySquares<Factors, kLanes>(d, tile, k, squares, crowded ? kSquaresApart : 0, acc);
    } else if constexpr (kColumns < kLanes) {
      MultiplySquares<Factors, kColumns>(d, tile, k, squares, 0, acc);
    }
    k += squares * kLanes;
  }
  FinishTile(d, tile, in_row, acc);
}

template <class T>
using TileFunction = void (*)(const Tile<T>&);

template <class T, size_t kVectors, size_t... kRowsMinus1>
HWY_INLINE TileFunction<T> FindTileFunction(size_t rows, std::index_sequence<kRowsMinus1...>) {
  static constexpr TileFunction<T> functions[] = {MultiplyTile < kRowsMinus1 + 1,
                                                  kVectors != 0 ? kVectors : WideVectors(kRowsMinus1 + 1), T > ...};
  return functions[rows - 1];
}

// The kernel for a tile of 1, kTileVectors or, up to kWideRows, WideVectors(rows) vectors.
template <class T>
HWY_INLINE TileFunction<T> FindTileFunction(size_t rows, size_t vectors) {
  using AllRows = std::make_index_sequence<kTileRows>;
  if (vectors == kTileVectors) return FindTileFunction<T, kTileVectors>(rows, AllRows());
  if (vectors == 1) return FindTileFunction<T, 1>(rows, AllRows());
  return FindTileFunction<T, 0>(rows, std::make_index_sequence<kWideRows>());
}

template <class T, template <size_t, class> class Factors, size_t kVectors, size_t... kRowsMinus1>
HWY_INLINE TileFunction<T> FindTransposedTileFunction(size_t rows, std::index_sequence<kRowsMinus1...>) {
  static constexpr TileFunction<T> functions[] = {
      MultiplyTransposedTile<Factors<kRowsMinus1 + 1, T>, kRowsMinus1 + 1, kVectors, T>...};
  return functions[rows - 1];
}

// The same for a transposed B in place: 1 vector up to kSquareRows; if the factors are packed also kTileVectors up
// to kSquareWideRows.
template <class T>
HWY_INLINE TileFunction<T> FindTransposedTileFunction(size_t rows, size_t vectors, bool packed) {
  using AllRows = std::make_index_sequence<kSquareRows>;
  if (!packed) return FindTransposedTileFunction<T, FactorRows, 1>(rows, AllRows());
  if (vectors == 1) return FindTransposedTileFunction<T, PackedFactors, 1>(rows, AllRows());
  return FindTransposedTileFunction<T, PackedFactors, kTileVectors>(rows, std::make_index_sequence<kSquareWideRows>());
}

}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#endif  // FUSEPROP_KERNELS_DENSE_MATMUL_INL_H_
