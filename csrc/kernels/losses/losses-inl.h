// The elementwise losses as functors: f(d, pred, target) gives the value and its first two derivatives by the
// prediction. What the caller does not use, the compiler removes. Per-target header.
//
// "Error" below is the largest one measured of value, d1, d2, in ULP of the exact value, over 300,000 predictions of
// everyday size, the same for float and double within a tenth or two; it is in the line above a functor. A - stands
// for a sum that changes its sign, which has an absolute error of a few ULP of its terms there. What has no line is
// within 2 (a residual's rounding, doubled by the square) or exact.
//
// To add one: the functor here and its row in losses.cpp (then the class and its Spec in losses.py and the
// formulas in reference.py).

#if defined(FUSEPROP_KERNELS_LOSSES_LOSSES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSEPROP_KERNELS_LOSSES_LOSSES_INL_H_
#undef FUSEPROP_KERNELS_LOSSES_LOSSES_INL_H_
#else
#define FUSEPROP_KERNELS_LOSSES_LOSSES_INL_H_
#endif

#include <cmath>

#include "kernels/losses/losses.h"
#include "simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace losses {

template <class V>
struct Terms {
  V value, d1, d2;
};

// Defaults of a functor: no parameters, any target, any prediction.
template <class D>
struct Base {
  static constexpr size_t kNumParameters = 0;
  static Domain TargetDomain(const double* /*parameters*/) { return Domain::kReal; }
  static constexpr Domain kPredDomain = Domain::kReal;
  // Whether there are derivatives: a metric has none.
  static constexpr bool kDerivatives = true;
  // Whether targets of 0 are left out of a mean.
  static bool SkipsZero(const double* /*parameters*/) { return false; }
  // Whether the parameter may differ from column to column: then it and 1 minus it are further arguments.
  static constexpr bool kPerColumn = false;
  // Whether what is given here is a term, and the loss of a row the sum over its last axis.
  static constexpr bool kOverClasses = false;
  // Whether a gradient may be computed by the code that computes the value too. Else it is compiled by itself.
  static constexpr bool kCheapValue = true;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
};

// Targets of -1 and 1.
template <class D>
struct SignBase : Base<D> {
  static Domain TargetDomain(const double*) { return Domain::kSign; }
};

// x where r is a number, else NaN.
template <class V>
HWY_INLINE V NaNOr(V r, V x) {
  return hn::IfThenElse(hn::IsNaN(r), r, x);
}

// -1, 0 or 1; NaN where r is.
template <class D, class V>
HWY_INLINE V Sign(D d, V r) {
  return NaNOr(r, hn::IfThenZeroElse(hn::Eq(r, hn::Zero(d)), hn::CopySign(hn::Set(d, hn::TFromD<D>(1)), r)));
}

// ------------------------------------------------------------------------------------------- classes -1 and 1

// 1 if y p <= 0, else 0
template <class D>
struct ZeroOne : SignBase<D> {
  static constexpr bool kDerivatives = false;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE ZeroOne(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V y) const {
    const V margin = hn::Mul(y, pred);
    const V one = hn::Set(d, T(1));
    return {NaNOr(pred, hn::IfThenZeroElse(hn::Gt(margin, hn::Zero(d)), one)), pred, pred};
  }
};

// max(0, 1 - y p)
template <class D>
struct Hinge : SignBase<D> {
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Hinge(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V y) const {
    const V zero = hn::Zero(d);
    const V slack = hn::Sub(hn::Set(d, T(1)), hn::Mul(y, pred));
    return {SelectMax(slack, zero), NaNOr(pred, hn::IfThenElseZero(hn::Gt(slack, zero), hn::Neg(y))),
            NaNOr(pred, zero)};
  }
};

// max(0, 1 - y p)^2
template <class D>
struct SquaredHinge : SignBase<D> {
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE SquaredHinge(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V y) const {
    const V zero = hn::Zero(d);
    const V two = hn::Set(d, T(2));
    const V slack = SelectMax(hn::Sub(hn::Set(d, T(1)), hn::Mul(y, pred)), zero);
    const V curvature = hn::IfThenElseZero(hn::Gt(slack, zero), two);
    return {hn::Mul(slack, slack), hn::Mul(hn::Mul(hn::Neg(two), y), slack), NaNOr(pred, curvature)};
  }
};

// e^(-y p)
// Error: 0.9, 0.9, 0.9.
template <class D>
struct Exponential : SignBase<D> {
  using typename Base<D>::V;
  HWY_INLINE Exponential(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V y) const {
    const V value = Exp(d, hn::Mul(hn::Neg(y), pred));
    return {value, hn::Mul(hn::Neg(y), value), value};
  }
};

// log(1 + e^(-y p))
// Error: 1.7, 2.7, 4.6.
template <class D>
struct Logistic : SignBase<D> {
  static constexpr bool kCheapValue = false;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Logistic(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V y) const {
    // One exponential, as in BinaryCrossEntropyWithLogits.
    const V one = hn::Set(d, T(1));
    const V x = hn::Mul(hn::Neg(y), pred);
    const V e = ExpNonPositive(d, hn::Neg(hn::Abs(pred)));
    const V large = hn::Div(one, hn::Add(one, e));
    const V small = hn::Mul(e, large);
    const V value = hn::Add(SelectMax(x, hn::Zero(d)), Log1pUnit(d, e));
    const V s = hn::IfThenElse(hn::Gt(x, hn::Zero(d)), large, small);
    return {value, hn::Mul(hn::Neg(y), s), hn::Mul(small, large)};
  }
};

