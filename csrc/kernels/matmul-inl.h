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

// A micro-tile is up to kTileRows x kTileVectors vectors of C, or for few rows kWideRows x kWideVectors: as many
// accumulators as leave registers for a row of B and an element of A.
#if HWY_TARGET == HWY_AVX3 || (HWY_ARCH_ARM_A64 && HWY_TARGET == HWY_NEON)  // 32 registers
constexpr size_t kTileRows = 14, kTileVectors = 2;
constexpr size_t kWideRows = 3, kWideVectors = 8;
#else  // 16 registers
constexpr size_t kTileRows = 6, kTileVectors = 2;
constexpr size_t kWideRows = 3, kWideVectors = 4;
#endif

// Operands of a micro-tile. Strides count elements.
template <class T>
struct Tile {
  size_t k;
  const T* a;
  size_t a_row, a_k;  // strides of A over rows and over k
  const T* b;
  size_t b_k;       // stride of B over k; its rows are whole vectors
  size_t last;      // elements of C in the last vector
  const T* from;    // where the chains go on from; null: they start at zero
  size_t from_row;
  T* to;
  size_t to_row;
  const T* bias;    // for these columns, or null
  bool accumulate;  // adds what `to` holds
};

template <size_t kRows, size_t kVectors, class T>
void MultiplyTile(const Tile<T>& tile) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const D d;
  const size_t lanes = hn::Lanes(d);
  V acc[kRows][kVectors];

  const bool whole = tile.last == lanes;
  const auto load = [&](const T* row, size_t v) HWY_ATTR {
    return v + 1 < kVectors || whole ? hn::LoadU(d, row + v * lanes)
                                     : LoadPartial(d, row + v * lanes, tile.last);
  };
  const auto for_each = [&](const auto& body) HWY_ATTR {
    HWY_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r) {
      HWY_UNROLL(8)
      for (size_t v = 0; v < kVectors; ++v) body(r, v, acc[r][v]);
    }
  };

  if (tile.from == nullptr) {
    for_each([&](size_t, size_t, V& sum) HWY_ATTR { sum = hn::Zero(d); });
  } else {
    for_each([&](size_t r, size_t v, V& sum) HWY_ATTR { sum = load(tile.from + r * tile.from_row, v); });
  }

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
  for (size_t k = tile.k; k != 0; --k) {
    V b_row[kVectors];
    HWY_UNROLL(8)
    for (size_t v = 0; v < kVectors; ++v) b_row[v] = hn::LoadU(d, b + v * lanes);
    HWY_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r) {
      const V a = hn::Set(d, a_element(r));
      HWY_UNROLL(8)
      for (size_t v = 0; v < kVectors; ++v) acc[r][v] = hn::MulAdd(a, b_row[v], acc[r][v]);
    }
    a0 += a_step;
    a7 += a_step;
    b += b_step;
  }

  if (tile.bias != nullptr) {
    for_each([&](size_t, size_t v, V& sum) HWY_ATTR { sum = hn::Add(sum, load(tile.bias, v)); });
  }
  if (tile.accumulate) {
    for_each([&](size_t r, size_t v, V& sum) HWY_ATTR {
      sum = hn::Add(sum, load(tile.to + r * tile.to_row, v));
    });
  }
  for_each([&](size_t r, size_t v, const V& sum) HWY_ATTR {
    T* to = tile.to + r * tile.to_row + v * lanes;
    if (v + 1 < kVectors || whole) {
      hn::StoreU(sum, d, to);
    } else {
      StorePartial(sum, d, to, tile.last);
    }
  });
}

template <class T>
using TileFunction = void (*)(const Tile<T>&);

template <class T, size_t kVectors, size_t... kRowsMinus1>
HWY_INLINE TileFunction<T> TileFunctionForRows(size_t rows, std::index_sequence<kRowsMinus1...>) {
  static constexpr TileFunction<T> functions[] = {MultiplyTile<kRowsMinus1 + 1, kVectors, T>...};
  return functions[rows - 1];
}

// The kernel for a tile of 1, kTileVectors or, up to kWideRows, kWideVectors vectors.
template <class T>
HWY_INLINE TileFunction<T> FindTileFunction(size_t rows, size_t vectors) {
  if (vectors == kTileVectors) {
    return TileFunctionForRows<T, kTileVectors>(rows, std::make_index_sequence<kTileRows>());
  }
  if (vectors == 1) return TileFunctionForRows<T, 1>(rows, std::make_index_sequence<kTileRows>());
  return TileFunctionForRows<T, kWideVectors>(rows, std::make_index_sequence<kWideRows>());
}

