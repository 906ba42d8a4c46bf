// Weights of any size, brought to where neither they nor their products with losses overflow or vanish.

#ifndef FUSEPROP_KERNELS_LOSSES_ROW_WEIGHTS_H_
#define FUSEPROP_KERNELS_LOSSES_ROW_WEIGHTS_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

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

// The largest of abs(a[i]); 0 if there is none. A NaN is not looked at.
template <class T>
double LargestSize(const T* a, size_t n) {
  constexpr size_t kLanes = 16;  // of vectors, which a maximum of one number would not become
  T largest[kLanes] = {};
  const auto take = [&](size_t i, size_t lane) {
    const T size = std::fabs(a[i]);
    largest[lane] = size > largest[lane] ? size : largest[lane];
  };
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) take(i + lane, lane);
  }
  for (; i < n; ++i) take(i, 0);
  return static_cast<double>(*std::max_element(largest, largest + kLanes));
}

// For gradients that are written over an input, after which the sum of the losses cannot be looked for again: no weight
// multiplies a loss to what T has no room for. Where the largest weight, which must be moderate, is above 1, all of
// them are divided by a power of two, which `scale` gets; to `memory`. Returns its exponent, which the sum of the
// losses lacks.
template <class T>
int BoundWeights(const T** weight, size_t n, double* scale, std::vector<T>* memory) {
  const double largest = LargestSize(*weight, n);
  if (!(largest > 1.0)) return 0;
  const int exponent = std::ilogb(largest) + 1;
  const T factor = std::ldexp(T(1), -exponent);
  memory->resize(n);
  std::transform(*weight, *weight + n, memory->begin(), [factor](T w) { return w * factor; });
  *weight = memory->data();
  *scale = std::ldexp(*scale, exponent);
  return exponent;
}

// Whether a sum of n weighted losses can have lost nothing to the ends of T's range.
template <class T>
bool IsWithinRange(double sum, size_t n) {
  return std::isfinite(sum) &&
         std::fabs(sum) >= static_cast<double>(std::numeric_limits<T>::min()) * 64.0 * static_cast<double>(n);
}

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_LOSSES_ROW_WEIGHTS_H_
