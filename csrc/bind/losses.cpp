// The elementwise losses' verbs: value, gradient, value_and_grad, grad_and_hess.

#include "kernels/losses.h"

#include "bind/formula.h"
#include "bind/loss_args.h"
#include "bind/register.h"

namespace fuseprop {
namespace bind {
namespace {

// pred, target and sample_weight, checked and brought to one order.
struct Inputs {
  Ref arrays[3];
  Ref given[3];
  size_t weight_run = 1;
  double weight_sum = 0.0;  // of the broadcast weights; pred's size without weights
  bool fortran = false;

  const Ref& pred() const { return arrays[0]; }
  const Ref& target() const { return arrays[1]; }
  const Ref& weight() const { return arrays[2]; }
  PyArrayObject* shape() const { return arrays[0].array(); }
  int typenum() const { return PyArray_TYPE(arrays[0].array()); }

  Inputs(PyObject* pred_object, PyObject* target_object, PyObject* weight_object, PyObject* out, bool mean) {
    arrays[0] = FloatArray(pred_object, "pred");
    arrays[1] = FloatArrayAs(target_object, "target", typenum());
    CheckSameShape(arrays[0], "pred", arrays[1], "target");
    bool per_row = false;
    if (weight_object != Py_None) {
      arrays[2] = FloatArrayAs(weight_object, "sample_weight", typenum());
      per_row = !SameShape(arrays[2].array(), shape());
      if (per_row && (PyArray_NDIM(arrays[2].array()) != 1 || PyArray_NDIM(shape()) < 1 ||
                      PyArray_DIM(arrays[2].array(), 0) != PyArray_DIM(shape(), 0))) {
        Raise(PyExc_ValueError, "sample_weight has shape %s; expected pred's shape %s or one weight per sample",
              ShapeText(arrays[2].array()).c_str(), ShapeText(shape()).c_str());
      }
    }
    for (size_t i = 0; i < 3; ++i) given[i] = Ref::Borrow(arrays[i].get());
    fortran = ToCommonOrder(arrays, 3, out, per_row);
    const size_t n = Size(pred());
    if (per_row && n != 0) weight_run = n / Size(weight());
    if (mean) weight_sum = weight() ? SumOf(weight()) * static_cast<double>(weight_run) : static_cast<double>(n);
  }