// --------------------------------------------------------------------------------------------------- residuals

// r^2 / 2, with r = pred - target
template <class D>
struct HalfSquaredError : Base<D> {
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE HalfSquaredError(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V target) const {
    const V r = hn::Sub(pred, target);
    // Halved first, so that r^2 overflows only where r^2 / 2 does.
    return {hn::Mul(hn::Mul(r, hn::Set(d, T(0.5))), r), r, NaNOr(r, hn::Set(d, T(1)))};
  }
};

// r^2
template <class D>
struct SquaredError : Base<D> {
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE SquaredError(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V target) const {
    const V r = hn::Sub(pred, target);
    return {hn::Mul(r, r), hn::Add(r, r), NaNOr(r, hn::Set(d, T(2)))};
  }
};

// abs r
template <class D>
struct AbsoluteError : Base<D> {
  using typename Base<D>::V;
  HWY_INLINE AbsoluteError(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V target) const {
    const V r = hn::Sub(pred, target);
    return {hn::Abs(r), Sign(d, r), NaNOr(r, hn::Zero(d))};
  }
};

// 100 abs(r / y). The parameter says what a target of 0 means: 0 an error, 1 infinity, 2 that the element counts
// as 0. A perfect prediction of 0 counts as 0 too.
// Error: 2.2, 0.5, 0.
template <class D>
struct AbsolutePercentageError : Base<D> {
  static constexpr size_t kNumParameters = 1;
  static Domain TargetDomain(const double* parameters) {
    return parameters[0] == 0.0 ? Domain::kNonZero : Domain::kReal;
  }
  static bool SkipsZero(const double* parameters) { return parameters[0] == 2.0; }
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE AbsolutePercentageError(D, const double* parameters) : skip(SkipsZero(parameters)) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V y) const {
    const V hundred = hn::Set(d, T(100));
    // r may overflow where r / y does not.
    const V size = hn::Abs(y);
    const V big = hn::Set(d, std::numeric_limits<T>::max() / 4);
    const auto is_big = hn::Or(hn::Gt(size, big), hn::Gt(hn::Abs(pred), big));
    const V scale = hn::IfThenElse(is_big, hn::Set(d, T(0.25)), hn::Set(d, T(1)));
    const V r = hn::Sub(hn::Mul(pred, scale), hn::Mul(y, scale));
    // The limit at an infinite target.
    const V inf = hn::Set(d, std::numeric_limits<T>::infinity());
    const auto far = hn::And(hn::Eq(size, inf), hn::Lt(hn::Abs(pred), inf));
    const V ratio = hn::IfThenElse(far, hn::Set(d, T(1)), hn::Div(hn::Abs(r), hn::Mul(size, scale)));
    const V slope = hn::Mul(Sign(d, r), hn::Div(hundred, size));
    const auto is_zero = hn::Eq(y, hn::Zero(d));
    // A NaN prediction is never dropped.
    const auto drop = hn::And(is_zero, hn::Eq(pred, skip ? pred : y));
    return {hn::IfThenZeroElse(drop, hn::Mul(ratio, hundred)), hn::IfThenZeroElse(drop, slope),
            hn::IfThenZeroElse(drop, NaNOr(r, hn::Zero(d)))};
  }
  bool skip;
};

