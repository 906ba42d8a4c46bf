// The micro-kernels of the matrix product and the packing of their operands. Per-target header.

#if defined(FUSEPROP_KERNELS_MATMUL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSEPROP_KERNELS_MATMUL_INL_H_
#undef FUSEPROP_KERNELS_MATMUL_INL_H_
#else
#define FUSEPROP_KERNELS_MATMUL_INL_H_
#endif

#include <cstddef>
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
#else  // 16 registers
constexpr size_t kTileRows = 6;
constexpr size_t kWideAccumulators = 12;
#endif
constexpr size_t kTileVectors = 2;
constexpr size_t kWideRows = 4;
constexpr size_t WideVectors(size_t rows) { return HWY_MIN(kWideAccumulators / rows, size_t{16}); }

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
  // What to bring nearer meanwhile, a row of B's shape for each step of k; or null.
  const T* fetch;
  size_t fetch_k;
};

constexpr size_t kLineBytes = 64;

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

template <size_t kRows, size_t kVectors, class T>
void MultiplyTile(const Tile<T>& tile) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const D d;
  const size_t lanes = hn::Lanes(d);
  const TileRow<kVectors, D> in_row(d, tile.last);
  V acc[kRows][kVectors];
  StartTile(d, tile, in_row, acc);

  // Two pointers and three strides in bytes reach 14 rows as base + scale * index: few enough for registers.
  const size_t stride = tile.a_row * sizeof(T);
  const size_t stride3 = 3 * stride;
  const size_t stride5 = 5 * stride;
  const size_t a_step = tile.a_k * sizeof(T);
  const char* HWY_RESTRICT a0 = reinterpret_cast<const char*>(tile.a);
  const char* HWY_RESTRICT a7 = a0 + (kRows > 7 ? 7 * stride : 0);
  const auto a_element = [&](size_t r) HWY_ATTR {
    const size_t q = r < 7 ? r : r - 7;
    const size_t offset = q == 6 ? 2 * stride3 : q == 5 ? stride5 : q == 3 ? stride3 : q * stride;
    return *reinterpret_cast<const T*>((r < 7 ? a0 : a7) + offset);
  };
  const T* HWY_RESTRICT b = tile.b;
  const size_t b_step = tile.b_k;
  const T* fetch = tile.fetch;
  const size_t fetch_step = tile.fetch_k;
  for (size_t k = tile.k; k != 0; --k) {
    if (kVectors >= kTileVectors && fetch != nullptr) {
      // A wide tile's B is used at once, another panel's later: that waits in the second cache.
      constexpr int kNearness = kVectors > kTileVectors ? 3 : 2;
      HWY_UNROLL(16)
      for (size_t v = 0; v < kVectors * lanes; v += kLineBytes / sizeof(T)) __builtin_prefetch(fetch + v, 0, kNearness);
      fetch += fetch_step;
    }
    V b_row[kVectors];
    HWY_UNROLL(16)
    for (size_t v = 0; v < kVectors; ++v) b_row[v] = hn::LoadU(d, b + v * lanes);
    HWY_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r) {
      const V a = hn::Set(d, a_element(r));
      HWY_UNROLL(16)
      for (size_t v = 0; v < kVectors; ++v) acc[r][v] = hn::MulAdd(a, b_row[v], acc[r][v]);
    }
    a0 += a_step;
    a7 += a_step;
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

