// The statistics of columns are taken over blocks of a few rows, each about its own mean, and merged; those of a row in
// two passes, the second from the cache. So no difference of large sums cancels.
//
// Near the ends of the range squares, sums and 1 / sqrt(var + eps) overflow or vanish, in float64 or in T. Whether they
// can is seen from the statistics, and of dy from its largest element. Such columns and rows are computed one by one,
// in float64 and divided by powers of two.

#include "kernels/dense/norms.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dense/norms.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "simd/loops-inl.h"

#ifndef FUSEPROP_KERNELS_DENSE_NORMS_ONCE
#define FUSEPROP_KERNELS_DENSE_NORMS_ONCE
namespace fuseprop {
namespace {

struct NormTable {
  void (*batch_f32)(const NormForward<float>&, bool);
  void (*batch_f64)(const NormForward<double>&, bool);
  void (*batch_backward_f32)(const NormBackward<float>&);
  void (*batch_backward_f64)(const NormBackward<double>&);
  void (*layer_f32)(const NormForward<float>&);
  void (*layer_f64)(const NormForward<double>&);
  void (*layer_backward_f32)(const NormBackward<float>&);
  void (*layer_backward_f64)(const NormBackward<double>&);
};

// Rows of a block: few enough that rows a page apart do not evict each other from the first cache.
constexpr size_t kBlockRows = 8;
// Strips are what threads take, each with sums of its own.
constexpr size_t kMaxStrips = 32;
// Below this many elements a second thread costs more than it saves.
constexpr size_t kParallelNorm = kParallelElements / 2;

// Cuts rows into strips of whole blocks; the cut depends on nothing but their number.
struct Strips {
  explicit Strips(size_t num_rows)
      : rows(num_rows), length(CeilDiv(CeilDiv(num_rows, kMaxStrips), 2 * kBlockRows) * 2 * kBlockRows) {
    count = rows == 0 ? 0 : CeilDiv(rows, length);
  }
  size_t begin(size_t strip) const { return strip * length; }
  size_t end(size_t strip) const { return std::min(rows, (strip + 1) * length); }

  size_t rows, length, count;
};

// Calls body(strip) for all strips, on all threads if they hold much.
template <class Body>
void ForEachStrip(const Strips& strips, size_t n, const Body& body) {
  if (strips.rows * n >= kParallelNorm) {
    ParallelFor(strips.count, body);
  } else {
    for (size_t strip = 0; strip < strips.count; ++strip) body(strip);
  }
}

// Calls body(begin, end) for ranges that cover [0, rows), on all threads if they hold much.
template <class Body>
void ForEachRowRange(size_t rows, size_t n, const Body& body) {
  if (rows * n < kParallelNorm) {
    if (rows != 0) body(size_t{0}, rows);
    return;
  }
  const size_t ranges = static_cast<size_t>(NumThreads()) * 16;
  const size_t length = std::max(CeilDiv(kBlock, n), CeilDiv(rows, ranges));
  ParallelFor(CeilDiv(rows, length), [&](size_t range) { body(range * length, std::min(rows, (range + 1) * length)); });
}

// Memory that a thread keeps, so that a call in a loop allocates nothing.
template <class T>
struct NormScratch {
  std::vector<double> sums;
  std::vector<T> columns;

  static NormScratch& Get(size_t num_sums, size_t num_columns) {
    thread_local NormScratch scratch;
    if (scratch.sums.size() < num_sums) scratch.sums.resize(num_sums);
    if (scratch.columns.size() < num_columns) scratch.columns.resize(num_columns);
    return scratch;
  }
};

inline double ReciprocalRoot(double var, double eps) { return 1.0 / std::sqrt(var + eps); }

// The part of `value` that rounding it to T lost.
template <class T>
T LowPart(double value) {
  return static_cast<T>(value - static_cast<double>(static_cast<T>(value)));
}

// --- columns and rows near the ends of the range

// 2^-kForward to 2^kForward is where the forward pass is at ease, the backward pass within narrower limits: it
// multiplies deviations by dy, and divides by the variance.
template <class T>
constexpr int kForward = sizeof(T) == sizeof(float) ? 96 : 480;
template <class T>
constexpr int kBackward = sizeof(T) == sizeof(float) ? 40 : 240;

constexpr double PowerOfTwo(int exponent) {
  double power = 1.0;
  for (int i = 0; i < exponent; ++i) power *= 2.0;
  for (int i = 0; i > exponent; --i) power /= 2.0;
  return power;
}

// Elements smaller than this are too small. Where eps is by far the largest part of a variance, those that the forward
// pass can bear will do for the backward pass too: dx hardly depends on them (units that are all but dead are common).
template <class T, int k>
double LeastSize(double eps) {
  constexpr double kCarries = PowerOfTwo(60 - 2 * k);
  return eps > kCarries ? PowerOfTwo(-kForward<T>) : PowerOfTwo(-k);
}

// Whether statistics of n elements are within 2^-k to 2^k. NaN is not.
template <class T, int k>
bool IsAtEase(double mean, double var, size_t n, double eps) {
  constexpr double kMost = PowerOfTwo(k), kLeast = PowerOfTwo(-k);
  const double size = std::fabs(mean);
  const double least = LeastSize<T, k>(eps);
  return size < kMost && (var + eps) * static_cast<double>(n) < kMost * kMost && var + eps > kLeast * kLeast &&
         (size == 0.0 || size > least || var > least * least);
}

// Whether weight / sqrt(var), as T, keeps its accuracy.
template <class T>
bool IsFactor(double weight, double var) {
  constexpr double kMost = PowerOfTwo(kForward<T> + 14), kLeast = PowerOfTwo(-kForward<T> - 14);
  const double square = weight * weight;
  return weight == 0.0 || (square < var * kMost * kMost && square > var * kLeast * kLeast);
}

// The largest |dy|, or |dy weight|, for which nothing overflows.
template <class T>
constexpr double kMostGradient = PowerOfTwo(sizeof(T) == sizeof(float) ? 60 : 400);

// Elements of a column or of a row.
template <class T>
struct Line {
  const T* first;
  size_t count, step;

