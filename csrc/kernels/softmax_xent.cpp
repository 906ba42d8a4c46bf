// Softmax cross-entropy, a block of rows at a time. With e_j = exp(z_j - max), S = sum e_j, p = e / S and k the
// element apart (the label, or the maximum for distributions), rest = sum over j != k of e_j:
//   loss = sum_j a_j (max - z_j) + A log1p(rest + (e_k - 1)), whose terms are all >= 0
//   gradient_j = A p_j - a_j, at k: ((A - a_k) e_k - a_k rest) / S
//   1 - p_j = (S - e_j) / S where p_j > 1/2
// so that nothing cancels where the row is all but decided.

#include "kernels/softmax_xent.h"

#include <algorithm>
#include <atomic>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/softmax_xent.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "kernels/softmax-inl.h"

#ifndef FUSEPROP_KERNELS_SOFTMAX_XENT_CPP_  // this file is read once per target
#define FUSEPROP_KERNELS_SOFTMAX_XENT_CPP_
namespace fuseprop {
namespace {
struct SoftmaxXentFunctions {
  SoftmaxXentResult (*f32)(const SoftmaxXentArgs<float>&);
  SoftmaxXentResult (*f64)(const SoftmaxXentArgs<double>&);
  size_t (*invalid_label)(const void*, LabelKind, size_t, size_t);
  size_t (*invalid_f32)(const float*, size_t, size_t);
  size_t (*invalid_f64)(const double*, size_t, size_t);
};

}  // namespace
}  // namespace fuseprop
#endif  // FUSEPROP_KERNELS_SOFTMAX_XENT_CPP_

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

using softmax::kLongRow;
using softmax::kMaxBlockRows;

// Rows of at most this length have their exponentials on the stack.
constexpr size_t kSmallRow = 1024;

// ------------------------------------------------------------------------------------------------------ labels

// Calls f(pointer of the labels' type).
template <class F>
HWY_INLINE auto WithLabels(const void* labels, LabelKind kind, const F& f) {
  switch (kind) {
    case LabelKind::kInt8:
      return f(static_cast<const int8_t*>(labels));
    case LabelKind::kInt16:
      return f(static_cast<const int16_t*>(labels));
    case LabelKind::kInt32:
      return f(static_cast<const int32_t*>(labels));
    case LabelKind::kUint8:
      return f(static_cast<const uint8_t*>(labels));
    case LabelKind::kUint16:
      return f(static_cast<const uint16_t*>(labels));
    case LabelKind::kUint32:
      return f(static_cast<const uint32_t*>(labels));
    case LabelKind::kUint64:
      return f(static_cast<const uint64_t*>(labels));
    default:
      return f(static_cast<const int64_t*>(labels));
  }
}

size_t FindInvalidLabel(const void* labels, LabelKind kind, size_t rows, size_t classes) {
  return WithLabels(labels, kind, [&](const auto* label) {
    // A negative label becomes a huge number. No early exit: nearly always all are valid.
    const uint64_t limit = classes;
    bool invalid = false;
    HWY_UNROLL(8)
    for (size_t i = 0; i < rows; ++i) invalid |= static_cast<uint64_t>(label[i]) >= limit;
    if (!invalid) return rows;
    size_t row = 0;
    while (static_cast<uint64_t>(label[row]) < limit) ++row;
    return row;
  });
}

template <class T>
size_t FindInvalidDistribution(const T* distribution, size_t rows, size_t classes) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const size_t n = rows * classes;
  std::atomic<size_t> first{n};
  ForEachRange(n, [&](size_t begin, size_t end) HWY_ATTR {
    for (size_t i = begin; i < end; i += lanes) {
      const auto a = LoadPartial(d, distribution + i, HWY_MIN(lanes, end - i));
      const auto valid = hn::And(hn::Ge(a, hn::Zero(d)), hn::Le(a, hn::Set(d, T(1))));
      if (HWY_LIKELY(hn::AllTrue(d, valid))) continue;
      const size_t at = i + static_cast<size_t>(hn::FindFirstTrue(d, hn::Not(valid)));
      size_t seen = first.load(std::memory_order_relaxed);
      while (at < seen && !first.compare_exchange_weak(seen, at, std::memory_order_relaxed)) {
      }
      return;
    }
  });
  return classes == 0 ? rows : first.load(std::memory_order_relaxed) / classes;
}

