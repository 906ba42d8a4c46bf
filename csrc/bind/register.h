// What module.cpp puts together: each file of bind/ adds its part to the module.

#ifndef FUSEPROP_BIND_REGISTER_H_
#define FUSEPROP_BIND_REGISTER_H_

#include "bind/args.h"

namespace fuseprop {
namespace bind {

void RegisterSettings(PyObject* module);
void RegisterActivations(PyObject* module);
void RegisterLosses(PyObject* module);
void RegisterLabelLosses(PyObject* module);
void RegisterSoftmaxCrossEntropy(PyObject* module);
void RegisterLinearCrossEntropy(PyObject* module);
void RegisterSoftmax(PyObject* module);
void RegisterDropout(PyObject* module);
void RegisterElementary(PyObject* module);
void RegisterNorms(PyObject* module);
void RegisterOps(PyObject* module);
void RegisterOptimizers(PyObject* module);
void RegisterDense(PyObject* module);
void RegisterMachine(PyObject* module);

}  // namespace bind
}  // namespace fuseprop

#endif  // FUSEPROP_BIND_REGISTER_H_
