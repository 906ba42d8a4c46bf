// Batch and layer normalisation of arrays of rows; the layers of fuseprop.nn bring theirs to that form.

#include "kernels/dense/norms.h"

#include <optional>

#include "bind/register.h"

namespace fuseprop {
namespace bind {
namespace {

// x and dy, and what belongs to each of their columns.
struct Rows {
  Ref x;
  npy_intp rows, n;
  int typenum;

  Rows(const Ref& argument, const char* name) {
    const Ref given = FloatArray(argument, name);
    PyArrayObject* array = given.array();
    if (PyArray_NDIM(array) != 2) {
      Raise(PyExc_ValueError, "%s has shape %s; expected two dimensions", name, ShapeText(array).c_str());
    }
    x = COrdered(given);
    rows = PyArray_DIM(array, 0);
    n = PyArray_DIM(array, 1);
    typenum = PyArray_TYPE(array);
  }
  size_t num_rows() const { return static_cast<size_t>(rows); }
  size_t num_columns() const { return static_cast<size_t>(n); }
  size_t size() const { return num_rows() * num_columns(); }
};

Ref CheckedVector(Ref array, const char* name, npy_intp length) {
  if (PyArray_NDIM(array.array()) != 1 || PyArray_DIM(array.array(), 0) != length) {
    Raise(PyExc_ValueError, "%s has shape %s; expected (%zd,)", name, ShapeText(array.array()).c_str(), length);
  }
  return COrdered(array);
}

// An array (n,) of x's dtype, or nothing for nothing.
Ref ColumnVector(const Ref& given, const char* name, const Rows& x) {
  if (!given) return Ref();
  Ref array = FloatArray(given, name);
  CheckSameDtype(x.x, "x", array, name);
  return CheckedVector(std::move(array), name, x.n);
}

// Statistics, whatever their dtype, as float64.
Ref Statistics(const Ref& given, const char* name, npy_intp length) {
  return CheckedVector(FloatArrayAs(given, name, NPY_FLOAT64), name, length);
}

template <class T>
const T* DataOrNull(const Ref& array) {
  return array ? Data<T>(array) : nullptr;
}

// The y = f(x) of both: `training` is nothing for the layer's, whose statistics are always found.
template <class T>
void Forward(const Rows& x, const Ref& weight, const Ref& bias, double eps, double* mean, double* var, T* y,
             std::optional<bool> training) {
  NormForward<T> args;
  args.x = Data<T>(x.x);
  args.rows = x.num_rows();
  args.n = x.num_columns();
  args.weight = DataOrNull<T>(weight);
  args.bias = DataOrNull<T>(bias);
  args.eps = eps;
  args.mean = mean;
  args.var = var;
  args.y = y;
  // There may be more empty rows than a loop ever gets through. The statistics of a layer's are as many as they are.
  if (x.n == 0 && (training || (mean == nullptr && var == nullptr))) return;
  const ReleaseGil release(x.size());
  if (training) {
    BatchNorm(args, *training);
  } else {
    LayerNorm(args);
  }
}

// batch_norm(x, weight, bias, eps, mean, var, training, out, /)
PyObject* PyBatchNorm(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("batch_norm", nargs, 8, 8);
    const Ref given_x = AnyArray(args[0], "x");
    const Ref given_weight = OptionalArray(args[1], "weight");
    const Ref given_bias = OptionalArray(args[2], "bias");
    const double eps = AsDouble(args[3], "eps");
    const bool training = AsBool(args[6], "training");
    static const char* const names[2] = {"mean", "var"};
    Ref given[2];
    for (int i = 0; i < 2 && !training; ++i) given[i] = AnyArray(args[4 + i], names[i]);
    const Rows x(given_x, "x");
    const Ref weight = ColumnVector(given_weight, "weight", x);
    const Ref bias = ColumnVector(given_bias, "bias", x);
    const npy_intp shape[2] = {x.rows, x.n};
    Output y(args[7], "out", 2, shape, x.typenum);
    y.CheckOverlap(x.x, "x");
    std::optional<Output> outputs[2];
    double* statistics[2];
    for (int i = 0; i < 2; ++i) {
      if (training) {
        outputs[i].emplace(args[4 + i], names[i], 1, shape + 1, NPY_FLOAT64);
        statistics[i] = outputs[i]->data<double>();
      } else {
        given[i] = Statistics(given[i], names[i], x.n);
        statistics[i] = Data<double>(given[i]);
      }
    }
    if (x.typenum == NPY_FLOAT32) {
      Forward(x, weight, bias, eps, statistics[0], statistics[1], y.data<float>(), training);
    } else {
      Forward(x, weight, bias, eps, statistics[0], statistics[1], y.data<double>(), training);
    }
    for (auto& output : outputs) {
      if (output) output->Finish();
    }
    return y.Finish();
  });
}

// layer_norm(x, weight, bias, eps, mean, var, out, /)
PyObject* PyLayerNorm(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("layer_norm", nargs, 7, 7);
    const Ref given_x = AnyArray(args[0], "x");
    const Ref given_weight = OptionalArray(args[1], "weight");
    const Ref given_bias = OptionalArray(args[2], "bias");
    const double eps = AsDouble(args[3], "eps");
    const Rows x(given_x, "x");
    const Ref weight = ColumnVector(given_weight, "weight", x);
    const Ref bias = ColumnVector(given_bias, "bias", x);
    const npy_intp shape[2] = {x.rows, x.n};
    Output y(args[6], "out", 2, shape, x.typenum);
    y.CheckOverlap(x.x, "x");
    std::optional<Output> outputs[2];
    double* statistics[2] = {nullptr, nullptr};
    static const char* const names[2] = {"mean", "var"};
    for (int i = 0; i < 2; ++i) {
      if (args[4 + i] == Py_None) continue;
      outputs[i].emplace(args[4 + i], names[i], 1, shape, NPY_FLOAT64);
      statistics[i] = outputs[i]->data<double>();
    }
    if (x.typenum == NPY_FLOAT32) {
      Forward(x, weight, bias, eps, statistics[0], statistics[1], y.data<float>(), std::nullopt);
    } else {
      Forward(x, weight, bias, eps, statistics[0], statistics[1], y.data<double>(), std::nullopt);
    }
    for (auto& output : outputs) {
      if (output) output->Finish();
    }
    return y.Finish();
  });
}

