// Rectifiers whose slopes are data: PReLU, whose slopes are learned, and RReLU, whose slopes are drawn
// (docs/mathematics.md 1).

#ifndef FUSEPROP_KERNELS_ACTIVATIONS_SLOPES_H_
#define FUSEPROP_KERNELS_ACTIVATIONS_SLOPES_H_

#include <cstddef>

namespace fuseprop {

// Element i has the slope slopes[i % channels]: one for all, one per channel (the last axis), or one per element.
// y[i] = x[i] if x[i] > 0 else slope * x[i]; y may be x.
void SlopesForward(const float* x, const float* slopes, size_t channels, size_t n, float* y);
void SlopesForward(const double* x, const double* slopes, size_t channels, size_t n, double* y);

// dx[i] = dy[i] * (1 if x[i] > 0 else slope); dx may be x or dy. If `dslopes` is not null, dslopes[c] = the sum of
// dy[i] x[i] over the elements of channel c with x[i] <= 0, in float64, the same bits on any number of threads.
void SlopesBackward(const float* x, const float* dy, const float* slopes, size_t channels, size_t n, float* dx,
                    double* dslopes);
void SlopesBackward(const double* x, const double* dy, const double* slopes, size_t channels, size_t n, double* dx,
                    double* dslopes);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_ACTIVATIONS_SLOPES_H_
