// The table of losses, what each loss has for itself (leaves), and the passes that all share.

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

using losses::Terms;

// What a leaf computes.
constexpr unsigned kValue = 1;
constexpr unsigned kGrad = 2;
constexpr unsigned kHess = 4;

// Elements of a piece. Small enough that a piece of everything stays in the first cache.
constexpr size_t kPiece = 1024;

// ------------------------------------------------------------------------------------ what all losses share

// A domain as one comparison of unsigned integers: x is in it if Key(x) <= Limit(). A NaN is outside of every domain
// but the real numbers.
template <Domain domain, typename T>
struct Check {
  using D = hn::ScalableTag<T>;
  using DU = hn::RebindToUnsigned<D>;
  using V = hn::Vec<D>;
  using VU = hn::Vec<DU>;

  static HWY_INLINE VU Bits(V x) { return hn::BitCast(DU(), x); }
  static HWY_INLINE VU Key(V x) {
    static_assert(domain == Domain::kUnit, "no check for this domain");
    return Bits(hn::Add(x, hn::Zero(D())));  // makes -0 a 0; the sign bit is the highest one
  }
  static HWY_INLINE VU Limit() { return Bits(hn::Set(D(), T(1))); }
  static HWY_INLINE hn::Mask<DU> Outside(VU key) { return hn::Ne(hn::Max(key, Limit()), Limit()); }
};

// The first of x[0, n) outside of the domain, or n. As a rule there is none, so its place is looked for afterwards.
template <Domain domain, class T>
HWY_NOINLINE size_t FirstOutside(const T* x, size_t n) {
  using C = Check<domain, T>;
  const hn::ScalableTag<T> d;
  const typename C::DU du;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  auto largest = hn::Zero(du);
  for (; i + lanes <= n; i += lanes) largest = hn::Max(largest, C::Key(hn::LoadU(d, x + i)));
  const auto is_rest_outside = [&](size_t begin) HWY_ATTR {
    return hn::And(C::Outside(C::Key(LoadPartial(d, x + begin, n - begin))), hn::FirstN(du, n - begin));
  };
  if (HWY_LIKELY(hn::AllFalse(du, C::Outside(largest)) && (i == n || hn::AllFalse(du, is_rest_outside(i))))) return n;
  for (i = 0; i + lanes <= n; i += lanes) {
    const auto outside = C::Outside(C::Key(hn::LoadU(d, x + i)));
    if (!hn::AllFalse(du, outside)) return i + static_cast<size_t>(hn::FindFirstTrue(du, outside));
  }
  return i + static_cast<size_t>(hn::FindFirstTrue(du, is_rest_outside(i)));
}

template <class T>
size_t FirstOutside(Domain domain, const T* x, size_t n) {
  switch (domain) {
    case Domain::kReal:
      return n;
    case Domain::kUnit:
      return FirstOutside<Domain::kUnit>(x, n);
  }
  return n;
}

// The first invalid element of a whole array, found by several threads.
class FirstOf {
 public:
  explicit FirstOf(size_t n) : first_(n) {}
  void Add(size_t index) {
    size_t seen = first_.load(std::memory_order_relaxed);
    while (index < seen && !first_.compare_exchange_weak(seen, index, std::memory_order_relaxed)) {
    }
  }
  size_t Get() const { return first_.load(std::memory_order_relaxed); }

 private:
  std::atomic<size_t> first_;
};

template <class T>
size_t FirstInvalid(const LossRow& row, const LossArgs<T>& args) {
  if (row.target_domain == Domain::kReal) return args.n;
  FirstOf first(args.n);
  ForEachRange(args.n, [&](size_t begin, size_t end) {
    const size_t at = begin + FirstOutside(row.target_domain, args.target + begin, end - begin);
    if (at != end) first.Add(at);
  });
  return first.Get();
}

// Adds the values of a part of a block that starts at a multiple of the virtual lanes.
template <class T>
HWY_NOINLINE void AddValues(const T* HWY_RESTRICT value, size_t n, Accumulator<T>& sum) {
  const hn::ScalableTag<T> d;
  Accumulator<T> local = sum;  // stays in registers
  ForEachVector<T>(0, n, [&](size_t i, size_t index, size_t count, auto full) HWY_ATTR {
    local.Add(index, full ? hn::LoadU(d, value + i) : LoadPartial(d, value + i, count));
  });
  sum = local;
}

