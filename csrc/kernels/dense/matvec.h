// The product of a matrix with a vector: each element of the matrix is used once, so that reading it is what counts.

#ifndef FUSEPROP_KERNELS_DENSE_MATVEC_H_
#define FUSEPROP_KERNELS_DENSE_MATVEC_H_

#include "kernels/dense/matmul.h"

namespace fuseprop {

// Whether a product is one of a matrix with a vector: C has one column; or one row, and B is given as its transpose, so
// that an element of C is the product of two rows in memory. (One row of C from rows of B is an ordinary product: the
// vectors are filled by neighbours in C, and the sums are those of a row of a larger product.)
template <class T>
bool IsMatvec(const MatmulArgs<T>& args) {
  return args.n == 1 || (args.m == 1 && args.transpose_b);
}

// Matmul for such a product; with `reserve`, only gets the memory.
void Matvec(const MatmulArgs<float>& args, bool reserve);
void Matvec(const MatmulArgs<double>& args, bool reserve);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_DENSE_MATVEC_H_
