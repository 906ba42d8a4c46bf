// Losses of a row with one integer label.
//
// The focal loss of label t, with p = softmax(z)_t, q = 1 - p, u = -log p, and the class weight c:
//   loss = c q^g u
//   gradient_j = c q^g K (p_j - [j = t])                          K = 1 + g p u / q
//   Hessian_jj = c q^g p_j (K (1 - p_j) + g B p_j / q), j != t    B = p (2 - u + (g - 1) p u / q)
//   Hessian_tt = c q^g q (p K + g B)
// The maximum is left out of the sum of the exponentials (see softmax-inl.h): with `rest` the others' sum and
// S = 1 + rest, 1 - p_max = rest / S, and u = max - z_t + log1p(rest). Nothing cancels: all other p_j are at most 1/2.
// u / q is 1 in the limit q = 0, and p u is 0 in the limit p = 0. What a row has one of is computed in float64.

#include "kernels/losses/label_losses.h"

#include <cstring>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/losses/label_losses.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "kernels/activations/softmax-inl.h"

#ifndef FUSEPROP_KERNELS_LABEL_LOSSES_CPP_  // this file is read once per target
#define FUSEPROP_KERNELS_LABEL_LOSSES_CPP_
namespace fuseprop {
namespace {
struct LabelLossFunctions {
  double (*likelihood_f32)(const LabelLossArgs<float>&);
  double (*likelihood_f64)(const LabelLossArgs<double>&);
  double (*focal_f32)(const LabelLossArgs<float>&, double);
  double (*focal_f64)(const LabelLossArgs<double>&, double);
};
}  // namespace
}  // namespace fuseprop
#endif  // FUSEPROP_KERNELS_LABEL_LOSSES_CPP_

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

template <class T>
HWY_INLINE double WeightOf(const LabelLossArgs<T>& args, size_t row) {
  return args.weight == nullptr ? 1.0 : static_cast<double>(args.weight[row]);
}

template <class T>
HWY_INLINE double ClassWeightOf(const LabelLossArgs<T>& args, size_t row) {
  return args.class_weight == nullptr ? 1.0 : args.class_weight[args.labels[row]];
}

// max(hess, floor) * weight
template <class T>
HWY_INLINE T FinishHessian(const LabelLossArgs<T>& args, double hess, double weight) {
  if (args.floor_hess && hess < args.hess_floor) hess = Parameter<T>(args.hess_floor);  // keeps a NaN
  return static_cast<T>(hess * weight);
}

// ------------------------------------------------------------------------------------ negative log-likelihood

template <class T>
double RunLikelihood(const LabelLossArgs<T>& args) {
  if (args.rows == 0) return 0.0;
  const size_t n = args.classes;
  // The labels' elements first: the gradient may take their place.
  std::vector<T> found(args.rows);
  for (size_t row = 0; row < args.rows; ++row) found[row] = args.pred[row * n + static_cast<size_t>(args.labels[row])];
  if (args.grad != nullptr) {
    ForEachRange(args.rows * n,
                 [&](size_t begin, size_t end) { memset(args.grad + begin, 0, (end - begin) * sizeof(T)); });
    for (size_t row = 0; row < args.rows; ++row) {
      const double slope = -ClassWeightOf(args, row) * WeightOf(args, row) * args.scale;
      const bool is_nan = found[row] != found[row];
      args.grad[row * n + static_cast<size_t>(args.labels[row])] = is_nan ? found[row] : static_cast<T>(slope);
    }
  }
  if (args.hess != nullptr) {
    ForEachRowPiece(args.rows, n, [&](size_t row, size_t begin, size_t end) {
      const T hess = FinishHessian(args, 0.0, WeightOf(args, row));
      for (size_t j = begin; j < end; ++j) args.hess[row * n + j] = hess;
    });
    for (size_t row = 0; row < args.rows; ++row) {
      if (found[row] != found[row]) args.hess[row * n + static_cast<size_t>(args.labels[row])] = found[row];
    }
  }
  std::vector<double> losses(args.rows);
  for (size_t row = 0; row < args.rows; ++row) {
    const double log_p = static_cast<double>(found[row]);
    losses[row] = (0.0 - log_p) * (ClassWeightOf(args, row) * WeightOf(args, row));
    if (args.row_value != nullptr) args.row_value[row] = static_cast<T>(losses[row]);
  }
  return SumOverBlocks(args.rows,
                       [&](size_t begin, size_t end) HWY_ATTR { return SumRange(losses.data(), begin, end); });
}

// ------------------------------------------------------------------------------------------------ softmax focal

