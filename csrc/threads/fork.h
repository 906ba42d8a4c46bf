// What a fork changes: of the threads of a process its child has one.

#ifndef FUSEPROP_THREADS_FORK_H_
#define FUSEPROP_THREADS_FORK_H_

#include <cstdint>

namespace fuseprop {

// The number of forks between the process that loaded this and the one that asks, plus one.
uint64_t ProcessNumber();

// Whether a thread of this process is using an object. In the child of a fork nobody counts as using it: another thread
// that was exists in the parent alone. (A thread that forks within its own use is not known for that here.) Not atomic;
// for use under the GIL.
class BusyFlag {
 public:
  // Returns false if it is set already.
  bool Set() {
    const uint64_t process = ProcessNumber();
    if (holder_ == process) return false;
    holder_ = process;
    return true;
  }
  void Clear() { holder_ = 0; }

 private:
  uint64_t holder_ = 0;  // the process whose thread it is, or 0
};

}  // namespace fuseprop

#endif  // FUSEPROP_THREADS_FORK_H_
