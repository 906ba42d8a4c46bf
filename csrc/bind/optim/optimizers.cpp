// The Updater type: an optimizer's rule bound to its parameter and state arrays, and the count of its steps.

#include "kernels/optim/optimizers.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "bind/formula.h"
#include "bind/register.h"
#include "threads/fork.h"

namespace fuseprop {
namespace bind {
namespace {

// The tensors of one group by dtype, and what the running step does to them.
struct Group {
  TensorList<float> f32;
  TensorList<double> f64;
  double lr = 0.0;
  SharedTerms shared;
};

// A parameter with its states, kept alive, and what messages call it and its gradient. The array is the caller's, who
// may resize it or set its dtype or shape between two steps: what it was when it was bound is compared at each.
struct Entry {
  Ref parameter;
  const void* data;
  int typenum;
  std::vector<npy_intp> shape;
  std::vector<Ref> states;
  std::string name;
  std::string grad_name;
  size_t tensor;  // its place in the group's list
};

// The memory of a parameter.
struct Span {
  const char* begin;
  const char* end;
  size_t entry;
};

// An array that owns the memory of parameters that are views of it.
struct Owner {
  Ref array;
  const void* data;
  npy_intp bytes;
  size_t entry;  // the first such parameter
};

struct Update {
  size_t row = 0;
  std::vector<Group> groups;
  std::vector<size_t> group_ends;  // each group's last entry + 1
  std::vector<Entry> entries;      // of all groups, one behind the other
  std::vector<Span> spans;         // by address
  std::vector<Owner> owners;
  size_t work = 0;  // for ReleaseGil
  int64_t steps = 0;
  // Set while a step is running, or the state is being read or set. Without the GIL another thread may come here, and
  // so may Python code that is called in the middle.
  BusyFlag running;
};

struct Updater {
  PyObject_HEAD Update* update;
};

Update& Self(PyObject* self) { return *reinterpret_cast<Updater*>(self)->update; }

class Running {
 public:
  explicit Running(Update& update) : update_(update) {
    if (update.running.Set()) return;
    Raise(PyExc_RuntimeError,
          "a step of this optimizer is running, or its state is being read or set, in another thread or around "
          "this call");
  }
  ~Running() { update_.running.Clear(); }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  Update& update_;
};

const char* TextAt(const Ref& tuple, Py_ssize_t i) {
  const char* text = PyUnicode_AsUTF8(PyTuple_GET_ITEM(tuple.get(), i));
  if (text == nullptr) throw PythonError();
  return text;
}

// An array that the updates may write for as long as the optimizer lives.
void CheckUpdatable(PyObject* object, const std::string& name) {
  if (!PyArray_Check(object)) {
    Raise(PyExc_TypeError, "%s must be a NumPy array, found %s", name.c_str(), Py_TYPE(object)->tp_name);
  }
  RefuseMasked(object, name.c_str());
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
size_t AddTensor(TensorList<T>& list, const Entry& entry) {
  Tensor<T> tensor;
  tensor.parameter = Data<T>(entry.parameter);
  tensor.n = Size(entry.parameter);
  for (size_t s = 0; s < entry.states.size(); ++s) tensor.states[s] = Data<T>(entry.states[s]);
  list.tensors.push_back(tensor);
  return list.tensors.size() - 1;
}

size_t FindRule(const char* name) {
  const UpdateTable& table = Updates();
  for (size_t row = 0; row < table.size; ++row) {
    if (std::string(table.rows[row].name) == name) return row;
  }
  Raise(PyExc_ValueError, "the core has no optimizer named '%s'", name);
}

// A parameter as Python gives it: (array, (state, ...), its name, its gradient's name).
Entry MakeEntry(PyObject* object, const UpdateRow& row) {
  const Ref given = AsTuple(object, "a parameter must be a tuple");
  if (PyTuple_GET_SIZE(given.get()) != 4) {
    Raise(PyExc_ValueError, "a parameter is a tuple of %zd; expected (array, states, name, gradient's name)",
          PyTuple_GET_SIZE(given.get()));
  }
  Entry entry;
  entry.name = TextAt(given, 2);
  entry.grad_name = TextAt(given, 3);
  PyObject* parameter = PyTuple_GET_ITEM(given.get(), 0);
  CheckUpdatable(parameter, entry.name);
  entry.parameter = Ref::Borrow(parameter);
  PyArrayObject* array = entry.parameter.array();
  entry.data = PyArray_DATA(array);
  entry.typenum = PyArray_TYPE(array);
  entry.shape.assign(PyArray_DIMS(array), PyArray_DIMS(array) + PyArray_NDIM(array));
  const Ref states = AsTuple(PyTuple_GET_ITEM(given.get(), 1), "the states of a parameter must be a tuple");
  const auto count = static_cast<size_t>(PyTuple_GET_SIZE(states.get()));
  if (count != row.num_states) {
    Raise(PyExc_ValueError, "rule %s takes %zu states per parameter, found %zu", row.name, row.num_states, count);
  }
  for (size_t s = 0; s < count; ++s) {
    PyObject* state = PyTuple_GET_ITEM(states.get(), static_cast<Py_ssize_t>(s));
    const std::string name = "states[" + std::to_string(s) + "] of " + entry.name;
    CheckUpdatable(state, name);
    entry.states.push_back(Ref::Borrow(state));
    CheckSameDtype(entry.parameter, entry.name.c_str(), entry.states.back(), name.c_str());
    CheckSameShape(entry.parameter, entry.name.c_str(), entry.states.back(), name.c_str());
  }
  return entry;
}

// Notes whose memory the parameter lies in, if it is not its own.
void AddOwner(Update& update, size_t i) {
  PyArrayObject* owner = update.entries[i].parameter.array();
  while (PyArray_BASE(owner) != nullptr && PyArray_Check(PyArray_BASE(owner))) {
    owner = reinterpret_cast<PyArrayObject*>(PyArray_BASE(owner));
  }
  auto* object = reinterpret_cast<PyObject*>(owner);
  const auto known = [&](const Owner& other) { return other.array.get() == object; };
  if (object == update.entries[i].parameter.get() || std::any_of(update.owners.begin(), update.owners.end(), known)) {
    return;
  }
  update.owners.push_back({Ref::Borrow(object), PyArray_DATA(owner), PyArray_NBYTES(owner), i});
}

// Updater(rule, groups): each group a sequence of parameters, see MakeEntry
PyObject* New(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  return Guard([&] {
    const char* rule = nullptr;
    PyObject* groups_object = nullptr;
    if (kwargs != nullptr && PyDict_Size(kwargs) != 0) {
      Raise(PyExc_TypeError, "Updater takes no keyword arguments");
    }
    if (!PyArg_ParseTuple(args, "sO", &rule, &groups_object)) throw PythonError();
    const Ref groups = AsTuple(groups_object, "groups must be a sequence");
    Ref self = Ref::Check(type->tp_alloc(type, 0));
    reinterpret_cast<Updater*>(self.get())->update = new Update;
    Update& update = Self(self.get());
    update.row = FindRule(rule);
    for (Py_ssize_t g = 0; g < PyTuple_GET_SIZE(groups.get()); ++g) {
      const Ref parameters = AsTuple(PyTuple_GET_ITEM(groups.get(), g), "a group must be a sequence");
      Group group;
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(parameters.get()); ++i) {
        Entry entry = MakeEntry(PyTuple_GET_ITEM(parameters.get(), i), Updates().rows[update.row]);
        entry.tensor = IsFloat32(entry.parameter) ? AddTensor(group.f32, entry) : AddTensor(group.f64, entry);
        if (Size(entry.parameter) != 0) {
          const char* begin = PyArray_BYTES(entry.parameter.array());
          update.spans.push_back({begin, begin + PyArray_NBYTES(entry.parameter.array()), update.entries.size()});
        }
        update.entries.push_back(std::move(entry));
        AddOwner(update, update.entries.size() - 1);
      }
      group.f32.CutIntoBlocks();
      group.f64.CutIntoBlocks();
      const size_t blocks = group.f32.first_block.back() + group.f64.first_block.back();
      update.work += blocks > 1 ? blocks * kBlock : 0;
      update.groups.push_back(std::move(group));
      update.group_ends.push_back(update.entries.size());
    }
    std::sort(update.spans.begin(), update.spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
    return self;
  });
}

void Dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<Updater*>(self)->update;
  type->tp_free(self);
  Py_DECREF(type);
}

bool HasShape(PyArrayObject* array, const std::vector<npy_intp>& shape) {
  const size_t ndim = shape.size();
  bool same = static_cast<size_t>(PyArray_NDIM(array)) == ndim;
  for (size_t i = 0; same && i < ndim; ++i) same = PyArray_DIM(array, static_cast<int>(i)) == shape[i];
  return same;
}

// Says how a parameter is not what it was when it was bound.
[[noreturn]] void RaiseChanged(const Entry& entry) {
  constexpr const char* kRemedy =
      "a parameter keeps its memory, dtype and shape for the optimizer's life: make a new optimizer for the array as "
      "it is now";
  PyArrayObject* array = entry.parameter.array();
  const char* name = entry.name.c_str();
  if (PyArray_TYPE(array) != entry.typenum || !PyArray_ISNOTSWAPPED(array)) {
    Raise(PyExc_ValueError, "%s has got dtype %s; expected %s, as it was bound: %s", name, DtypeName(array).c_str(),
          entry.typenum == NPY_FLOAT32 ? "float32" : "float64", kRemedy);
  }
  if (!HasShape(array, entry.shape)) {
    Raise(PyExc_ValueError, "%s has got shape %s; expected %s, as it was bound: %s", name, ShapeText(array).c_str(),
          ShapeText(static_cast<int>(entry.shape.size()), entry.shape.data()).c_str(), kRemedy);
  }
  if (PyArray_DATA(array) != entry.data) {
    Raise(PyExc_ValueError, "%s lies at %p in memory; expected %p, as it was bound: %s", name, PyArray_DATA(array),
          entry.data, kRemedy);
  }
  if (!PyArray_ISWRITEABLE(array)) Raise(PyExc_ValueError, "%s is read-only; it is updated in place", name);
  Raise(PyExc_ValueError, "%s is not C-contiguous any more; expected the strides that it was bound with: %s", name,
        kRemedy);
}

void CheckBound(const Entry& entry) {
  PyArrayObject* array = entry.parameter.array();
  const bool same = PyArray_DATA(array) == entry.data && PyArray_TYPE(array) == entry.typenum &&
                    PyArray_CHKFLAGS(array, NPY_ARRAY_CARRAY) && HasShape(array, entry.shape);
  if (!same || !PyArray_ISNOTSWAPPED(array)) RaiseChanged(entry);
}

void CheckOwners(const Update& update) {
  for (const Owner& owner : update.owners) {
    PyArrayObject* array = owner.array.array();
    if (PyArray_DATA(array) == owner.data && PyArray_NBYTES(array) == owner.bytes) continue;
    Raise(PyExc_ValueError,
          "%s is a view of an array that has been resized: %zd bytes, expected %zd where they were: make a new "
          "optimizer for arrays that exist",
          update.entries[owner.entry].name.c_str(), PyArray_NBYTES(array), owner.bytes);
  }
}

// An array that a kernel can read: itself, or a copy. The copy is no subclass, whose making would run Python code.
Ref Readable(PyObject* object) {
  constexpr int kWanted = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED;
  auto* array = reinterpret_cast<PyArrayObject*>(object);
  if (PyArray_CHKFLAGS(array, kWanted)) return Ref::Borrow(object);
  return Ref::Check(PyArray_FromArray(array, nullptr, kWanted | NPY_ARRAY_ENSUREARRAY));
}

// The gradients of a running step: checked, and kept alive until the end of it.
class Grads {
 public:
  // `object` holds one sequence of arrays for each group. A list is copied: Python code may change it meanwhile.
  Grads(Update& update, PyObject* object) : update_(update), arrays_(Tuples(object)) {
    CheckOwners(update);
    CheckCount(arrays_.get(), update.groups.size(), "groups");
    size_t i = 0;
    for (size_t g = 0; g < update.groups.size(); ++g) {
      PyObject* grads = PyTuple_GET_ITEM(arrays_.get(), static_cast<Py_ssize_t>(g));
      CheckCount(grads, update.group_ends[g] - i, "parameters");
      for (Py_ssize_t k = 0; i < update.group_ends[g]; ++i, ++k) {
        Set(update.groups[g], i, PyTuple_GET_ITEM(grads, k));
      }
    }
  }

