// The table of optimizer updates and the loop behind its rows.

#include "kernels/optim/optimizers.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/optim/optimizers.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

// An update is a functor f(d, p, g, states): p and the states are updated in place. It is made from lr and from
// `numbers`, what the rule needs at this step, in the order given at each functor. That the gradient is scaled, that
// penalties are added to it and that weights decay is done before, for all rules alike.

// numbers: none
// p -= lr g
template <class D>
struct Sgd {
  static constexpr size_t kNumStates = 0;
  static constexpr size_t kNumNumbers = 0;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE Sgd(D d, double step_size, const double*) : lr(hn::Set(d, Parameter<T>(step_size))) {}
  HWY_INLINE void operator()(D, V& p, V g, V*) const { p = hn::NegMulAdd(lr, g, p); }
  V lr;
};

// numbers: momentum, gradient's factor (1 - dampening, 1 at the first step), nesterov (0 or 1)
// u = momentum u + factor g;  p -= lr (g + momentum u if nesterov else u)
template <class D>
struct SgdMomentum {
  static constexpr size_t kNumStates = 1;
  static constexpr size_t kNumNumbers = 3;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE SgdMomentum(D d, double step_size, const double* numbers)
      : lr(hn::Set(d, Parameter<T>(step_size))),
        momentum(hn::Set(d, Parameter<T>(numbers[0]))),
        factor(hn::Set(d, Parameter<T>(numbers[1]))),
        nesterov(numbers[2] != 0.0) {}
  HWY_INLINE void operator()(D, V& p, V g, V* states) const {
    const V u = hn::MulAdd(momentum, states[0], hn::Mul(factor, g));
    p = hn::NegMulAdd(lr, nesterov ? hn::MulAdd(momentum, u, g) : u, p);
    states[0] = u;
  }
  V lr, momentum, factor;
  bool nesterov;
};

// A running mean, decay state + (1 - decay) x; the complement is formed before it is rounded.
template <class D>
struct Mean {
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE Mean(D d, double decay)
      : kept(hn::Set(d, Parameter<T>(decay))), added(hn::Set(d, Parameter<T>(1.0 - decay))) {}
  HWY_INLINE V operator()(V state, V x) const { return hn::MulAdd(kept, state, hn::Mul(added, x)); }
  HWY_INLINE V OfSquare(V state, V x) const { return hn::MulAdd(kept, state, hn::Mul(hn::Mul(added, x), x)); }
  V kept, added;
};

// numbers: eps, eps_root
// v += g^2;  p -= lr g / (sqrt(v + eps_root) + eps)
template <class D>
struct Adagrad {
  static constexpr size_t kNumStates = 1;
  static constexpr size_t kNumNumbers = 2;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE Adagrad(D d, double step_size, const double* numbers)
      : lr(hn::Set(d, Parameter<T>(step_size))),
        eps(hn::Set(d, Parameter<T>(numbers[0]))),
        eps_root(hn::Set(d, Parameter<T>(numbers[1]))) {}
  HWY_INLINE void operator()(D, V& p, V g, V* states) const {
    const V v = hn::MulAdd(g, g, states[0]);
    p = hn::NegMulAdd(lr, hn::Div(g, hn::Add(hn::Sqrt(hn::Add(v, eps_root)), eps)), p);
    states[0] = v;
  }
  V lr, eps, eps_root;
};

