// The verbs of elementwise losses, and of their sums over classes: value, gradient, value_and_grad, grad_and_hess.

#include "kernels/losses/losses.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "bind/formula.h"
#include "bind/losses/loss_args.h"
#include "bind/register.h"
#include "simd/parameter.h"

namespace fuseprop {
namespace bind {
namespace {

// pred, target and sample_weight, checked and brought to one order.
struct Inputs {
  LossArrays given;
  Ref arrays[3];
  Ref uncast_target;  // in the dtype that it was given in, but for integers
  size_t weight_run = 1;
  double weight_sum = 0.0;  // of the broadcast weights; pred's size without weights. Over classes: of the rows'
  bool fortran = false;
  bool over_classes = false;
  // For messages: of the arguments and of the function that they are given to; the axis that was moved to the end.
  const char* pred_name = "pred";
  const char* target_name = "target";
  const char* function = nullptr;
  int axis = -1;

  const Ref& pred() const { return arrays[0]; }
  const Ref& target() const { return arrays[1]; }
  const Ref& weight() const { return arrays[2]; }
  PyArrayObject* shape() const { return arrays[0].array(); }
  int typenum() const { return PyArray_TYPE(arrays[0].array()); }

  // num_columns: how many columns pred must have, for a parameter per column; 0 if that is all one.
  Inputs(PyObject* pred_object, PyObject* target_object, PyObject* weight_object, PyObject* out, bool mean,
         size_t num_columns = 0)
      : given(pred_object, target_object, weight_object) {
    arrays[0] = FloatArray(given.pred, "pred");
    uncast_target = FloatArray(given.target, "target");
    arrays[1] = FloatArrayAs(uncast_target, "target", typenum());
    if (num_columns != 0) SpreadTarget(num_columns);
    CheckSameShape(arrays[0], "pred", arrays[1], "target");
    bool per_row = false;
    if (given.weight) {
      arrays[2] = SampleWeights(given.weight, typenum());
      per_row = !SameShape(arrays[2].array(), shape());
      if (per_row && (PyArray_NDIM(arrays[2].array()) != 1 || PyArray_NDIM(shape()) < 1 ||
                      PyArray_DIM(arrays[2].array(), 0) != PyArray_DIM(shape(), 0))) {
        const std::string per_sample = PyArray_NDIM(shape()) < 1 ? "" : " or " + ShapeText(1, PyArray_DIMS(shape()));
        Raise(PyExc_ValueError, "sample_weight has shape %s; expected pred's shape %s%s",
              ShapeText(arrays[2].array()).c_str(), ShapeText(shape()).c_str(), per_sample.c_str());
      }
    }
    fortran = ToCommonOrder(arrays, 3, out, per_row || num_columns != 0);
    const size_t n = Size(pred());
    if (per_row && n != 0) weight_run = n / Size(weight());
    if (mean) weight_sum = weight() ? SumForMean(&arrays[2]) * static_cast<double>(weight_run) : static_cast<double>(n);
  }

  // Rows along the last axis, each a sample: in C order.
  struct OverClasses {};
  Inputs(PyObject* pred_object, PyObject* target_object, PyObject* weight_object, bool mean, OverClasses /*tag*/)
      : given(pred_object, target_object, weight_object) {
    over_classes = true;
    arrays[0] = FloatArray(given.pred, "pred");
    arrays[1] = FloatArrayAs(given.target, "target", typenum());
    if (PyArray_NDIM(shape()) < 1) Raise(PyExc_ValueError, "pred has shape (); expected (N, C), classes last");
    CheckSameShape(arrays[0], "pred", arrays[1], "target");
    if (given.weight) {
      arrays[2] = SampleWeights(given.weight, typenum());
      if (PyArray_NDIM(arrays[2].array()) != row_ndim() ||
          !PyArray_CompareLists(PyArray_DIMS(arrays[2].array()), PyArray_DIMS(shape()), row_ndim())) {
        Raise(PyExc_ValueError, "sample_weight has shape %s; expected %s, one weight per row of pred",
              ShapeText(arrays[2].array()).c_str(), ShapeText(row_ndim(), PyArray_DIMS(shape())).c_str());
      }
    }
    ToCommonOrder(arrays, 3, nullptr, true);
    weight_run = std::max(classes(), size_t{1});
    if (mean) weight_sum = weight() ? SumForMean(&arrays[2]) : static_cast<double>(rows());
  }

  int row_ndim() const { return PyArray_NDIM(shape()) - 1; }
  size_t classes() const { return static_cast<size_t>(PyArray_DIM(shape(), row_ndim())); }
  size_t rows() const {
    size_t product = 1;
    for (int i = 0; i < row_ndim(); ++i) product *= static_cast<size_t>(PyArray_DIM(shape(), i));
    return product;
  }

