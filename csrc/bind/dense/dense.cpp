// The DenseStack type: dense layers in a row, bound to their arrays once, so that a training step does not check them
// again and again.

#include "kernels/dense/dense.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "bind/activations/activations.h"
#include "bind/register.h"
#include "threads/fork.h"

namespace fuseprop {
namespace bind {
namespace {

// The layers in their dtype, and what they were made of.
struct Stack {
  std::vector<DenseLayer<float>> f32;
  std::vector<DenseLayer<double>> f64;
  std::vector<Ref> parameters;                                // weights, biases, their gradients, activations
  std::vector<std::pair<Py_ssize_t, PyObject*>> activations;  // by layer, for those that have one
  std::vector<Ref> buffers;                                   // of the batch size that is bound
  std::vector<std::pair<const char*, const char*>> spans;     // where these lie
  int typenum = NPY_FLOAT32;
  npy_intp in = 0, out = 0;
  npy_intp rows = -1;
  Ref x;  // of the last forward pass
  const char* x_data = nullptr;
  size_t x_stride = 0;
  BusyFlag running;

  bool HasFirstDx() const { return f32.empty() ? f64[0].dx != nullptr : f32[0].dx != nullptr; }
  template <class T>
  std::vector<DenseLayer<T>>& Layers() {
    if constexpr (sizeof(T) == sizeof(float)) {
      return f32;
    } else {
      return f64;
    }
  }
};

struct DenseStack {
  PyObject_HEAD Stack* stack;
};

Stack& Self(PyObject* self) { return *reinterpret_cast<DenseStack*>(self)->stack; }

// While the GIL is released, another thread must not use the stack.
class Running {
 public:
  explicit Running(Stack& stack) : stack_(stack) {
    if (!stack.running.Set()) Raise(PyExc_RuntimeError, "these layers are running in another thread");
  }
  ~Running() { stack_.running.Clear(); }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  Stack& stack_;
};

// An array that the kernels use as it is.
void CheckArray(PyObject* object, const char* name, int typenum, int ndim, const npy_intp* shape, bool writeable) {
  if (!PyArray_Check(object)) {
    Raise(PyExc_TypeError, "%s must be a NumPy array, found %s", name, Py_TYPE(object)->tp_name);
  }
  RefuseMasked(object, name);
  auto* array = reinterpret_cast<PyArrayObject*>(object);
  if (PyArray_TYPE(array) != typenum) {
    Raise(PyExc_TypeError, "%s has dtype %s; expected %s", name, DtypeName(array).c_str(),
          typenum == NPY_FLOAT32 ? "float32" : "float64");
  }
  if (PyArray_NDIM(array) != ndim || !PyArray_CompareLists(PyArray_DIMS(array), shape, ndim)) {
    Raise(PyExc_ValueError, "%s has shape %s; expected %s", name, ShapeText(array).c_str(),
          ShapeText(ndim, shape).c_str());
  }
  if (!PyArray_ISCARRAY_RO(array)) Raise(PyExc_ValueError, "%s is not C-contiguous and aligned", name);
  if (writeable && !PyArray_ISWRITEABLE(array)) Raise(PyExc_ValueError, "%s is read-only", name);
}

std::string Indexed(const char* list, Py_ssize_t i, const char* name) {
  return std::string(list) + "[" + std::to_string(i) + "]" + name;
}

void CheckTuple(PyObject* item, const char* list, Py_ssize_t i, Py_ssize_t size, const char* expected) {
  if (PyTuple_Check(item) && PyTuple_GET_SIZE(item) == size) return;
  Raise(PyExc_TypeError, "%s[%zd] must be a tuple %s, found %s", list, i, expected, Py_TYPE(item)->tp_name);
}

// Keeps the array alive and returns its data.
template <class T>
T* Keep(std::vector<Ref>& kept, PyObject* object) {
  kept.push_back(Ref::Borrow(object));
  return Data<T>(kept.back());
}

template <class T>
void AddLayer(Stack& stack, Py_ssize_t index, PyObject* item) {
  PyObject *weight, *bias, *dweight, *dbias, *activation;
  if (!PyArg_ParseTuple(item, "OOOOO", &weight, &bias, &dweight, &dbias, &activation)) throw PythonError();
  auto* array = reinterpret_cast<PyArrayObject*>(weight);
  const auto name = [&](const char* which) { return Indexed("layers", index, which); };
  if (PyArray_NDIM(array) != 2) {
    Raise(PyExc_ValueError, "%s has shape %s; expected (in, out)", name(".weight").c_str(), ShapeText(array).c_str());
  }
  const npy_intp shape[2] = {PyArray_DIM(array, 0), PyArray_DIM(array, 1)};
  if (!stack.Layers<T>().empty() && shape[0] != stack.out) {
    Raise(PyExc_ValueError, "%s has shape %s; expected (%zd, out), as the layer before it has %zd outputs",
          name(".weight").c_str(), ShapeText(2, shape).c_str(), stack.out, stack.out);
  }
  CheckArray(weight, name(".weight").c_str(), stack.typenum, 2, shape, false);
  CheckArray(dweight, name(".dweight").c_str(), stack.typenum, 2, shape, true);
  DenseLayer<T> layer;
  layer.in = static_cast<size_t>(shape[0]);
  layer.out = static_cast<size_t>(shape[1]);
  layer.weight = Keep<T>(stack.parameters, weight);
  layer.dweight = Keep<T>(stack.parameters, dweight);
  if (bias != Py_None) {
    CheckArray(bias, name(".bias").c_str(), stack.typenum, 1, shape + 1, false);
    CheckArray(dbias, name(".dbias").c_str(), stack.typenum, 1, shape + 1, true);
    layer.bias = Keep<T>(stack.parameters, bias);
    layer.dbias = Keep<T>(stack.parameters, dbias);
  }
  if (const Formula* formula = AsActivation(activation, name(".activation").c_str())) {
    stack.parameters.push_back(Ref::Borrow(activation));
    stack.activations.emplace_back(index, activation);
    layer.activation = formula->row;
    layer.parameters = formula->parameters;
  }
  if (stack.Layers<T>().empty()) stack.in = shape[0];
  stack.out = shape[1];
  stack.Layers<T>().push_back(layer);
}

// DenseStack(layers): a sequence of (weight, bias, dweight, dbias, activation); None for no bias and the identity.
PyObject* New(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  return Guard([&] {
    PyObject* layers_object = nullptr;
    if (kwargs != nullptr && PyDict_Size(kwargs) != 0) {
      Raise(PyExc_TypeError, "DenseStack takes no keyword arguments");
    }
    if (!PyArg_ParseTuple(args, "O", &layers_object)) throw PythonError();
    const Ref layers = AsTuple(layers_object, "layers must be a sequence");
    const Py_ssize_t count = PyTuple_GET_SIZE(layers.get());
    if (count == 0) Raise(PyExc_ValueError, "layers is empty; expected at least one layer");
    Ref self = Ref::Check(type->tp_alloc(type, 0));
    reinterpret_cast<DenseStack*>(self.get())->stack = new Stack;
    Stack& stack = Self(self.get());
    for (Py_ssize_t i = 0; i < count; ++i) {
      PyObject* item = PyTuple_GET_ITEM(layers.get(), i);
      CheckTuple(item, "layers", i, 5, "(weight, bias, dweight, dbias, activation)");
      PyObject* weight = PyTuple_GET_ITEM(item, 0);
      if (!PyArray_Check(weight)) {
        Raise(PyExc_TypeError, "layers[%zd].weight must be a NumPy array, found %s", i, Py_TYPE(weight)->tp_name);
      }
      auto* array = reinterpret_cast<PyArrayObject*>(weight);
      if (i == 0) stack.typenum = PyArray_TYPE(array);
      if (stack.typenum != NPY_FLOAT32 && stack.typenum != NPY_FLOAT64) {
        Raise(PyExc_TypeError, "layers[0].weight has dtype %s; expected float32 or float64", DtypeName(array).c_str());
      }
      stack.typenum == NPY_FLOAT32 ? AddLayer<float>(stack, i, item) : AddLayer<double>(stack, i, item);
    }
    return self;
  });
}

void Dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<DenseStack*>(self)->stack;
  type->tp_free(self);
  Py_DECREF(type);
}

template <class T>
void BindBuffers(Stack& stack, npy_intp rows, PyObject* buffers) {
  std::vector<DenseLayer<T>> layers = stack.Layers<T>();
  std::vector<Ref> kept;
  for (size_t i = 0; i < layers.size(); ++i) {
    PyObject *y, *u, *dx;
    const auto index = static_cast<Py_ssize_t>(i);
    PyObject* item = PyTuple_GET_ITEM(buffers, index);
    CheckTuple(item, "buffers", index, 3, "(y, u, dx)");
    if (!PyArg_ParseTuple(item, "OOO", &y, &u, &dx)) throw PythonError();
    const auto name = [&](const char* which) { return Indexed("buffers", index, which); };
    const npy_intp y_shape[2] = {rows, static_cast<npy_intp>(layers[i].out)};
    const npy_intp x_shape[2] = {rows, static_cast<npy_intp>(layers[i].in)};
    CheckArray(y, name(".y").c_str(), stack.typenum, 2, y_shape, true);
    if (dx != Py_None || i != 0) CheckArray(dx, name(".dx").c_str(), stack.typenum, 2, x_shape, true);
    if (u != Py_None) CheckArray(u, name(".u").c_str(), stack.typenum, 2, y_shape, true);
    layers[i].dx = dx == Py_None ? nullptr : Keep<T>(kept, dx);
    layers[i].u = u == Py_None ? nullptr : Keep<T>(kept, u);
    layers[i].y = Keep<T>(kept, y);
  }
  std::vector<std::pair<const char*, const char*>> spans;
  for (size_t i = 0; i < kept.size(); ++i) {
    PyArrayObject* array = kept[i].array();
    const auto overlaps = [&](const Ref& other) { return PyArray_Check(other.get()) && Overlap(array, other.array()); };
    if (std::any_of(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(i), overlaps) ||
        std::any_of(stack.parameters.begin(), stack.parameters.end(), overlaps)) {
      Raise(PyExc_ValueError, "buffers overlap each other or the parameters in memory; expected memory apart");
    }
    if (PyArray_NBYTES(array) != 0)
      spans.emplace_back(PyArray_BYTES(array), PyArray_BYTES(array) + PyArray_NBYTES(array));
  }
  stack.Layers<T>() = std::move(layers);
  stack.buffers = std::move(kept);
  stack.spans = std::move(spans);
  if (rows != stack.rows) stack.x = Ref();
  stack.rows = rows;
}

// bind(rows, buffers, /): for batches of so many rows, (y, u, dx) of each layer. u is None where y tells f' as well,
// the first dx if it will not be wanted.
PyObject* Bind(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("bind", nargs, 2, 2);
    Stack& stack = Self(self);
    const Running running(stack);
    const Py_ssize_t rows = PyNumber_AsSsize_t(args[0], PyExc_OverflowError);
    if (rows == -1 && PyErr_Occurred() != nullptr) throw PythonError();
    const Ref buffers = AsTuple(args[1], "buffers must be a sequence");
    const auto count = static_cast<Py_ssize_t>(stack.f32.size() + stack.f64.size());
    if (PyTuple_GET_SIZE(buffers.get()) != count) {
      Raise(PyExc_ValueError, "buffers has %zd entries for %zd layers", PyTuple_GET_SIZE(buffers.get()), count);
    }
    stack.typenum == NPY_FLOAT32 ? BindBuffers<float>(stack, rows, buffers.get())
                                 : BindBuffers<double>(stack, rows, buffers.get());
    return Ref::Borrow(Py_None);
  });
}

