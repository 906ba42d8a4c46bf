// The verbs of losses of a row with one integer label: NegativeLogLikelihood and SoftmaxFocal.

#include "kernels/label_losses.h"

#include <algorithm>
#include <vector>

#include "bind/class_verbs.h"
#include "bind/formula.h"
#include "bind/register.h"
#include "kernels/row_weights.h"
#include "kernels/softmax_xent.h"

namespace fuseprop {
namespace bind {
namespace {

// Formula::parameters[0] is the focal loss's gamma, Formula::columns the class weights, null for ones.
enum Kind : size_t { kLikelihood, kFocal };

struct Inputs {
  const Formula& formula;
  Ref given_pred;
  Ref pred;
  Ref given_labels, given_weight;
  Ref labels;  // int64
  Ref weight;
  size_t rows = 1;
  size_t classes = 0;
  double weight_sum = 0.0;           // of the rows' weights times their class weights
  std::vector<double> class_weight;  // in the place of the formula's; empty for those

  template <class T>
  using Args = LabelLossArgs<T>;

  int typenum() const { return PyArray_TYPE(pred.array()); }
  int row_ndim() const { return PyArray_NDIM(pred.array()) - 1; }
  const npy_intp* shape() const { return PyArray_DIMS(pred.array()); }
  double divisor() const { return weight_sum; }

  Inputs(PyObject* self, PyObject* pred_object, PyObject* target_object, PyObject* weight_object, bool mean)
      : formula(Self(self)), given_pred(AnyArray(pred_object, "pred")) {
    const Ref float_pred = FloatArray(given_pred.get(), "pred");
    PyArrayObject* array = float_pred.array();
    if (PyArray_NDIM(array) < 1) Raise(PyExc_ValueError, "pred has shape (); expected (N, C), classes last");
    pred = COrdered(float_pred);
    for (int i = 0; i < row_ndim(); ++i) rows *= static_cast<size_t>(shape()[i]);
    classes = static_cast<size_t>(shape()[row_ndim()]);
    if (formula.columns != nullptr && formula.num_columns != classes) {
      Raise(PyExc_ValueError, "class_weight has %zu weights, but pred has C = %zu classes (shape %s)",
            formula.num_columns, classes, ShapeText(array).c_str());
    }
    ReadLabels(target_object);
    if (weight_object != Py_None) {
      given_weight = AnyArray(weight_object, "sample_weight");
      weight = FloatArrayAs(given_weight.get(), "sample_weight", typenum());
      CheckRowShape(weight, "sample_weight", "one weight per row of pred");
      weight = COrdered(weight);
    }
    if (mean) SumWeights();
  }

  void CheckRowShape(const Ref& given, const char* name, const char* what) const {
    if (PyArray_NDIM(given.array()) == row_ndim() &&
        PyArray_CompareLists(PyArray_DIMS(given.array()), shape(), row_ndim())) {
      return;
    }
    Raise(PyExc_ValueError, "%s has shape %s; expected %s, %s", name, ShapeText(given.array()).c_str(),
          ShapeText(row_ndim(), shape()).c_str(), what);
  }

  void ReadLabels(PyObject* object) {
    given_labels = AnyArray(object, "target");
    PyArrayObject* array = given_labels.array();
    CheckRowShape(given_labels, "target", "one label per row of pred");
    // An array of nothing is of float64 as a list.
    const bool is_empty = PyArray_SIZE(array) == 0;
    if (!is_empty && !PyTypeNum_ISINTEGER(PyArray_TYPE(array)) && !PyTypeNum_ISBOOL(PyArray_TYPE(array))) {
      Raise(PyExc_TypeError, "target has dtype %s; expected integer labels", DtypeName(array).c_str());
    }
    // What does not fit into 64 bits with a sign becomes negative, and is refused.
    labels = Ref::Check(PyArray_FromArray(array, PyArray_DescrFromType(NPY_INT64),
                                          NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED | NPY_ARRAY_FORCECAST));
    const size_t row = FirstInvalidLabel(Data<void>(labels), LabelKind::kInt64, rows, classes);
    if (row == rows) return;
    const Ref label = Ref::Check(PyObject_CallMethod(given_labels.get(), "item", "n", static_cast<Py_ssize_t>(row)));
    Raise(PyExc_ValueError, "target%s is label %S; expected 0 to %zd (pred has C = %zu classes)",
          IndexText(labels.array(), row, false).c_str(), label.get(), static_cast<Py_ssize_t>(classes) - 1, classes);
  }

