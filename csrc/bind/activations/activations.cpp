#include "bind/activations/activations.h"

#include <vector>

#include "bind/register.h"
#include "kernels/activations/learned.h"

namespace fuseprop {
namespace bind {
namespace {

PyTypeObject* activation_type = nullptr;

bool Is(PyObject* keyword, const char* name) { return PyUnicode_CompareWithASCIIString(keyword, name) == 0; }

// --------------------------------------------------------------------------------------------------- elementwise

// Parameters with the learned one in its place.
class Bound {
 public:
  Bound(const Formula& formula, const Ref& learned)
      : learned_(LearnedParameter(formula, learned, 1)), parameters_(formula.parameters) {
    if (!learned_) return;
    std::copy(formula.parameters, formula.parameters + kMaxParameters, own_);
    typenum_ = PyArray_TYPE(learned_.array());
    own_[0] = IsFloat32(learned_) ? static_cast<double>(*Data<float>(learned_)) : *Data<double>(learned_);
    parameters_ = own_;
  }
  const double* parameters() const { return parameters_; }
  int typenum() const { return typenum_; }  // of the learned one

 private:
  Ref learned_;
  int typenum_ = NPY_FLOAT64;
  const double* parameters_;
  double own_[kMaxParameters];
};

class Elementwise final : public ActivationFamily {
 public:
  const char* structure() const override { return "elementwise"; }
  bool Find(const char* name, size_t* row, size_t* num_parameters) const override {
    return FindByName(Activations(), name, row, num_parameters);
  }
  Ref Names() const override { return bind::Names(Activations()); }
  const char* Learned(const char* name) const override {
    const LearnedRow* row = FindLearned(name);
    return row == nullptr ? nullptr : row->parameter;
  }

  Ref Forward(const Formula& formula, const ActivationArgs& args) const override {
    RefuseSlopes(formula, args);
    const Bound bound(formula, args.learned);
    Ref x = FloatArray(args.x, "x");
    const Ref given = Ref::Borrow(x.get());
    const bool fortran = ToCommonOrder(&x, 1, args.out);
    Output y(args.out, "out", PyArray_NDIM(x.array()), PyArray_DIMS(x.array()), PyArray_TYPE(x.array()), fortran);
    y.CheckOverlap(given, "x");
    const size_t n = Size(x);
    const ActivationRow& row = Activations().rows[formula.row];
    {
      const ReleaseGil release(n);
      if (IsFloat32(x)) {
        ActivationForward(row.f32, bound.parameters(), Data<float>(x), y.data<float>(), n);
      } else {
        ActivationForward(row.f64, bound.parameters(), Data<double>(x), y.data<double>(), n);
      }
    }
    return y.FinishAsScalarIfZeroDim();
  }

  Ref Backward(const Formula& formula, const ActivationArgs& args) const override {
    return Run(formula, args, nullptr);
  }

  Ref BackwardParams(const Formula& formula, const ActivationArgs& args) const override {
    const LearnedRow* row = FindLearned(Activations().rows[formula.row].name);
    return formula.learned == nullptr ? ActivationFamily::BackwardParams(formula, args) : Run(formula, args, row);
  }

