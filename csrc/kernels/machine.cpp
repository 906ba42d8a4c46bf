// The loops that measure the machine's limits.

#include "kernels/machine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "threads/pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/machine.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "hwy/cache_control.h"
#include "simd/compat-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

// Runs independent chains of multiply-adds side by side; returns a value that depends on all of them. Each
// chain tends to 0.5: neither overflow nor subnormal numbers.
template <class D, class... V>
HWY_INLINE hn::TFromD<D> RunChains(D d, size_t rounds, V... chains) {
  const auto factor = hn::Set(d, hn::TFromD<D>(0.5));
  const auto term = hn::Set(d, hn::TFromD<D>(0.25));
  for (size_t round = 0; round < rounds; ++round) ((chains = hn::MulAdd(chains, factor, term)), ...);
  auto sum = hn::Zero(d);
  ((sum = hn::Add(sum, chains)), ...);
  return hn::GetLane(sum);
}

// Twelve chains hide the latency of two multiply-adds per cycle and fit into sixteen registers. `values` holds
// one start per chain, unknown to the compiler, which could otherwise keep a single chain; the first is
// overwritten. Returns the number of floating-point operations done.
template <class T>
HWY_NOINLINE double MultiplyAdds(T* values) {
  constexpr size_t kRounds = 4096;
  const hn::ScalableTag<T> d;
  const auto start = [&](size_t chain) HWY_ATTR { return hn::Set(d, values[chain]); };
  values[0] = RunChains(d, kRounds, start(0), start(1), start(2), start(3), start(4), start(5), start(6), start(7),
                        start(8), start(9), start(10), start(11));
  return 2.0 * 12.0 * static_cast<double>(kRounds * hn::Lanes(d));
}
double MultiplyAddsFloat(float* values) { return MultiplyAdds(values); }
double MultiplyAddsDouble(double* values) { return MultiplyAdds(values); }

// Copies `bytes` bytes around the caches.
void StreamRange(uint8_t* HWY_RESTRICT dst, const uint8_t* HWY_RESTRICT src, size_t bytes) {
  const hn::ScalableTag<uint8_t> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = std::min(bytes, (lanes - reinterpret_cast<uintptr_t>(dst) % lanes) % lanes);
  std::memcpy(dst, src, i);
  for (; i + 4 * lanes <= bytes; i += 4 * lanes) {
    const auto v0 = hn::LoadU(d, src + i);
    const auto v1 = hn::LoadU(d, src + i + lanes);
    const auto v2 = hn::LoadU(d, src + i + 2 * lanes);
    const auto v3 = hn::LoadU(d, src + i + 3 * lanes);
    hn::Stream(v0, d, dst + i);
    hn::Stream(v1, d, dst + i + lanes);
    hn::Stream(v2, d, dst + i + 2 * lanes);
    hn::Stream(v3, d, dst + i + 3 * lanes);
  }
  std::memcpy(dst + i, src + i, bytes - i);
  hwy::FlushStream();
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
namespace {

FUSEPROP_EXPORT(MultiplyAddsFloat);
FUSEPROP_EXPORT(MultiplyAddsDouble);
FUSEPROP_EXPORT(StreamRange);

// All threads work until the same moment, so one that starts late lowers the figure by no more than its delay.
template <class T>
double FmaPeak(double (*multiply_adds)(T*), double seconds, int threads) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const auto deadline = begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  std::atomic<double> operations{0.0};
  const int previous = SetThreadNumThreads(threads);
  ParallelFor(static_cast<size_t>(threads), [&](size_t) {
    T values[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    double mine = 0.0;
    do mine += multiply_adds(values);
    while (Clock::now() < deadline);
    double all = operations.load();
    while (!operations.compare_exchange_weak(all, all + mine)) {
    }
  });
  SetThreadNumThreads(previous);
  return operations.load() / std::chrono::duration<double>(Clock::now() - begin).count() * 1e-9;
}

}  // namespace

double FmaPeakFloat(double seconds, int threads) {
  return FmaPeak(FUSEPROP_DISPATCH(MultiplyAddsFloat), seconds, threads);
}
double FmaPeakDouble(double seconds, int threads) {
  return FmaPeak(FUSEPROP_DISPATCH(MultiplyAddsDouble), seconds, threads);
}

void NonTemporalCopy(void* dst, const void* src, size_t bytes) {
  const auto stream = FUSEPROP_DISPATCH(StreamRange);
  const size_t ranges = static_cast<size_t>(NumThreads()) * 16;
  const size_t length = (bytes + ranges - 1) / ranges + 63;  // rounded up to whole cache lines below
  const size_t step = length - length % 64;
  if (step == 0) return;
  ParallelFor((bytes + step - 1) / step, [&](size_t range) {
    const size_t begin = range * step;
    stream(static_cast<uint8_t*>(dst) + begin, static_cast<const uint8_t*>(src) + begin, std::min(step, bytes - begin));
  });
}

}  // namespace fuseprop
#endif  // HWY_ONCE