  // A tuple of them for each group.
  PyObject* arrays() const { return arrays_.get(); }

  // Once more, after other code has run: that what was checked, parameters and gradients, is where it was.
  void CheckUnmoved() const {
    CheckOwners(update_);
    size_t i = 0;
    for (size_t g = 0; g < update_.groups.size(); ++g) {
      PyObject* grads = PyTuple_GET_ITEM(arrays_.get(), static_cast<Py_ssize_t>(g));
      for (Py_ssize_t k = 0; i < update_.group_ends[g]; ++i, ++k) {
        const Entry& entry = update_.entries[i];
        CheckBound(entry);
        const auto copied = [&](const Copy& copy) { return copy.entry == i; };
        if (std::any_of(copies_.begin(), copies_.end(), copied)) continue;
        PyArrayObject* grad = reinterpret_cast<PyArrayObject*>(PyTuple_GET_ITEM(grads, k));
        const Group& group = update_.groups[g];
        const void* data = entry.typenum == NPY_FLOAT32 ? static_cast<const void*>(group.f32.tensors[entry.tensor].grad)
                                                        : group.f64.tensors[entry.tensor].grad;
        if (PyArray_DATA(grad) == data && PyArray_TYPE(grad) == entry.typenum && HasShape(grad, entry.shape)) continue;
        Raise(PyExc_ValueError, "%s was resized during the step; expected an array that stays as it is",
              entry.grad_name.c_str());
      }
    }
  }

