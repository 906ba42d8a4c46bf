// Activations along an axis, of which the result may have another length there.

#include "bind/activations/activations.h"

namespace fuseprop {
namespace bind {
namespace {

int CheckAxis(Py_ssize_t axis, int ndim, const npy_intp* shape) {
  if (ndim == 0) Raise(PyExc_ValueError, "x has shape (); expected at least one dimension");
  if (axis < -ndim || axis >= ndim) {
    Raise(PyExc_ValueError, "axis is %zd; expected %d to %d, as x has shape %s", axis, -ndim, ndim - 1,
          ShapeText(ndim, shape).c_str());
  }
  return static_cast<int>(axis < 0 ? axis + ndim : axis);
}

// The result's shape in place of x's.
void Resize(const AxisActivationRow& row, const double* parameters, int axis, int ndim, npy_intp* shape) {
  const auto divide = static_cast<npy_intp>(row.divide == 0 ? parameters[0] : static_cast<double>(row.divide));
  const npy_intp length = shape[axis];
  if (length % divide != 0) {
    Raise(PyExc_ValueError, "x has shape %s, length %zd along axis %d; %s expects a multiple of %zd",
          ShapeText(ndim, shape).c_str(), length, axis, row.name, divide);
  }
  const auto multiply = static_cast<npy_intp>(row.multiply);
  if (length / divide > NPY_MAX_INTP / multiply) {
    Raise(PyExc_ValueError, "x has shape %s, too large along axis %d", ShapeText(ndim, shape).c_str(), axis);
  }
  shape[axis] = length / divide * multiply;
}

Py_ssize_t AxisOf(const AxisActivationRow& row, const double* parameters) {
  return row.axis_parameter < 0 ? -1 : static_cast<Py_ssize_t>(parameters[row.axis_parameter]);
}

// x and its place in a call.
struct Operand {
  Ref x;
  int ndim, axis, typenum;
  npy_intp* shape;
  npy_intp result_shape[NPY_MAXDIMS];
  bool same_shape;

  Operand(const AxisActivationRow& row, const double* parameters, const Ref& argument, Py_ssize_t given_axis)
      : x(FloatArray(argument, "x")) {
    ndim = PyArray_NDIM(x.array());
    typenum = PyArray_TYPE(x.array());
    shape = PyArray_DIMS(x.array());
    axis = CheckAxis(given_axis, ndim, shape);
    std::copy(shape, shape + ndim, result_shape);
    Resize(row, parameters, axis, ndim, result_shape);
    same_shape = result_shape[axis] == shape[axis];
  }

  // An array in Fortran order is one in C order with the axes reversed.
  AxisShape Seen(bool fortran) const {
    AxisShape seen = {1, static_cast<size_t>(shape[axis]), 1};
    for (int i = 0; i < ndim; ++i) {
      if (i != axis) ((i < axis) != fortran ? seen.outer : seen.inner) *= static_cast<size_t>(shape[i]);
    }
    return seen;
  }
};

class Axis final : public ActivationFamily {
 public:
  explicit Axis(const AxisActivationTable& (*table)()) : table_(table) {}
  const char* structure() const override { return "axis"; }
  bool Find(const char* name, size_t* row, size_t* num_parameters) const override {
    return FindByName(table_(), name, row, num_parameters);
  }
  Ref Names() const override { return bind::Names(table_()); }

  void OutputShape(const Formula& formula, int ndim, npy_intp* shape) const override {
    const AxisActivationRow& row = table_().rows[formula.row];
    Resize(row, formula.parameters, CheckAxis(AxisOf(row, formula.parameters), ndim, shape), ndim, shape);
  }

  Ref Forward(const Formula& formula, const ActivationArgs& args) const override {
    Check(formula, args);
    const AxisActivationRow& row = table_().rows[formula.row];
    return AxisForward(row, formula.parameters, args.x, AxisOf(row, formula.parameters), args.out);
  }

  Ref Backward(const Formula& formula, const ActivationArgs& args) const override {
    Check(formula, args);
    const AxisActivationRow& row = table_().rows[formula.row];
    const Operand operand(row, formula.parameters, args.x, AxisOf(row, formula.parameters));
    const Ref& x = operand.x;
    Ref dy;
    if (args.dy) {
      dy = FloatArray(args.dy, "dy");
      CheckSameDtype(x, "x", dy, "dy");
      const int ndim = PyArray_NDIM(dy.array());
      if (ndim != operand.ndim || !PyArray_CompareLists(PyArray_DIMS(dy.array()), operand.result_shape, ndim)) {
        Raise(PyExc_ValueError, "dy has shape %s but x has shape %s; expected %s, that of the result",
              ShapeText(dy.array()).c_str(), ShapeText(x.array()).c_str(),
              ShapeText(operand.ndim, operand.result_shape).c_str());
      }
    } else {
      dy = Ones(operand.ndim, operand.result_shape, operand.typenum, PyArray_IS_F_CONTIGUOUS(x.array()));
    }
    Ref arrays[2] = {Ref::Borrow(x.get()), Ref::Borrow(dy.get())};
    const bool fortran = ToCommonOrder(arrays, 2, args.out);
    Output dx(args.out, "out", operand.ndim, operand.shape, operand.typenum, fortran);
    dx.CheckOverlap(x, "x");
    dx.CheckOverlap(dy, "dy", operand.same_shape);
    const AxisShape seen = operand.Seen(fortran);
    if (operand.typenum == NPY_FLOAT32) {
      Run(row.f32, formula.parameters, seen, arrays, dx);
    } else {
      Run(row.f64, formula.parameters, seen, arrays, dx);
    }
    return dx.Finish();
  }

 private:
  static void Check(const Formula& formula, const ActivationArgs& args) { RefuseSlopes(formula, args); }

  template <class T>
  static void Run(const AxisActivationOps<T>& ops, const double* parameters, const AxisShape& seen, const Ref* arrays,
                  const Output& dx) {
    const ReleaseGil release(seen.outer * seen.length * seen.inner);
    ops.backward(parameters, seen, Data<T>(arrays[0]), Data<T>(arrays[1]), dx.data<T>());
  }

  const AxisActivationTable& (*table_)();
};

}  // namespace

Ref AxisForward(const AxisActivationRow& row, const double* parameters, const Ref& x_array, Py_ssize_t axis,
                PyObject* out) {
  const Operand operand(row, parameters, x_array, axis);
  Ref x = Ref::Borrow(operand.x.get());
  const bool fortran = ToCommonOrder(&x, 1, out);
  Output y(out, "out", operand.ndim, operand.result_shape, operand.typenum, fortran);
  y.CheckOverlap(operand.x, "x", operand.same_shape);
  const AxisShape seen = operand.Seen(fortran);
  {
    const ReleaseGil release(seen.outer * seen.length * seen.inner);
    if (operand.typenum == NPY_FLOAT32) {
      row.f32.forward(parameters, seen, Data<float>(x), y.data<float>());
    } else {
      row.f64.forward(parameters, seen, Data<double>(x), y.data<double>());
    }
  }
  return y.Finish();
}

const ActivationFamily* const* AxisFamilies(size_t* count) {
  static const Axis softmax(SoftmaxActivations), gated(GatedActivations), channels(ChannelActivations);
  static const ActivationFamily* const families[] = {&softmax, &gated, &channels};
  *count = 3;
  return families;
}

}  // namespace bind
}  // namespace fuseprop