  double operator[](size_t i) const { return static_cast<double>(first[i * step]); }
  // The size of the largest one; infinite if one is not finite.
  double Largest() const {
    double largest = 0.0;
    for (size_t i = 0; i < count; ++i) {
      const double size = std::fabs((*this)[i]);
      if (!std::isfinite(size)) return std::numeric_limits<double>::infinity();
      largest = std::max(largest, size);
    }
    return largest;
  }
};

// The exponent of a power of two above `size`; 0 for 0.
inline int ExponentOf(double size) {
  int exponent = 0;
  std::frexp(size, &exponent);
  return exponent;
}

// A line divided by 2^exponent: its elements are at most 1 then.
template <class T>
class CarefulLine {
 public:
  CarefulLine(const Line<T>& x, double eps) : x_(x) {
    const double largest = x.Largest();
    is_finite_ = std::isfinite(largest) && x.count != 0;
    if (!is_finite_) return;
    exponent_ = ExponentOf(largest);
    // Where eps is by far the larger one, its quotient must not overflow.
    if (eps != 0.0) exponent_ = std::max(exponent_, (ExponentOf(eps) - 900) / 2);
    const auto n = static_cast<double>(x.count);
    // The second time for what the first one's rounding left: a constant has no deviations.
    for (int round = 0; round < 2; ++round) {
      double sum = 0.0;
      for (size_t i = 0; i < x.count; ++i) sum += At(i) - mean_;
      mean_ += sum / n;
    }
    double squares = 0.0;
    for (size_t i = 0; i < x.count; ++i) squares += (At(i) - mean_) * (At(i) - mean_);
    var_ = squares / n;
    if (var_ == 0.0 && exponent_ > 0) {
      // A large constant, which is its own mean: eps alone counts, however much smaller it is.
      mean_ = std::ldexp(mean_, exponent_);
      exponent_ = 0;
    }
    const double sum = var_ + std::ldexp(eps, -2 * exponent_);
    rstd_ = sum == 0.0 ? 0.0 : 1.0 / std::sqrt(sum);
  }

  bool is_finite() const { return is_finite_; }
  int exponent() const { return exponent_; }
  double mean() const { return std::ldexp(mean_, exponent_); }
  double var() const { return std::ldexp(var_, 2 * exponent_); }
  double rstd() const { return rstd_; }
  double Xhat(size_t i) const { return Deviation(i) * rstd_; }
  // factor xhat where xhat itself may vanish.
  double TimesXhat(double factor, size_t i) const { return TimesRstd(factor, Deviation(i)); }
  double TimesRstd(double a, double b) const {
    int of_a = 0, of_b = 0, of_rstd = 0;
    const double mantissa = std::frexp(a, &of_a) * std::frexp(b, &of_b) * std::frexp(rstd_, &of_rstd);
    return std::ldexp(mantissa, of_a + of_b + of_rstd);
  }
  double Deviation(size_t i) const { return At(i) - mean_; }

 private:
  double At(size_t i) const { return std::ldexp(x_[i], -exponent_); }

  Line<T> x_;
  bool is_finite_ = false;
  int exponent_ = 0;
  double mean_ = 0.0, var_ = 0.0, rstd_ = 0.0;
};

// dx of a line, where g = dy weight; weight and dx are given by their element's number.
template <class T>
class CarefulGradient {
 public:
  template <class Weight>
  CarefulGradient(const CarefulLine<T>& x, const Line<T>& dy, const Weight& weight) : x_(x), dy_(dy) {
    const double largest = dy.Largest();
    double largest_weight = 0.0;
    for (size_t i = 0; i < dy.count; ++i) largest_weight = std::max(largest_weight, std::fabs(weight(i)));
    of_dy_ = std::isfinite(largest) ? ExponentOf(largest) : 0;
    of_weight_ = std::isfinite(largest_weight) ? ExponentOf(largest_weight) : 0;
    double sum = 0.0, products = 0.0;
    for (size_t i = 0; i < dy.count; ++i) {
      const double g = Dy(i) * std::ldexp(weight(i), -of_weight_);
      sum += g;
      products += g * x.Xhat(i);
      sum_dy_ += Dy(i);
      sum_dy_t_ += Dy(i) * x.Deviation(i);
    }
    mean_ = sum / static_cast<double>(dy.count);
    slope_ = products / static_cast<double>(dy.count);
  }

  double SumDy() const { return std::ldexp(sum_dy_, of_dy_); }
  double SumDyXhat() const { return x_.TimesRstd(sum_dy_t_, std::ldexp(1.0, of_dy_ - 1)) * 2.0; }
  T Dx(size_t i, double weight) const {
    const double xhat = x_.Xhat(i);
    const double rest = Dy(i) * std::ldexp(weight, -of_weight_) - mean_ - xhat * slope_;
    return static_cast<T>(std::ldexp(rest * x_.rstd(), of_dy_ + of_weight_ - x_.exponent()));
  }

 private:
  double Dy(size_t i) const { return std::ldexp(dy_[i], -of_dy_); }