template <class T>
T* DataOrNull(const std::optional<Output>& output) {
  return output ? output->data<T>() : nullptr;
}

// outputs: dx, dweight, dbias, as far as they are wanted.
template <class T, class Kernel>
void RunBackward(const Kernel& kernel, const Rows& x, const Rows& dy, const Ref& weight, double eps, const Ref& mean,
                 const Ref& var, const std::optional<Output>* outputs, bool accumulate) {
  NormBackward<T> args;
  args.x = Data<T>(x.x);
  args.dy = Data<T>(dy.x);
  args.rows = x.num_rows();
  args.n = x.num_columns();
  args.weight = DataOrNull<T>(weight);
  args.eps = eps;
  args.mean = Data<double>(mean);
  args.var = Data<double>(var);
  args.dx = DataOrNull<T>(outputs[0]);
  args.dweight = DataOrNull<T>(outputs[1]);
  args.dbias = DataOrNull<T>(outputs[2]);
  args.accumulate = accumulate;
  if (x.n == 0) return;  // as in Forward; all outputs are empty
  const ReleaseGil release(x.size());
  kernel(args);
}

// batch_norm_backward and layer_norm_backward(x, dy, weight, eps, mean, var, dx, dweight, dbias, accumulate, /)
template <bool kBatch>
PyObject* Backward(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs(kBatch ? "batch_norm_backward" : "layer_norm_backward", nargs, 10, 10);
    const Ref given_x = AnyArray(args[0], "x");
    const Ref given_dy = AnyArray(args[1], "dy");
    const Ref given_weight = OptionalArray(args[2], "weight");
    const double eps = AsDouble(args[3], "eps");
    const Ref given_mean = AnyArray(args[4], "mean");
    const Ref given_var = AnyArray(args[5], "var");
    const bool accumulate = AsBool(args[9], "accumulate");
    const Rows x(given_x, "x");
    const Rows dy(given_dy, "dy");
    CheckSameDtype(x.x, "x", dy.x, "dy");
    CheckSameShape(x.x, "x", dy.x, "dy");
    const Ref weight = ColumnVector(given_weight, "weight", x);
    const Ref mean = Statistics(given_mean, "mean", kBatch ? x.n : x.rows);
    const Ref var = Statistics(given_var, "var", kBatch ? x.n : x.rows);
    const npy_intp shape[2] = {x.rows, x.n};
    static const char* const names[3] = {"dx", "dweight", "dbias"};
    // An array to write, None for a new one, or False if it is not wanted.
    std::optional<Output> outputs[3];
    for (int i = 0; i < 3; ++i) {
      if (args[6 + i] == Py_False) continue;
      if (accumulate && i > 0 && args[6 + i] == Py_None) {
        Raise(PyExc_ValueError, "accumulate needs an array to add to; %s is None", names[i]);
      }
      outputs[i].emplace(args[6 + i], names[i], i == 0 ? 2 : 1, i == 0 ? shape : shape + 1, x.typenum);
      if (accumulate && i > 0) outputs[i]->Load();
      outputs[i]->CheckOverlap(x.x, "x", i == 0);
      outputs[i]->CheckOverlap(dy.x, "dy", i == 0);
      outputs[i]->CheckOverlap(weight, "weight", false);
      for (int j = 0; j < i; ++j) {
        if (outputs[j]) outputs[i]->CheckOverlap(outputs[j]->result(), names[j], false);
      }
    }
    const auto kernel = [](const auto& a) { kBatch ? BatchNormBackward(a) : LayerNormBackward(a); };
    if (x.typenum == NPY_FLOAT32) {
      RunBackward<float>(kernel, x, dy, weight, eps, mean, var, outputs, accumulate);
    } else {
      RunBackward<double>(kernel, x, dy, weight, eps, mean, var, outputs, accumulate);
    }
    Ref results[3];
    for (int i = 0; i < 3; ++i) results[i] = outputs[i] ? outputs[i]->Finish() : Ref::Borrow(Py_None);
    return Ref::Check(PyTuple_Pack(3, results[0].get(), results[1].get(), results[2].get()));
  });
}