// The weights of elements [begin, end), one each.
template <class T>
HWY_NOINLINE void SpreadWeights(const LossArgs<T>& args, size_t begin, size_t end, T* HWY_RESTRICT weight) {
  size_t row = begin / args.weight_run;
  size_t left = args.weight_run - begin % args.weight_run;
  for (size_t i = 0; i < end - begin; ++i) {
    weight[i] = args.weight[row];
    if (--left == 0) {
      ++row;
      left = args.weight_run;
    }
  }
}

// The elements of a piece that do not fill a vector, brought to memory where whole ones can be read and written. The
// lanes beyond them repeat the last element, so that they take no path of a formula that no element takes.
template <class T>
class Rest {
 public:
  static constexpr size_t kLanes = HWY_MAX_BYTES / sizeof(T);

  HWY_NOINLINE const LossPiece<T>* Stage(const LossPiece<T>& piece) {
    staged_ = piece;
    staged_.pred = Load(piece.pred, piece.n, 0);
    staged_.target = Load(piece.target, piece.n, 1);
    if (piece.weight != nullptr) staged_.weight = Load(piece.weight, piece.n, 2);
    // A leaf has read a vector of everything before it writes.
    staged_.value = lanes_[0];
    staged_.grad = lanes_[1];
    staged_.hess = lanes_[2];
    return &staged_;
  }
  HWY_NOINLINE void Store(const LossPiece<T>& piece, unsigned want) const {
    if ((want & kValue) != 0) Store(0, piece.value, piece.n);
    if ((want & kGrad) != 0) Store(1, piece.grad, piece.n);
    if ((want & kHess) != 0) Store(2, piece.hess, piece.n);
  }

 private:
  HWY_INLINE const T* Load(const T* from, size_t n, size_t to) {
    const hn::ScalableTag<T> d;
    const size_t count = n % kLanes;
    const auto part = LoadPartial(d, from + n - count, count);
    hn::Store(hn::IfThenElse(hn::FirstN(d, count), part, hn::Set(d, from[n - 1])), d, lanes_[to]);
    return lanes_[to];
  }
  HWY_INLINE void Store(size_t from, T* to, size_t n) const {
    const hn::ScalableTag<T> d;
    const size_t count = n % kLanes;
    StorePartial(hn::Load(d, lanes_[from]), d, to + n - count, count);
  }
  LossPiece<T> staged_;
  HWY_ALIGN T lanes_[3][kLanes];
};

// Computes [0, n) piece by piece. The loops of a pass read the piece from the first cache again.
template <class T>
LossResult Run(const LossRow& row, LossPass pass, const double* parameters, const LossArgs<T>& args) {
  const LossLeaves<T>& leaves = OfType<T>(row);
  const bool has_value = pass == LossPass::kValue || pass == LossPass::kValueGrad;
  const bool has_grad = pass != LossPass::kValue;
  const bool has_hess = pass == LossPass::kGradHess;
  auto leaf = leaves.value_grad;
  if (pass == LossPass::kValue) leaf = leaves.value;
  if (pass == LossPass::kGradHess) leaf = leaves.grad_hess;
  if (pass == LossPass::kGrad && leaves.grad != nullptr) leaf = leaves.grad;
  const bool stream = args.n * sizeof(T) >= kStreamBytes;
  FirstOf first_invalid(args.n);
  LossResult result;
  result.sum = SumOverBlocks(args.n, [&](size_t block_begin, size_t block_end) HWY_ATTR {
    HWY_ALIGN T weight_piece[kPiece];
    HWY_ALIGN T value_piece[kPiece];
    HWY_ALIGN T grad_piece[kPiece];
    HWY_ALIGN T hess_piece[kPiece];
    Accumulator<T> sum;
    LossPiece<T> piece;
    piece.scale = static_cast<T>(args.scale);
    piece.hess_floor = static_cast<T>(args.hess_floor);
    piece.floor_hess = args.floor_hess;
    for (size_t begin = block_begin; begin < block_end; begin += kPiece) {
      const size_t n = HWY_MIN(kPiece, block_end - begin);
      if (args.check) {
        const size_t at = FirstOutside(row.target_domain, args.target + begin, n);
        if (HWY_UNLIKELY(at != n)) first_invalid.Add(begin + at);
      }
      piece.n = n;
      piece.pred = args.pred + begin;
      piece.target = args.target + begin;
      piece.weight = args.weight;
      if (args.weight != nullptr && args.weight_run == 1) {
        piece.weight += begin;
      } else if (args.weight != nullptr) {
        SpreadWeights(args, begin, begin + n, weight_piece);
        piece.weight = weight_piece;
      }
      piece.value = args.value != nullptr ? args.value + begin : value_piece;
      piece.grad = stream || !has_grad ? grad_piece : args.grad + begin;
      piece.hess = stream || !has_hess ? hess_piece : args.hess + begin;
      leaf(parameters, piece);
      if (has_value && args.value == nullptr) AddValues(value_piece, n, sum);
      if (stream && has_grad) StreamOut(grad_piece, args.grad + begin, n);
      if (stream && has_hess) StreamOut(hess_piece, args.hess + begin, n);
    }
    if (stream) hwy::FlushStream();
    return has_value && args.value == nullptr ? sum.Total() : 0.0;
  });
  result.first_invalid = first_invalid.Get();
  return result;
}

