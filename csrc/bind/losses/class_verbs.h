// The verbs of losses of a row over classes. `Inputs` are a call's arguments, checked, with
//   Args<T>                     what its kernel takes: row_value, grad, scale, hess, hess_floor, floor_hess ...
//   Run(Args<T>, bool want_sum) runs the kernel; returns the sum of the losses
//   divisor()                   of "mean", at the latest after Run
//   NewOutput(out, name)        an array like pred, for the gradient and the Hessian
//   typenum(), row_ndim(), shape()

#ifndef FUSEPROP_BIND_LOSSES_CLASS_VERBS_H_
#define FUSEPROP_BIND_LOSSES_CLASS_VERBS_H_

#include "bind/losses/loss_args.h"

namespace fuseprop {
namespace bind {

// The value of a call that has been set up in `args`: a float, or the array for "none".
template <class T, class Inputs>
Ref ClassValue(Inputs& inputs, typename Inputs::template Args<T> args, Reduction reduction) {
  if (reduction == Reduction::kNone) {
    Output values(inputs.row_ndim(), inputs.shape(), inputs.typenum());
    args.row_value = values.template data<T>();
    inputs.Run(args, true);
    return values.Finish();
  }
  const double sum = inputs.Run(args, true);
  return Ref::Check(PyFloat_FromDouble(Scale(reduction, inputs.divisor()).Reduce(sum)));
}

template <class T, class Inputs>
Ref ClassValueAndGrad(Inputs& inputs, Reduction reduction, PyObject* out, bool want_value) {
  typename Inputs::template Args<T> args;
  Output grad = inputs.NewOutput(out, "out");
  args.grad = grad.template data<T>();
  args.scale = Scale(reduction, inputs.divisor()).grad;
  Ref value;
  if (want_value) {
    value = ClassValue<T>(inputs, args, reduction);
  } else {
    inputs.Run(args, false);
  }
  Scale(reduction, inputs.divisor()).Finish(grad.buffer());
  Ref grad_array = grad.Finish();
  return want_value ? Ref::Check(PyTuple_Pack(2, value.get(), grad_array.get())) : std::move(grad_array);
}

// `args` has what is the loss's own.
template <class T, class Inputs>
Ref ClassGradAndHess(Inputs& inputs, typename Inputs::template Args<T> args, const HessFloor& floor,
                     const OutPair& out) {
  args.floor_hess = floor.given;
  args.hess_floor = floor.value;
  Output grad = inputs.NewOutput(out.first, "out[0]");
  Output hess = inputs.NewOutput(out.second, "out[1]");
  if (grad.is_callers()) hess.CheckOverlap(grad.result(), "out[0]", false);
  args.grad = grad.template data<T>();
  args.hess = hess.template data<T>();
  inputs.Run(args, false);
  const Ref grad_array = grad.Finish();
  const Ref hess_array = hess.Finish();
  return Ref::Check(PyTuple_Pack(2, grad_array.get(), hess_array.get()));
}

// _value(pred, target, sample_weight, reduction, /)
template <class Inputs>
PyObject* ClassValueVerb(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_value", nargs, 4, 4);
    const Reduction reduction = AsReduction(args[3]);
    Inputs inputs(self, args[0], args[1], args[2], reduction == Reduction::kMean);
    return inputs.typenum() == NPY_FLOAT32 ? ClassValue<float>(inputs, {}, reduction)
                                           : ClassValue<double>(inputs, {}, reduction);
  });
}

// _gradient, _value_and_grad(pred, target, sample_weight, reduction, out, /)
template <class Inputs, bool want_value>
PyObject* ClassGradVerb(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs(want_value ? "_value_and_grad" : "_gradient", nargs, 5, 5);
    const Reduction reduction = AsReduction(args[3]);
    Inputs inputs(self, args[0], args[1], args[2], reduction == Reduction::kMean);
    return inputs.typenum() == NPY_FLOAT32 ? ClassValueAndGrad<float>(inputs, reduction, args[4], want_value)
                                           : ClassValueAndGrad<double>(inputs, reduction, args[4], want_value);
  });
}

}  // namespace bind
}  // namespace fuseprop

#endif  // FUSEPROP_BIND_LOSSES_CLASS_VERBS_H_
