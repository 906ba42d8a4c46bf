// Backward passes of elementwise activations that learn a parameter of their own (docs/mathematics.md 1).

#ifndef FUSEPROP_KERNELS_ACTIVATIONS_LEARNED_H_
#define FUSEPROP_KERNELS_ACTIVATIONS_LEARNED_H_

#include <cstddef>

namespace fuseprop {

template <class T>
struct LearnedOps {
  // dx[i] = dy[i] * f'(x[i]), which may be x or dy; returns the sum of dy[i] * df(x[i])/dparameter in float64, the
  // same bits on any number of threads.
  double (*backward)(const double* parameters, const T* x, const T* dy, T* dx, size_t n);
};

struct LearnedRow {
  const char* name;       // the activation
  const char* parameter;  // the parameter, which is the first of its parameters
  LearnedOps<float> f32;
  LearnedOps<double> f64;
};

// The activation's row, or null if it does not learn anything.
const LearnedRow* FindLearned(const char* name);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_ACTIVATIONS_LEARNED_H_
