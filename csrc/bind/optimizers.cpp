// The Updater type: an optimizer's rule bound to its parameter and state arrays.

#include "kernels/optimizers.h"

#include <cmath>
#include <vector>

#include "bind/formula.h"
#include "bind/register.h"

namespace fuseprop {
namespace bind {
namespace {

// The tensors of a type T, and which of the caller's each is.
template <class T>
struct Group {
  TensorList<T> list;
  std::vector<size_t> positions;
};

struct Update {
  size_t row = 0;
  size_t num_states = 0;
  std::vector<Ref> parameters;  // in the caller's order
  std::vector<Ref> states;      // kept alive; row by row
  Group<float> f32;
  Group<double> f64;
  // The gradients of the running step: without the GIL, another thread may take an array out of the caller's list.
  std::vector<Ref> grads;
  bool running = false;
};

struct Updater {
  PyObject_HEAD Update* update;
};

Update& Self(PyObject* self) { return *reinterpret_cast<Updater*>(self)->update; }

std::string Indexed(const char* name, size_t i) { return std::string(name) + "[" + std::to_string(i) + "]"; }

// An array that the updates may write for as long as the optimizer lives.
void CheckUpdatable(PyObject* object, const std::string& name) {
  if (!PyArray_Check(object)) {
    Raise(PyExc_TypeError, "%s must be a NumPy array, found %s", name.c_str(), Py_TYPE(object)->tp_name);
  }
  auto* array = reinterpret_cast<PyArrayObject*>(object);
  const int typenum = PyArray_TYPE(array);
  if ((typenum != NPY_FLOAT32 && typenum != NPY_FLOAT64) || !PyArray_ISNOTSWAPPED(array)) {
    Raise(PyExc_TypeError, "%s has dtype %s; expected float32 or float64", name.c_str(), DtypeName(array).c_str());
  }
  if (!PyArray_IS_C_CONTIGUOUS(array) || !PyArray_ISALIGNED(array)) {
    Raise(PyExc_ValueError, "%s is not C-contiguous; it is updated in place and must be: use np.ascontiguousarray",
          name.c_str());
  }
  if (!PyArray_ISWRITEABLE(array)) Raise(PyExc_ValueError, "%s is read-only", name.c_str());
}

template <class T>
void AddTensor(Group<T>& group, size_t position, const Ref& parameter, const std::vector<Ref>& states,
               size_t num_states) {
  Tensor<T> tensor;
  tensor.parameter = Data<T>(parameter);
  tensor.n = Size(parameter);
  for (size_t s = 0; s < num_states; ++s) tensor.states[s] = Data<T>(states[states.size() - num_states + s]);
  group.list.tensors.push_back(tensor);
  group.positions.push_back(position);
}

size_t FindRule(const char* name, size_t num_states_given, bool any) {
  const UpdateTable& table = Updates();
  for (size_t row = 0; row < table.size; ++row) {
    if (std::string(table.rows[row].name) != name) continue;
    if (!any && table.rows[row].num_states != num_states_given) {
      Raise(PyExc_ValueError, "rule %s takes %zu states per parameter, found %zu", name, table.rows[row].num_states,
            num_states_given);
    }
    return row;
  }
  Raise(PyExc_ValueError, "the core has no optimizer named '%s'", name);
}

// Updater(rule, parameters, states)
PyObject* New(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  return Guard([&] {
    const char* rule = nullptr;
    PyObject* parameters_object = nullptr;
    PyObject* states_object = nullptr;
    if (kwargs != nullptr && PyDict_Size(kwargs) != 0) {
      Raise(PyExc_TypeError, "Updater takes no keyword arguments");
    }
    if (!PyArg_ParseTuple(args, "sOO", &rule, &parameters_object, &states_object)) throw PythonError();
    const Ref parameters = Ref::Check(PySequence_Fast(parameters_object, "parameters must be a sequence"));
    const Ref states = Ref::Check(PySequence_Fast(states_object, "states must be a sequence"));
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(parameters.get());
    if (PySequence_Fast_GET_SIZE(states.get()) != count) {
      Raise(PyExc_ValueError, "states has %zd entries for %zd parameters", PySequence_Fast_GET_SIZE(states.get()),
            count);
    }
    Ref self = Ref::Check(type->tp_alloc(type, 0));
    reinterpret_cast<Updater*>(self.get())->update = new Update;
    Update& update = Self(self.get());
    update.row = FindRule(rule, 0, true);
    update.num_states = Updates().rows[update.row].num_states;
    for (Py_ssize_t i = 0; i < count; ++i) {
      const auto position = static_cast<size_t>(i);
      PyObject* parameter = PySequence_Fast_GET_ITEM(parameters.get(), i);
      CheckUpdatable(parameter, Indexed("params", position));
      const Ref row_states =
          Ref::Check(PySequence_Fast(PySequence_Fast_GET_ITEM(states.get(), i), "states must be tuples"));
      const auto found = static_cast<size_t>(PySequence_Fast_GET_SIZE(row_states.get()));
      FindRule(rule, found, false);
      update.parameters.push_back(Ref::Borrow(parameter));
      for (size_t s = 0; s < found; ++s) {
        PyObject* state = PySequence_Fast_GET_ITEM(row_states.get(), static_cast<Py_ssize_t>(s));
        const std::string name = Indexed("states", position) + "[" + std::to_string(s) + "]";
        CheckUpdatable(state, name);
        update.states.push_back(Ref::Borrow(state));
        const std::string parameter_name = Indexed("params", position);
        CheckSameDtype(update.parameters.back(), parameter_name.c_str(), update.states.back(), name.c_str());
        CheckSameShape(update.parameters.back(), parameter_name.c_str(), update.states.back(), name.c_str());
      }
      if (IsFloat32(update.parameters.back())) {
        AddTensor(update.f32, position, update.parameters.back(), update.states, found);
      } else {
        AddTensor(update.f64, position, update.parameters.back(), update.states, found);
      }
    }
    update.grads.reserve(update.parameters.size());
    update.f32.list.CutIntoBlocks();
    update.f64.list.CutIntoBlocks();
    return self;
  });
}

void Dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<Updater*>(self)->update;
  type->tp_free(self);
  Py_DECREF(type);
}

// The gradients of one call: checked, and kept alive until the end of it.
class Grads {
 public:
  Grads(Update& update, PyObject* object) : update_(update) {
    if (update.running) Raise(PyExc_RuntimeError, "a step of this optimizer is running in another thread");
    const Ref sequence = Ref::Check(PySequence_Fast(object, "grads must be a sequence of arrays"));
    const auto count = static_cast<size_t>(PySequence_Fast_GET_SIZE(sequence.get()));
    if (count != update.parameters.size()) {
      Raise(PyExc_ValueError, "grads has %zu arrays for %zu parameters", count, update.parameters.size());
    }
    try {
      Set(sequence, update.f32);
      Set(sequence, update.f64);
    } catch (...) {
      update.grads.clear();
      throw;
    }
    update.running = true;
  }
  ~Grads() {
    update_.grads.clear();
    update_.running = false;
  }
  Grads(const Grads&) = delete;
  Grads& operator=(const Grads&) = delete;