 private:
  // `object` and what it holds as tuples; itself if it is that already.
  static Ref Tuples(PyObject* object) {
    Ref outer = AsTuple(object, "grads must be a sequence");
    const Py_ssize_t count = PyTuple_GET_SIZE(outer.get());
    bool nested = true;
    for (Py_ssize_t g = 0; g < count; ++g) nested = nested && PyTuple_CheckExact(PyTuple_GET_ITEM(outer.get(), g));
    if (nested) return outer;
    Ref tuples = Ref::Check(PyTuple_New(count));
    for (Py_ssize_t g = 0; g < count; ++g) {
      Ref inner = AsTuple(PyTuple_GET_ITEM(outer.get(), g), "grads must be sequences of arrays");
      PyTuple_SET_ITEM(tuples.get(), g, inner.release());
    }
    return tuples;
  }

  static void CheckCount(PyObject* tuple, size_t expected, const char* of) {
    const auto found = static_cast<size_t>(PyTuple_GET_SIZE(tuple));
    if (found != expected) Raise(PyExc_ValueError, "grads has %zu entries for %zu %s", found, expected, of);
  }

  void Set(Group& group, size_t i, PyObject* object) {
    const Entry& entry = update_.entries[i];
    CheckBound(entry);
    Check(i, object);
    Ref grad = Readable(object);
    if (entry.typenum == NPY_FLOAT32) {
      group.f32.tensors[entry.tensor].grad = Data<float>(grad);
    } else {
      group.f64.tensors[entry.tensor].grad = Data<double>(grad);
    }
    if (grad.get() != object) copies_.push_back({std::move(grad), i});
  }

