// How many CPUs this process may use, and how many threads it should start with.

#ifndef FUSEPROP_THREADS_CPUS_H_
#define FUSEPROP_THREADS_CPUS_H_

namespace fuseprop {

// The largest number of threads that can be asked for.
constexpr int kMaxThreads = 1024;

// At least 1.
int CpusInAffinityMask();

// FUSEPROP_NUM_THREADS, else the first number of OMP_NUM_THREADS, else `cpus` limited by the CPU quota of the control
// group; malformed variables count as unset.
int InitialThreads(int cpus);

}  // namespace fuseprop

#endif  // FUSEPROP_THREADS_CPUS_H_