// 200 abs r / S with S = abs p + abs y. d1 = 200 (sign(r) S - abs(r) sign(p)) / S^2 is 400 sign(r) abs(y) / S^2 for
// p and y of one sign, 0 for different signs, and half of the former at p = 0; d2 = -2 sign(p) d1 / S.
// Error: 2.8, 3.6, 5.4.
template <class D>
struct SymmetricAbsolutePercentageError : Base<D> {
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE SymmetricAbsolutePercentageError(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V y) const {
    const V zero = hn::Zero(d);
    const V one = hn::Set(d, T(1));
    const V inf = hn::Set(d, std::numeric_limits<T>::infinity());
    const V size_p = hn::Abs(pred);
    const V size_y = hn::Abs(y);
    // Scaled by a power of two, so that neither S overflows nor what is divided by it twice becomes subnormal.
    constexpr bool kIsFloat = sizeof(T) == sizeof(float);
    const V larger = SelectMax(size_p, size_y);
    const auto is_big = hn::Gt(larger, hn::Set(d, std::numeric_limits<T>::max() / 4));
    const auto is_small = hn::Lt(larger, hn::Set(d, static_cast<T>(kIsFloat ? 0x1p-60 : 0x1p-500)));
    const V up = hn::IfThenElse(is_small, hn::Set(d, static_cast<T>(kIsFloat ? 0x1p64 : 0x1p512)), one);
    const V scale = hn::IfThenElse(is_big, hn::Set(d, T(0.25)), up);
    const V p = hn::Mul(pred, scale);
    const V t = hn::Mul(y, scale);
    const V r = hn::Sub(p, t);
    const V sum = hn::Add(hn::Abs(p), hn::Abs(t));
    const V value = hn::Mul(hn::Div(hn::Abs(r), sum), hn::Set(d, T(200)));
    const auto same_sign = hn::Eq(hn::CopySign(one, pred), hn::CopySign(one, y));
    const auto is_zero = hn::Eq(pred, zero);
    const V factor = hn::IfThenElse(is_zero, hn::Set(d, T(200)), hn::IfThenElseZero(same_sign, hn::Set(d, T(400))));
    const V ratio = hn::Div(hn::Abs(t), sum);
    const V d1 = hn::Div(hn::Mul(ratio, hn::Mul(hn::Mul(factor, scale), Sign(d, r))), sum);
    const V turn = hn::CopySign(hn::IfThenZeroElse(is_zero, hn::Mul(hn::Set(d, T(-2)), scale)), hn::Neg(pred));
    const V d2 = hn::Mul(hn::Div(d1, sum), turn);
    // 0 / 0 counts as 0; where one of them is infinite, the limit.
    const auto both_zero = hn::Eq(larger, zero);
    const auto far =
        hn::Or(hn::And(hn::Eq(size_p, inf), hn::Lt(size_y, inf)), hn::And(hn::Eq(size_y, inf), hn::Lt(size_p, inf)));
    const auto flat = hn::Or(hn::And(both_zero, hn::Eq(size_y, zero)), far);
    const V limit = hn::IfThenElseZero(far, hn::Set(d, T(200)));
    return {hn::IfThenElse(flat, limit, value), hn::IfThenZeroElse(flat, d1), hn::IfThenZeroElse(flat, d2)};
  }
};

// r^2 / 2 if abs r <= delta, else delta (abs r - delta / 2)
// Error: 2.5, 0.5, 0.
template <class D>
struct Huber : Base<D> {
  static constexpr size_t kNumParameters = 1;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Huber(D d, const double* parameters) : delta(hn::Set(d, Parameter<T>(parameters[0]))) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V target) const {
    const V r = hn::Sub(pred, target);
    const V size = hn::Abs(r);
    // With m = min(abs r, delta) both branches are m (abs r - m / 2); m is NaN for NaN.
    const V m = SelectMin(size, delta);
    const auto linear = hn::Gt(size, delta);
    const V one = NaNOr(r, hn::Set(d, T(1)));
    return {hn::Mul(m, hn::Sub(size, hn::Mul(m, hn::Set(d, T(0.5))))), hn::CopySign(m, r),
            hn::IfThenZeroElse(linear, one)};
  }
  V delta;
};

// delta^2 (sqrt(1 + (r / delta)^2) - 1). With m and M the smaller and the larger of abs r and delta, and
// root = sqrt(1 + (m / M)^2), the square root is root for abs r <= delta, else root abs(r) / delta: nothing overflows
// or cancels.
// Error: 4.2, 2.7, 9.8.
template <class D>
struct PseudoHuber : Base<D> {
  static constexpr size_t kNumParameters = 1;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE PseudoHuber(D d, const double* parameters) : delta(hn::Set(d, Parameter<T>(parameters[0]))) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V target) const {
    const V one = hn::Set(d, T(1));
    const V r = hn::Sub(pred, target);
    const V size = hn::Abs(r);
    const auto is_far = hn::Gt(size, delta);
    const V smaller = SelectMin(size, delta);
    const V ratio = hn::Div(smaller, SelectMax(size, delta));
    const V root = hn::Sqrt(hn::MulAdd(ratio, ratio, one));
    const V near = hn::IfThenElse(is_far, ratio, one);
    const V cosine = hn::Div(near, root);
    return {hn::Mul(size, hn::Div(smaller, hn::Add(root, near))), hn::CopySign(hn::Div(smaller, root), r),
            hn::Mul(cosine, hn::Mul(cosine, cosine))};
  }
  V delta;
};

// log cosh r, with r = pred - target
// Error: 5.1, 1.6, 32 (1 / cosh^2 magnifies the rounding of r).
template <class D>
struct LogCosh : Base<D> {
  static constexpr bool kCheapValue = false;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE LogCosh(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V target) const {
    const V r = hn::Sub(pred, target);
    const V size = hn::Abs(r);
    const V one = hn::Set(d, T(1));
    // log1p(sinh^2 r) / 2 for small r, where nothing cancels; abs r - log 2 + log1p(e^(-2 abs r)) for large r, where
    // nothing overflows. Both from u = e^abs(r) - 1.
    const V u = Expm1(d, size);
    const V inverse = hn::Div(one, hn::Add(one, u));
    const V sinh = hn::Mul(hn::Set(d, T(0.5)), hn::MulAdd(u, inverse, u));
    const auto small = hn::Lt(size, one);
    const V log = Log1p(d, hn::IfThenElse(small, hn::Mul(sinh, sinh), hn::Mul(inverse, inverse)));
    const V far = hn::Sub(size, hn::Set(d, static_cast<T>(0.693147180559945309417)));
    const V value = hn::IfThenElse(small, hn::Mul(hn::Set(d, T(0.5)), log), hn::Add(far, log));
    return {value, Tanh(d, r), TanhDerivative(d, r)};
  }
};