  const CarefulLine<T>& x_;
  Line<T> dy_;
  int of_dy_ = 0, of_weight_ = 0;
  double sum_dy_ = 0.0, sum_dy_t_ = 0.0, mean_ = 0.0, slope_ = 0.0;
};

template <class T>
double WeightOf(const T* weight, size_t i) {
  return weight == nullptr ? 1.0 : static_cast<double>(weight[i]);
}

// What becomes of a column that is computed on its own: kept until the others, which may take its place, are done.
template <class T>
struct CarefulColumn {
  size_t column;
  std::vector<T> values;  // y or dx
  double dweight = 0.0, dbias = 0.0;
  double old_dweight = 0.0, old_dbias = 0.0;
};

template <class T>
void Scatter(const std::vector<CarefulColumn<T>>& columns, size_t n, T* to) {
  for (const auto& column : columns) {
    for (size_t row = 0; row < column.values.size(); ++row) to[row * n + column.column] = column.values[row];
  }
}

// y of the columns that the statistics say to be careful with. Statistics found here are corrected.
template <class T>
std::vector<CarefulColumn<T>> CarefulForward(const NormForward<T>& args, bool training) {
  std::vector<CarefulColumn<T>> columns;
  for (size_t j = 0; j < args.n; ++j) {
    const double weight = WeightOf(args.weight, j);
    const double bias = args.bias == nullptr ? 0.0 : static_cast<double>(args.bias[j]);
    const double mean = args.mean[j], var = args.var[j];
    const Line<T> x = {args.x + j, args.rows, args.n};
    const bool is_factor = IsFactor<T>(weight, var + args.eps);
    if (training) {
      if (is_factor && IsAtEase<T, kForward<T>>(mean, var, args.rows, args.eps)) continue;
      const CarefulLine<T> line(x, args.eps);
      if (!line.is_finite()) continue;
      args.mean[j] = line.mean();
      args.var[j] = line.var();
      CarefulColumn<T> column = {j, std::vector<T>(args.rows)};
      for (size_t i = 0; i < args.rows; ++i) column.values[i] = static_cast<T>(line.TimesXhat(weight, i) + bias);
      columns.push_back(std::move(column));
    } else {
      constexpr double kMost = PowerOfTwo(kForward<T>);
      if (is_factor && std::fabs(mean) < kMost) continue;
      if (!std::isfinite(mean) || !std::isfinite(var)) continue;
      const double rstd = ReciprocalRoot(var, args.eps);
      CarefulColumn<T> column = {j, std::vector<T>(args.rows)};
      for (size_t i = 0; i < args.rows; ++i) {
        const double t = 0.5 * x[i] - 0.5 * mean;  // the difference itself may overflow
        column.values[i] = static_cast<T>(2.0 * (t * rstd) * weight + bias);
      }
      columns.push_back(std::move(column));
    }
  }
  return columns;
}

// dx and the sums of the columns that the statistics, or dy, say to be careful with.
template <class T>
std::vector<CarefulColumn<T>> CarefulBackward(const NormBackward<T>& args, bool dy_is_large) {
  std::vector<CarefulColumn<T>> columns;
  for (size_t j = 0; j < args.n; ++j) {
    const double weight = WeightOf(args.weight, j);
    const Line<T> dy = {args.dy + j, args.rows, args.n};
    const bool at_ease = IsFactor<T>(weight, args.var[j] + args.eps) &&
                         IsAtEase<T, kBackward<T>>(args.mean[j], args.var[j], args.rows, args.eps);
    if (at_ease && (!dy_is_large || dy.Largest() <= kMostGradient<T>)) continue;
    const CarefulLine<T> line({args.x + j, args.rows, args.n}, args.eps);
    if (!line.is_finite()) continue;
    const CarefulGradient<T> gradient(line, dy, [&](size_t) { return weight; });
    CarefulColumn<T> column = {j, std::vector<T>(args.dx == nullptr ? 0 : args.rows)};
    for (size_t i = 0; i < column.values.size(); ++i) column.values[i] = gradient.Dx(i, weight);
    column.dweight = gradient.SumDyXhat();
    column.dbias = gradient.SumDy();
    if (args.accumulate && args.dweight != nullptr) column.old_dweight = static_cast<double>(args.dweight[j]);
    if (args.accumulate && args.dbias != nullptr) column.old_dbias = static_cast<double>(args.dbias[j]);
    columns.push_back(std::move(column));
  }
  return columns;
}

// y of a row, and its statistics. Returns whether it is finite: nothing is written otherwise.
template <class T>
bool CarefulRow(const NormForward<T>& args, size_t row) {
  const CarefulLine<T> line({args.x + row * args.n, args.n, 1}, args.eps);
  if (!line.is_finite()) return false;
  if (args.mean != nullptr) args.mean[row] = line.mean();
  if (args.var != nullptr) args.var[row] = line.var();
  for (size_t i = 0; i < args.n; ++i) {
    const double bias = args.bias == nullptr ? 0.0 : static_cast<double>(args.bias[i]);
    args.y[row * args.n + i] = static_cast<T>(line.TimesXhat(WeightOf(args.weight, i), i) + bias);
  }
  return true;
}

// dx of a row, likewise; adds to the sums unless they are null.
template <class T>
bool CarefulRow(const NormBackward<T>& args, size_t row, double* sum_dy, double* sum_dy_xhat) {
  const CarefulLine<T> line({args.x + row * args.n, args.n, 1}, args.eps);
  if (!line.is_finite()) return false;
  const Line<T> dy = {args.dy + row * args.n, args.n, 1};
  for (size_t i = 0; sum_dy != nullptr && i < args.n; ++i) {
    sum_dy[i] += dy[i];
    sum_dy_xhat[i] += line.TimesXhat(dy[i], i);
  }
  if (args.dx == nullptr) return true;
  const CarefulGradient<T> gradient(line, dy, [&](size_t i) { return WeightOf(args.weight, i); });
  for (size_t i = 0; i < args.n; ++i) args.dx[row * args.n + i] = gradient.Dx(i, WeightOf(args.weight, i));
  return true;
}

}  // namespace
}  // namespace fuseprop
#endif  // FUSEPROP_KERNELS_DENSE_NORMS_ONCE

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

using DW = hn::ScalableTag<double>;
using VW = hn::Vec<DW>;

// `count` elements as doubles, the lanes beyond them 0.
template <class T>
HWY_INLINE VW LoadWide(const T* from, size_t count) {
  const DW dw;
  const bool full = count == hn::Lanes(dw);
  if constexpr (sizeof(T) == sizeof(double)) {
    return full ? hn::LoadU(dw, from) : LoadPartial(dw, from, count);
  } else {
    const hn::Rebind<float, DW> d;
    return hn::PromoteTo(dw, full ? hn::LoadU(d, from) : LoadPartial(d, from, count));
  }
}

HWY_INLINE void StoreWide(VW v, double* to, size_t count) {
  const DW dw;
  if (count == hn::Lanes(dw)) {
    hn::StoreU(v, dw, to);
  } else {
    StorePartial(v, dw, to, count);
  }
}