// numbers: alpha, eps, eps_root, momentum
// v = alpha v + (1 - alpha) g^2;  centered: mean = alpha mean + (1 - alpha) g, and c = max(v - mean^2, 0), else c = v
// step = g / (sqrt(c + eps_root) + eps);  with momentum: step = buffer = momentum buffer + step;  p -= lr step
// The states: v, then the mean if centered, then the buffer if there is momentum.
template <class D, bool kCentered, bool kMomentum>
struct Rmsprop {
  static constexpr size_t kNumStates = 1 + kCentered + kMomentum;
  static constexpr size_t kNumNumbers = 4;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE Rmsprop(D d, double step_size, const double* numbers)
      : lr(hn::Set(d, Parameter<T>(step_size))),
        alpha(d, numbers[0]),
        eps(hn::Set(d, Parameter<T>(numbers[1]))),
        eps_root(hn::Set(d, Parameter<T>(numbers[2]))),
        momentum(hn::Set(d, Parameter<T>(numbers[3]))) {}
  HWY_INLINE void operator()(D d, V& p, V g, V* states) const {
    const V v = alpha.OfSquare(states[0], g);
    V center = v;
    if constexpr (kCentered) {
      states[1] = alpha(states[1], g);
      center = SelectMax(hn::NegMulAdd(states[1], states[1], v), hn::Zero(d));
    }
    V step = hn::Div(g, hn::Add(hn::Sqrt(hn::Add(center, eps_root)), eps));
    if constexpr (kMomentum) {
      step = hn::MulAdd(momentum, states[kNumStates - 1], step);
      states[kNumStates - 1] = step;
    }
    p = hn::NegMulAdd(lr, step, p);
    states[0] = v;
  }
  V lr;
  Mean<D> alpha;
  V eps, eps_root, momentum;
};
template <class D>
using RmspropPlain = Rmsprop<D, false, false>;
template <class D>
using RmspropMomentum = Rmsprop<D, false, true>;
template <class D>
using RmspropCentered = Rmsprop<D, true, false>;
template <class D>
using RmspropCenteredMomentum = Rmsprop<D, true, true>;

// The means of Adam and NAdam, and what they divide by.
// numbers: beta1, beta2, 1 - beta2^t, eps, eps_root
// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  amsgrad: c = max = max(max, v), else c = v
// den = sqrt(c / (1 - beta2^t) + eps_root) + eps
template <class D, bool kAmsgrad>
struct AdamMoments {
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE AdamMoments(D d, const double* numbers)
      : beta1(d, numbers[0]),
        beta2(d, numbers[1]),
        correction(hn::Set(d, Parameter<T>(1.0 / numbers[2]))),
        eps(hn::Set(d, Parameter<T>(numbers[3]))),
        eps_root(hn::Set(d, Parameter<T>(numbers[4]))) {}
  HWY_INLINE V Denominator(V g, V* states) const {
    states[0] = beta1(states[0], g);
    states[1] = beta2.OfSquare(states[1], g);
    V v = states[1];
    if constexpr (kAmsgrad) {
      v = SelectMax(v, states[2]);
      states[2] = v;
    }
    return hn::Add(hn::Sqrt(hn::MulAdd(v, correction, eps_root)), eps);
  }
  Mean<D> beta1, beta2;
  V correction, eps, eps_root;
};

// numbers: those of AdamMoments, then 1 - beta1^t
// p -= lr m / (1 - beta1^t) / den
template <class D, bool kAmsgrad>
struct AdamOrAmsgrad {
  static constexpr size_t kNumStates = 2 + kAmsgrad;
  static constexpr size_t kNumNumbers = 6;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE AdamOrAmsgrad(D d, double step_size, const double* numbers)
      : moments(d, numbers), lr(hn::Set(d, Parameter<T>(step_size / numbers[5]))) {}
  HWY_INLINE void operator()(D, V& p, V g, V* states) const {
    const V denominator = moments.Denominator(g, states);
    p = hn::NegMulAdd(lr, hn::Div(states[0], denominator), p);
  }
  AdamMoments<D, kAmsgrad> moments;
  V lr;
};
template <class D>
using Adam = AdamOrAmsgrad<D, false>;
template <class D>
using AdamAmsgrad = AdamOrAmsgrad<D, true>;

// numbers: those of AdamMoments, then the weights of g and of m
// p -= lr (weight_g g + weight_m m) / den
template <class D>
struct Nadam {
  static constexpr size_t kNumStates = 2;
  static constexpr size_t kNumNumbers = 7;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE Nadam(D d, double step_size, const double* numbers)
      : moments(d, numbers),
        of_gradient(hn::Set(d, Parameter<T>(step_size * numbers[5]))),
        of_moment(hn::Set(d, Parameter<T>(step_size * numbers[6]))) {}
  HWY_INLINE void operator()(D, V& p, V g, V* states) const {
    const V denominator = moments.Denominator(g, states);
    const V direction = hn::MulAdd(of_gradient, g, hn::Mul(of_moment, states[0]));
    p = hn::Sub(p, hn::Div(direction, denominator));
  }
  AdamMoments<D, false> moments;
  V of_gradient, of_moment;
};