// -------------------------------------------------------------------------------------------------------- rows

// A block of rows: what is known of them and where their results go.
template <class T>
struct Block {
  size_t begin, end;
  T* grad;  // of the block's first row; null if not wanted
  T* hess;
  T* exps;  // for the exponentials of two rows, if they are to be kept apart from the outputs; else null
  size_t exps_stride;
  // With `exps`, if the gradient by labels is the one output; else null.
  softmax::PendingRow<T>* pending;
  bool stream;  // write the outputs around the caches
  size_t label[kMaxBlockRows];
  HWY_ALIGN softmax::Lane<T> lane[kMaxBlockRows];  // the label again, where it is small
  // loss = base + mass * log1p(rest)
  HWY_ALIGN T base[kMaxBlockRows];
  HWY_ALIGN T mass[kMaxBlockRows];
  HWY_ALIGN T rest[kMaxBlockRows];
};

// Fills in `label`, and `base` with the labels' logits.
template <class T>
HWY_INLINE void ReadLabels(const SoftmaxXentArgs<T>& args, Block<T>& block) {
  const size_t rows = block.end - block.begin;
  WithLabels(args.labels, args.label_kind, [&](const auto* label) {
    const T* x = args.logits + block.begin * args.classes;
    for (size_t r = 0; r < rows; ++r, x += args.classes) {
      block.label[r] = static_cast<size_t>(label[block.begin + r]);
      block.lane[r] = static_cast<softmax::Lane<T>>(block.label[r]);
      block.base[r] = x[block.label[r]];
    }
  });
  // Short rows go in whole groups.
  for (size_t r = rows; r % softmax::ShortRows<T>::kGroup != 0; ++r) {
    block.lane[r] = block.lane[rows - 1];
    block.base[r] = block.base[rows - 1];
  }
}

// max(mass p (1 - p), floor) * weight, given 2^kRaise e, with e = p * sum, and the sum of the exponentials
// without that one which is more than half of it, if there is one.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Hessian(D d, V raised_e, V sum, V others, V mass, V floor, bool has_floor, V weight) {
  using T = hn::TFromD<D>;
  const V inverse = hn::Div(hn::Set(d, T(1)), sum);
  const V e = hn::Mul(raised_e, hn::Set(d, softmax::kLower<T>));
  const V p = hn::Mul(e, inverse);
  const V q = hn::IfThenElse(hn::Gt(e, hn::Mul(sum, hn::Set(d, T(0.5)))), hn::Mul(others, inverse),
                             hn::Sub(hn::Set(d, T(1)), p));
  V h = hn::Mul(hn::Mul(p, q), mass);
  if (has_floor) h = SelectMax(h, floor);  // keeps a NaN
  return hn::Mul(h, weight);
}

// The sum of the e_j that are at most half of `sum`, given 2^kRaise e_j.
template <class T>
HWY_INLINE double SumWithoutLargest(const T* HWY_RESTRICT e, size_t n, T sum) {
  const hn::ScalableTag<T> d;
  const auto half = hn::Set(d, sum * (T(0.5) / softmax::kLower<T>));
  Accumulator<T> others;
  ForEachVector<T>(0, n, [&](size_t i, size_t index, size_t count, auto full) HWY_ATTR {
    const auto v = full ? hn::LoadU(d, e + i) : LoadPartial(d, e + i, count);
    others.Add(index, hn::IfThenZeroElse(hn::Gt(v, half), v));
  });
  return others.Total() * static_cast<double>(softmax::kLower<T>);
}