// Fetches part `part` of `parts` of a (rows, cols) matrix into the second cache.
template <class T>
HWY_INLINE void PrefetchRows(const T* from, size_t from_row, size_t rows, size_t cols, size_t part, size_t parts) {
  constexpr size_t kLine = 64 / sizeof(T);
  const size_t lines = cols / kLine + 1;  // of a row that starts anywhere
  const size_t end = rows * lines * (part + 1) / parts;
  size_t i = rows * lines * part / parts;
  size_t r = i / lines;
  size_t line = i % lines;
  for (; i < end; ++i) {
    __builtin_prefetch(from + r * from_row + HWY_MIN(line * kLine, cols - 1), 0, 2);
    if (++line == lines) {
      line = 0;
      ++r;
    }
  }
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

// Copies a (rows, cols) matrix to panels of `width` columns, one after the other; width is in whole vectors. Reads
// row by row, as that is what processors fetch ahead of.
template <class T>
void CopyPanels(const T* from, size_t from_row, size_t rows, size_t cols, T* to, size_t width) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  constexpr size_t kRowsAhead = 8;
  for (size_t r = 0; r < rows; ++r, from += from_row, to += width) {
    const T* ahead = from + HWY_MIN(kRowsAhead, rows - 1 - r) * from_row;
    T* panel = to;
    for (size_t begin = 0; begin < cols; begin += width, panel += rows * width) {
      const size_t end = HWY_MIN(cols, begin + width);
      for (size_t c = begin; c < end; c += lanes) {
        __builtin_prefetch(ahead + c);
        hn::Store(end - c < lanes ? LoadPartial(d, from + c, end - c) : hn::LoadU(d, from + c), d,
                  panel + (c - begin));
      }
    }
  }
}

// A vector of the 128-bit blocks that start `stride` elements from each other.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadBlocks(D d, const T* from, size_t stride) {
  constexpr size_t kBytes = hn::MaxLanes(D()) * sizeof(T);
  if constexpr (kBytes <= 16) {
    return hn::LoadU(d, from);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, LoadBlocks(half, from + kBytes / 32 * stride, stride), LoadBlocks(half, from, stride));
  }
}

// Copies the transpose of a (rows, cols) matrix, a row for each column: to[c * to_row + r]. The rows of `to` are
// aligned and hold whole vectors; what fills them up is not specified.
template <class T>
void CopyTransposed(const T* from, size_t from_row, size_t rows, size_t cols, T* to, size_t to_row) {
  using D = hn::ScalableTag<T>;
  const D d;
  const size_t lanes = hn::Lanes(d);
  constexpr size_t kBlock = 16 / sizeof(T);  // square blocks of this size are transposed within vectors
  size_t r = 0;
  for (; r + lanes <= rows; r += lanes) {
    const T* source = from + r * from_row;
    size_t c = 0;
    for (; c + kBlock <= cols; c += kBlock) {
      hn::Vec<D> in[kBlock];
      HWY_UNROLL(4)
      for (size_t i = 0; i < kBlock; ++i) in[i] = LoadBlocks(d, source + i * from_row + c, kBlock * from_row);
      T* target = to + c * to_row + r;
      if constexpr (kBlock == 2) {
        hn::Store(hn::InterleaveLower(d, in[0], in[1]), d, target);
        hn::Store(hn::InterleaveUpper(d, in[0], in[1]), d, target + to_row);
      } else {
        const auto low02 = hn::InterleaveLower(d, in[0], in[2]);
        const auto high02 = hn::InterleaveUpper(d, in[0], in[2]);
        const auto low13 = hn::InterleaveLower(d, in[1], in[3]);
        const auto high13 = hn::InterleaveUpper(d, in[1], in[3]);
        hn::Store(hn::InterleaveLower(d, low02, low13), d, target);
        hn::Store(hn::InterleaveUpper(d, low02, low13), d, target + to_row);
        hn::Store(hn::InterleaveLower(d, high02, high13), d, target + 2 * to_row);
        hn::Store(hn::InterleaveUpper(d, high02, high13), d, target + 3 * to_row);
      }
    }
    for (; c < cols; ++c) {
      for (size_t i = 0; i < lanes; ++i) to[c * to_row + r + i] = source[i * from_row + c];
    }
  }
  for (; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) to[c * to_row + r] = from[r * from_row + c];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#endif  // FUSEPROP_KERNELS_MATMUL_INL_H_
