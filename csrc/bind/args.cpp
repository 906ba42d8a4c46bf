#include "bind/args.h"

#include <algorithm>
#include <cstdarg>

namespace fuseprop {
namespace bind {
namespace {

bool IsC(const Ref& array) { return PyArray_CHKFLAGS(array.array(), NPY_ARRAY_C_CONTIGUOUS); }
bool IsF(const Ref& array) { return PyArray_CHKFLAGS(array.array(), NPY_ARRAY_F_CONTIGUOUS); }

bool IsBehaved(PyArrayObject* array) { return PyArray_ISALIGNED(array) && PyArray_ISNOTSWAPPED(array); }

Ref Cast(const Ref& array, int typenum, int flags) {
  PyArray_Descr* descr = PyArray_DescrFromType(typenum);
  // No subclass: making one would run Python code.
  flags |= NPY_ARRAY_ALIGNED | NPY_ARRAY_FORCECAST | NPY_ARRAY_ENSUREARRAY;
  return Ref::Check(PyArray_FromArray(array.array(), descr, flags));
}

bool SameElements(PyArrayObject* a, PyArrayObject* b) {
  if (PyArray_DATA(a) != PyArray_DATA(b) || PyArray_TYPE(a) != PyArray_TYPE(b) || !SameShape(a, b)) return false;
  for (int i = 0; i < PyArray_NDIM(a); ++i) {
    if (PyArray_DIM(a, i) > 1 && PyArray_STRIDE(a, i) != PyArray_STRIDE(b, i)) return false;
  }
  return true;
}

Ref NewArray(int ndim, const npy_intp* shape, int typenum, bool fortran) {
  return Ref::Check(PyArray_New(&PyArray_Type, ndim, const_cast<npy_intp*>(shape), typenum, nullptr, nullptr, 0,
                                fortran ? NPY_ARRAY_F_CONTIGUOUS : 0, nullptr));
}

// Raises what fuseprop._checks says of an argument, given the array or the exception that it made; may be null.
[[noreturn]] void Refuse(PyObject* object, const char* name, PyObject* found) {
  const Ref checks = Ref::Check(PyImport_ImportModule("fuseprop._checks"));
  const Ref error =
      Ref::Check(PyObject_CallMethod(checks.get(), "refusal", "OsO", object, name, found == nullptr ? Py_None : found));
  if (found != nullptr && PyExceptionInstance_Check(found)) {
    PyException_SetCause(error.get(), Ref::Borrow(found).release());
  }
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
  throw PythonError();
}

// The exception that has been set, which is cleared.
Ref TakeError() {
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  const Ref held_type = Ref::Steal(type);
  const Ref held_traceback = Ref::Steal(traceback);
  if (traceback != nullptr) PyException_SetTraceback(value, traceback);
  return Ref::Steal(value);
}

// numpy.ma.MaskedArray; null as long as nobody has imported it, and so made none. Borrowed.
PyTypeObject* MaskedArrayType() {
  static PyObject* type = nullptr;
  if (type == nullptr) {
    const Ref name = Ref::Check(PyUnicode_FromString("numpy.ma"));
    const Ref module = Ref::Steal(PyImport_GetModule(name.get()));
    if (!module) return nullptr;
    type = PyObject_GetAttrString(module.get(), "MaskedArray");
    if (type == nullptr) PyErr_Clear();  // it is being imported
  }
  return reinterpret_cast<PyTypeObject*>(type);
}

bool IsMasked(PyObject* array) {
  if (PyArray_CheckExact(array)) return false;
  PyTypeObject* masked = MaskedArrayType();
  return masked != nullptr && PyObject_TypeCheck(array, masked);
}

// Whether a list has a masked array somewhere. NumPy takes their elements as if there were no mask.
bool HoldsMasked(PyObject* object, int depth = 0) {
  if (PyArray_Check(object)) return IsMasked(object);
  if (!(PyList_Check(object) || PyTuple_Check(object)) || depth == NPY_MAXDIMS) return false;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(object); ++i) {
    if (HoldsMasked(PySequence_Fast_GET_ITEM(object, i), depth + 1)) return true;
  }
  return false;
}

bool IsNumbers(int typenum) {
  return typenum == NPY_FLOAT32 || typenum == NPY_FLOAT64 || PyTypeNum_ISINTEGER(typenum) || PyTypeNum_ISBOOL(typenum);
}

}  // namespace

void Raise(PyObject* type, const char* format, ...) {
  va_list args;
  va_start(args, format);
  PyErr_FormatV(type, format, args);
  va_end(args);
  throw PythonError();
}

void CheckNumArgs(const char* function, Py_ssize_t found, Py_ssize_t min, Py_ssize_t max) {
  if (found >= min && found <= max) return;
  Raise(PyExc_TypeError, "%s takes %zd to %zd positional arguments, found %zd", function, min, max, found);
}

double AsDouble(PyObject* object, const char* name) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred() != nullptr) {
    if (!PyErr_ExceptionMatches(PyExc_TypeError)) throw PythonError();
    PyErr_Clear();
    Raise(PyExc_TypeError, "%s must be a number, found %s", name, Py_TYPE(object)->tp_name);
  }
  return value;
}