// sum a_j (max - x_j), and the sum of a_j without j = apart. Returns whether all a_j are in [0, 1].
template <class T>
HWY_INLINE bool DistributionSums(const T* HWY_RESTRICT a, const T* HWY_RESTRICT x, size_t n, T max, size_t apart,
                                 double* base, double* others) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  Accumulator<T> base_sum, others_sum;
  bool valid = true;
  ForEachVector<T>(0, n, [&](size_t i, size_t index, size_t count, auto full) HWY_ATTR {
    const V va = full ? hn::LoadU(d, a + i) : LoadPartial(d, a + i, count);
    const V vx = full ? hn::LoadU(d, x + i) : LoadPartial(d, x + i, count);
    valid &= hn::AllTrue(d, hn::And(hn::Ge(va, hn::Zero(d)), hn::Le(va, hn::Set(d, T(1)))));
    // 0 for a_j = 0, even where x_j is -inf.
    const V term = hn::Mul(va, hn::Sub(hn::Set(d, max), vx));
    base_sum.Add(index, hn::IfThenZeroElse(hn::Eq(va, hn::Zero(d)), term));
    V without = va;
    if (HWY_UNLIKELY(apart - i < count)) {
      without = hn::IfThenZeroElse(softmax::OneLane(d, 0, static_cast<softmax::Lane<T>>(apart - i)), va);
    }
    others_sum.Add(index, without);
  });
  *base = base_sum.Total();
  *others = others_sum.Total();
  return valid;
}

// One row of any length. Returns whether its distribution is valid.
template <class T>
HWY_INLINE bool Row(const SoftmaxXentArgs<T>& args, Block<T>& block, size_t r) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const size_t n = args.classes;
  const size_t row = block.begin + r;
  const T* x = args.logits + row * n;
  const T* a = args.labels != nullptr ? nullptr : args.distribution + row * n;
  T* grad = block.grad != nullptr ? block.grad + r * n : nullptr;
  T* hess = block.hess != nullptr ? block.hess + r * n : nullptr;
  T* e = block.exps != nullptr ? block.exps + row % 2 * block.exps_stride : grad != nullptr ? grad : hess;

  const T max = softmax::RowMax(x, n);
  const size_t apart = a == nullptr ? block.label[r] : softmax::FindFirst(x, n, max);
  const T gap = max - x[apart];
  const T e_apart = softmax::ScalarExp(x[apart] - max);
  double base = gap, a_apart = 1, a_others = 0;
  bool valid = true;
  if (a != nullptr) {
    valid = DistributionSums(a, x, n, max, apart, &base, &a_others);
    a_apart = a[apart];
  }
  const double mass = a_apart + a_others;
  double rest;
  if (e == nullptr) {
    rest = softmax::ExpSum<false>(x, n, max, apart, e);
  } else if (block.pending == nullptr) {
    rest = softmax::ExpSum<true>(x, n, max, apart, e);
  } else {
    rest = softmax::ExpSumOverlapped(x, n, max, apart, e, *block.pending);
  }
  const double sum = rest + e_apart;
  block.base[r] = static_cast<T>(base);
  block.mass[r] = static_cast<T>(mass);
  block.rest[r] = static_cast<T>(rest + (e_apart - 1.0));

  const double weight = args.weight != nullptr ? args.weight[row] : 1.0;
  if (hess != nullptr) {
    const T t_sum = static_cast<T>(sum);
    // An exponential above half of the sum is the maximum, 1.
    const double others = sum >= 2.0 ? 0.0 : e_apart == T(1) ? rest : SumWithoutLargest(e, n, t_sum);
    const V v_sum = hn::Set(d, t_sum);
    const V v_others = hn::Set(d, static_cast<T>(others));
    const V v_mass = hn::Set(d, static_cast<T>(mass * args.hessian_factor));
    const V floor = hn::Set(d, static_cast<T>(args.hess_floor));
    const V v_weight = hn::Set(d, static_cast<T>(weight));
    MapRange([&](auto, V v)
                 HWY_ATTR { return Hessian(d, v, v_sum, v_others, v_mass, floor, args.floor_hess, v_weight); },
             hess, 0, n, block.stream, static_cast<const T*>(e));
  }
  if (grad != nullptr) {
    const double unit = weight * args.scale;
    const T at_apart = static_cast<T>((a_others * e_apart - a_apart * rest) * unit / sum);
    const T t_factor = static_cast<T>(mass * unit / sum);
    if (block.pending != nullptr) {
      block.pending->Start(e, grad, n, t_factor, apart, at_apart, block.stream);
      return valid;
    }
    const V lower = hn::Set(d, softmax::kLower<T>);
    const V factor = hn::Set(d, t_factor);
    if (a == nullptr) {
      MapRange([&](auto, V v) HWY_ATTR { return hn::Mul(hn::Mul(v, lower), factor); }, grad, 0, n, block.stream,
               static_cast<const T*>(e));
    } else {
      const V v_unit = hn::Set(d, static_cast<T>(unit));
      MapRange([&](auto, V v, V va) HWY_ATTR { return hn::MulSub(hn::Mul(v, lower), factor, hn::Mul(va, v_unit)); },
               grad, 0, n, block.stream, static_cast<const T*>(e), a);
    }
    grad[apart] = at_apart;
  }
  return valid;
}