 private:
  // dx; with a row of learned.h, dx and the parameter's gradient.
  static Ref Run(const Formula& formula, const ActivationArgs& args, const LearnedRow* learned) {
    RefuseSlopes(formula, args);
    const Bound bound(formula, args.learned);
    Ref operands[2] = {FloatArray(args.x, "x"), Ref()};
    Ref& x = operands[0];
    Ref& dy = operands[1];
    const int typenum = PyArray_TYPE(x.array());
    if (args.dy) {
      dy = FloatArray(args.dy, "dy");
      CheckSameDtype(x, "x", dy, "dy");
      CheckSameShape(x, "x", dy, "dy");
    }
    const Ref given_x = Ref::Borrow(x.get());
    const Ref given_dy = Ref::Borrow(dy.get());
    const bool fortran = ToCommonOrder(operands, 2, args.out, learned != nullptr);
    Output dx(args.out, "out", PyArray_NDIM(x.array()), PyArray_DIMS(x.array()), typenum, fortran);
    dx.CheckOverlap(given_x, "x");
    dx.CheckOverlap(given_dy, "dy");
    double gradient = 0.0;
    if (typenum == NPY_FLOAT32) {
      Kernels<float>(formula, bound, learned == nullptr ? nullptr : &learned->f32, x, dy, dx, &gradient);
    } else {
      Kernels<double>(formula, bound, learned == nullptr ? nullptr : &learned->f64, x, dy, dx, &gradient);
    }
    Ref result = dx.FinishAsScalarIfZeroDim();
    return learned == nullptr ? std::move(result)
                              : WithParameterGradient(formula, result, bound.typenum(), &gradient, 1);
  }

  template <class T>
  static void Kernels(const Formula& formula, const Bound& bound, const LearnedOps<T>* learned, const Ref& x,
                      const Ref& dy, const Output& dx, double* gradient) {
    const ActivationOps<T>& ops = Activations().rows[formula.row].template Ops<T>();
    const size_t n = Size(x);
    const ReleaseGil release(n);
    if (learned != nullptr) {
      *gradient = learned->backward(bound.parameters(), Data<T>(x), Data<T>(dy), dx.data<T>(), n);
    } else {
      ActivationBackward(ops, bound.parameters(), Data<T>(x), dy ? Data<T>(dy) : nullptr, dx.data<T>(), n);
    }
  }
};

// ------------------------------------------------------------------------------------------------ calls from Python

const ActivationFamily* FamilyOf(const char* name) {
  size_t row = 0;
  size_t num_parameters = 0;
  size_t count = 0;
  const ActivationFamily* const* families = AxisFamilies(&count);
  for (size_t i = 0; i < count; ++i) {
    if (families[i]->Find(name, &row, &num_parameters)) return families[i];
  }
  return SlopesFamily().Find(name, &row, &num_parameters) ? &SlopesFamily() : &ElementwiseFamily();
}

// The arguments as they come; null or None: not given.
struct GivenArgs {
  PyObject* x = nullptr;
  PyObject* dy = nullptr;
  PyObject* out = nullptr;
  PyObject* params = nullptr;
  PyObject* slopes = nullptr;

