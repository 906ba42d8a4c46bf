// The elementary functions of simd/math-inl.h on arrays: exp, expm1, log, log1p, erf.

#ifndef FUSEPROP_KERNELS_ACTIVATIONS_ELEMENTARY_H_
#define FUSEPROP_KERNELS_ACTIVATIONS_ELEMENTARY_H_

#include <cstddef>

namespace fuseprop {

struct ElementaryRow {
  const char* name;
  // y[i] = f(x[i]) on the calling thread; y may be x. With `stream`, the stores go around the caches.
  void (*f32)(const float* x, float* y, size_t n, bool stream);
  void (*f64)(const double* x, double* y, size_t n, bool stream);
};

struct ElementaryTable {
  const ElementaryRow* rows;
  size_t size;
};

// The table of the active target; every target's has the same rows in the same order.
const ElementaryTable& ElementaryFunctions();

// A row's function on all threads.
void Elementary(const ElementaryRow& row, const float* x, float* y, size_t n);
void Elementary(const ElementaryRow& row, const double* x, double* y, size_t n);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_ACTIVATIONS_ELEMENTARY_H_