  void Check(size_t i, PyObject* object) const {
    const Entry& entry = update_.entries[i];
    PyArrayObject* parameter = entry.parameter.array();
    const char* name = entry.grad_name.c_str();
    if (!PyArray_Check(object)) {
      Raise(PyExc_TypeError, "%s must be a NumPy array, found %s", name, Py_TYPE(object)->tp_name);
    }
    RefuseMasked(object, name);
    auto* grad = reinterpret_cast<PyArrayObject*>(object);
    if (PyArray_TYPE(grad) != PyArray_TYPE(parameter) || !PyArray_ISNOTSWAPPED(grad)) {
      const std::string expected = DtypeName(parameter);
      Raise(PyExc_TypeError, "%s has dtype %s; expected its parameter's, %s: cast it with .astype(np.%s)", name,
            DtypeName(grad).c_str(), expected.c_str(), expected.c_str());
    }
    if (!HasShape(grad, entry.shape)) {
      Raise(PyExc_ValueError, "%s has shape %s; expected its parameter's, %s", name, ShapeText(grad).c_str(),
            ShapeText(parameter).c_str());
    }
    CheckApart(i, grad);
  }

  // A gradient may be its own parameter. Were it another one, what is read would depend on which is updated first.
  void CheckApart(size_t i, PyArrayObject* grad) const {
    if (PyArray_SIZE(grad) == 0) return;
    const auto [low, high] = Extent(grad);
    auto span = std::upper_bound(update_.spans.begin(), update_.spans.end(), low,
                                 [](const char* address, const Span& other) { return address < other.end; });
    for (; span != update_.spans.end() && span->begin < high; ++span) {
      const Entry& other = update_.entries[span->entry];
      PyArrayObject* parameter = other.parameter.array();
      if (span->entry == i ? OverlapOtherwise(grad, parameter) : Overlap(grad, parameter)) {
        Raise(
            PyExc_ValueError,
            "%s overlaps %s in memory, which the step changes; a gradient may be its own parameter or separate memory",
            update_.entries[i].grad_name.c_str(), other.name.c_str());
      }
    }
  }