// ------------------------------------------------------------------------------------- what each loss has

// The functor stands here once: a second round takes the elements that do not fill a vector through the same loop.
template <class F, unsigned kWant, class T>
HWY_NOINLINE void Leaf(const double* parameters, const LossPiece<T>& given) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  constexpr size_t kLanes = Rest<T>::kLanes;
  const D d;
  const F f(d, parameters);
  const V scale = hn::Set(d, given.scale);
  const V floor = hn::Set(d, given.hess_floor);
  Rest<T> rest;
  bool whole = given.n >= kLanes;
  const LossPiece<T>* piece = whole ? &given : rest.Stage(given);
  for (;;) {
    // Locals, which stores of vectors cannot change.
    const T* const pred = piece->pred;
    const T* const target = piece->target;
    const T* const weight = piece->weight;
    T* const value = piece->value;
    T* const grad = piece->grad;
    T* const hess = piece->hess;
    const size_t end = whole ? given.n - given.n % kLanes : kLanes;
    for (size_t i = 0; i < end; i += kLanes) {
      Terms<V> terms = f(d, hn::LoadU(d, pred + i), hn::LoadU(d, target + i));
      // SelectMax keeps a NaN of its first argument.
      if ((kWant & kHess) != 0 && given.floor_hess) terms.d2 = SelectMax(terms.d2, floor);
      if (weight != nullptr) {
        const V w = hn::LoadU(d, weight + i);
        terms = {hn::Mul(terms.value, w), hn::Mul(terms.d1, w), hn::Mul(terms.d2, w)};
      }
      if ((kWant & kValue) != 0) hn::StoreU(terms.value, d, value + i);
      if ((kWant & kGrad) != 0) hn::StoreU(hn::Mul(terms.d1, scale), d, grad + i);
      if ((kWant & kHess) != 0) hn::StoreU(terms.d2, d, hess + i);
    }
    if (!whole) break;
    if (end == given.n) return;
    piece = rest.Stage(given);
    whole = false;
  }
  rest.Store(given, kWant);
}

template <class F, class T>
constexpr LossLeaves<T> Leaves() {
  return {Leaf<F, kValue, T>, Leaf<F, kValue | kGrad, T>, Leaf<F, kGrad | kHess, T>,
          F::kCheapValue ? nullptr : Leaf<F, kGrad, T>};
}

template <template <class> class F>
constexpr LossRow Row(const char* name) {
  using F32 = F<hn::ScalableTag<float>>;
  using F64 = F<hn::ScalableTag<double>>;
  return {name, F32::kNumParameters, F32::kTargetDomain, Leaves<F32, float>(), Leaves<F64, double>()};
}

const LossTable& Table() {
  static constexpr LossRow rows[] = {
      Row<losses::HalfSquaredError>("half_squared_error"),
      Row<losses::Huber>("huber"),
      Row<losses::LogCosh>("log_cosh"),
      Row<losses::BinaryCrossEntropyWithLogits>("binary_cross_entropy_with_logits"),
  };
  static constexpr LossTable table = {
      rows, sizeof(rows) / sizeof(rows[0]), {Run<float>, FirstInvalid<float>}, {Run<double>, FirstInvalid<double>}};
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
