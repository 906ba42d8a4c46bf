// Matrix product and the gradient at the outputs: what a dense layer computes forward and backward.

#ifndef FUSEPROP_KERNELS_MATMUL_H_
#define FUSEPROP_KERNELS_MATMUL_H_

#include <cstddef>

#include "kernels/activations.h"

namespace fuseprop {

// A finished rectangle of C, most likely still in the first or second cache. c points at C(row, col).
template <class T>
struct MatmulRectangle {
  T* c;
  size_t ldc;
  size_t row, rows;
  size_t col, cols;
};

// C = op(A) op(B) [+ bias] [+ C], where op(X) is X or its transpose: (m, k) times (k, n). Row-major; the row
// strides lda, ldb, ldc count elements. C overlaps nothing else.
//
// Every element of C is one chain of k fused multiply-adds in increasing order that starts from zero, then
// rounded sums with the bias and the old C. So it does not depend on the shape, the transpositions, the number
// of threads or, where FUSEPROP_HAVE_FMA is 1, the target.
// |error| <= (k + 2) * eps / 2 * (sum |a||b| + |bias| + |c|), up to second order.
template <class T>
struct MatmulArgs {
  size_t m = 0, n = 0, k = 0;
  const T* a = nullptr;  // (m, k); transposed: (k, m)
  size_t lda = 0;
  bool transpose_a = false;
  const T* b = nullptr;  // (k, n); transposed: (n, k)
  size_t ldb = 0;
  bool transpose_b = false;
  T* c = nullptr;
  size_t ldc = 0;
  const T* bias = nullptr;  // (n,), added to every row; or null
  bool accumulate = false;  // C += instead of C =

  // Called once for each of the rectangles that make up C, from any thread, when it is finished; or null. Must
  // not call Matmul.
  void (*epilogue)(const void* context, const MatmulRectangle<T>& rectangle) = nullptr;
  const void* context = nullptr;
};

// Throws std::bad_alloc before anything is written; otherwise does not throw.
void Matmul(const MatmulArgs<float>& args);
void Matmul(const MatmulArgs<double>& args);

// Gets the memory for such a product: the same thread's Matmul does not throw then, whatever it computes in between.
void ReserveMatmul(const MatmulArgs<float>& args);
void ReserveMatmul(const MatmulArgs<double>& args);

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

#endif  // FUSEPROP_KERNELS_MATMUL_H_
