// Optimizer updates: one pass over a tensor's parameters, gradient and state, many tensors per call
// (docs/mathematics.md 4).

#ifndef FUSEPROP_KERNELS_OPTIM_OPTIMIZERS_H_
#define FUSEPROP_KERNELS_OPTIM_OPTIMIZERS_H_

#include <cstddef>

#include "kernels/optim/tensor_list.h"

namespace fuseprop {

// What happens to every gradient and parameter before the rule, whatever the rule is:
// g = scale g + weight_decay p + l1 sign(p);  p -= decay p
struct SharedTerms {
  double scale = 1.0;
  double weight_decay = 0.0;
  double l1 = 0.0;
  double decay = 0.0;
};

// The most numbers a rule takes at a step.
constexpr size_t kMaxNumbers = 8;

struct UpdateRow {
  const char* name;
  size_t num_states;
  size_t num_numbers;
  void (*f32)(double lr, const double* numbers, const SharedTerms& shared, const TensorList<float>& list);
  void (*f64)(double lr, const double* numbers, const SharedTerms& shared, const TensorList<double>& list);
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

#endif  // FUSEPROP_KERNELS_OPTIM_OPTIMIZERS_H_
