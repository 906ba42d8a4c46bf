// How many CPUs this process may use, and how many threads it should start with.

#ifndef FUSEPROP_THREADS_CPUS_H_
#define FUSEPROP_THREADS_CPUS_H_

#include <pthread.h>

namespace fuseprop {

// The largest number of threads that can be asked for.
constexpr int kMaxThreads = 1024;

// CPUs in the affinity mask of the process, that is of its main thread; at least 1.
int CpusInAffinityMask();
// Lets a thread that is made with `attr` start with that mask, whatever its creator's is.
void SetProcessAffinity(pthread_attr_t* attr);

// FUSEPROP_NUM_THREADS, else the first number of OMP_NUM_THREADS, else `cpus` limited by the CPU quota of the control
// group; malformed variables count as unset.
int InitialThreads(int cpus);

// The CPU that the calling thread runs on, or -1.
int CurrentCpu();

// Keeps one thread off two CPUs at a time. What else its affinity mask says stays, and a CPU is given back to it only
// if the process has it.
class KeptOff {
 public:
  // Keeps `thread` off the CPUs a and b (-1 for none) instead of those before, unless that leaves it no CPU at all.
  void Set(pthread_t thread, int a, int b);

 private:
  int cpus_[2] = {-1, -1};
};

}  // namespace fuseprop

#endif  // FUSEPROP_THREADS_CPUS_H_