  ActivationArgs Take(const Formula& formula) const {
    ActivationArgs args;
    args.x = AnyArray(x, "x");
    args.dy = OptionalArray(dy, "dy");
    args.learned = AsLearned(formula, params);
    args.slopes = OptionalArray(slopes, "slopes");
    args.out = out;
    return args;
  }
};

// activation(x, out=None, *, params=None)
PyObject* CallCore(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  return Guard([&] {
    const Py_ssize_t nkeywords = kwnames == nullptr ? 0 : PyTuple_GET_SIZE(kwnames);
    GivenArgs given;
    given.x = nargs >= 1 ? args[0] : nullptr;
    given.out = nargs == 2 ? args[1] : nullptr;
    for (Py_ssize_t i = 0; i < nkeywords; ++i) {
      PyObject* keyword = PyTuple_GET_ITEM(kwnames, i);
      PyObject* value = args[nargs + i];
      if (Is(keyword, "out")) {
        if (nargs >= 2) {
          Raise(PyExc_TypeError, "%s got out twice, as the second argument and by keyword", Py_TYPE(self)->tp_name);
        }
        given.out = value;
      } else if (Is(keyword, "params")) {
        given.params = value;
      } else if (Is(keyword, "x")) {
        if (nargs >= 1) {
          Raise(PyExc_TypeError, "%s got x twice, as the first argument and by keyword", Py_TYPE(self)->tp_name);
        }
        given.x = value;
      } else {
        Raise(PyExc_TypeError,
              "%s got an unexpected keyword argument %R; it is called with (x, out=None, *, params=None)",
              Py_TYPE(self)->tp_name, keyword);
      }
    }
    if (given.x == nullptr || nargs > 2) {
      Raise(PyExc_TypeError, "%s takes one array and out=, found %zd positional arguments", Py_TYPE(self)->tp_name,
            nargs);
    }
    const Formula& formula = Self(self);
    return formula.family->Forward(formula, given.Take(formula));
  });
}

PyObject* CallSlot(PyObject* self, PyObject* args, PyObject* kwargs) {
  return Guard([&] {
    const Py_ssize_t nargs = PyTuple_GET_SIZE(args);
    const Py_ssize_t nkeywords = kwargs == nullptr ? 0 : PyDict_Size(kwargs);
    std::vector<PyObject*> given(static_cast<size_t>(nargs + nkeywords));
    for (Py_ssize_t i = 0; i < nargs; ++i) given[static_cast<size_t>(i)] = PyTuple_GET_ITEM(args, i);
    const Ref names = Ref::Check(PyTuple_New(nkeywords));
    PyObject* name;
    PyObject* value;
    Py_ssize_t place = 0;
    for (Py_ssize_t i = 0; i < nkeywords && PyDict_Next(kwargs, &place, &name, &value) != 0; ++i) {
      PyTuple_SET_ITEM(names.get(), i, Ref::Borrow(name).release());
      given[static_cast<size_t>(nargs + i)] = value;
    }
    return Ref::Check(CallCore(self, given.data(), nargs, names.get()));
  });
}

// A call that a class's own __call__ answers.
PyObject* CallOverride(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* kwnames) {
  return Guard([&] {
    const Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    const Ref tuple = Ref::Check(PyTuple_New(nargs));
    for (Py_ssize_t i = 0; i < nargs; ++i) PyTuple_SET_ITEM(tuple.get(), i, Ref::Borrow(args[i]).release());
    Ref keywords;
    for (Py_ssize_t i = 0; kwnames != nullptr && i < PyTuple_GET_SIZE(kwnames); ++i) {
      if (!keywords) keywords = Ref::Check(PyDict_New());
      if (PyDict_SetItem(keywords.get(), PyTuple_GET_ITEM(kwnames, i), args[nargs + i]) < 0) throw PythonError();
    }
    return Ref::Check(Py_TYPE(self)->tp_call(self, tuple.get(), keywords.get()));
  });
}

// A call without a Python frame and, but for what the class overrides, without a tuple and a dictionary.
PyObject* Call(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* kwnames) {
  if (IsOverridden(self)) return CallOverride(self, args, nargsf, kwnames);
  return CallCore(self, args, PyVectorcall_NARGS(nargsf), kwnames);
}

// _forward(x, out, slopes, /)
PyObject* Forward(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_forward", nargs, 3, 3);
    GivenArgs given;
    given.x = args[0];
    given.out = args[1];
    given.slopes = args[2];
    const Formula& formula = Self(self);
    return formula.family->Forward(formula, given.Take(formula));
  });
}

// _checked(x, out, /): x as an array of float32 or float64; raises where _forward would for this out.
PyObject* Checked(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_checked", nargs, 2, 2);
    const Formula& formula = Self(self);
    Ref x = FloatArray(AnyArray(args[0], "x"), "x");
    PyArrayObject* array = x.array();
    npy_intp shape[NPY_MAXDIMS];
    std::copy(PyArray_DIMS(array), PyArray_DIMS(array) + PyArray_NDIM(array), shape);
    formula.family->OutputShape(formula, PyArray_NDIM(array), shape);
    if (args[1] != Py_None) {
      const Output y(args[1], "out", PyArray_NDIM(array), shape, PyArray_TYPE(array), false);
      y.CheckOverlap(x, "x");
    }
    return x;
  });
}

