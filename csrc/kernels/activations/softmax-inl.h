// What the softmax family does with rows: their maximum, the exponentials and their sum, and the cut of a
// matrix into blocks of rows. Per-target header.
//
// Everything is formed from e_j = exp(x_j - max) in (0, 1] and sums of e_j: nothing overflows. One element of a
// row, called `apart`, is left out of its sum of exponentials and added by whoever needs the whole: if it holds
// the maximum, then log(sum) = log1p(rest) and 1 - p = rest / sum keep their relative accuracy however small
// they are.
//
// A NaN and an infinite maximum need no tests: a NaN, inf - inf and -inf - -inf make e_j NaN, and so
// the sum and all that is divided by it.

#if defined(FUSEPROP_KERNELS_ACTIVATIONS_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSEPROP_KERNELS_ACTIVATIONS_SOFTMAX_INL_H_
#undef FUSEPROP_KERNELS_ACTIVATIONS_SOFTMAX_INL_H_
#else
#define FUSEPROP_KERNELS_ACTIVATIONS_SOFTMAX_INL_H_
#endif

#include <atomic>
#include <limits>
#include <memory>
#include <vector>

#include "simd/loops-inl.h"
#include "simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace softmax {

// Rows of one block: the unit of work, of the sum of losses, and of the pass that takes their logarithms.
constexpr size_t kMaxBlockRows = 128;
// Outputs too large for the caches are written around them: rows from this length on one by one, from a buffer
// with their exponentials; shorter ones as blocks.
constexpr size_t kLongRow = kBlock / 2 + 1;
// Virtual lanes of a row, as in Accumulator. Rows of at most this length are short: see ShortRows.
template <class T>
constexpr size_t kRowLanes = Accumulator<T>::kLanes;

template <class T>
constexpr T kMinusInf = -std::numeric_limits<T>::infinity();

template <class T>
using Lane = hwy::MakeSigned<T>;

// The one lane i for which first + i == lane, if there is one. (Highway's Iota of floating-point numbers is
// slow.)
template <class D>
HWY_INLINE hn::Mask<D> OneLane(D d, size_t first, Lane<hn::TFromD<D>> lane) {
  const hn::RebindToSigned<D> di;
  return hn::RebindMask(d, hn::Eq(hn::Iota(di, static_cast<Lane<hn::TFromD<D>>>(first)), hn::Set(di, lane)));
}

// Exponentials are computed and stored times 2^kRaise, so that those that are not zero are normal numbers: the
// processor is several times slower at subnormal ones, and those are common here.
template <class T>
constexpr int kRaise = sizeof(T) == 4 ? 23 : 52;
template <class T>
constexpr T kLower = sizeof(T) == 4 ? T(0x1p-23) : T(0x1p-52);  // 2^-kRaise

template <class T>
constexpr size_t kExpTerms = sizeof(math::Constants<T>::kExp) / sizeof(T);

