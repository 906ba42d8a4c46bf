// exp, expm1, log, log1p, erf.

#include "kernels/activations/elementary.h"

#include "bind/register.h"

namespace fuseprop {
namespace bind {
namespace {

// Rows of the table, in its order.
enum Function : size_t { kExp, kExpm1, kLog, kLog1p, kErf };

// f(x, out, /)
template <Function kFunction>
PyObject* Apply(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    const ElementaryRow& row = ElementaryFunctions().rows[kFunction];
    CheckNumArgs(row.name, nargs, 2, 2);
    const Ref argument = AnyArray(args[0], "x");
    Ref x = FloatArray(argument, "x");
    const Ref given = Ref::Borrow(x.get());
    const bool fortran = ToCommonOrder(&x, 1, args[1]);
    Output y(args[1], "out", PyArray_NDIM(x.array()), PyArray_DIMS(x.array()), PyArray_TYPE(x.array()), fortran);
    y.CheckOverlap(given, "x");
    const size_t n = Size(x);
    {
      const ReleaseGil release(n);
      if (IsFloat32(x)) {
        Elementary(row, Data<float>(x), y.data<float>(), n);
      } else {
        Elementary(row, Data<double>(x), y.data<double>(), n);
      }
    }
    return y.FinishAsScalarIfZeroDim();
  });
}

PyMethodDef functions[] = {
    {"exp", FastCall(Apply<kExp>), METH_FASTCALL, nullptr}, {"expm1", FastCall(Apply<kExpm1>), METH_FASTCALL, nullptr},
    {"log", FastCall(Apply<kLog>), METH_FASTCALL, nullptr}, {"log1p", FastCall(Apply<kLog1p>), METH_FASTCALL, nullptr},
    {"erf", FastCall(Apply<kErf>), METH_FASTCALL, nullptr}, {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void RegisterElementary(PyObject* module) { AddFunctions(module, functions); }

}  // namespace bind
}  // namespace fuseprop