  // A target of shape pred.shape[:-1] serves each of the columns.
  void SpreadTarget(size_t num_columns) {
    PyArrayObject* pred = shape();
    const int ndim = PyArray_NDIM(pred);
    if (ndim < 1 || static_cast<size_t>(PyArray_DIM(pred, ndim - 1)) != num_columns) {
      Raise(PyExc_ValueError, "pred has shape %s; expected %zu columns, one for each parameter",
            ShapeText(pred).c_str(), num_columns);
    }
    PyArrayObject* target = arrays[1].array();
    if (PyArray_NDIM(target) != ndim - 1 || !PyArray_CompareLists(PyArray_DIMS(target), PyArray_DIMS(pred), ndim - 1)) {
      return;
    }
    npy_intp with_axis[NPY_MAXDIMS];
    std::copy(PyArray_DIMS(target), PyArray_DIMS(target) + ndim - 1, with_axis);
    with_axis[ndim - 1] = 1;
    PyArray_Dims dims = {with_axis, ndim};
    const Ref column = Ref::Check(PyArray_Newshape(target, &dims, NPY_CORDER));
    const Ref wide = Ref::Check(PyArray_SimpleNew(ndim, PyArray_DIMS(pred), typenum()));
    if (PyArray_CopyInto(wide.array(), column.array()) < 0) throw PythonError();
    arrays[1] = Ref::Borrow(wide.get());
  }

