// Dense layers in a row, forward and backward: the matrix products of a network without a call from outside for each.

#ifndef FUSEPROP_KERNELS_DENSE_DENSE_H_
#define FUSEPROP_KERNELS_DENSE_DENSE_H_

#include <cstddef>

#include "kernels/activations/activations.h"
#include "kernels/dense/dense_gradient.h"
#include "kernels/dense/matmul.h"

namespace fuseprop {

// The epilogue of a product that applies f to the rectangles of u while they are in the cache; y may be u. The table is
// that of the calling thread's target: the workers' own may be another.
template <class T>
struct ActivationEpilogue {
  const ActivationOps<T>* ops;
  const double* parameters;
  const T* u;
  T* y;

  static void Run(const void* context, const MatmulRectangle<T>& r) {
    const auto& self = *static_cast<const ActivationEpilogue*>(context);
    if (r.cols == r.ldc) {  // whole rows are one piece
      self.ops->forward(self.parameters, r.c, self.y + (r.c - self.u), r.rows * r.cols, false);
      return;
    }
    for (size_t i = 0; i < r.rows; ++i) {
      const T* from = r.c + i * r.ldc;
      self.ops->forward(self.parameters, from, self.y + (from - self.u), r.cols, false);
    }
  }
};

// y = f(u), u = x W + b, with W (in, out), and back. Everything but x is contiguous.
template <class T>
struct DenseLayer {
  static constexpr size_t kIdentity = static_cast<size_t>(-1);

  size_t in = 0, out = 0;
  const T* weight = nullptr;
  const T* bias = nullptr;  // or null
  T* dweight = nullptr;
  T* dbias = nullptr;                  // null if there is no bias
  size_t activation = kIdentity;       // f: a row of Activations()
  const double* parameters = nullptr;  // of f
  // Of one batch.
  T* y = nullptr;
  T* u = nullptr;  // null if y is all that f' needs
  T* dx = nullptr;

  const T* From() const { return u != nullptr ? u : y; }
};

// x[rows, layers[0].in] with a row stride in elements; the result is in the last layer's y.
template <class T>
void DenseForward(const DenseLayer<T>* layers, size_t count, const T* x, size_t x_stride, size_t rows);

// From dy[rows, out of the last layer], which is overwritten: dweight and dbias of all layers, and the first one's dx
// if it is wanted. With `accumulate` they are added to, and std::bad_alloc is thrown before that.
template <class T>
void DenseBackward(const DenseLayer<T>* layers, size_t count, const T* x, size_t x_stride, size_t rows, T* dy,
                   bool accumulate, bool want_dx);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_DENSE_DENSE_H_
