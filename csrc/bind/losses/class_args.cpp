#include "bind/losses/class_args.h"

#include <cmath>
#include <string>

#include "simd/parameter.h"

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

// What BindClassOptions stores in Formula::parameters; `row` says whether there are any. Formula::columns has the class
// weights as double, and after them as float.
enum Place : size_t { kSmoothing, kIgnores, kIgnoredLabel, kTemperature, kScaleByTemperature, kZLoss };
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

// Class weights, checked already, as the formula's columns.
void BindClassWeight(Formula* formula, const Ref& given) {
  const Ref weights = COrdered(FloatArrayAs(given, "class_weight", NPY_FLOAT64));
  const size_t n = Size(weights);
  auto* columns = static_cast<double*>(PyMem_Malloc(n * (sizeof(double) + sizeof(float))));
  if (columns == nullptr) throw std::bad_alloc();
  auto* narrow = reinterpret_cast<float*>(columns + n);
  for (size_t j = 0; j < n; ++j) {
    columns[j] = Data<double>(weights)[j];
    narrow[j] = Parameter<float>(columns[j]);
  }
  PyMem_Free(formula->columns);
  formula->columns = columns;
  formula->num_columns = n;
}

}  // namespace

Ref BindClassOptions(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  CheckNumArgs("_bind", nargs, 2, 2);
  auto* formula = reinterpret_cast<Formula*>(self);
  if (!PyTuple_Check(args[1])) Raise(PyExc_TypeError, "parameters must be a tuple");
  if (PyTuple_GET_SIZE(args[1]) == 0) {
    CheckUnbound(self);
    formula->row = kPlain;
    return Ref::Borrow(Py_None);
  }
  PyObject *smoothing, *class_weight, *ignored_label, *temperature, *scale, *z_loss;
  if (!PyArg_ParseTuple(args[1], "OOOOOO", &smoothing, &class_weight, &ignored_label, &temperature, &scale, &z_loss)) {
    throw PythonError();
  }
  double parameters[kMaxParameters] = {};
  parameters[kSmoothing] = AsDouble(smoothing, "label_smoothing");
  parameters[kIgnores] = ignored_label != Py_None;
  if (ignored_label != Py_None) {
    const int64_t label = PyLong_AsLongLong(ignored_label);
    if (label == -1 && PyErr_Occurred() != nullptr) throw PythonError();
    std::memcpy(&parameters[kIgnoredLabel], &label, sizeof(label));
  }
  parameters[kTemperature] = AsDouble(temperature, "temperature");
  parameters[kScaleByTemperature] = AsBool(scale, "scale_by_temperature");
  parameters[kZLoss] = AsDouble(z_loss, "z_loss");
  const Ref weight = OptionalArray(class_weight, "class_weight");
  CheckUnbound(self);
  if (weight) BindClassWeight(formula, weight);
  std::copy(parameters, parameters + kMaxParameters, formula->parameters);
  formula->row = kWithOptions;
  return Ref::Borrow(Py_None);
}

std::string LabelAdvice(const Ref& target, const char* name) {
  if (!PyArray_ISFLOAT(target.array()) || Size(target) == 0) return "";
  const Ref floats = COrdered(FloatArrayAs(target, name, NPY_FLOAT64));
  const double* values = Data<double>(floats);
  for (size_t i = 0; i < Size(floats); ++i) {
    if (!std::isfinite(values[i]) || values[i] != std::trunc(values[i])) return "";
  }
  return std::string(" (all are whole numbers: give ") + name + ".astype(int))";
}

void CheckAreDistributions(const Ref& distributions, int ndim, const ClassNames& names, bool takes_labels) {
  PyArrayObject* const array = distributions.array();
  const std::string rows = takes_labels ? ", or labels of shape " + ShapeText(ndim - 1, PyArray_DIMS(array)) : "";
  if (ndim == 1) {
    Raise(
        PyExc_ValueError,
        "%s has integers of shape %s, as %s, which is one row of C = %zd classes; expected a distribution as floats%s",
        names.target, ShapeText(array).c_str(), names.rows, static_cast<Py_ssize_t>(PyArray_DIM(array, 0)),
        rows.c_str());
  }
  const auto classes = static_cast<size_t>(PyArray_DIM(array, ndim - 1));
  for (size_t row = 0; classes != 0 && row < Size(distributions) / classes; ++row) {
    double sum = 0.0;
    for (size_t j = row * classes; j < (row + 1) * classes; ++j) {
      sum += IsFloat32(distributions) ? static_cast<double>(Data<float>(distributions)[j])
                                      : Data<double>(distributions)[j];
    }
    if (sum == 1.0) continue;
    const Ref number = Ref::Check(PyFloat_FromDouble(sum));
    Raise(PyExc_ValueError, "%s has integers whose row %zd sums to %R; expected distributions, which sum to 1%s",
          names.target, static_cast<Py_ssize_t>(row), number.get(), rows.c_str());
  }
}