  void SumWeights() {
    if (formula.columns == nullptr) {
      weight_sum = weight ? SumForMean(&weight) : static_cast<double>(rows);
      return;
    }
    const auto own = [&](size_t row) {
      return !weight ? 1.0 : IsFloat32(weight) ? double{Data<float>(weight)[row]} : Data<double>(weight)[row];
    };
    const auto of_label = [&](size_t row) { return formula.columns[Data<int64_t>(labels)[row]]; };
    std::vector<double> weights(rows);
    for (size_t row = 0; row < rows; ++row) weights[row] = of_label(row) * own(row);
    weight_sum = Sum(weights.data(), rows);
    if (IsModerate(weight_sum / static_cast<double>(rows))) return;
    // One power of two less, all in the weights of the rows. A class of weight 0 stays one.
    Ref folded = Ref::Check(PyArray_SimpleNew(row_ndim(), shape(), typenum()));
    if (typenum() == NPY_FLOAT32) {
      NormalisedProducts(rows, own, of_label, static_cast<float*>(PyArray_DATA(folded.array())));
    } else {
      NormalisedProducts(rows, own, of_label, static_cast<double*>(PyArray_DATA(folded.array())));
    }
    weight = std::move(folded);
    class_weight.resize(formula.num_columns);
    std::transform(formula.columns, formula.columns + formula.num_columns, class_weight.begin(),
                   [](double w) { return w == 0.0 ? 0.0 : 1.0; });
    weight_sum = SumOf(weight);
  }

  Output NewOutput(PyObject* out, const char* name) const {
    Output output(out, name, row_ndim() + 1, shape(), typenum());
    output.CheckOverlap(given_pred, "pred");
    output.CheckOverlap(given_labels, "target", false);
    output.CheckOverlap(given_weight, "sample_weight", false);
    return output;
  }

  template <class T>
  double Run(LabelLossArgs<T> args, bool /*want_sum*/) const {
    args.pred = Data<T>(pred);
    args.labels = Data<int64_t>(labels);
    args.rows = rows;
    args.classes = classes;
    args.weight = weight ? Data<T>(weight) : nullptr;
    args.class_weight = class_weight.empty() ? formula.columns : class_weight.data();
    const ReleaseGil release(rows * classes);
    return formula.row == kFocal ? SoftmaxFocal(args, formula.parameters[0]) : NegativeLogLikelihood(args);
  }
};

// _grad_and_hess(pred, target, sample_weight, hess_floor, out, /)
PyObject* PyGradAndHess(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_grad_and_hess", nargs, 5, 5);
    const OutPair out(args[4]);
    Inputs inputs(self, args[0], args[1], args[2], false);
    return inputs.typenum() == NPY_FLOAT32 ? ClassGradAndHess<float>(inputs, {}, args[3], out)
                                           : ClassGradAndHess<double>(inputs, {}, args[3], out);
  });
}

PyObject* New(PyTypeObject* type, PyObject*, PyObject*) { return NewFormula(type, nullptr); }

// _bind(name, (), /)
PyObject* BindLikelihood(PyObject* self, PyObject* const* /*args*/, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_bind", nargs, 2, 2);
    reinterpret_cast<Formula*>(self)->row = kLikelihood;
    return Ref::Borrow(Py_None);
  });
}

// _bind(name, (gamma, None or a tuple of class weights), /)
PyObject* BindFocal(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_bind", nargs, 2, 2);
    if (!PyTuple_Check(args[1]) || PyTuple_GET_SIZE(args[1]) != 2) {
      Raise(PyExc_ValueError, "parameters must be a tuple of gamma and class_weight");
    }
    auto* formula = reinterpret_cast<Formula*>(self);
    formula->parameters[0] = AsDouble(PyTuple_GET_ITEM(args[1], 0), "gamma");
    PyObject* weights = PyTuple_GET_ITEM(args[1], 1);
    PyMem_Free(std::exchange(formula->columns, nullptr));
    formula->num_columns = 0;
    if (weights != Py_None) {
      if (!PyTuple_Check(weights) || PyTuple_GET_SIZE(weights) == 0) {
        Raise(PyExc_ValueError, "class_weight must be None or a tuple of numbers");
      }
      const auto count = static_cast<size_t>(PyTuple_GET_SIZE(weights));
      std::vector<double> values(count);
      for (size_t i = 0; i < count; ++i) {
        values[i] = AsDouble(PyTuple_GET_ITEM(weights, static_cast<Py_ssize_t>(i)), "class_weight");
      }
      formula->columns = static_cast<double*>(PyMem_Malloc(count * sizeof(double)));
      if (formula->columns == nullptr) throw std::bad_alloc();
      std::copy(values.begin(), values.end(), formula->columns);
      formula->num_columns = count;
    }
    formula->row = kFocal;
    return Ref::Borrow(Py_None);
  });
}

template <PyObject* (*bind)(PyObject*, PyObject* const*, Py_ssize_t)>
PyMethodDef methods[] = {
    {"_bind", FastCall(bind), METH_FASTCALL, nullptr},
    {"_value", FastCall(ClassValueVerb<Inputs>), METH_FASTCALL, nullptr},
    {"_gradient", FastCall(ClassGradVerb<Inputs, false>), METH_FASTCALL, nullptr},
    {"_value_and_grad", FastCall(ClassGradVerb<Inputs, true>), METH_FASTCALL, nullptr},
    {"_grad_and_hess", FastCall(PyGradAndHess), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void RegisterLabelLosses(PyObject* module) {
  AddFormulaType(module, "fuseprop._core.NegativeLogLikelihood", loss_type, New, methods<BindLikelihood>, false);
  AddFormulaType(module, "fuseprop._core.SoftmaxFocal", loss_type, New, methods<BindFocal>, false);
}

}  // namespace bind
}  // namespace fuseprop
