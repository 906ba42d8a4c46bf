// Softmax, log-softmax and log-sum-exp, forward and backward: short rows in groups, longer ones one by one. Along an
// axis that is not the last, strips of columns are copied to rows and back.

#include "kernels/activations/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/activations/axis_activations.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activations/softmax.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "kernels/activations/softmax-inl.h"

#ifndef FUSEPROP_KERNELS_SOFTMAX_CPP_  // this file is read once per target
#define FUSEPROP_KERNELS_SOFTMAX_CPP_
namespace fuseprop {
namespace {
template <class T>
struct SoftmaxFunctions {
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
      softmax::Differences<T> exponents(max);
      const double sum = softmax::ExpSumOverlapped(x, n, exponents, n, exps, pending);
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

// ---------------------------------------------------------------------------------------------------- backward

// Differences of dy and sums over n of them, times raised exponentials, do not overflow if no dy is beyond the largest
// number times 2^-k. A row that has such ones is computed from dy 2^-k, and its dx multiplied by 2^k.
template <class T>
struct Range {
  HWY_INLINE explicit Range(size_t n) {
    up = sizeof(T) == 4 ? T(8) : T(8) / softmax::kLower<T>;  // the products of floats are formed in float64
    for (; n != 0; n /= 2) up *= T(2);
    down = T(1) / up;
    most = std::numeric_limits<T>::max() * down;
  }
  // Whether one of dy[0, n) is too large.
  HWY_INLINE bool Exceeds(const T* HWY_RESTRICT dy, size_t n) const {
    const hn::ScalableTag<T> d;
    const size_t lanes = hn::Lanes(d);
    hn::Vec<decltype(d)> largest[4];  // so that one maximum need not wait for the other
    for (auto& v : largest) v = hn::Zero(d);
    size_t i = 0;
    for (; i + 4 * lanes <= n; i += 4 * lanes) {
      HWY_UNROLL(4)
      for (size_t k = 0; k < 4; ++k) {
        largest[k] = hn::Max(hn::Abs(hn::LoadU(d, dy + i + k * lanes)), largest[k]);
      }
    }
    for (; i < n; i += lanes) {
      largest[0] = hn::Max(hn::Abs(LoadPartial(d, dy + i, HWY_MIN(lanes, n - i))), largest[0]);
    }
    return Exceeds(d, largest[0]) || Exceeds(d, largest[1]) || Exceeds(d, largest[2]) || Exceeds(d, largest[3]);
  }
  // Yes where a maximum is NaN, which a target's maximum may keep or leave out.
  template <class D>
  HWY_INLINE bool Exceeds(D d, hn::Vec<D> largest) const {
    return !hn::AllTrue(d, hn::Le(largest, hn::Set(d, most)));
  }