// numbers: rho, eps
// v = rho v + (1 - rho) g^2;  step = sqrt(w + eps) / sqrt(v + eps) g;  w = rho w + (1 - rho) step^2;  p -= lr step
template <class D>
struct Adadelta {
  static constexpr size_t kNumStates = 2;
  static constexpr size_t kNumNumbers = 2;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE Adadelta(D d, double step_size, const double* numbers)
      : lr(hn::Set(d, Parameter<T>(step_size))), rho(d, numbers[0]), eps(hn::Set(d, Parameter<T>(numbers[1]))) {}
  HWY_INLINE void operator()(D, V& p, V g, V* states) const {
    states[0] = rho.OfSquare(states[0], g);
    const V ratio = hn::Div(hn::Sqrt(hn::Add(states[1], eps)), hn::Sqrt(hn::Add(states[0], eps)));
    const V step = hn::Mul(ratio, g);
    states[1] = rho.OfSquare(states[1], step);
    p = hn::NegMulAdd(lr, step, p);
  }
  V lr;
  Mean<D> rho;
  V eps;
};

// 1 or -1 with the sign of x; x itself if it is a zero or NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Sign(D d, V x) {
  const V zero = hn::Zero(d);
  return hn::IfThenElse(hn::Or(hn::Lt(x, zero), hn::Lt(zero, x)), hn::CopySign(hn::Set(d, hn::TFromD<D>(1)), x), x);
}

// numbers: beta1, beta2
// p -= lr sign(beta1 m + (1 - beta1) g);  m = beta2 m + (1 - beta2) g
template <class D>
struct Lion {
  static constexpr size_t kNumStates = 1;
  static constexpr size_t kNumNumbers = 2;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE Lion(D d, double step_size, const double* numbers)
      : lr(hn::Set(d, Parameter<T>(step_size))), beta1(d, numbers[0]), beta2(d, numbers[1]) {}
  HWY_INLINE void operator()(D d, V& p, V g, V* states) const {
    p = hn::NegMulAdd(lr, Sign(d, beta1(states[0], g)), p);
    states[0] = beta2(states[0], g);
  }
  V lr;
  Mean<D> beta1, beta2;
};

// A rule behind what all rules share: g = scale g, and with penalties g += weight_decay p + l1 sign(p), p -= decay p.
// Without them p is left out, so that an infinite parameter does not become NaN by 0 p.
template <class F, class T, bool kPenalties>
struct WithShared {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  static constexpr size_t kNumStates = F::kNumStates;
  HWY_INLINE WithShared(D d, double lr, const double* numbers, const SharedTerms& shared)
      : rule(d, lr, numbers),
        scale(hn::Set(d, static_cast<T>(std::ldexp(shared.scale, -Shift(shared.scale))))),
        rest(hn::Set(d, static_cast<T>(std::ldexp(1.0, Shift(shared.scale))))),
        weight_decay(hn::Set(d, Parameter<T>(shared.weight_decay))),
        l1(hn::Set(d, Parameter<T>(shared.l1))),
        decay(hn::Set(d, Parameter<T>(shared.decay))) {}
  HWY_INLINE void operator()(D d, V& p, V g, V* states) const {
    g = hn::Mul(rest, hn::Mul(scale, g));
    if constexpr (kPenalties) {
      g = hn::MulAdd(l1, Sign(d, p), hn::MulAdd(weight_decay, p, g));
      p = hn::NegMulAdd(decay, p, p);
    }
    rule(d, p, g, states);
  }

  // The exponent of what is split off a scale that T would round to a subnormal number or to 0: large gradients have
  // a sensible product with it.
  static int Shift(double scale) {
    if (scale == 0.0 || !std::isfinite(scale)) return 0;
    return std::min(0, std::ilogb(scale) - (std::numeric_limits<T>::min_exponent - 1));
  }

  F rule;
  V scale, rest, weight_decay, l1, decay;
};

