// The SIMD targets this build carries and the one in use.
//
// Include before hwy/foreach_target.h. Every kernel source is compiled once per target listed here; a
// per-target table of functions is exported with FUSEPROP_EXPORT and read through ActiveTarget().
//
// Highway's own dispatcher is not used: it would add a run-time dependency on libhwy.so (the only form that
// Debian ships), and its choice is one per process, while ours can be overridden per thread.

#ifndef FUSEPROP_SIMD_TARGETS_H_
#define FUSEPROP_SIMD_TARGETS_H_

// Targets left out to keep the wheel small: they add no instruction that our kernels use. The names are
// expanded lazily, so those that an old Highway lacks are given a value after its header is read.
#define HWY_DISABLED_TARGETS                                                                              \
  (HWY_SSE2 | HWY_SSSE3 | HWY_AVX3_DL | HWY_AVX3_ZEN4 | HWY_AVX3_SPR | HWY_AVX10_2 | HWY_SVE | HWY_SVE2 | \
   HWY_SVE_256 | HWY_SVE2_128 | HWY_NEON_BF16 | HWY_NEON_WITHOUT_AES)

#include "hwy/detect_targets.h"

#ifndef HWY_SSE2
#define HWY_SSE2 0
#endif
#ifndef HWY_AVX3_ZEN4
#define HWY_AVX3_ZEN4 0
#endif
#ifndef HWY_AVX3_SPR
#define HWY_AVX3_SPR 0
#endif
#ifndef HWY_AVX10_2
#define HWY_AVX10_2 0
#endif
#ifndef HWY_NEON_BF16
#define HWY_NEON_BF16 0
#endif
#ifndef HWY_NEON_WITHOUT_AES
#define HWY_NEON_WITHOUT_AES 0
#endif

namespace fuseprop {

// Index into an exported table. kBaseline is what the whole library is compiled for: SSE4 on x86-64, NEON on
// AArch64, Highway's portable emulation elsewhere.
enum Target : int { kBaseline = 0, kAVX2 = 1, kAVX3 = 2, kNumTargets = 3 };

const char* TargetName(int target);
bool TargetCompiled(int target);
bool TargetSupported(int target);  // compiled, and this CPU and operating system run it

// The calling thread's target: its override if it has one, else the process default, which is the best
// supported one unless changed.
int ActiveTarget();
void SetDefaultTarget(int target);
// Overrides the target for the calling thread; -1 removes the override. Returns the previous value.
int SetThreadTarget(int target);

}  // namespace fuseprop

// Defines `FN##PerTarget`, an array of pointers to the per-target function FN (null where not compiled).
// HWY_EXPORT proper would refer to symbols of libhwy.
#define FUSEPROP_EXPORT(FN)                 \
  static decltype(&HWY_STATIC_DISPATCH(FN)) \
      const FN##PerTarget[kNumTargets] = {&HWY_STATIC_DISPATCH(FN), HWY_CHOOSE_AVX2(FN), HWY_CHOOSE_AVX3(FN)}
#define FUSEPROP_DISPATCH(FN) (*FN##PerTarget[::fuseprop::ActiveTarget()])

#endif  // FUSEPROP_SIMD_TARGETS_H_
