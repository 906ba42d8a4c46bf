#include "bind/activations.h"

#include "bind/register.h"

namespace fuseprop {
namespace bind {
namespace {

PyTypeObject* activation_type = nullptr;

template <class T>
void RunBackward(const Formula& formula, const Ref& x, const Ref& dy, const Output& dx) {
  const ActivationOps<T>& ops = Activations().rows[formula.row].template Ops<T>();
  const size_t n = Size(x);
  const ReleaseGil release(n);
  ActivationBackward(ops, formula.parameters, Data<T>(x), dy ? Data<T>(dy) : nullptr, dx.data<T>(), n);
}

// activation(x, out=None)
PyObject* Call(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* kwnames) {
  return Guard([&] {
    const Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    const Py_ssize_t nkeywords = kwnames == nullptr ? 0 : PyTuple_GET_SIZE(kwnames);
    PyObject* x_object = nargs >= 1 ? args[0] : nullptr;
    PyObject* out = nargs == 2 ? args[1] : nullptr;
    for (Py_ssize_t i = 0; i < nkeywords; ++i) {
      PyObject* keyword = PyTuple_GET_ITEM(kwnames, i);
      const bool is_x = nargs == 0 && PyUnicode_CompareWithASCIIString(keyword, "x") == 0;
      if (!is_x && (PyUnicode_CompareWithASCIIString(keyword, "out") != 0 || nargs == 2)) {
        Raise(PyExc_TypeError, "%s got an unexpected keyword argument %R; it is called with (x, out=None)",
              Py_TYPE(self)->tp_name, keyword);
      }
      (is_x ? x_object : out) = args[nargs + i];
    }
    if (x_object == nullptr || nargs > 2) {
      Raise(PyExc_TypeError, "%s takes one array and out=, found %zd positional arguments", Py_TYPE(self)->tp_name,
            nargs);
    }
    const Formula& formula = Self(self);
    Ref x = FloatArray(x_object, "x");
    const Ref given = Ref::Borrow(x.get());
    const bool fortran = ToCommonOrder(&x, 1, out);
    Output y(out, "out", PyArray_NDIM(x.array()), PyArray_DIMS(x.array()), PyArray_TYPE(x.array()), fortran);
    y.CheckOverlap(given, "x");
    const size_t n = Size(x);
    {
      const ReleaseGil release(n);
      if (IsFloat32(x)) {
        ApplyActivation(formula, Data<float>(x), y.data<float>(), n);
      } else {
        ApplyActivation(formula, Data<double>(x), y.data<double>(), n);
      }
    }
    return y.FinishAsScalarIfZeroDim();
  });
}

// _backward(x, dy, out=None, /)
PyObject* Backward(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_backward", nargs, 2, 3);
    PyObject* out = nargs > 2 ? args[2] : nullptr;
    Ref operands[2] = {FloatArray(args[0], "x"), Ref()};
    Ref& x = operands[0];
    Ref& dy = operands[1];
    const int typenum = PyArray_TYPE(x.array());
    if (args[1] != Py_None) {
      dy = FloatArray(args[1], "dy");
      CheckSameDtype(x, "x", dy, "dy");
      CheckSameShape(x, "x", dy, "dy");
    }
    const Ref given_x = Ref::Borrow(x.get());
    const Ref given_dy = Ref::Borrow(dy.get());
    const bool fortran = ToCommonOrder(operands, 2, out);
    Output dx(out, "out", PyArray_NDIM(x.array()), PyArray_DIMS(x.array()), typenum, fortran);
    dx.CheckOverlap(given_x, "x");
    dx.CheckOverlap(given_dy, "dy");
    const Formula& formula = Self(self);
    if (typenum == NPY_FLOAT32) {
      RunBackward<float>(formula, x, dy, dx);
    } else {
      RunBackward<double>(formula, x, dy, dx);
    }
    return dx.FinishAsScalarIfZeroDim();
  });
}

PyObject* New(PyTypeObject* type, PyObject*, PyObject*) { return NewFormula(type, Call); }

// _bind(name, parameters, /)
PyObject* PyBind(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    return Bind(self, args, nargs, [](const char* name, size_t* row, size_t* num_parameters) {
      return FindByName(Activations(), name, row, num_parameters);
    });
  });
}

PyObject* ActivationNames(PyObject*, PyObject*) {
  return Guard([] { return Names(Activations()); });
}

PyMethodDef methods[] = {
    {"_bind", FastCall(PyBind), METH_FASTCALL, nullptr},
    {"_backward", FastCall(Backward), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyMethodDef functions[] = {
    {"activation_names", ActivationNames, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

const Formula* AsActivation(PyObject* object, const char* name) {
  if (object == Py_None) return nullptr;
  if (PyObject_TypeCheck(object, activation_type) && Py_TYPE(object)->tp_call != PyVectorcall_Call) {
    Raise(PyExc_TypeError, "%s of type %s overrides __call__, which a fused kernel would not see; apply it by itself",
          name, Py_TYPE(object)->tp_name);
  }
  if (!PyObject_TypeCheck(object, activation_type)) {
    Raise(PyExc_TypeError, "%s must be an activation or None, found %s", name, Py_TYPE(object)->tp_name);
  }
  return &Self(object);
}

void RegisterActivations(PyObject* module) {
  activation_type = AddFormulaType(module, "fuseprop._core.Activation", nullptr, New, methods, true);
  AddFunctions(module, functions);
}

}  // namespace bind
}  // namespace fuseprop
