// The Python type of a formula with its parameters bound: a row of one of the core's tables. Its methods are
// METH_FASTCALL functions, an order of magnitude cheaper to call than pybind11's.

#ifndef FUSEPROP_BIND_FORMULA_H_
#define FUSEPROP_BIND_FORMULA_H_

#include "bind/args.h"

namespace fuseprop {
namespace bind {

constexpr size_t kMaxParameters = 8;

class ActivationFamily;

struct Formula {
  PyObject_HEAD vectorcallfunc call;  // null if the type is not callable
  const ActivationFamily* family;     // of an activation, see bind/activations.h
  const char* learned;                // the name of its learned parameter, or null
  size_t row;
  double parameters[kMaxParameters];
  // The first parameter column by column, if it differs among them; owned.
  double* columns;
  size_t num_columns;
};

constexpr size_t kUnbound = static_cast<size_t>(-1);

// The formula of `self`; RuntimeError if its constructor has not bound it.
inline const Formula& Self(PyObject* self) {
  auto* formula = reinterpret_cast<Formula*>(self);
  if (formula->row == kUnbound) Raise(PyExc_RuntimeError, "%s is not initialised", Py_TYPE(self)->tp_name);
  return *formula;
}

// RuntimeError if the constructor has bound it: for the methods _bind, after Python code in their arguments has run.
inline void CheckUnbound(PyObject* self) {
  if (reinterpret_cast<Formula*>(self)->row == kUnbound) return;
  Raise(PyExc_RuntimeError, "%s is immutable: make a new one", Py_TYPE(self)->tp_name);
}

// Finds the row and number of parameters for a name, or returns false.
using FindRow = bool (*)(const char* name, size_t* row, size_t* num_parameters);

// The method _bind(name, parameters): which formula the object is, once and for all.
Ref Bind(PyObject* self, PyObject* const* args, Py_ssize_t nargs, FindRow find);

// Adds a heap type of Formula objects, to be subclassed in Python. `base` may be null, and so may `call`, its __call__.
PyTypeObject* AddFormulaType(PyObject* module, const char* name, PyTypeObject* base, newfunc create,
                             PyMethodDef* methods, ternaryfunc call);
// A new object. `vectorcall` is how a call reaches it without a Python frame, if its class has the __call__ `call`;
// before Python 3.12 it is called as well where the class has been given another one since.
PyObject* NewFormula(PyTypeObject* type, vectorcallfunc vectorcall = nullptr, ternaryfunc call = nullptr) noexcept;

template <class Table>
bool FindByName(const Table& table, const char* name, size_t* row, size_t* num_parameters) {
  for (size_t i = 0; i < table.size; ++i) {
    if (std::string(table.rows[i].name) == name) {
      *row = i;
      *num_parameters = table.rows[i].num_parameters;
      return true;
    }
  }
  return false;
}

template <class Table>
Ref Names(const Table& table) {
  Ref names = Ref::Check(PyList_New(0));
  for (size_t i = 0; i < table.size; ++i) {
    const Ref name = Ref::Check(PyUnicode_FromString(table.rows[i].name));
    if (PyList_Append(names.get(), name.get()) < 0) throw PythonError();
  }
  return names;
}

}  // namespace bind
}  // namespace fuseprop

#endif  // FUSEPROP_BIND_FORMULA_H_
