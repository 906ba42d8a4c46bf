// Matrix products and the dense layer.

#include <optional>

#include "bind/activations/activations.h"
#include "bind/dense/matrix.h"
#include "bind/register.h"
#include "kernels/dense/dense.h"
#include "kernels/dense/dense_gradient.h"
#include "kernels/dense/matmul.h"

namespace fuseprop {
namespace bind {
namespace {

template <class T>
MatmulArgs<T> Product(const Matrix& a, bool transpose_a, const Matrix& b, bool transpose_b, T* c) {
  MatmulArgs<T> args;
  args.m = static_cast<size_t>(transpose_a ? a.cols : a.rows);
  args.k = static_cast<size_t>(transpose_a ? a.rows : a.cols);
  args.n = static_cast<size_t>(transpose_b ? b.rows : b.cols);
  args.a = Data<T>(a.array);
  args.lda = a.stride;
  args.transpose_a = transpose_a != a.transposed;
  args.b = Data<T>(b.array);
  args.ldb = b.stride;
  args.transpose_b = transpose_b != b.transposed;
  args.c = c;
  args.ldc = args.n;
  return args;
}

template <class T>
void Run(const MatmulArgs<T>& args) {
  const ReleaseGil release(args.m * args.n * args.k / 8);
  Matmul(args);
}

// matmul(a, b, transpose_a, transpose_b, out, /)
PyObject* PyMatmul(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("matmul", nargs, 5, 5);
    const bool transpose_a = AsBool(args[2], "transpose_a");
    const bool transpose_b = AsBool(args[3], "transpose_b");
    const Ref given_a = AnyArray(args[0], "a");
    const Ref given_b = AnyArray(args[1], "b");
    const Matrix a(given_a, "a");
    const Matrix b(given_b, "b");
    CheckSameDtype(a.given, "a", b.given, "b");
    const npy_intp inner_a = transpose_a ? a.rows : a.cols;
    const npy_intp inner_b = transpose_b ? b.cols : b.rows;
    if (inner_a != inner_b) {
      Raise(PyExc_ValueError, "inner dimensions differ: a has shape %s%s, b has shape %s%s", a.Shape().c_str(),
            transpose_a ? " (transposed)" : "", b.Shape().c_str(), transpose_b ? " (transposed)" : "");
    }
    const npy_intp shape[2] = {transpose_a ? a.cols : a.rows, transpose_b ? b.rows : b.cols};
    Output c(args[4], "out", 2, shape, a.typenum());
    c.CheckOverlap(a.given, "a", false);
    c.CheckOverlap(b.given, "b", false);
    if (a.typenum() == NPY_FLOAT32) {
      Run(Product(a, transpose_a, b, transpose_b, c.data<float>()));
    } else {
      Run(Product(a, transpose_a, b, transpose_b, c.data<double>()));
    }
    return c.Finish();
  });
}

template <class T>
Ref PlanOf(size_t m, size_t k, size_t n, bool transpose_a, bool transpose_b, bool accumulate) {
  MatmulArgs<T> args;
  args.m = m;
  args.k = k;
  args.n = n;
  args.transpose_a = transpose_a;
  args.transpose_b = transpose_b;
  args.lda = transpose_a ? m : k;
  args.ldb = transpose_b ? k : n;
  args.accumulate = accumulate;
  const MatmulPlan plan = PlanMatmul(args);
  static const char* const names[] = {"squares", "wide", "in place", "packed"};
  return Ref::Check(Py_BuildValue("{s:s,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n}", "regime",
                                  names[static_cast<size_t>(plan.regime)], "threads", plan.threads, "vectors",
                                  plan.vectors, "mc", plan.mc, "nc", plan.nc, "kc", plan.kc, "row_blocks",
                                  plan.row_blocks, "col_blocks", plan.col_blocks, "scratch", plan.ScratchSize()));
}

// matmul_plan(m, k, n, itemsize, transpose_a, transpose_b, accumulate, /): for tests.
PyObject* PyMatmulPlan(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("matmul_plan", nargs, 7, 7);
    size_t sizes[4];
    for (int i = 0; i < 4; ++i) {
      sizes[i] = PyLong_AsSize_t(args[i]);
      if (PyErr_Occurred() != nullptr) throw PythonError();
      if (sizes[i] == 0) Raise(PyExc_ValueError, "sizes must be positive");
    }
    if (sizes[3] != sizeof(float) && sizes[3] != sizeof(double)) Raise(PyExc_ValueError, "itemsize must be 4 or 8");
    const bool transpose_a = AsBool(args[4], "transpose_a");
    const bool transpose_b = AsBool(args[5], "transpose_b");
    const bool accumulate = AsBool(args[6], "accumulate");
    const auto plan = sizes[3] == sizeof(float) ? PlanOf<float> : PlanOf<double>;
    return plan(sizes[0], sizes[1], sizes[2], transpose_a, transpose_b, accumulate);
  });
}

