// The gradient at the outputs of a dense layer.

#ifndef FUSEPROP_KERNELS_DENSE_DENSE_GRADIENT_H_
#define FUSEPROP_KERNELS_DENSE_DENSE_GRADIENT_H_

#include <cstddef>

#include "kernels/activations/activations.h"

namespace fuseprop {

// What comes before the products in the backward pass of a layer y = f(u), u = x W + b, in one pass over dy, the
// gradient by y: du = dy f'(u), and the gradient by b, sums[j] = (accumulate ? sums[j] : 0) + the sum of column j of
// du.
template <class T>
struct OutputGradient {
  size_t m = 0, n = 0;
  const T* dy = nullptr;
  size_t stride = 0;  // of the rows of dy, in elements; n with an activation
  // f, of the calling thread's target. Null: the identity; dy is du, which is not written.
  const ActivationOps<T>* activation = nullptr;
  const double* parameters = nullptr;
  const T* u = nullptr;
  T* du = nullptr;    // may be dy
  T* sums = nullptr;  // (n,), or null. Formed in float64 in a fixed order.
  bool accumulate = false;
};

// Throws std::bad_alloc before anything is written; otherwise does not throw.
void FinishGradient(const OutputGradient<float>& args);
void FinishGradient(const OutputGradient<double>& args);

// Likewise gets its memory.
void ReserveGradient(const OutputGradient<float>& args);
void ReserveGradient(const OutputGradient<double>& args);

// sums[j] = (accumulate ? sums[j] : 0) + the sum over i of x[i * stride + j], for i < m and j < n: FinishGradient
// without an activation.
template <class T>
void ColumnSum(const T* x, size_t m, size_t n, size_t stride, bool accumulate, T* sums) {
  OutputGradient<T> args;
  args.m = m;
  args.n = n;
  args.dy = x;
  args.stride = stride;
  args.sums = sums;
  args.accumulate = accumulate;
  FinishGradient(args);
}

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_DENSE_DENSE_GRADIENT_H_
