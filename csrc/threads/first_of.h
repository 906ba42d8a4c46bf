// The smallest of the indices that several threads come across, as that of the first invalid element.

#ifndef FUSEPROP_THREADS_FIRST_OF_H_
#define FUSEPROP_THREADS_FIRST_OF_H_

#include <atomic>
#include <cstddef>

namespace fuseprop {

class FirstOf {
 public:
  // `n` is what Get returns if nothing smaller is added.
  explicit FirstOf(size_t n) : first_(n) {}
  void Add(size_t index) {
    size_t seen = first_.load(std::memory_order_relaxed);
    while (index < seen && !first_.compare_exchange_weak(seen, index, std::memory_order_relaxed)) {
    }
  }
  size_t Get() const { return first_.load(std::memory_order_relaxed); }

 private:
  std::atomic<size_t> first_;
};

}  // namespace fuseprop

#endif  // FUSEPROP_THREADS_FIRST_OF_H_