// v[k] := 2^kRaise e^v[k] for v[k] <= 0, exactly 0 where e^v[k] rounds to 0; NaN stays NaN. Less exact than
// ExpNonPositive, as the difference in v[k] is: in proportion to 1 + abs v[k]. Step by step for all k: the
// processor does not look far enough ahead to overlap one vector's chain of operations with the next one's.
template <class D, class V, size_t N>
HWY_INLINE void RaisedExp(D d, V (&v)[N]) {
  using C = math::C<D>;
  using T = hn::TFromD<D>;
  const hn::RebindToUnsigned<D> du;
  constexpr int kOffset = C::kBias + kRaise<T>;  // n = -kOffset makes the bits of 2^(n + kRaise) those of 0
  const V low = hn::Set(d, -static_cast<T>(kOffset) * C::kLn2);
  const V round = hn::Set(d, C::kRound + static_cast<T>(kOffset));
  const V log2_e = hn::Set(d, C::kLog2E);
  const V ln2 = hn::Set(d, C::kLn2);
  const V one = hn::Set(d, T(1));
  V n[N], p[N], scale[N];
  HWY_UNROLL(8)
  for (size_t k = 0; k < N; ++k) {
    v[k] = ClampLowOrNaN(v[k], low);
    scale[k] = hn::MulAdd(v[k], log2_e, round);
  }
  HWY_UNROLL(8)
  for (size_t k = 0; k < N; ++k) {
    n[k] = hn::Sub(scale[k], round);
    scale[k] = hn::BitCast(d, hn::ShiftLeft<C::kMantissaBits>(hn::BitCast(du, scale[k])));
    v[k] = hn::NegMulAdd(n[k], ln2, v[k]);
    p[k] = hn::Set(d, C::kExp[kExpTerms<T> - 1]);
  }
  HWY_UNROLL(16)
  for (size_t term = 2; term <= kExpTerms<T>; ++term) {
    const V c = hn::Set(d, C::kExp[kExpTerms<T> - term]);
    HWY_UNROLL(8)
    for (size_t k = 0; k < N; ++k) p[k] = hn::MulAdd(p[k], v[k], c);
  }
  HWY_UNROLL(8)
  for (size_t k = 0; k < N; ++k) {
    p[k] = hn::MulAdd(p[k], v[k], one);
    v[k] = hn::MulAdd(hn::Mul(scale[k], v[k]), p[k], scale[k]);
  }
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V RaisedExp(D d, V x) {
  V v[1] = {x};
  RaisedExp(d, v);
  return v[0];
}

// e^x for x <= 0, as RaisedExp gives it.
template <class T>
HWY_INLINE T ScalarExp(T x) {
  const hn::ScalableTag<T> d;
  return hn::GetLane(RaisedExp(d, hn::Set(d, x))) * kLower<T>;
}

template <class T>
HWY_INLINE T ScalarLog1p(T x) {
  const hn::ScalableTag<T> d;
  return hn::GetLane(Log1p(d, hn::Set(d, x)));
}

// ---------------------------------------------------------------------------------------------------- any rows

// The maximum of x[0, n), n > 0; anything if there is a NaN.
template <class T>
HWY_INLINE T RowMax(const T* HWY_RESTRICT x, size_t n) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  if (n < lanes) {
    const auto filled = hn::IfThenElse(hn::FirstN(d, n), LoadPartial(d, x, n), hn::Set(d, x[0]));
    return hn::GetLane(hn::MaxOfLanes(d, filled));
  }
  auto max0 = hn::LoadU(d, x);
  auto max1 = max0, max2 = max0, max3 = max0;
  size_t i = lanes;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    max0 = hn::Max(max0, hn::LoadU(d, x + i));
    max1 = hn::Max(max1, hn::LoadU(d, x + i + lanes));
    max2 = hn::Max(max2, hn::LoadU(d, x + i + 2 * lanes));
    max3 = hn::Max(max3, hn::LoadU(d, x + i + 3 * lanes));
  }
  for (; i + lanes <= n; i += lanes) max0 = hn::Max(max0, hn::LoadU(d, x + i));
  max1 = hn::Max(max1, hn::LoadU(d, x + n - lanes));  // some of it again
  return hn::GetLane(hn::MaxOfLanes(d, hn::Max(hn::Max(max0, max1), hn::Max(max2, max3))));
}

// The first i with x[i] == value; 0 if there is none.
template <class T>
HWY_INLINE size_t FindFirst(const T* HWY_RESTRICT x, size_t n, T value) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const auto v = hn::Set(d, value);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const intptr_t lane = hn::FindFirstTrue(d, hn::Eq(hn::LoadU(d, x + i), v));
    if (lane >= 0) return i + static_cast<size_t>(lane);
  }
  for (; i < n; ++i) {
    if (x[i] == value) return i;
  }
  return 0;
}

// The exponents of a row: x - max.
template <class T>
class Differences {
 public:
  using V = hn::Vec<hn::ScalableTag<T>>;
  HWY_INLINE explicit Differences(T max, T /*factor*/ = T(1)) : max_(max) {}
  HWY_INLINE V Of(V x) const { return hn::Sub(x, hn::Set(hn::ScalableTag<T>(), max_)); }
  HWY_INLINE void Add(size_t, const V (&)[4]) {}

 private:
  T max_;
};

