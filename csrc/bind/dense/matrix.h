// The operands of a dense layer: matrices of any strides that the matrix product can read, and vectors.

#ifndef FUSEPROP_BIND_DENSE_MATRIX_H_
#define FUSEPROP_BIND_DENSE_MATRIX_H_

#include "bind/args.h"

namespace fuseprop {
namespace bind {

// A two-dimensional operand as the kernel reads it: row-major with a row stride, perhaps transposed.
struct Matrix {
  Ref given;
  Ref array;
  npy_intp rows, cols;
  size_t stride = 0;  // of the rows in memory, in elements
  bool transposed = false;

  Matrix(const Ref& argument, const char* name) : given(FloatArray(argument, name)) {
    PyArrayObject* x = given.array();
    if (PyArray_NDIM(x) != 2) {
      Raise(PyExc_ValueError, "%s has shape %s; expected two dimensions", name, ShapeText(x).c_str());
    }
    rows = PyArray_DIM(x, 0);
    cols = PyArray_DIM(x, 1);
    array = Ref::Borrow(given.get());
    if (HasRowStride(rows, cols, PyArray_STRIDE(x, 0), PyArray_STRIDE(x, 1))) return;
    if (HasRowStride(cols, rows, PyArray_STRIDE(x, 1), PyArray_STRIDE(x, 0))) {
      transposed = true;
      return;
    }
    array = COrdered(given);
    stride = static_cast<size_t>(cols);
  }

  bool HasRowStride(npy_intp num_rows, npy_intp num_cols, npy_intp row_stride, npy_intp col_stride) {
    const npy_intp itemsize = PyArray_ITEMSIZE(array.array());
    if (num_cols > 1 && col_stride != itemsize) return false;
    if (num_rows <= 1) {
      stride = static_cast<size_t>(num_cols);
      return true;
    }
    if (row_stride % itemsize != 0 || row_stride < num_cols * itemsize) return false;
    stride = static_cast<size_t>(row_stride / itemsize);
    return true;
  }

  int typenum() const { return PyArray_TYPE(array.array()); }
  std::string Shape() const { return ShapeText(given.array()); }
};

// Arrays that are added to or read whole: one row stride does not serve them.
inline Ref Vector(const Ref& argument, const char* name, npy_intp length, const char* meaning) {
  const Ref array = FloatArray(argument, name);
  if (PyArray_NDIM(array.array()) != 1 || PyArray_DIM(array.array(), 0) != length) {
    Raise(PyExc_ValueError, "%s has shape %s; expected (%zd,), %s", name, ShapeText(array.array()).c_str(), length,
          meaning);
  }
  return COrdered(array);
}

}  // namespace bind
}  // namespace fuseprop

#endif  // FUSEPROP_BIND_DENSE_MATRIX_H_
