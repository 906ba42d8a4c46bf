// softmax, log_softmax and logsumexp along any axis.

#include "kernels/activations/softmax.h"

#include "bind/activations/activations.h"
#include "bind/register.h"

namespace fuseprop {
namespace bind {
namespace {

// x with the axis last.
struct Line {
  Ref given;  // the caller's array
  Ref moved;  // a view with the axis last
  Ref rows;   // the same in C order
  int axis;
  int ndim;
  size_t num_rows = 1;
  size_t length;

  Line(const Ref& x, Py_ssize_t found) : given(FloatArray(x, "x")) {
    ndim = PyArray_NDIM(given.array());
    if (ndim == 0) Raise(PyExc_ValueError, "x has shape (); expected at least one dimension");
    if (found < -ndim || found >= ndim) {
      Raise(PyExc_ValueError, "axis is %zd; expected %d to %d, as x has shape %s", found, -ndim, ndim - 1,
            ShapeText(given.array()).c_str());
    }
    axis = static_cast<int>(found < 0 ? found + ndim : found);
    moved = AxisLast(given);
    rows = COrdered(moved);
    length = static_cast<size_t>(PyArray_DIM(rows.array(), ndim - 1));
    for (int i = 0; i < ndim - 1; ++i) num_rows *= static_cast<size_t>(PyArray_DIM(rows.array(), i));
  }

  // A view of `array` with the axis moved to the end.
  Ref AxisLast(const Ref& array) const {
    if (axis == ndim - 1) return Ref::Borrow(array.get());
    npy_intp order[NPY_MAXDIMS];
    for (int i = 0; i < ndim - 1; ++i) order[i] = i < axis ? i : i + 1;
    order[ndim - 1] = axis;
    PyArray_Dims permutation = {order, ndim};
    return Ref::Check(PyArray_Transpose(array.array(), &permutation));
  }
};

// softmax(x, axis, out, /) and log_softmax: rows of the activations' table.
PyObject* Normalise(PyObject* const* args, Py_ssize_t nargs, const char* name) {
  return Guard([&] {
    CheckNumArgs(name, nargs, 3, 3);
    const AxisActivationTable& table = SoftmaxActivations();
    size_t row = 0;
    size_t num_parameters = 0;
    FindByName(table, name, &row, &num_parameters);
    const Ref x = AnyArray(args[0], "x");
    const Py_ssize_t axis = AsAxis(args[1]);
    return AxisForward(table.rows[row], nullptr, x, axis, args[2]);
  });
}

PyObject* PySoftmax(PyObject*, PyObject* const* args, Py_ssize_t nargs) { return Normalise(args, nargs, "softmax"); }

PyObject* PyLogSoftmax(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Normalise(args, nargs, "log_softmax");
}

// logsumexp(x, axis, out, /)
PyObject* PyLogSumExp(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("logsumexp", nargs, 3, 3);
    const Ref given = AnyArray(args[0], "x");
    const Py_ssize_t axis = AsAxis(args[1]);
    const Line x(given, axis);
    Output y(args[2], "out", x.ndim - 1, PyArray_DIMS(x.rows.array()), PyArray_TYPE(x.rows.array()));
    y.CheckOverlap(x.given, "x", false);
    {
      const ReleaseGil release(x.num_rows * x.length);
      if (IsFloat32(x.rows)) {
        LogSumExp(Data<float>(x.rows), x.num_rows, x.length, y.data<float>());
      } else {
        LogSumExp(Data<double>(x.rows), x.num_rows, x.length, y.data<double>());
      }
    }
    return y.FinishAsScalarIfZeroDim();
  });
}

PyMethodDef functions[] = {
    {"softmax", FastCall(PySoftmax), METH_FASTCALL, nullptr},
    {"log_softmax", FastCall(PyLogSoftmax), METH_FASTCALL, nullptr},
    {"logsumexp", FastCall(PyLogSumExp), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void RegisterSoftmax(PyObject* module) { AddFunctions(module, functions); }

}  // namespace bind
}  // namespace fuseprop