// What the rows of a block have one of.
struct FocalRows {
  size_t apart[softmax::kMaxBlockRows];             // where the maximum is, the label if it is there too
  HWY_ALIGN double is_top[softmax::kMaxBlockRows];  // 1 if that is the label, else 0
  HWY_ALIGN double gap[softmax::kMaxBlockRows];     // max - z_t
  HWY_ALIGN double e_label[softmax::kMaxBlockRows];
  HWY_ALIGN double e_top[softmax::kMaxBlockRows];  // 1, or NaN
  HWY_ALIGN double rest[softmax::kMaxBlockRows];
  // From these: u, q^g, K and g B, 1 / S, 1 - p_max, p, q.
  HWY_ALIGN double u[softmax::kMaxBlockRows];
  HWY_ALIGN double power[softmax::kMaxBlockRows];
  HWY_ALIGN double k[softmax::kMaxBlockRows];
  HWY_ALIGN double gb[softmax::kMaxBlockRows];
  HWY_ALIGN double inverse[softmax::kMaxBlockRows];
  HWY_ALIGN double below_top[softmax::kMaxBlockRows];
  HWY_ALIGN double p[softmax::kMaxBlockRows];
  HWY_ALIGN double q[softmax::kMaxBlockRows];
};

// e^x for x <= 0 in float64, which has room for what is subnormal in T.
template <class T>
HWY_INLINE double WideExp(T x) {
  const hn::ScalableTag<T> d;
  return static_cast<double>(hn::GetLane(softmax::RaisedExp(d, hn::Set(d, x)))) *
         static_cast<double>(softmax::kLower<T>);
}

// First the exponentials: 2^kRaise e_j into the gradient's place, if that is wanted.
template <class T>
HWY_INLINE void ReadRow(const LabelLossArgs<T>& args, size_t row, size_t r, FocalRows& rows) {
  const size_t n = args.classes;
  const T* x = args.pred + row * n;
  T* e = args.grad == nullptr ? nullptr : args.grad + row * n;
  const auto label = static_cast<size_t>(args.labels[row]);
  const T max = softmax::RowMax(x, n);
  const T at_label = x[label];
  const bool is_top = at_label == max;
  const size_t apart = is_top ? label : softmax::FindFirst(x, n, max);
  rows.apart[r] = apart;
  rows.is_top[r] = is_top ? 1.0 : 0.0;
  rows.gap[r] = static_cast<double>(max) - static_cast<double>(at_label);
  rows.e_label[r] = WideExp(at_label - max);
  rows.e_top[r] = WideExp(x[apart] - max);
  rows.rest[r] =
      e == nullptr ? softmax::ExpSum<false>(x, n, max, apart, e) : softmax::ExpSum<true>(x, n, max, apart, e);
}

// Then what follows for each of the rows [0, count); beyond them, up to a whole vector, anything.
HWY_NOINLINE void Weigh(FocalRows& rows, size_t count, double gamma) {
  const hn::ScalableTag<double> d;
  using V = hn::Vec<decltype(d)>;
  const V zero = hn::Zero(d);
  const V one = hn::Set(d, 1.0);
  const V g = hn::Set(d, gamma);
  for (size_t r = 0; r < count; r += hn::Lanes(d)) {
    const auto is_top = hn::Gt(hn::Load(d, rows.is_top + r), zero);
    const V rest = hn::Load(d, rows.rest + r);
    const V e_label = hn::Load(d, rows.e_label + r);
    const V sum = hn::Add(rest, hn::Load(d, rows.e_top + r));
    const V inverse = hn::Div(one, sum);
    const V below_top = hn::Div(rest, sum);
    const V p = hn::Div(e_label, sum);
    const V q = hn::IfThenElse(is_top, below_top, hn::Div(hn::Sub(sum, e_label), sum));
    const V u = hn::Add(hn::Load(d, rows.gap + r), Log1p(d, rest));
    V power = hn::Mul(q, q);
    if (gamma == 0.0) {
      power = hn::IfThenElse(hn::IsNaN(q), q, one);
    } else if (gamma == 1.0) {
      power = q;
    } else if (gamma != 2.0) {
      power = ExpNonPositive(d, hn::Mul(g, Log(d, q)));
    }
    const V pu = hn::IfThenZeroElse(hn::Eq(p, zero), hn::Mul(p, u));
    const V pu_q = hn::IfThenElse(hn::Eq(q, zero), p, hn::Div(pu, q));
    const V k = hn::MulAdd(g, pu_q, one);
    const V b = hn::MulAdd(hn::Mul(hn::Sub(g, one), p), pu_q, hn::Sub(hn::Add(p, p), pu));
    hn::Store(u, d, rows.u + r);
    hn::Store(power, d, rows.power + r);
    hn::Store(k, d, rows.k + r);
    hn::Store(hn::Mul(g, b), d, rows.gb + r);
    hn::Store(inverse, d, rows.inverse + r);
    hn::Store(below_top, d, rows.below_top + r);
    hn::Store(p, d, rows.p + r);
    hn::Store(q, d, rows.q + r);
  }
}