// For ReleaseGil: the multiply-adds of a pass, as the products by themselves count them.
template <class T>
size_t Work(Stack& stack) {
  size_t sum = 0;
  for (const DenseLayer<T>& layer : stack.Layers<T>()) sum += layer.in * layer.out;
  return sum * static_cast<size_t>(stack.rows) / 8;
}

template <class T>
void RunForward(Stack& stack) {
  const std::vector<DenseLayer<T>>& layers = stack.Layers<T>();
  const auto rows = static_cast<size_t>(stack.rows);
  const ReleaseGil release(Work<T>(stack));
  DenseForward(layers.data(), layers.size(), Data<T>(stack.x), stack.x_stride, rows);
}

// forward(x, /) -> y of the last layer, the array that was bound
PyObject* Forward(PyObject* self, PyObject* object) {
  return Guard([&] {
    Stack& stack = Self(self);
    const Running running(stack);
    if (stack.rows < 0) Raise(PyExc_RuntimeError, "no buffers are bound");
    for (const auto& [layer, activation] : stack.activations) {
      if (IsOverridden(activation)) RefuseOverride(activation, Indexed("layers", layer, ".activation").c_str());
    }
    const Ref given = AnyArray(object, "x");
    Ref x = FloatArray(given, "x");
    const npy_intp shape[2] = {stack.rows, stack.in};
    if (PyArray_TYPE(x.array()) != stack.typenum) {
      Raise(PyExc_TypeError, "x has dtype %s; expected %s", DtypeName(x.array()).c_str(),
            stack.typenum == NPY_FLOAT32 ? "float32" : "float64");
    }
    if (PyArray_NDIM(x.array()) != 2 || !PyArray_CompareLists(PyArray_DIMS(x.array()), shape, 2)) {
      Raise(PyExc_ValueError, "x has shape %s; expected %s", ShapeText(x.array()).c_str(), ShapeText(2, shape).c_str());
    }
    // Rows that are apart in memory are read where they are.
    const npy_intp itemsize = PyArray_ITEMSIZE(x.array());
    const npy_intp row_stride = PyArray_STRIDE(x.array(), 0);
    const bool in_place = stack.rows > 1 && PyArray_STRIDE(x.array(), 1) == itemsize && row_stride % itemsize == 0 &&
                          row_stride >= stack.in * itemsize;
    Ref rows = in_place ? std::move(x) : COrdered(x);
    const size_t x_stride = static_cast<size_t>(in_place ? row_stride / itemsize : stack.in);
    // A layer's own output as its input.
    const char* begin = PyArray_BYTES(rows.array());
    const char* end = begin + stack.rows * static_cast<npy_intp>(x_stride) * itemsize;
    for (const auto& [low, high] : stack.spans) {
      if (begin < high && low < end) Raise(PyExc_ValueError, "x overlaps the layers' buffers in memory; give a copy");
    }
    stack.x = std::move(rows);
    stack.x_data = begin;
    stack.x_stride = x_stride;
    stack.typenum == NPY_FLOAT32 ? RunForward<float>(stack) : RunForward<double>(stack);
    return Ref::Borrow(stack.buffers.back().get());
  });
}