// _backward(x, dy, out=None, params=None, slopes=None, /)
PyObject* Backward(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_backward", nargs, 2, 5);
    GivenArgs given;
    given.x = args[0];
    given.dy = args[1];
    given.out = nargs > 2 ? args[2] : nullptr;
    given.params = nargs > 3 ? args[3] : nullptr;
    given.slopes = nargs > 4 ? args[4] : nullptr;
    const Formula& formula = Self(self);
    return formula.family->Backward(formula, given.Take(formula));
  });
}

// _backward_params(x, dy, params, out, /)
PyObject* BackwardParams(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_backward_params", nargs, 4, 4);
    GivenArgs given;
    given.x = args[0];
    given.dy = args[1];
    given.params = args[2];
    given.out = args[3];
    const Formula& formula = Self(self);
    if (formula.learned != nullptr && (given.params == nullptr || given.params == Py_None)) {
      Raise(PyExc_TypeError, "params is None; expected a dict with the key '%s', as init_params() gives it",
            formula.learned);
    }
    return formula.family->BackwardParams(formula, given.Take(formula));
  });
}

// Raises unless an array can have this shape.
void CheckSizes(int ndim, const npy_intp* shape, const char* name) {
  npy_intp size = static_cast<npy_intp>(sizeof(double));
  for (int i = 0; i < ndim; ++i) {
    if (shape[i] < 0) {
      Raise(PyExc_ValueError, "%s is %s; expected no negative size", name, ShapeText(ndim, shape).c_str());
    }
    if (shape[i] != 0 && size > NPY_MAX_INTP / shape[i]) {
      Raise(PyExc_ValueError, "%s is %s; expected sizes that an array can have", name, ShapeText(ndim, shape).c_str());
    }
    if (shape[i] != 0) size *= shape[i];
  }
}

// _output_shape(shape, /)
PyObject* OutputShape(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_output_shape", nargs, 1, 1);
    const Formula& formula = Self(self);
    PyArray_Dims shape = {nullptr, 0};
    if (PyArray_IntpConverter(args[0], &shape) == NPY_FAIL) {
      if (!PyErr_ExceptionMatches(PyExc_OverflowError)) throw PythonError();
      PyErr_Clear();
      Raise(PyExc_ValueError, "shape is %R; expected sizes that an array can have", args[0]);
    }
    npy_intp dims[NPY_MAXDIMS];
    const int ndim = shape.len;
    std::copy(shape.ptr, shape.ptr + ndim, dims);
    PyDimMem_FREE(shape.ptr);
    CheckSizes(ndim, dims, "shape");
    formula.family->OutputShape(formula, ndim, dims);
    CheckSizes(ndim, dims, "the result's shape");
    Ref result = Ref::Check(PyTuple_New(ndim));
    for (int i = 0; i < ndim; ++i) PyTuple_SET_ITEM(result.get(), i, Ref::Check(PyLong_FromSsize_t(dims[i])).release());
    return result;
  });
}

PyObject* New(PyTypeObject* type, PyObject*, PyObject*) { return NewFormula(type, Call, CallSlot); }

// _bind(name, parameters, learns=False, /)
PyObject* PyBind(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_bind", nargs, 2, 3);
    const char* name = PyUnicode_AsUTF8(args[0]);
    if (name == nullptr) throw PythonError();
    const bool learns = nargs > 2 && AsBool(args[2], "learns");
    Ref result = Bind(self, args, 2, [](const char* row_name, size_t* row, size_t* num_parameters) {
      return FamilyOf(row_name)->Find(row_name, row, num_parameters);
    });
    auto* formula = reinterpret_cast<Formula*>(self);
    formula->family = FamilyOf(name);
    formula->learned = learns ? formula->family->Learned(name) : nullptr;
    return result;
  });
}

