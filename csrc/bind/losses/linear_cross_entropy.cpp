// LinearCrossEntropy's verbs: as SoftmaxCrossEntropy's, for the logits x @ weight + bias.

#include "kernels/losses/linear_cross_entropy.h"

#include "bind/losses/class_args.h"
#include "bind/dense/matrix.h"
#include "bind/register.h"

namespace fuseprop {
namespace bind {
namespace {

constexpr ClassNames kNames = {"labels", "x", "weight"};

struct Inputs {
  Ref given_x, given_weight, given_labels, given_bias, given_sample_weight;
  Matrix x;
  Matrix weight;
  Ref bias;
  npy_intp shape[2];  // of the logits
  ClassTarget target;

  // args: x, weight, labels, bias, sample_weight
  Inputs(PyObject* self, PyObject* const* args, bool mean)
      : given_x(AnyArray(args[0], "x")),
        given_weight(AnyArray(args[1], "weight")),
        given_labels(AnyArray(args[2], "labels")),
        given_bias(OptionalArray(args[3], "bias")),
        given_sample_weight(OptionalArray(args[4], "sample_weight")),
        x(given_x, "x"),
        weight(given_weight, "weight"),
        bias(Checked(x, weight, given_bias)),
        shape{x.rows, weight.cols},
        target(Self(self), 2, shape, x.typenum(), given_labels, given_sample_weight, mean, kNames) {}

  // The bias, after x and weight have been found to fit.
  static Ref Checked(const Matrix& x, const Matrix& weight, const Ref& given_bias) {
    CheckSameDtype(x.given, "x", weight.given, "weight");
    if (x.cols != weight.rows) {
      Raise(PyExc_ValueError, "x has shape %s but weight has shape %s; expected (N, D) and (D, C)", x.Shape().c_str(),
            weight.Shape().c_str());
    }
    if (!given_bias) return Ref();
    Ref bias = Vector(given_bias, "bias", weight.cols, "weight's second dimension");
    CheckSameDtype(x.given, "x", bias, "bias");
    return bias;
  }
};

enum class Verb { kValue, kGradient, kBoth };

template <class T>
Ref Run(Inputs& inputs, Reduction reduction, Verb verb) {
  LinearCrossEntropyArgs<T> args;
  SoftmaxCrossEntropyOptions<T> options;
  inputs.target.Fill(&args.loss, &options);
  args.loss.scale = Scale(reduction, inputs.target.weight_sum).grad;
  args.loss.want_sum = verb != Verb::kGradient;
  args.features = static_cast<size_t>(inputs.x.cols);
  args.x = Data<T>(inputs.x.array);
  args.x_stride = inputs.x.stride;
  args.x_transposed = inputs.x.transposed;
  args.weight = Data<T>(inputs.weight.array);
  args.weight_stride = inputs.weight.stride;
  args.weight_transposed = inputs.weight.transposed;
  args.bias = inputs.bias ? Data<T>(inputs.bias) : nullptr;

  // Memory from NumPy, which asks for huge pages.
  const npy_intp elements[1] = {static_cast<npy_intp>(LinearCrossEntropyMemory(args))};
  const Output memory(1, elements, TypeNum<T>());
  args.memory = memory.data<T>();

  const bool has_values = verb != Verb::kGradient && reduction == Reduction::kNone;
  const npy_intp values_shape[1] = {has_values ? inputs.shape[0] : 0};
  Output values(1, values_shape, TypeNum<T>());
  if (has_values) args.loss.row_value = values.data<T>();

  const bool has_grads = verb != Verb::kValue;
  const npy_intp none[2] = {0, 0};
  const npy_intp x_shape[2] = {inputs.x.rows, inputs.x.cols};
  const npy_intp weight_shape[2] = {inputs.weight.rows, inputs.weight.cols};
  Output dx(2, has_grads ? x_shape : none, TypeNum<T>());
  Output dweight(2, has_grads ? weight_shape : none, TypeNum<T>());
  Output dbias(1, has_grads && inputs.bias ? weight_shape + 1 : none, TypeNum<T>());
  if (has_grads) {
    args.dx = dx.data<T>();
    args.dweight = dweight.data<T>();
    if (inputs.bias) args.dbias = dbias.data<T>();
  }

  SoftmaxCrossEntropyResult result;
  {
    const ReleaseGil release(args.loss.rows * args.loss.classes * (args.features + 8) / 8);
    result = LinearCrossEntropy(args);
  }
  inputs.target.Finish(result);
  const Scale scale(reduction, inputs.target.weight_sum);
  Ref value = has_values                ? values.Finish()
              : verb == Verb::kGradient ? Ref()
                                        : Ref::Check(PyFloat_FromDouble(scale.Reduce(result.sum)));
  if (!has_grads) return value;
  for (const Output* gradient : {&dx, &dweight, &dbias}) scale.Finish(gradient->buffer());
  const Ref by_x = dx.Finish();
  const Ref by_weight = dweight.Finish();
  const Ref by_bias = inputs.bias ? dbias.Finish() : Ref::Borrow(Py_None);
  Ref gradients = Ref::Check(PyTuple_Pack(3, by_x.get(), by_weight.get(), by_bias.get()));
  return verb == Verb::kGradient ? std::move(gradients) : Ref::Check(PyTuple_Pack(2, value.get(), gradients.get()));
}

// _value, _gradient, _value_and_grad(x, weight, labels, bias, sample_weight, reduction, /)
template <Verb verb>
PyObject* Call(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("LinearCrossEntropy", nargs, 6, 6);
    const Reduction reduction = AsReduction(args[5]);
    Inputs inputs(self, args, reduction == Reduction::kMean);
    return inputs.x.typenum() == NPY_FLOAT32 ? Run<float>(inputs, reduction, verb)
                                             : Run<double>(inputs, reduction, verb);
  });
}

PyObject* New(PyTypeObject* type, PyObject*, PyObject*) { return NewFormula(type); }

PyObject* PyBind(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] { return BindClassOptions(self, args, nargs); });
}

PyMethodDef methods[] = {
    {"_bind", FastCall(PyBind), METH_FASTCALL, nullptr},
    {"_value", FastCall(Call<Verb::kValue>), METH_FASTCALL, nullptr},
    {"_gradient", FastCall(Call<Verb::kGradient>), METH_FASTCALL, nullptr},
    {"_value_and_grad", FastCall(Call<Verb::kBoth>), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void RegisterLinearCrossEntropy(PyObject* module) {
  AddFormulaType(module, "fuseprop._core.LinearCrossEntropy", loss_type, New, methods, nullptr);
}

}  // namespace bind
}  // namespace fuseprop
