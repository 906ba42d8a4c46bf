// The table of losses and the loop behind its rows.

#include "kernels/losses.h"

#include <atomic>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/losses.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "kernels/losses-inl.h"
#include "simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

// What a pass computes.
constexpr unsigned kValue = 1;
constexpr unsigned kGrad = 2;
constexpr unsigned kHess = 4;

// Elements of a piece that is computed at once. Small enough that a piece of everything stays in the first cache.
constexpr size_t kPiece = 1024;

// A target outside of `domain`; a NaN is outside of every domain but the real numbers.
template <Domain domain, class D, class V = hn::Vec<D>>
HWY_INLINE hn::Mask<D> Invalid(D d, V target) {
  static_assert(domain == Domain::kUnit, "no check for this domain");
  return hn::Not(hn::And(hn::Ge(target, hn::Zero(d)), hn::Le(target, hn::Set(d, hn::TFromD<D>(1)))));
}

// Computes [begin, end), a part of one block that starts at a multiple of the virtual lanes. Adds the values to
// `sum`. grad and hess are indexed from `begin`. Returns the first invalid element, or args.n.
template <class F, unsigned kWant, class T>
HWY_INLINE size_t LossRange(const F& f, const LossArgs<T>& args, const T* weight, size_t begin, size_t end, T* grad,
                            T* hess, Accumulator<T>& sum) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const D d;
  const V scale = hn::Set(d, static_cast<T>(args.scale));
  const V floor = hn::Set(d, static_cast<T>(args.hess_floor));
  size_t first_invalid = args.n;
  ForEachVector<T>(begin, end, [&](size_t i, size_t index, size_t count, auto full) HWY_ATTR {
    const auto load = [&](const T* from) HWY_ATTR { return full ? hn::LoadU(d, from) : LoadPartial(d, from, count); };
    const auto store = [&](V v, T* to) HWY_ATTR {
      if (full) {
        hn::StoreU(v, d, to);
      } else {
        StorePartial(v, d, to, count);
      }
    };
    const V target = load(args.target + i);
    if constexpr (F::kTargetDomain != Domain::kReal) {
      const auto invalid = Invalid<F::kTargetDomain>(d, target);
      if (HWY_UNLIKELY(!hn::AllFalse(d, invalid))) {
        // Lanes beyond `count` are zero, which every domain has.
        const size_t at = i + static_cast<size_t>(hn::FindFirstTrue(d, invalid));
        first_invalid = HWY_MIN(first_invalid, at);
      }
    }
    if constexpr (kWant != 0) {
      const auto terms = f(d, load(args.pred + i), target);
      if constexpr ((kWant & kValue) != 0) {
        V value = terms.value;
        if (weight != nullptr) value = hn::Mul(value, load(weight + (i - begin)));
        if (args.value != nullptr) {
          store(value, args.value + i);
        } else {
          sum.Add(index, full ? value : hn::IfThenElseZero(hn::FirstN(d, count), value));
        }
      }
      if constexpr ((kWant & kGrad) != 0) {
        V d1 = terms.d1;
        if (weight != nullptr) d1 = hn::Mul(d1, load(weight + (i - begin)));
        store(hn::Mul(d1, scale), grad + (i - begin));
      }
      if constexpr ((kWant & kHess) != 0) {
        V d2 = terms.d2;
        // SelectMax keeps a NaN of its first argument.
        if (args.floor_hess) d2 = SelectMax(d2, floor);
        if (weight != nullptr) d2 = hn::Mul(d2, load(weight + (i - begin)));
        store(d2, hess + (i - begin));
      }
    }
  });
  return first_invalid;
}

