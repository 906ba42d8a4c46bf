#include "threads/fork.h"

#include <pthread.h>

namespace fuseprop {
namespace {

// Written in the child of a fork alone, before it has a second thread.
uint64_t process_number = 1;

// When the library is loaded: no fork comes before it.
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { ++process_number; });

}  // namespace

uint64_t ProcessNumber() { return process_number; }

}  // namespace fuseprop
