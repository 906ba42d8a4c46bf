// Activations that change the number of channels: CReLU doubles an axis, Maxout divides it.

#include <cmath>
#include <limits>

#include "kernels/activations/axis_activations.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activations/channels.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "kernels/activations/activations-inl.h"
#include "simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

// ------------------------------------------------------------------------------------------------------- CReLU

// y = (ReLU(x), ReLU(-x)) along the axis.
template <class T>
void CReLUForward(const double* parameters, const AxisShape& shape, const T* x, T* y) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const activations::ReLU<D> relu(D(), parameters);
  const size_t n = shape.length * shape.inner;
  const bool stream = shape.outer * n * 2 * sizeof(T) >= kStreamBytes;
  ForEachRowPiece(shape.outer, n, [&](size_t row, size_t begin, size_t end) HWY_ATTR {
    const auto f = [&](D d, V v, V* positive, V* negative) HWY_ATTR {
      *positive = relu(d, v);
      *negative = relu(d, hn::Neg(v));
    };
    T* to = y + 2 * row * n;
    MapPairRange(f, to, to + n, begin, end, stream, x + row * n);
  });
}

// dx = dy0 where x > 0, -dy1 where x < 0; the other one is not looked at.
template <class T>
void CReLUBackward(const double*, const AxisShape& shape, const T* x, const T* dy, T* dx) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const size_t n = shape.length * shape.inner;
  const bool stream = x != dx && shape.outer * n * sizeof(T) >= kStreamBytes;
  ForEachRowPiece(shape.outer, n, [&](size_t row, size_t begin, size_t end) HWY_ATTR {
    const auto f = [&](D d, V v, V dy0, V dy1) HWY_ATTR {
      const V zero = hn::Zero(d);
      const V zero_or_nan = hn::IfThenElse(hn::IsNaN(v), v, zero);
      const V not_right = hn::IfThenElse(hn::Lt(v, zero), hn::Neg(dy1), zero_or_nan);
      return hn::IfThenElse(hn::Gt(v, zero), dy0, not_right);
    };
    const T* from = dy + 2 * row * n;
    MapRange(f, dx + row * n, begin, end, stream, x + row * n, from, from + n);
  });
}

// ------------------------------------------------------------------------------------------------------ Maxout

// The larger of a running maximum and v: the first of equals; NaN once there is one. No rounding anywhere, so
// that scalar code gives the same bits.
template <class V>
HWY_INLINE V MaxOrNaN(V max, V v) {
  return hn::IfThenElse(hn::Or(hn::Lt(max, v), hn::IsNaN(v)), v, max);
}
HWY_INLINE float MaxOrNaN(float max, float v) { return max < v || std::isnan(v) ? v : max; }
HWY_INLINE double MaxOrNaN(double max, double v) { return max < v || std::isnan(v) ? v : max; }

// kPieces vectors from groups of kPieces neighbours, and back.
template <size_t kPieces, class D, class T, class V>
HWY_INLINE void LoadGroups(D d, const T* from, V (&v)[kPieces]) {
  if constexpr (kPieces == 2) {
    hn::LoadInterleaved2(d, from, v[0], v[1]);
  } else if constexpr (kPieces == 3) {
    hn::LoadInterleaved3(d, from, v[0], v[1], v[2]);
  } else {
    hn::LoadInterleaved4(d, from, v[0], v[1], v[2], v[3]);
  }
}
template <size_t kPieces, class D, class T, class V>
HWY_INLINE void StoreGroups(D d, const V (&v)[kPieces], T* to) {
  if constexpr (kPieces == 2) {
    hn::StoreInterleaved2(v[0], v[1], d, to);
  } else if constexpr (kPieces == 3) {
    hn::StoreInterleaved3(v[0], v[1], v[2], d, to);
  } else {
    hn::StoreInterleaved4(v[0], v[1], v[2], v[3], d, to);
  }
}

// Groups [begin, end) of `pieces` neighbours each, one at a time.
template <class T>
HWY_INLINE void GroupsForward(const T* x, size_t pieces, size_t begin, size_t end, T* y) {
  for (size_t i = begin; i < end; ++i) {
    const T* group = x + i * pieces;
    T max = group[0];
    for (size_t k = 1; k < pieces; ++k) max = MaxOrNaN(max, group[k]);
    y[i] = max;
  }
}
template <class T>
HWY_INLINE void GroupsBackward(const T* x, const T* dy, size_t pieces, size_t begin, size_t end, T* dx) {
  for (size_t i = begin; i < end; ++i) {
    const T* group = x + i * pieces;
    T max = group[0];
    size_t first = 0;
    for (size_t k = 1; k < pieces; ++k) {
      first = max < group[k] ? k : first;
      max = MaxOrNaN(max, group[k]);
    }
    const T rest = std::isnan(max) ? max : T(0);
    const T at_first = std::isnan(max) ? max : dy[i];
    for (size_t k = 0; k < pieces; ++k) dx[i * pieces + k] = rest;
    dx[i * pieces + first] = at_first;
  }
}

