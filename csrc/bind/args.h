// The argument layer between Python and the kernels: one place for what is accepted, what is refused and how
// it is said. Errors are set in Python and thrown as PythonError; everything is checked before anything is
// written.
//
// Taking an argument may run Python code (__array__, __float__, __index__, __bool__, a mapping's methods), which may
// resize or retype an array that is another argument. So every call first takes all its arguments, with AnyArray and
// the As... functions, and holds what it made of them; dtypes, shapes and memory it looks at afterwards, with functions
// that take a Ref. No Python code runs from there on: subclasses of arrays are seen as plain ones. Left to the caller,
// as in NumPy: another thread that resizes or retypes an array during the call. Values may change at any time.

#ifndef FUSEPROP_BIND_ARGS_H_
#define FUSEPROP_BIND_ARGS_H_

#ifndef PY_SSIZE_T_CLEAN
#define PY_SSIZE_T_CLEAN
#endif
#include <Python.h>

#define PY_ARRAY_UNIQUE_SYMBOL fuseprop_ARRAY_API
#ifndef FUSEPROP_IMPORT_ARRAY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <utility>

namespace fuseprop {
namespace bind {

// A Python error has been set.
struct PythonError {};

[[noreturn]] void Raise(PyObject* type, const char* format, ...);

// An owned reference.
class Ref {
 public:
  Ref() = default;
  static Ref Steal(PyObject* object) { return Ref(object); }
  static Ref Borrow(PyObject* object) {
    Py_XINCREF(object);
    return Ref(object);
  }
  // Steals the result of a call into Python that returns null on error.
  static Ref Check(PyObject* object) {
    if (object == nullptr) throw PythonError();
    return Ref(object);
  }
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() { Py_XDECREF(object_); }

  explicit operator bool() const { return object_ != nullptr; }
  PyObject* get() const { return object_; }
  PyArrayObject* array() const { return reinterpret_cast<PyArrayObject*>(object_); }
  PyObject* release() { return std::exchange(object_, nullptr); }

