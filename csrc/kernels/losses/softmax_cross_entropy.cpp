// Softmax cross-entropy, a block of rows at a time. With e_j = exp(z_j - max), S = sum e_j, p = e / S and k the
// element apart (the label, or the maximum for distributions), rest = sum over j != k of e_j:
//   loss = sum_j a_j (max - z_j) + A log1p(rest + (e_k - 1)), whose terms are all >= 0
//   gradient_j = A p_j - a_j, at k: ((A - a_k) e_k - a_k rest) / S
//   1 - p_j = (S - e_j) / S where p_j > 1/2
// so that nothing cancels where the row is all but decided. Options (docs/mathematics.md 3) change what enters: the
// exponents by the temperature, a_j by smoothing and class weights; with l = logsumexp and k = z_loss, A by A + 2 k l
// in the gradient. They are instances of their own of the same code (kOptions).

#include "kernels/losses/softmax_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "kernels/losses/class_weights.h"
#include "threads/first_of.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/losses/softmax_cross_entropy.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "kernels/activations/softmax-inl.h"

#ifndef FUSEPROP_KERNELS_SOFTMAX_CROSS_ENTROPY_CPP_  // this file is read once per target
#define FUSEPROP_KERNELS_SOFTMAX_CROSS_ENTROPY_CPP_
namespace fuseprop {
namespace {
struct SoftmaxCrossEntropyFunctions {
  SoftmaxCrossEntropyResult (*f32)(const SoftmaxCrossEntropyArgs<float>&);
  SoftmaxCrossEntropyResult (*f64)(const SoftmaxCrossEntropyArgs<double>&);
  SoftmaxCrossEntropyResult (*check_f32)(const SoftmaxCrossEntropyArgs<float>&);
  SoftmaxCrossEntropyResult (*check_f64)(const SoftmaxCrossEntropyArgs<double>&);
  size_t (*kept_rows)(const void*, LabelKind, size_t, int64_t, size_t, size_t, size_t*, int64_t*);
  size_t (*invalid_label)(const void*, LabelKind, size_t, size_t);
  size_t (*invalid_f32)(const float*, size_t, size_t);
  size_t (*invalid_f64)(const double*, size_t, size_t);
};

}  // namespace
}  // namespace fuseprop
#endif  // FUSEPROP_KERNELS_SOFTMAX_CROSS_ENTROPY_CPP_

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

// A label that is going to be an index. Another thread may write to the caller's labels while they are read, so that
// what is checked must be the very value that is used: one load, which the compiler may not repeat.
template <class L>
HWY_INLINE L Once(const L* label) {
  return *static_cast<const volatile L*>(label);
}

// The label as an index. One that has become invalid since all were checked counts as 0.
template <class L>
HWY_INLINE size_t Index(L label, size_t classes) {
  const auto j = static_cast<uint64_t>(label);
  return j < classes ? static_cast<size_t>(j) : 0;
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
    while (row < rows && static_cast<uint64_t>(label[row]) < limit) ++row;
    return row;
  });
}

// Whether a label can be `ignored`, as the labels' type.
template <class L>
bool AsLabel(int64_t ignored, L* as_label) {
  *as_label = static_cast<L>(ignored);
  return static_cast<int64_t>(*as_label) == ignored && (std::is_signed<L>::value || ignored >= 0);
}

// The denominator is the sum of weight * class_weight[label] over the rows that are not ignored; 0 without options.
template <class T>
SoftmaxCrossEntropyResult CheckLabels(const SoftmaxCrossEntropyArgs<T>& args) {
  if (args.options == nullptr) {
    return {0.0, 0.0, FindInvalidLabel(args.labels, args.label_kind, args.rows, args.classes)};
  }
  const SoftmaxCrossEntropyOptions<T>& options = *args.options;
  const double* class_weight = options.exact_class_weight;
  return WithLabels(args.labels, args.label_kind, [&](const auto* label) {
    using L = std::remove_cv_t<std::remove_reference_t<decltype(label[0])>>;
    L ignored = 0;
    const bool ignores = options.ignores && AsLabel(options.ignored_label, &ignored);
    const uint64_t limit = args.classes;
    constexpr size_t kSums = 8;  // so that an addition need not wait for the one before it
    double sums[kSums] = {};
    for (size_t i = 0; i < args.rows; ++i) {
      const L found = Once(label + i);
      if (ignores && found == ignored) continue;
      const auto j = static_cast<uint64_t>(found);
      if (HWY_UNLIKELY(j >= limit)) return SoftmaxCrossEntropyResult{0.0, 0.0, i};
      const double weight = args.weight != nullptr ? args.weight[i] : 1.0;
      sums[i % kSums] += class_weight != nullptr ? weight * class_weight[j] : weight;
    }
    return SoftmaxCrossEntropyResult{0.0, TreeSum(sums, kSums), args.rows};
  });
}

