// What the machine itself can do, measured in the same run as the kernels: the limits that benchmarks show
// beside their figures.

#ifndef FUSEPROP_KERNELS_MACHINE_H_
#define FUSEPROP_KERNELS_MACHINE_H_

#include <cstddef>

namespace fuseprop {

// GFLOP/s (a multiply-add counts as two) of `threads` threads that do nothing but independent multiply-adds in
// registers, on the active target, for about `seconds`: what a matrix product could reach at best. On a target
// without FMA a multiply and an add take its place. threads >= 1, seconds > 0.
double FmaPeakFloat(double seconds, int threads);
double FmaPeakDouble(double seconds, int threads);

// Copies `bytes` bytes with stores that go around the caches, on NumThreads() threads: what work bound by
// memory could reach at best. The two ranges must not overlap.
void NonTemporalCopy(void* dst, const void* src, size_t bytes);

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_MACHINE_H_