template <class T>
void RunLinear(const Matrix& x, const Matrix& weight, const Ref& bias, const Formula* formula, T* u, T* y) {
  MatmulArgs<T> args = Product(x, false, weight, false, u);
  args.bias = bias ? Data<T>(bias) : nullptr;
  ActivationEpilogue<T> epilogue = {nullptr, nullptr, u, y};
  if (formula != nullptr) {
    epilogue.ops = &Activations().rows[formula->row].template Ops<T>();
    epilogue.parameters = formula->parameters;
    args.epilogue = &ActivationEpilogue<T>::Run;
    args.context = &epilogue;
  }
  Run(args);
}

// linear(x, weight, bias, activation, preactivation, out, /)
PyObject* Linear(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("linear", nargs, 6, 6);
    const Ref given_x = AnyArray(args[0], "x");
    const Ref given_weight = AnyArray(args[1], "weight");
    const Ref given_bias = OptionalArray(args[2], "bias");
    const Matrix x(given_x, "x");
    const Matrix weight(given_weight, "weight");
    CheckSameDtype(x.given, "x", weight.given, "weight");
    if (x.cols != weight.rows) {
      Raise(PyExc_ValueError, "x has shape %s but weight has shape %s; expected (N, in) and (in, out)",
            x.Shape().c_str(), weight.Shape().c_str());
    }
    Ref bias;
    if (given_bias) {
      bias = Vector(given_bias, "bias", weight.cols, "weight's second dimension");
      CheckSameDtype(x.given, "x", bias, "bias");
    }
    const Formula* formula = AsActivation(args[3], "activation");
    const npy_intp shape[2] = {x.rows, weight.cols};
    Output y(args[5], "out", 2, shape, x.typenum());
    y.CheckOverlap(x.given, "x", false);
    y.CheckOverlap(weight.given, "weight", false);
    y.CheckOverlap(bias, "bias", false);
    if (args[4] == Py_None || formula == nullptr) {
      if (args[4] != Py_None) Raise(PyExc_ValueError, "preactivation is the result itself without an activation");
      if (x.typenum() == NPY_FLOAT32) {
        RunLinear(x, weight, bias, formula, y.data<float>(), y.data<float>());
      } else {
        RunLinear(x, weight, bias, formula, y.data<double>(), y.data<double>());
      }
      return y.Finish();
    }
    const bool return_u = args[4] == Py_True;
    Output u(return_u ? nullptr : args[4], "preactivation", 2, shape, x.typenum());
    u.CheckOverlap(x.given, "x", false);
    u.CheckOverlap(weight.given, "weight", false);
    u.CheckOverlap(bias, "bias", false);
    u.CheckOverlap(y.result(), "out", false);
    if (x.typenum() == NPY_FLOAT32) {
      RunLinear(x, weight, bias, formula, u.data<float>(), y.data<float>());
    } else {
      RunLinear(x, weight, bias, formula, u.data<double>(), y.data<double>());
    }
    const Ref u_array = u.Finish();
    Ref y_array = y.Finish();
    return return_u ? Ref::Check(PyTuple_Pack(2, y_array.get(), u_array.get())) : std::move(y_array);
  });
}

// What becomes du, the gradient at the pre-activation: dy in rows, or dy f'(u).
struct GradientSource {
  Ref dy;
  size_t stride = 0;
  const Formula* formula = nullptr;  // f, or null
  Ref u;
};

// outputs: dx, dweight, dbias, as far as they are wanted. With a formula, du is an array that receives dy f'(u).
template <class T>
void RunLinearBackward(const Matrix& x, const Matrix& weight, const GradientSource& source, const Matrix& du,
                       std::optional<Output>* outputs, bool accumulate) {
  if (source.formula != nullptr || outputs[2]) {
    OutputGradient<T> args;
    args.m = static_cast<size_t>(du.rows);
    args.n = static_cast<size_t>(du.cols);
    args.dy = Data<T>(source.dy);
    args.stride = source.stride;
    if (source.formula != nullptr) {
      args.activation = &Activations().rows[source.formula->row].template Ops<T>();
      args.parameters = source.formula->parameters;
      args.u = Data<T>(source.u);
      args.du = Data<T>(du.array);
    }
    args.sums = outputs[2] ? outputs[2]->data<T>() : nullptr;
    args.accumulate = accumulate;
    const ReleaseGil release(args.m * args.n);
    FinishGradient(args);
  }
  if (outputs[1]) {
    MatmulArgs<T> args = Product(x, true, du, false, outputs[1]->data<T>());
    args.accumulate = accumulate;
    Run(args);
  }
  if (outputs[0]) Run(Product(du, false, weight, true, outputs[0]->data<T>()));
}