// Transposes a square of vectors.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void TransposeSquare(D d, V (&v)[hn::MaxLanes(D())]) {
  constexpr size_t kInBlock = 16 / sizeof(hn::TFromD<D>);  // lanes of a block of 128 bits
  constexpr size_t kBlocks = hn::MaxLanes(D()) / kInBlock;
  // Vector q * kInBlock + i receives the q-th blocks of the vectors i, kInBlock + i, 2 * kInBlock + i ...
  HWY_UNROLL(4)
  for (size_t i = 0; i < kInBlock; ++i) {
    if constexpr (kBlocks == 2) {
      const V low = hn::ConcatLowerLower(d, v[kInBlock + i], v[i]);
      v[kInBlock + i] = hn::ConcatUpperUpper(d, v[kInBlock + i], v[i]);
      v[i] = low;
    } else if constexpr (kBlocks == 4) {
      const V low02 = hn::ConcatLowerLower(d, v[2 * kInBlock + i], v[i]);
      const V low13 = hn::ConcatLowerLower(d, v[3 * kInBlock + i], v[kInBlock + i]);
      const V high02 = hn::ConcatUpperUpper(d, v[2 * kInBlock + i], v[i]);
      const V high13 = hn::ConcatUpperUpper(d, v[3 * kInBlock + i], v[kInBlock + i]);
      v[i] = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(low13), low02);
      v[kInBlock + i] = hn::OddEvenBlocks(low13, hn::SwapAdjacentBlocks(low02));
      v[2 * kInBlock + i] = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(high13), high02);
      v[3 * kInBlock + i] = hn::OddEvenBlocks(high13, hn::SwapAdjacentBlocks(high02));
    } else {
      static_assert(kBlocks == 1, "no network for this size");
    }
  }
  // Transposes within blocks.
  HWY_UNROLL(4)
  for (size_t q = 0; q < kBlocks; ++q) {
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

// Copies the transpose of a (rows, cols) matrix: to[c * to_row + r]. The rows of `to` are aligned and hold
// whole vectors; copies of the last element fill them up.
template <class T>
void CopyTransposed(const T* from, size_t from_row, size_t rows, size_t cols, T* to, size_t to_row) {
  const hn::ScalableTag<T> d;
  constexpr size_t kLanes = hn::MaxLanes(d);
  hn::Vec<decltype(d)> square[kLanes];
  for (size_t r = 0; r < rows; r += kLanes) {
    const T* row[kLanes];
    for (size_t i = 0; i < kLanes; ++i) row[i] = from + HWY_MIN(r + i, rows - 1) * from_row;
    size_t c = 0;
    for (; c + kLanes <= cols; c += kLanes) {
      HWY_UNROLL(16)
      for (size_t i = 0; i < kLanes; ++i) square[i] = hn::LoadU(d, row[i] + c);
      TransposeSquare(d, square);
      HWY_UNROLL(16)
      for (size_t i = 0; i < kLanes; ++i) hn::Store(square[i], d, to + (c + i) * to_row + r);
    }
    if (c == cols) continue;
    const FirstLanes<decltype(d)> rest(d, cols - c);
    HWY_UNROLL(16)
    for (size_t i = 0; i < kLanes; ++i) square[i] = rest.Load(d, row[i] + c);
    TransposeSquare(d, square);
    HWY_UNROLL(16)
    for (size_t i = 0; i < kLanes; ++i) {
      if (c + i == cols) break;
      hn::Store(square[i], d, to + (c + i) * to_row + r);
    }
  }
}

// to = the transpose of a (rows, cols) matrix [+ bias] [+ to]; bias has `rows` elements. The rows of `from` are
// padded to whole vectors.
template <class T>
void FinishTransposed(const T* from, size_t from_row, size_t rows, size_t cols, const T* bias, bool accumulate, T* to,
                      size_t to_row) {
  const hn::ScalableTag<T> d;
  constexpr size_t kLanes = hn::MaxLanes(d);
  using V = hn::Vec<decltype(d)>;
  if (rows == 1 && to_row == 1) {  // as it stands
    const V v_bias = hn::Set(d, bias != nullptr ? *bias : T(0));
    for (size_t c = 0; c < cols; c += kLanes) {
      const FirstLanes<decltype(d)> part(d, HWY_MIN(kLanes, cols - c));
      V v = hn::LoadU(d, from + c);
      if (bias != nullptr) v = hn::Add(v, v_bias);
      if (accumulate) v = hn::Add(v, part.Load(d, to + c));
      part.Store(v, d, to + c);
    }
    return;
  }
  V square[kLanes];
  for (size_t r = 0; r < rows; r += kLanes) {
    const FirstLanes<decltype(d)> part(d, HWY_MIN(kLanes, rows - r));
    const V v_bias = bias != nullptr ? part.Load(d, bias + r) : hn::Zero(d);
    for (size_t c = 0; c < cols; c += kLanes) {
      HWY_UNROLL(16)
      for (size_t i = 0; i < kLanes; ++i) square[i] = hn::LoadU(d, from + HWY_MIN(r + i, rows - 1) * from_row + c);
      TransposeSquare(d, square);
      HWY_UNROLL(16)
      for (size_t i = 0; i < kLanes; ++i) {
        if (c + i == cols) break;
        T* row = to + (c + i) * to_row + r;
        V v = square[i];
        if (bias != nullptr) v = hn::Add(v, v_bias);
        if (accumulate) v = hn::Add(v, part.Load(d, row));
        part.Store(v, d, row);
      }
    }
  }
}

// For few rows: a tile whose B is transposed in memory, with row stride b_k, and in registers as it is read.
template <size_t kRows, size_t kVectors, class T>
void MultiplyTransposedTile(const Tile<T>& tile) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const D d;
  constexpr size_t kLanes = hn::MaxLanes(d);
  const TileRow<kVectors, D> in_row(d, tile.last);
  V acc[kRows][kVectors];
  StartTile(d, tile, in_row, acc);
  const T* column[kVectors * kLanes];
  for (size_t j = 0; j < kVectors * kLanes; ++j) {
    column[j] = tile.b + HWY_MIN(j, (kVectors - 1) * kLanes + tile.last - 1) * tile.b_k;
  }
  const T* HWY_RESTRICT a = tile.a;
  for (size_t k = 0; k < tile.k; k += kLanes) {
    const size_t count = HWY_MIN(kLanes, tile.k - k);
    if (tile.fetch != nullptr) {
      // So many short pieces at a time are more than processors fetch ahead. At the end of the rows, the next tile's.
      constexpr size_t kAhead = 4 * kLineBytes / sizeof(T);
      const T* ahead = k + kAhead < tile.k ? tile.b + (k + kAhead) : tile.fetch + (k + kAhead - tile.k);
      HWY_UNROLL(1)
      for (size_t j = 0; j < kVectors * kLanes; ++j, ahead += tile.b_k) __builtin_prefetch(ahead);
    }
    HWY_UNROLL(2)
    for (size_t v = 0; v < kVectors; ++v) {
      V square[kLanes];
      if (count == kLanes) {
        HWY_UNROLL(16)
        for (size_t i = 0; i < kLanes; ++i) square[i] = hn::LoadU(d, column[v * kLanes + i] + k);
      } else {
        const FirstLanes<D> rest(d, count);
        HWY_UNROLL(16)
        for (size_t i = 0; i < kLanes; ++i) square[i] = rest.Load(d, column[v * kLanes + i] + k);
      }
      TransposeSquare(d, square);
      HWY_UNROLL(16)
      for (size_t i = 0; i < kLanes; ++i) {
        if (i == count) break;
        HWY_UNROLL(4)
        for (size_t r = 0; r < kRows; ++r) {
          acc[r][v] = hn::MulAdd(hn::Set(d, a[r * tile.a_row + (k + i) * tile.a_k]), square[i], acc[r][v]);
        }
      }
    }
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

template <class T, size_t kVectors, size_t... kRowsMinus1>
HWY_INLINE TileFunction<T> FindTransposedTileFunction(size_t rows, std::index_sequence<kRowsMinus1...>) {
  static constexpr TileFunction<T> functions[] = {MultiplyTransposedTile<kRowsMinus1 + 1, kVectors, T>...};
  return functions[rows - 1];
}

// The same for a transposed B in place: 1 or kTileVectors vectors, up to kWideRows.
template <class T>
HWY_INLINE TileFunction<T> FindTransposedTileFunction(size_t rows, size_t vectors) {
  using FewRows = std::make_index_sequence<kWideRows>;
  if (vectors == 1) return FindTransposedTileFunction<T, 1>(rows, FewRows());
  return FindTransposedTileFunction<T, kTileVectors>(rows, FewRows());
}

}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#endif  // FUSEPROP_KERNELS_MATMUL_INL_H_