template <class F, class T>
HWY_INLINE void UpdateRange(const F& shared_f, const Tensor<T>& tensor, size_t begin, size_t end) {
  const F f = shared_f;  // the compiler cannot know that the stores leave the caller's alone
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  V states[kMaxStates] = {hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  size_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    for (size_t s = 0; s < F::kNumStates; ++s) states[s] = hn::LoadU(d, tensor.states[s] + i);
    V p = hn::LoadU(d, tensor.parameter + i);
    f(d, p, hn::LoadU(d, tensor.grad + i), states);
    hn::StoreU(p, d, tensor.parameter + i);
    for (size_t s = 0; s < F::kNumStates; ++s) hn::StoreU(states[s], d, tensor.states[s] + i);
  }
  if (i < end) {
    const size_t count = end - i;
    for (size_t s = 0; s < F::kNumStates; ++s) states[s] = LoadPartial(d, tensor.states[s] + i, count);
    V p = LoadPartial(d, tensor.parameter + i, count);
    f(d, p, LoadPartial(d, tensor.grad + i, count), states);
    StorePartial(p, d, tensor.parameter + i, count);
    for (size_t s = 0; s < F::kNumStates; ++s) StorePartial(states[s], d, tensor.states[s] + i, count);
  }
}

template <class F, class T>
void UpdateAll(const F& f, const TensorList<T>& list) {
  ForEachTensorRange(list, [&](const Tensor<T>& tensor, size_t, size_t begin, size_t end)
                               HWY_ATTR { UpdateRange(f, tensor, begin, end); });
}

template <template <class> class F, class T>
void Update(double lr, const double* numbers, const SharedTerms& shared, const TensorList<T>& list) {
  using Rule = F<hn::ScalableTag<T>>;
  const hn::ScalableTag<T> d;
  if (shared.weight_decay != 0.0 || shared.l1 != 0.0 || shared.decay != 0.0) {
    UpdateAll(WithShared<Rule, T, true>(d, lr, numbers, shared), list);
  } else {
    UpdateAll(WithShared<Rule, T, false>(d, lr, numbers, shared), list);
  }
}

template <class T>
double Norm(TensorList<T>& list) {
  ForEachTensorRange(
      list, [&](const Tensor<T>& tensor, size_t first_block, size_t range_begin, size_t range_end) HWY_ATTR {
        for (size_t begin = range_begin; begin < range_end; begin += kBlock) {
          const size_t end = HWY_MIN(begin + kBlock, range_end);
          const hn::ScalableTag<T> d;
          Accumulator<T> sum;
          ForEachVector<T>(begin, end, [&](size_t i, size_t index, size_t count, auto full) HWY_ATTR {
            sum.AddSquare(index, full ? hn::LoadU(d, tensor.grad + i) : LoadPartial(d, tensor.grad + i, count));
          });
          list.block_sums[first_block + begin / kBlock] = sum.Total();
        }
      });
  return std::sqrt(TreeSum(list.block_sums.data(), list.block_sums.size()));
}

double NormFloat(TensorList<float>& list) { return Norm(list); }
double NormDouble(TensorList<double>& list) { return Norm(list); }

template <template <class> class F>
constexpr UpdateRow Row(const char* name) {
  using Functor = F<hn::ScalableTag<float>>;
  static_assert(Functor::kNumStates <= kMaxStates && Functor::kNumNumbers <= kMaxNumbers);
  return {name, Functor::kNumStates, Functor::kNumNumbers, Update<F, float>, Update<F, double>};
}

const UpdateTable& Table() {
  static constexpr UpdateRow rows[] = {
      Row<Sgd>("sgd"),
      Row<SgdMomentum>("sgd_momentum"),
      Row<Adagrad>("adagrad"),
      Row<RmspropPlain>("rmsprop"),
      Row<RmspropMomentum>("rmsprop_momentum"),
      Row<RmspropCentered>("rmsprop_centered"),
      Row<RmspropCenteredMomentum>("rmsprop_centered_momentum"),
      Row<Adam>("adam"),
      Row<AdamAmsgrad>("adam_amsgrad"),
      Row<Nadam>("nadam"),
      Row<Adadelta>("adadelta"),
      Row<Lion>("lion"),
  };
  static constexpr UpdateTable table = {rows, sizeof(rows) / sizeof(rows[0])};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(Table);
FUSEPROP_EXPORT(NormFloat);
FUSEPROP_EXPORT(NormDouble);

const UpdateTable& Updates() { return FUSEPROP_DISPATCH(Table)(); }
double GlobalNorm(TensorList<float>& list) { return FUSEPROP_DISPATCH(NormFloat)(list); }
double GlobalNorm(TensorList<double>& list) { return FUSEPROP_DISPATCH(NormDouble)(list); }
}  // namespace fuseprop
#endif  // HWY_ONCE