// Likewise (x - max) * factor, factor > 0, and their sum over the row.
template <class T>
class ScaledDifferences {
 public:
  using V = hn::Vec<hn::ScalableTag<T>>;
  HWY_INLINE ScaledDifferences(T max, T factor) : max_(max), factor_(factor) {}
  HWY_INLINE V Of(V x) const {
    const hn::ScalableTag<T> d;
    return hn::Mul(hn::Sub(x, hn::Set(d, max_)), hn::Set(d, factor_));
  }
  HWY_INLINE void Add(size_t index, const V (&v)[4]) {
    sum_.Add(index, hn::Add(hn::Add(v[0], v[1]), hn::Add(v[2], v[3])));
  }
  HWY_INLINE double Total() const { return sum_.Total(); }

 private:
  T max_, factor_;
  Accumulator<T> sum_;
};

// The exponentials of a chunk of four virtual rows that has the end of the row or the element apart in it: adds
// them to `sum`, one apart.
template <bool kStore, class T, class Exponents>
HWY_INLINE void ExpSumEdge(const T* x, size_t begin, size_t n, Exponents& exponents, size_t apart, T* e,
                           Accumulator<T>& sum) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  const auto lane = static_cast<Lane<T>>(HWY_MIN(apart - begin, 4 * kRowLanes<T>));
  HWY_UNROLL(4)
  for (size_t index = 0; index < Accumulator<T>::kVectors; ++index) {
    V v[4], differences[4];
    HWY_UNROLL(4)
    for (size_t k = 0; k < 4; ++k) {
      const size_t i = begin + k * kRowLanes<T> + index * lanes;
      const size_t count = HWY_MIN(lanes, HWY_MAX(i, n) - i);
      const auto in_row = hn::FirstN(d, count);
      v[k] = exponents.Of(LoadPartial(d, x + i, count));
      differences[k] = hn::IfThenElseZero(in_row, v[k]);
      v[k] = hn::IfThenElse(in_row, v[k], hn::Set(d, kMinusInf<T>));
    }
    exponents.Add(index, differences);
    RaisedExp(d, v);
    HWY_UNROLL(4)
    for (size_t k = 0; k < 4; ++k) {
      const size_t i = begin + k * kRowLanes<T> + index * lanes;
      if (kStore) StorePartial(v[k], d, e + i, HWY_MIN(lanes, HWY_MAX(i, n) - i));
      v[k] = hn::IfThenZeroElse(OneLane(d, k * kRowLanes<T> + index * lanes, lane), v[k]);
    }
    sum.Add(index, hn::Add(hn::Add(v[0], v[1]), hn::Add(v[2], v[3])));
  }
}

// The sum over i != apart of exp(x[i] - max), or of other exponents. With kStore, e[i] = 2^kRaise exp(x[i] - max) for
// all i; e may be x. Four exponentials of a virtual lane are added in T before they go to float64: still one part in
// 2^23, and four times fewer conversions. meanwhile(i) is called now and then when elements before i are done, for what
// can be overlapped: this is the one pass over a row that does not wait for memory.
template <bool kStore, class T, class Exponents, class Meanwhile>
HWY_INLINE double ExpSumOf(const T* x, size_t n, Exponents& exponents, size_t apart, T* e, const Meanwhile& meanwhile) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  constexpr size_t kChunk = 4 * kRowLanes<T>;
  const size_t lanes = hn::Lanes(d);
  Accumulator<T> sum;
  size_t edge = apart < n ? apart / kChunk * kChunk : n;
  for (size_t i = 0; i < n;) {
    const size_t stop = i <= edge ? HWY_MIN(edge, n / kChunk * kChunk) : n / kChunk * kChunk;
    for (; i < stop; i += kChunk) {
      meanwhile(i);
      HWY_UNROLL(4)
      for (size_t index = 0; index < Accumulator<T>::kVectors; ++index) {
        V v[4];
        HWY_UNROLL(4)
        for (size_t k = 0; k < 4; ++k) {
          v[k] = exponents.Of(hn::LoadU(d, x + i + k * kRowLanes<T> + index * lanes));
        }
        exponents.Add(index, v);
        RaisedExp(d, v);
        HWY_UNROLL(4)
        for (size_t k = 0; k < 4; ++k) {
          if (kStore) hn::StoreU(v[k], d, e + i + k * kRowLanes<T> + index * lanes);
        }
        sum.Add(index, hn::Add(hn::Add(v[0], v[1]), hn::Add(v[2], v[3])));
      }
    }
    if (i == n) break;
    ExpSumEdge<kStore>(x, i, n, exponents, apart, e, sum);
    i += kChunk;
  }
  return sum.Total() * static_cast<double>(kLower<T>);
}