template <size_t kPieces, class T>
HWY_INLINE void VectorGroupsForward(const T* x, size_t begin, size_t end, T* y) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    hn::Vec<decltype(d)> v[kPieces];
    LoadGroups(d, x + i * kPieces, v);
    HWY_UNROLL(4)
    for (size_t k = 1; k < kPieces; ++k) v[0] = MaxOrNaN(v[0], v[k]);
    hn::StoreU(v[0], d, y + i);
  }
  GroupsForward(x, kPieces, i, end, y);
}
template <size_t kPieces, class T>
HWY_INLINE void VectorGroupsBackward(const T* x, const T* dy, size_t begin, size_t end, T* dx) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  size_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    V v[kPieces];
    LoadGroups(d, x + i * kPieces, v);
    V max = v[0];
    HWY_UNROLL(4)
    for (size_t k = 1; k < kPieces; ++k) max = MaxOrNaN(max, v[k]);
    const auto is_nan = hn::IsNaN(max);
    V left = hn::LoadU(d, dy + i);  // what has not found its place yet
    HWY_UNROLL(4)
    for (size_t k = 0; k < kPieces; ++k) {
      const auto holds = hn::Eq(v[k], max);
      v[k] = hn::IfThenElse(is_nan, max, hn::IfThenElseZero(holds, left));
      left = hn::IfThenZeroElse(holds, left);
    }
    StoreGroups(d, v, dx + i * kPieces);
  }
  GroupsBackward(x, dy, kPieces, i, end, dx);
}

// The pieces are `inner` apart: columns [begin, end) of one group.
template <class T>
HWY_INLINE void ColumnsForward(const T* x, size_t pieces, size_t inner, size_t begin, size_t end, T* y) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  for (size_t j = begin; j < end; j += lanes) {
    const size_t count = HWY_MIN(lanes, end - j);
    auto max = LoadPartial(d, x + j, count);
    for (size_t k = 1; k < pieces; ++k) max = MaxOrNaN(max, LoadPartial(d, x + k * inner + j, count));
    StorePartial(max, d, y + j, count);
  }
}
template <class T>
HWY_INLINE void ColumnsBackward(const T* x, const T* dy, size_t pieces, size_t inner, size_t begin, size_t end, T* dx) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  for (size_t j = begin; j < end; j += lanes) {
    const size_t count = HWY_MIN(lanes, end - j);
    auto max = LoadPartial(d, x + j, count);
    for (size_t k = 1; k < pieces; ++k) max = MaxOrNaN(max, LoadPartial(d, x + k * inner + j, count));
    const auto is_nan = hn::IsNaN(max);
    auto left = LoadPartial(d, dy + j, count);
    for (size_t k = 0; k < pieces; ++k) {
      const auto holds = hn::Eq(LoadPartial(d, x + k * inner + j, count), max);
      const auto v = hn::IfThenElse(is_nan, max, hn::IfThenElseZero(holds, left));
      left = hn::IfThenZeroElse(holds, left);
      StorePartial(v, d, dx + k * inner + j, count);
    }
  }
}

// y = the largest of each group of parameters[0] neighbours along the axis.
template <class T>
void MaxoutForward(const double* parameters, const AxisShape& shape, const T* x, T* y) {
  const auto pieces = static_cast<size_t>(parameters[0]);
  const size_t groups = shape.outer * (shape.length / pieces);
  const size_t inner = shape.inner;
  if (inner != 1) {
    ForEachRowPiece(groups, inner, [&](size_t group, size_t begin, size_t end) HWY_ATTR {
      ColumnsForward(x + group * pieces * inner, pieces, inner, begin, end, y + group * inner);
    });
    return;
  }
  ForEachRange(groups, [&](size_t begin, size_t end) HWY_ATTR {
    if (pieces == 2) {
      VectorGroupsForward<2>(x, begin, end, y);
    } else if (pieces == 3) {
      VectorGroupsForward<3>(x, begin, end, y);
    } else if (pieces == 4) {
      VectorGroupsForward<4>(x, begin, end, y);
    } else {
      GroupsForward(x, pieces, begin, end, y);
    }
  });
}

// dx = dy at the first element that holds the maximum of its group, 0 at the others; NaN throughout a group with
// a NaN.
template <class T>
void MaxoutBackward(const double* parameters, const AxisShape& shape, const T* x, const T* dy, T* dx) {
  const auto pieces = static_cast<size_t>(parameters[0]);
  const size_t groups = shape.outer * (shape.length / pieces);
  const size_t inner = shape.inner;
  if (inner != 1) {
    ForEachRowPiece(groups, inner, [&](size_t group, size_t begin, size_t end) HWY_ATTR {
      const size_t at = group * pieces * inner;
      ColumnsBackward(x + at, dy + group * inner, pieces, inner, begin, end, dx + at);
    });
    return;
  }
  ForEachRange(groups, [&](size_t begin, size_t end) HWY_ATTR {
    if (pieces == 2) {
      VectorGroupsBackward<2>(x, dy, begin, end, dx);
    } else if (pieces == 3) {
      VectorGroupsBackward<3>(x, dy, begin, end, dx);
    } else if (pieces == 4) {
      VectorGroupsBackward<4>(x, dy, begin, end, dx);
    } else {
      GroupsBackward(x, dy, pieces, begin, end, dx);
    }
  });
}

const AxisActivationTable& Table() {
  static constexpr AxisActivationRow rows[] = {
      {"crelu", 1, 0, 2, 1, {CReLUForward<float>, CReLUBackward<float>}, {CReLUForward<double>, CReLUBackward<double>}},
      {"maxout",
       2,
       1,
       1,
       0,
       {MaxoutForward<float>, MaxoutBackward<float>},
       {MaxoutForward<double>, MaxoutBackward<double>}},
  };
  static constexpr AxisActivationTable table = {rows, sizeof(rows) / sizeof(rows[0])};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(Table);

const AxisActivationTable& ChannelActivations() { return FUSEPROP_DISPATCH(Table)(); }
}  // namespace fuseprop
#endif  // HWY_ONCE
