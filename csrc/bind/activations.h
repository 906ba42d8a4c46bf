// Applying a bound activation to raw memory, for the ops that fuse one.

#ifndef FUSEPROP_BIND_ACTIVATIONS_H_
#define FUSEPROP_BIND_ACTIVATIONS_H_

#include "bind/formula.h"
#include "kernels/activations.h"

namespace fuseprop {
namespace bind {

// The Formula behind a Python Activation object; null for None; TypeError for anything else.
const Formula* AsActivation(PyObject* object, const char* name);

template <class T>
void ApplyActivation(const Formula& formula, const T* x, T* y, size_t n) {
  ActivationForward(Activations().rows[formula.row].template Ops<T>(), formula.parameters, x, y, n);
}

}  // namespace bind
}  // namespace fuseprop

#endif  // FUSEPROP_BIND_ACTIVATIONS_H_