// q (y - p) if y >= p, else (1 - q) (p - y)
// Error: 1.7, 0.4, 0.
template <class D>
struct Quantile : Base<D> {
  static constexpr size_t kNumParameters = 1;
  static constexpr bool kPerColumn = true;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Quantile(D d, const double* parameters)
      : parameter(hn::Set(d, Parameter<T>(parameters[0]))), complement(hn::Set(d, Parameter<T>(1.0 - parameters[0]))) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V target, V q, V one_minus_q) const {
    const V r = hn::Sub(pred, target);
    const auto above = hn::Gt(r, hn::Zero(d));
    const V slope = hn::IfThenElse(above, one_minus_q, q);
    const V signed_slope = hn::IfThenElse(above, slope, hn::Neg(slope));
    return {hn::Mul(slope, hn::Abs(r)), NaNOr(r, hn::IfThenZeroElse(hn::Eq(r, hn::Zero(d)), signed_slope)),
            NaNOr(r, hn::Zero(d))};
  }
  V parameter, complement;
};

// ------------------------------------------------------------------------------ probabilities and their logits

// -(y log p + (1 - y) log(1 - p)), p held in [eps, 1 - eps]; 0 log 0 = 0 and 0 / 0 = 0
// Error: 2.3, - (65 near p = y), 3.4.
template <class D>
struct BinaryCrossEntropy : Base<D> {
  static constexpr size_t kNumParameters = 1;
  static constexpr bool kCheapValue = false;
  static Domain TargetDomain(const double*) { return Domain::kUnit; }
  static constexpr Domain kPredDomain = Domain::kUnitOrNaN;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE BinaryCrossEntropy(D d, const double* parameters)
      : low(hn::Set(d, Parameter<T>(parameters[0]))), high(hn::Sub(hn::Set(d, T(1)), low)) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V y) const {
    const V zero = hn::Zero(d);
    const V one = hn::Set(d, T(1));
    // p and q = 1 - p are held apart, since 1 - eps may round to 1. -0 becomes 0.
    const V given = hn::Abs(pred);
    const V p = SelectMin(SelectMax(given, low), high);
    const V q = SelectMin(SelectMax(hn::Sub(one, given), low), high);
    const V not_y = hn::Sub(one, y);
    // Below 1/2, q lacks digits of p; above, p lacks digits of q.
    const auto is_right = hn::Gt(given, hn::Set(d, T(0.5)));
    const V smaller = hn::IfThenElse(is_right, q, p);
    const V log_small = Log(d, smaller);
    const V log_large = Log1p(d, hn::Neg(smaller));
    const V log_p = hn::IfThenElse(is_right, log_large, log_small);
    const V log_q = hn::IfThenElse(is_right, log_small, log_large);
    const auto no_y = hn::Eq(y, zero);
    const auto all_y = hn::Eq(not_y, zero);
    const V value =
        hn::Add(hn::IfThenZeroElse(no_y, hn::Mul(y, log_p)), hn::IfThenZeroElse(all_y, hn::Mul(not_y, log_q)));
    // (1 - y) / q - y / p in one fraction: its numerator p - y = (1 - y) - q is exact where it cancels.
    const V product = hn::Mul(p, q);
    const V d1 = hn::Div(hn::IfThenElse(is_right, hn::Sub(not_y, q), hn::Sub(p, y)), product);
    const auto is_exact = hn::And(hn::Eq(product, zero), hn::Eq(p, y));
    const V d2 = hn::Add(hn::IfThenZeroElse(no_y, hn::Div(hn::Div(y, p), p)),
                         hn::IfThenZeroElse(all_y, hn::Div(hn::Div(not_y, q), q)));
    return {hn::Neg(value), hn::IfThenElse(is_exact, hn::Sub(q, p), d1), d2};
  }
  V low, high;
};

