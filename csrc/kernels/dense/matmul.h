// The matrix product.

#ifndef FUSEPROP_KERNELS_DENSE_MATMUL_H_
#define FUSEPROP_KERNELS_DENSE_MATMUL_H_

#include <cstddef>

#include "kernels/dense/matmul_plan.h"

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
// of threads or, where FUSEPROP_HAVE_FMA is 1, the target. But for products with a vector (matvec.h), where it is a
// chain for each of 64 bytes of virtual lanes: they depend neither on the number of rows, the threads nor the target.
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

// How such a product of more than one column and row would be computed: for tests.
MatmulPlan PlanMatmul(const MatmulArgs<float>& args);
MatmulPlan PlanMatmul(const MatmulArgs<double>& args);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_DENSE_MATMUL_H_