// linear_backward(x, weight, du, dx, dweight, dbias, accumulate, activation=None, preactivation=None, /)
PyObject* LinearBackward(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("linear_backward", nargs, 7, 9);
    const Ref given_x = AnyArray(args[0], "x");
    const Ref given_weight = AnyArray(args[1], "weight");
    const Ref given_dy = AnyArray(args[2], "du");
    const bool accumulate = AsBool(args[6], "accumulate");
    const Ref given_u = OptionalArray(nargs > 8 ? args[8] : Py_None, "preactivation");
    const Matrix x(given_x, "x");
    const Matrix weight(given_weight, "weight");
    const Matrix dy(given_dy, "du");
    CheckSameDtype(x.given, "x", weight.given, "weight");
    CheckSameDtype(x.given, "x", dy.given, "du");
    if (x.cols != weight.rows || dy.rows != x.rows || dy.cols != weight.cols) {
      Raise(PyExc_ValueError,
            "x has shape %s, weight has shape %s and du has shape %s; expected (N, in), (in, out) and (N, out)",
            x.Shape().c_str(), weight.Shape().c_str(), dy.Shape().c_str());
    }
    GradientSource source;
    source.formula = nargs > 7 ? AsActivation(args[7], "activation") : nullptr;
    if ((source.formula == nullptr) != !given_u) {
      Raise(PyExc_ValueError, "%s; expected both or neither",
            source.formula == nullptr ? "preactivation is given without an activation"
                                      : "activation is given without its preactivation");
    }
    std::optional<Output> new_du;
    if (source.formula != nullptr) {
      const Ref u = FloatArray(given_u, "preactivation");
      CheckSameDtype(x.given, "x", u, "preactivation");
      CheckSameShape(dy.given, "du", u, "preactivation");
      source.u = COrdered(u);
      new_du.emplace(2, PyArray_DIMS(dy.given.array()), x.typenum());
    }
    const npy_intp shapes[3][2] = {{x.rows, x.cols}, {weight.rows, weight.cols}, {weight.cols, 0}};
    static const char* const names[3] = {"dx", "dweight", "dbias"};
    // An array to write, None for a new one, or False if it is not wanted.
    std::optional<Output> outputs[3];
    for (int i = 0; i < 3; ++i) {
      if (args[3 + i] == Py_False) continue;
      if (accumulate && i > 0 && args[3 + i] == Py_None) {
        Raise(PyExc_ValueError, "accumulate needs an array to add to; %s is None", names[i]);
      }
      outputs[i].emplace(args[3 + i], names[i], i == 2 ? 1 : 2, shapes[i], x.typenum());
      if (accumulate) outputs[i]->Load();
      outputs[i]->CheckOverlap(x.given, "x", false);
      outputs[i]->CheckOverlap(weight.given, "weight", false);
      outputs[i]->CheckOverlap(dy.given, "du", false);
      outputs[i]->CheckOverlap(source.u, "preactivation", false);
      for (int j = 0; j < i; ++j) {
        if (outputs[j]) outputs[i]->CheckOverlap(outputs[j]->result(), names[j], false);
      }
    }
    const bool in_rows = dy.transposed || new_du;
    source.dy = in_rows ? COrdered(dy.array) : Ref::Borrow(dy.array.get());
    source.stride = in_rows ? static_cast<size_t>(dy.cols) : dy.stride;
    std::optional<Matrix> fresh;
    if (new_du) fresh.emplace(new_du->result(), "du");
    const Matrix& du = fresh ? *fresh : dy;
    if (x.typenum() == NPY_FLOAT32) {
      RunLinearBackward<float>(x, weight, source, du, outputs, accumulate);
    } else {
      RunLinearBackward<double>(x, weight, source, du, outputs, accumulate);
    }
    Ref results[3];
    for (int i = 0; i < 3; ++i) results[i] = outputs[i] ? outputs[i]->Finish() : Ref::Borrow(Py_None);
    return Ref::Check(PyTuple_Pack(3, results[0].get(), results[1].get(), results[2].get()));
  });
}

PyMethodDef functions[] = {
    {"matmul", FastCall(PyMatmul), METH_FASTCALL, nullptr},
    {"matmul_plan", FastCall(PyMatmulPlan), METH_FASTCALL, nullptr},
    {"linear", FastCall(Linear), METH_FASTCALL, nullptr},
    {"linear_backward", FastCall(LinearBackward), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void RegisterOps(PyObject* module) { AddFunctions(module, functions); }

}  // namespace bind
}  // namespace fuseprop
