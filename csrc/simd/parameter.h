// A formula's parameters in the precision of its kernel.

#ifndef FUSEPROP_SIMD_PARAMETER_H_
#define FUSEPROP_SIMD_PARAMETER_H_

#include <limits>

namespace fuseprop {

// A formula's parameter in T: within T's finite range, and 0 only if it is 0, so that a parameter that T cannot hold
// acts as the nearest one it can.
template <class T>
inline T Parameter(double value) {
  const double largest = static_cast<double>(std::numeric_limits<T>::max());
  const double smallest = static_cast<double>(std::numeric_limits<T>::denorm_min());
  if (value > largest) return std::numeric_limits<T>::max();
  if (value < -largest) return std::numeric_limits<T>::lowest();
  if (value > 0.0 && value < smallest) return std::numeric_limits<T>::denorm_min();
  if (value < 0.0 && value > -smallest) return -std::numeric_limits<T>::denorm_min();
  return static_cast<T>(value);
}

}  // namespace fuseprop

#endif  // FUSEPROP_SIMD_PARAMETER_H_
