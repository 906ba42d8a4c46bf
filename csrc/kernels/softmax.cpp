// Softmax, log-softmax and log-sum-exp: short rows in groups, longer ones one by one.

#include "kernels/softmax.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/softmax.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "kernels/softmax-inl.h"

#ifndef FUSEPROP_KERNELS_SOFTMAX_CPP_  // this file is read once per target
#define FUSEPROP_KERNELS_SOFTMAX_CPP_
namespace fuseprop {
namespace {
template <class T>
struct SoftmaxFunctions {
  void (*softmax)(const T*, size_t, size_t, T*);
  void (*log_softmax)(const T*, size_t, size_t, T*);
  void (*log_sum_exp)(const T*, size_t, size_t, T*);
};

struct SoftmaxFunctionTable {
  SoftmaxFunctions<float> f32;
  SoftmaxFunctions<double> f64;
};

}  // namespace
}  // namespace fuseprop
#endif  // FUSEPROP_KERNELS_SOFTMAX_CPP_

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

using softmax::kLongRow;

enum class Kind { kSoftmax, kLogSoftmax, kLogSumExp };

// y for one row: an element of it for kLogSumExp.
// With `stream`, around the caches: a softmax through `exps` and `pending`.
template <Kind kKind, class T>
HWY_INLINE void Row(const T* x, size_t n, T* y, bool stream, T* exps, softmax::PendingRow<T>& pending) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const T max = softmax::RowMax(x, n);
  if constexpr (kKind == Kind::kSoftmax) {
    if (stream) {
      const double sum = softmax::ExpSumOverlapped(x, n, max, n, exps, pending);
      pending.Start(exps, y, n, static_cast<T>(1.0 / sum), n, T(0), true);
      return;
    }
    const double sum = softmax::ExpSum<true>(x, n, max, n, y);
    const V factor = hn::Set(d, static_cast<T>(1.0 / sum));
    const V lower = hn::Set(d, softmax::kLower<T>);
    MapRange([&](auto, V v) HWY_ATTR { return hn::Mul(hn::Mul(v, lower), factor); }, y, 0, n, false,
             static_cast<const T*>(y));
    return;
  }
  const size_t apart = softmax::FindFirst(x, n, max);
  // The element apart is the maximum, whose exponential is 1; NaN if the maximum is infinite.
  const double rest = softmax::ExpSum<false>(x, n, max, apart, static_cast<T*>(nullptr)) + (max - max);
  const T log_sum = softmax::ScalarLog1p(static_cast<T>(rest));
  if constexpr (kKind == Kind::kLogSumExp) {
    const bool infinite = std::isinf(max) && std::none_of(x, x + n, [](T v) { return std::isnan(v); });
    *y = infinite ? max : max + log_sum;
  } else {
    const V v_max = hn::Set(d, max);
    const V v_log_sum = hn::Set(d, log_sum);
    MapRange([&](auto, V v) HWY_ATTR { return hn::Sub(hn::Sub(v, v_max), v_log_sum); }, y, 0, n, stream, x);
  }
}

// y for `count` rows, at most ShortRows::kGroup.
template <Kind kKind, class T>
HWY_INLINE void ShortRowGroup(const softmax::ShortRows<T>& rows, const T* x, size_t n, size_t count, T* y) {
  using Rows = softmax::ShortRows<T>;
  using V = typename Rows::V;
  const typename Rows::D d;
  const V one = hn::Set(d, T(1));
  const V lower = hn::Set(d, softmax::kLower<T>);
  HWY_ALIGN T buffer[Rows::kGroup * Rows::kStride];
  HWY_ALIGN T max[Rows::kGroup], result[Rows::kGroup];
  rows.Load(x, count, buffer);
  const V v_max = rows.Max(buffer);
  hn::Store(v_max, d, max);
  if constexpr (kKind == Kind::kSoftmax) {
    rows.Exp(max, buffer);
    hn::Store(hn::Div(one, hn::Mul(rows.Sum(buffer), lower)), d, result);
    rows.ForEach(count, [&](size_t i, size_t part, size_t at) HWY_ATTR {
      const V v = hn::Mul(hn::Mul(hn::Load(d, buffer + at), lower), hn::Set(d, result[i]));
      StorePartial(v, d, y + i * n + part * Rows::kGroup, rows.Count(part));
    });
  } else {
    // The elements that hold the maximum are counted, the exponentials of the others are added.
    HWY_ALIGN T others[Rows::kGroup * Rows::kStride];
    HWY_ALIGN T holders[Rows::kGroup * Rows::kStride];
    rows.ForEach(Rows::kGroup, [&](size_t i, size_t, size_t at) HWY_ATTR {
      const V v = hn::Load(d, buffer + at);
      const V m = hn::Set(d, max[i]);
      const auto holds = hn::Eq(v, m);
      hn::Store(hn::IfThenElseZero(holds, one), d, holders + at);
      hn::Store(hn::IfThenZeroElse(holds, softmax::RaisedExp(d, hn::Sub(v, m))), d, others + at);
    });
    const V rest = hn::Mul(rows.Sum(others), lower);
    const V log_sum = Log1p(d, hn::Add(rest, hn::Sub(rows.Sum(holders), one)));
    if constexpr (kKind == Kind::kLogSumExp) {
      StorePartial(hn::Add(v_max, log_sum), d, y, count);
    } else {
      hn::Store(log_sum, d, result);
      rows.ForEach(count, [&](size_t i, size_t part, size_t at) HWY_ATTR {
        const V v = hn::Sub(hn::Load(d, buffer + at), hn::Set(d, max[i]));
        // inf - inf and -inf - -inf are NaN, but in the elements that hold the maximum alone.
        const V bad = hn::Set(d, max[i] - max[i]);
        StorePartial(hn::Sub(v, hn::Add(hn::Set(d, result[i]), bad)), d, y + i * n + part * Rows::kGroup,
                     rows.Count(part));
      });
    }
  }
}

