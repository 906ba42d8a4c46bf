// SoftmaxCrossEntropy's verbs: as the elementwise losses', but the target is labels or a distribution.

#include "kernels/losses/softmax_cross_entropy.h"

#include "bind/losses/class_args.h"
#include "bind/losses/class_verbs.h"
#include "bind/register.h"

namespace fuseprop {
namespace bind {
namespace {

constexpr ClassNames kNames = {"target", "pred", "pred"};

struct Inputs {
  LossArrays given;
  Ref pred;
  ClassTarget target;
  bool writes_callers = false;

  template <class T>
  using Args = SoftmaxCrossEntropyArgs<T>;

  int typenum() const { return PyArray_TYPE(pred.array()); }
  int row_ndim() const { return PyArray_NDIM(pred.array()) - 1; }
  const npy_intp* shape() const { return PyArray_DIMS(pred.array()); }
  double divisor() const { return target.weight_sum; }

  Inputs(PyObject* self, PyObject* pred_object, PyObject* target_object, PyObject* weight_object, bool mean)
      : given(pred_object, target_object, weight_object),
        pred(COrdered(Logits(given.pred))),
        target(Self(self), row_ndim() + 1, shape(), typenum(), given.target, given.weight, mean, kNames) {}

  static Ref Logits(const Ref& given) {
    Ref array = FloatArray(given, "pred");
    if (PyArray_NDIM(array.array()) < 1) Raise(PyExc_ValueError, "pred has shape (); expected (N, C), classes last");
    return array;
  }

  Output NewOutput(PyObject* out, const char* name) {
    Output output(out, name, row_ndim() + 1, shape(), typenum());
    output.CheckOverlap(given.pred, "pred");
    output.CheckOverlap(given.target, "target", !target.labels);
    output.CheckOverlap(given.weight, "sample_weight", false);
    // The kernel reads a row's distribution while it writes the row's gradient.
    Ref& distribution = target.distribution;
    if (distribution && PyArray_DATA(distribution.array()) == PyArray_DATA(output.buffer().array())) {
      distribution = Ref::Check(PyArray_NewCopy(distribution.array(), NPY_CORDER));
    }
    writes_callers = writes_callers || output.is_callers();
    return output;
  }

  template <class T>
  double Run(SoftmaxCrossEntropyArgs<T> args, bool want_sum) {
    SoftmaxCrossEntropyOptions<T> options;
    target.Fill(&args, &options);
    args.logits = Data<T>(pred);
    args.want_sum = want_sum;
    args.check_first = writes_callers;
    SoftmaxCrossEntropyResult result;
    {
      const ReleaseGil release(args.rows * args.classes);
      result = SoftmaxCrossEntropy(args);
    }
    target.Finish(result);
    return result.sum;
  }
};

template <class T>
Ref GradAndHess(Inputs& inputs, const HessFloor& floor, double factor, const OutPair& out) {
  SoftmaxCrossEntropyArgs<T> args;
  args.hessian_factor = factor;
  return ClassGradAndHess<T>(inputs, args, floor, out);
}

// _grad_and_hess(pred, target, sample_weight, hess_floor, out, hessian="diagonal", /)
PyObject* PyGradAndHess(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_grad_and_hess", nargs, 5, 6);
    double factor = 1.0;
    if (nargs == 6 && PyUnicode_Check(args[5]) && PyUnicode_CompareWithASCIIString(args[5], "upper") == 0) {
      factor = 2.0;
    } else if (nargs == 6 &&
               (!PyUnicode_Check(args[5]) || PyUnicode_CompareWithASCIIString(args[5], "diagonal") != 0)) {
      Raise(PyExc_ValueError, "hessian is %R; expected \"diagonal\" or \"upper\"", args[5]);
    }
    const OutPair out(args[4]);
    const HessFloor floor(args[3]);
    Inputs inputs(self, args[0], args[1], args[2], false);
    return inputs.typenum() == NPY_FLOAT32 ? GradAndHess<float>(inputs, floor, factor, out)
                                           : GradAndHess<double>(inputs, floor, factor, out);
  });
}

PyObject* New(PyTypeObject* type, PyObject*, PyObject*) { return NewFormula(type); }

PyObject* PyBind(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] { return BindClassOptions(self, args, nargs); });
}

PyMethodDef methods[] = {
    {"_bind", FastCall(PyBind), METH_FASTCALL, nullptr},
    {"_value", FastCall(ClassValueVerb<Inputs>), METH_FASTCALL, nullptr},
    {"_gradient", FastCall(ClassGradVerb<Inputs, false>), METH_FASTCALL, nullptr},
    {"_value_and_grad", FastCall(ClassGradVerb<Inputs, true>), METH_FASTCALL, nullptr},
    {"_grad_and_hess", FastCall(PyGradAndHess), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void RegisterSoftmaxCrossEntropy(PyObject* module) {
  AddFormulaType(module, "fuseprop._core.SoftmaxCrossEntropy", loss_type, New, methods, nullptr);
}

}  // namespace bind
}  // namespace fuseprop
