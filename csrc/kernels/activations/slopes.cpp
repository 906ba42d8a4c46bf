// The array is taken as rows of one period: the channels, repeated until whole vectors serve. So one loop does for
// one slope, slopes per channel and slopes per element.

#include "kernels/activations/slopes.h"

#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activations/slopes.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "simd/loops-inl.h"

#ifndef FUSEPROP_KERNELS_SLOPES_CPP_  // this file is read once per target
#define FUSEPROP_KERNELS_SLOPES_CPP_
namespace fuseprop {
namespace {

template <class T>
struct SlopesFunctions {
  void (*forward)(const T*, const T*, size_t, size_t, T*);
  void (*backward)(const T*, const T*, const T*, size_t, size_t, T*, double*);
};

struct SlopesTable {
  SlopesFunctions<float> f32;
  SlopesFunctions<double> f64;
};

// Elements of a period, at least.
constexpr size_t kPeriod = 256;
// Sums are kept for at most so many blocks of rows.
constexpr size_t kMaxBlocks = 64;
// Elements beyond a period that a whole vector may touch.
constexpr size_t kPadding = 16;

constexpr size_t PeriodOf(size_t channels) {
  return channels == 0 ? kPeriod : channels * ((kPeriod + channels - 1) / channels);
}

// The slopes of one period, or of all n elements if they are fewer.
template <class T>
class PeriodOfSlopes {
 public:
  PeriodOfSlopes(const T* slopes, size_t channels, size_t n) : data_(slopes) {
    const size_t used = std::min(PeriodOf(channels), n);
    if (used <= channels) return;
    std::copy(slopes, slopes + channels, few_);
    for (size_t done = channels; done < used; done *= 2) {
      std::copy(few_, few_ + std::min(done, used - done), few_ + done);
    }
    data_ = few_;
  }
  const T* data() const { return data_; }

 private:
  const T* data_;
  T few_[2 * kPeriod];  // fewer channels than kPeriod have a period below twice that
};

}  // namespace
}  // namespace fuseprop
#endif  // FUSEPROP_KERNELS_SLOPES_CPP_

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

// x if x > 0 else slope x; as in LeakyReLU, a slope of 0 gives the limit 0 at -inf.
template <class D, class V>
HWY_INLINE V Value(D d, V x, V slope) {
  using T = hn::TFromD<D>;
  const V sign_or_nan = hn::IfThenElse(hn::IsNaN(x), x, hn::CopySign(hn::Set(d, T(1)), x));
  const V left = hn::IfThenElse(hn::Eq(slope, hn::Zero(d)), sign_or_nan, x);
  return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), x, hn::Mul(slope, left));
}

template <class D, class V>
HWY_INLINE V Derivative(D d, V x, V slope) {
  const V left = hn::IfThenElse(hn::IsNaN(x), x, slope);
  return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), hn::Set(d, hn::TFromD<D>(1)), left);
}

template <class T>
void Forward(const T* x, const T* slopes, size_t channels, size_t n, T* y) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const PeriodOfSlopes<T> periodic(slopes, channels, n);
  const size_t period = PeriodOf(channels);
  const bool stream = x != y && n * sizeof(T) >= kStreamBytes;
  ForEachRange(n, [&](size_t range_begin, size_t range_end) HWY_ATTR {
    for (size_t i = range_begin; i < range_end;) {
      const size_t begin = i % period;
      const size_t end = HWY_MIN(period, begin + (range_end - i));
      MapRange([](D d, V vx, V slope) HWY_ATTR { return Value(d, vx, slope); }, y + (i - begin), begin, end, stream,
               x + (i - begin), periodic.data());
      i += end - begin;
    }
  });
}

template <class T>
void BackwardAlone(const T* x, const T* dy, const T* slopes, size_t channels, size_t n, T* dx) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const PeriodOfSlopes<T> periodic(slopes, channels, n);
  const size_t period = PeriodOf(channels);
  const bool stream = x != dx && dy != dx && n * sizeof(T) >= kStreamBytes;
  ForEachRange(n, [&](size_t range_begin, size_t range_end) HWY_ATTR {
    for (size_t i = range_begin; i < range_end;) {
      const size_t begin = i % period;
      const size_t end = HWY_MIN(period, begin + (range_end - i));
      MapRange([](D d, V vx, V vdy, V slope) HWY_ATTR { return hn::Mul(vdy, Derivative(d, vx, slope)); },
               dx + (i - begin), begin, end, stream, x + (i - begin), dy + (i - begin), periodic.data());
      i += end - begin;
    }
  });
}