  T up, down, most;
};

// to[0, n) = factor from[0, n)
template <class T>
HWY_INLINE void Multiply(const T* from, size_t n, T factor, T* to) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  MapRange([&](D d, V v) HWY_ATTR { return hn::Mul(v, hn::Set(d, factor)); }, to, 0, n, false, from);
}

// dx for one row longer than a short one. `exps` holds n elements; dx may be x or dy.
//
// Softmax: dx_j = p_j (dy_j - sum_k p_k dy_k). Where one p is near 1, that difference cancels: dy is then taken
// relative to its element there, which changes nothing else.
// LogSoftmax: dx_j = dy_j - p_j sum_k dy_k, which cancels likewise at the largest p; with e its sum of exponentials
// relative to it and `rest` that sum without itself, it is (dy rest - sum of the other dy) / e there.
template <Kind kKind, class T>
HWY_INLINE void RowBackward(const T* x, const T* dy, size_t n, T* dx, T* exps, bool stream) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const T max = softmax::RowMax(x, n);
  const size_t apart = softmax::FindFirst(x, n, max);
  const double rest = softmax::ExpSum<true>(x, n, max, apart, exps) + (max - max);
  const double sum = 1.0 + rest;
  const Range<T> range(n);
  const bool scaled = range.Exceeds(dy, n);
  if (HWY_UNLIKELY(scaled)) {
    Multiply(dy, n, range.down, dx);  // in the place of x, of which there are the exponentials
    dy = dx;
    stream = false;
  }
  const T dy_apart = dy[apart];
  const V factor = hn::Set(d, static_cast<T>(1.0 / sum));
  const V lower = hn::Set(d, softmax::kLower<T>);
  const T* from = exps;
  if constexpr (kKind == Kind::kSoftmax) {
    const V shift = hn::Set(d, rest < 1.0 && std::isfinite(dy_apart) ? dy_apart : T(0));
    Accumulator<T> products;
    ForEachVector<T>(0, n, [&](size_t i, size_t index, size_t count, auto full) HWY_ATTR {
      const auto load = [&](const T* at) HWY_ATTR { return full ? hn::LoadU(d, at) : LoadPartial(d, at, count); };
      products.AddProduct(index, load(exps + i), hn::Sub(load(dy + i), shift));
    });
    const double mean = products.Total() * static_cast<double>(softmax::kLower<T>) / sum;
    const V v_mean = hn::Set(d, static_cast<T>(mean));
    const auto f = [&](auto, V e, V v) HWY_ATTR {
      return hn::Mul(hn::Mul(hn::Mul(e, lower), factor), hn::Sub(hn::Sub(v, shift), v_mean));
    };
    MapRange(f, dx, 0, n, stream, from, dy);
  } else {
    const double others = SumRange(dy, 0, apart) + SumRange(dy, apart + 1, n);
    const V total = hn::Set(d, static_cast<T>(others + static_cast<double>(dy_apart)));
    const auto f = [&](auto, V e, V v) HWY_ATTR { return hn::NegMulAdd(hn::Mul(hn::Mul(e, lower), factor), total, v); };
    MapRange(f, dx, 0, n, stream, from, dy);
    dx[apart] = static_cast<T>((static_cast<double>(dy_apart) * rest - others) / sum);
  }
  if (HWY_UNLIKELY(scaled)) Multiply(static_cast<const T*>(dx), n, range.up, dx);
}

// dx for `count` short rows, at most ShortRows::kGroup.
template <Kind kKind, class T>
HWY_INLINE void ShortRowGroupBackward(const softmax::ShortRows<T>& rows, const T* x, const T* dy, size_t n,
                                      size_t count, T* dx) {
  using Rows = softmax::ShortRows<T>;
  using V = typename Rows::V;
  constexpr size_t kSize = Rows::kGroup * Rows::kStride;
  const typename Rows::D d;
  const V one = hn::Set(d, T(1));
  const V lower = hn::Set(d, softmax::kLower<T>);
  HWY_ALIGN T exps[kSize];
  HWY_ALIGN T dys[kSize];
  HWY_ALIGN T terms[kSize];
  HWY_ALIGN T max[Rows::kGroup], factor[Rows::kGroup], shift[Rows::kGroup], mean[Rows::kGroup];
  size_t apart[Rows::kGroup];
  rows.Load(x, count, exps);
  const V v_max = rows.Max(exps);
  hn::Store(v_max, d, max);
  // Where each row has its maximum, for the first time; anywhere if it has a NaN.
  constexpr size_t kNowhere = kSize;
  for (size_t row = 0; row < Rows::kGroup; ++row) apart[row] = kNowhere;
  V largest = hn::Zero(d);
  rows.ForEach(Rows::kGroup, [&](size_t row, size_t part, size_t at) HWY_ATTR {
    const intptr_t lane = hn::FindFirstTrue(d, hn::Eq(hn::Load(d, exps + at), hn::Set(d, max[row])));
    // The maximum of a row of NaNs may be the -inf beyond its end, where dx has no element.
    const bool in_row = lane >= 0 && static_cast<size_t>(lane) < rows.Count(part);
    if (in_row && apart[row] == kNowhere) apart[row] = at + static_cast<size_t>(lane);
    const T* from = dy + HWY_MIN(row, count - 1) * n + part * Rows::kGroup;
    const V v = LoadPartial(d, from, rows.Count(part));
    largest = hn::Max(hn::Abs(v), largest);
    hn::Store(v, d, dys + at);
  });
  const Range<T> range(n);
  bool is_scaled[Rows::kGroup];
  const bool scaled = range.Exceeds(d, largest);
  if (HWY_UNLIKELY(scaled)) {
    for (size_t row = 0; row < Rows::kGroup; ++row) {
      T* const row_dy = dys + row * Rows::kStride;
      is_scaled[row] = range.Exceeds(row_dy, n);
      if (is_scaled[row]) Multiply(static_cast<const T*>(row_dy), n, range.down, row_dy);
    }
  }
  rows.Exp(max, exps);
  // The sum of the exponentials without the one apart, which is 1; NaN if the maximum is infinite.
  T raised_one[Rows::kGroup];
  for (size_t row = 0; row < Rows::kGroup; ++row) {
    if (apart[row] == kNowhere) apart[row] = row * Rows::kStride;
    raised_one[row] = exps[apart[row]];
    exps[apart[row]] = T(0);
  }
  const V rest = hn::Add(hn::Mul(rows.Sum(exps), lower), hn::Sub(v_max, v_max));
  for (size_t row = 0; row < Rows::kGroup; ++row) exps[apart[row]] = raised_one[row];
  const V sum = hn::Add(one, rest);
  hn::Store(hn::Div(one, sum), d, factor);
  const auto probability = [&](size_t row, size_t at) HWY_ATTR {
    return hn::Mul(hn::Mul(hn::Load(d, exps + at), lower), hn::Set(d, factor[row]));
  };
  for (size_t row = 0; row < Rows::kGroup; ++row) shift[row] = dys[apart[row]];
  const V dy_apart = hn::Load(d, shift);
  if constexpr (kKind == Kind::kSoftmax) {
    const V half_or_less = hn::IfThenElseZero(hn::Lt(rest, one), dy_apart);
    hn::Store(hn::IfThenElseZero(hn::IsFinite(half_or_less), half_or_less), d, shift);
    rows.ForEach(Rows::kGroup, [&](size_t row, size_t, size_t at) HWY_ATTR {
      const V v = hn::Sub(hn::Load(d, dys + at), hn::Set(d, shift[row]));
      hn::Store(v, d, dys + at);
      // Beyond the row's end the exponential is 0 or NaN, v is finite; NaN is right.
      hn::Store(hn::Mul(probability(row, at), v), d, terms + at);
    });
    hn::Store(rows.Sum(terms), d, mean);
    rows.ForEach(count, [&](size_t row, size_t part, size_t at) HWY_ATTR {
      const V v = hn::Mul(probability(row, at), hn::Sub(hn::Load(d, dys + at), hn::Set(d, mean[row])));
      StorePartial(v, d, dx + row * n + part * Rows::kGroup, rows.Count(part));
    });
  } else {
    for (size_t row = 0; row < Rows::kGroup; ++row) dys[apart[row]] = T(0);
    const V others = rows.Sum(dys);
    hn::Store(hn::Add(others, dy_apart), d, mean);  // the total
    HWY_ALIGN T at_apart[Rows::kGroup];
    hn::Store(hn::Div(hn::MulSub(dy_apart, rest, others), sum), d, at_apart);
    rows.ForEach(count, [&](size_t row, size_t part, size_t at) HWY_ATTR {
      const V v = hn::NegMulAdd(probability(row, at), hn::Set(d, mean[row]), hn::Load(d, dys + at));
      StorePartial(v, d, dx + row * n + part * Rows::kGroup, rows.Count(part));
    });
    for (size_t row = 0; row < count; ++row) dx[row * n + (apart[row] - row * Rows::kStride)] = at_apart[row];
  }
  if (HWY_LIKELY(!scaled)) return;
  for (size_t row = 0; row < count; ++row) {
    if (is_scaled[row]) Multiply(static_cast<const T*>(dx + row * n), n, range.up, dx + row * n);
  }
}

// dx for rows without threads. `exps` holds n elements if the rows are not short.
template <Kind kKind, class T>
HWY_INLINE void RowsBackward(const T* x, const T* dy, size_t rows, size_t n, T* dx, T* exps, bool stream) {
  if (n > softmax::kRowLanes<T>) {
    for (size_t row = 0; row < rows; ++row) {
      RowBackward<kKind>(x + row * n, dy + row * n, n, dx + row * n, exps, stream);
    }
    return;
  }
  const softmax::ShortRows<T> short_rows(n);
  for (size_t row = 0; row < rows; row += short_rows.kGroup) {
    const size_t count = HWY_MIN(short_rows.kGroup, rows - row);
    ShortRowGroupBackward<kKind>(short_rows, x + row * n, dy + row * n, n, count, dx + row * n);
  }
}

template <Kind kKind, class T>
void RunBackward(const T* x, const T* dy, size_t rows, size_t n, T* dx) {
  const bool stream = x != dx && dy != dx && rows * n * sizeof(T) >= kStreamBytes;
  softmax::Scratch<T> scratch(n > softmax::kRowLanes<T> ? n : 0);
  softmax::ForEachRowRange(rows, n, [&](size_t begin, size_t end) HWY_ATTR {
    typename softmax::Scratch<T>::Use use(scratch);
    RowsBackward<kKind>(x + begin * n, dy + begin * n, end - begin, n, dx + begin * n, use.data(), stream);
  });
}

// ---------------------------------------------------------------------------------------------------- any axis

// Columns of a strip: one cache line.
template <class T>
constexpr size_t kStrip = 64 / sizeof(T);

// Columns of x, `inner` apart along the axis, to rows of n elements, and back.
template <class T>
HWY_INLINE void ColumnsToRows(const T* HWY_RESTRICT x, size_t n, size_t inner, size_t columns, T* HWY_RESTRICT rows) {
  for (size_t j = 0; j < n; ++j) {
    for (size_t c = 0; c < columns; ++c) rows[c * n + j] = x[j * inner + c];
  }
}
template <class T>
HWY_INLINE void RowsToColumns(const T* HWY_RESTRICT rows, size_t n, size_t inner, size_t columns, T* HWY_RESTRICT x) {
  for (size_t j = 0; j < n; ++j) {
    for (size_t c = 0; c < columns; ++c) x[j * inner + c] = rows[c * n + j];
  }
}

// Calls body(offset, columns, memory for kBuffers strips of as many columns) for all strips of columns.
template <size_t kBuffers, class T, class Body>
HWY_INLINE void ForEachStrip(const AxisShape& shape, const Body& body) {
  const size_t strips = (shape.inner + kStrip<T> - 1) / kStrip<T>;
  const size_t size = shape.outer * shape.length * shape.inner;
  softmax::Scratch<T> scratch(kBuffers * HWY_MIN(kStrip<T>, shape.inner) * shape.length);
  const auto task = [&](size_t i) HWY_ATTR {
    typename softmax::Scratch<T>::Use use(scratch);
    const size_t first = i % strips * kStrip<T>;
    body(i / strips * shape.length * shape.inner + first, HWY_MIN(kStrip<T>, shape.inner - first), use.data());
  };
  if (size < kParallelElements) {
    for (size_t i = 0; i < shape.outer * strips; ++i) task(i);
  } else {
    ParallelFor(shape.outer * strips, task);
  }
}

template <Kind kKind, class T>
void Forward(const double*, const AxisShape& shape, const T* x, T* y) {
  const size_t n = shape.length;
  if (shape.inner == 1) {
    Run<kKind>(x, shape.outer, n, y);
    return;
  }
  if (n == 0) return;
  ForEachStrip<1, T>(shape, [&](size_t at, size_t columns, T* rows) HWY_ATTR {
    ColumnsToRows(x + at, n, shape.inner, columns, rows);
    Run<kKind>(static_cast<const T*>(rows), columns, n, rows);
    RowsToColumns(rows, n, shape.inner, columns, y + at);
  });
}

template <Kind kKind, class T>
void Backward(const double*, const AxisShape& shape, const T* x, const T* dy, T* dx) {
  const size_t n = shape.length;
  if (n == 0) return;
  if (shape.inner == 1) {
    RunBackward<kKind>(x, dy, shape.outer, n, dx);
    return;
  }
  ForEachStrip<3, T>(shape, [&](size_t at, size_t columns, T* rows) HWY_ATTR {
    T* dy_rows = rows + columns * n;
    ColumnsToRows(x + at, n, shape.inner, columns, rows);
    ColumnsToRows(dy + at, n, shape.inner, columns, dy_rows);
    RowsBackward<kKind>(static_cast<const T*>(rows), static_cast<const T*>(dy_rows), columns, n, rows,
                        dy_rows + columns * n, false);
    RowsToColumns(rows, n, shape.inner, columns, dx + at);
  });
}

template <Kind kKind>
constexpr AxisActivationRow ActivationRow(const char* name) {
  return {name,
          1,
          0,
          1,
          1,
          {Forward<kKind, float>, Backward<kKind, float>},
          {Forward<kKind, double>, Backward<kKind, double>}};
}

const AxisActivationTable& ActivationTable() {
  static constexpr AxisActivationRow rows[] = {ActivationRow<Kind::kSoftmax>("softmax"),
                                               ActivationRow<Kind::kLogSoftmax>("log_softmax")};
  static constexpr AxisActivationTable table = {rows, sizeof(rows) / sizeof(rows[0])};
  return table;
}

const SoftmaxFunctionTable& SoftmaxTable() {
  static constexpr SoftmaxFunctionTable table = {{Run<Kind::kLogSumExp, float>}, {Run<Kind::kLogSumExp, double>}};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(SoftmaxTable);
FUSEPROP_EXPORT(ActivationTable);

const AxisActivationTable& SoftmaxActivations() { return FUSEPROP_DISPATCH(ActivationTable)(); }

void LogSumExp(const float* x, size_t rows, size_t classes, float* y) {
  FUSEPROP_DISPATCH(SoftmaxTable)().f32.log_sum_exp(x, rows, classes, y);
}
void LogSumExp(const double* x, size_t rows, size_t classes, double* y) {
  FUSEPROP_DISPATCH(SoftmaxTable)().f64.log_sum_exp(x, rows, classes, y);
}
}  // namespace fuseprop
#endif  // HWY_ONCE