// w y softplus(-z) + (1 - y) softplus(z), with w = pos_weight, y in [0, 1]
// Error: 3.5, -, 5.8.
template <class D>
struct BinaryCrossEntropyWithLogits : Base<D> {
  static constexpr size_t kNumParameters = 1;
  static Domain TargetDomain(const double*) { return Domain::kUnit; }
  static constexpr bool kCheapValue = false;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE BinaryCrossEntropyWithLogits(D d, const double* parameters)
      : pos_weight(hn::Set(d, Parameter<T>(parameters[0]))), is_heavy(parameters[0] > 1.0) {}
  HWY_INLINE Terms<V> operator()(D d, V z, V y) const {
    const V one = hn::Set(d, T(1));
    const V zero = hn::Zero(d);
    const V positive = hn::Mul(pos_weight, y);
    const V negative = hn::Sub(one, y);
    // One exponential serves everything, e = e^-abs z: softplus(+-z) = max(+-z, 0) + log1p(e), and s(z) and s(-z)
    // are 1 / (1 + e) and e / (1 + e). A term whose factor is 0 is left out, so that 0 * inf does not arise.
    const V size = hn::Abs(z);
    const V limit = hn::Set(d, math::C<D>::kExpMin);
    const V e_up = math::ScaledExp(d, ClampLowOrNaN(hn::Neg(size), limit));
    const V down = hn::Set(d, math::C<D>::kDownScale);
    const V e = hn::Mul(e_up, down);
    const V sum = hn::Add(positive, negative);
    const auto right = hn::Gt(z, zero);
    const V factor = hn::IfThenElse(right, negative, positive);
    const V linear = hn::IfThenZeroElse(hn::Eq(factor, zero), hn::Mul(factor, size));
    const V rest = hn::Mul(sum, Log1pUnit(d, e));
    const V large = hn::Div(one, hn::Add(one, e));
    const V small = hn::Mul(e, large);
    const V s = hn::IfThenElse(right, large, small);
    const V s_minus = hn::IfThenElse(right, small, large);
    Terms<V> terms = {hn::Add(linear, rest), hn::NegMulAdd(positive, s_minus, hn::Mul(negative, s)),
                      hn::Mul(sum, hn::Mul(small, large))};
    if (is_heavy) {
      // The weight may bring back what e alone is too small for: it meets e scaled up.
      const auto tail = hn::Lt(e, hn::Set(d, math::C<D>::kTiny));
      const V tail_e = hn::IfThenZeroElse(hn::Gt(size, hn::Neg(limit)), e_up);
      const V small_term = hn::Mul(hn::Mul(hn::IfThenElse(right, positive, negative), tail_e), down);
      const V large_term = hn::Mul(factor, large);
      const V bend = hn::Mul(hn::Mul(sum, tail_e), down);
      const V slope = hn::Sub(large_term, small_term);
      terms.value = hn::IfThenElse(tail, hn::Add(linear, bend), terms.value);
      terms.d1 = hn::IfThenElse(tail, hn::IfThenElse(right, slope, hn::Neg(slope)), terms.d1);
      terms.d2 = hn::IfThenElse(tail, bend, terms.d2);
    }
    return terms;
  }
  V pos_weight;
  bool is_heavy;
};

// y L(z) + (1 - y) L(-z) with class weights alpha and 1 - alpha, where L(u) = -b^gamma log a, a = s(u), b = s(-u)
// Error: 7.5, -, -.
template <class D>
struct FocalWithLogits : Base<D> {
  static constexpr size_t kNumParameters = 2;
  static constexpr bool kCheapValue = false;
  static Domain TargetDomain(const double*) { return Domain::kUnit; }
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE FocalWithLogits(D d, const double* parameters)
      // Held so that gamma^2 does not overflow: a larger gamma leaves nothing but certain and wrong predictions either.
      : gamma(hn::Set(d, Parameter<T>(HWY_MIN(parameters[0], 1e9)))),
        alpha(hn::Set(d, Parameter<T>(parameters[1]))),
        one_minus_alpha(hn::Set(d, Parameter<T>(1.0 - parameters[1]))),
        gamma_is_two(Parameter<T>(parameters[0]) == T(2)) {}
  HWY_INLINE Terms<V> operator()(D d, V z, V y) const {
    const V zero = hn::Zero(d);
    const V one = hn::Set(d, T(1));
    // One exponential serves both classes. It is kept scaled up too, for products that are normal where it is not;
    // beyond the limit they are 0 as well.
    const V size = hn::Abs(z);
    const V up_limit = hn::Set(d, math::C<D>::kExpMin);
    const V minus_size = ClampLowOrNaN(hn::Neg(size), up_limit);
    const V e_up = math::ScaledExp(d, minus_size);
    const V down = hn::Set(d, math::C<D>::kDownScale);
    const V e = hn::Mul(e_up, down);
    const V log1p_e = Log1pUnit(d, e);
    const V large = hn::Div(one, hn::Add(one, e));
    const V small = hn::Mul(e, large);
    // The more likely class first; the other one only where a target is soft.
    const auto is_positive = hn::Ge(y, hn::Set(d, T(0.5)));
    const V positive = hn::Mul(alpha, y);
    const V negative = hn::Mul(one_minus_alpha, hn::Sub(one, y));
    V u = hn::IfThenElse(is_positive, z, hn::Neg(z));
    V direction = hn::IfThenElse(is_positive, one, hn::Neg(one));
    V factor = hn::IfThenElse(is_positive, positive, negative);
    const V other = hn::IfThenElse(is_positive, negative, positive);
    Terms<V> sum = {zero, zero, zero};
    for (bool first = true;; first = false) {
      const auto right = hn::Gt(u, zero);
      const V unit = hn::IfThenElse(right, one, down);
      const V a_up = hn::IfThenElse(right, large, hn::Mul(e_up, large));  // a = a_up unit
      const V b = hn::IfThenElse(right, small, large);
      const V minus_log_a = hn::Add(SelectMax(hn::Neg(u), zero), log1p_e);
      V power;
      if (gamma_is_two) {
        power = hn::Mul(b, b);
      } else {
        // b^gamma = e^(-gamma softplus(u)), with the exponent in two pieces: its rounding would be magnified. Beyond
        // the limit the result is 0, and infinity times 0 does not arise.
        const V limit = hn::Set(d, T(2000));
        const V linear = hn::IfThenElseZero(right, SelectMin(u, limit));
        const V product = hn::Mul(gamma, linear);
        const V rest = hn::MulAdd(gamma, log1p_e, ProductError(d, gamma, linear, product));
        const V bounded = SelectMin(product, limit);
        const V exponent = SelectMin(hn::Add(bounded, rest), limit);
        const V lost = hn::Add(hn::Sub(bounded, exponent), rest);
        const V plain = ExpNonPositive(d, hn::Neg(exponent));
        power = hn::IfThenElse(hn::Lt(exponent, limit), hn::NegMulAdd(plain, lost, plain), plain);
      }
      const V weight = hn::Mul(factor, power);
      const V a_log = hn::Mul(a_up, hn::Sub(log1p_e, hn::IfThenZeroElse(right, minus_size)));  // -a log(a) / unit
      const V slope = hn::Mul(weight, hn::MulAdd(gamma, hn::Mul(a_log, unit), b));
      const V bend = hn::Mul(hn::Mul(a_up, b), hn::MulAdd(hn::Set(d, T(2)), gamma, one));
      const V turn = hn::NegMulAdd(gamma, hn::Mul(a_up, unit), b);
      const V d2 = hn::Mul(hn::Mul(weight, hn::NegMulAdd(hn::Mul(gamma, a_log), turn, bend)), unit);
      // A class that has no share is left out, so that 0 * inf does not arise.
      const auto absent = hn::Eq(factor, zero);
      sum.value = hn::IfThenElse(absent, sum.value, hn::MulAdd(weight, minus_log_a, sum.value));
      sum.d1 = hn::IfThenElse(absent, sum.d1, hn::NegMulAdd(direction, slope, sum.d1));
      sum.d2 = hn::IfThenElse(absent, sum.d2, hn::Add(sum.d2, d2));
      if (!first || hn::AllTrue(d, hn::Eq(other, zero))) break;
      u = hn::Neg(u);
      direction = hn::Neg(direction);
      factor = other;
    }
    return {NaNOr(z, sum.value), NaNOr(z, sum.d1), NaNOr(z, sum.d2)};
  }
  V gamma, alpha, one_minus_alpha;
  bool gamma_is_two;
};