// activation_names(): {structure: names}
PyObject* ActivationNames(PyObject*, PyObject*) {
  return Guard([] {
    Ref result = Ref::Check(PyDict_New());
    const auto add = [&](const ActivationFamily& family) {
      const Ref structure = Ref::Check(PyUnicode_FromString(family.structure()));
      Ref names = family.Names();
      if (PyObject* before = PyDict_GetItemWithError(result.get(), structure.get())) {
        names = Ref::Check(PySequence_Concat(before, names.get()));
      }
      if (PyDict_SetItem(result.get(), structure.get(), names.get()) < 0) throw PythonError();
    };
    add(ElementwiseFamily());
    add(SlopesFamily());
    size_t count = 0;
    const ActivationFamily* const* families = AxisFamilies(&count);
    for (size_t i = 0; i < count; ++i) add(*families[i]);
    return result;
  });
}

PyMethodDef methods[] = {
    {"_bind", FastCall(PyBind), METH_FASTCALL, nullptr},
    {"_forward", FastCall(Forward), METH_FASTCALL, nullptr},
    {"_checked", FastCall(Checked), METH_FASTCALL, nullptr},
    {"_backward", FastCall(Backward), METH_FASTCALL, nullptr},
    {"_backward_params", FastCall(BackwardParams), METH_FASTCALL, nullptr},
    {"_output_shape", FastCall(OutputShape), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyMethodDef functions[] = {
    {"activation_names", ActivationNames, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

// Tells the signature of a call, which the descriptor that Python has made for the slot does not know: another of its
// kind with this docstring takes its place. (With a descriptor of another kind there, classes made in Python would call
// by way of Python.)
void DescribeCall(PyTypeObject* type) {
  static wrapperbase described;
  PyObject* found = PyDict_GetItemString(type->tp_dict, "__call__");
  if (found == nullptr || !Py_IS_TYPE(found, &PyWrapperDescr_Type)) Raise(PyExc_SystemError, "no slot for __call__");
  auto* slot = reinterpret_cast<PyWrapperDescrObject*>(found);
  described = *slot->d_base;
  described.doc =
      "__call__($self, /, x, out=None, *, params=None)\n--\n\n"
      "Return f(x).\n\n"
      "Parameters\n----------\n"
      "x\n    The input.\n"
      "out\n    Receives the result; it may be x if that has the result's shape.\n"
      "params\n    What `init_params` gives, learned; None where nothing is learned.";
  Ref descriptor = Ref::Check(PyDescr_NewWrapper(type, &described, slot->d_wrapped));
  if (PyDict_SetItemString(type->tp_dict, "__call__", descriptor.get()) < 0) throw PythonError();
  PyType_Modified(type);
}

}  // namespace

const ActivationFamily& ElementwiseFamily() {
  static const Elementwise family;
  return family;
}

// For an activation that learns nothing: (dx, {}).
Ref ActivationFamily::BackwardParams(const Formula& formula, const ActivationArgs& args) const {
  const Ref dx = Backward(formula, args);
  const Ref nothing = Ref::Check(PyDict_New());
  return Ref::Check(PyTuple_Pack(2, dx.get(), nothing.get()));
}

void RefuseSlopes(const Formula&, const ActivationArgs& args) {
  if (args.slopes) Raise(PyExc_TypeError, "slopes is given, which RReLU alone takes");
}

Ref LearnedOf(const Formula& formula, PyObject* params) {
  if (!PyObject_HasAttrString(params, "keys")) {
    Raise(PyExc_TypeError, "params must be a dict of arrays, as init_params() gives it, found %s",
          Py_TYPE(params)->tp_name);
  }
  const Ref keys = Ref::Check(PyMapping_Keys(params));
  if (formula.learned == nullptr) {
    if (PyObject_Length(keys.get()) != 0) {
      Raise(PyExc_ValueError, "params has the keys %R; expected none, as the activation learns nothing", keys.get());
    }
    return Ref();
  }
  const char* name = formula.learned;
  if (PyObject_Length(keys.get()) != 1 || PyMapping_HasKeyString(params, name) == 0) {
    Raise(PyExc_ValueError, "params has the keys %R; expected ['%s']", keys.get(), name);
  }
  Ref value = Ref::Check(PyMapping_GetItemString(params, name));
  if (!PyArray_Check(value.get())) {
    Raise(PyExc_TypeError, "params['%s'] must be a NumPy array, found %s", name, Py_TYPE(value.get())->tp_name);
  }
  RefuseMasked(value.get(), ("params['" + std::string(name) + "']").c_str());
  return value;
}

Ref CheckedLearned(const Formula& formula, const Ref& given, npy_intp size) {
  const char* name = formula.learned;
  Ref value = Plain(given);
  PyArrayObject* array = value.array();
  if (PyArray_TYPE(array) != NPY_FLOAT32 && PyArray_TYPE(array) != NPY_FLOAT64) {
    Raise(PyExc_TypeError, "params['%s'] has dtype %s; expected float32 or float64: cast it with .astype(np.float32)",
          name, DtypeName(array).c_str());
  }
  if (PyArray_NDIM(array) != 1 || PyArray_DIM(array, 0) != size) {
    Raise(PyExc_ValueError, "params['%s'] has shape %s; expected (%zd,)", name, ShapeText(array).c_str(), size);
  }
  if (!PyArray_ISNOTSWAPPED(array)) {
    Raise(PyExc_ValueError, "params['%s'] has dtype %s; expected the machine's byte order: cast it with .astype(np.%s)",
          name, DtypeName(array).c_str(), PyArray_TYPE(array) == NPY_FLOAT32 ? "float32" : "float64");
  }
  if (!PyArray_ISCARRAY_RO(array)) {
    Raise(PyExc_ValueError, "params['%s'] is not %s: copy it with .copy()", name,
          PyArray_ISALIGNED(array) ? "C-contiguous" : "aligned in memory");
  }
  return value;
}

Ref WithParameterGradient(const Formula& formula, const Ref& dx, int typenum, const double* gradient, size_t size) {
  const auto length = static_cast<npy_intp>(size);
  const Output result(1, &length, typenum);
  for (size_t i = 0; i < size; ++i) {
    if (typenum == NPY_FLOAT32) {
      result.data<float>()[i] = static_cast<float>(gradient[i]);
    } else {
      result.data<double>()[i] = gradient[i];
    }
  }
  const Ref dparams = Ref::Check(PyDict_New());
  if (PyDict_SetItemString(dparams.get(), formula.learned, result.result().get()) < 0) throw PythonError();
  return Ref::Check(PyTuple_Pack(2, dx.get(), dparams.get()));
}

// Before Python 3.12 the flag for vectorcalls stays set when a class is given a __call__.
bool IsOverridden(PyObject* activation) { return Py_TYPE(activation)->tp_call != CallSlot; }

void RefuseOverride(PyObject* activation, const char* name) {
  Raise(PyExc_TypeError, "%s of type %s overrides __call__, which a fused kernel would not see; apply it by itself",
        name, Py_TYPE(activation)->tp_name);
}

const Formula* AsActivation(PyObject* object, const char* name) {
  if (object == Py_None) return nullptr;
  if (!PyObject_TypeCheck(object, activation_type)) {
    Raise(PyExc_TypeError, "%s must be an activation or None, found %s", name, Py_TYPE(object)->tp_name);
  }
  if (IsOverridden(object)) RefuseOverride(object, name);
  const Formula& formula = Self(object);
  if (formula.family != &ElementwiseFamily() || formula.learned != nullptr) {
    Raise(PyExc_TypeError,
          "%s of type %s is not a plain elementwise one and cannot be fused with a product; apply it by itself", name,
          Py_TYPE(object)->tp_name);
  }
  return &formula;
}

void RegisterActivations(PyObject* module) {
  activation_type = AddFormulaType(module, "fuseprop._core.Activation", nullptr, New, methods, CallSlot);
  DescribeCall(activation_type);
  AddFunctions(module, functions);
}

}  // namespace bind
}  // namespace fuseprop
