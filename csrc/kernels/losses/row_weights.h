// Weights of any size, brought to where neither they nor their products with losses overflow or vanish.

#ifndef FUSEPROP_KERNELS_LOSSES_ROW_WEIGHTS_H_
#define FUSEPROP_KERNELS_LOSSES_ROW_WEIGHTS_H_

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace fuseprop {

// Whether weights of about this size need no such care. Not if it is 0 or NaN.
inline bool IsModerate(double size) { return std::fabs(size) >= 0x1p-16 && std::fabs(size) <= 0x1p16; }

// out[i] = a(i) b(i) 2^-e for i < n, with the e, which is returned, that brings the largest one to [1/4, 1). The
// product itself need not be within the range of float64.
template <class T, class A, class B>
int NormalisedProducts(size_t n, const A& a, const B& b, T* out) {
  const auto product = [&](size_t i, int* exponent) {
    int of_a = 0, of_b = 0;
    const double mantissa = std::frexp(a(i), &of_a) * std::frexp(b(i), &of_b);
    *exponent = of_a + of_b;
    return mantissa;
  };
  int largest = 0, exponent = 0;
  bool found = false;
  for (size_t i = 0; i < n; ++i) {
    const double mantissa = product(i, &exponent);
    if (mantissa == 0.0 || !std::isfinite(mantissa)) continue;
    largest = found ? std::max(largest, exponent) : exponent;
    found = true;
  }
  for (size_t i = 0; i < n; ++i) {
    const double mantissa = product(i, &exponent);
    out[i] = static_cast<T>(std::ldexp(mantissa, exponent - largest));
  }
  return largest;
}

// Likewise out[i] = a[i] 2^-e.
template <class From, class T>
int Normalised(const From* a, size_t n, T* out) {
  return NormalisedProducts(n, [&](size_t i) { return static_cast<double>(a[i]); }, [](size_t) { return 1.0; }, out);
}

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_LOSSES_ROW_WEIGHTS_H_