template <bool kStore, class T, class Exponents>
HWY_INLINE double ExpSumOf(const T* x, size_t n, Exponents& exponents, size_t apart, T* e) {
  return ExpSumOf<kStore>(x, n, exponents, apart, e, [](size_t) {});
}

template <bool kStore, class T>
HWY_INLINE double ExpSum(const T* x, size_t n, T max, size_t apart, T* e) {
  Differences<T> exponents(max);
  return ExpSumOf<kStore>(x, n, exponents, apart, e);
}

// A row on its way to memory: factor * e[i] + shift, but `value` at i = apart (nowhere if apart is n). It is written
// while the next row's exponentials are computed, so that neither waits for the other's chains of operations. A shift
// of -0 is none.
template <class T>
class PendingRow {
 public:
  using D = hn::ScalableTag<T>;

  // With `stream`, the row is written around the caches.
  HWY_INLINE void Start(const T* e, T* to, size_t n, T factor, size_t apart, T value, bool stream, T shift = T(-0.0)) {
    const D d;
    stream_ = stream;
    e_ = e;
    to_ = to;
    n_ = n;
    factor_ = factor;
    apart_ = apart;
    value_ = value;
    shift_ = shift;
    done_ = HWY_MIN(ElementsToAlignment(d, to), n);
    if (done_ != 0) StorePartial(Scaled(LoadPartial(d, e, done_)), d, to, done_);
  }

  // Writes whole vectors from where it stands, `count` elements or more.
  HWY_INLINE void Advance(size_t count) {
    const D d;
    const size_t lanes = hn::Lanes(d);
    const size_t stop = HWY_MIN(n_, done_ + count);
    if (stream_) {
      for (; done_ + lanes <= stop; done_ += lanes) hn::Stream(Scaled(hn::LoadU(d, e_ + done_)), d, to_ + done_);
    } else {
      for (; done_ + lanes <= stop; done_ += lanes) hn::StoreU(Scaled(hn::LoadU(d, e_ + done_)), d, to_ + done_);
    }
  }

  HWY_INLINE void Finish() {
    const D d;
    Advance(n_);
    if (done_ < n_) StorePartial(Scaled(LoadPartial(d, e_ + done_, n_ - done_)), d, to_ + done_, n_ - done_);
    if (apart_ < n_) to_[apart_] = value_;
    n_ = done_ = 0;
  }

 private:
  HWY_INLINE hn::Vec<D> Scaled(hn::Vec<D> e) const {
    const D d;
    return hn::MulAdd(hn::Mul(e, hn::Set(d, kLower<T>)), hn::Set(d, factor_), hn::Set(d, shift_));
  }

  const T* e_ = nullptr;
  T* to_ = nullptr;
  size_t n_ = 0, done_ = 0, apart_ = 0;
  T factor_ = 0, value_ = 0, shift_ = 0;
  bool stream_ = false;
};

// What goes on during ExpSum of a row: the row after it is fetched, the one before it written.
template <class T, class Exponents>
HWY_INLINE double ExpSumOverlapped(const T* x, size_t n, Exponents& exponents, size_t apart, T* e,
                                   PendingRow<T>& pending) {
  PendingRow<T> before = pending;  // a copy that the compiler can keep in registers
  const double sum = ExpSumOf<true>(x, n, exponents, apart, e, [&](size_t i) HWY_ATTR {
    HWY_UNROLL(4)
    for (size_t k = 0; k < 4; ++k) hwy::Prefetch(x + n + i + k * kRowLanes<T>);
    before.Advance(4 * kRowLanes<T>);
  });
  before.Finish();
  pending = before;
  return sum;
}

// -------------------------------------------------------------------------------------------------- short rows

// Up to Lanes(d) rows of at most kRowLanes elements at a time. A row is a vector (on narrow targets a few), and
// sums and maxima over rows come from a tree that halves the lanes of two vectors at once, so that it ends with
// a vector that has one row's result per lane. The order of additions within a row is the same on all targets:
// i and i + n/2, and so on.
template <class T>
class ShortRows {
 public:
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  static constexpr size_t kStride = kRowLanes<T>;
  static constexpr size_t kGroup = HWY_MAX_BYTES / sizeof(T);

