#include "simd/targets.h"

#include <atomic>

#include "hwy/highway.h"

namespace fuseprop {
namespace {

int BestTarget() {
  for (int target = kNumTargets - 1; target > kBaseline; --target) {
    if (TargetSupported(target)) return target;
  }
  return kBaseline;
}

std::atomic<int>& DefaultTarget() {
  static std::atomic<int> target{BestTarget()};
  return target;
}

thread_local int thread_target = -1;

}  // namespace

const char* TargetName(int target) {
  switch (target) {
    case kAVX2:
      return "AVX2";
    case kAVX3:
      return "AVX3";
    default:
      return hwy::TargetName(HWY_STATIC_TARGET);
  }
}

bool TargetCompiled(int target) {
  switch (target) {
    case kBaseline:
      return true;
    case kAVX2:
      return (HWY_TARGETS & HWY_AVX2) != 0;
    case kAVX3:
      return (HWY_TARGETS & HWY_AVX3) != 0;
    default:
      return false;
  }
}

bool TargetSupported(int target) {
  if (!TargetCompiled(target)) return false;
#if HWY_ARCH_X86_64
  // libgcc's checks include the operating system's saving of the wide registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx3 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd");
  if (target == kAVX2) return avx2;
  if (target == kAVX3) return avx3;
#endif
  return target == kBaseline;
}

int ActiveTarget() { return thread_target >= 0 ? thread_target : DefaultTarget().load(std::memory_order_relaxed); }

void SetDefaultTarget(int target) { DefaultTarget().store(target, std::memory_order_relaxed); }

int SetThreadTarget(int target) {
  const int previous = thread_target;
  thread_target = target;
  return previous;
}

}  // namespace fuseprop
