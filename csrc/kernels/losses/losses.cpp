// The table of losses, what each loss has for itself (leaves), and the passes that all share.

#include "kernels/losses/losses.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "threads/first_of.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/losses/losses.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "kernels/losses/losses-inl.h"
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

constexpr size_t kPiece = kLossPiece;
// Inputs of at least this size each are far from the second cache: what comes next is fetched while values are added.
constexpr size_t kFetchBytes = size_t{1} << 20;

// ------------------------------------------------------------------------------------ what all losses share

// A domain as one comparison of unsigned integers: x is in it if Key(x) <= Limit().
template <Domain domain, typename T>
struct Check {
  using D = hn::ScalableTag<T>;
  using DU = hn::RebindToUnsigned<D>;
  using V = hn::Vec<D>;
  using VU = hn::Vec<DU>;

  static HWY_INLINE VU Bits(V x) { return hn::BitCast(DU(), x); }
  static HWY_INLINE VU BitsOf(T x) { return Bits(hn::Set(D(), x)); }
  static HWY_INLINE VU Key(V x) {
    const D d;
    const VU one = hn::Set(DU(), 1);
    // -0 becomes 0; the bits of positive numbers rise with them, and those of negative ones are higher.
    const VU bits = Bits(hn::Add(x, hn::Zero(d)));
    switch (domain) {
      case Domain::kReal:
        return hn::Zero(DU());
      case Domain::kUnit:
      case Domain::kNonNegative:
        return bits;
      case Domain::kUnitOrNaN:
        return Bits(hn::IfThenZeroElse(hn::IsNaN(x), hn::Add(x, hn::Zero(d))));
      case Domain::kPositive:
        return hn::Sub(bits, one);  // 0 becomes the highest one
      case Domain::kSign:
        return hn::Xor(Bits(hn::Abs(x)), BitsOf(T(1)));
      case Domain::kNonZero:
        return hn::Sub(hn::Add(bits, bits), one);
      case Domain::kNonPositive:
        return Bits(hn::Add(hn::Neg(x), hn::Zero(d)));
    }
  }
  static HWY_INLINE VU Limit() {
    const VU one = hn::Set(DU(), 1);
    switch (domain) {
      case Domain::kReal:
      case Domain::kSign:
        return hn::Zero(DU());
      case Domain::kUnit:
      case Domain::kUnitOrNaN:
        return BitsOf(T(1));
      case Domain::kNonNegative:
        return BitsOf(std::numeric_limits<T>::max());
      case Domain::kPositive:
        return hn::Sub(BitsOf(std::numeric_limits<T>::max()), one);
      case Domain::kNonZero:
        return hn::Sub(hn::Zero(DU()), hn::Add(one, one));
      case Domain::kNonPositive:
        return BitsOf(std::numeric_limits<T>::infinity());
    }
  }
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
  const intptr_t lane = hn::FindFirstTrue(du, is_rest_outside(i));
  // None any more: another thread has written to x meanwhile.
  return lane < 0 ? n : i + static_cast<size_t>(lane);
}

template <class T>
size_t FirstOutside(Domain domain, const T* x, size_t n) {
  switch (domain) {
    case Domain::kReal:
      return n;
    case Domain::kUnit:
      return FirstOutside<Domain::kUnit>(x, n);
    case Domain::kUnitOrNaN:
      return FirstOutside<Domain::kUnitOrNaN>(x, n);
    case Domain::kSign:
      return FirstOutside<Domain::kSign>(x, n);
    case Domain::kNonNegative:
      return FirstOutside<Domain::kNonNegative>(x, n);
    case Domain::kPositive:
      return FirstOutside<Domain::kPositive>(x, n);
    case Domain::kNonZero:
      return FirstOutside<Domain::kNonZero>(x, n);
    case Domain::kNonPositive:
      return FirstOutside<Domain::kNonPositive>(x, n);
  }
  return n;
}

// Likewise of the elements [begin, end) of pred and target, counted from begin.
template <class T>
HWY_INLINE size_t FirstOutside(Domain pred_domain, Domain target_domain, const LossArgs<T>& args, size_t begin,
                               size_t end) {
  const size_t first = FirstOutside(target_domain, args.target + begin, end - begin);
  return HWY_MIN(first, FirstOutside(pred_domain, args.pred + begin, end - begin));
}

