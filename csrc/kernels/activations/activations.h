// Elementwise activations and their backward passes (docs/mathematics.md 1).

#ifndef FUSEPROP_KERNELS_ACTIVATIONS_ACTIVATIONS_H_
#define FUSEPROP_KERNELS_ACTIVATIONS_ACTIVATIONS_H_

#include <cstddef>

namespace fuseprop {

// The loops of one activation, on the calling thread: the only code that is instantiated per activation. With
// `stream`, the stores go around the caches.
template <class T>
struct ActivationOps {
  // y[i] = f(x[i]); y may be x.
  void (*forward)(const double* parameters, const T* x, T* y, size_t n, bool stream);
  // dx[i] = dy[i] * f'(x[i]); dx may be x or dy.
  void (*backward)(const double* parameters, const T* x, const T* dy, T* dx, size_t n, bool stream);
};

struct ActivationRow {
  const char* name;
  size_t num_parameters;
  ActivationOps<float> f32;
  ActivationOps<double> f64;

  template <class T>
  const ActivationOps<T>& Ops() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return f32;
    } else {
      return f64;
    }
  }
};

struct ActivationTable {
  const ActivationRow* rows;
  size_t size;
};

// The table of the active target; every target's has the same rows in the same order.
const ActivationTable& Activations();

// ops.forward and ops.backward on all threads. Without dy, dx[i] = f'(x[i]).
template <class T>
void ActivationForward(const ActivationOps<T>& ops, const double* parameters, const T* x, T* y, size_t n);
template <class T>
void ActivationBackward(const ActivationOps<T>& ops, const double* parameters, const T* x, const T* dy, T* dx,
                        size_t n);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_ACTIVATIONS_ACTIVATIONS_H_