  struct Copy {
    Ref array;
    size_t entry;
  };

  Update& update_;
  Ref arrays_;
  std::vector<Copy> copies_;
};

// Reads what the step does to each group: (lr, weight_decay, l1, decay).
void SetTerms(Update& update, PyObject* object) {
  if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != static_cast<Py_ssize_t>(update.groups.size())) {
    Raise(PyExc_ValueError, "terms must be a tuple of %zu, one entry for each group", update.groups.size());
  }
  for (size_t g = 0; g < update.groups.size(); ++g) {
    PyObject* terms = PyTuple_GET_ITEM(object, static_cast<Py_ssize_t>(g));
    if (!PyTuple_Check(terms) || PyTuple_GET_SIZE(terms) != 4) {
      Raise(PyExc_ValueError, "terms[%zu] must be (lr, weight_decay, l1, decay)", g);
    }
    Group& group = update.groups[g];
    group.lr = AsDouble(PyTuple_GET_ITEM(terms, 0), "lr");
    group.shared.weight_decay = AsDouble(PyTuple_GET_ITEM(terms, 1), "weight_decay");
    group.shared.l1 = AsDouble(PyTuple_GET_ITEM(terms, 2), "l1");
    group.shared.decay = AsDouble(PyTuple_GET_ITEM(terms, 3), "decay");
  }
}

// step(grads, terms, scale, numbers, step, clip, /)
PyObject* Step(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("step", nargs, 6, 6);
    Update& update = Self(self);
    const UpdateRow& row = Updates().rows[update.row];
    const Running running(update);
    const long long step = PyLong_AsLongLong(args[4]);
    if (step == -1 && PyErr_Occurred() != nullptr) throw PythonError();
    if (step != update.steps + 1) {
      Raise(PyExc_RuntimeError, "another step of this optimizer came between, in another thread or around this call");
    }
    double numbers[kMaxNumbers];
    if (!PyTuple_Check(args[3]) || PyTuple_GET_SIZE(args[3]) != static_cast<Py_ssize_t>(row.num_numbers)) {
      Raise(PyExc_ValueError, "numbers must be a tuple of %zu numbers for %s", row.num_numbers, row.name);
    }
    for (size_t i = 0; i < row.num_numbers; ++i) {
      numbers[i] = AsDouble(PyTuple_GET_ITEM(args[3], static_cast<Py_ssize_t>(i)), "numbers");
    }
    double scale = AsDouble(args[2], "scale");
    SetTerms(update, args[1]);
    const Grads grads(update, args[0]);
    if (args[5] != Py_None) {
      double norm = 0.0;
      {
        const ReleaseGil release(update.work);
        for (Group& group : update.groups) {
          norm = std::hypot(norm, std::hypot(GlobalNorm(group.f32), GlobalNorm(group.f64)));
        }
      }
      const Ref number = Ref::Check(PyFloat_FromDouble(norm));
      PyObject* given[] = {number.get(), grads.arrays()};
      const Ref factor = Ref::Check(PyObject_Vectorcall(args[5], given, 2, nullptr));
      if (factor.get() == Py_None) return Ref::Borrow(Py_None);
      scale *= AsDouble(factor.get(), "clip");
      grads.CheckUnmoved();
    }
    for (Group& group : update.groups) group.shared.scale = scale;
    {
      const ReleaseGil release(update.work);
      for (const Group& group : update.groups) {
        if (!group.f32.tensors.empty()) row.f32(group.lr, numbers, group.shared, group.f32);
        if (!group.f64.tensors.empty()) row.f64(group.lr, numbers, group.shared, group.f64);
      }
    }
    ++update.steps;
    return Ref::Borrow(Py_None);
  });
}

