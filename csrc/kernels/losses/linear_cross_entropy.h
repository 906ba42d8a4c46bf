// Softmax cross-entropy of a dense layer's output, x weight + bias, and the gradients by all three
// (docs/mathematics.md 3), without the whole of the logits: they are there a block of rows at a time.

#ifndef FUSEPROP_KERNELS_LOSSES_LINEAR_CROSS_ENTROPY_H_
#define FUSEPROP_KERNELS_LOSSES_LINEAR_CROSS_ENTROPY_H_

#include "kernels/losses/softmax_cross_entropy.h"

namespace fuseprop {

template <class T>
struct LinearCrossEntropyArgs {
  // All but logits, grad and hess: rows, classes, the target, the rows' weights, options, row_value.
  SoftmaxCrossEntropyArgs<T> loss;
  size_t features = 0;
  const T* x = nullptr;  // (rows, features); transposed: (features, rows). The strides count elements.
  size_t x_stride = 0;
  bool x_transposed = false;
  const T* weight = nullptr;  // (features, classes); transposed: (classes, features)
  size_t weight_stride = 0;
  bool weight_transposed = false;
  const T* bias = nullptr;  // (classes,); null for none
  T* memory = nullptr;      // LinearCrossEntropyMemory elements, for a block
  // Outputs, without gaps: null if not wanted. dweight goes with dx.
  T* dx = nullptr;
  T* dweight = nullptr;
  T* dbias = nullptr;
};

// How much memory a block takes, in elements: at most 40 MiB, unless a single row takes more.
size_t LinearCrossEntropyMemory(const LinearCrossEntropyArgs<float>& args);
size_t LinearCrossEntropyMemory(const LinearCrossEntropyArgs<double>& args);

// As SoftmaxCrossEntropy; what x has in rows that are ignored is not looked at. With an invalid label nothing is
// written, with an invalid distribution the outputs are unspecified. Throws std::bad_alloc.
SoftmaxCrossEntropyResult LinearCrossEntropy(const LinearCrossEntropyArgs<float>& args);
SoftmaxCrossEntropyResult LinearCrossEntropy(const LinearCrossEntropyArgs<double>& args);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_LOSSES_LINEAR_CROSS_ENTROPY_H_
