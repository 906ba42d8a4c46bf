// How an array is cut for threads and for sums. The cut never changes a result: maps are independent of it, and
// sums are formed per block of a fixed size and added in a fixed order.

#ifndef FUSEPROP_SIMD_PARTITION_H_
#define FUSEPROP_SIMD_PARTITION_H_

#include <algorithm>
#include <cstddef>
#include <vector>

#include "threads/pool.h"

namespace fuseprop {

// Elements of one block: the unit of sums and of work. 32 KiB of float32.
constexpr size_t kBlock = 8192;
// Below this many elements a second thread costs more than it saves (about 10 us of work).
constexpr size_t kParallelElements = 6 * kBlock;
// Outputs of at least this size go around the caches.
constexpr size_t kStreamBytes = size_t{8} << 20;

constexpr size_t CeilDiv(size_t a, size_t b) { return (a + b - 1) / b; }
constexpr size_t RoundUp(size_t a, size_t b) { return CeilDiv(a, b) * b; }

// Calls body(begin, end) for ranges that cover [0, n) and start at multiples of kBlock.
template <class Body>
void ForEachRange(size_t n, const Body& body) {
  const int threads = n < kParallelElements ? 1 : NumThreads();
  if (threads == 1) {
    if (n != 0) body(size_t{0}, n);
    return;
  }
  const size_t blocks = (n + kBlock - 1) / kBlock;
  // Enough ranges to even out threads that are disturbed, few enough to keep claiming them cheap.
  const size_t blocks_per_range = std::max<size_t>(1, blocks / (static_cast<size_t>(threads) * 16));
  const size_t ranges = (blocks + blocks_per_range - 1) / blocks_per_range;
  const size_t length = blocks_per_range * kBlock;
  ParallelFor(ranges, [&](size_t range) { body(range * length, std::min(n, (range + 1) * length)); });
}

// Calls body(row, begin, end) for pieces of rows of `length` elements that cover rows * length elements, on all
// threads if they are many; [begin, end) lies within [0, length). Long rows are cut, short ones come in runs.
template <class Body>
void ForEachRowPiece(size_t rows, size_t length, const Body& body) {
  ForEachRange(rows * length, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end;) {
      const size_t row = i / length;
      const size_t first = i - row * length;
      const size_t last = std::min(length, first + (end - i));
      body(row, first, last);
      i += last - first;
    }
  });
}

// Adds values[0, n) in a fixed tree; overwrites them.
inline double TreeSum(double* values, size_t n) {
  if (n == 0) return 0.0;
  for (; n > 1; n = (n + 1) / 2) {
    for (size_t i = 0; i < n / 2; ++i) values[i] = values[2 * i] + values[2 * i + 1];
    if (n % 2 != 0) values[n / 2] = values[n - 1];
  }
  return values[0];
}

// Sum over the blocks of [0, n) of body(begin, end), which returns the block's sum.
template <class Body>
double SumOverBlocks(size_t n, const Body& body) {
  if (n <= kBlock) return n == 0 ? 0.0 : body(size_t{0}, n);
  std::vector<double> sums((n + kBlock - 1) / kBlock);
  ForEachRange(n, [&](size_t begin, size_t end) {
    for (size_t block = begin; block < end; block += kBlock) {
      sums[block / kBlock] = body(block, std::min(end, block + kBlock));
    }
  });
  return TreeSum(sums.data(), sums.size());
}

}  // namespace fuseprop

#endif  // FUSEPROP_SIMD_PARTITION_H_