// alone(function, /)
PyObject* Alone(PyObject* self, PyObject* function) {
  return Guard([&] {
    const Running running(Self(self));
    return Ref::Check(PyObject_Vectorcall(function, nullptr, 0, nullptr));
  });
}

PyObject* GetSteps(PyObject* self, void*) { return PyLong_FromLongLong(Self(self).steps); }

int SetSteps(PyObject* self, PyObject* value, void*) {
  const long long steps = value == nullptr ? -1 : PyLong_AsLongLong(value);
  if (steps < 0) {
    if (PyErr_Occurred() == nullptr) PyErr_SetString(PyExc_ValueError, "steps must be an integer >= 0");
    return -1;
  }
  Self(self).steps = steps;
  return 0;
}

template <class T>
void AddGrad(TensorList<T>& list, const Ref& grad) {
  Tensor<T> tensor;
  tensor.grad = Data<T>(grad);
  tensor.n = Size(grad);
  list.tensors.push_back(tensor);
}

// Whether the elements of two arrays cannot meet because they lie at other places of one period, as columns of a matrix
// do. For many of those NumPy's answer would take long.
bool Interleaved(PyArrayObject* a, PyArrayObject* b) {
  npy_intp period = 0;
  for (PyArrayObject* array : {a, b}) {
    for (int i = 0; i < PyArray_NDIM(array); ++i) period = std::gcd(period, PyArray_STRIDE(array, i));
  }
  if (period == 0) return false;
  const npy_intp distance = (PyArray_BYTES(b) - PyArray_BYTES(a)) % period;
  const npy_intp behind = distance < 0 ? distance + period : distance;
  return behind >= PyArray_ITEMSIZE(a) && behind + PyArray_ITEMSIZE(b) <= period;
}

