// Many tensors that are updated together, and how they are cut for threads.

#ifndef FUSEPROP_KERNELS_OPTIM_TENSOR_LIST_H_
#define FUSEPROP_KERNELS_OPTIM_TENSOR_LIST_H_

#include <algorithm>
#include <cstddef>
#include <vector>

#include "simd/partition.h"

namespace fuseprop {

constexpr size_t kMaxStates = 3;

template <class T>
struct Tensor {
  T* parameter = nullptr;
  const T* grad = nullptr;
  T* states[kMaxStates] = {};
  size_t n = 0;
};

// The cut into blocks depends on the sizes alone and is kept between steps: a step allocates nothing.
template <class T>
struct TensorList {
  std::vector<Tensor<T>> tensors;
  std::vector<size_t> first_block;  // of each tensor, and the total
  std::vector<double> block_sums;   // scratch for sums over all tensors

  void CutIntoBlocks() {
    first_block.assign(1, 0);
    for (const Tensor<T>& tensor : tensors) {
      first_block.push_back(first_block.back() + (tensor.n + kBlock - 1) / kBlock);
    }
    block_sums.resize(first_block.back());
  }
};

// Calls body(tensor, its first block, begin, end) for ranges that cover all tensors and start at multiples of
// kBlock.
template <class T, class Body>
void ForEachTensorRange(const TensorList<T>& list, const Body& body) {
  const size_t blocks = list.first_block.back();
  const auto run = [&](size_t begin, size_t end) {
    const auto next = std::upper_bound(list.first_block.begin(), list.first_block.end(), begin);
    for (size_t i = static_cast<size_t>(next - list.first_block.begin()) - 1; begin < end; ++i) {
      const size_t first = list.first_block[i];
      const size_t stop = std::min(end, list.first_block[i + 1]);
      const Tensor<T>& tensor = list.tensors[i];
      if (begin < stop) body(tensor, first, (begin - first) * kBlock, std::min(tensor.n, (stop - first) * kBlock));
      begin = std::max(begin, stop);
    }
  };
  // Three to seven streams per element: worth a second thread earlier than a map is.
  constexpr size_t kParallelBlocks = kParallelElements / kBlock / 2;
  const size_t threads = blocks < kParallelBlocks ? 1 : static_cast<size_t>(NumThreads());
  if (threads == 1) {
    if (blocks != 0) run(0, blocks);
    return;
  }
  const size_t length = std::max<size_t>(1, blocks / (threads * 16));
  ParallelFor((blocks + length - 1) / length,
              [&](size_t range) { run(range * length, std::min(blocks, (range + 1) * length)); });
}

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_OPTIM_TENSOR_LIST_H_