// Stores doubles as T, rounded.
template <class T>
HWY_INLINE void StoreAs(VW v, T* to, size_t count) {
  if constexpr (sizeof(T) == sizeof(double)) {
    StoreWide(v, to, count);
  } else {
    const hn::Rebind<float, DW> d;
    const auto narrow = hn::DemoteTo(d, v);
    if (count == hn::Lanes(d)) {
      hn::StoreU(narrow, d, to);
    } else {
      StorePartial(narrow, d, to, count);
    }
  }
}

// Stores doubles as a sum of two T.
template <class T>
HWY_INLINE void StoreInParts(VW v, T* high, T* low, size_t count) {
  StoreAs(v, high, count);
  StoreAs(hn::Sub(v, LoadWide(high, count)), low, count);
}

// Writes, or adds, doubles to `to` unless it is null.
template <class T>
HWY_INLINE void Put(VW v, bool accumulate, T* to, size_t i, size_t count) {
  if (to == nullptr) return;
  StoreAs(accumulate ? hn::Add(LoadWide(to + i, count), v) : v, to + i, count);
}

HWY_INLINE VW ReciprocalRoots(const double* var, double eps, size_t count) {
  const DW dw;
  return hn::Div(hn::Set(dw, 1.0), hn::Sqrt(hn::Add(LoadWide(var, count), hn::Set(dw, eps))));
}

// The weights of columns, 1 without any.
template <class T>
HWY_INLINE VW Weights(const T* weight, size_t i, size_t count) {
  return weight == nullptr ? hn::Set(DW(), 1.0) : LoadWide(weight + i, count);
}

// Calls step(i, count) for the vectors of [0, n); count < Lanes(d) for the last one alone.
template <class D, class Step>
HWY_INLINE void ForEachColumns(D d, size_t n, const Step& step) {
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) step(i, lanes);
  if (i < n) step(i, n - i);
}

template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadCount(D d, const T* from, size_t count) {
  return count == hn::Lanes(d) ? hn::LoadU(d, from) : LoadPartial(d, from, count);
}

template <class D, class T = hn::TFromD<D>>
HWY_INLINE void StoreCount(hn::Vec<D> v, D d, T* to, size_t count, bool stream) {
  if (stream) {
    hn::Stream(v, d, to);
  } else if (count == hn::Lanes(d)) {
    hn::StoreU(v, d, to);
  } else {
    StorePartial(v, d, to, count);
  }
}

// Whether an output goes around the caches: if it is large (its inputs are as large, and read twice), and all of its
// vectors are whole and aligned.
template <class T>
HWY_INLINE bool StreamsTo(const T* to, size_t rows, size_t n) {
  const size_t lanes = hn::Lanes(hn::ScalableTag<T>());
  return rows * n * sizeof(T) >= 2 * kStreamBytes && n % lanes == 0 &&
         ElementsToAlignment(hn::ScalableTag<T>(), to) == 0;
}
template <class T>
HWY_INLINE bool Streams(const NormForward<T>& args) {
  return args.y != args.x && StreamsTo(args.y, args.rows, args.n);
}
template <class T>
HWY_INLINE bool Streams(const NormBackward<T>& args) {
  return args.dx != nullptr && args.dx != args.x && args.dx != args.dy && StreamsTo(args.dx, args.rows, args.n);
}

// The sum of a block's terms in a fixed tree.
HWY_INLINE VW TreeOfRows(const VW (&v)[kBlockRows]) {
  static_assert(kBlockRows == 8, "the tree has eight leaves");
  return hn::Add(hn::Add(hn::Add(v[0], v[4]), hn::Add(v[1], v[5])), hn::Add(hn::Add(v[2], v[6]), hn::Add(v[3], v[7])));
}

// Merges mean and sum of squared deviations of `more` rows into those of `rows` rows (Chan, Golub & LeVeque 1979).
HWY_INLINE void Merge(VW* mean, VW* squares, size_t rows, VW more_mean, VW more_squares, size_t more) {
  const DW dw;
  const double share = static_cast<double>(more) / static_cast<double>(rows + more);
  const VW delta = hn::Sub(more_mean, *mean);
  const VW between = hn::Mul(delta, hn::Set(dw, share * static_cast<double>(rows)));
  *mean = hn::MulAdd(delta, hn::Set(dw, share), *mean);
  *squares = hn::MulAdd(delta, between, hn::Add(*squares, more_squares));
}

// Mean and sum of squared deviations of each column of a strip of rows.
template <class T>
HWY_INLINE void StripMoments(const T* x, size_t rows, size_t n, double* mean, double* squares) {
  const DW dw;
  for (size_t done = 0; done < rows; done += kBlockRows) {
    const size_t block = HWY_MIN(kBlockRows, rows - done);
    const T* from = x + done * n;
    const VW share = hn::Set(dw, 1.0 / static_cast<double>(block));
    const auto add = [&](auto full, size_t i, size_t count) HWY_ATTR {
      VW v[kBlockRows];
      HWY_UNROLL(8)
      for (size_t r = 0; r < kBlockRows; ++r) {
        v[r] = full || r < block ? LoadWide(from + r * n + i, count) : hn::Zero(dw);
      }
      VW block_mean = hn::Mul(TreeOfRows(v), share);
      HWY_UNROLL(8)
      for (size_t r = 0; r < kBlockRows; ++r) {
        const VW t = hn::Sub(v[r], block_mean);
        v[r] = full || r < block ? hn::Mul(t, t) : hn::Zero(dw);
      }
      VW block_squares = TreeOfRows(v);
      if (done != 0) {
        VW all_mean = LoadWide(mean + i, count);
        VW all_squares = LoadWide(squares + i, count);
        Merge(&all_mean, &all_squares, done, block_mean, block_squares, block);
        block_mean = all_mean;
        block_squares = all_squares;
      }
      StoreWide(block_mean, mean + i, count);
      StoreWide(block_squares, squares + i, count);
    };
    if (block == kBlockRows) {
      ForEachColumns(dw, n, [&](size_t i, size_t count) HWY_ATTR { add(std::true_type(), i, count); });
    } else {
      ForEachColumns(dw, n, [&](size_t i, size_t count) HWY_ATTR { add(std::false_type(), i, count); });
    }
  }
}

