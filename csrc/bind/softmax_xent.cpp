// SoftmaxCrossEntropy's verbs: as the elementwise losses', but the target is labels or a distribution.

#include "kernels/softmax_xent.h"

#include <algorithm>
#include <limits>

#include "bind/formula.h"
#include "bind/loss_args.h"
#include "bind/register.h"

namespace fuseprop {
namespace bind {
namespace {

bool LabelKindOf(int typenum, LabelKind* kind) {
  switch (typenum) {
    case NPY_BOOL:
    case NPY_UINT8:
      *kind = LabelKind::kUint8;
      return true;
    case NPY_INT8:
      *kind = LabelKind::kInt8;
      return true;
    case NPY_INT16:
      *kind = LabelKind::kInt16;
      return true;
    case NPY_UINT16:
      *kind = LabelKind::kUint16;
      return true;
    case NPY_INT32:
      *kind = LabelKind::kInt32;
      return true;
    case NPY_UINT32:
      *kind = LabelKind::kUint32;
      return true;
    default:
      break;
  }
  // NumPy has several names for the types of 64 bits.
  if (PyTypeNum_ISSIGNED(typenum) && typenum != NPY_BOOL) {
    *kind = LabelKind::kInt64;
    return PyTypeNum_ISINTEGER(typenum);
  }
  *kind = LabelKind::kUint64;
  return PyTypeNum_ISUNSIGNED(typenum);
}

// What _bind stores of the options, in Formula::parameters; `row` says whether there are any. Formula::columns has the
// class weights as double, and after them as float.
enum Parameter : size_t { kSmoothing, kIgnores, kIgnoredLabel, kTemperature, kScaleByTemperature, kZLoss };
constexpr size_t kPlain = 0;
constexpr size_t kWithOptions = 1;

template <class T>
const T* ClassWeight(const Formula& formula) {
  if constexpr (sizeof(T) == sizeof(double)) {
    return formula.columns;
  } else {
    return formula.columns == nullptr ? nullptr : reinterpret_cast<const T*>(formula.columns + formula.num_columns);
  }
}

template <class T>
SoftmaxXentOptions<T> OptionsOf(const Formula& formula) {
  SoftmaxXentOptions<T> options;
  options.smoothing = formula.parameters[kSmoothing];
  options.class_weight = ClassWeight<T>(formula);
  options.exact_class_weight = formula.columns;
  options.ignores = formula.parameters[kIgnores] != 0.0;
  std::memcpy(&options.ignored_label, &formula.parameters[kIgnoredLabel], sizeof(options.ignored_label));
  options.temperature = formula.parameters[kTemperature];
  options.scale_by_temperature = formula.parameters[kScaleByTemperature] != 0.0;
  options.z_loss = formula.parameters[kZLoss];
  return options;
}

// Integer labels of shape pred.shape[:-1], in C order.
Ref Labels(const Ref& target, PyArrayObject* pred, LabelKind* kind) {
  if (!LabelKindOf(PyArray_TYPE(target.array()), kind)) {
    Raise(PyExc_TypeError, "target has dtype %s and shape %s; expected integer labels, or a distribution of shape %s",
          DtypeName(target.array()).c_str(), ShapeText(target.array()).c_str(), ShapeText(pred).c_str());
  }
  if (PyArray_ISCARRAY_RO(target.array())) return Ref::Borrow(target.get());
  return Ref::Check(PyArray_FromArray(target.array(), PyArray_DescrNewByteorder(PyArray_DESCR(target.array()), '='),
                                      NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED));
}

struct Inputs {
  const Formula& formula;
  Ref given_pred;
  Ref pred;
  Ref labels;        // or
  Ref distribution;  // of pred's shape
  Ref given_distribution;
  Ref weight;
  LabelKind kind = LabelKind::kInt64;
  size_t rows = 1;
  size_t classes = 0;
  double weight_sum = 0.0;      // what "mean" divides by
  bool mean_of_labels = false;  // the kernel finds out that sum

  int typenum() const { return PyArray_TYPE(pred.array()); }
  int row_ndim() const { return PyArray_NDIM(pred.array()) - 1; }
  const npy_intp* shape() const { return PyArray_DIMS(pred.array()); }