size_t KeptRows(const void* labels, LabelKind kind, size_t rows, int64_t ignored_label, size_t begin, size_t most,
                size_t* kept, int64_t* kept_labels) {
  return WithLabels(labels, kind, [&](const auto* label) {
    using L = std::remove_cv_t<std::remove_reference_t<decltype(label[0])>>;
    L ignored = 0;
    const bool ignores = AsLabel(ignored_label, &ignored);
    size_t count = 0;
    for (size_t row = begin; row < rows && count < most; ++row) {
      const L found = Once(label + row);
      if (ignores && found == ignored) continue;
      kept[count] = row;
      kept_labels[count++] = static_cast<int64_t>(found);
    }
    return count;
  });
}

template <class T>
size_t FindInvalidDistribution(const T* distribution, size_t rows, size_t classes) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const size_t n = rows * classes;
  FirstOf first(n);
  ForEachRange(n, [&](size_t begin, size_t end) HWY_ATTR {
    for (size_t i = begin; i < end; i += lanes) {
      const auto a = LoadPartial(d, distribution + i, HWY_MIN(lanes, end - i));
      const auto valid = hn::And(hn::Ge(a, hn::Zero(d)), hn::Le(a, hn::Set(d, T(1))));
      if (HWY_LIKELY(hn::AllTrue(d, valid))) continue;
      first.Add(i + static_cast<size_t>(hn::FindFirstTrue(d, hn::Not(valid))));
      return;
    }
  });
  return classes == 0 ? rows : first.Get() / classes;
}

// -------------------------------------------------------------------------------------------------------- rows

// The options, as factors of the terms of the loss, its gradient and its Hessian.
struct Terms {
  double kept = 1.0;  // a_j = class_weight_j (kept Y_j + even)
  double even = 0.0;
  double inverse = 1.0;                              // 1 / temperature
  double value = 1.0, grad = 1.0, hess = 1.0;        // of the cross-entropy
  double z_value = 0.0, z_grad = 0.0, z_hess = 0.0;  // of l^2, of its derivatives' 2 l p and 2 (p^2 + l p (1 - p))

  Terms() = default;
  template <class T>
  Terms(const SoftmaxCrossEntropyOptions<T>& options, size_t classes) {
    kept = 1.0 - options.smoothing;
    even = options.smoothing / static_cast<double>(classes);
    inverse = static_cast<double>(Parameter<T>(1.0 / options.temperature));
    const double t = options.temperature;
    value = options.scale_by_temperature ? t * t : 1.0;
    grad = options.scale_by_temperature ? t : inverse;
    hess = options.scale_by_temperature ? 1.0 : inverse * inverse;
    z_value = options.z_loss;
    z_grad = options.z_loss * inverse;
    z_hess = options.z_loss * inverse * inverse;
  }
};

// The target column by column: a_j = w_j (kept q_j + even), where q or w may be null, for zeros and ones. Without
// options, q_j.
template <bool kOptions, class T>
struct Columns {
  const T* q;
  const T* w;
  T kept, even;

  // Given q_j and w_j; what is null is not looked at.
  template <class D, class V = hn::Vec<D>>
  HWY_INLINE V Of(D d, V vq, V vw) const {
    if constexpr (!kOptions) return vq;
    V a = hn::Set(d, even);
    if (q != nullptr) a = hn::MulAdd(vq, hn::Set(d, kept), a);
    if (w != nullptr) a = hn::Mul(a, vw);
    return a;
  }
  HWY_INLINE T At(size_t j) const {
    const hn::ScalableTag<T> d;
    return hn::GetLane(Of(d, hn::Set(d, q != nullptr ? q[j] : T(0)), hn::Set(d, w != nullptr ? w[j] : T(0))));
  }
};

// A block of rows: what is known of them and where their results go.
template <class T>
struct Block {
  const Terms* terms;  // with options
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
  HWY_ALIGN T counts[kMaxBlockRows];  // with options: 0 for a row that is ignored, else 1
  // With options and short rows: the class weights, zeros beyond the row; the weight of each row's label, and the sum
  // of the others.
  HWY_ALIGN T columns[softmax::kRowLanes<T>];
  HWY_ALIGN T at_label[kMaxBlockRows];
  HWY_ALIGN T at_others[kMaxBlockRows];
};

// Fills in `label` (0 for a row that is ignored) and `counts`.
template <class T>
HWY_INLINE void ReadLabelsToIgnore(const SoftmaxCrossEntropyArgs<T>& args, Block<T>& block) {
  const size_t rows = block.end - block.begin;
  std::fill_n(block.counts, rows, T(1));
  if (args.labels == nullptr) return;
  WithLabels(args.labels, args.label_kind, [&](const auto* label) {
    using L = std::remove_cv_t<std::remove_reference_t<decltype(label[0])>>;
    L ignored = 0;
    const bool ignores = args.options->ignores && AsLabel(args.options->ignored_label, &ignored);
    for (size_t r = 0; r < rows; ++r) {
      const L found = Once(label + block.begin + r);
      const bool counts = !ignores || found != ignored;
      block.label[r] = counts ? Index(found, args.classes) : 0;
      block.counts[r] = T(counts);
    }
  });
}

