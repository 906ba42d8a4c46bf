// Activations as Python objects: the families that their calls are dispatched to, and applying an elementwise one to
// raw memory, for the ops that fuse it.

#ifndef FUSEPROP_BIND_ACTIVATIONS_ACTIVATIONS_H_
#define FUSEPROP_BIND_ACTIVATIONS_ACTIVATIONS_H_

#include "bind/formula.h"
#include "kernels/activations/activations.h"
#include "kernels/activations/axis_activations.h"

namespace fuseprop {
namespace bind {

// The arguments of a call, taken; null: not given.
struct ActivationArgs {
  Ref x;
  Ref dy;  // not given: ones
  Ref learned;
  Ref slopes;
  PyObject* out = nullptr;  // or None
};

// What activations of one structure share: a table of the core, and how arguments become a call of its kernels.
class ActivationFamily {
 public:
  virtual ~ActivationFamily() = default;
  virtual const char* structure() const = 0;  // as Spec has it
  virtual bool Find(const char* name, size_t* row, size_t* num_parameters) const = 0;
  virtual Ref Names() const = 0;
  // The name of the parameter that this activation can learn, or null.
  virtual const char* Learned(const char* /*name*/) const { return nullptr; }
  // The shape of the result, in place of that of x.
  virtual void OutputShape(const Formula& /*formula*/, int /*ndim*/, npy_intp* /*shape*/) const {}
  virtual Ref Forward(const Formula& formula, const ActivationArgs& args) const = 0;
  virtual Ref Backward(const Formula& formula, const ActivationArgs& args) const = 0;
  // (dx, gradient of the learned parameter)
  virtual Ref BackwardParams(const Formula& formula, const ActivationArgs& args) const;
};

const ActivationFamily& ElementwiseFamily();                 // activations.cpp
const ActivationFamily& SlopesFamily();                      // slopes.cpp
const ActivationFamily* const* AxisFamilies(size_t* count);  // axis_activations.cpp

// The learned parameter that the caller gives as {name: array}. Null if `params` is null or None or the activation
// learns nothing.
Ref LearnedOf(const Formula& formula, PyObject* params);
inline Ref AsLearned(const Formula& formula, PyObject* params) {
  return params == nullptr || params == Py_None ? Ref() : LearnedOf(formula, params);
}
// It, or null, checked: in C order, with `size` elements.
Ref CheckedLearned(const Formula& formula, const Ref& given, npy_intp size);
inline Ref LearnedParameter(const Formula& formula, const Ref& given, npy_intp size) {
  return given ? CheckedLearned(formula, given, size) : Ref();
}
// (dx, {name: array}) from the gradient in float64.
Ref WithParameterGradient(const Formula& formula, const Ref& dx, int typenum, const double* gradient, size_t size);
// Raises if slopes are given to an activation that does not take them.
void RefuseSlopes(const Formula& formula, const ActivationArgs& args);

// One row of an axis table applied to x: what fp.ops shares with the activations.
Ref AxisForward(const AxisActivationRow& row, const double* parameters, const Ref& x, Py_ssize_t axis, PyObject* out);

// Whether an activation's class has a __call__ of its own, which a fused kernel would pass by. TypeError.
bool IsOverridden(PyObject* activation);
[[noreturn]] void RefuseOverride(PyObject* activation, const char* name);

// The Formula behind a Python Activation object that is elementwise and learns nothing; null for None; TypeError for
// anything else.
const Formula* AsActivation(PyObject* object, const char* name);

template <class T>
void ApplyActivation(const Formula& formula, const T* x, T* y, size_t n) {
  ActivationForward(Activations().rows[formula.row].template Ops<T>(), formula.parameters, x, y, n);
}

}  // namespace bind
}  // namespace fuseprop

#endif  // FUSEPROP_BIND_ACTIVATIONS_ACTIVATIONS_H_