template <class T>
size_t FirstInvalid(const LossRow& row, const double* parameters, const LossArgs<T>& args) {
  const Domain domain = row.target_domain(parameters);
  if (domain == Domain::kReal && row.pred_domain == Domain::kReal) return args.n;
  FirstOf first(args.n);
  ForEachRange(args.n, [&](size_t begin, size_t end) {
    const size_t at = begin + FirstOutside(row.pred_domain, domain, args, begin, end);
    if (at != end) first.Add(at);
  });
  return first.Get();
}

// Adds the values of a part of a block that starts at a multiple of the virtual lanes. Meanwhile memory may bring what
// comes next: the parts of pred and target from there on, if they are not null.
template <class T>
HWY_NOINLINE void AddValues(const T* HWY_RESTRICT value, size_t n, const T* next_pred, const T* next_target,
                            Accumulator<T>& sum) {
  const hn::ScalableTag<T> d;
  Accumulator<T> local = sum;  // stays in registers
  ForEachVector<T>(0, n, [&](size_t i, size_t index, size_t count, auto full) HWY_ATTR {
    if (next_pred != nullptr) {
      hwy::Prefetch(next_pred + i);
      hwy::Prefetch(next_target + i);
    }
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

// The weights of elements [begin, end), null for ones; `buffer` is used where they are not given so.
template <class T>
HWY_INLINE const T* WeightsOf(const LossArgs<T>& args, size_t begin, size_t end, T* buffer) {
  if (args.weight == nullptr) return nullptr;
  if (args.weight_run == 1) return args.weight + begin;
  SpreadWeights(args, begin, end, buffer);
  return buffer;
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
    if (piece.column != nullptr) {
      staged_.column = Load(piece.column, piece.n, 3);
      staged_.complement = Load(piece.complement, piece.n, 4);
    }
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
  HWY_ALIGN T lanes_[5][kLanes];
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
  const bool add_values = has_value && args.value == nullptr;
  const bool fetch_ahead = args.n * sizeof(T) >= kFetchBytes;
  const hn::ScalableTag<T> d;
  // Of each block, as blocks are whole vectors. The first piece of a block ends there if the array is long: stores
  // across cache lines cost more.
  const size_t lead = has_grad ? ElementsToAlignment(d, args.grad) : 0;
  const bool align = lead != 0 && args.n >= kBlock;
  const bool stream = args.n * sizeof(T) >= kStreamBytes && (!has_hess || ElementsToAlignment(d, args.hess) == lead);
  const Domain domain = row.target_domain(parameters);
  FirstOf first_invalid(args.n);
  LossResult result;
  result.sum = SumOverBlocks(args.n, [&](size_t block_begin, size_t block_end) HWY_ATTR {
    HWY_ALIGN T weight_piece[kPiece];
    HWY_ALIGN T values[kPiece + Accumulator<T>::kLanes];
    size_t values_left = 0;  // at the front of `values`: fewer than the virtual lanes, from the piece before
    Accumulator<T> sum;
    LossPiece<T> piece;
    piece.stream = stream && has_grad;
    piece.scale = static_cast<T>(args.scale);
    piece.value_scale = static_cast<T>(args.value_scale);
    piece.hess_floor = Parameter<T>(args.hess_floor);
    piece.floor_hess = args.floor_hess;
    size_t n;
    for (size_t begin = block_begin; begin < block_end; begin += n) {
      n = HWY_MIN(align && begin == block_begin ? lead : kPiece, block_end - begin);
      if (args.check) {
        const size_t at = FirstOutside(row.pred_domain, domain, args, begin, begin + n);
        if (HWY_UNLIKELY(at != n)) first_invalid.Add(begin + at);
      }
      piece.n = n;
      piece.pred = args.pred + begin;
      piece.target = args.target + begin;
      piece.weight = WeightsOf(args, begin, begin + n, weight_piece);
      piece.column = args.column == nullptr ? nullptr : args.column + begin % args.num_columns;
      piece.complement = args.column == nullptr ? nullptr : args.complement + begin % args.num_columns;
      piece.value = args.value != nullptr ? args.value + begin : values + values_left;
      piece.grad = has_grad ? args.grad + begin : nullptr;
      piece.hess = has_hess ? args.hess + begin : nullptr;
      leaf(parameters, piece);
      if (add_values) {
        const size_t have = values_left + n;
        values_left = begin + n < block_end ? have % Accumulator<T>::kLanes : 0;
        const bool more = fetch_ahead && begin + n < args.n;
        AddValues(values, have - values_left, more ? piece.pred + n : nullptr, piece.target + n, sum);
        memmove(values, values + have - values_left, values_left * sizeof(T));
      }
    }
    if (piece.stream) hwy::FlushStream();
    return add_values ? sum.Total() : 0.0;
  });
  result.first_invalid = first_invalid.Get();
  return result;
}

template <class T>
double WeightOfNonZero(const LossArgs<T>& args) {
  if (args.weight != nullptr && args.weight_run != 1) {
    // Counted run by run: adding a weight over and over would add up its rounding.
    std::vector<double> sums(args.n / args.weight_run);
    for (size_t row = 0; row < sums.size(); ++row) {
      size_t count = 0;
      for (size_t i = 0; i < args.weight_run; ++i) count += args.target[row * args.weight_run + i] != T(0);
      sums[row] = static_cast<double>(args.weight[row]) * static_cast<double>(count);
    }
    return TreeSum(sums.data(), sums.size());
  }
  return SumOverBlocks(args.n, [&](size_t block_begin, size_t block_end) HWY_ATTR {
    HWY_ALIGN T counted[kPiece];
    Accumulator<T> sum;
    for (size_t begin = block_begin; begin < block_end; begin += kPiece) {
      const size_t n = HWY_MIN(kPiece, block_end - begin);
      for (size_t i = 0; i < n; ++i) {
        const T weight = args.weight == nullptr ? T(1) : args.weight[begin + i];
        counted[i] = args.target[begin + i] == T(0) ? T(0) : weight;
      }
      AddValues<T>(counted, n, nullptr, nullptr, sum);
    }
    return sum.Total();
  });
}

template <class T>
void SumRows(const T* x, size_t rows, size_t length, T* sums) {
  ForEachRange(rows, [&](size_t begin, size_t end) HWY_ATTR {
    for (size_t row = begin; row < end; ++row) {
      sums[row] = static_cast<T>(SumRange(x + row * length, 0, length));
    }
  });
}

// ----------------------------------------------------------------------- residuals, for RootMeanSquaredError

// scale (pred - target) of [begin, end) in float64, without overflow in between.
template <class T>
HWY_NOINLINE void Residuals(const LossArgs<T>& args, size_t begin, size_t end, double scale, double* HWY_RESTRICT r) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<T, decltype(d)> d_given;
  const size_t lanes = hn::Lanes(d);
  const double before = HWY_MIN(scale, 1.0);
  const double after = HWY_MAX(scale, 1.0);
  const auto scaled = [&](const T* from) HWY_ATTR {
    if constexpr (sizeof(T) == sizeof(float)) {
      return hn::Mul(hn::PromoteTo(d, hn::LoadU(d_given, from)), hn::Set(d, before));
    } else {
      return hn::Mul(hn::LoadU(d, from), hn::Set(d, before));
    }
  };
  size_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    const auto difference = hn::Sub(scaled(args.pred + i), scaled(args.target + i));
    hn::StoreU(hn::Mul(difference, hn::Set(d, after)), d, r + (i - begin));
  }
  for (; i < end; ++i) {
    const double pred = static_cast<double>(args.pred[i]) * before;
    r[i - begin] = (pred - static_cast<double>(args.target[i]) * before) * after;
  }
}

template <class T>
double SumSquares(const LossArgs<T>& args, double scale) {
  if (scale == 1.0 && args.weight == nullptr) {
    return SumOverBlocks(args.n, [&](size_t begin, size_t end) HWY_ATTR {
      const hn::ScalableTag<T> d;
      Accumulator<T> sum;
      ForEachVector<T>(begin, end, [&](size_t i, size_t index, size_t count, auto full) HWY_ATTR {
        const T *pred = args.pred + i, *target = args.target + i;
        sum.AddSquaredDifference(index, full ? hn::LoadU(d, pred) : LoadPartial(d, pred, count),
                                 full ? hn::LoadU(d, target) : LoadPartial(d, target, count));
      });
      return sum.Total();
    });
  }
  return SumOverBlocks(args.n, [&](size_t block_begin, size_t block_end) HWY_ATTR {
    HWY_ALIGN T buffer[kPiece];
    HWY_ALIGN double r[kPiece];
    const hn::ScalableTag<double> d;
    Accumulator<double> sum;
    for (size_t begin = block_begin; begin < block_end; begin += kPiece) {
      const size_t n = HWY_MIN(kPiece, block_end - begin);
      Residuals(args, begin, begin + n, scale, r);
      // The lanes beyond n are within the piece, and not summed.
      for (size_t i = 0; i < n; i += hn::Lanes(d)) {
        const auto v = hn::Load(d, r + i);
        hn::Store(hn::Mul(v, v), d, r + i);
      }
      if (const T* weight = WeightsOf(args, begin, begin + n, buffer)) {
        for (size_t i = 0; i < n; ++i) r[i] *= static_cast<double>(weight[i]);
      }
      AddValues<double>(r, n, nullptr, nullptr, sum);
    }
    return sum.Total();
  });
}

template <class T>
double LargestResidual(const LossArgs<T>& args, double scale) {
  double largest = 0.0;
  double r[kPiece];
  for (size_t begin = 0; begin < args.n; begin += kPiece) {
    const size_t n = HWY_MIN(kPiece, args.n - begin);
    Residuals(args, begin, begin + n, scale, r);
    for (size_t i = 0; i < n; ++i) {
      const double size = r[i] < 0.0 ? -r[i] : r[i];
      if (size > largest) largest = size;
    }
  }
  return largest;
}

template <class T>
void ScaledResiduals(const LossArgs<T>& args, double scale, double factor) {
  const bool stream = args.n * sizeof(T) >= kStreamBytes;
  ForEachRange(args.n, [&](size_t range_begin, size_t range_end) HWY_ATTR {
    HWY_ALIGN T buffer[kPiece];
    HWY_ALIGN T grad[kPiece];
    HWY_ALIGN double r[kPiece];
    const hn::ScalableTag<double> d;
    const hn::Rebind<T, decltype(d)> d_given;
    for (size_t begin = range_begin; begin < range_end; begin += kPiece) {
      const size_t n = HWY_MIN(kPiece, range_end - begin);
      Residuals(args, begin, begin + n, scale, r);
      if (const T* weight = WeightsOf(args, begin, begin + n, buffer)) {
        for (size_t i = 0; i < n; ++i) r[i] *= static_cast<double>(weight[i]);
      }
      for (size_t i = 0; i < n; i += hn::Lanes(d)) {
        const auto v = hn::Mul(hn::Load(d, r + i), hn::Set(d, factor));
        if constexpr (sizeof(T) == sizeof(float)) {
          hn::Store(hn::DemoteTo(d_given, v), d_given, grad + i);
        } else {
          hn::Store(v, d, grad + i);
        }
      }
      if (stream) {
        StreamOut(grad, args.grad + begin, n);
      } else {
        memcpy(args.grad + begin, grad, n * sizeof(T));
      }
    }
    if (stream) hwy::FlushStream();
  });
}

// The limit where residuals are infinite: they share the gradient, the others have none.
template <class T>
bool InfiniteResiduals(const LossArgs<T>& args, double weight_sum) {
  const auto infinite = [&](size_t i) {
    if (std::isinf(args.pred[i])) return std::copysign(1.0, static_cast<double>(args.pred[i]));
    return std::isinf(args.target[i]) ? -std::copysign(1.0, static_cast<double>(args.target[i])) : 0.0;
  };
  const auto weight = [&](size_t i) {
    return args.weight == nullptr ? 1.0 : static_cast<double>(args.weight[i / args.weight_run]);
  };
  double sum = 0.0;
  for (size_t i = 0; i < args.n; ++i) {
    if (infinite(i) != 0.0) sum += weight(i);
  }
  if (!(sum > 0.0)) return false;
  const double factor = 1.0 / (std::sqrt(sum) * std::sqrt(weight_sum));
  for (size_t i = 0; i < args.n; ++i) args.grad[i] = static_cast<T>(infinite(i) * (weight(i) * factor));
  return true;
}

template <class T>
constexpr LossOps<T> OpsOf() {
  return {Run<T>,        FirstInvalid<T>,    WeightOfNonZero<T>, SumRows<T>,
          SumSquares<T>, LargestResidual<T>, ScaledResiduals<T>, InfiniteResiduals<T>};
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
  const V value_scale = hn::Set(d, given.value_scale);
  const V floor = hn::Set(d, given.hess_floor);
  Rest<T> rest;
  bool whole = given.n >= kLanes;
  const LossPiece<T>* piece = whole ? &given : rest.Stage(given);
  for (;;) {
    // Locals, which stores of vectors cannot change.
    const T* const pred = piece->pred;
    const T* const target = piece->target;
    const T* const weight = piece->weight;
    [[maybe_unused]] const T* const column = piece->column;
    [[maybe_unused]] const T* const complement = piece->complement;
    T* const value = piece->value;
    T* const grad = piece->grad;
    T* const hess = piece->hess;
    const bool stream = whole && given.stream;
    const size_t end = whole ? given.n - given.n % kLanes : kLanes;
    for (size_t i = 0; i < end; i += kLanes) {
      Terms<V> terms;
      if constexpr (F::kPerColumn) {
        const V parameter = column == nullptr ? f.parameter : hn::LoadU(d, column + i);
        const V rest_of_one = column == nullptr ? f.complement : hn::LoadU(d, complement + i);
        terms = f(d, hn::LoadU(d, pred + i), hn::LoadU(d, target + i), parameter, rest_of_one);
      } else {
        terms = f(d, hn::LoadU(d, pred + i), hn::LoadU(d, target + i));
      }
      // SelectMax keeps a NaN of its first argument.
      if ((kWant & kHess) != 0 && given.floor_hess) terms.d2 = SelectMax(terms.d2, floor);
      V of_grad = scale;
      if (weight != nullptr) {
        const V w = hn::LoadU(d, weight + i);
        // The product of weight and scale is that of a mean: it neither overflows nor vanishes.
        of_grad = hn::Mul(w, scale);
        terms.value = hn::Mul(terms.value, hn::Mul(w, value_scale));
        terms.d2 = hn::Mul(terms.d2, w);
      }
      if ((kWant & kValue) != 0) hn::StoreU(terms.value, d, value + i);
      if ((kWant & kGrad) != 0) StoreOrStream(hn::Mul(terms.d1, of_grad), d, grad + i, stream);
      if ((kWant & kHess) != 0) StoreOrStream(terms.d2, d, hess + i, stream);
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
  if constexpr (!F::kDerivatives) {
    return {Leaf<F, kValue, T>, nullptr, nullptr, nullptr};
  } else {
    return {Leaf<F, kValue, T>, Leaf<F, kValue | kGrad, T>, Leaf<F, kGrad | kHess, T>,
            F::kCheapValue ? nullptr : Leaf<F, kGrad, T>};
  }
}

template <template <class> class F>
constexpr LossRow Row(const char* name) {
  using F32 = F<hn::ScalableTag<float>>;
  using F64 = F<hn::ScalableTag<double>>;
  return {name,           F32::kNumParameters, F32::kPerColumn,  F32::kDerivatives,    F32::kOverClasses,
          F32::SkipsZero, F32::TargetDomain,   F32::kPredDomain, Leaves<F32, float>(), Leaves<F64, double>()};
}

const LossTable& Table() {
  static constexpr LossRow rows[] = {
      Row<losses::ZeroOne>("zero_one"),
      Row<losses::Hinge>("hinge"),
      Row<losses::SquaredHinge>("squared_hinge"),
      Row<losses::Exponential>("exponential"),
      Row<losses::Logistic>("logistic"),
      Row<losses::BinaryCrossEntropy>("binary_cross_entropy"),
      Row<losses::BinaryCrossEntropyWithLogits>("binary_cross_entropy_with_logits"),
      Row<losses::FocalWithLogits>("focal_with_logits"),
      Row<losses::HalfSquaredError>("half_squared_error"),
      Row<losses::SquaredError>("squared_error"),
      Row<losses::AbsoluteError>("absolute_error"),
      Row<losses::AbsolutePercentageError>("absolute_percentage_error"),
      Row<losses::SymmetricAbsolutePercentageError>("symmetric_absolute_percentage_error"),
      Row<losses::Huber>("huber"),
      Row<losses::PseudoHuber>("pseudo_huber"),
      Row<losses::LogCosh>("log_cosh"),
      Row<losses::Quantile>("quantile"),
      Row<losses::Poisson>("poisson"),
      Row<losses::Gamma>("gamma"),
      Row<losses::Tweedie>("tweedie"),
      Row<losses::CategoricalCrossEntropy>("categorical_cross_entropy"),
      Row<losses::KLDivergence>("kl_divergence"),
  };
  static constexpr LossTable table = {rows, sizeof(rows) / sizeof(rows[0]), OpsOf<float>(), OpsOf<double>()};
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
