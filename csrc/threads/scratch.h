// Working memory of a thread.

#ifndef FUSEPROP_THREADS_SCRATCH_H_
#define FUSEPROP_THREADS_SCRATCH_H_

#include <cstddef>
#include <new>

namespace fuseprop {

// Memory that grows and is kept: made thread_local by who uses it, so that it outlives a call.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { Free(); }

  // At least so many bytes, aligned; what was got before is gone. Throws std::bad_alloc, and is empty then.
  void* Get(size_t bytes) {
    if (bytes > bytes_) {
      Free();
      memory_ = ::operator new(bytes, std::align_val_t(kAlignment));
      bytes_ = bytes;
    }
    return memory_;
  }

 private:
  // Two cache lines, which the hardware fetches together.
  static constexpr size_t kAlignment = 128;

  void Free() {
    if (memory_ != nullptr) ::operator delete(memory_, std::align_val_t(kAlignment));
    memory_ = nullptr;
    bytes_ = 0;
  }

  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace fuseprop

#endif  // FUSEPROP_THREADS_SCRATCH_H_