bool HasClassOptions(const Formula& formula) { return formula.row == kWithOptions; }

template <class T>
SoftmaxCrossEntropyOptions<T> ClassOptions(const Formula& formula) {
  SoftmaxCrossEntropyOptions<T> options;
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

template SoftmaxCrossEntropyOptions<float> ClassOptions(const Formula&);
template SoftmaxCrossEntropyOptions<double> ClassOptions(const Formula&);

ClassTarget::ClassTarget(const Formula& loss, int ndim, const npy_intp* shape, int typenum, const Ref& given_target,
                         const Ref& given_weight, bool mean, const ClassNames& argument_names)
    : formula(loss), names(argument_names) {
  const int row_ndim = ndim - 1;
  for (int i = 0; i < row_ndim; ++i) rows *= static_cast<size_t>(shape[i]);
  classes = static_cast<size_t>(shape[row_ndim]);
  if (formula.columns != nullptr && formula.num_columns != classes) {
    Raise(PyExc_ValueError, "class_weight has %zu numbers; expected one for each of the C = %zu classes of %s",
          formula.num_columns, classes, names.classes);
  }

  const Ref plain = Plain(given_target);
  PyArrayObject* const target = plain.array();
  const int target_ndim = PyArray_NDIM(target);
  const npy_intp* target_shape = PyArray_DIMS(target);
  if (target_ndim == row_ndim && PyArray_CompareLists(target_shape, shape, row_ndim)) {
    if (!LabelKindOf(PyArray_TYPE(target), &kind)) {
      Raise(PyExc_TypeError, "%s has dtype %s and shape %s; expected integer labels%s, or a distribution of shape %s",
            names.target, DtypeName(target).c_str(), ShapeText(target).c_str(),
            LabelAdvice(plain, names.target).c_str(), ShapeText(ndim, shape).c_str());
    }
    const bool as_it_is = PyArray_ISCARRAY_RO(target);
    labels = as_it_is ? Ref::Borrow(plain.get())
                      : Ref::Check(PyArray_FromArray(target, PyArray_DescrNewByteorder(PyArray_DESCR(target), '='),
                                                     NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED));
  } else if (target_ndim == ndim && PyArray_CompareLists(target_shape, shape, ndim)) {
    distribution = COrdered(FloatArrayAs(plain, names.target, typenum));
    if (!PyArray_ISFLOAT(target)) CheckAreDistributions(distribution, ndim, names, true);
  } else {
    Raise(PyExc_ValueError, "%s has shape %s; expected %s for labels, or %s for distributions", names.target,
          ShapeText(target).c_str(), ShapeText(row_ndim, shape).c_str(), ShapeText(ndim, shape).c_str());
  }

  if (given_weight) {
    weight = SampleWeights(given_weight, typenum);
    if (PyArray_NDIM(weight.array()) != row_ndim ||
        !PyArray_CompareLists(PyArray_DIMS(weight.array()), shape, row_ndim)) {
      Raise(PyExc_ValueError, "sample_weight has shape %s; expected %s, one weight per row of %s",
            ShapeText(weight.array()).c_str(), ShapeText(row_ndim, shape).c_str(), names.rows);
    }
    weight = COrdered(weight);
  }
  mean_of_labels = mean && labels && HasClassOptions(formula);
  if (mean && !mean_of_labels) weight_sum = weight ? SumForMean(&weight) : static_cast<double>(rows);
}

void ClassTarget::RaiseInvalid(size_t row) const {
  if (labels) {
    const Ref label = Ref::Check(PyObject_CallMethod(labels.get(), "item", "n", static_cast<Py_ssize_t>(row)));
    std::string other;
    if (HasClassOptions(formula)) {
      const SoftmaxCrossEntropyOptions<double> options = ClassOptions<double>(formula);
      if (options.ignores) other = " or ignore_index = " + std::to_string(options.ignored_label);
    }
    Raise(PyExc_ValueError, "%s%s is label %S; expected 0 to %zd%s (%s has C = %zu classes)", names.target,
          IndexText(labels.array(), row, false).c_str(), label.get(), static_cast<Py_ssize_t>(classes) - 1,
          other.c_str(), names.classes, classes);
  }
  // The kernel names the row; the element is looked up here.
  for (size_t j = row * classes; j < (row + 1) * classes; ++j) {
    const double found = IsFloat32(distribution) ? Data<float>(distribution)[j] : Data<double>(distribution)[j];
    if (found >= 0.0 && found <= 1.0) continue;
    const Ref number = Ref::Check(PyFloat_FromDouble(found));
    Raise(PyExc_ValueError, "%s%s is %R; a distribution has values in [0, 1]", names.target,
          IndexText(distribution.array(), j, false).c_str(), number.get());
  }
  Raise(PyExc_ValueError, "%s has a row that is not a distribution", names.target);
}

}  // namespace bind
}  // namespace fuseprop