 private:
  explicit Ref(PyObject* object) : object_(object) {}
  PyObject* object_ = nullptr;
};

// Turns C++ exceptions into Python ones. Wraps every function that Python calls.
template <class F>
PyObject* Guard(const F& f) noexcept {
  try {
    return f().release();
  } catch (const PythonError&) {
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// Releases the GIL for work on many elements; for little work that would cost more than it gives.
class ReleaseGil {
 public:
  explicit ReleaseGil(size_t work) : state_(work >= kSmall ? PyEval_SaveThread() : nullptr) {}
  ~ReleaseGil() {
    if (state_ == nullptr) return;
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      // Before 3.14, Python ends a daemon thread that comes back after the interpreter is finalized, by unwinding
      // its stack: that would touch objects without the GIL. The thread stays here instead, as it does in 3.14.
      for (;;) pause();
    }
  }
  ReleaseGil(const ReleaseGil&) = delete;
  ReleaseGil& operator=(const ReleaseGil&) = delete;

 private:
  static constexpr size_t kSmall = 8192;
  PyThreadState* state_;
};

// A METH_FASTCALL function as PyMethodDef stores it.
inline PyCFunction FastCall(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

void AddFunctions(PyObject* module, PyMethodDef* functions);

void CheckNumArgs(const char* function, Py_ssize_t found, Py_ssize_t min, Py_ssize_t max);
double AsDouble(PyObject* object, const char* name);
// The index of an axis, clipped to what fits.
Py_ssize_t AsAxis(PyObject* object);
bool AsBool(PyObject* object, const char* name);
// The items of a sequence, which may be a list that others change. TypeError, with what was expected.
Ref AsTuple(PyObject* object, const char* expected);
// "float32", "(3, 4)", "[1, 2]", for messages.
std::string DtypeName(PyArrayObject* array);
std::string ShapeText(int ndim, const npy_intp* shape);
std::string ShapeText(PyArrayObject* array);

template <class T>
constexpr int TypeNum() {
  return sizeof(T) == sizeof(float) ? NPY_FLOAT32 : NPY_FLOAT64;
}
template <class T>
T* Data(const Ref& array) {
  return static_cast<T*>(PyArray_DATA(array.array()));
}
inline size_t Size(const Ref& array) { return static_cast<size_t>(PyArray_SIZE(array.array())); }
inline bool IsFloat32(const Ref& array) { return PyArray_TYPE(array.array()) == NPY_FLOAT32; }
bool SameShape(PyArrayObject* a, PyArrayObject* b);
// The addresses [low, high) that the elements of an array lie in.
std::pair<const char*, const char*> Extent(PyArrayObject* array);
// Whether the arrays share memory; likewise, without being the same elements.
bool Overlap(PyArrayObject* a, PyArrayObject* b);
bool OverlapOtherwise(PyArrayObject* a, PyArrayObject* b);

// Anything array-like (sequences, buffers, __array__, so torch and JAX tensors on the CPU) as an array: one of numbers
// unless it was an array before. TypeErrors that say what to do, see fuseprop/_checks.py; a masked array is refused.
Ref MakeArray(PyObject* object, const char* name);
inline Ref AnyArray(PyObject* object, const char* name) {
  return PyArray_CheckExact(object) ? Ref::Borrow(object) : MakeArray(object, name);
}
// Likewise; nothing for None or null.
inline Ref OptionalArray(PyObject* object, const char* name) {
  return object == nullptr || object == Py_None ? Ref() : AnyArray(object, name);
}
// TypeError for a masked array, where an array is taken as it is.
void RefuseMaskedSubclass(PyObject* array, const char* name);
inline void RefuseMasked(PyObject* array, const char* name) {
  if (!PyArray_CheckExact(array)) RefuseMaskedSubclass(array, name);
}
// The same elements, as an array of no subclass: those have methods in Python.
Ref PlainView(PyArrayObject* array);
inline Ref Plain(const Ref& array) {
  return PyArray_CheckExact(array.get()) ? Ref::Borrow(array.get()) : PlainView(array.array());
}
// A new array of ones, in C or Fortran order.
Ref Ones(int ndim, const npy_intp* shape, int typenum, bool fortran);
// An array of float32 or float64 in the machine's byte order, any strides. Integers and booleans become float64;
// any other dtype is a TypeError. A TypeError too if `typenum` is given and differs (no silent upcast).
Ref FloatArray(const Ref& given, const char* name);
// Likewise, cast to `typenum` whatever of the real dtypes it has: for targets and weights.
Ref FloatArrayAs(const Ref& given, const char* name, int typenum);
// Parameters that must have one dtype: a TypeError names both arguments if they differ.
void CheckSameDtype(const Ref& a, const char* a_name, const Ref& b, const char* b_name);
void CheckSameShape(const Ref& a, const char* a_name, const Ref& b, const char* b_name);

// A copy in C order unless the array is in it already.
Ref COrdered(const Ref& array);

// Where a kernel writes: a new array, the caller's `out`, or a copy that is put into `out` at the end because of
// its strides.
class Output {
 public:
  // A new array.
  Output(int ndim, const npy_intp* shape, int typenum, bool fortran = false);
  // `out` if it is neither null nor None, else a new array. The caller's must have this shape and dtype exactly
  // and be writeable. `fortran`: the memory order the kernel writes.
  Output(PyObject* out, const char* name, int ndim, const npy_intp* shape, int typenum, bool fortran = false);

  // ValueError if the caller's array overlaps `input` in another way than being the same elements. With
  // `same_allowed` false, that is refused too.
  void CheckOverlap(const Ref& input, const char* input_name, bool same_allowed = true) const;
  // Brings what the caller's array holds to where the kernel writes: for kernels that add to it.
  void Load();
  bool is_callers() const { return is_callers_; }
  template <class T>
  T* data() const {
    return Data<T>(buffer_);
  }
  const Ref& buffer() const { return buffer_; }
  // The caller's array, or the new one.
  const Ref& result() const { return result_; }
  // The array to return, finished.
  Ref Finish();
  // Likewise; a zero-dimensional new array becomes a scalar, as with NumPy's own functions.
  Ref FinishAsScalarIfZeroDim();

 private:
  const char* name_ = "out";
  Ref result_;
  Ref buffer_;
  bool is_callers_ = false;
};

// An argument out=(first, second); both null for None. TypeError.
struct OutPair {
  explicit OutPair(PyObject* out);
  PyObject* first = nullptr;
  PyObject* second = nullptr;
};

// Arrays of one shape brought to one memory order, in which a kernel can run over them as flat arrays: C, or
// Fortran if all have that. `out` (may be null or None) takes part in the choice. With `c_order`, C alone.
bool ToCommonOrder(Ref* arrays, size_t count, PyObject* out, bool c_order = false);

// Where element `flat` of an array in the given order stands: "[3]", "[2, 5]"; "" for a scalar. With `axis`, the
// array's last axis is that one of the array that the text is about.
std::string IndexText(PyArrayObject* array, size_t flat, bool fortran, int axis = -1);

}  // namespace bind
}  // namespace fuseprop

#endif  // FUSEPROP_BIND_ARGS_H_
