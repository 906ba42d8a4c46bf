// Threads, targets and what the build is made of.

#include <pybind11/pybind11.h>

#include "bind/register.h"
#include "simd/targets.h"
#include "threads/cpus.h"
#include "threads/pool.h"

namespace py = pybind11;

namespace fuseprop {
namespace bind {
namespace {

int CheckedNumThreads(long long n, int least) {
  if (n < least || n > kMaxThreads) {
    throw py::value_error("num_threads is " + std::to_string(n) + "; expected " + std::to_string(least) + " to " +
                          std::to_string(kMaxThreads));
  }
  return static_cast<int>(n);
}

py::list TargetNames(bool (*has)(int)) {
  py::list names;
  for (int target = 0; target < kNumTargets; ++target) {
    if (has(target)) names.append(TargetName(target));
  }
  return names;
}

int TargetByName(const std::string& name) {
  std::string supported;
  for (int target = 0; target < kNumTargets; ++target) {
    if (!TargetSupported(target)) continue;
    if (name == TargetName(target)) return target;
    supported += (supported.empty() ? "" : ", ") + std::string(TargetName(target));
  }
  throw py::value_error("SIMD target '" + name + "' is not supported here; expected one of " + supported);
}

py::dict BuildInfo() {
  py::dict info;
  info["version"] = FUSEPROP_VERSION;
  info["compiled_targets"] = TargetNames(TargetCompiled);
  info["supported_targets"] = TargetNames(TargetSupported);
  info["active_target"] = TargetName(ActiveTarget());
  info["num_threads"] = NumThreads();
  info["compiler"] = FUSEPROP_COMPILER;
  info["highway"] = FUSEPROP_HIGHWAY_VERSION;
  info["pybind11"] = FUSEPROP_PYBIND11_VERSION;
  info["sanitizer"] = FUSEPROP_SANITIZER;
  return info;
}

}  // namespace

void RegisterSettings(PyObject* module) {
  auto m = py::reinterpret_borrow<py::module_>(module);
  m.def("build_info", BuildInfo);
  m.def("get_num_threads", NumThreads);
  m.def("set_num_threads", [](long long n) { SetNumThreads(CheckedNumThreads(n, 1)); }, py::arg("n"));
  m.def(
      "set_thread_num_threads", [](long long n) { return SetThreadNumThreads(CheckedNumThreads(n, 0)); }, py::arg("n"));
  m.def("set_default_target", [](const std::string& name) { SetDefaultTarget(TargetByName(name)); }, py::arg("name"));
  m.def(
      "set_thread_target",
      [](const py::object& name) -> py::object {
        const int previous = SetThreadTarget(name.is_none() ? -1 : TargetByName(name.cast<std::string>()));
        return previous < 0 ? py::object(py::none()) : py::str(TargetName(previous));
      },
      py::arg("name"));
}

}  // namespace bind
}  // namespace fuseprop