 private:
  template <class T>
  void Set(const Ref& sequence, Group<T>& group) {
    for (size_t k = 0; k < group.positions.size(); ++k) {
      const size_t i = group.positions[k];
      PyObject* object = PySequence_Fast_GET_ITEM(sequence.get(), static_cast<Py_ssize_t>(i));
      Check(update_.parameters[i], object, i);
      Ref grad = COrdered(Ref::Borrow(object));
      if (!PyArray_ISALIGNED(grad.array())) grad = Ref::Check(PyArray_NewCopy(grad.array(), NPY_CORDER));
      group.list.tensors[k].grad = Data<T>(grad);
      update_.grads.push_back(std::move(grad));
    }
  }

  static void Check(const Ref& parameter, PyObject* object, size_t i) {
    if (!PyArray_Check(object)) {
      Raise(PyExc_TypeError, "grads[%zu] must be a NumPy array, found %s", i, Py_TYPE(object)->tp_name);
    }
    auto* grad = reinterpret_cast<PyArrayObject*>(object);
    if (PyArray_TYPE(grad) != PyArray_TYPE(parameter.array()) || !PyArray_ISNOTSWAPPED(grad)) {
      Raise(PyExc_TypeError, "grads[%zu] has dtype %s; its parameter has dtype %s", i, DtypeName(grad).c_str(),
            DtypeName(parameter.array()).c_str());
    }
    if (!SameShape(grad, parameter.array())) {
      Raise(PyExc_ValueError, "grads[%zu] has shape %s; its parameter has shape %s", i, ShapeText(grad).c_str(),
            ShapeText(parameter.array()).c_str());
    }
    if (OverlapOtherwise(grad, parameter.array())) {
      Raise(PyExc_ValueError,
            "grads[%zu] overlaps its parameter in memory; it may be that array itself or separate memory", i);
    }
    if (!PyArray_ISWRITEABLE(parameter.array())) Raise(PyExc_ValueError, "params[%zu] is read-only", i);
  }