// Rows r ... r + count of a block with labels, count <= ShortRows::kGroup.
template <class T>
HWY_INLINE void ShortRowGroup(const SoftmaxXentArgs<T>& args, const softmax::ShortRows<T>& rows, Block<T>& block,
                              size_t r, size_t count) {
  using Rows = softmax::ShortRows<T>;
  using V = typename Rows::V;
  const typename Rows::D d;
  const size_t n = args.classes;
  const V one = hn::Set(d, T(1));
  const V lower = hn::Set(d, softmax::kLower<T>);
  HWY_ALIGN T e[Rows::kGroup * Rows::kStride];
  HWY_ALIGN T others[Rows::kGroup * Rows::kStride];
  HWY_ALIGN T max[Rows::kGroup];
  const softmax::Lane<T>* label = block.lane + r;
  rows.Load(args.logits + (block.begin + r) * n, count, e);
  const V v_max = rows.Max(e);
  hn::Store(v_max, d, max);
  const V gap = hn::Sub(v_max, hn::Load(d, block.base + r));
  rows.Exp(max, e);
  rows.ForEach(Rows::kGroup, [&](size_t i, size_t part, size_t at) HWY_ATTR {
    const V v = hn::Load(d, e + at);
    hn::Store(hn::IfThenZeroElse(softmax::OneLane(d, part * Rows::kGroup, label[i]), v), d, others + at);
  });
  const V e_label = hn::Mul(softmax::RaisedExp(d, hn::Neg(gap)), lower);
  const V rest = hn::Mul(rows.Sum(others), lower);
  const V sum = hn::Add(rest, e_label);
  hn::Store(gap, d, block.base + r);
  hn::Store(one, d, block.mass + r);
  hn::Store(hn::Add(rest, hn::Sub(e_label, one)), d, block.rest + r);
  const V weight = args.weight != nullptr ? LoadPartial(d, args.weight + block.begin + r, count) : one;

  if (block.grad != nullptr) {
    HWY_ALIGN T factor[Rows::kGroup], at_label[Rows::kGroup];
    const V unit = hn::Mul(weight, hn::Set(d, static_cast<T>(args.scale)));
    hn::Store(hn::Div(unit, sum), d, factor);
    hn::Store(hn::Neg(hn::Div(hn::Mul(rest, unit), sum)), d, at_label);
    rows.ForEach(count, [&](size_t i, size_t part, size_t at) HWY_ATTR {
      const V g = hn::IfThenElse(softmax::OneLane(d, part * Rows::kGroup, label[i]), hn::Set(d, at_label[i]),
                                 hn::Mul(hn::Mul(hn::Load(d, e + at), lower), hn::Set(d, factor[i])));
      StorePartial(g, d, block.grad + (r + i) * n + part * Rows::kGroup, rows.Count(part));
    });
  }
  if (block.hess != nullptr) {
    HWY_ALIGN T sums[Rows::kGroup], rests[Rows::kGroup], weights[Rows::kGroup];
    hn::Store(sum, d, sums);
    hn::Store(weight, d, weights);
    rows.ForEach(Rows::kGroup, [&](size_t i, size_t, size_t at) HWY_ATTR {
      const V v = hn::Load(d, e + at);
      const V half = hn::Set(d, sums[i] * (T(0.5) / softmax::kLower<T>));
      hn::Store(hn::IfThenZeroElse(hn::Gt(v, half), v), d, others + at);
    });
    hn::Store(hn::Mul(rows.Sum(others), lower), d, rests);
    const V mass = hn::Set(d, static_cast<T>(args.hessian_factor));
    const V floor = hn::Set(d, static_cast<T>(args.hess_floor));
    rows.ForEach(count, [&](size_t i, size_t part, size_t at) HWY_ATTR {
      const V h = Hessian(d, hn::Load(d, e + at), hn::Set(d, sums[i]), hn::Set(d, rests[i]), mass, floor,
                          args.floor_hess, hn::Set(d, weights[i]));
      StorePartial(h, d, block.hess + (r + i) * n + part * Rows::kGroup, rows.Count(part));
    });
  }
}

