// softmax, log_softmax and logsumexp along any axis.

#include "kernels/softmax.h"

#include "bind/register.h"

namespace fuseprop {
namespace bind {
namespace {

struct Line {
  Ref given;  // the caller's array
  Ref moved;  // a view with the axis last
  Ref rows;   // the same in C order
  int axis;
  int ndim;
  size_t num_rows = 1;
  size_t length;

  Line(PyObject* object, PyObject* axis_object) : given(FloatArray(object, "x")) {
    ndim = PyArray_NDIM(given.array());
    if (ndim == 0) Raise(PyExc_ValueError, "x has shape (); expected at least one dimension");
    const Py_ssize_t found = PyNumber_AsSsize_t(axis_object, nullptr);  // clipped, not an overflow
    if (found == -1 && PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      Raise(PyExc_TypeError, "axis must be an integer, found %s", Py_TYPE(axis_object)->tp_name);
    }
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

template <class T>
using Rows = void (*)(const T* x, size_t rows, size_t length, T* y);

// softmax(x, axis, out, /) and log_softmax
PyObject* Normalise(PyObject* const* args, Py_ssize_t nargs, const char* name, Rows<float> f32, Rows<double> f64) {
  return Guard([&] {
    CheckNumArgs(name, nargs, 3, 3);
    const Line x(args[0], args[1]);
    const int typenum = PyArray_TYPE(x.given.array());
    Output y(args[2], "out", x.ndim, PyArray_DIMS(x.given.array()), typenum);
    y.CheckOverlap(x.given, "x");
    // The kernel writes rows: into the result itself if the axis is the last one.
    const bool direct = x.axis == x.ndim - 1;
    const Output apart(direct ? 0 : x.ndim, PyArray_DIMS(x.rows.array()), typenum);
    const Ref& rows = direct ? y.buffer() : apart.buffer();
    {
      const ReleaseGil release(x.num_rows * x.length);
      if (IsFloat32(x.rows)) {
        f32(Data<float>(x.rows), x.num_rows, x.length, Data<float>(rows));
      } else {
        f64(Data<double>(x.rows), x.num_rows, x.length, Data<double>(rows));
      }
    }
    if (!direct) {
      const Ref view = x.AxisLast(y.buffer());
      if (PyArray_CopyInto(view.array(), rows.array()) < 0) throw PythonError();
    }
    return y.Finish();
  });
}

PyObject* PySoftmax(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Normalise(args, nargs, "softmax", Softmax, Softmax);
}

PyObject* PyLogSoftmax(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Normalise(args, nargs, "log_softmax", LogSoftmax, LogSoftmax);
}

// logsumexp(x, axis, out, /)
PyObject* PyLogSumExp(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("logsumexp", nargs, 3, 3);
    const Line x(args[0], args[1]);
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