  Output NewOutput() const { return Output(PyArray_NDIM(shape()), PyArray_DIMS(shape()), typenum(), fortran); }
  Output NewOutput(PyObject* out, const char* name = "out") const {
    Output output(out, name, PyArray_NDIM(shape()), PyArray_DIMS(shape()), typenum(), fortran);
    output.CheckOverlap(given.pred, "pred");
    output.CheckOverlap(given.target, "target");
    output.CheckOverlap(given.weight, "sample_weight", weight_run == 1 && !over_classes);
    return output;
  }
};

bool IsInside(Domain domain, double x) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  switch (domain) {
    case Domain::kReal:
      return true;
    case Domain::kUnit:
      return x >= 0.0 && x <= 1.0;
    case Domain::kUnitOrNaN:
      return !(x < 0.0 || x > 1.0);
    case Domain::kSign:
      return x == 1.0 || x == -1.0;
    case Domain::kNonNegative:
      return x >= 0.0 && x < inf;
    case Domain::kPositive:
      return x > 0.0 && x < inf;
    case Domain::kNonZero:
      return x != 0.0;
    case Domain::kNonPositive:
      return x <= 0.0;
  }
  return true;
}

const char* Expected(Domain domain) {
  switch (domain) {
    case Domain::kReal:
      return "any number";
    case Domain::kUnit:
    case Domain::kUnitOrNaN:
      return "values in [0, 1]";
    case Domain::kSign:
      return "-1 or 1";
    case Domain::kNonNegative:
      return "finite values >= 0";
    case Domain::kPositive:
      return "finite values > 0";
    case Domain::kNonZero:
      return "values other than 0, unless on_zero is \"inf\" or \"skip\"";
    case Domain::kNonPositive:
      return "logarithms of probabilities, <= 0";
  }
  return "";
}

// The place in C order of element `flat` in Fortran order.
size_t COrderIndex(PyArrayObject* array, size_t flat) {
  size_t result = 0;
  size_t stride = static_cast<size_t>(PyArray_SIZE(array));
  for (int axis = 0; axis < PyArray_NDIM(array); ++axis) {
    const auto length = static_cast<size_t>(PyArray_DIM(array, axis));
    stride /= length;
    result += flat % length * stride;
    flat /= length;
  }
  return result;
}

// Element `flat` in C order of an array of any strides.
const char* ElementAt(PyArrayObject* array, size_t flat) {
  const char* at = PyArray_BYTES(array);
  for (int axis = PyArray_NDIM(array) - 1; axis >= 0; --axis) {
    const auto length = static_cast<size_t>(PyArray_DIM(array, axis));
    at += static_cast<npy_intp>(flat % length) * PyArray_STRIDE(array, axis);
    flat /= length;
  }
  return at;
}

[[noreturn]] void RaiseOutsideDomain(const Formula& formula, const Inputs& inputs, size_t index) {
  const LossRow& row = Losses().rows[formula.row];
  const auto value_of = [](const Ref& array, size_t at) {
    return IsFloat32(array) ? static_cast<double>(Data<float>(array)[at]) : Data<double>(array)[at];
  };
  const Domain target_domain = row.target_domain(formula.parameters);
  PyArrayObject* shape = inputs.shape();
  // The kernels find the first one in memory; named is the first one in C order.
  if (inputs.fortran) {
    size_t first = COrderIndex(shape, index);
    for (size_t i = index + 1; i < Size(inputs.pred()); ++i) {
      const bool is_inside = IsInside(target_domain, value_of(inputs.target(), i)) &&
                             IsInside(row.pred_domain, value_of(inputs.pred(), i));
      if (is_inside || COrderIndex(shape, i) >= first) continue;
      first = COrderIndex(shape, i);
      index = i;
    }
  }
  const double target = value_of(inputs.target(), index);
  const bool is_target = !IsInside(target_domain, target);
  const double value = is_target ? target : value_of(inputs.pred(), index);
  const size_t c_index = inputs.fortran ? COrderIndex(shape, index) : index;
  const char* note = "";
  if (is_target && inputs.uncast_target && !IsFloat32(inputs.uncast_target) && IsFloat32(inputs.target()) &&
      SameShape(inputs.uncast_target.array(), shape)) {
    double given = 0.0;
    std::memcpy(&given, ElementAt(inputs.uncast_target.array(), c_index), sizeof(given));
    if (given != value && !(given != given && value != value)) note = " as float32";
  }
  const Ref number = Ref::Check(PyFloat_FromDouble(value));
  const char* hint = "";
  if (!is_target && inputs.function == nullptr) {
    hint =
        row.over_classes ? "; softmax_cross_entropy takes logits" : "; binary_cross_entropy_with_logits takes logits";
  }
  Raise(PyExc_ValueError, "%s%s is %R%s; %s expects %s%s", is_target ? inputs.target_name : inputs.pred_name,
        IndexText(shape, c_index, false, inputs.axis).c_str(), number.get(), note,
        inputs.function == nullptr ? row.name : inputs.function, Expected(is_target ? target_domain : row.pred_domain),
        hint);
}

template <class T>
LossArgs<T> ArgsOf(const Inputs& inputs) {
  LossArgs<T> args;
  args.pred = Data<T>(inputs.pred());
  args.target = Data<T>(inputs.target());
  args.weight = inputs.weight() ? Data<T>(inputs.weight()) : nullptr;
  args.weight_run = inputs.weight_run;
  args.n = Size(inputs.pred());
  return args;
}

// What "mean" divides by. Where targets of 0 are left out, the other elements' weights may be far from 1 while all of
// them together are not: then brought near it, to `memory`.
template <class T>
Scale ScaleOf(const Formula& formula, const Inputs& inputs, Reduction reduction, LossArgs<T>* args,
              std::vector<T>* memory) {
  if (reduction != Reduction::kMean) return Scale();
  // What is asked here is the same in every target's table.
  static const LossRow* const rows = Losses().rows;
  if (!rows[formula.row].skips_zero(formula.parameters)) return Scale(reduction, inputs.weight_sum);
  const auto weight_of_nonzero = OfType<T>(Losses()).weight_of_nonzero;
  const ReleaseGil release(args->n);
  const double sum = weight_of_nonzero(*args);
  if (args->weight == nullptr || args->n == 0 || IsModerate(sum / static_cast<double>(args->n))) {
    return Scale(reduction, sum);
  }
  const size_t run = args->weight_run;
  const auto counts = [&](size_t row) {
    const T* const target = args->target + row * run;
    return std::any_of(target, target + run, [](T t) { return t != T(0); }) ? 1.0 : 0.0;
  };
  memory->resize(args->n / run);
  NormalisedProducts(
      memory->size(), [&](size_t row) { return static_cast<double>(args->weight[row]); }, counts, memory->data());
  args->weight = memory->data();
  return Scale(reduction, weight_of_nonzero(*args));
}

// The parameters of the columns as LossArgs::column wants them, then 1 minus them as LossArgs::complement does.
template <class T>
std::vector<T> TileColumns(const Formula& formula) {
  const size_t size = formula.num_columns == 0 ? 0 : kLossPiece + formula.num_columns;
  std::vector<T> tile(2 * size);
  for (size_t i = 0; i < size; ++i) {
    const double parameter = formula.columns[i % formula.num_columns];
    tile[i] = Parameter<T>(parameter);
    tile[size + i] = Parameter<T>(1.0 - parameter);
  }
  return tile;
}

// Runs a pass. The caller's arrays must not be written before the targets are known to be good, while our own are
// thrown away on an error: only then is the check part of the pass.
template <class T>
double Run(const Formula& formula, LossPass pass, const Inputs& inputs, LossArgs<T>& args, bool check_first) {
  const LossTable& table = Losses();
  const LossRow& row = table.rows[formula.row];
  const LossOps<T>& ops = OfType<T>(table);
  if (pass != LossPass::kValue && !row.has_derivatives) {
    Raise(PyExc_TypeError, "%s is a metric: it has no gradient", row.name);
  }
  args.check = !check_first;
  const std::vector<T> tile = TileColumns<T>(formula);
  if (!tile.empty()) {
    args.column = tile.data();
    args.complement = tile.data() + tile.size() / 2;
    args.num_columns = formula.num_columns;
  }
  LossResult result;
  {
    const ReleaseGil release(args.n);
    result.first_invalid = check_first ? ops.first_invalid(row, formula.parameters, args) : args.n;
    if (result.first_invalid == args.n) result = ops.run(row, pass, formula.parameters, args);
  }
  if (result.first_invalid != args.n) RaiseOutsideDomain(formula, inputs, result.first_invalid);
  return result.sum;
}

// The values of elements, or over classes those of rows.
template <class T>
Ref Values(const Inputs& inputs, Output& values) {
  if (!inputs.over_classes) return values.Finish();
  Output sums(inputs.row_ndim(), PyArray_DIMS(inputs.shape()), inputs.typenum());
  {
    const ReleaseGil release(Size(inputs.pred()));
    OfType<T>(Losses()).sum_rows(values.data<T>(), inputs.rows(), inputs.classes(), sums.data<T>());
  }
  return sums.Finish();
}

// sum 2^exponent, which need not be within the range of float64.
struct FarSum {
  double sum;
  int exponent;
};

// The sum of the losses from weights of at most 1: what a loss times its weight has no room for in T, it may have.
template <class T>
FarSum SumFromModerateWeights(const Formula& formula, const Inputs& inputs, LossArgs<T> args) {
  std::vector<T> weight(args.n / args.weight_run);
  const int exponent = Normalised(args.weight, weight.size(), weight.data());
  args.weight = weight.data();
  return {Run<T>(formula, LossPass::kValue, inputs, args, false), exponent};
}

template <class T>
bool AreModerateWeights(const LossArgs<T>& args) {
  return IsModerate(LargestSize(args.weight, args.n / args.weight_run));
}

// The sum of the losses, given what a pass has found: again, if the weights have had T's range left.
template <class T>
FarSum SumAfter(double found, const Formula& formula, const Inputs& inputs, const LossArgs<T>& args) {
  if (args.weight == nullptr || IsWithinRange<T>(found, args.n)) return {found, 0};
  if (std::isfinite(found) && AreModerateWeights(args)) return {found, 0};
  return SumFromModerateWeights(formula, inputs, args);
}

// The same of a pass that writes the gradient over what it reads. `total` is the sum of the weights. Those of up to
// 2^kRoom times their average take no loss beyond T's range.
template <class T>
FarSum SumInPlace(const Formula& formula, const Inputs& inputs, LossArgs<T> args, double total) {
  constexpr int kRoom = 10;
  const double average = total / static_cast<double>(std::max(args.n, size_t{1}));
  if (!IsModerate(average)) {
    LossArgs<T> value_args = args;
    value_args.grad = nullptr;
    const FarSum sum = SumFromModerateWeights(formula, inputs, value_args);
    Run<T>(formula, LossPass::kValueGrad, inputs, args, true);
    return sum;
  }
  const int exponent = std::ilogb(average) + kRoom;
  args.value_scale = std::ldexp(1.0, -exponent);
  return {Run<T>(formula, LossPass::kValueGrad, inputs, args, true), exponent};
}

Ref ValueObject(const Scale& scale, FarSum found) {
  return Ref::Check(PyFloat_FromDouble(std::ldexp(scale.Reduce(found.sum), found.exponent)));
}

template <class T>
Ref Value(const Formula& formula, const Inputs& inputs, Reduction reduction) {
  LossArgs<T> args = ArgsOf<T>(inputs);
  if (reduction == Reduction::kNone) {
    Output value = inputs.NewOutput();
    args.value = value.data<T>();
    Run<T>(formula, LossPass::kValue, inputs, args, false);
    return Values<T>(inputs, value);
  }
  std::vector<T> memory;
  const Scale scale = ScaleOf<T>(formula, inputs, reduction, &args, &memory);
  const double found = Run<T>(formula, LossPass::kValue, inputs, args, false);
  return ValueObject(scale, SumAfter(found, formula, inputs, args));
}

template <class T>
Ref Gradient(const Formula& formula, const Inputs& inputs, Reduction reduction, PyObject* out) {
  LossArgs<T> args = ArgsOf<T>(inputs);
  Output grad = inputs.NewOutput(out);
  args.grad = grad.data<T>();
  std::vector<T> memory;
  const Scale scale = ScaleOf<T>(formula, inputs, reduction, &args, &memory);
  args.scale = scale.grad;
  Run<T>(formula, LossPass::kGrad, inputs, args, grad.is_callers());
  scale.Finish(grad.buffer());
  return grad.Finish();
}

template <class T>
Ref ValueAndGrad(const Formula& formula, const Inputs& inputs, Reduction reduction, PyObject* out) {
  LossArgs<T> args = ArgsOf<T>(inputs);
  Output grad = inputs.NewOutput(out);
  std::vector<T> memory;
  const Scale scale = ScaleOf<T>(formula, inputs, reduction, &args, &memory);
  args.grad = grad.data<T>();
  args.scale = scale.grad;
  Ref value;
  if (reduction == Reduction::kNone) {
    Output values = inputs.NewOutput();
    args.value = values.data<T>();
    Run<T>(formula, LossPass::kValueGrad, inputs, args, grad.is_callers());
    value = Values<T>(inputs, values);
  } else {
    const bool in_place = args.grad == args.pred || args.grad == args.target || args.grad == args.weight;
    if (in_place && args.weight != nullptr) {
      const double total =
          reduction == Reduction::kMean ? scale.value : SumOf(inputs.weight()) * static_cast<double>(args.weight_run);
      value = ValueObject(scale, SumInPlace(formula, inputs, args, total));
    } else {
      const double found = Run<T>(formula, LossPass::kValueGrad, inputs, args, grad.is_callers());
      value = ValueObject(scale, SumAfter(found, formula, inputs, args));
    }
  }
  scale.Finish(grad.buffer());
  const Ref grad_array = grad.Finish();
  return Ref::Check(PyTuple_Pack(2, value.get(), grad_array.get()));
}

template <class T>
Ref GradAndHess(const Formula& formula, const Inputs& inputs, const HessFloor& floor, const OutPair& out) {
  LossArgs<T> args = ArgsOf<T>(inputs);
  args.floor_hess = floor.given;
  args.hess_floor = floor.value;
  Output grad = inputs.NewOutput(out.first, "out[0]");
  Output hess = inputs.NewOutput(out.second, "out[1]");
  if (grad.is_callers()) hess.CheckOverlap(grad.result(), "out[0]", false);
  args.grad = grad.data<T>();
  args.hess = hess.data<T>();
  Run<T>(formula, LossPass::kGradHess, inputs, args, grad.is_callers() || hess.is_callers());
  const Ref grad_array = grad.Finish();
  const Ref hess_array = hess.Finish();
  return Ref::Check(PyTuple_Pack(2, grad_array.get(), hess_array.get()));
}

// The arguments of a verb of this formula.
Inputs InputsOf(const Formula& formula, PyObject* const* args, PyObject* out, bool mean) {
  // The same in every target's table.
  static const LossRow* const rows = Losses().rows;
  const LossRow& row = rows[formula.row];
  if (row.over_classes) {
    Inputs inputs(args[0], args[1], args[2], mean, Inputs::OverClasses());
    const bool of_probabilities = row.target_domain(formula.parameters) != Domain::kNonPositive;
    if (of_probabilities && !PyArray_ISFLOAT(inputs.given.target.array())) {
      CheckAreDistributions(COrdered(inputs.target()), PyArray_NDIM(inputs.shape()), {"target", "pred", "pred"}, false);
    }
    return inputs;
  }
  return {args[0], args[1], args[2], out, mean, formula.num_columns};
}

// _value(pred, target, sample_weight, reduction, /)
PyObject* Value(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_value", nargs, 4, 4);
    const Reduction reduction = AsReduction(args[3]);
    const Inputs inputs = InputsOf(Self(self), args, nullptr, reduction == Reduction::kMean);
    return inputs.typenum() == NPY_FLOAT32 ? Value<float>(Self(self), inputs, reduction)
                                           : Value<double>(Self(self), inputs, reduction);
  });
}

