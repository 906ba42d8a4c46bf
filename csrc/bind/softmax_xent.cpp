// SoftmaxCrossEntropy's verbs: as the elementwise losses', but the target is labels or a distribution.

#include "kernels/softmax_xent.h"

#include "bind/class_args.h"
#include "bind/register.h"

namespace fuseprop {
namespace bind {
namespace {

constexpr ClassNames kNames = {"target", "pred", "pred"};

struct Inputs {
  Ref given_pred;
  Ref pred;
  ClassTarget target;

  int typenum() const { return PyArray_TYPE(pred.array()); }
  int row_ndim() const { return PyArray_NDIM(pred.array()) - 1; }
  const npy_intp* shape() const { return PyArray_DIMS(pred.array()); }

  Inputs(PyObject* self, PyObject* pred_object, PyObject* target_object, PyObject* weight_object, bool mean)
      : given_pred(Logits(pred_object)),
        pred(COrdered(given_pred)),
        target(Self(self), row_ndim() + 1, shape(), typenum(), target_object, weight_object, mean, kNames) {}

  static Ref Logits(PyObject* object) {
    Ref array = FloatArray(object, "pred");
    if (PyArray_NDIM(array.array()) < 1) Raise(PyExc_ValueError, "pred has shape (); expected (N, C), classes last");
    return array;
  }

  Output NewOutput(PyObject* out) {
    Output output(out, "out", row_ndim() + 1, shape(), typenum());
    output.CheckOverlap(given_pred, "pred");
    output.CheckOverlap(target.given_distribution, "target");
    output.CheckOverlap(target.labels, "target", false);
    output.CheckOverlap(target.weight, "sample_weight", false);
    // The kernel reads a row's distribution while it writes the row's gradient.
    Ref& distribution = target.distribution;
    if (distribution && PyArray_DATA(distribution.array()) == PyArray_DATA(output.buffer().array())) {
      distribution = Ref::Check(PyArray_NewCopy(distribution.array(), NPY_CORDER));
    }
    return output;
  }
};

template <class T>
double Run(Inputs& inputs, SoftmaxXentArgs<T>& args) {
  SoftmaxXentOptions<T> options;
  inputs.target.Fill(&args, &options);
  args.logits = Data<T>(inputs.pred);
  SoftmaxXentResult result;
  {
    const ReleaseGil release(args.rows * args.classes);
    result = SoftmaxXent(args);
  }
  inputs.target.Finish(result);
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
  return Ref::Check(PyFloat_FromDouble(Scale(reduction, inputs.target.weight_sum).Reduce(sum)));
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
  args.scale = Scale(reduction, inputs.target.weight_sum).grad;
  args.check_first = grad.is_callers();
  if (!want_value) {
    args.want_sum = false;
    Run(inputs, args);
    Scale(reduction, inputs.target.weight_sum).Finish(grad.buffer());
    return grad.Finish();
  }
  const Ref value = Value(inputs, args, reduction);
  Scale(reduction, inputs.target.weight_sum).Finish(grad.buffer());
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

PyObject* PyBind(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] { return BindClassOptions(self, args, nargs); });
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