template <template <class> class F, unsigned kWant, class T>
LossResult Run(const double* parameters, const LossArgs<T>& args) {
  using D = hn::ScalableTag<T>;
  const F<D> f(D(), parameters);
  const bool stream = args.n * sizeof(T) >= kStreamBytes;
  std::atomic<size_t> first_invalid{args.n};
  LossResult result;
  result.sum = SumOverBlocks(args.n, [&](size_t block_begin, size_t block_end) HWY_ATTR {
    HWY_ALIGN T weight_piece[kPiece];
    HWY_ALIGN T grad_piece[(kWant & kGrad) != 0 ? kPiece : 1];
    HWY_ALIGN T hess_piece[(kWant & kHess) != 0 ? kPiece : 1];
    Accumulator<T> sum;
    for (size_t begin = block_begin; begin < block_end; begin += kPiece) {
      const size_t end = HWY_MIN(begin + kPiece, block_end);
      const T* weight = args.weight;
      if (weight != nullptr && args.weight_run == 1) {
        weight += begin;
      } else if (weight != nullptr) {
        size_t row = begin / args.weight_run;
        size_t left = args.weight_run - begin % args.weight_run;
        for (size_t i = 0; i < end - begin; ++i) {
          weight_piece[i] = args.weight[row];
          if (--left == 0) {
            ++row;
            left = args.weight_run;
          }
        }
        weight = weight_piece;
      }
      T* grad = (kWant & kGrad) == 0 ? nullptr : stream ? grad_piece : args.grad + begin;
      T* hess = (kWant & kHess) == 0 ? nullptr : stream ? hess_piece : args.hess + begin;
      const size_t invalid = LossRange<F<D>, kWant>(f, args, weight, begin, end, grad, hess, sum);
      size_t seen = first_invalid.load(std::memory_order_relaxed);
      while (invalid < seen && !first_invalid.compare_exchange_weak(seen, invalid, std::memory_order_relaxed)) {
      }
      if (stream && (kWant & kGrad) != 0) StreamOut(grad_piece, args.grad + begin, end - begin);
      if (stream && (kWant & kHess) != 0) StreamOut(hess_piece, args.hess + begin, end - begin);
    }
    if (stream) hwy::FlushStream();
    return (kWant & kValue) != 0 ? sum.Total() : 0.0;
  });
  result.first_invalid = first_invalid.load(std::memory_order_relaxed);
  return result;
}

template <template <class> class F, class T>
constexpr LossOps<T> Ops() {
  return {F<hn::ScalableTag<T>>::kTargetDomain == Domain::kReal ? nullptr : Run<F, 0, T>, Run<F, kValue, T>,
          Run<F, kGrad, T>, Run<F, kValue | kGrad, T>, Run<F, kGrad | kHess, T>};
}

template <template <class> class F>
constexpr LossRow Row(const char* name) {
  using Functor = F<hn::ScalableTag<float>>;
  return {name, Functor::kNumParameters, Functor::kTargetDomain, Ops<F, float>(), Ops<F, double>()};
}

const LossTable& Table() {
  static constexpr LossRow rows[] = {
      Row<losses::HalfSquaredError>("half_squared_error"),
      Row<losses::Huber>("huber"),
      Row<losses::LogCosh>("log_cosh"),
      Row<losses::BinaryCrossEntropyWithLogits>("binary_cross_entropy_with_logits"),
  };
  static constexpr LossTable table = {rows, sizeof(rows) / sizeof(rows[0])};
  return table;
}

double SumFloat(const float* x, size_t n) {
  return SumOverBlocks(n, [&](size_t begin, size_t end) HWY_ATTR { return SumRange(x, begin, end); });
}

double SumDouble(const double* x, size_t n) {
  return SumOverBlocks(n, [&](size_t begin, size_t end) HWY_ATTR { return SumRange(x, begin, end); });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(Table);
FUSEPROP_EXPORT(SumFloat);
FUSEPROP_EXPORT(SumDouble);

const LossTable& Losses() { return FUSEPROP_DISPATCH(Table)(); }
double Sum(const float* x, size_t n) { return FUSEPROP_DISPATCH(SumFloat)(x, n); }
double Sum(const double* x, size_t n) { return FUSEPROP_DISPATCH(SumDouble)(x, n); }
}  // namespace fuseprop
#endif  // HWY_ONCE