// _gradient(pred, target, sample_weight, reduction, out, /)
PyObject* Gradient(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_gradient", nargs, 5, 5);
    const Reduction reduction = AsReduction(args[3]);
    const Inputs inputs = InputsOf(Self(self), args, args[4], reduction == Reduction::kMean);
    return inputs.typenum() == NPY_FLOAT32 ? Gradient<float>(Self(self), inputs, reduction, args[4])
                                           : Gradient<double>(Self(self), inputs, reduction, args[4]);
  });
}

// _value_and_grad(pred, target, sample_weight, reduction, out, /)
PyObject* ValueAndGrad(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_value_and_grad", nargs, 5, 5);
    const Reduction reduction = AsReduction(args[3]);
    const Inputs inputs = InputsOf(Self(self), args, args[4], reduction == Reduction::kMean);
    return inputs.typenum() == NPY_FLOAT32 ? ValueAndGrad<float>(Self(self), inputs, reduction, args[4])
                                           : ValueAndGrad<double>(Self(self), inputs, reduction, args[4]);
  });
}

// _grad_and_hess(pred, target, sample_weight, hess_floor, out, /)
PyObject* GradAndHess(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_grad_and_hess", nargs, 5, 5);
    const OutPair out(args[4]);
    const HessFloor floor(args[3]);
    const Inputs inputs = InputsOf(Self(self), args, out.first, false);
    return inputs.typenum() == NPY_FLOAT32 ? GradAndHess<float>(Self(self), inputs, floor, out)
                                           : GradAndHess<double>(Self(self), inputs, floor, out);
  });
}