// ---------------------------------------------------------------------------------------------------- batch norm

// Whether a maximum is beyond `most`: yes where it is NaN, which a target's maximum may keep or leave out.
HWY_INLINE bool Exceeds(VW largest, double most) { return !hn::AllTrue(DW(), hn::Le(largest, hn::Set(DW(), most))); }

// Whether IsAtEase and IsFactor hold for all columns. A no costs time alone.
template <class T, int k>
HWY_INLINE bool AreAtEase(const double* mean, const double* var, const T* weight, size_t rows, size_t n, double eps) {
  const DW dw;
  constexpr double kMost = PowerOfTwo(k), kLeast = PowerOfTwo(-k);
  constexpr double kMostFactor = PowerOfTwo(kForward<T> + 14), kLeastFactor = PowerOfTwo(-kForward<T> - 14);
  const double least_size = LeastSize<T, k>(eps);
  const VW least = hn::Set(dw, least_size);
  const VW least_spread = hn::Set(dw, least_size * least_size);
  const VW least_square = hn::Set(dw, kLeast * kLeast);
  const VW v_rows = hn::Set(dw, static_cast<double>(rows));
  auto all = hn::Eq(v_rows, v_rows);
  ForEachColumns(dw, n, [&](size_t i, size_t count) HWY_ATTR {
    const VW size = hn::Abs(LoadWide(mean + i, count));
    const VW spread = LoadWide(var + i, count);
    const VW sum = hn::Add(spread, hn::Set(dw, eps));
    const VW w = Weights(weight, i, count);
    const VW square = hn::Mul(w, w);
    const auto is_large = hn::Or(hn::Gt(size, least), hn::Gt(spread, least_spread));
    all = hn::And(all, hn::Or(hn::Eq(size, hn::Zero(dw)), is_large));
    all = hn::And(all, hn::And(hn::Lt(size, hn::Set(dw, kMost)), hn::Gt(sum, least_square)));
    all = hn::And(all, hn::Lt(hn::Mul(sum, v_rows), hn::Set(dw, kMost * kMost)));
    const auto in_range = hn::And(hn::Lt(square, hn::Mul(sum, hn::Set(dw, kMostFactor * kMostFactor))),
                                  hn::Gt(square, hn::Mul(sum, hn::Set(dw, kLeastFactor * kLeastFactor))));
    all = hn::And(all, hn::Or(hn::Eq(w, hn::Zero(dw)), in_range));
  });
  return hn::AllTrue(dw, all);
}

template <class T>
HWY_INLINE void ColumnStatistics(const T* x, size_t rows, size_t n, double* sums, double* mean, double* var) {
  const DW dw;
  const Strips strips(rows);
  ForEachStrip(strips, n, [&](size_t strip) HWY_ATTR {
    const size_t begin = strips.begin(strip);
    double* to = sums + 2 * strip * n;
    StripMoments(x + begin * n, strips.end(strip) - begin, n, to, to + n);
  });
  const VW all = hn::Set(dw, static_cast<double>(HWY_MAX(rows, size_t{1})));
  ForEachColumns(dw, n, [&](size_t i, size_t count) HWY_ATTR {
    VW all_mean = rows == 0 ? hn::Zero(dw) : LoadWide(sums + i, count);
    VW all_squares = rows == 0 ? hn::Zero(dw) : LoadWide(sums + n + i, count);
    for (size_t strip = 1; strip < strips.count; ++strip) {
      const double* from = sums + 2 * strip * n + i;
      Merge(&all_mean, &all_squares, strips.begin(strip), LoadWide(from, count), LoadWide(from + n, count),
            strips.end(strip) - strips.begin(strip));
    }
    StoreWide(all_mean, mean + i, count);
    StoreWide(hn::Div(all_squares, all), var + i, count);
  });
}

template <class T>
void BatchForward(const NormForward<T>& args, bool training) {
  const size_t n = args.n;
  const hn::ScalableTag<T> d;
  auto& scratch = NormScratch<T>::Get(training ? 2 * n * Strips(args.rows).count : 0, 4 * n);
  if (training) ColumnStatistics(args.x, args.rows, n, scratch.sums.data(), args.mean, args.var);
  std::vector<CarefulColumn<T>> careful;
  if (HWY_UNLIKELY((!AreAtEase<T, kForward<T>>(args.mean, args.var, args.weight, args.rows, n, args.eps)))) {
    careful = CarefulForward(args, training);
  }
  T* const high = scratch.columns.data();
  T* const low = high + n;
  T* const scale = low + n;
  T* const bias = scale + n;
  ForEachColumns(DW(), n, [&](size_t i, size_t count) HWY_ATTR {
    StoreInParts(LoadWide(args.mean + i, count), high + i, low + i, count);
    const VW factor = hn::Mul(Weights(args.weight, i, count), ReciprocalRoots(args.var + i, args.eps, count));
    StoreAs(factor, scale + i, count);
    StoreAs(args.bias == nullptr ? hn::Zero(DW()) : LoadWide(args.bias + i, count), bias + i, count);
  });
  const bool stream = Streams(args);
  ForEachRowRange(args.rows, n, [&](size_t begin, size_t end) HWY_ATTR {
    for (size_t row = begin; row < end; ++row) {
      const T* x = args.x + row * n;
      T* y = args.y + row * n;
      ForEachColumns(d, n, [&](size_t i, size_t count) HWY_ATTR {
        auto t = hn::Sub(LoadCount(d, x + i, count), LoadCount(d, high + i, count));
        if constexpr (sizeof(T) == sizeof(float)) t = hn::Sub(t, LoadCount(d, low + i, count));
        StoreCount(hn::MulAdd(t, LoadCount(d, scale + i, count), LoadCount(d, bias + i, count)), d, y + i, count,
                   stream);
      });
    }
    if (stream) hwy::FlushStream();
  });
  Scatter(careful, n, args.y);
}

