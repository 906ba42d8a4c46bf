// SoftmaxCrossEntropy's verbs: as the elementwise losses', but the target is labels or a distribution.

#include "kernels/softmax_xent.h"

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

// Integer labels of shape pred.shape[:-1], in C order.
Ref Labels(const Ref& target, PyArrayObject* pred, LabelKind* kind) {
  if (!LabelKindOf(PyArray_TYPE(target.array()), kind)) {
    Raise(PyExc_TypeError, "target has dtype %s and shape %s; expected integer labels, or a distribution of shape %s",
          DtypeName(target.array()).c_str(), ShapeText(target.array()).c_str(), ShapeText(pred).c_str());
  }
  return Ref::Check(PyArray_FromArray(target.array(), PyArray_DescrNewByteorder(PyArray_DESCR(target.array()), '='),
                                      NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED));
}

struct Inputs {
  Ref given_pred;
  Ref pred;
  Ref labels;        // or
  Ref distribution;  // of pred's shape
  Ref given_distribution;
  Ref weight;
  LabelKind kind = LabelKind::kInt64;
  size_t rows = 1;
  size_t classes = 0;
  double weight_sum = 0.0;

  int typenum() const { return PyArray_TYPE(pred.array()); }
  int row_ndim() const { return PyArray_NDIM(pred.array()) - 1; }
  const npy_intp* shape() const { return PyArray_DIMS(pred.array()); }

  Inputs(PyObject* pred_object, PyObject* target_object, PyObject* weight_object, bool mean)
      : given_pred(FloatArray(pred_object, "pred")) {
    PyArrayObject* array = given_pred.array();
    if (PyArray_NDIM(array) < 1) Raise(PyExc_ValueError, "pred has shape (); expected (N, C), classes last");
    pred = COrdered(given_pred);
    for (int i = 0; i < row_ndim(); ++i) rows *= static_cast<size_t>(shape()[i]);
    classes = static_cast<size_t>(shape()[row_ndim()]);

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
    if (mean) weight_sum = weight ? SumOf(weight) : static_cast<double>(rows);
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
    Raise(PyExc_ValueError, "target%s is label %S; expected 0 to %zd (pred has C = %zu classes)", index.c_str(),
          list.get(), static_cast<Py_ssize_t>(inputs.classes) - 1, inputs.classes);
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
double Run(const Inputs& inputs, SoftmaxXentArgs<T>& args) {
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
  return result.sum;
}

// The value of a call that has been set up in `args`: a float, or the array for "none".
template <class T>
Ref Value(const Inputs& inputs, SoftmaxXentArgs<T>& args, Reduction reduction) {
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
Ref Value(const Inputs& inputs, Reduction reduction) {
  SoftmaxXentArgs<T> args;
  return Value(inputs, args, reduction);
}

template <class T>
Ref ValueAndGrad(Inputs& inputs, Reduction reduction, PyObject* out, bool want_value) {
  SoftmaxXentArgs<T> args;
  Output grad = inputs.NewOutput(out);
  args.grad = grad.data<T>();
  const Scale scale(reduction, inputs.weight_sum);
  args.scale = scale.grad;
  args.check_first = grad.is_callers();
  if (!want_value) {
    args.want_sum = false;
    Run(inputs, args);
    scale.Finish(grad.buffer());
    return grad.Finish();
  }
  const Ref value = Value(inputs, args, reduction);
  scale.Finish(grad.buffer());
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
PyObject* PyValue(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_value", nargs, 4, 4);
    const Reduction reduction = AsReduction(args[3]);
    const Inputs inputs(args[0], args[1], args[2], reduction == Reduction::kMean);
    return inputs.typenum() == NPY_FLOAT32 ? Value<float>(inputs, reduction) : Value<double>(inputs, reduction);
  });
}

Ref ValueAndGrad(PyObject* const* args, bool want_value) {
  const Reduction reduction = AsReduction(args[3]);
  Inputs inputs(args[0], args[1], args[2], reduction == Reduction::kMean);
  return inputs.typenum() == NPY_FLOAT32 ? ValueAndGrad<float>(inputs, reduction, args[4], want_value)
                                         : ValueAndGrad<double>(inputs, reduction, args[4], want_value);
}

// _gradient(pred, target, sample_weight, reduction, out, /)
PyObject* PyGradient(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_gradient", nargs, 5, 5);
    return ValueAndGrad(args, false);
  });
}

// _value_and_grad(pred, target, sample_weight, reduction, out, /)
PyObject* PyValueAndGrad(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_value_and_grad", nargs, 5, 5);
    return ValueAndGrad(args, true);
  });
}

// _grad_and_hess(pred, target, sample_weight, hess_floor, hessian="diagonal", /)
PyObject* PyGradAndHess(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_grad_and_hess", nargs, 4, 5);
    double factor = 1.0;
    if (nargs == 5 && PyUnicode_Check(args[4]) && PyUnicode_CompareWithASCIIString(args[4], "upper") == 0) {
      factor = 2.0;
    } else if (nargs == 5 &&
               (!PyUnicode_Check(args[4]) || PyUnicode_CompareWithASCIIString(args[4], "diagonal") != 0)) {
      Raise(PyExc_ValueError, "hessian is %R; expected \"diagonal\" or \"upper\"", args[4]);
    }
    Inputs inputs(args[0], args[1], args[2], false);
    return inputs.typenum() == NPY_FLOAT32 ? GradAndHess<float>(inputs, args[3], factor)
                                           : GradAndHess<double>(inputs, args[3], factor);
  });
}

PyObject* New(PyTypeObject* type, PyObject*, PyObject*) { return NewFormula(type, nullptr); }

// _bind(name, parameters, /): there is nothing to look up, the type is the formula.
PyObject* PyBind(PyObject*, PyObject* const*, Py_ssize_t) { Py_RETURN_NONE; }

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