PyObject* New(PyTypeObject* type, PyObject*, PyObject*) { return NewFormula(type); }

// _bind(name, parameters, /). A tuple as the first parameter: one number for each column.
PyObject* PyBind(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_bind", nargs, 2, 2);
    const FindRow find = [](const char* name, size_t* row, size_t* num_parameters) {
      return FindByName(Losses(), name, row, num_parameters);
    };
    PyObject* columns = nullptr;
    if (PyTuple_Check(args[1]) && PyTuple_GET_SIZE(args[1]) == 1) columns = PyTuple_GET_ITEM(args[1], 0);
    if (columns == nullptr || !PyTuple_Check(columns)) {
      Ref result = Bind(self, args, nargs, find);
      PyMem_Free(std::exchange(reinterpret_cast<Formula*>(self)->columns, nullptr));
      reinterpret_cast<Formula*>(self)->num_columns = 0;
      return result;
    }

    const auto count = static_cast<size_t>(PyTuple_GET_SIZE(columns));
    if (count == 0) Raise(PyExc_ValueError, "parameters are empty; expected one for each column");
    std::vector<double> values(count);
    for (size_t i = 0; i < count; ++i) {
      values[i] = AsDouble(PyTuple_GET_ITEM(columns, static_cast<Py_ssize_t>(i)), "parameters");
    }
    const Ref first = Ref::Check(PyTuple_GetSlice(columns, 0, 1));
    PyObject* const first_args[] = {args[0], first.get()};
    Ref result = Bind(self, first_args, nargs, find);
    auto* formula = reinterpret_cast<Formula*>(self);
    if (!Losses().rows[formula->row].per_column) {
      Raise(PyExc_ValueError, "%s has the same parameter in all columns", Losses().rows[formula->row].name);
    }
    auto* copy = static_cast<double*>(PyMem_Malloc(count * sizeof(double)));
    if (copy == nullptr) throw std::bad_alloc();
    std::copy(values.begin(), values.end(), copy);
    PyMem_Free(std::exchange(formula->columns, copy));
    formula->num_columns = count;
    return result;
  });
}