// ------------------------------------------------------------------------ counts and amounts: pred is log mean

// e^((c + c_low) x), with the product in two pieces: its rounding would be magnified.
template <class D, class V>
HWY_INLINE V ExpProduct(D d, V c, V c_low, V x) {
  const V product = hn::Mul(c, x);
  const V error = hn::MulAdd(c_low, x, ProductError(d, c, x, product));
  const V one = hn::Set(d, hn::TFromD<D>(1));
  // Where the error is large, e to the product is 0 or infinite.
  const V factor = hn::IfThenElse(hn::Lt(hn::Abs(error), one), hn::Add(one, error), one);
  return hn::Mul(Exp(d, product), factor);
}

// e^z - y z
// Error: -, -, 0.9.
template <class D>
struct Poisson : Base<D> {
  static Domain TargetDomain(const double*) { return Domain::kNonNegative; }
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Poisson(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V z, V y) const {
    const V e = Exp(d, z);
    // y = 0 leaves z out, even if that is infinite.
    V value = hn::IfThenElse(hn::Eq(y, hn::Zero(d)), e, hn::NegMulAdd(y, z, e));
    V d1 = hn::Sub(e, y);
    const auto far = hn::Eq(e, hn::Set(d, std::numeric_limits<T>::infinity()));
    if (HWY_UNLIKELY(!hn::AllFalse(d, far))) {
      // e^z overflows, but what the other term leaves of it may not: both scaled down. Beyond the limit e^z wins.
      const V held = ClampHighOrNaN(z, hn::Set(d, math::C<D>::kExpMax + T(41)));
      const V root = hn::Mul(Exp(d, hn::Mul(held, hn::Set(d, T(0.5)))), hn::Set(d, static_cast<T>(0x1p-32)));
      const V e_down = hn::Mul(root, root);
      const V y_down = hn::Mul(y, hn::Set(d, static_cast<T>(0x1p-64)));
      const V up = hn::Set(d, static_cast<T>(0x1p64));
      value = hn::IfThenElse(far, hn::Mul(hn::NegMulAdd(y_down, held, e_down), up), value);
      d1 = hn::IfThenElse(far, hn::Mul(hn::Sub(e_down, y_down), up), d1);
    }
    return {value, d1, e};
  }
};

// z + y e^-z
// Error: -, -, 3.2.
template <class D>
struct Gamma : Base<D> {
  static Domain TargetDomain(const double*) { return Domain::kPositive; }
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Gamma(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V z, V y) const {
    // In two halves, since e^-z may overflow where y e^-z does not.
    const V half = Exp(d, hn::Mul(hn::Set(d, T(-0.5)), z));
    const V scaled = hn::Mul(y, half);
    const V e = hn::Mul(scaled, half);
    const auto infinite = hn::Eq(e, hn::Set(d, std::numeric_limits<T>::infinity()));
    return {hn::IfThenElse(infinite, e, hn::MulAdd(scaled, half, z)), hn::NegMulAdd(scaled, half, hn::Set(d, T(1))), e};
  }
};

