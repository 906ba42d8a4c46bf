// The extension module: puts the parts together, and refuses a CPU that the core was not compiled for.

#define FUSEPROP_IMPORT_ARRAY
#include "bind/args.h"

#include <pybind11/pybind11.h>

#include "bind/register.h"

namespace py = pybind11;

PYBIND11_MODULE(_core, m) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("sse4.2")) throw py::import_error("fuseprop needs a CPU with SSE4.2 (x86-64-v2)");
#endif
  if (_import_array() < 0) throw py::error_already_set();
  try {
    fuseprop::bind::RegisterSettings(m.ptr());
    fuseprop::bind::RegisterActivations(m.ptr());
    fuseprop::bind::RegisterLosses(m.ptr());
    fuseprop::bind::RegisterLabelLosses(m.ptr());
    fuseprop::bind::RegisterSoftmaxCrossEntropy(m.ptr());
    fuseprop::bind::RegisterLinearCrossEntropy(m.ptr());
    fuseprop::bind::RegisterSoftmax(m.ptr());
    fuseprop::bind::RegisterDropout(m.ptr());
    fuseprop::bind::RegisterElementary(m.ptr());
    fuseprop::bind::RegisterNorms(m.ptr());
    fuseprop::bind::RegisterOps(m.ptr());
    fuseprop::bind::RegisterOptimizers(m.ptr());
    fuseprop::bind::RegisterDense(m.ptr());
    fuseprop::bind::RegisterMachine(m.ptr());
  } catch (const fuseprop::bind::PythonError&) {
    throw py::error_already_set();
  }
}