PyObject* LossNames(PyObject*, PyObject*) {
  return Guard([] { return Names(Losses()); });
}

// ------------------------------------------------------------------------------------- RootMeanSquaredError

// sqrt(sum w r^2 / sum w) is no sum over samples, so that its verbs are its own.

struct RootMeanSquare {
  double value = 0.0;
  double scale = 1.0;   // of the residuals
  double factor = 0.0;  // gradient = w (scaled residual) factor
  bool is_infinite = false;
};

template <class T>
RootMeanSquare RootMeanSquareOf(const Inputs& inputs, const LossOps<T>& ops, const LossArgs<T>& args) {
  RootMeanSquare result;
  if (inputs.weight_sum == 0.0) return result;
  double sum = ops.sum_squares(args, 1.0);
  // Squares of float64 may overflow or vanish where their root does not: then again, scaled by a power of two.
  if (sizeof(T) == sizeof(double) && (std::fabs(sum) < 1e-280 || std::isinf(sum))) {
    const double start = std::isinf(sum) ? 0.25 : 1.0;  // the largest residual itself may overflow
    const double largest = ops.largest_residual(args, start);
    if (largest > 0.0 && std::isfinite(largest)) {
      result.scale = std::ldexp(start, -std::max(std::ilogb(largest), -1000));
      sum = ops.sum_squares(args, result.scale);
    }
  }
  const double root = std::sqrt(sum / inputs.weight_sum);
  result.value = root / result.scale;
  result.is_infinite = std::isinf(root);
  // No residual at all: gradient 0. NaN stays NaN.
  result.factor = root == 0.0 ? 0.0 : 1.0 / (root * inputs.weight_sum);
  return result;
}

size_t RowOf(const char* name) {
  size_t row = 0;
  size_t num_parameters = 0;
  FindByName(Losses(), name, &row, &num_parameters);
  return row;
}