  Output NewOutput() const { return Output(PyArray_NDIM(shape()), PyArray_DIMS(shape()), typenum(), fortran); }
  Output NewOutput(PyObject* out) const {
    Output output(out, "out", PyArray_NDIM(shape()), PyArray_DIMS(shape()), typenum(), fortran);
    output.CheckOverlap(given[0], "pred");
    output.CheckOverlap(given[1], "target");
    output.CheckOverlap(given[2], "sample_weight", weight_run == 1);
    return output;
  }
};

[[noreturn]] void RaiseOutsideDomain(const LossRow& row, const Inputs& inputs, size_t index) {
  const double found =
      IsFloat32(inputs.target()) ? Data<float>(inputs.target())[index] : Data<double>(inputs.target())[index];
  const Ref number = Ref::Check(PyFloat_FromDouble(found));
  const char* expected = row.target_domain == Domain::kUnit ? "values in [0, 1]" : "finite values";
  Raise(PyExc_ValueError, "target%s is %R; %s expects %s", IndexText(inputs.shape(), index, inputs.fortran).c_str(),
        number.get(), row.name, expected);
}

// Runs a pass. The caller's arrays must not be written before the targets are known to be good, while our own are
// thrown away on an error: only then is the check part of the pass.
template <class T>
double Run(const Formula& formula, LossPass pass, const Inputs& inputs, LossArgs<T>& args, bool check_first) {
  const LossTable& table = Losses();
  const LossRow& row = table.rows[formula.row];
  const LossOps<T>& ops = OfType<T>(table);
  args.pred = Data<T>(inputs.pred());
  args.target = Data<T>(inputs.target());
  args.weight = inputs.weight() ? Data<T>(inputs.weight()) : nullptr;
  args.weight_run = inputs.weight_run;
  args.n = Size(inputs.pred());
  args.check = !check_first;
  LossResult result;
  {
    const ReleaseGil release(args.n);
    result.first_invalid = check_first ? ops.first_invalid(row, args) : args.n;
    if (result.first_invalid == args.n) result = ops.run(row, pass, formula.parameters, args);
  }
  if (result.first_invalid != args.n) RaiseOutsideDomain(row, inputs, result.first_invalid);
  return result.sum;
}

Ref ValueObject(const Scale& scale, double sum) { return Ref::Check(PyFloat_FromDouble(scale.Reduce(sum))); }

template <class T>
Ref Value(const Formula& formula, const Inputs& inputs, Reduction reduction) {
  LossArgs<T> args;
  if (reduction == Reduction::kNone) {
    Output value = inputs.NewOutput();
    args.value = value.data<T>();
    Run<T>(formula, LossPass::kValue, inputs, args, false);
    return value.Finish();
  }
  const Scale scale(reduction, inputs.weight_sum);
  return ValueObject(scale, Run<T>(formula, LossPass::kValue, inputs, args, false));
}

template <class T>
Ref Gradient(const Formula& formula, const Inputs& inputs, Reduction reduction, PyObject* out) {
  LossArgs<T> args;
  Output grad = inputs.NewOutput(out);
  args.grad = grad.data<T>();
  const Scale scale(reduction, inputs.weight_sum);
  args.scale = scale.grad;
  Run<T>(formula, LossPass::kGrad, inputs, args, grad.is_callers());
  scale.Finish(grad.buffer());
  return grad.Finish();
}

template <class T>
Ref ValueAndGrad(const Formula& formula, const Inputs& inputs, Reduction reduction, PyObject* out) {
  LossArgs<T> args;
  Output grad = inputs.NewOutput(out);
  const Scale scale(reduction, inputs.weight_sum);
  args.grad = grad.data<T>();
  args.scale = scale.grad;
  Ref value;
  if (reduction == Reduction::kNone) {
    Output values = inputs.NewOutput();
    args.value = values.data<T>();
    Run<T>(formula, LossPass::kValueGrad, inputs, args, grad.is_callers());
    value = values.Finish();
  } else {
    value = ValueObject(scale, Run<T>(formula, LossPass::kValueGrad, inputs, args, grad.is_callers()));
  }
  scale.Finish(grad.buffer());
  const Ref grad_array = grad.Finish();
  return Ref::Check(PyTuple_Pack(2, value.get(), grad_array.get()));
}

template <class T>
Ref GradAndHess(const Formula& formula, const Inputs& inputs, PyObject* floor) {
  LossArgs<T> args;
  args.floor_hess = AsFloor(floor, &args.hess_floor);
  Output grad = inputs.NewOutput();
  Output hess = inputs.NewOutput();
  args.grad = grad.data<T>();
  args.hess = hess.data<T>();
  Run<T>(formula, LossPass::kGradHess, inputs, args, false);
  const Ref grad_array = grad.Finish();
  const Ref hess_array = hess.Finish();
  return Ref::Check(PyTuple_Pack(2, grad_array.get(), hess_array.get()));
}

// _value(pred, target, sample_weight, reduction, /)
PyObject* Value(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_value", nargs, 4, 4);
    const Reduction reduction = AsReduction(args[3]);
    const Inputs inputs(args[0], args[1], args[2], nullptr, reduction == Reduction::kMean);
    return inputs.typenum() == NPY_FLOAT32 ? Value<float>(Self(self), inputs, reduction)
                                           : Value<double>(Self(self), inputs, reduction);
  });
}

// _gradient(pred, target, sample_weight, reduction, out, /)
PyObject* Gradient(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_gradient", nargs, 5, 5);
    const Reduction reduction = AsReduction(args[3]);
    const Inputs inputs(args[0], args[1], args[2], args[4], reduction == Reduction::kMean);
    return inputs.typenum() == NPY_FLOAT32 ? Gradient<float>(Self(self), inputs, reduction, args[4])
                                           : Gradient<double>(Self(self), inputs, reduction, args[4]);
  });
}

// _value_and_grad(pred, target, sample_weight, reduction, out, /)
PyObject* ValueAndGrad(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_value_and_grad", nargs, 5, 5);
    const Reduction reduction = AsReduction(args[3]);
    const Inputs inputs(args[0], args[1], args[2], args[4], reduction == Reduction::kMean);
    return inputs.typenum() == NPY_FLOAT32 ? ValueAndGrad<float>(Self(self), inputs, reduction, args[4])
                                           : ValueAndGrad<double>(Self(self), inputs, reduction, args[4]);
  });
}

// _grad_and_hess(pred, target, sample_weight, hess_floor, /)
PyObject* GradAndHess(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_grad_and_hess", nargs, 4, 4);
    const Inputs inputs(args[0], args[1], args[2], nullptr, false);
    return inputs.typenum() == NPY_FLOAT32 ? GradAndHess<float>(Self(self), inputs, args[3])
                                           : GradAndHess<double>(Self(self), inputs, args[3]);
  });
}

PyObject* New(PyTypeObject* type, PyObject*, PyObject*) { return NewFormula(type, nullptr); }

// _bind(name, parameters, /)
PyObject* PyBind(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    return Bind(self, args, nargs, [](const char* name, size_t* row, size_t* num_parameters) {
      return FindByName(Losses(), name, row, num_parameters);
    });
  });
}

PyObject* LossNames(PyObject*, PyObject*) {
  return Guard([] { return Names(Losses()); });
}

PyMethodDef methods[] = {
    {"_bind", FastCall(PyBind), METH_FASTCALL, nullptr},
    {"_value", FastCall(Value), METH_FASTCALL, nullptr},
    {"_gradient", FastCall(Gradient), METH_FASTCALL, nullptr},
    {"_value_and_grad", FastCall(ValueAndGrad), METH_FASTCALL, nullptr},
    {"_grad_and_hess", FastCall(GradAndHess), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyMethodDef functions[] = {
    {"loss_names", LossNames, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

PyTypeObject* loss_type = nullptr;

void RegisterLosses(PyObject* module) {
  loss_type = AddFormulaType(module, "fuseprop._core.Loss", nullptr, New, methods, false);
  AddFunctions(module, functions);
}

}  // namespace bind
}  // namespace fuseprop