// Sum of the weighted losses of a block; stores them if asked.
template <class T>
HWY_INLINE double Losses(const SoftmaxXentArgs<T>& args, const Block<T>& block) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  Accumulator<T> sum;
  ForEachVector<T>(0, block.end - block.begin, [&](size_t r, size_t index, size_t count, auto full) HWY_ATTR {
    const size_t row = block.begin + r;
    const V log_sum = Log1p(d, hn::Load(d, block.rest + r));
    V loss = hn::MulAdd(hn::Load(d, block.mass + r), log_sum, hn::Load(d, block.base + r));
    if (args.weight != nullptr) loss = hn::Mul(loss, LoadPartial(d, args.weight + row, count));
    if (args.row_value != nullptr) StorePartial(loss, d, args.row_value + row, count);
    sum.Add(index, full ? loss : hn::IfThenElseZero(hn::FirstN(d, count), loss));
  });
  return sum.Total();
}

// A block of rows of any length. A function of its own: with both ways in one, the short rows lose registers.
template <class T>
HWY_NOINLINE size_t AnyRows(const SoftmaxXentArgs<T>& args, Block<T>& block) {
  size_t first_invalid = args.rows;
  for (size_t r = 0; r < block.end - block.begin; ++r) {
    if (!Row(args, block, r)) first_invalid = HWY_MIN(first_invalid, block.begin + r);
  }
  return first_invalid;
}

// Computes a block; returns its first invalid row, or args.rows.
template <class T>
HWY_INLINE size_t BlockRows(const SoftmaxXentArgs<T>& args, Block<T>& block) {
  const size_t rows = block.end - block.begin;
  if (args.labels != nullptr) ReadLabels(args, block);
  if (args.labels != nullptr && args.classes <= softmax::kRowLanes<T>) {
    const softmax::ShortRows<T> short_rows(args.classes);
    for (size_t r = 0; r < rows; r += short_rows.kGroup) {
      ShortRowGroup(args, short_rows, block, r, HWY_MIN(short_rows.kGroup, rows - r));
    }
    return args.rows;
  }
  return AnyRows(args, block);
}