  Inputs(PyObject* self, PyObject* pred_object, PyObject* target_object, PyObject* weight_object, bool mean)
      : formula(Self(self)), given_pred(FloatArray(pred_object, "pred")) {
    PyArrayObject* array = given_pred.array();
    if (PyArray_NDIM(array) < 1) Raise(PyExc_ValueError, "pred has shape (); expected (N, C), classes last");
    pred = COrdered(given_pred);
    for (int i = 0; i < row_ndim(); ++i) rows *= static_cast<size_t>(shape()[i]);
    classes = static_cast<size_t>(shape()[row_ndim()]);
    if (formula.columns != nullptr && formula.num_columns != classes) {
      Raise(PyExc_ValueError, "class_weight has %zu numbers; expected one for each of the C = %zu classes of pred",
            formula.num_columns, classes);
    }

    const Ref target = AnyArray(target_object, "target");
    const int ndim = PyArray_NDIM(target.array());
    if (ndim == row_ndim() && PyArray_CompareLists(PyArray_DIMS(target.array()), shape(), ndim)) {
      labels = Labels(target, array, &kind);
    } else if (SameShape(target.array(), array)) {
      given_distribution = FloatArrayAs(target.get(), "target", typenum());
      distribution = COrdered(given_distribution);
    } else {
      Raise(PyExc_ValueError, "target has shape %s; expected %s for labels, or %s for distributions",
            ShapeText(target.array()).c_str(), ShapeText(row_ndim(), shape()).c_str(), ShapeText(array).c_str());
    }

    if (weight_object != Py_None) {
      weight = FloatArrayAs(weight_object, "sample_weight", typenum());
      if (PyArray_NDIM(weight.array()) != row_ndim() ||
          !PyArray_CompareLists(PyArray_DIMS(weight.array()), shape(), row_ndim())) {
        Raise(PyExc_ValueError, "sample_weight has shape %s; expected %s, one weight per row of pred",
              ShapeText(weight.array()).c_str(), ShapeText(row_ndim(), shape()).c_str());
      }
      weight = COrdered(weight);
    }
    mean_of_labels = mean && labels && formula.row == kWithOptions;
    if (mean && !mean_of_labels) weight_sum = weight ? SumOf(weight) : static_cast<double>(rows);
  }