template <class T>
void RunBackward(Stack& stack, const Ref& dy, bool accumulate, bool want_dx) {
  const std::vector<DenseLayer<T>>& layers = stack.Layers<T>();
  const auto rows = static_cast<size_t>(stack.rows);
  const ReleaseGil release(2 * Work<T>(stack));
  DenseBackward(layers.data(), layers.size(), Data<T>(stack.x), stack.x_stride, rows, Data<T>(dy), accumulate, want_dx);
}

// The x of the forward pass may be the caller's own array, which was resized since.
void CheckX(const Stack& stack) {
  PyArrayObject* x = stack.x.array();
  const npy_intp shape[2] = {stack.rows, stack.in};
  if (PyArray_DATA(x) == stack.x_data && PyArray_TYPE(x) == stack.typenum && PyArray_NDIM(x) == 2 &&
      PyArray_CompareLists(PyArray_DIMS(x), shape, 2)) {
    return;
  }
  Raise(PyExc_ValueError,
        "x of the forward pass has been changed in place: it has shape %s and dtype %s; expected shape %s and the "
        "memory of then",
        ShapeText(x).c_str(), DtypeName(x).c_str(), ShapeText(2, shape).c_str());
}

// backward(dy, accumulate, want_dx, /) -> dx of the first layer, the array that was bound, or None. dy is overwritten.
PyObject* Backward(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("backward", nargs, 3, 3);
    Stack& stack = Self(self);
    const Running running(stack);
    if (!stack.x) Raise(PyExc_RuntimeError, "backward needs a forward pass before it");
    const bool accumulate = AsBool(args[1], "accumulate");
    const bool want_dx = AsBool(args[2], "want_dx");
    Ref dy = Ref::Borrow(args[0]);
    const npy_intp shape[2] = {stack.rows, stack.out};
    if (PyArray_Check(dy.get()) && !PyArray_ISCARRAY(dy.array())) {
      dy = Ref::Check(PyArray_NewCopy(Plain(dy).array(), NPY_CORDER));
    }
    CheckArray(dy.get(), "dy", stack.typenum, 2, shape, true);
    if (want_dx && !stack.HasFirstDx()) Raise(PyExc_RuntimeError, "no dx is bound for the first layer");
    CheckX(stack);
    stack.typenum == NPY_FLOAT32 ? RunBackward<float>(stack, dy, accumulate, want_dx)
                                 : RunBackward<double>(stack, dy, accumulate, want_dx);
    return Ref::Borrow(want_dx ? stack.buffers.front().get() : Py_None);
  });
}

PyMethodDef methods[] = {
    {"bind", FastCall(Bind), METH_FASTCALL, nullptr},
    {"forward", Forward, METH_O, nullptr},
    {"backward", FastCall(Backward), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void RegisterDense(PyObject* module) {
  PyType_Slot slots[] = {
      {Py_tp_new, reinterpret_cast<void*>(&New)},
      {Py_tp_dealloc, reinterpret_cast<void*>(&Dealloc)},
      {Py_tp_methods, methods},
      {0, nullptr},
  };
  PyType_Spec spec = {"fuseprop._core.DenseStack", static_cast<int>(sizeof(DenseStack)), 0, Py_TPFLAGS_DEFAULT, slots};
  const Ref type = Ref::Check(PyType_FromSpec(&spec));
  if (PyModule_AddType(module, reinterpret_cast<PyTypeObject*>(type.get())) < 0) throw PythonError();
}

}  // namespace bind
}  // namespace fuseprop