// batch_norm_update(mean, var, rows, momentum, running_mean, running_var, /)
PyObject* PyUpdate(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("batch_norm_update", nargs, 6, 6);
    const Ref given_mean = AnyArray(args[0], "mean");
    const Ref given_var = AnyArray(args[1], "var");
    const double rows = AsDouble(args[2], "rows");
    const double momentum = AsDouble(args[3], "momentum");
    const Ref given_running = AnyArray(args[4], "running_mean");
    const Ref running = FloatArray(given_running, "running_mean");
    const int typenum = PyArray_TYPE(running.array());
    const npy_intp n = PyArray_SIZE(running.array());
    const Ref mean = Statistics(given_mean, "mean", n);
    const Ref var = Statistics(given_var, "var", n);
    Output running_mean(args[4], "running_mean", 1, &n, typenum);
    Output running_var(args[5], "running_var", 1, &n, typenum);
    running_mean.Load();
    running_var.Load();
    const auto update = [&](auto* to_mean, auto* to_var) {
      UpdateRunning(Data<double>(mean), Data<double>(var), static_cast<size_t>(rows), static_cast<size_t>(n), momentum,
                    to_mean, to_var);
    };
    if (typenum == NPY_FLOAT32) {
      update(running_mean.data<float>(), running_var.data<float>());
    } else {
      update(running_mean.data<double>(), running_var.data<double>());
    }
    running_mean.Finish();
    running_var.Finish();
    return Ref::Borrow(Py_None);
  });
}

PyMethodDef functions[] = {
    {"batch_norm_update", FastCall(PyUpdate), METH_FASTCALL, nullptr},
    {"batch_norm", FastCall(PyBatchNorm), METH_FASTCALL, nullptr},
    {"batch_norm_backward", FastCall(Backward<true>), METH_FASTCALL, nullptr},
    {"layer_norm", FastCall(PyLayerNorm), METH_FASTCALL, nullptr},
    {"layer_norm_backward", FastCall(Backward<false>), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void RegisterNorms(PyObject* module) { AddFunctions(module, functions); }

}  // namespace bind
}  // namespace fuseprop