// A / (2 - P) - B / (1 - P) with A = e^((2 - P) z) and B = y e^((1 - P) z); P = 1 is Poisson and P = 2 Gamma; y^2 / 2
// is added for P = 0, as in scikit-learn.
// Error: -, -, 5.4 for 1 <= P <= 2, else -.
template <class D>
struct Tweedie : Base<D> {
  static constexpr size_t kNumParameters = 1;
  static constexpr bool kCheapValue = false;
  static Domain TargetDomain(const double* parameters) {
    return parameters[0] <= 0.0 ? Domain::kReal : parameters[0] < 2.0 ? Domain::kNonNegative : Domain::kPositive;
  }
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE Tweedie(D, const double* parameters)
      : power(parameters[0]),
        first(Parameter<T>(2.0 - power)),
        second(Parameter<T>(1.0 - power)),
        first_low(Lost(2.0 - power, first)),
        second_low(Lost(1.0 - power, second)) {}
  HWY_INLINE Terms<V> operator()(D d, V z, V y) const {
    if (power == 1.0) return Poisson<D>(d, nullptr)(d, z, y);
    if (power == 2.0) return Gamma<D>(d, nullptr)(d, z, y);
    const V zero = hn::Zero(d);
    const V half = hn::Set(d, T(0.5));
    const V largest = hn::Set(d, std::numeric_limits<T>::max());
    const V first_v = hn::Set(d, first);
    const V second_v = hn::Set(d, second);
    const V half_z = hn::Mul(ClampOrNaN(z, hn::Neg(largest), largest), half);
    // A and B in two halves, since e^((1 - P) z) may overflow where y e^((1 - P) z) does not.
    const V root_a = ExpProduct(d, first_v, hn::Set(d, first_low), half_z);
    const V root_b = hn::IfThenZeroElse(hn::Eq(y, zero), ExpProduct(d, second_v, hn::Set(d, second_low), half_z));
    const V y_root = hn::Mul(y, root_b);
    // (1 - P) B and B / (1 - P) in an order in which no factor overflows alone.
    const V times = hn::Mul(second_v, root_b);
    const V over = hn::Div(root_b, second_v);
    const bool is_small = second > T(-1) && second < T(1);
    const V second_b = is_small ? hn::Mul(hn::Mul(times, y), root_b) : hn::Mul(y_root, times);
    const V b_over_second = is_small ? hn::Mul(y_root, over) : hn::Mul(hn::Mul(over, y), root_b);
    const V a = hn::Mul(root_a, root_a);
    Terms<V> terms = {hn::Sub(hn::Mul(root_a, hn::Div(root_a, first_v)), b_over_second),
                      hn::NegMulAdd(y_root, root_b, a), hn::MulSub(hn::Mul(first_v, root_a), root_a, second_b)};
    // The derivatives and the value are c_a A - c_b B each, with other constants.
    const T log_ratio = static_cast<T>(std::log(std::fabs((2.0 - power) / (1.0 - power))));
    terms.value = Checked(d, terms.value, root_a, root_b, z, y, T(1) / first, T(1) / second, -log_ratio);
    terms.d1 = Checked(d, terms.d1, root_a, root_b, z, y, T(1), T(1), T(0));
    terms.d2 = Checked(d, terms.d2, root_a, root_b, z, y, first, second, log_ratio);
    if (power == 0.0) {
      const V r = hn::Sub(root_a, y);  // e^z - y
      terms.value = hn::Mul(hn::Mul(r, half), r);
    }
    return terms;
  }
  // x = c_a A - c_b B, or what stands in for it where it is not finite.
  static HWY_INLINE V Checked(D d, V x, V root_a, V root_b, V z, V y, T c_a, T c_b, T log_ratio) {
    const V inf = hn::Set(d, std::numeric_limits<T>::infinity());
    if (HWY_LIKELY(hn::AllTrue(d, hn::Lt(hn::Abs(x), inf)))) return x;
    V limit = hn::Zero(d);
    Limit(d, root_a, root_b, z, y, c_a, c_b, log_ratio, &limit);
    const auto is_number = hn::And(hn::Eq(z, z), hn::Eq(y, y));
    return hn::IfThenElse(hn::And(is_number, hn::Not(hn::Lt(hn::Abs(x), inf))), limit, x);
  }
  // c_a A - c_b B where a term overflows. The terms scaled down may not; where they overflow even so, the larger one
  // has the sign: log(A / abs(B)) = z - log(abs(y)), and log_ratio = log(abs(c_a / c_b)).
  static HWY_NOINLINE void Limit(D d, const V& root_a, const V& root_b, const V& z, const V& y, T c_a, T c_b,
                                 T log_ratio, V* limit) {
    const V inf = hn::Set(d, std::numeric_limits<T>::infinity());
    const V down = hn::Set(d, static_cast<T>(0x1p-16));
    const V a = hn::Mul(root_a, down);
    const V b = hn::Mul(root_b, down);
    const V term_a = hn::Mul(hn::Mul(a, a), hn::Set(d, c_a));
    const V term_b = hn::Mul(hn::Mul(hn::Mul(y, b), b), hn::Set(d, c_b));
    const auto is_known = hn::And(hn::Lt(hn::Abs(term_a), inf), hn::Lt(hn::Abs(term_b), inf));
    const V near = hn::Mul(hn::Sub(term_a, term_b), hn::Set(d, static_cast<T>(0x1p32)));
    const V lead = hn::Add(hn::Sub(z, Log(d, hn::Abs(y))), hn::Set(d, log_ratio));
    const V sign = hn::IfThenElse(hn::Gt(lead, hn::Zero(d)), hn::Set(d, c_a),
                                  hn::Mul(hn::Set(d, -c_b), hn::CopySign(hn::Set(d, T(1)), y)));
    *limit = hn::IfThenElse(is_known, near, hn::CopySign(inf, sign));
  }
  // What T cannot hold of a parameter's value.
  static T Lost(double value, T held) {
    const double lost = value - static_cast<double>(held);
    const bool is_ordinary = std::fabs(value) <= static_cast<double>(std::numeric_limits<T>::max());
    return is_ordinary && std::fabs(lost) < std::fabs(value) ? static_cast<T>(lost) : T(0);
  }
  double power;
  T first, second, first_low, second_low;
};