  HWY_INLINE explicit ShortRows(size_t classes)
      : classes_(classes), parts_(kStride == kGroup ? 1 : (classes + kGroup - 1) / kGroup) {}

  // Elements in part `part` of a row.
  HWY_INLINE size_t Count(size_t part) const { return HWY_MIN(classes_ - part * kGroup, kGroup); }

  // body(row, part, offset in a buffer of rows) for all vectors of `rows` rows.
  template <class Body>
  HWY_INLINE void ForEach(size_t rows, const Body& body) const {
    for (size_t row = 0; row < rows; ++row) {
      for (size_t part = 0; part < parts_; ++part) body(row, part, row * kStride + part * kGroup);
    }
  }

  // x := 2^kRaise exp(x - max[row]) for all rows of `buffer`; with kScaled, exp((x - max[row]) * factor).
  template <bool kScaled = false>
  HWY_INLINE void Exp(const T* HWY_RESTRICT max, T* HWY_RESTRICT buffer, T factor = T(1)) const {
    const D d;
    constexpr size_t kAtOnce = HWY_MIN(4, kGroup);
    for (size_t row = 0; row < kGroup; row += kAtOnce) {
      for (size_t part = 0; part < parts_; ++part) {
        T* at = buffer + row * kStride + part * kGroup;
        V v[kAtOnce];
        HWY_UNROLL(4)
        for (size_t k = 0; k < kAtOnce; ++k) {
          v[k] = hn::Sub(hn::Load(d, at + k * kStride), hn::Set(d, max[row + k]));
          if constexpr (kScaled) v[k] = hn::Mul(v[k], hn::Set(d, factor));
        }
        RaisedExp(d, v);
        HWY_UNROLL(4)
        for (size_t k = 0; k < kAtOnce; ++k) hn::Store(v[k], d, at + k * kStride);
      }
    }
  }

  // Lane r: the row r of `buffer` (kGroup rows of kStride elements) reduced with `op`.
  template <class Op>
  HWY_INLINE V Reduce(const T* HWY_RESTRICT buffer, const Op& op) const {
    const D d;
    V v[kGroup];
    HWY_UNROLL(16)
    for (size_t row = 0; row < kGroup; ++row) {
      const T* from = buffer + row * kStride;
      v[row] = hn::Load(d, from);
      if constexpr (kStride == 2 * kGroup) {
        if (parts_ == 2) v[row] = op(v[row], hn::Load(d, from + kGroup));
      } else if constexpr (kStride == 4 * kGroup) {
        if (parts_ > 2) v[row] = op(v[row], hn::Load(d, from + 2 * kGroup));
        V other = v[row];
        if (parts_ > 1) other = hn::Load(d, from + kGroup);
        if (parts_ > 3) other = op(other, hn::Load(d, from + 3 * kGroup));
        if (parts_ > 1) v[row] = op(v[row], other);
      }
    }
    size_t n = kGroup;
    if constexpr (sizeof(V) == 64) {
      n /= 2;
      HWY_UNROLL(16)
      for (size_t i = 0; i < n; ++i) {
        v[i] = op(hn::ConcatLowerLower(d, v[i + n], v[i]), hn::ConcatUpperUpper(d, v[i + n], v[i]));
      }
    }
    if constexpr (sizeof(V) >= 32) {
      n /= 2;
      HWY_UNROLL(16)
      for (size_t i = 0; i < n; ++i) {
        v[i] = op(hn::OddEvenBlocks(hn::SwapAdjacentBlocks(v[i + n]), v[i]),
                  hn::OddEvenBlocks(v[i + n], hn::SwapAdjacentBlocks(v[i])));
      }
    }
    HWY_UNROLL(16)
    for (size_t i = 0; i < n; i += 2) {
      v[i / 2] = op(hn::InterleaveLower(d, v[i], v[i + 1]), hn::InterleaveUpper(d, v[i], v[i + 1]));
    }
    if constexpr (sizeof(T) == 4) {
      const hn::RepartitionToWide<D> wide;
      const auto a = hn::BitCast(wide, v[0]);
      const auto b = hn::BitCast(wide, v[1]);
      v[0] = op(hn::BitCast(d, hn::InterleaveLower(wide, a, b)), hn::BitCast(d, hn::InterleaveUpper(wide, a, b)));
    }
    return v[0];
  }

