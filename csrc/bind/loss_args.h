// What all losses' arguments have in common: reductions and sample weights.

#ifndef FUSEPROP_BIND_LOSS_ARGS_H_
#define FUSEPROP_BIND_LOSS_ARGS_H_

#include <cmath>
#include <cstring>
#include <utility>

#include "bind/args.h"
#include "kernels/losses.h"
#include "kernels/row_weights.h"

namespace fuseprop {
namespace bind {

// The type _core.Loss, whose verbs other kinds of losses override.
extern PyTypeObject* loss_type;

enum class Reduction { kMean, kSum, kNone };

inline Reduction AsReduction(PyObject* object) {
  if (PyUnicode_Check(object)) {
    if (PyUnicode_CompareWithASCIIString(object, "mean") == 0) return Reduction::kMean;
    if (PyUnicode_CompareWithASCIIString(object, "sum") == 0) return Reduction::kSum;
    if (PyUnicode_CompareWithASCIIString(object, "none") == 0) return Reduction::kNone;
  }
  Raise(PyExc_ValueError, "reduction is %R; expected \"mean\", \"sum\" or \"none\"", object);
}

// sum_i w_i in float64.
inline double SumOf(const Ref& array) {
  const ReleaseGil release(Size(array));
  return IsFloat32(array) ? Sum(Data<float>(array), Size(array)) : Sum(Data<double>(array), Size(array));
}

// The sum of the weights of a "mean", which are divided by a power of two before if they, on average, are far from 1.
inline double SumForMean(Ref* weight) {
  const double sum = SumOf(*weight);
  const size_t n = Size(*weight);
  if (n == 0 || IsModerate(sum / static_cast<double>(n))) return sum;
  PyArrayObject* const given = weight->array();
  Ref moderate = Ref::Check(PyArray_NewLikeArray(given, NPY_KEEPORDER, nullptr, 0));
  if (IsFloat32(*weight)) {
    Normalised(Data<float>(*weight), n, static_cast<float*>(PyArray_DATA(moderate.array())));
  } else {
    Normalised(Data<double>(*weight), n, static_cast<double*>(PyArray_DATA(moderate.array())));
  }
  *weight = std::move(moderate);
  return SumOf(*weight);
}

// What a "mean" divides by and a gradient is multiplied with.
struct Scale {
  double value = 1.0;
  double grad = 1.0;
  Scale() = default;
  Scale(Reduction reduction, double denominator) {
    if (reduction != Reduction::kMean) return;
    value = denominator;
    // A batch with nothing in it has value 0 and gradient 0.
    grad = denominator == 0.0 ? 0.0 : 1.0 / denominator;
  }
  bool IsEmpty() const { return value == 0.0; }
  double Reduce(double sum) const { return IsEmpty() ? 0.0 : sum / value; }
  // 0 for an empty batch, whatever its elements are.
  void Finish(const Ref& gradient) const {
    if (IsEmpty())
      std::memset(PyArray_DATA(gradient.array()), 0, static_cast<size_t>(PyArray_NBYTES(gradient.array())));
  }
};

// None, or a number to raise the Hessian to.
inline bool AsFloor(PyObject* object, double* floor) {
  if (object == Py_None) return false;
  *floor = AsDouble(object, "hess_floor");
  if (!std::isfinite(*floor)) Raise(PyExc_ValueError, "hess_floor is %R; expected a finite number or None", object);
  return true;
}

}  // namespace bind
}  // namespace fuseprop

#endif  // FUSEPROP_BIND_LOSS_ARGS_H_