// Fills in `label`, and `base` with the labels' logits.
template <class T>
HWY_INLINE void ReadLabels(const SoftmaxCrossEntropyArgs<T>& args, Block<T>& block) {
  const size_t rows = block.end - block.begin;
  WithLabels(args.labels, args.label_kind, [&](const auto* label) {
    const T* x = args.logits + block.begin * args.classes;
    for (size_t r = 0; r < rows; ++r, x += args.classes) {
      block.label[r] = Index(Once(label + block.begin + r), args.classes);
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

// Fills in what ShortRowGroup needs with options, after ReadLabelsToIgnore.
template <class T>
HWY_INLINE void ReadLabelsWithOptions(const SoftmaxCrossEntropyArgs<T>& args, Block<T>& block) {
  const size_t n = args.classes;
  const size_t rows = block.end - block.begin;
  const double* class_weight = args.options->exact_class_weight;
  double weight[softmax::kRowLanes<T>], others[softmax::kRowLanes<T>];
  std::fill_n(block.columns, softmax::kRowLanes<T>, T(0));
  double sum = 0.0;
  for (size_t j = 0; j < n; ++j) {
    weight[j] = class_weight != nullptr ? class_weight[j] : 1.0;
    block.columns[j] = args.options->class_weight != nullptr ? args.options->class_weight[j] : T(1);
    others[j] = sum;
    sum += weight[j];
  }
  sum = 0.0;
  for (size_t j = n; j-- != 0; sum += weight[j]) others[j] += sum;
  for (size_t r = 0; r < rows; ++r) {
    const size_t label = block.label[r];
    block.lane[r] = static_cast<softmax::Lane<T>>(label);
    block.base[r] = args.logits[(block.begin + r) * n + label];
    block.at_label[r] = static_cast<T>(weight[label]);
    block.at_others[r] = static_cast<T>(others[label]);
  }
  for (size_t r = rows; r % softmax::ShortRows<T>::kGroup != 0; ++r) {
    block.lane[r] = block.lane[rows - 1];
    block.base[r] = block.base[rows - 1];
    block.counts[r] = T(0);
    block.at_label[r] = block.at_others[r] = T(0);
  }
}

// max(mass p (1 - p) + square p^2, floor) * weight, given 2^kRaise e, with e = p * sum, and the sum of the exponentials
// without that one which is more than half of it, if there is one. The square is left out without kOptions.
template <bool kOptions, class D, class V = hn::Vec<D>>
HWY_INLINE V Hessian(D d, V raised_e, V sum, V others, V mass, V square, V floor, bool has_floor, V weight) {
  using T = hn::TFromD<D>;
  const V inverse = hn::Div(hn::Set(d, T(1)), sum);
  const V e = hn::Mul(raised_e, hn::Set(d, softmax::kLower<T>));
  const V p = hn::Mul(e, inverse);
  const V q = hn::IfThenElse(hn::Gt(e, hn::Mul(sum, hn::Set(d, T(0.5)))), hn::Mul(others, inverse),
                             hn::Sub(hn::Set(d, T(1)), p));
  V h = hn::Mul(hn::Mul(p, q), mass);
  if constexpr (kOptions) h = hn::MulAdd(hn::Mul(p, p), square, h);
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

// sum a_j (max - x_j), and the sum of a_j without j = apart. Returns whether all q_j are in [0, 1].
template <bool kOptions, class T>
HWY_INLINE bool TargetSums(const Columns<kOptions, T>& columns, const T* HWY_RESTRICT x, size_t n, T max, size_t apart,
                           double* base, double* others) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  Accumulator<T> base_sum, others_sum;
  bool valid = true;
  ForEachVector<T>(0, n, [&](size_t i, size_t index, size_t count, auto full) HWY_ATTR {
    const auto load = [&](const T* from) HWY_ATTR {
      return from == nullptr ? hn::Zero(d) : full ? hn::LoadU(d, from + i) : LoadPartial(d, from + i, count);
    };
    const V vq = load(columns.q);
    const V vx = load(x);
    valid &= hn::AllTrue(d, hn::And(hn::Ge(vq, hn::Zero(d)), hn::Le(vq, hn::Set(d, T(1)))));
    V va = columns.Of(d, vq, kOptions ? load(columns.w) : vq);
    if constexpr (kOptions && !full) va = hn::IfThenElseZero(hn::FirstN(d, count), va);
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

// Row r of a block where it is ignored.
template <class T>
HWY_INLINE void IgnoredRow(Block<T>& block, size_t r, size_t n) {
  // The next row may take the buffer that the one on its way has.
  if (block.pending != nullptr) block.pending->Finish();
  block.base[r] = block.mass[r] = block.rest[r] = T(0);
  if (block.grad != nullptr) std::fill_n(block.grad + r * n, n, T(0));
  if (block.hess != nullptr) std::fill_n(block.hess + r * n, n, T(0));
}

// One row of any length. Returns whether its distribution is valid.
template <bool kOptions, class T>
HWY_INLINE bool Row(const SoftmaxCrossEntropyArgs<T>& args, Block<T>& block, size_t r) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  using Exponents = std::conditional_t<kOptions, softmax::ScaledDifferences<T>, softmax::Differences<T>>;
  const size_t n = args.classes;
  const size_t row = block.begin + r;
  const Terms terms = kOptions ? *block.terms : Terms();
  if (kOptions && block.counts[r] == T(0)) {
    IgnoredRow(block, r, n);
    return true;
  }
  const T* x = args.logits + row * n;
  const bool labels = args.labels != nullptr;
  const T* class_weight = kOptions ? args.options->class_weight : nullptr;
  const Columns<kOptions, T> columns = {labels ? nullptr : args.distribution + row * n, class_weight,
                                        static_cast<T>(terms.kept), static_cast<T>(terms.even)};
  // Whether the target is taken column by column, or is the same in all but that of the label.
  const bool by_column = !labels || (kOptions && class_weight != nullptr && terms.even != 0.0);
  T* grad = block.grad != nullptr ? block.grad + r * n : nullptr;
  T* hess = block.hess != nullptr ? block.hess + r * n : nullptr;
  T* e = block.exps != nullptr ? block.exps + row % 2 * block.exps_stride : grad != nullptr ? grad : hess;

  const T max = softmax::RowMax(x, n);
  const size_t apart = labels ? block.label[r] : softmax::FindFirst(x, n, max);
  const T gap = max - x[apart];
  Exponents exponents(max, static_cast<T>(terms.inverse));
  const T e_apart = softmax::ScalarExp(kOptions ? (x[apart] - max) * static_cast<T>(terms.inverse) : x[apart] - max);
  double base = gap, a_apart = 1, a_others = 0;
  bool valid = true;
  if (kOptions && labels) {
    const double at_label = class_weight != nullptr ? args.options->exact_class_weight[apart] : 1.0;
    a_apart = at_label * (terms.kept + terms.even);
    a_others = terms.even * static_cast<double>(n - 1);
    // 0 for a weight of 0, even where x_j is -inf.
    base = terms.kept * at_label == 0.0 ? 0.0 : terms.kept * at_label * (gap * terms.inverse);
  }
  if (by_column) {
    double columns_base;
    valid = TargetSums(columns, x, n, max, apart, &columns_base, &a_others);
    if (!labels) {
      a_apart = columns.At(apart);
      base = 0.0;
    }
    base += kOptions ? columns_base * terms.inverse : columns_base;
  }
  const double mass = a_apart + a_others;
  double rest;
  if (e == nullptr) {
    rest = softmax::ExpSumOf<false>(x, n, exponents, apart, e);
  } else if (block.pending == nullptr) {
    rest = softmax::ExpSumOf<true>(x, n, exponents, apart, e);
  } else {
    rest = softmax::ExpSumOverlapped(x, n, exponents, apart, e, *block.pending);
  }
  const double sum = rest + e_apart;
  const T t_rest = static_cast<T>(rest + (e_apart - 1.0));
  double p_mass = mass, unit_a = 1.0;  // gradient = (p_mass p - unit_a a) weight scale
  double log_sum = 0.0;
  if constexpr (kOptions) {
    if (!by_column && terms.even != 0.0) base -= terms.even * exponents.Total();
    base *= terms.value;
    p_mass = terms.grad * mass;
    unit_a = terms.grad;
    if (terms.z_value != 0.0) {
      log_sum = max * terms.inverse + softmax::ScalarLog1p(t_rest);
      base += terms.z_value * log_sum * log_sum;
      p_mass += 2.0 * terms.z_grad * log_sum;
    }
  }
  block.base[r] = static_cast<T>(base);
  block.mass[r] = static_cast<T>(kOptions ? mass * terms.value : mass);
  block.rest[r] = t_rest;

  const double weight = args.weight != nullptr ? args.weight[row] : 1.0;
  if (hess != nullptr) {
    const T t_sum = static_cast<T>(sum);
    // An exponential above half of the sum is the maximum, 1.
    const double others = sum >= 2.0 ? 0.0 : e_apart == T(1) ? rest : SumWithoutLargest(e, n, t_sum);
    const V v_sum = hn::Set(d, t_sum);
    const V v_others = hn::Set(d, static_cast<T>(others));
    const double factor = kOptions ? terms.hess * mass + 2.0 * terms.z_hess * log_sum : mass;
    const V v_mass = hn::Set(d, static_cast<T>(factor * args.hessian_factor));
    const V square = hn::Set(d, static_cast<T>(2.0 * terms.z_hess * args.hessian_factor));
    const V floor = hn::Set(d, Parameter<T>(args.hess_floor));
    const V v_weight = hn::Set(d, static_cast<T>(weight));
    MapRange(
        [&](auto, V v) HWY_ATTR {
          return Hessian<kOptions>(d, v, v_sum, v_others, v_mass, square, floor, args.floor_hess, v_weight);
        },
        hess, 0, n, block.stream, static_cast<const T*>(e));
  }
  if (grad != nullptr) {
    const double unit = weight * args.scale;
    double at_apart = a_others * e_apart - a_apart * rest;
    if constexpr (kOptions) at_apart = terms.grad * at_apart + 2.0 * terms.z_grad * log_sum * e_apart;
    const double per_sum = unit / sum;  // first: the sum is 1 or more, and no product with it may overflow
    const T t_apart = static_cast<T>(at_apart * per_sum);
    const T t_factor = static_cast<T>(p_mass * per_sum);
    const T t_shift = kOptions ? static_cast<T>(-(terms.even * unit_a * unit)) : T(-0.0);
    if (block.pending != nullptr) {
      block.pending->Start(e, grad, n, t_factor, apart, t_apart, block.stream, t_shift);
      return valid;
    }
    const V lower = hn::Set(d, softmax::kLower<T>);
    const V factor = hn::Set(d, t_factor);
    const T* const from = e;
    if (!by_column) {
      const V shift = hn::Set(d, t_shift);
      MapRange([&](auto, V v) HWY_ATTR { return hn::MulAdd(hn::Mul(v, lower), factor, shift); }, grad, 0, n,
               block.stream, from);
    } else {
      const V v_unit = hn::Set(d, static_cast<T>(unit_a * unit));
      const auto f = [&](auto, V v, V vq, V vw) HWY_ATTR {
        return hn::MulSub(hn::Mul(v, lower), factor, hn::Mul(columns.Of(d, vq, vw), v_unit));
      };
      if constexpr (kOptions) {
        MapRange(f, grad, 0, n, block.stream, from, columns.q != nullptr ? columns.q : from,
                 columns.w != nullptr ? columns.w : from);
      } else {
        MapRange([&](auto, V v, V vq) HWY_ATTR { return f(d, v, vq, vq); }, grad, 0, n, block.stream, from, columns.q);
      }
    }
    grad[apart] = t_apart;
  }
  return valid;
}

// Rows r ... r + count of a block with labels, count <= ShortRows::kGroup.
template <bool kOptions, class T>
HWY_INLINE void ShortRowGroup(const SoftmaxCrossEntropyArgs<T>& args, const softmax::ShortRows<T>& rows,
                              Block<T>& block, size_t r, size_t count) {
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
  const Terms terms = kOptions ? *block.terms : Terms();
  const V inverse = hn::Set(d, static_cast<T>(terms.inverse));
  const V even = hn::Set(d, static_cast<T>(terms.even));
  V spread = hn::Zero(d);  // sum_j class_weight_j (max - x_j)
  rows.Load(args.logits + (block.begin + r) * n, count, e);
  const V v_max = rows.Max(e);
  hn::Store(v_max, d, max);
  V gap = hn::Sub(v_max, hn::Load(d, block.base + r));
  if constexpr (kOptions) {
    gap = hn::Mul(gap, inverse);
    if (terms.even != 0.0) {
      rows.ForEach(Rows::kGroup, [&](size_t i, size_t part, size_t at) HWY_ATTR {
        const V w = hn::Load(d, block.columns + part * Rows::kGroup);
        const V term = hn::Mul(w, hn::Sub(hn::Set(d, max[i]), hn::Load(d, e + at)));
        // 0 for a weight of 0, even where x_j is -inf.
        hn::Store(hn::IfThenZeroElse(hn::Eq(w, hn::Zero(d)), term), d, others + at);
      });
      spread = rows.Sum(others);
    }
  }
  rows.template Exp<kOptions>(max, e, static_cast<T>(terms.inverse));
  rows.ForEach(Rows::kGroup, [&](size_t i, size_t part, size_t at) HWY_ATTR {
    const V v = hn::Load(d, e + at);
    hn::Store(hn::IfThenZeroElse(softmax::OneLane(d, part * Rows::kGroup, label[i]), v), d, others + at);
  });
  const V e_label = hn::Mul(softmax::RaisedExp(d, hn::Neg(gap)), lower);
  const V rest = hn::Mul(rows.Sum(others), lower);
  const V sum = hn::Add(rest, e_label);
  const V log_argument = hn::Add(rest, hn::Sub(e_label, one));
  hn::Store(log_argument, d, block.rest + r);
  // As in Row.
  V a_label = one, a_others = hn::Zero(d), mass = one, slope = hn::Zero(d);  // slope = 2 l
  if constexpr (kOptions) {
    const V kept = hn::Mul(hn::Load(d, block.at_label + r), hn::Set(d, static_cast<T>(terms.kept)));
    a_label = hn::MulAdd(hn::Load(d, block.at_label + r), even, kept);
    a_others = hn::Mul(hn::Load(d, block.at_others + r), even);
    mass = hn::Add(a_label, a_others);
    const V base =
        hn::MulAdd(hn::Mul(spread, inverse), even, hn::IfThenZeroElse(hn::Eq(kept, hn::Zero(d)), hn::Mul(kept, gap)));
    const V value = hn::Set(d, static_cast<T>(terms.value));
    V row_base = hn::Mul(base, value);
    if (terms.z_value != 0.0) {
      const V log_sum = hn::MulAdd(v_max, inverse, Log1p(d, log_argument));
      slope = hn::Add(log_sum, log_sum);
      row_base = hn::MulAdd(hn::Mul(log_sum, log_sum), hn::Set(d, static_cast<T>(terms.z_value)), row_base);
    }
    hn::Store(row_base, d, block.base + r);
    hn::Store(hn::Mul(mass, value), d, block.mass + r);
  } else {
    hn::Store(gap, d, block.base + r);
    hn::Store(one, d, block.mass + r);
  }
  const V weight = args.weight != nullptr ? LoadPartial(d, args.weight + block.begin + r, count) : one;

  if (block.grad != nullptr) {
    HWY_ALIGN T factor[Rows::kGroup], at_label[Rows::kGroup];
    HWY_ALIGN T shift[Rows::kGroup];
    const V unit = hn::Mul(weight, hn::Set(d, static_cast<T>(args.scale)));
    const V per_sum = hn::Div(unit, sum);  // first: the sum is 1 or more, and no product with it may overflow
    if constexpr (kOptions) {
      const V grad = hn::Set(d, static_cast<T>(terms.grad));
      const V z_slope = hn::Mul(slope, hn::Set(d, static_cast<T>(terms.z_grad)));
      const V difference = hn::MulSub(a_others, e_label, hn::Mul(a_label, rest));
      const V at = hn::MulAdd(grad, difference, hn::Mul(z_slope, e_label));
      hn::Store(hn::Mul(hn::MulAdd(grad, mass, z_slope), per_sum), d, factor);
      hn::Store(hn::Mul(at, per_sum), d, at_label);
      hn::Store(hn::Mul(hn::Mul(even, grad), unit), d, shift);
    } else {
      hn::Store(per_sum, d, factor);
      hn::Store(hn::Neg(hn::Mul(rest, per_sum)), d, at_label);
    }
    rows.ForEach(count, [&](size_t i, size_t part, size_t at) HWY_ATTR {
      const V p = hn::Mul(hn::Load(d, e + at), lower);
      V g;
      if constexpr (kOptions) {
        const V a = hn::Mul(hn::Load(d, block.columns + part * Rows::kGroup), hn::Set(d, shift[i]));
        g = hn::MulSub(p, hn::Set(d, factor[i]), a);
      } else {
        g = hn::Mul(p, hn::Set(d, factor[i]));
      }
      g = hn::IfThenElse(softmax::OneLane(d, part * Rows::kGroup, label[i]), hn::Set(d, at_label[i]), g);
      if (kOptions && block.counts[r + i] == T(0)) g = hn::Zero(d);
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
    const V floor = hn::Set(d, Parameter<T>(args.hess_floor));
    const V hessian_factor = hn::Set(d, static_cast<T>(args.hessian_factor));
    const V square = hn::Set(d, static_cast<T>(2.0 * terms.z_hess * args.hessian_factor));
    HWY_ALIGN T masses[Rows::kGroup];
    if constexpr (kOptions) {
      const V all = hn::MulAdd(slope, hn::Set(d, static_cast<T>(terms.z_hess)),
                               hn::Mul(mass, hn::Set(d, static_cast<T>(terms.hess))));
      hn::Store(hn::Mul(all, hessian_factor), d, masses);
    }
    rows.ForEach(count, [&](size_t i, size_t part, size_t at) HWY_ATTR {
      const V row_mass = kOptions ? hn::Set(d, masses[i]) : hessian_factor;
      V h = Hessian<kOptions>(d, hn::Load(d, e + at), hn::Set(d, sums[i]), hn::Set(d, rests[i]), row_mass, square,
                              floor, args.floor_hess, hn::Set(d, weights[i]));
      if (kOptions && block.counts[r + i] == T(0)) h = hn::Zero(d);
      StorePartial(h, d, block.hess + (r + i) * n + part * Rows::kGroup, rows.Count(part));
    });
  }
}

// Sum of the weighted losses of a block; stores them if asked.
template <bool kOptions, class T>
HWY_INLINE double Losses(const SoftmaxCrossEntropyArgs<T>& args, const Block<T>& block) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  Accumulator<T> sum;
  ForEachVector<T>(0, block.end - block.begin, [&](size_t r, size_t index, size_t count, auto full) HWY_ATTR {
    const size_t row = block.begin + r;
    const V log_sum = Log1p(d, hn::Load(d, block.rest + r));
    V loss = hn::MulAdd(hn::Load(d, block.mass + r), log_sum, hn::Load(d, block.base + r));
    if (args.weight != nullptr) loss = hn::Mul(loss, LoadPartial(d, args.weight + row, count));
    if constexpr (kOptions) loss = hn::IfThenElseZero(hn::Ne(hn::Load(d, block.counts + r), hn::Zero(d)), loss);
    if (args.row_value != nullptr) StorePartial(loss, d, args.row_value + row, count);
    sum.Add(index, full ? loss : hn::IfThenElseZero(hn::FirstN(d, count), loss));
  });
  return sum.Total();
}

// A block of rows of any length. A function of its own: with both ways in one, the short rows lose registers.
template <bool kOptions, class T>
HWY_NOINLINE size_t AnyRows(const SoftmaxCrossEntropyArgs<T>& args, Block<T>& block) {
  size_t first_invalid = args.rows;
  for (size_t r = 0; r < block.end - block.begin; ++r) {
    if (!Row<kOptions>(args, block, r)) first_invalid = HWY_MIN(first_invalid, block.begin + r);
  }
  return first_invalid;
}

// Computes a block; returns its first invalid row, or args.rows.
template <bool kOptions, class T>
HWY_INLINE size_t BlockRows(const SoftmaxCrossEntropyArgs<T>& args, Block<T>& block) {
  const size_t rows = block.end - block.begin;
  const bool short_labels = args.labels != nullptr && args.classes <= softmax::kRowLanes<T>;
  if constexpr (kOptions) {
    ReadLabelsToIgnore(args, block);
    if (short_labels) ReadLabelsWithOptions(args, block);
  } else {
    if (args.labels != nullptr) ReadLabels(args, block);
  }
  if (short_labels) {
    const softmax::ShortRows<T> short_rows(args.classes);
    for (size_t r = 0; r < rows; r += short_rows.kGroup) {
      ShortRowGroup<kOptions>(args, short_rows, block, r, HWY_MIN(short_rows.kGroup, rows - r));
    }
    return args.rows;
  }
  return AnyRows<kOptions>(args, block);
}

template <bool kOptions, class T>
SoftmaxCrossEntropyResult RunRows(const SoftmaxCrossEntropyArgs<T>& args) {
  const size_t n = args.classes;
  SoftmaxCrossEntropyResult result;
  result.first_invalid_row = args.rows;
  if (args.labels != nullptr && !kOptions && !args.labels_are_checked) {
    result.first_invalid_row = FindInvalidLabel(args.labels, args.label_kind, args.rows, n);
  } else if (args.labels == nullptr && args.check_first) {
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
  bool overlap = args.grad != nullptr && args.hess == nullptr && args.labels != nullptr && !stream_blocks &&
                 n > softmax::kRowLanes<T>;
  const Terms terms = kOptions ? Terms(*args.options, n) : Terms();
  if constexpr (kOptions) {
    if (args.options->class_weight != nullptr && terms.even != 0.0) overlap = false;
  }
  const bool small_exps = overlap && n <= kSmallRow;
  const size_t length = softmax::RowsPerBlock(n);
  const size_t blocks = (args.rows + length - 1) / length;
  const size_t row_stride = (n + 63) / 64 * 64;
  const bool large_exps = (overlap && !small_exps) || stream_rows;
  softmax::Scratch<T> scratch(large_exps ? 2 * row_stride : stream_blocks ? outputs * length * n : 0);
  double one_sum = 0.0;
  std::vector<double> many_sums(blocks > 1 ? blocks : 0);
  double* sums = blocks > 1 ? many_sums.data() : &one_sum;
  FirstOf first_invalid(args.rows);

  softmax::ForEachRowRange(args.rows, n, [&](size_t range_begin, size_t range_end) HWY_ATTR {
    typename softmax::Scratch<T>::Use use(scratch);
    softmax::PendingRow<T> pending;
    Block<T> block;
    block.terms = &terms;
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
      first_invalid.Add(BlockRows<kOptions>(args, block));
      if (stream_blocks && grad != nullptr) StreamOut(block.grad, grad, (end - begin) * n);
      if (stream_blocks && hess != nullptr) StreamOut(block.hess, hess, (end - begin) * n);
      if (args.want_sum || args.row_value != nullptr) sums[begin / length] = Losses<kOptions>(args, block);
    }
    if (overlap) pending.Finish();
    if (stream) hwy::FlushStream();
  });
  result.sum = TreeSum(sums, blocks);
  result.first_invalid_row = first_invalid.Get();
  return result;
}

template <class T>
SoftmaxCrossEntropyResult Run(const SoftmaxCrossEntropyArgs<T>& args) {
  if (args.options == nullptr) return RunRows<false>(args);
  if (args.labels == nullptr || args.labels_are_checked) return RunRows<true>(args);
  const SoftmaxCrossEntropyResult labels = CheckLabels(args);
  if (labels.first_invalid_row < args.rows) return labels;
  SoftmaxCrossEntropyArgs<T> checked = args;
  if (args.mean_of_labels) checked.scale = labels.denominator == 0.0 ? 0.0 : 1.0 / labels.denominator;
  SoftmaxCrossEntropyResult result = RunRows<true>(checked);
  result.denominator = labels.denominator;
  return result;
}

const SoftmaxCrossEntropyFunctions& SoftmaxCrossEntropyTable() {
  static constexpr SoftmaxCrossEntropyFunctions table = {Run<float>,
                                                         Run<double>,
                                                         CheckLabels<float>,
                                                         CheckLabels<double>,
                                                         KeptRows,
                                                         FindInvalidLabel,
                                                         FindInvalidDistribution<float>,
                                                         FindInvalidDistribution<double>};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(SoftmaxCrossEntropyTable);

namespace {

SoftmaxCrossEntropyResult RunAsItIs(const SoftmaxCrossEntropyArgs<float>& args) {
  return FUSEPROP_DISPATCH(SoftmaxCrossEntropyTable)().f32(args);
}
SoftmaxCrossEntropyResult RunAsItIs(const SoftmaxCrossEntropyArgs<double>& args) {
  return FUSEPROP_DISPATCH(SoftmaxCrossEntropyTable)().f64(args);
}

// The sum of the losses without anything else, from weights that multiply none of them to what T has no room for.
template <class T>
double SumAlone(SoftmaxCrossEntropyArgs<T> args) {
  args.grad = args.hess = nullptr;
  ModerateWeights<T> memory;
  const int exponent = memory.Normalise(&args);
  return std::ldexp(RunAsItIs(args).sum, exponent);
}

template <class T>
SoftmaxCrossEntropyResult RunWeighted(const SoftmaxCrossEntropyArgs<T>& args) {
  ModerateWeights<T> memory;
  SoftmaxCrossEntropyArgs<T> moderate = args;
  SoftmaxCrossEntropyResult checked;
  int exponent = memory.Moderate(&moderate, &checked);
  if (checked.first_invalid_row < args.rows) return checked;
  const bool wants_sum = args.want_sum && args.row_value == nullptr;
  // The sum of a mean is that of the weights that its denominator is of.
  const auto given = [&] {
    SoftmaxCrossEntropyArgs<T> alone = args.mean_of_labels ? moderate : args;
    alone.labels_are_checked = moderate.labels_are_checked;
    return alone;
  };
  const bool in_place = args.grad != nullptr && args.grad == args.logits;
  bool is_found = false;
  double sum = 0.0;
  if (wants_sum && in_place) {  // it cannot be found afterwards
    is_found = !ModerateWeights<T>::AreModerate(given());
    if (is_found) {
      sum = SumAlone(given());
    } else {
      exponent += memory.Bound(&moderate);
    }
  }
  SoftmaxCrossEntropyResult result = RunAsItIs(moderate);
  if (result.first_invalid_row < args.rows) return result;
  if (wants_sum && !in_place && !IsWithinRange<T>(result.sum, args.rows)) {
    is_found = !std::isfinite(result.sum) || !ModerateWeights<T>::AreModerate(given());
    if (is_found) sum = SumAlone(given());
  }
  result.sum = is_found ? sum : std::ldexp(result.sum, exponent);
  result.denominator = checked.denominator;
  return result;
}

template <class T>
SoftmaxCrossEntropyResult RunAny(const SoftmaxCrossEntropyArgs<T>& args) {
  const bool weighted = args.weight != nullptr || (args.options != nullptr && args.options->class_weight != nullptr);
  return weighted ? RunWeighted(args) : RunAsItIs(args);
}

}  // namespace

SoftmaxCrossEntropyResult SoftmaxCrossEntropy(const SoftmaxCrossEntropyArgs<float>& args) { return RunAny(args); }
SoftmaxCrossEntropyResult SoftmaxCrossEntropy(const SoftmaxCrossEntropyArgs<double>& args) { return RunAny(args); }
SoftmaxCrossEntropyResult CheckSoftmaxCrossEntropyLabels(const SoftmaxCrossEntropyArgs<float>& args) {
  return FUSEPROP_DISPATCH(SoftmaxCrossEntropyTable)().check_f32(args);
}
SoftmaxCrossEntropyResult CheckSoftmaxCrossEntropyLabels(const SoftmaxCrossEntropyArgs<double>& args) {
  return FUSEPROP_DISPATCH(SoftmaxCrossEntropyTable)().check_f64(args);
}
size_t FindKeptRows(const void* labels, LabelKind kind, size_t rows, int64_t ignored_label, size_t begin, size_t most,
                    size_t* kept, int64_t* kept_labels) {
  return FUSEPROP_DISPATCH(SoftmaxCrossEntropyTable)().kept_rows(labels, kind, rows, ignored_label, begin, most, kept,
                                                                 kept_labels);
}
size_t FirstInvalidLabel(const void* labels, LabelKind kind, size_t rows, size_t classes) {
  return FUSEPROP_DISPATCH(SoftmaxCrossEntropyTable)().invalid_label(labels, kind, rows, classes);
}
size_t FirstInvalidDistribution(const float* distribution, size_t rows, size_t classes) {
  return FUSEPROP_DISPATCH(SoftmaxCrossEntropyTable)().invalid_f32(distribution, rows, classes);
}
size_t FirstInvalidDistribution(const double* distribution, size_t rows, size_t classes) {
  return FUSEPROP_DISPATCH(SoftmaxCrossEntropyTable)().invalid_f64(distribution, rows, classes);
}
}  // namespace fuseprop
#endif  // HWY_ONCE