// The sums over a strip's rows of dy and of dy t, for each column. Returns whether a dy is too large for them.
template <class T>
HWY_INLINE bool StripGradients(const NormBackward<T>& args, size_t begin, size_t end, double* sum_dy,
                               double* sum_dy_t) {
  constexpr size_t kRows = 4;  // added while the sums are in registers
  const size_t n = args.n;
  const double* const means = args.mean;
  std::fill_n(sum_dy, n, 0.0);
  std::fill_n(sum_dy_t, n, 0.0);
  VW largest[kRows];  // so that one maximum need not wait for the other
  for (auto& v : largest) v = hn::Zero(DW());
  for (size_t row = begin; row < end; row += kRows) {
    const size_t block = HWY_MIN(kRows, end - row);
    const T* const x = args.x + row * n;
    const T* const dy = args.dy + row * n;
    ForEachColumns(DW(), n, [&](size_t i, size_t count) HWY_ATTR {
      const VW mean = LoadWide(means + i, count);
      VW s1 = LoadWide(sum_dy + i, count);
      VW s2 = LoadWide(sum_dy_t + i, count);
      const auto add = [&](size_t r) HWY_ATTR {
        const VW v = LoadWide(dy + r * n + i, count);
        s1 = hn::Add(s1, v);
        largest[r] = hn::Max(hn::Abs(v), largest[r]);
        s2 = hn::MulAdd(v, hn::Sub(LoadWide(x + r * n + i, count), mean), s2);
      };
      if (block == kRows) {
        HWY_UNROLL(4)
        for (size_t r = 0; r < kRows; ++r) add(r);
      } else {
        for (size_t r = 0; r < block; ++r) add(r);
      }
      StoreWide(s1, sum_dy + i, count);
      StoreWide(s2, sum_dy_t + i, count);
    });
  }
  bool exceeds = false;
  for (const auto& v : largest) exceeds |= Exceeds(v, kMostGradient<T>);
  return exceeds;
}

// Adds the strips' sums, 2 n of each, into those of the first.
HWY_INLINE void AddStrips(const Strips& strips, size_t n, double* sums) {
  const DW dw;
  if (strips.count == 0) std::fill_n(sums, 2 * n, 0.0);
  for (size_t strip = 1; strip < strips.count; ++strip) {
    ForEachColumns(dw, 2 * n, [&](size_t i, size_t count) HWY_ATTR {
      StoreWide(hn::Add(LoadWide(sums + i, count), LoadWide(sums + 2 * strip * n + i, count)), sums + i, count);
    });
  }
}

template <class T>
void BatchBackward(const NormBackward<T>& args) {
  const size_t n = args.n;
  const hn::ScalableTag<T> d;
  const Strips strips(args.rows);
  auto& scratch = NormScratch<T>::Get(2 * n * HWY_MAX(strips.count, size_t{1}), 5 * n);
  double* const sums = scratch.sums.data();
  std::atomic<bool> dy_is_large{false};
  ForEachStrip(strips, n, [&](size_t strip) HWY_ATTR {
    double* to = sums + 2 * strip * n;
    const bool large = StripGradients(args, strips.begin(strip), strips.end(strip), to, to + n);
    if (HWY_UNLIKELY(large)) dy_is_large.store(true, std::memory_order_relaxed);
  });
  std::vector<CarefulColumn<T>> careful;
  const bool large = dy_is_large.load(std::memory_order_relaxed);
  if (HWY_UNLIKELY((large || !AreAtEase<T, kBackward<T>>(args.mean, args.var, args.weight, args.rows, n, args.eps)))) {
    careful = CarefulBackward(args, large);
  }
  AddStrips(strips, n, sums);
  const VW share = hn::Set(DW(), 1.0 / static_cast<double>(HWY_MAX(args.rows, size_t{1})));
  T* const high = scratch.columns.data();
  T* const low = high + n;
  T* const scale = low + n;
  T* const mean_dy = scale + n;
  T* const slope = mean_dy + n;
  ForEachColumns(DW(), n, [&](size_t i, size_t count) HWY_ATTR {
    const VW rstd = ReciprocalRoots(args.var + i, args.eps, count);
    const VW sum_dy = LoadWide(sums + i, count);
    const VW sum_dy_xhat = hn::Mul(LoadWide(sums + n + i, count), rstd);
    StoreInParts(LoadWide(args.mean + i, count), high + i, low + i, count);
    StoreAs(hn::Mul(Weights(args.weight, i, count), rstd), scale + i, count);
    StoreAs(hn::Mul(sum_dy, share), mean_dy + i, count);
    StoreAs(hn::Mul(hn::Mul(sum_dy_xhat, share), rstd), slope + i, count);
    Put(sum_dy_xhat, args.accumulate, args.dweight, i, count);
    Put(sum_dy, args.accumulate, args.dbias, i, count);
  });
  for (const auto& column : careful) {
    if (args.dweight != nullptr) args.dweight[column.column] = static_cast<T>(column.old_dweight + column.dweight);
    if (args.dbias != nullptr) args.dbias[column.column] = static_cast<T>(column.old_dbias + column.dbias);
  }
  if (args.dx == nullptr) return;
  const bool stream = Streams(args);
  ForEachRowRange(args.rows, n, [&](size_t begin, size_t end) HWY_ATTR {
    for (size_t row = begin; row < end; ++row) {
      const T* x = args.x + row * n;
      const T* dy = args.dy + row * n;
      T* dx = args.dx + row * n;
      ForEachColumns(d, n, [&](size_t i, size_t count) HWY_ATTR {
        auto t = hn::Sub(LoadCount(d, x + i, count), LoadCount(d, high + i, count));
        if constexpr (sizeof(T) == sizeof(float)) t = hn::Sub(t, LoadCount(d, low + i, count));
        const auto centred = hn::Sub(LoadCount(d, dy + i, count), LoadCount(d, mean_dy + i, count));
        const auto rest = hn::NegMulAdd(t, LoadCount(d, slope + i, count), centred);
        StoreCount(hn::Mul(rest, LoadCount(d, scale + i, count)), d, dx + i, count, stream);
      });
    }
    if (stream) hwy::FlushStream();
  });
  Scatter(careful, n, args.dx);
}

