// A small pool of threads for loops of a few microseconds and more.
//
// The caller takes part; tasks are claimed from an atomic counter; nobody waits for a worker that has not
// started; workers spin for a bounded time and then sleep. A loop started while another one runs (from
// another thread or from inside a task) is computed by its caller alone.

#ifndef FUSEPROP_THREADS_POOL_H_
#define FUSEPROP_THREADS_POOL_H_

#include <cstddef>

namespace fuseprop {

// Number of threads (the caller included) that a loop started by the calling thread may use: the thread's
// override if it has one, else the process setting. The initial setting is FUSEPROP_NUM_THREADS, else
// OMP_NUM_THREADS, else the number of CPUs in the affinity mask, limited by the cgroup's CPU quota.
int NumThreads();
// Process-wide; n >= 1.
void SetNumThreads(int n);
// Overrides the number for the calling thread; 0 removes the override. Returns the previous value.
int SetThreadNumThreads(int n);

// How many threads, the caller included, can take part in a loop that the calling thread starts now.
int MaxParticipants();

namespace internal {
using TaskFn = void (*)(const void* context, size_t task);
void ParallelForImpl(size_t num_tasks, TaskFn fn, const void* context);
}  // namespace internal

// Calls body(task) once for each task in [0, num_tasks), from the calling thread and at most NumThreads() - 1
// workers (and never more threads than there are CPUs), in any order, and returns when all calls have returned.
// `body` must neither throw nor fork.
template <class Body>
void ParallelFor(size_t num_tasks, const Body& body) {
  if (num_tasks <= 1) {
    if (num_tasks == 1) body(size_t{0});
    return;
  }
  internal::ParallelForImpl(
      num_tasks, [](const void* context, size_t task) { (*static_cast<const Body*>(context))(task); }, &body);
}

}  // namespace fuseprop

#endif  // FUSEPROP_THREADS_POOL_H_