  Update& update_;
};

// For ReleaseGil.
size_t Work(const Update& update) {
  const size_t blocks = update.f32.list.first_block.back() + update.f64.list.first_block.back();
  return blocks > 1 ? blocks * kBlock : 0;
}

// step(grads, lr, numbers, scale, weight_decay, l1, decay, /)
PyObject* Step(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("step", nargs, 7, 7);
    Update& update = Self(self);
    const UpdateRow& row = Updates().rows[update.row];
    const double lr = AsDouble(args[1], "lr");
    double numbers[kMaxNumbers];
    if (!PyTuple_Check(args[2]) || PyTuple_GET_SIZE(args[2]) != static_cast<Py_ssize_t>(row.num_numbers)) {
      Raise(PyExc_ValueError, "numbers must be a tuple of %zu numbers for %s", row.num_numbers, row.name);
    }
    for (size_t i = 0; i < row.num_numbers; ++i) {
      numbers[i] = AsDouble(PyTuple_GET_ITEM(args[2], static_cast<Py_ssize_t>(i)), "numbers");
    }
    SharedTerms shared;
    shared.scale = AsDouble(args[3], "scale");
    shared.weight_decay = AsDouble(args[4], "weight_decay");
    shared.l1 = AsDouble(args[5], "l1");
    shared.decay = AsDouble(args[6], "decay");
    const Grads grads(update, args[0]);
    {
      const ReleaseGil release(Work(update));
      if (!update.f32.positions.empty()) row.f32(lr, numbers, shared, update.f32.list);
      if (!update.f64.positions.empty()) row.f64(lr, numbers, shared, update.f64.list);
    }
    return Ref::Borrow(Py_None);
  });
}

// global_norm(grads, /)
PyObject* Norm(PyObject* self, PyObject* object) {
  return Guard([&] {
    Update& update = Self(self);
    const Grads grads(update, object);
    double norm = 0.0;
    {
      const ReleaseGil release(Work(update));
      norm = std::hypot(GlobalNorm(update.f32.list), GlobalNorm(update.f64.list));
    }
    return Ref::Check(PyFloat_FromDouble(norm));
  });
}

PyObject* OptimizerNames(PyObject*, PyObject*) {
  return Guard([] { return Names(Updates()); });
}

PyMethodDef methods[] = {
    {"step", FastCall(Step), METH_FASTCALL, nullptr},
    {"global_norm", Norm, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyMethodDef functions[] = {
    {"optimizer_names", OptimizerNames, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void RegisterOptimizers(PyObject* module) {
  PyType_Slot slots[] = {
      {Py_tp_new, reinterpret_cast<void*>(&New)},
      {Py_tp_dealloc, reinterpret_cast<void*>(&Dealloc)},
      {Py_tp_methods, methods},
      {0, nullptr},
  };
  PyType_Spec spec = {"fuseprop._core.Updater", static_cast<int>(sizeof(Updater)), 0, Py_TPFLAGS_DEFAULT, slots};
  const Ref type = Ref::Check(PyType_FromSpec(&spec));
  if (PyModule_AddType(module, reinterpret_cast<PyTypeObject*>(type.get())) < 0) throw PythonError();
  AddFunctions(module, functions);
}

}  // namespace bind
}  // namespace fuseprop