template <class T>
Ref RootMeanSquareVerb(const Inputs& inputs, PyObject* out, bool want_value, bool want_grad) {
  const LossOps<T>& ops = OfType<T>(Losses());
  LossArgs<T> args = ArgsOf<T>(inputs);
  RootMeanSquare found;
  if (!want_grad) {
    {
      const ReleaseGil release(args.n);
      found = RootMeanSquareOf(inputs, ops, args);
    }
    return Ref::Check(PyFloat_FromDouble(found.value));
  }
  Output grad = inputs.NewOutput(out);
  args.grad = grad.data<T>();
  {
    const ReleaseGil release(args.n);
    found = RootMeanSquareOf(inputs, ops, args);
    if (found.is_infinite && ops.infinite_residuals(args, inputs.weight_sum)) {
    } else if (found.factor == 0.0) {
      std::memset(args.grad, 0, args.n * sizeof(T));
    } else if (found.scale == 1.0 && found.factor > 1e-30 && found.factor < 1e30 && found.value < 1e15) {
      // No residual overflows, and the factor is normal: the gradient is HalfSquaredError's, in T.
      static const size_t row = RowOf("half_squared_error");
      args.scale = found.factor;
      args.check = false;
      ops.run(Losses().rows[row], LossPass::kGrad, nullptr, args);
    } else {
      ops.residuals(args, found.scale, found.factor);
    }
  }
  const Ref gradient = grad.Finish();
  if (!want_value) return Ref::Borrow(gradient.get());
  const Ref value = Ref::Check(PyFloat_FromDouble(found.value));
  return Ref::Check(PyTuple_Pack(2, value.get(), gradient.get()));
}

Ref RootMeanSquareVerb(PyObject* const* args, bool want_value, bool want_grad) {
  if (AsReduction(args[3]) != Reduction::kMean) {
    Raise(PyExc_ValueError, "reduction is %R; root_mean_squared_error has \"mean\" only: it is the root of a mean",
          args[3]);
  }
  PyObject* out = want_grad ? args[4] : nullptr;
  const Inputs inputs(args[0], args[1], args[2], out, true);
  return inputs.typenum() == NPY_FLOAT32 ? RootMeanSquareVerb<float>(inputs, out, want_value, want_grad)
                                         : RootMeanSquareVerb<double>(inputs, out, want_value, want_grad);
}

PyObject* RootValue(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_value", nargs, 4, 4);
    Self(self);
    return RootMeanSquareVerb(args, true, false);
  });
}

PyObject* RootGradient(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_gradient", nargs, 5, 5);
    Self(self);
    return RootMeanSquareVerb(args, false, true);
  });
}

PyObject* RootValueAndGrad(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("_value_and_grad", nargs, 5, 5);
    Self(self);
    return RootMeanSquareVerb(args, true, true);
  });
}

PyObject* RootGradAndHess(PyObject*, PyObject* const*, Py_ssize_t) {
  return Guard([]() -> Ref {
    Raise(PyExc_TypeError,
          "root_mean_squared_error has no derivatives per sample: it is not a sum over samples; "
          "squared_error has the same minimum");
  });
}

// _bind(name, parameters, /): there is nothing to look up, the type is the formula.
PyObject* RootBind(PyObject* self, PyObject* const*, Py_ssize_t) {
  reinterpret_cast<Formula*>(self)->row = 0;
  Py_RETURN_NONE;
}

// --------------------------------------------------------------------------------- entropies, as plain functions

// A view with the axis last.
Ref AxisLast(const Ref& array, int axis) {
  const int ndim = PyArray_NDIM(array.array());
  npy_intp order[NPY_MAXDIMS];
  for (int i = 0; i < ndim - 1; ++i) order[i] = i < axis ? i : i + 1;
  order[ndim - 1] = axis;
  PyArray_Dims permutation = {order, ndim};
  return Ref::Check(PyArray_Transpose(array.array(), &permutation));
}

const char* Text(PyObject* object) {
  const char* text = PyUnicode_AsUTF8(object);
  if (text == nullptr) throw PythonError();
  return text;
}

template <class T>
Ref SumOverAxis(const Formula& formula, const Inputs& inputs, Output& sums) {
  Output terms = inputs.NewOutput();
  LossArgs<T> args = ArgsOf<T>(inputs);
  args.value = terms.data<T>();
  Run<T>(formula, LossPass::kValue, inputs, args, false);
  {
    const ReleaseGil release(args.n);
    OfType<T>(Losses()).sum_rows(args.value, inputs.rows(), inputs.classes(), sums.data<T>());
  }
  return sums.FinishAsScalarIfZeroDim();
}

