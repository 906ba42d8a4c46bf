// Activations along an axis: what the tables of softmax.cpp, gated.cpp and channels.cpp have in common
// (docs/mathematics.md 1).

#ifndef FUSEPROP_KERNELS_ACTIVATIONS_AXIS_ACTIVATIONS_H_
#define FUSEPROP_KERNELS_ACTIVATIONS_AXIS_ACTIVATIONS_H_

#include <cstddef>

namespace fuseprop {

// An array without gaps, seen from one of its axes: (outer, length, inner), row-major.
struct AxisShape {
  size_t outer, length, inner;
};

template <class T>
struct AxisActivationOps {
  // x has the shape given; y has it too, but for its length along the axis, which the row tells.
  void (*forward)(const double* parameters, const AxisShape& shape, const T* x, T* y);
  // dx from dy, which has y's shape. dx may be x, or dy if that has x's shape.
  void (*backward)(const double* parameters, const AxisShape& shape, const T* x, const T* dy, T* dx);
};

struct AxisActivationRow {
  const char* name;
  size_t num_parameters;
  int axis_parameter;  // which parameter is the axis; -1: none, it is the last one
  // y's length is x's * multiply / divide, which must be whole; divide 0 stands for the first parameter. If
  // that is the same, y may be x.
  size_t multiply, divide;
  AxisActivationOps<float> f32;
  AxisActivationOps<double> f64;

  template <class T>
  const AxisActivationOps<T>& Ops() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return f32;
    } else {
      return f64;
    }
  }
};

struct AxisActivationTable {
  const AxisActivationRow* rows;
  size_t size;
};

// The tables of the active target; every target's have the same rows in the same order.
const AxisActivationTable& SoftmaxActivations();  // softmax.cpp
const AxisActivationTable& GatedActivations();    // gated.cpp
const AxisActivationTable& ChannelActivations();  // channels.cpp

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_ACTIVATIONS_AXIS_ACTIVATIONS_H_