Py_ssize_t AsAxis(PyObject* object) {
  const Py_ssize_t axis = PyNumber_AsSsize_t(object, nullptr);
  if (axis == -1 && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    Raise(PyExc_TypeError, "axis must be an integer, found %s", Py_TYPE(object)->tp_name);
  }
  return axis;
}

bool AsBool(PyObject* object, const char* name) {
  if (object == Py_True) return true;
  if (object == Py_False) return false;
  const int value = PyObject_IsTrue(object);
  if (value < 0) {
    PyErr_Clear();
    Raise(PyExc_TypeError, "%s must be a bool, found %s", name, Py_TYPE(object)->tp_name);
  }
  return value == 1;
}

Ref AsTuple(PyObject* object, const char* expected) {
  PyObject* tuple = PySequence_Tuple(object);
  if (tuple == nullptr && PyErr_ExceptionMatches(PyExc_TypeError)) {
    PyErr_Clear();
    Raise(PyExc_TypeError, "%s, found %s", expected, Py_TYPE(object)->tp_name);
  }
  return Ref::Check(tuple);
}

std::string DtypeName(PyArrayObject* array) {
  const Ref text = Ref::Check(PyObject_Str(reinterpret_cast<PyObject*>(PyArray_DESCR(array))));
  const char* utf8 = PyUnicode_AsUTF8(text.get());
  if (utf8 == nullptr) throw PythonError();
  return utf8;
}