// sum_over_axis(loss, target, pred, axis, out, function, target_name, pred_name, /): the loss's terms at default
// parameters, summed over an axis.
PyObject* PySumOverAxis(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("sum_over_axis", nargs, 8, 8);
    Formula formula = {};
    size_t num_parameters = 0;
    FindByName(Losses(), Text(args[0]), &formula.row, &num_parameters);
    const char* target_name = Text(args[6]);
    const char* pred_name = Text(args[7]);
    const Ref given_target = AnyArray(args[1], target_name);
    const Ref given_pred = AnyArray(args[2], pred_name);
    const Py_ssize_t found = AsAxis(args[3]);
    const Ref target = FloatArray(given_target, target_name);
    const Ref pred = FloatArray(given_pred, pred_name);
    CheckSameDtype(target, target_name, pred, pred_name);
    CheckSameShape(target, target_name, pred, pred_name);
    const int ndim = PyArray_NDIM(pred.array());
    if (ndim == 0) Raise(PyExc_ValueError, "%s has shape (); expected at least one dimension", target_name);
    if (found < -ndim || found >= ndim) {
      Raise(PyExc_ValueError, "axis is %zd; expected %d to %d, as %s has shape %s", found, -ndim, ndim - 1, target_name,
            ShapeText(pred.array()).c_str());
    }
    const int axis = static_cast<int>(found < 0 ? found + ndim : found);
    const Ref moved_pred = AxisLast(pred, axis);
    const Ref moved_target = AxisLast(target, axis);
    Inputs inputs(moved_pred.get(), moved_target.get(), Py_None, false, Inputs::OverClasses());
    inputs.pred_name = pred_name;
    inputs.target_name = target_name;
    inputs.function = Text(args[5]);
    inputs.axis = axis;
    Output sums(args[4], "out", ndim - 1, PyArray_DIMS(inputs.shape()), inputs.typenum());
    sums.CheckOverlap(target, target_name, false);
    sums.CheckOverlap(pred, pred_name, false);
    return inputs.typenum() == NPY_FLOAT32 ? SumOverAxis<float>(formula, inputs, sums)
                                           : SumOverAxis<double>(formula, inputs, sums);
  });
}

template <class T>
Ref SelfInformation(const Inputs& inputs, PyObject* out) {
  static const size_t row = RowOf("categorical_cross_entropy");
  Formula formula = {};
  formula.row = row;
  LossArgs<T> args = ArgsOf<T>(inputs);
  Output value(out, "out", PyArray_NDIM(inputs.shape()), PyArray_DIMS(inputs.shape()), inputs.typenum(),
               inputs.fortran);
  value.CheckOverlap(inputs.given.pred, "p");
  args.value = value.data<T>();
  Run<T>(formula, LossPass::kValue, inputs, args, value.is_callers());
  return value.FinishAsScalarIfZeroDim();
}

// self_information(p, out, /): the cross-entropy of what is certain.
PyObject* PySelfInformation(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("self_information", nargs, 2, 2);
    const Ref given = AnyArray(args[0], "p");
    const Ref p = FloatArray(given, "p");
    PyArrayObject* array = p.array();
    const bool fortran = PyArray_IS_F_CONTIGUOUS(array) && !PyArray_IS_C_CONTIGUOUS(array);
    const Ref ones = Ones(PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array), fortran);
    Inputs inputs(p.get(), ones.get(), Py_None, args[1], false);
    inputs.pred_name = "p";
    inputs.function = "self_information";
    return inputs.typenum() == NPY_FLOAT32 ? SelfInformation<float>(inputs, args[1])
                                           : SelfInformation<double>(inputs, args[1]);
  });
}

PyMethodDef root_methods[] = {
    {"_bind", FastCall(RootBind), METH_FASTCALL, nullptr},
    {"_value", FastCall(RootValue), METH_FASTCALL, nullptr},
    {"_gradient", FastCall(RootGradient), METH_FASTCALL, nullptr},
    {"_value_and_grad", FastCall(RootValueAndGrad), METH_FASTCALL, nullptr},
    {"_grad_and_hess", FastCall(RootGradAndHess), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

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
    {"sum_over_axis", FastCall(PySumOverAxis), METH_FASTCALL, nullptr},
    {"self_information", FastCall(PySelfInformation), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

PyTypeObject* loss_type = nullptr;

void RegisterLosses(PyObject* module) {
  loss_type = AddFormulaType(module, "fuseprop._core.Loss", nullptr, New, methods, nullptr);
  AddFormulaType(module, "fuseprop._core.RootMeanSquaredError", loss_type, New, root_methods, nullptr);
  AddFunctions(module, functions);
}

}  // namespace bind
}  // namespace fuseprop