// ---------------------------------------------------------------------------------------------------- layer norm

// Sums in float64 over one row: element i goes to virtual lane i % kLanes whatever the target, and the lanes are added
// in a fixed tree.
class RowSum {
 public:
  static constexpr size_t kLanes = 32;
  static constexpr size_t kVectors = kLanes * sizeof(double) / HWY_MAX_BYTES;

  HWY_INLINE RowSum() {
    for (auto& sum : sums_) sum = hn::Zero(DW());
  }
  HWY_INLINE void Add(size_t index, VW v) { sums_[index] = hn::Add(sums_[index], v); }
  HWY_INLINE void AddProduct(size_t index, VW a, VW b) { sums_[index] = hn::MulAdd(a, b, sums_[index]); }
  HWY_INLINE double Total() {
    HWY_UNROLL(8)
    for (size_t width = kVectors / 2; width != 0; width /= 2) {
      HWY_UNROLL(8)
      for (size_t i = 0; i < width; ++i) sums_[i] = hn::Add(sums_[i], sums_[i + width]);
    }
    return SumOfHalves(DW(), sums_[0]);
  }

 private:
  VW sums_[kVectors];
};

// Calls step(i, index, count) for the vectors of a row, `index` being the vector's place among the virtual lanes.
template <class Step>
HWY_INLINE void ForEachInRow(size_t n, const Step& step) {
  const size_t lanes = hn::Lanes(DW());
  size_t i = 0;
  for (; i + RowSum::kLanes <= n; i += RowSum::kLanes) {
    HWY_UNROLL(8)
    for (size_t index = 0; index < RowSum::kVectors; ++index) step(i + index * lanes, index, lanes);
  }
  for (size_t index = 0; i < n; ++index, i += lanes) step(i, index, HWY_MIN(lanes, n - i));
}

template <class T>
HWY_INLINE double RowMean(const T* x, size_t n) {
  RowSum sum;
  ForEachInRow(n, [&](size_t i, size_t index, size_t count) HWY_ATTR { sum.Add(index, LoadWide(x + i, count)); });
  return sum.Total() / static_cast<double>(n);
}

template <class T>
HWY_INLINE double RowVariance(const T* x, size_t n, double mean) {
  const DW dw;
  const VW v_mean = hn::Set(dw, mean);
  RowSum sum;
  ForEachInRow(n, [&](size_t i, size_t index, size_t count) HWY_ATTR {
    VW t = hn::Sub(LoadWide(x + i, count), v_mean);
    if (count != hn::Lanes(dw)) t = hn::IfThenElseZero(hn::FirstN(dw, count), t);
    sum.AddProduct(index, t, t);
  });
  return sum.Total() / static_cast<double>(n);
}

template <class T>
void LayerForward(const NormForward<T>& args) {
  const size_t n = args.n;
  const hn::ScalableTag<T> d;
  const auto one = hn::Set(d, T(1));
  const T* const weight = args.weight;
  const T* const bias = args.bias;
  const bool stream = Streams(args);
  ForEachRowRange(args.rows, n, [&](size_t begin, size_t end) HWY_ATTR {
    for (size_t row = begin; row < end; ++row) {
      const T* x = args.x + row * n;
      T* y = args.y + row * n;
      const double mean = RowMean(x, n);
      const double var = RowVariance(x, n, mean);
      if (HWY_UNLIKELY((!IsAtEase<T, kForward<T>>(mean, var, n, args.eps))) && CarefulRow(args, row)) continue;
      if (args.mean != nullptr) args.mean[row] = mean;
      if (args.var != nullptr) args.var[row] = var;
      const auto high = hn::Set(d, static_cast<T>(mean));
      const auto low = hn::Set(d, LowPart<T>(mean));
      const auto rstd = hn::Set(d, static_cast<T>(ReciprocalRoot(var, args.eps)));
      ForEachColumns(d, n, [&](size_t i, size_t count) HWY_ATTR {
        auto t = hn::Sub(LoadCount(d, x + i, count), high);
        if constexpr (sizeof(T) == sizeof(float)) t = hn::Sub(t, low);
        const auto factor = weight == nullptr ? one : LoadCount(d, weight + i, count);
        const auto addend = bias == nullptr ? hn::Zero(d) : LoadCount(d, bias + i, count);
        StoreCount(hn::MulAdd(hn::Mul(t, rstd), factor, addend), d, y + i, count, stream);
      });
    }
    if (stream) hwy::FlushStream();
  });
}