std::string ShapeText(int ndim, const npy_intp* shape) {
  std::string text = "(";
  for (int i = 0; i < ndim; ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + (ndim == 1 ? ",)" : ")");
}

std::string ShapeText(PyArrayObject* array) { return ShapeText(PyArray_NDIM(array), PyArray_DIMS(array)); }

bool SameShape(PyArrayObject* a, PyArrayObject* b) {
  return PyArray_NDIM(a) == PyArray_NDIM(b) && PyArray_CompareLists(PyArray_DIMS(a), PyArray_DIMS(b), PyArray_NDIM(a));
}

Ref MakeArray(PyObject* object, const char* name) {
  if (PyArray_Check(object)) {
    RefuseMasked(object, name);
    return Ref::Borrow(object);
  }
  if (object == Py_None || HoldsMasked(object)) Refuse(object, name, nullptr);
  const bool dlpack_alone = PyObject_HasAttrString(object, "__dlpack__") &&
                            !PyObject_HasAttrString(object, "__array__") && !PyObject_CheckBuffer(object);
  Ref array;
  if (dlpack_alone) {
    const Ref numpy = Ref::Check(PyImport_ImportModule("numpy"));
    array = Ref::Steal(PyObject_CallMethod(numpy.get(), "from_dlpack", "O", object));
  } else {
    array = Ref::Steal(PyArray_FromAny(object, nullptr, 0, 0, 0, nullptr));
  }
  if (!array) {
    // The message does not say which argument it is about.
    if (PyErr_ExceptionMatches(PyExc_ValueError) || PyErr_ExceptionMatches(PyExc_TypeError) ||
        PyErr_ExceptionMatches(PyExc_RuntimeError)) {
      Refuse(object, name, TakeError().get());
    }
    throw PythonError();
  }
  if (IsMasked(array.get())) Refuse(array.get(), name, nullptr);
  if (!IsNumbers(PyArray_TYPE(array.array()))) Refuse(object, name, array.get());
  return array;
}

void RefuseMaskedSubclass(PyObject* array, const char* name) {
  if (IsMasked(array)) Refuse(array, name, nullptr);
}

Ref PlainView(PyArrayObject* array) { return Ref::Check(PyArray_View(array, nullptr, &PyArray_Type)); }

Ref Ones(int ndim, const npy_intp* shape, int typenum, bool fortran) {
  Ref array = NewArray(ndim, shape, typenum, fortran);
  const Ref one = Ref::Check(PyLong_FromLong(1));
  if (PyArray_FillWithScalar(array.array(), one.get()) < 0) throw PythonError();
  return array;
}

std::pair<const char*, const char*> Extent(PyArrayObject* array) {
  const char* low = PyArray_BYTES(array);
  const char* high = low;
  for (int i = 0; i < PyArray_NDIM(array); ++i) {
    const npy_intp span = PyArray_STRIDE(array, i) * (PyArray_DIM(array, i) - 1);
    (span < 0 ? low : high) += span;
  }
  return {low, high + PyArray_ITEMSIZE(array)};
}

bool Overlap(PyArrayObject* a, PyArrayObject* b) {
  if (PyArray_SIZE(a) == 0 || PyArray_SIZE(b) == 0) return false;
  const auto [a_low, a_high] = Extent(a);
  const auto [b_low, b_high] = Extent(b);
  if (a_high <= b_low || b_high <= a_low) return false;
  if (PyArray_ISONESEGMENT(a) && PyArray_ISONESEGMENT(b)) return true;
  // Interleaved strides: NumPy solves whether an element is shared.
  const Ref numpy = Ref::Check(PyImport_ImportModule("numpy"));
  const Ref plain_a = Plain(Ref::Borrow(reinterpret_cast<PyObject*>(a)));
  const Ref plain_b = Plain(Ref::Borrow(reinterpret_cast<PyObject*>(b)));
  const Ref shared = Ref::Check(PyObject_CallMethod(numpy.get(), "shares_memory", "OO", plain_a.get(), plain_b.get()));
  return PyObject_IsTrue(shared.get()) == 1;
}

bool OverlapOtherwise(PyArrayObject* a, PyArrayObject* b) { return Overlap(a, b) && !SameElements(a, b); }

Ref FloatArray(const Ref& given, const char* name) {
  Ref array = Plain(given);
  const int typenum = PyArray_TYPE(array.array());
  if (typenum == NPY_FLOAT32 || typenum == NPY_FLOAT64) {
    return IsBehaved(array.array()) ? std::move(array) : Cast(array, typenum, 0);
  }
  if (!IsNumbers(typenum)) Refuse(given.get(), name, array.get());
  return Cast(array, NPY_FLOAT64, 0);
}

Ref FloatArrayAs(const Ref& given, const char* name, int typenum) {
  Ref array = FloatArray(given, name);
  if (PyArray_TYPE(array.array()) == typenum) return array;
  if (typenum != NPY_FLOAT32) return Cast(array, typenum, 0);
  // NumPy would warn about what float32 cannot hold.
  const bool fortran = IsF(array) && !IsC(array);
  const Ref from = fortran ? Ref::Borrow(array.get()) : COrdered(array);
  Ref to = NewArray(PyArray_NDIM(from.array()), PyArray_DIMS(from.array()), typenum, fortran);
  const double* source = Data<double>(from);
  float* target = Data<float>(to);
  const size_t n = Size(from);
  const ReleaseGil release(n);
  for (size_t i = 0; i < n; ++i) target[i] = static_cast<float>(source[i]);
  return to;
}

void CheckSameDtype(const Ref& a, const char* a_name, const Ref& b, const char* b_name) {
  if (PyArray_TYPE(a.array()) == PyArray_TYPE(b.array())) return;
  Raise(PyExc_TypeError, "%s has dtype %s but %s has dtype %s; they must be equal: cast one with .astype", b_name,
        DtypeName(b.array()).c_str(), a_name, DtypeName(a.array()).c_str());
}

void CheckSameShape(const Ref& a, const char* a_name, const Ref& b, const char* b_name) {
  if (SameShape(a.array(), b.array())) return;
  Raise(PyExc_ValueError, "%s has shape %s but %s has shape %s; they must be equal", b_name,
        ShapeText(b.array()).c_str(), a_name, ShapeText(a.array()).c_str());
}

Ref COrdered(const Ref& array) {
  if (IsC(array)) return Ref::Borrow(array.get());
  return Cast(array, PyArray_TYPE(array.array()), NPY_ARRAY_C_CONTIGUOUS);
}

Output::Output(int ndim, const npy_intp* shape, int typenum, bool fortran)
    : result_(NewArray(ndim, shape, typenum, fortran)), buffer_(Ref::Borrow(result_.get())) {}

Output::Output(PyObject* out, const char* name, int ndim, const npy_intp* shape, int typenum, bool fortran)
    : name_(name) {
  if (out == nullptr || out == Py_None) {
    result_ = NewArray(ndim, shape, typenum, fortran);
    buffer_ = Ref::Borrow(result_.get());
    return;
  }
  if (!PyArray_Check(out)) {
    Raise(PyExc_TypeError, "%s must be a NumPy array, found %s", name, Py_TYPE(out)->tp_name);
  }
  RefuseMasked(out, name);
  is_callers_ = true;
  result_ = Ref::Borrow(out);
  PyArrayObject* array = result_.array();
  if (PyArray_TYPE(array) != typenum || !PyArray_ISNOTSWAPPED(array)) {
    Raise(PyExc_ValueError, "%s has dtype %s; expected %s", name, DtypeName(array).c_str(),
          typenum == NPY_FLOAT32 ? "float32" : "float64");
  }
  if (PyArray_NDIM(array) != ndim || !PyArray_CompareLists(PyArray_DIMS(array), shape, ndim)) {
    Raise(PyExc_ValueError, "%s has shape %s; expected %s", name, ShapeText(array).c_str(),
          ShapeText(ndim, shape).c_str());
  }
  if (!PyArray_ISWRITEABLE(array)) Raise(PyExc_ValueError, "%s is read-only", name);
  const bool direct = (fortran ? IsF(result_) : IsC(result_)) && PyArray_ISALIGNED(array);
  buffer_ = direct ? Ref::Borrow(out) : NewArray(ndim, shape, typenum, fortran);
}

void Output::CheckOverlap(const Ref& input, const char* input_name, bool same_allowed) const {
  if (!is_callers_ || !input) return;
  if (same_allowed && SameElements(result_.array(), input.array())) return;
  if (Overlap(result_.array(), input.array())) {
    Raise(PyExc_ValueError,
          same_allowed ? "%s overlaps %s in memory; it may be %s itself (in place) or separate memory"
                       : "%s overlaps %s in memory; expected memory apart from %s",
          name_, input_name, input_name);
  }
}

void Output::Load() {
  if (buffer_.get() != result_.get() && PyArray_CopyInto(buffer_.array(), result_.array()) < 0) throw PythonError();
}

Ref Output::Finish() {
  if (buffer_.get() != result_.get() && PyArray_CopyInto(result_.array(), buffer_.array()) < 0) {
    throw PythonError();
  }
  return std::move(result_);
}

Ref Output::FinishAsScalarIfZeroDim() {
  Ref result = Finish();
  if (is_callers_ || PyArray_NDIM(result.array()) != 0) return result;
  return Ref::Check(PyArray_Return(reinterpret_cast<PyArrayObject*>(result.release())));
}

OutPair::OutPair(PyObject* out) {
  if (out == nullptr || out == Py_None) return;
  if (!PyTuple_Check(out) || PyTuple_GET_SIZE(out) != 2) {
    const bool is_tuple = PyTuple_Check(out);
    Raise(PyExc_TypeError, "out must be a tuple of two NumPy arrays, found %s%s", Py_TYPE(out)->tp_name,
          is_tuple ? (" of " + std::to_string(PyTuple_GET_SIZE(out))).c_str() : "");
  }
  first = PyTuple_GET_ITEM(out, 0);
  second = PyTuple_GET_ITEM(out, 1);
}

bool ToCommonOrder(Ref* arrays, size_t count, PyObject* out, bool c_order) {
  bool all_c = true;
  bool all_f = !c_order;
  for (size_t i = 0; i < count; ++i) {
    all_c = all_c && (!arrays[i] || IsC(arrays[i]));
    all_f = all_f && (!arrays[i] || IsF(arrays[i]));
  }
  if (out != nullptr && out != Py_None && PyArray_Check(out)) {
    const Ref array = Ref::Borrow(out);
    all_f = all_f && IsF(array);
  }
  if (all_c || all_f) return !all_c;
  for (size_t i = 0; i < count; ++i) {
    if (arrays[i]) arrays[i] = COrdered(arrays[i]);
  }
  return false;
}

std::string IndexText(PyArrayObject* array, size_t flat, bool fortran, int axis_moved) {
  const int ndim = PyArray_NDIM(array);
  if (ndim == 0) return "";
  std::string index[NPY_MAXDIMS];
  for (int step = 0; step < ndim; ++step) {
    const int axis = fortran ? step : ndim - 1 - step;
    const size_t length = static_cast<size_t>(PyArray_DIM(array, axis));
    index[axis] = std::to_string(flat % length);
    flat /= length;
  }
  if (axis_moved >= 0) std::rotate(index + axis_moved, index + ndim - 1, index + ndim);
  std::string text = "[" + index[0];
  for (int axis = 1; axis < ndim; ++axis) text += ", " + index[axis];
  return text + "]";
}

void AddFunctions(PyObject* module, PyMethodDef* functions) {
  if (PyModule_AddFunctions(module, functions) < 0) throw PythonError();
}

}  // namespace bind
}  // namespace fuseprop