  Output NewOutput(PyObject* out) {
    Output output(out, "out", row_ndim() + 1, shape(), typenum());
    output.CheckOverlap(given_pred, "pred");
    output.CheckOverlap(given_distribution, "target");
    output.CheckOverlap(labels, "target", false);
    output.CheckOverlap(weight, "sample_weight", false);
    // The kernel reads a row's distribution while it writes the row's gradient.
    if (distribution && PyArray_DATA(distribution.array()) == PyArray_DATA(output.buffer().array())) {
      distribution = Ref::Check(PyArray_NewCopy(distribution.array(), NPY_CORDER));
    }
    return output;
  }
};

[[noreturn]] void RaiseInvalid(const Inputs& inputs, size_t row) {
  const std::string index = IndexText(inputs.labels ? inputs.labels.array() : inputs.pred.array(),
                                      inputs.labels ? row : row * inputs.classes, false);
  if (inputs.labels) {
    const Ref list = Ref::Check(PyObject_CallMethod(inputs.labels.get(), "item", "n", static_cast<Py_ssize_t>(row)));
    const SoftmaxXentOptions<double> options = OptionsOf<double>(inputs.formula);
    const std::string other = options.ignores ? " or ignore_index = " + std::to_string(options.ignored_label) : "";
    Raise(PyExc_ValueError, "target%s is label %S; expected 0 to %zd%s (pred has C = %zu classes)", index.c_str(),
          list.get(), static_cast<Py_ssize_t>(inputs.classes) - 1, other.c_str(), inputs.classes);
  }
  // The kernel names the row; the element is looked up here.
  for (size_t j = row * inputs.classes; j < (row + 1) * inputs.classes; ++j) {
    const double found =
        IsFloat32(inputs.distribution) ? Data<float>(inputs.distribution)[j] : Data<double>(inputs.distribution)[j];
    if (found >= 0.0 && found <= 1.0) continue;
    const Ref number = Ref::Check(PyFloat_FromDouble(found));
    Raise(PyExc_ValueError, "target%s is %R; a distribution has values in [0, 1]",
          IndexText(inputs.distribution.array(), j, false).c_str(), number.get());
  }
  Raise(PyExc_ValueError, "target%s is not a distribution", index.c_str());
}

template <class T>
double Run(Inputs& inputs, SoftmaxXentArgs<T>& args) {
  SoftmaxXentOptions<T> options;
  if (inputs.formula.row == kWithOptions) {
    options = OptionsOf<T>(inputs.formula);
    args.options = &options;
    args.mean_of_labels = inputs.mean_of_labels;
  }
  args.logits = Data<T>(inputs.pred);
  args.rows = inputs.rows;
  args.classes = inputs.classes;
  args.labels = inputs.labels ? Data<void>(inputs.labels) : nullptr;
  args.label_kind = inputs.kind;
  args.distribution = inputs.distribution ? Data<T>(inputs.distribution) : nullptr;
  args.weight = inputs.weight ? Data<T>(inputs.weight) : nullptr;
  SoftmaxXentResult result;
  {
    const ReleaseGil release(inputs.rows * inputs.classes);
    result = SoftmaxXent(args);
  }
  if (result.first_invalid_row < inputs.rows) RaiseInvalid(inputs, result.first_invalid_row);
  if (inputs.mean_of_labels) inputs.weight_sum = result.denominator;
  return result.sum;
}

// The value of a call that has been set up in `args`: a float, or the array for "none".
template <class T>
Ref Value(Inputs& inputs, SoftmaxXentArgs<T>& args, Reduction reduction) {
  if (reduction == Reduction::kNone) {
    Output values(inputs.row_ndim(), inputs.shape(), inputs.typenum());
    args.row_value = values.data<T>();
    Run(inputs, args);
    return values.Finish();
  }
  const double sum = Run(inputs, args);
  return Ref::Check(PyFloat_FromDouble(Scale(reduction, inputs.weight_sum).Reduce(sum)));
}

template <class T>
Ref Value(Inputs& inputs, Reduction reduction) {
  SoftmaxXentArgs<T> args;
  return Value(inputs, args, reduction);
}

template <class T>
Ref ValueAndGrad(Inputs& inputs, Reduction reduction, PyObject* out, bool want_value) {
  SoftmaxXentArgs<T> args;
  Output grad = inputs.NewOutput(out);
  args.grad = grad.data<T>();
  args.scale = Scale(reduction, inputs.weight_sum).grad;
  args.check_first = grad.is_callers();
  if (!want_value) {
    args.want_sum = false;
    Run(inputs, args);
    Scale(reduction, inputs.weight_sum).Finish(grad.buffer());
    return grad.Finish();
  }
  const Ref value = Value(inputs, args, reduction);
  Scale(reduction, inputs.weight_sum).Finish(grad.buffer());
  const Ref grad_array = grad.Finish();
  return Ref::Check(PyTuple_Pack(2, value.get(), grad_array.get()));
}

template <class T>
Ref GradAndHess(Inputs& inputs, PyObject* floor, double factor) {
  SoftmaxXentArgs<T> args;
  Output grad = inputs.NewOutput(nullptr);
  Output hess = inputs.NewOutput(nullptr);
  args.grad = grad.data<T>();
  args.hess = hess.data<T>();
  args.hessian_factor = factor;
  args.floor_hess = AsFloor(floor, &args.hess_floor);
  args.want_sum = false;
  Run(inputs, args);
  const Ref grad_array = grad.Finish();
  const Ref hess_array = hess.Finish();
  return Ref::Check(PyTuple_Pack(2, grad_array.get(), hess_array.get()));
}

// _value(pred, target, sample_weight, reduction, /)
PyObject* PyValue(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_value", nargs, 4, 4);
    const Reduction reduction = AsReduction(args[3]);
    Inputs inputs(self, args[0], args[1], args[2], reduction == Reduction::kMean);
    return inputs.typenum() == NPY_FLOAT32 ? Value<float>(inputs, reduction) : Value<double>(inputs, reduction);
  });
}

Ref ValueAndGrad(PyObject* self, PyObject* const* args, bool want_value) {
  const Reduction reduction = AsReduction(args[3]);
  Inputs inputs(self, args[0], args[1], args[2], reduction == Reduction::kMean);
  return inputs.typenum() == NPY_FLOAT32 ? ValueAndGrad<float>(inputs, reduction, args[4], want_value)
                                         : ValueAndGrad<double>(inputs, reduction, args[4], want_value);
}

// _gradient(pred, target, sample_weight, reduction, out, /)
PyObject* PyGradient(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_gradient", nargs, 5, 5);
    return ValueAndGrad(self, args, false);
  });
}

// _value_and_grad(pred, target, sample_weight, reduction, out, /)
PyObject* PyValueAndGrad(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_value_and_grad", nargs, 5, 5);
    return ValueAndGrad(self, args, true);
  });
}

