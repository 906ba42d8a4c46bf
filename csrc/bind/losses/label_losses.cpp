// The verbs of losses of a row with one integer label: NegativeLogLikelihood and SoftmaxFocal.

#include "kernels/losses/label_losses.h"

#include <algorithm>
#include <vector>

#include "bind/losses/class_verbs.h"
#include "bind/formula.h"
#include "bind/register.h"
#include "kernels/losses/row_weights.h"
#include "kernels/losses/softmax_cross_entropy.h"

namespace fuseprop {
namespace bind {
namespace {

// Formula::parameters[0] is the focal loss's gamma, Formula::columns the class weights, null for ones.
enum Kind : size_t { kLikelihood, kFocal };

struct Inputs {
  const Formula& formula;
  LossArrays given;
  Ref pred;
  // A copy, since they are checked here and read by the kernel, and the caller may write to the array meanwhile.
  std::vector<int64_t> labels;
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
      : formula(Self(self)), given(pred_object, target_object, weight_object) {
    const Ref float_pred = FloatArray(given.pred, "pred");
    PyArrayObject* array = float_pred.array();
    if (PyArray_NDIM(array) < 1) Raise(PyExc_ValueError, "pred has shape (); expected (N, C), classes last");
    pred = COrdered(float_pred);
    for (int i = 0; i < row_ndim(); ++i) rows *= static_cast<size_t>(shape()[i]);
    classes = static_cast<size_t>(shape()[row_ndim()]);
    if (formula.columns != nullptr && formula.num_columns != classes) {
      Raise(PyExc_ValueError, "class_weight has %zu weights, but pred has C = %zu classes (shape %s)",
            formula.num_columns, classes, ShapeText(array).c_str());
    }
    ReadLabels();
    if (given.weight) {
      weight = SampleWeights(given.weight, typenum());
      CheckRowShape(weight, "sample_weight", "one weight per row of pred");
      weight = COrdered(weight);
    }
    if (mean) SumWeights();
  }

  void CheckRowShape(const Ref& array, const char* name, const char* what) const {
    if (PyArray_NDIM(array.array()) == row_ndim() &&
        PyArray_CompareLists(PyArray_DIMS(array.array()), shape(), row_ndim())) {
      return;
    }
    Raise(PyExc_ValueError, "%s has shape %s; expected %s, %s", name, ShapeText(array.array()).c_str(),
          ShapeText(row_ndim(), shape()).c_str(), what);
  }

  void ReadLabels() {
    const Ref plain = Plain(given.target);
    PyArrayObject* array = plain.array();
    CheckRowShape(plain, "target", "one label per row of pred");
    // An array of nothing is of float64 as a list.
    const bool is_empty = PyArray_SIZE(array) == 0;
    if (!is_empty && !PyTypeNum_ISINTEGER(PyArray_TYPE(array)) && !PyTypeNum_ISBOOL(PyArray_TYPE(array))) {
      Raise(PyExc_TypeError, "target has dtype %s; expected integer labels%s", DtypeName(array).c_str(),
            LabelAdvice(plain, "target").c_str());
    }
    // What does not fit into 64 bits with a sign becomes negative, and is refused.
    const Ref wide = Ref::Check(PyArray_FromArray(array, PyArray_DescrFromType(NPY_INT64),
                                                  NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED | NPY_ARRAY_FORCECAST));
    labels.assign(Data<int64_t>(wide), Data<int64_t>(wide) + rows);
    const size_t row = FirstInvalidLabel(labels.data(), LabelKind::kInt64, rows, classes);
    if (row == rows) return;
    const Ref label = Ref::Check(PyObject_CallMethod(plain.get(), "item", "n", static_cast<Py_ssize_t>(row)));
    Raise(PyExc_ValueError, "target%s is label %S; expected 0 to %zd (pred has C = %zu classes)",
          IndexText(array, row, false).c_str(), label.get(), static_cast<Py_ssize_t>(classes) - 1, classes);
  }

  void SumWeights() {
    if (formula.columns == nullptr) {
      weight_sum = weight ? SumForMean(&weight) : static_cast<double>(rows);
      return;
    }
    const auto own = [&](size_t row) {
      return !weight ? 1.0 : IsFloat32(weight) ? double{Data<float>(weight)[row]} : Data<double>(weight)[row];
    };
    const auto of_label = [&](size_t row) { return formula.columns[labels[row]]; };
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
    output.CheckOverlap(given.pred, "pred");
    output.CheckOverlap(given.target, "target", false);
    output.CheckOverlap(given.weight, "sample_weight", false);
    return output;
  }

  template <class T>
  double Run(LabelLossArgs<T> args, bool /*want_sum*/) const {
    args.pred = Data<T>(pred);
    args.labels = labels.data();
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
    const HessFloor floor(args[3]);
    Inputs inputs(self, args[0], args[1], args[2], false);
    return inputs.typenum() == NPY_FLOAT32 ? ClassGradAndHess<float>(inputs, {}, floor, out)
                                           : ClassGradAndHess<double>(inputs, {}, floor, out);
  });
}

PyObject* New(PyTypeObject* type, PyObject*, PyObject*) { return NewFormula(type); }

// _bind(name, (), /)
PyObject* BindLikelihood(PyObject* self, PyObject* const* /*args*/, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_bind", nargs, 2, 2);
    CheckUnbound(self);
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
    const double gamma = AsDouble(PyTuple_GET_ITEM(args[1], 0), "gamma");
    PyObject* weights = PyTuple_GET_ITEM(args[1], 1);
    std::vector<double> values;
    if (weights != Py_None) {
      if (!PyTuple_Check(weights) || PyTuple_GET_SIZE(weights) == 0) {
        Raise(PyExc_ValueError, "class_weight must be None or a tuple of numbers");
      }
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(weights); ++i) {
        values.push_back(AsDouble(PyTuple_GET_ITEM(weights, i), "class_weight"));
      }
    }
    CheckUnbound(self);
    auto* formula = reinterpret_cast<Formula*>(self);
    if (!values.empty()) {
      formula->columns = static_cast<double*>(PyMem_Malloc(values.size() * sizeof(double)));
      if (formula->columns == nullptr) throw std::bad_alloc();
      std::copy(values.begin(), values.end(), formula->columns);
      formula->num_columns = values.size();
    }
    formula->parameters[0] = gamma;
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
  AddFormulaType(module, "fuseprop._core.NegativeLogLikelihood", loss_type, New, methods<BindLikelihood>, nullptr);
  AddFormulaType(module, "fuseprop._core.SoftmaxFocal", loss_type, New, methods<BindFocal>, nullptr);
}

}  // namespace bind
}  // namespace fuseprop
