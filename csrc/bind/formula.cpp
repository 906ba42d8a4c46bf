#include "bind/formula.h"

#include <structmember.h>

#include <algorithm>
#include <cstddef>

namespace fuseprop {
namespace bind {
namespace {

void Dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyMem_Free(reinterpret_cast<Formula*>(self)->columns);
  type->tp_free(self);
  Py_DECREF(type);
}

}  // namespace

Ref Bind(PyObject* self, PyObject* const* args, Py_ssize_t nargs, FindRow find) {
  CheckNumArgs("_bind", nargs, 2, 2);
  const char* name = PyUnicode_AsUTF8(args[0]);
  if (name == nullptr) throw PythonError();
  size_t row = 0;
  size_t num_parameters = 0;
  if (!find(name, &row, &num_parameters)) Raise(PyExc_ValueError, "the core has no formula named '%s'", name);
  if (!PyTuple_Check(args[1]) || PyTuple_GET_SIZE(args[1]) != static_cast<Py_ssize_t>(num_parameters)) {
    Raise(PyExc_ValueError, "parameters must be a tuple of %zu numbers for %s", num_parameters, name);
  }
  double parameters[kMaxParameters] = {};
  for (size_t i = 0; i < num_parameters; ++i) {
    parameters[i] = AsDouble(PyTuple_GET_ITEM(args[1], static_cast<Py_ssize_t>(i)), "parameters");
  }
  CheckUnbound(self);
  auto* formula = reinterpret_cast<Formula*>(self);
  std::copy(parameters, parameters + num_parameters, formula->parameters);
  formula->row = row;
  return Ref::Borrow(Py_None);
}

PyObject* NewFormula(PyTypeObject* type, vectorcallfunc vectorcall, ternaryfunc call) noexcept {
  if (PyObject_HasAttrString(reinterpret_cast<PyObject*>(type), "spec") == 0) {
    PyErr_Format(PyExc_TypeError, "%s has no formula of its own: make one of those that have, such as %s",
                 type->tp_name,
                 vectorcall == nullptr ? "losses.Huber() or losses.get(\"huber\")"
                                       : "activations.ReLU() or activations.get(\"relu\")");
    return nullptr;
  }
  // Before Python 3.12 a class made in Python does not inherit the flag, and a call with a keyword builds a
  // dictionary (100 ns). Setting it is right while the class has not replaced __call__.
  if (vectorcall != nullptr && type->tp_call == call) type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
  PyObject* self = type->tp_alloc(type, 0);
  if (self != nullptr) {
    reinterpret_cast<Formula*>(self)->call = vectorcall;
    reinterpret_cast<Formula*>(self)->row = kUnbound;
  }
  return self;
}

PyTypeObject* AddFormulaType(PyObject* module, const char* name, PyTypeObject* base, newfunc create,
                             PyMethodDef* methods, ternaryfunc call) {
  const bool callable = call != nullptr;
  static PyMemberDef members[] = {
      {"__vectorcalloffset__", T_PYSSIZET, offsetof(Formula, call), READONLY, nullptr},
      {nullptr, 0, 0, 0, nullptr},
  };
  PyType_Slot slots[] = {
      {Py_tp_new, reinterpret_cast<void*>(create)},
      {Py_tp_dealloc, reinterpret_cast<void*>(&Dealloc)},
      {Py_tp_methods, methods},
      {callable ? Py_tp_call : 0, callable ? reinterpret_cast<void*>(call) : nullptr},
      {callable ? Py_tp_members : 0, callable ? members : nullptr},
      {0, nullptr},
  };
  PyType_Spec spec = {name, static_cast<int>(sizeof(Formula)), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
  if (callable) spec.flags |= Py_TPFLAGS_HAVE_VECTORCALL;
  Ref type = Ref::Check(PyType_FromSpecWithBases(&spec, reinterpret_cast<PyObject*>(base)));
  if (PyModule_AddType(module, reinterpret_cast<PyTypeObject*>(type.get())) < 0) throw PythonError();
  return reinterpret_cast<PyTypeObject*>(type.release());
}

}  // namespace bind
}  // namespace fuseprop