// _grad_and_hess(pred, target, sample_weight, hess_floor, hessian="diagonal", /)
PyObject* PyGradAndHess(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_grad_and_hess", nargs, 4, 5);
    double factor = 1.0;
    if (nargs == 5 && PyUnicode_Check(args[4]) && PyUnicode_CompareWithASCIIString(args[4], "upper") == 0) {
      factor = 2.0;
    } else if (nargs == 5 &&
               (!PyUnicode_Check(args[4]) || PyUnicode_CompareWithASCIIString(args[4], "diagonal") != 0)) {
      Raise(PyExc_ValueError, "hessian is %R; expected \"diagonal\" or \"upper\"", args[4]);
    }
    Inputs inputs(self, args[0], args[1], args[2], false);
    return inputs.typenum() == NPY_FLOAT32 ? GradAndHess<float>(inputs, args[3], factor)
                                           : GradAndHess<double>(inputs, args[3], factor);
  });
}

PyObject* New(PyTypeObject* type, PyObject*, PyObject*) { return NewFormula(type, nullptr); }

// Class weights, checked already, as the formula's columns.
void BindClassWeight(Formula* formula, PyObject* object) {
  const Ref weights = COrdered(FloatArrayAs(object, "class_weight", NPY_FLOAT64));
  const size_t n = Size(weights);
  auto* columns = static_cast<double*>(PyMem_Malloc(n * (sizeof(double) + sizeof(float))));
  if (columns == nullptr) throw std::bad_alloc();
  auto* narrow = reinterpret_cast<float*>(columns + n);
  for (size_t j = 0; j < n; ++j) {
    columns[j] = Data<double>(weights)[j];
    // A weight that float cannot hold acts as the nearest one it can.
    const double largest = static_cast<double>(std::numeric_limits<float>::max());
    narrow[j] = static_cast<float>(std::min(columns[j], largest));
    if (narrow[j] == 0.0f && columns[j] > 0.0) narrow[j] = std::numeric_limits<float>::denorm_min();
  }
  PyMem_Free(formula->columns);
  formula->columns = columns;
  formula->num_columns = n;
}

// _bind(name, parameters, /). There is nothing to look up, the type is the formula. parameters is () for none, or
// (label_smoothing, class_weight, ignore_index, temperature, scale_by_temperature, z_loss), checked already; it is
// bound once.
PyObject* PyBind(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_bind", nargs, 2, 2);
    auto* formula = reinterpret_cast<Formula*>(self);
    if (formula->row != kUnbound) Raise(PyExc_RuntimeError, "%s is bound already", Py_TYPE(self)->tp_name);
    if (!PyTuple_Check(args[1])) Raise(PyExc_TypeError, "parameters must be a tuple");
    if (PyTuple_GET_SIZE(args[1]) == 0) {
      formula->row = kPlain;
      return Ref::Borrow(Py_None);
    }
    PyObject *smoothing, *class_weight, *ignored_label, *temperature, *scale, *z_loss;
    if (!PyArg_ParseTuple(args[1], "OOOOOO", &smoothing, &class_weight, &ignored_label, &temperature, &scale,
                          &z_loss)) {
      throw PythonError();
    }
    formula->parameters[kSmoothing] = AsDouble(smoothing, "label_smoothing");
    formula->parameters[kIgnores] = ignored_label != Py_None;
    if (ignored_label != Py_None) {
      const int64_t label = PyLong_AsLongLong(ignored_label);
      if (label == -1 && PyErr_Occurred() != nullptr) throw PythonError();
      std::memcpy(&formula->parameters[kIgnoredLabel], &label, sizeof(label));
    }
    formula->parameters[kTemperature] = AsDouble(temperature, "temperature");
    formula->parameters[kScaleByTemperature] = AsBool(scale, "scale_by_temperature");
    formula->parameters[kZLoss] = AsDouble(z_loss, "z_loss");
    if (class_weight != Py_None) BindClassWeight(formula, class_weight);
    formula->row = kWithOptions;
    return Ref::Borrow(Py_None);
  });
}

PyMethodDef methods[] = {
    {"_bind", FastCall(PyBind), METH_FASTCALL, nullptr},
    {"_value", FastCall(PyValue), METH_FASTCALL, nullptr},
    {"_gradient", FastCall(PyGradient), METH_FASTCALL, nullptr},
    {"_value_and_grad", FastCall(PyValueAndGrad), METH_FASTCALL, nullptr},
    {"_grad_and_hess", FastCall(PyGradAndHess), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void RegisterSoftmaxCrossEntropy(PyObject* module) {
  AddFormulaType(module, "fuseprop._core.SoftmaxCrossEntropy", loss_type, New, methods, false);
}

}  // namespace bind
}  // namespace fuseprop
