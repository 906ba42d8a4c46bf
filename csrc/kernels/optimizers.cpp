// The table of optimizer updates and the loop behind its rows.

#include "kernels/optimizers.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/optimizers.cpp"
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

// An update is a functor f(d, p, g, states): p and the states are updated in place. `hyper` is what the
// optimizer passes at each step, in the order given at each functor.

// hyper: lr, weight_decay
// g += weight_decay p;  p -= lr g
template <class D>
struct Sgd {
  static constexpr size_t kNumStates = 0;
  static constexpr size_t kNumHyper = 2;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE Sgd(D d, const double* hyper)
      : lr(hn::Set(d, Parameter<T>(hyper[0]))), weight_decay(hn::Set(d, Parameter<T>(hyper[1]))) {}
  HWY_INLINE void operator()(D, V& p, V g, V*) const {
    g = hn::MulAdd(weight_decay, p, g);
    p = hn::NegMulAdd(lr, g, p);
  }
  V lr, weight_decay;
};

// hyper: lr, weight_decay, momentum, gradient's factor (1 - dampening, 1 at the first step), nesterov (0 or 1)
// g += weight_decay p;  u = momentum u + factor g;  p -= lr (g + momentum u if nesterov else u)
template <class D>
struct SgdMomentum {
  static constexpr size_t kNumStates = 1;
  static constexpr size_t kNumHyper = 5;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE SgdMomentum(D d, const double* hyper)
      : lr(hn::Set(d, Parameter<T>(hyper[0]))),
        weight_decay(hn::Set(d, Parameter<T>(hyper[1]))),
        momentum(hn::Set(d, Parameter<T>(hyper[2]))),
        factor(hn::Set(d, Parameter<T>(hyper[3]))),
        nesterov(hyper[4] != 0.0) {}
  HWY_INLINE void operator()(D, V& p, V g, V* states) const {
    g = hn::MulAdd(weight_decay, p, g);
    const V u = hn::MulAdd(momentum, states[0], hn::Mul(factor, g));
    p = hn::NegMulAdd(lr, nesterov ? hn::MulAdd(momentum, u, g) : u, p);
    states[0] = u;
  }
  V lr, weight_decay, momentum, factor;
  bool nesterov;
};

// hyper: lr / (1 - beta1^t), weight_decay, beta1, beta2, 1 / (1 - beta2^t), eps, eps_root
// g += weight_decay p;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
// p -= lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t) + eps_root) + eps)
template <class D>
struct Adam {
  static constexpr size_t kNumStates = 2;
  static constexpr size_t kNumHyper = 7;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  HWY_INLINE Adam(D d, const double* hyper)
      : lr(hn::Set(d, Parameter<T>(hyper[0]))),
        weight_decay(hn::Set(d, Parameter<T>(hyper[1]))),
        beta1(hn::Set(d, Parameter<T>(hyper[2]))),
        one_minus_beta1(hn::Set(d, Parameter<T>(1.0 - hyper[2]))),
        beta2(hn::Set(d, Parameter<T>(hyper[3]))),
        one_minus_beta2(hn::Set(d, Parameter<T>(1.0 - hyper[3]))),
        correction2(hn::Set(d, Parameter<T>(hyper[4]))),
        eps(hn::Set(d, Parameter<T>(hyper[5]))),
        eps_root(hn::Set(d, Parameter<T>(hyper[6]))) {}
  HWY_INLINE void operator()(D, V& p, V g, V* states) const {
    g = hn::MulAdd(weight_decay, p, g);
    const V m = hn::MulAdd(beta1, states[0], hn::Mul(one_minus_beta1, g));
    const V v = hn::MulAdd(beta2, states[1], hn::Mul(hn::Mul(one_minus_beta2, g), g));
    const V root = hn::Sqrt(hn::MulAdd(v, correction2, eps_root));
    p = hn::NegMulAdd(lr, hn::Div(m, hn::Add(root, eps)), p);
    states[0] = m;
    states[1] = v;
  }
  V lr, weight_decay, beta1, one_minus_beta1, beta2, one_minus_beta2, correction2, eps, eps_root;
};

template <class F, class T>
HWY_INLINE void UpdateRange(const F& f, T grad_scale, const Tensor<T>& tensor, size_t begin, size_t end) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const D d;
  const size_t lanes = hn::Lanes(d);
  const V scale = hn::Set(d, grad_scale);
  V states[kMaxStates] = {hn::Zero(d), hn::Zero(d)};
  size_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    for (size_t s = 0; s < F::kNumStates; ++s) states[s] = hn::LoadU(d, tensor.states[s] + i);
    V p = hn::LoadU(d, tensor.parameter + i);
    f(d, p, hn::Mul(scale, hn::LoadU(d, tensor.grad + i)), states);
    hn::StoreU(p, d, tensor.parameter + i);
    for (size_t s = 0; s < F::kNumStates; ++s) hn::StoreU(states[s], d, tensor.states[s] + i);
  }
  if (i < end) {
    const size_t count = end - i;
    for (size_t s = 0; s < F::kNumStates; ++s) states[s] = LoadPartial(d, tensor.states[s] + i, count);
    V p = LoadPartial(d, tensor.parameter + i, count);
    f(d, p, hn::Mul(scale, LoadPartial(d, tensor.grad + i, count)), states);
    StorePartial(p, d, tensor.parameter + i, count);
    for (size_t s = 0; s < F::kNumStates; ++s) StorePartial(states[s], d, tensor.states[s] + i, count);
  }
}

template <template <class> class F, class T>
void Update(const double* hyper, double grad_scale, const TensorList<T>& list) {
  const F<hn::ScalableTag<T>> f(hn::ScalableTag<T>(), hyper);
  const T scale = static_cast<T>(grad_scale);
  ForEachTensorRange(list, [&](const Tensor<T>& tensor, size_t, size_t begin, size_t end)
                               HWY_ATTR { UpdateRange(f, scale, tensor, begin, end); });
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
  return {name, Functor::kNumStates, Functor::kNumHyper, Update<F, float>, Update<F, double>};
}

const UpdateTable& Table() {
  static constexpr UpdateRow rows[] = {
      Row<Sgd>("sgd"),
      Row<SgdMomentum>("sgd_momentum"),
      Row<Adam>("adam"),
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
