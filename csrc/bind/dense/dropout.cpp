// Dropout, forward and backward.

#include "kernels/dense/dropout.h"

#include "bind/register.h"

namespace fuseprop {
namespace bind {
namespace {

// dropout(x, p, key, out, /)
PyObject* PyDropout(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("dropout", nargs, 4, 4);
    const Ref argument = AnyArray(args[0], "x");
    const double p = AsDouble(args[1], "p");
    if (!(p >= 0.0 && p < 1.0)) Raise(PyExc_ValueError, "p is %R; expected 0 <= p < 1", args[1]);
    const uint64_t key = PyLong_AsUnsignedLongLong(args[2]);
    if (PyErr_Occurred() != nullptr) throw PythonError();
    const Ref given = FloatArray(argument, "x");
    const Ref x = COrdered(given);
    Output y(args[3], "out", PyArray_NDIM(x.array()), PyArray_DIMS(x.array()), PyArray_TYPE(x.array()));
    y.CheckOverlap(given, "x");
    const size_t n = Size(x);
    {
      const ReleaseGil release(n);
      if (IsFloat32(x)) {
        Dropout(Data<float>(x), n, p, key, y.data<float>());
      } else {
        Dropout(Data<double>(x), n, p, key, y.data<double>());
      }
    }
    return y.Finish();
  });
}

PyMethodDef functions[] = {
    {"dropout", FastCall(PyDropout), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void RegisterDropout(PyObject* module) { AddFunctions(module, functions); }

}  // namespace bind
}  // namespace fuseprop