// dx of one row; dy and dy xhat are added to `sum_dy` and `sum_dy_xhat` unless these are null.
template <class T>
HWY_INLINE void RowBackward(const NormBackward<T>& args, size_t row, bool stream, double* sum_dy, double* sum_dy_xhat) {
  const size_t n = args.n;
  const DW dw;
  const hn::ScalableTag<T> d;
  const T* const x = args.x + row * n;
  const T* const dy = args.dy + row * n;
  const T* const weight = args.weight;
  const double mean = args.mean[row];
  if (HWY_UNLIKELY((!IsAtEase<T, kBackward<T>>(mean, args.var[row], n, args.eps))) &&
      CarefulRow(args, row, sum_dy, sum_dy_xhat)) {
    return;
  }
  const double rstd = ReciprocalRoot(args.var[row], args.eps);
  const VW v_mean = hn::Set(dw, mean);
  const VW v_rstd = hn::Set(dw, rstd);
  RowSum sum_g, sum_g_xhat;
  VW largest = hn::Zero(dw);
  ForEachInRow(n, [&](size_t i, size_t index, size_t count) HWY_ATTR {
    const VW v_dy = LoadWide(dy + i, count);
    VW xhat = hn::Mul(hn::Sub(LoadWide(x + i, count), v_mean), v_rstd);
    if (count != hn::Lanes(dw)) xhat = hn::IfThenElseZero(hn::FirstN(dw, count), xhat);
    const VW g = weight == nullptr ? v_dy : hn::Mul(v_dy, LoadWide(weight + i, count));
    largest = hn::Max(hn::Abs(g), largest);
    sum_g.Add(index, g);
    sum_g_xhat.AddProduct(index, g, xhat);
    if (sum_dy == nullptr) return;
    StoreWide(hn::Add(LoadWide(sum_dy + i, count), v_dy), sum_dy + i, count);
    StoreWide(hn::MulAdd(v_dy, xhat, LoadWide(sum_dy_xhat + i, count)), sum_dy_xhat + i, count);
  });
  if (args.dx == nullptr) return;
  const bool g_is_large = Exceeds(largest, kMostGradient<T>);
  if (HWY_UNLIKELY(g_is_large) && CarefulRow(args, row, nullptr, nullptr)) return;
  T* dx = args.dx + row * n;
  const double share = 1.0 / static_cast<double>(n);
  const auto high = hn::Set(d, static_cast<T>(mean));
  const auto low = hn::Set(d, LowPart<T>(mean));
  const auto scale = hn::Set(d, static_cast<T>(rstd));
  const auto mean_g = hn::Set(d, static_cast<T>(sum_g.Total() * share));
  const auto slope = hn::Set(d, static_cast<T>(sum_g_xhat.Total() * share * rstd));
  ForEachColumns(d, n, [&](size_t i, size_t count) HWY_ATTR {
    auto t = hn::Sub(LoadCount(d, x + i, count), high);
    if constexpr (sizeof(T) == sizeof(float)) t = hn::Sub(t, low);
    auto g = LoadCount(d, dy + i, count);
    if (weight != nullptr) g = hn::Mul(g, LoadCount(d, weight + i, count));
    const auto rest = hn::NegMulAdd(t, slope, hn::Sub(g, mean_g));
    StoreCount(hn::Mul(rest, scale), d, dx + i, count, stream);
  });
}

template <class T>
void LayerBackward(const NormBackward<T>& args) {
  const size_t n = args.n;
  const Strips strips(args.rows);
  const bool parameters = args.dweight != nullptr || args.dbias != nullptr;
  auto& scratch = NormScratch<T>::Get(parameters ? 2 * n * HWY_MAX(strips.count, size_t{1}) : 0, 0);
  double* const sums = scratch.sums.data();
  const bool stream = Streams(args);
  ForEachStrip(strips, n, [&](size_t strip) HWY_ATTR {
    double* to = parameters ? sums + 2 * strip * n : nullptr;
    if (parameters) std::fill_n(to, 2 * n, 0.0);
    for (size_t row = strips.begin(strip); row < strips.end(strip); ++row) {
      RowBackward(args, row, stream, to, parameters ? to + n : nullptr);
    }
    if (stream) hwy::FlushStream();
  });
  if (!parameters) return;
  AddStrips(strips, n, sums);
  ForEachColumns(DW(), n, [&](size_t i, size_t count) HWY_ATTR {
    Put(LoadWide(sums + n + i, count), args.accumulate, args.dweight, i, count);
    Put(LoadWide(sums + i, count), args.accumulate, args.dbias, i, count);
  });
}

const NormTable& Table() {
  static constexpr NormTable table = {BatchForward<float>,   BatchForward<double>, BatchBackward<float>,
                                      BatchBackward<double>, LayerForward<float>,  LayerForward<double>,
                                      LayerBackward<float>,  LayerBackward<double>};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(Table);

void BatchNorm(const NormForward<float>& args, bool training) { FUSEPROP_DISPATCH(Table)().batch_f32(args, training); }
void BatchNorm(const NormForward<double>& args, bool training) { FUSEPROP_DISPATCH(Table)().batch_f64(args, training); }
void BatchNormBackward(const NormBackward<float>& args) { FUSEPROP_DISPATCH(Table)().batch_backward_f32(args); }
void BatchNormBackward(const NormBackward<double>& args) { FUSEPROP_DISPATCH(Table)().batch_backward_f64(args); }

namespace {
template <class T>
void Update(const double* mean, const double* var, size_t rows, size_t n, double momentum, T* running_mean,
            T* running_var) {
  const auto count = static_cast<double>(rows);
  constexpr double kMostBatch = std::numeric_limits<double>::max();
  // A sum of shares: neither it nor its terms overflow if its ends do not.
  const auto move = [&](T* running, double batch) {
    const double moved = (1.0 - momentum) * static_cast<double>(*running) + momentum * batch;
    // Beyond the range, as close as can be: an infinity would stay for ever.
    constexpr double kMost = static_cast<double>(std::numeric_limits<T>::max());
    *running = static_cast<T>(moved > kMost ? kMost : moved < -kMost ? -kMost : moved);
  };
  for (size_t i = 0; i < n; ++i) {
    move(running_mean + i, mean[i]);
    if (rows >= 2) move(running_var + i, std::min(var[i] * (count / (count - 1.0)), kMostBatch));
  }
}
}  // namespace

void UpdateRunning(const double* mean, const double* var, size_t rows, size_t n, double momentum, float* running_mean,
                   float* running_var) {
  Update(mean, var, rows, n, momentum, running_mean, running_var);
}
void UpdateRunning(const double* mean, const double* var, size_t rows, size_t n, double momentum, double* running_mean,
                   double* running_var) {
  Update(mean, var, rows, n, momentum, running_mean, running_var);
}

void LayerNorm(const NormForward<float>& args) { FUSEPROP_DISPATCH(Table)().layer_f32(args); }
void LayerNorm(const NormForward<double>& args) { FUSEPROP_DISPATCH(Table)().layer_f64(args); }
void LayerNormBackward(const NormBackward<float>& args) { FUSEPROP_DISPATCH(Table)().layer_backward_f32(args); }
void LayerNormBackward(const NormBackward<double>& args) { FUSEPROP_DISPATCH(Table)().layer_backward_f64(args); }
}  // namespace fuseprop
#endif  // HWY_ONCE