template <class T>
SoftmaxXentResult Run(const SoftmaxXentArgs<T>& args) {
  const size_t n = args.classes;
  SoftmaxXentResult result;
  result.first_invalid_row = args.rows;
  if (args.labels != nullptr) {
    result.first_invalid_row = FindInvalidLabel(args.labels, args.label_kind, args.rows, n);
  } else if (args.check_first) {
    result.first_invalid_row = FindInvalidDistribution(args.distribution, args.rows, n);
  }
  if (result.first_invalid_row < args.rows) return result;
  if (n == 0) {
    if (args.row_value != nullptr) std::fill_n(args.row_value, args.rows, T(0));
    return result;
  }

  const size_t outputs = (args.grad != nullptr) + size_t{args.hess != nullptr};
  const bool stream = args.grad != args.logits && outputs * args.rows * n * sizeof(T) >= kStreamBytes;
  const bool stream_rows = stream && n >= kLongRow;
  const bool stream_blocks = stream && !stream_rows;
  // The exponentials of a row are kept while the next row's are computed.
  const bool overlap = args.grad != nullptr && args.hess == nullptr && args.labels != nullptr && !stream_blocks &&
                       n > softmax::kRowLanes<T>;
  const bool small_exps = overlap && n <= kSmallRow;
  const size_t length = softmax::RowsPerBlock(n);
  const size_t blocks = (args.rows + length - 1) / length;
  const size_t row_stride = (n + 63) / 64 * 64;
  const bool large_exps = (overlap && !small_exps) || stream_rows;
  softmax::Scratch<T> scratch(large_exps ? 2 * row_stride : stream_blocks ? outputs * length * n : 0);
  double one_sum = 0.0;
  std::vector<double> many_sums(blocks > 1 ? blocks : 0);
  double* sums = blocks > 1 ? many_sums.data() : &one_sum;
  std::atomic<size_t> first_invalid{args.rows};

  softmax::ForEachRowRange(args.rows, n, [&](size_t range_begin, size_t range_end) HWY_ATTR {
    typename softmax::Scratch<T>::Use use(scratch);
    softmax::PendingRow<T> pending;
    Block<T> block;
    HWY_ALIGN T small_memory[2 * kSmallRow];
    block.exps = small_exps ? small_memory : large_exps ? use.data() : nullptr;
    block.exps_stride = row_stride;
    block.stream = stream_rows;
    block.pending = overlap ? &pending : nullptr;
    for (size_t begin = range_begin; begin < range_end; begin += length) {
      const size_t end = HWY_MIN(begin + length, range_end);
      block.begin = begin;
      block.end = end;
      T* grad = args.grad != nullptr ? args.grad + begin * n : nullptr;
      T* hess = args.hess != nullptr ? args.hess + begin * n : nullptr;
      block.grad = grad != nullptr && stream_blocks ? use.data() : grad;
      block.hess = hess != nullptr && stream_blocks ? use.data() + (outputs - 1) * length * n : hess;
      const size_t invalid = BlockRows(args, block);
      size_t seen = first_invalid.load(std::memory_order_relaxed);
      while (invalid < seen && !first_invalid.compare_exchange_weak(seen, invalid, std::memory_order_relaxed)) {
      }
      if (stream_blocks && grad != nullptr) StreamOut(block.grad, grad, (end - begin) * n);
      if (stream_blocks && hess != nullptr) StreamOut(block.hess, hess, (end - begin) * n);
      if (args.want_sum || args.row_value != nullptr) sums[begin / length] = Losses(args, block);
    }
    if (overlap) pending.Finish();
    if (stream) hwy::FlushStream();
  });
  result.sum = TreeSum(sums, blocks);
  result.first_invalid_row = first_invalid.load(std::memory_order_relaxed);
  return result;
}

const SoftmaxXentFunctions& SoftmaxXentTable() {
  static constexpr SoftmaxXentFunctions table = {Run<float>, Run<double>, FindInvalidLabel,
                                                 FindInvalidDistribution<float>, FindInvalidDistribution<double>};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(SoftmaxXentTable);

SoftmaxXentResult SoftmaxXent(const SoftmaxXentArgs<float>& args) {
  return FUSEPROP_DISPATCH(SoftmaxXentTable)().f32(args);
}
SoftmaxXentResult SoftmaxXent(const SoftmaxXentArgs<double>& args) {
  return FUSEPROP_DISPATCH(SoftmaxXentTable)().f64(args);
}
size_t FirstInvalidLabel(const void* labels, LabelKind kind, size_t rows, size_t classes) {
  return FUSEPROP_DISPATCH(SoftmaxXentTable)().invalid_label(labels, kind, rows, classes);
}
size_t FirstInvalidDistribution(const float* distribution, size_t rows, size_t classes) {
  return FUSEPROP_DISPATCH(SoftmaxXentTable)().invalid_f32(distribution, rows, classes);
}
size_t FirstInvalidDistribution(const double* distribution, size_t rows, size_t classes) {
  return FUSEPROP_DISPATCH(SoftmaxXentTable)().invalid_f64(distribution, rows, classes);
}
}  // namespace fuseprop
#endif  // HWY_ONCE
