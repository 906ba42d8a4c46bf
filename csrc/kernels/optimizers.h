// Optimizer updates: one pass over a tensor's parameters, gradient and state, many tensors per call (SPEC 4).

#ifndef FUSEPROP_KERNELS_OPTIMIZERS_H_
#define FUSEPROP_KERNELS_OPTIMIZERS_H_

#include <cstddef>

#include "kernels/tensor_list.h"

namespace fuseprop {

struct UpdateRow {
  const char* name;
  size_t num_states;
  size_t num_hyper;
  // Every gradient is multiplied by `grad_scale` as it is read.
  void (*f32)(const double* hyper, double grad_scale, const TensorList<float>& list);
  void (*f64)(const double* hyper, double grad_scale, const TensorList<double>& list);
};

struct UpdateTable {
  const UpdateRow* rows;
  size_t size;
};

// The table of the active target; every target's has the same rows in the same order.
const UpdateTable& Updates();

// Square root of the sum of the squares of all gradients.
double GlobalNorm(TensorList<float>& list);
double GlobalNorm(TensorList<double>& list);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_OPTIMIZERS_H_