// At last the row's outputs but the loss. Returns that, weighted.
template <class T>
HWY_INLINE double WriteRow(const LabelLossArgs<T>& args, size_t row, size_t r, const FocalRows& rows) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const size_t n = args.classes;
  const auto label = static_cast<size_t>(args.labels[row]);
  const double class_weight = ClassWeightOf(args, row);
  const double weight = WeightOf(args, row);
  const double factor = class_weight * rows.power[r];
  if (args.hess != nullptr) {
    const T* e = args.grad + row * n;
    T* hess = args.hess + row * n;
    const double unit = static_cast<double>(softmax::kLower<T>) * rows.inverse[r];
    const double k = rows.k[r];
    const double gb = rows.gb[r];
    const double q = rows.q[r];
    const size_t apart = rows.apart[r];
    for (size_t j = 0; j < n; ++j) {
      const double p = static_cast<double>(e[j]) * unit;
      const double others = j == apart ? rows.below_top[r] : 1.0 - p;
      const double share = p == 0.0 ? 0.0 : p / q;  // at most 1
      hess[j] = FinishHessian(args, factor * p * (k * others + gb * share), weight);
    }
    hess[label] = FinishHessian(args, factor * q * (rows.p[r] * k + gb), weight);
  }
  if (args.grad != nullptr) {
    T* grad = args.grad + row * n;
    const double slope = rows.power[r] * rows.k[r] * (class_weight * weight * args.scale);
    const V v_factor = hn::Set(d, static_cast<T>(slope * rows.inverse[r]));
    const V lower = hn::Set(d, softmax::kLower<T>);
    MapRange([&](auto, V v) HWY_ATTR { return hn::Mul(hn::Mul(v, lower), v_factor); }, grad, 0, n, false,
             static_cast<const T*>(grad));
    grad[label] = static_cast<T>(-slope * rows.q[r]);
  }
  // A class of weight 0 counts as 0, even where the loss is infinite.
  return class_weight == 0.0 ? 0.0 : rows.power[r] * rows.u[r] * (class_weight * weight);
}

template <class T>
double RunFocal(const LabelLossArgs<T>& args, double gamma) {
  const size_t length = softmax::RowsPerBlock(args.classes);
  std::vector<double> sums((args.rows + length - 1) / length);
  softmax::ForEachRowRange(args.rows, args.classes, [&](size_t range_begin, size_t range_end) HWY_ATTR {
    FocalRows rows = {};
    double values[softmax::kMaxBlockRows];
    for (size_t begin = range_begin; begin < range_end; begin += length) {
      const size_t count = HWY_MIN(length, range_end - begin);
      for (size_t r = 0; r < count; ++r) ReadRow(args, begin + r, r, rows);
      Weigh(rows, count, gamma);
      for (size_t r = 0; r < count; ++r) {
        values[r] = WriteRow(args, begin + r, r, rows);
        if (args.row_value != nullptr) args.row_value[begin + r] = static_cast<T>(values[r]);
      }
      sums[begin / length] = SumRange(values, 0, count);
    }
  });
  return TreeSum(sums.data(), sums.size());
}

const LabelLossFunctions& LabelLossTable() {
  static constexpr LabelLossFunctions table = {RunLikelihood<float>, RunLikelihood<double>, RunFocal<float>,
                                               RunFocal<double>};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(LabelLossTable);

double NegativeLogLikelihood(const LabelLossArgs<float>& args) {
  return FUSEPROP_DISPATCH(LabelLossTable)().likelihood_f32(args);
}
double NegativeLogLikelihood(const LabelLossArgs<double>& args) {
  return FUSEPROP_DISPATCH(LabelLossTable)().likelihood_f64(args);
}
double SoftmaxFocal(const LabelLossArgs<float>& args, double gamma) {
  return FUSEPROP_DISPATCH(LabelLossTable)().focal_f32(args, gamma);
}
double SoftmaxFocal(const LabelLossArgs<double>& args, double gamma) {
  return FUSEPROP_DISPATCH(LabelLossTable)().focal_f64(args, gamma);
}
}  // namespace fuseprop
#endif  // HWY_ONCE
