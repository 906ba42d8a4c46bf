// Dropout with a mask that is computed, not stored: an element's fate is a hash of its place and a key.

#ifndef FUSEPROP_KERNELS_DENSE_DROPOUT_H_
#define FUSEPROP_KERNELS_DENSE_DROPOUT_H_

#include <cstddef>
#include <cstdint>

namespace fuseprop {

// y[i] = x[i] m[i], and 0 where m[i] is, even if x[i] is not finite. m[i] is 0 with probability p (to 2^-32), else
// 1 / (1 - p). With k0 and k1 the low and the high half of the key, m[i] is 0 if
// mix(mix(low(i) ^ k0) + k1 + 0x9e3779b9 high(i)) < p 2^32, where low and high are the halves of i. y may be x.
void Dropout(const float* x, size_t n, double p, uint64_t key, float* y);
void Dropout(const double* x, size_t n, double p, uint64_t key, double* y);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_DENSE_DROPOUT_H_