// One vector of a row: writes dx and adds to the sums of its columns, which may be touched beyond `count`.
template <bool kFull, class T>
HWY_INLINE void BackwardVector(const T* x, const T* dy, const T* slopes, size_t count, T* dx, double* sums) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const auto load = [&](const T* from) HWY_ATTR { return kFull ? hn::LoadU(d, from) : LoadPartial(d, from, count); };
  const V vx = load(x);
  const V vdy = load(dy);
  const V result = hn::Mul(vdy, Derivative(d, vx, load(slopes)));
  const auto right = hn::Gt(vx, hn::Zero(d));
  const V left_x = hn::IfThenZeroElse(right, vx);
  const V left_dy = hn::IfThenZeroElse(right, vdy);
  if (kFull) {
    hn::StoreU(result, d, dx);
  } else {
    StorePartial(result, d, dx, count);
  }
  const hn::ScalableTag<double> d64;
  if constexpr (sizeof(T) == 4) {
    const hn::Half<decltype(d)> half;
    const size_t lanes64 = hn::Lanes(d64);
    // The products are formed in float64, where they are exact and do not overflow.
    const auto low =
        hn::Mul(hn::PromoteTo(d64, hn::LowerHalf(half, left_dy)), hn::PromoteTo(d64, hn::LowerHalf(half, left_x)));
    const auto high =
        hn::Mul(hn::PromoteTo(d64, hn::UpperHalf(half, left_dy)), hn::PromoteTo(d64, hn::UpperHalf(half, left_x)));
    hn::StoreU(hn::Add(hn::LoadU(d64, sums), low), d64, sums);
    hn::StoreU(hn::Add(hn::LoadU(d64, sums + lanes64), high), d64, sums + lanes64);
  } else {
    hn::StoreU(hn::Add(hn::LoadU(d64, sums), hn::Mul(left_dy, left_x)), d64, sums);
  }
}

// to[j] += from[j].
HWY_INLINE void AddTo(const double* from, size_t n, double* to) {
  for (size_t j = 0; j < n; ++j) to[j] += from[j];
}

template <class T>
void Backward(const T* x, const T* dy, const T* slopes, size_t channels, size_t n, T* dx, double* dslopes) {
  if (dslopes == nullptr) {
    BackwardAlone(x, dy, slopes, channels, n, dx);
    return;
  }
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const PeriodOfSlopes<T> periodic(slopes, channels, n);
  const size_t period = PeriodOf(channels);
  const size_t rows = (n + period - 1) / period;
  const size_t rows_per_block = HWY_MAX(HWY_MAX(size_t{1}, kBlock / period), (rows + kMaxBlocks - 1) / kMaxBlocks);
  const size_t blocks = (rows + rows_per_block - 1) / rows_per_block;
  const size_t stride = period + kPadding;
  std::vector<double> sums(HWY_MAX(blocks, size_t{1}) * stride);
  const auto compute = [&](size_t block) HWY_ATTR {
    double* to = sums.data() + block * stride;
    const size_t end = HWY_MIN(n, (block + 1) * rows_per_block * period);
    for (size_t row = block * rows_per_block * period; row < end; row += period) {
      const size_t columns = HWY_MIN(period, end - row);
      size_t j = 0;
      for (; j + lanes <= columns; j += lanes) {
        BackwardVector<true>(x + row + j, dy + row + j, periodic.data() + j, lanes, dx + row + j, to + j);
      }
      if (j < columns) {
        BackwardVector<false>(x + row + j, dy + row + j, periodic.data() + j, columns - j, dx + row + j, to + j);
      }
    }
  };
  if (n < kParallelElements) {
    for (size_t block = 0; block < blocks; ++block) compute(block);
  } else {
    ParallelFor(blocks, compute);
  }
  const size_t used = HWY_MIN(period, n);
  for (size_t step = 1; step < blocks; step *= 2) {
    for (size_t block = 0; block + step < blocks; block += 2 * step) {
      AddTo(sums.data() + (block + step) * stride, used, sums.data() + block * stride);
    }
  }
  for (size_t c = 0; c < channels; ++c) dslopes[c] = c < used ? sums[c] : 0.0;
  for (size_t j = channels; j < used; j += channels) {
    AddTo(sums.data() + j, HWY_MIN(channels, used - j), dslopes);
  }
}

const SlopesTable& Table() {
  static constexpr SlopesTable table = {{Forward<float>, Backward<float>}, {Forward<double>, Backward<double>}};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(Table);

void SlopesForward(const float* x, const float* slopes, size_t channels, size_t n, float* y) {
  FUSEPROP_DISPATCH(Table)().f32.forward(x, slopes, channels, n, y);
}
void SlopesForward(const double* x, const double* slopes, size_t channels, size_t n, double* y) {
  FUSEPROP_DISPATCH(Table)().f64.forward(x, slopes, channels, n, y);
}
void SlopesBackward(const float* x, const float* dy, const float* slopes, size_t channels, size_t n, float* dx,
                    double* dslopes) {
  FUSEPROP_DISPATCH(Table)().f32.backward(x, dy, slopes, channels, n, dx, dslopes);
}
void SlopesBackward(const double* x, const double* dy, const double* slopes, size_t channels, size_t n, double* dx,
                    double* dslopes) {
  FUSEPROP_DISPATCH(Table)().f64.backward(x, dy, slopes, channels, n, dx, dslopes);
}
}  // namespace fuseprop
#endif  // HWY_ONCE