  HWY_INLINE V Sum(const T* HWY_RESTRICT buffer) const {
    return Reduce(buffer, [](V a, V b) HWY_ATTR { return hn::Add(a, b); });
  }
  HWY_INLINE V Max(const T* HWY_RESTRICT buffer) const {
    return Reduce(buffer, [](V a, V b) HWY_ATTR { return hn::Max(a, b); });
  }

  // Copies `rows` rows from x to `buffer`, filled up with -inf, and the last one again to fill the group.
  HWY_INLINE void Load(const T* HWY_RESTRICT x, size_t rows, T* HWY_RESTRICT buffer) const {
    const D d;
    const V fill = hn::Set(d, kMinusInf<T>);
    ForEach(kGroup, [&](size_t row, size_t part, size_t at) HWY_ATTR {
      const size_t count = Count(part);
      const T* from = x + HWY_MIN(row, rows - 1) * classes_ + part * kGroup;
      hn::Store(hn::IfThenElse(hn::FirstN(d, count), LoadPartial(d, from, count), fill), d, buffer + at);
    });
  }

 private:
  size_t classes_, parts_;
};

// ------------------------------------------------------------------------------------------------------ blocks

inline size_t RowsPerBlock(size_t classes) {
  const size_t rows = HWY_MIN(kMaxBlockRows, HWY_MAX(size_t{1}, kBlock / HWY_MAX(classes, size_t{1})));
  return rows < 16 ? rows : rows / 16 * 16;
}

// One buffer of n elements for each thread of a loop; none if n is 0. Allocated by the caller, who may throw.
template <class T>
class Scratch {
 public:
  explicit Scratch(size_t n) : stride_((n + 63) / 64 * 64) {
    if (n == 0) return;
    slots_ = static_cast<size_t>(MaxParticipants());
    data_.reset(new T[slots_ * stride_ + 64]);  // not filled: it may be far larger than what is used of it
    busy_.reset(new std::atomic<bool>[slots_]());
    offset_ = (64 - reinterpret_cast<uintptr_t>(data_.get()) % 64) % 64 / sizeof(T);
  }

  // A thread's hold on a buffer. A loop has at most MaxParticipants() threads, so that one is
  // free, or soon is if the number was raised since.
  class Use {
   public:
    explicit Use(Scratch& scratch) : scratch_(scratch) {
      if (scratch_.slots_ == 0) return;
      while (scratch_.busy_[slot_].exchange(true, std::memory_order_acquire)) {
        slot_ = (slot_ + 1) % scratch_.slots_;
      }
    }
    ~Use() {
      if (scratch_.slots_ != 0) scratch_.busy_[slot_].store(false, std::memory_order_release);
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    T* data() const { return scratch_.data_.get() + scratch_.offset_ + slot_ * scratch_.stride_; }

   private:
    Scratch& scratch_;
    size_t slot_ = 0;
  };

 private:
  size_t slots_ = 0, stride_, offset_ = 0;
  std::unique_ptr<T[]> data_;
  std::unique_ptr<std::atomic<bool>[]> busy_;
};

// Calls body(begin, end) for ranges of [0, rows) that are made of whole blocks, on all threads if there is
// enough to do.
template <class Body>
HWY_INLINE void ForEachRowRange(size_t rows, size_t classes, const Body& body) {
  const size_t length = RowsPerBlock(classes);
  const size_t blocks = (rows + length - 1) / length;
  const int threads = rows * (classes + 8) < kParallelElements ? 1 : NumThreads();
  if (threads == 1) {
    if (rows != 0) body(size_t{0}, rows);
    return;
  }
  const size_t range = length * HWY_MAX(size_t{1}, blocks / (static_cast<size_t>(threads) * 16));
  ParallelFor((rows + range - 1) / range, [&](size_t task) { body(task * range, HWY_MIN(rows, (task + 1) * range)); });
}

}  // namespace softmax
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#endif  // FUSEPROP_KERNELS_ACTIVATIONS_SOFTMAX_INL_H_