// ------------------------------------------------- distributions over classes: one term of the sum over a row

// x where it counts, 0 where the class is absent; NaN where the prediction is.
template <class M, class V>
HWY_INLINE V Present(M absent, V pred, V x) {
  return NaNOr(pred, hn::IfThenZeroElse(absent, x));
}

// -y log p; 0 log 0 = 0 and 0 / 0 = 0
// Error: 1.7, 0.5, 1.5.
template <class D>
struct CategoricalCrossEntropy : Base<D> {
  static constexpr bool kOverClasses = true;
  static constexpr bool kCheapValue = false;
  static Domain TargetDomain(const double*) { return Domain::kUnit; }
  static constexpr Domain kPredDomain = Domain::kUnitOrNaN;
  using typename Base<D>::V;
  HWY_INLINE CategoricalCrossEntropy(D, const double*) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V y) const {
    const V zero = hn::Zero(d);
    const V p = hn::Abs(pred);  // -0 becomes 0
    const auto absent = hn::Eq(y, zero);
    const V slope = hn::Div(y, p);
    return {Present(absent, pred, hn::Sub(zero, hn::Mul(y, Log(d, p)))), Present(absent, pred, hn::Neg(slope)),
            Present(absent, pred, hn::Div(slope, p))};
  }
};

// y log(y / p); the same zero rules. With the parameter, log y is given.
// Error: 2.3, 0.5, 1.5; with log y -, 1.7, 2.3.
template <class D>
struct KLDivergence : Base<D> {
  static constexpr size_t kNumParameters = 1;
  static constexpr bool kOverClasses = true;
  static constexpr bool kCheapValue = false;
  static Domain TargetDomain(const double* parameters) {
    return parameters[0] != 0.0 ? Domain::kNonPositive : Domain::kUnit;
  }
  static constexpr Domain kPredDomain = Domain::kUnitOrNaN;
  using typename Base<D>::T;
  using typename Base<D>::V;
  HWY_INLINE KLDivergence(D, const double* parameters) : log_target(parameters[0] != 0.0) {}
  HWY_INLINE Terms<V> operator()(D d, V pred, V target) const {
    const V zero = hn::Zero(d);
    const V inf = hn::Set(d, std::numeric_limits<T>::infinity());
    const V p = hn::Abs(pred);  // -0 becomes 0
    V y = target;
    V log_ratio;
    if (log_target) {
      y = ExpNonPositive(d, target);
      log_ratio = hn::Sub(target, Log(d, p));
    } else {
      // log(y / p) = +-log1p((larger - smaller) / smaller): near y = p, where terms of both signs all but cancel in
      // the sum, the difference is exact.
      const auto more = hn::Ge(y, p);
      const V larger = hn::IfThenElse(more, y, p);
      const V smaller = hn::IfThenElse(more, p, y);
      const V excess = hn::Div(hn::Sub(larger, smaller), smaller);
      V size = Log1p(d, excess);
      const auto overflown = hn::And(hn::Eq(excess, inf), hn::Gt(smaller, zero));
      if (HWY_UNLIKELY(!hn::AllFalse(d, overflown))) {
        size = hn::IfThenElse(overflown, hn::Sub(Log(d, larger), Log(d, smaller)), size);
      }
      log_ratio = hn::IfThenElse(more, size, hn::Neg(size));
    }
    const auto absent = hn::Eq(target, log_target ? hn::Neg(inf) : zero);
    // y may be 0 where log y is not -inf.
    const auto impossible = hn::Eq(p, zero);
    const V value = hn::IfThenElse(impossible, inf, hn::Mul(y, log_ratio));
    const V slope = hn::IfThenElse(impossible, inf, hn::Div(y, p));
    return {Present(absent, pred, value), Present(absent, pred, hn::Neg(slope)),
            Present(absent, pred, hn::Div(slope, p))};
  }
  bool log_target;
};

}  // namespace losses
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#endif  // FUSEPROP_KERNELS_LOSSES_LOSSES_INL_H_