// An array that is given twice would count twice, and be scaled twice.
void CheckGivenOnce(PyObject* arrays) {
  struct Piece {
    std::pair<const char*, const char*> extent;
    Py_ssize_t index;
  };
  std::vector<Piece> pieces;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(arrays); ++i) {
    auto* array = reinterpret_cast<PyArrayObject*>(PyTuple_GET_ITEM(arrays, i));
    if (PyArray_SIZE(array) != 0) pieces.push_back({Extent(array), i});
  }
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.extent < b.extent; });
  for (size_t i = 0; i < pieces.size(); ++i) {
    for (size_t j = i + 1; j < pieces.size() && pieces[j].extent.first < pieces[i].extent.second; ++j) {
      const auto [first, second] = std::minmax(pieces[i].index, pieces[j].index);
      auto* a = reinterpret_cast<PyArrayObject*>(PyTuple_GET_ITEM(arrays, first));
      auto* b = reinterpret_cast<PyArrayObject*>(PyTuple_GET_ITEM(arrays, second));
      if (Interleaved(a, b) || !Overlap(a, b)) continue;
      Raise(PyExc_ValueError, "grads[%zd] and grads[%zd] share memory; expected each gradient once", first, second);
    }
  }
}

// global_norm(grads, /)
PyObject* Norm(PyObject*, PyObject* object) {
  return Guard([&] {
    const Ref arrays = AsTuple(object, "grads must be a sequence");
    TensorList<float> f32;
    TensorList<double> f64;
    std::vector<Ref> readable;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(arrays.get()); ++i) {
      PyObject* item = PyTuple_GET_ITEM(arrays.get(), i);
      auto* array = reinterpret_cast<PyArrayObject*>(item);
      if (!PyArray_Check(item) || !PyArray_ISNOTSWAPPED(array) ||
          (PyArray_TYPE(array) != NPY_FLOAT32 && PyArray_TYPE(array) != NPY_FLOAT64)) {
        Raise(PyExc_TypeError, "grads[%zd] must be a NumPy array of float32 or float64, found %s", i,
              Py_TYPE(item)->tp_name);
      }
      readable.push_back(Readable(item));
      if (IsFloat32(readable.back())) {
        AddGrad(f32, readable.back());
      } else {
        AddGrad(f64, readable.back());
      }
    }
    CheckGivenOnce(arrays.get());
    f32.CutIntoBlocks();
    f64.CutIntoBlocks();
    double norm = 0.0;
    {
      const ReleaseGil release((f32.first_block.back() + f64.first_block.back()) * kBlock);
      norm = std::hypot(GlobalNorm(f32), GlobalNorm(f64));
    }
    return Ref::Check(PyFloat_FromDouble(norm));
  });
}

PyObject* OptimizerNames(PyObject*, PyObject*) {
  return Guard([] { return Names(Updates()); });
}

PyMethodDef methods[] = {
    {"step", FastCall(Step), METH_FASTCALL, nullptr},
    {"alone", Alone, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"steps", GetSteps, SetSteps, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMethodDef functions[] = {
    {"optimizer_names", OptimizerNames, METH_NOARGS, nullptr},
    {"global_norm", Norm, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void RegisterOptimizers(PyObject* module) {
  PyType_Slot slots[] = {
      {Py_tp_new, reinterpret_cast<void*>(&New)},
      {Py_tp_dealloc, reinterpret_cast<void*>(&Dealloc)},
      {Py_tp_methods, methods},
      {Py_tp_getset, attributes},
      {0, nullptr},
  };
  PyType_Spec spec = {"fuseprop._core.Updater", static_cast<int>(sizeof(Updater)), 0, Py_TPFLAGS_DEFAULT, slots};
  const Ref type = Ref::Check(PyType_FromSpec(&spec));
  if (PyModule_AddType(module, reinterpret_cast<PyTypeObject*>(type.get())) < 0) throw PythonError();
  AddFunctions(module, functions);
}

}  // namespace bind
}  // namespace fuseprop
