// How many CPUs this process may use, and how many threads it should start with.

#ifndef FUSEPROP_THREADS_CPUS_H_
#define FUSEPROP_THREADS_CPUS_H_

#include <pthread.h>

namespace fuseprop {

// The largest number of threads that can be asked for.
constexpr int kMaxThreads = 1024;

// At least 1.
int CpusInAffinityMask();

// FUSEPROP_NUM_THREADS, else the first number of OMP_NUM_THREADS, else `cpus` limited by the CPU quota of the control
// group; malformed variables count as unset.
int InitialThreads(int cpus);

// The CPU that the calling thread runs on, or -1.
int CurrentCpu();

// CPUs that a thread is kept off; -1 for none.
struct Forbidden {
  int cpus[2] = {-1, -1};
};

// Keeps a thread off the CPUs a and b (-1 for none) instead of those it was kept off before, unless that would leave it
// no CPU at all. Without effect on what else the thread's affinity mask says.
void KeepOff(pthread_t thread, int a, int b, Forbidden* forbidden);

}  // namespace fuseprop

#endif  // FUSEPROP_THREADS_CPUS_H_
