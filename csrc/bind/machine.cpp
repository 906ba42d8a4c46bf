// The machine's own limits, for the benchmarks.

#include "kernels/machine.h"

#include <pybind11/pybind11.h>

#include "bind/register.h"

namespace py = pybind11;

namespace fuseprop {
namespace bind {
namespace {

double FmaPeak(double seconds, int threads, const std::string& dtype) {
  if (!(seconds > 0.0 && seconds <= 60.0)) throw py::value_error("seconds must be above 0 and at most 60");
  if (threads < 1 || threads > 1024) throw py::value_error("threads must be 1 to 1024");
  if (dtype != "float32" && dtype != "float64") throw py::value_error("dtype must be float32 or float64");
  const py::gil_scoped_release release;
  return dtype == "float32" ? FmaPeakFloat(seconds, threads) : FmaPeakDouble(seconds, threads);
}

// nt_copy(dst, src, /)
PyObject* NtCopy(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return Guard([&] {
    CheckNumArgs("nt_copy", nargs, 2, 2);
    const Ref given = AnyArray(args[1], "src");
    const Ref src = FloatArray(given, "src");
    PyArrayObject* array = src.array();
    if (!PyArray_IS_C_CONTIGUOUS(array)) Raise(PyExc_ValueError, "src is not C-contiguous");
    Output dst(args[0], "dst", PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array));
    dst.CheckOverlap(src, "src", false);
    {
      const auto bytes = static_cast<size_t>(PyArray_NBYTES(array));
      const ReleaseGil release(bytes);
      NonTemporalCopy(dst.data<void>(), PyArray_DATA(array), bytes);
    }
    dst.Finish();
    return Ref::Borrow(Py_None);
  });
}

PyMethodDef functions[] = {
    {"nt_copy", FastCall(NtCopy), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void RegisterMachine(PyObject* module) {
  py::reinterpret_borrow<py::module_>(module).def("fma_peak", FmaPeak, py::arg("seconds"), py::arg("threads"),
                                                  py::arg("dtype") = "float32");
  AddFunctions(module, functions);
}

}  // namespace bind
}  // namespace fuseprop