template <Kind kKind, class T>
void Run(const T* x, size_t rows, size_t n, T* y) {
  constexpr bool kPerRow = kKind == Kind::kLogSumExp;  // one result per row
  if (n == 0) {
    if (kPerRow) std::fill_n(y, rows, softmax::kMinusInf<T>);
    return;
  }
  const bool stream = !kPerRow && x != y && rows * n * sizeof(T) >= kStreamBytes;
  const bool stream_rows = stream && n >= kLongRow;
  const bool stream_blocks = stream && !stream_rows;
  const size_t stride = kPerRow ? 1 : n;
  const size_t length = softmax::RowsPerBlock(n);
  const size_t row_stride = (n + 63) / 64 * 64;
  softmax::Scratch<T> scratch(stream_rows ? 2 * row_stride : stream_blocks ? length * n : 0);
  softmax::ForEachRowRange(rows, n, [&](size_t range_begin, size_t range_end) HWY_ATTR {
    typename softmax::Scratch<T>::Use use(scratch);
    softmax::PendingRow<T> pending;
    for (size_t begin = range_begin; begin < range_end; begin += length) {
      const size_t end = HWY_MIN(begin + length, range_end);
      T* to = stream_blocks ? use.data() : y + begin * stride;
      if (n <= softmax::kRowLanes<T>) {
        const softmax::ShortRows<T> short_rows(n);
        for (size_t row = begin; row < end; row += short_rows.kGroup) {
          const size_t count = HWY_MIN(short_rows.kGroup, end - row);
          ShortRowGroup<kKind>(short_rows, x + row * n, n, count, to + (row - begin) * stride);
        }
      } else {
        for (size_t row = begin; row < end; ++row) {
          T* exps = stream_rows ? use.data() + (row % 2) * row_stride : nullptr;
          Row<kKind>(x + row * n, n, to + (row - begin) * stride, stream_rows, exps, pending);
        }
      }
      if (stream_blocks) StreamOut(to, y + begin * stride, (end - begin) * stride);
    }
    pending.Finish();
    if (stream) hwy::FlushStream();
  });
}

template <class T>
constexpr SoftmaxFunctions<T> Functions() {
  return {Run<Kind::kSoftmax, T>, Run<Kind::kLogSoftmax, T>, Run<Kind::kLogSumExp, T>};
}

const SoftmaxFunctionTable& SoftmaxTable() {
  static constexpr SoftmaxFunctionTable table = {Functions<float>(), Functions<double>()};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(SoftmaxTable);

void Softmax(const float* x, size_t rows, size_t classes, float* y) {
  FUSEPROP_DISPATCH(SoftmaxTable)().f32.softmax(x, rows, classes, y);
}
void Softmax(const double* x, size_t rows, size_t classes, double* y) {
  FUSEPROP_DISPATCH(SoftmaxTable)().f64.softmax(x, rows, classes, y);
}
void LogSoftmax(const float* x, size_t rows, size_t classes, float* y) {
  FUSEPROP_DISPATCH(SoftmaxTable)().f32.log_softmax(x, rows, classes, y);
}
void LogSoftmax(const double* x, size_t rows, size_t classes, double* y) {
  FUSEPROP_DISPATCH(SoftmaxTable)().f64.log_softmax(x, rows, classes, y);
}
void LogSumExp(const float* x, size_t rows, size_t classes, float* y) {
  FUSEPROP_DISPATCH(SoftmaxTable)().f32.log_sum_exp(x, rows, classes, y);
}
void LogSumExp(const double* x, size_t rows, size_t classes, double* y) {
  FUSEPROP_DISPATCH(SoftmaxTable)().f64.log_sum_exp(x, rows, classes, y);
}
}  // namespace fuseprop
#endif  // HWY_ONCE
