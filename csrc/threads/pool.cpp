#include "threads/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <new>

#include "threads/cpus.h"

namespace fuseprop {
namespace {

// How long a worker spins for the next job before it sleeps.
constexpr std::chrono::microseconds kWorkerSpin{50};
// How long a caller spins for the last workers of its job before it offers its CPU to others, and then before it
// sleeps. That is late, as a sleeper is often woken on the CPU of the worker that wakes it, where both then wait for
// each other.
constexpr std::chrono::microseconds kCallerSpin{20}, kCallerYield{2000};

inline void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

// Waits for at most `time`, calling `rest` about every microsecond; returns whether `ready` became true.
template <class Ready, class Rest>
bool SpinUntil(const Ready& ready, std::chrono::microseconds time, const Rest& rest) {
  const auto deadline = std::chrono::steady_clock::now() + time;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      Pause();
    }
    rest();
  } while (std::chrono::steady_clock::now() < deadline);
  return ready();
}

// One job at a time. The caller that owns the pool (`busy_`) fills in the job, opens it by storing the number
// of free places in `state_`, and works. A worker enters by taking a place and counting itself active in one
// compare-and-swap, so it either is in the job that is open at that moment or in none. Whoever finds no task
// left takes the free places away; then the caller waits for the active count, that is only for workers
// which entered, to fall to zero. Nothing else ever needs a worker, so a lost wake-up costs time at most.
class Pool {
 public:
  Pool(int cpus, int threads) : cpus_(cpus), threads_(threads) {}

  static Pool& Get() {
    Pool* pool = instance_.load(std::memory_order_acquire);
    return pool != nullptr ? *pool : Create();
  }

  int cpus() const { return cpus_; }
  int threads() const { return threads_.load(std::memory_order_relaxed); }
  void set_threads(int n) { threads_.store(n, std::memory_order_relaxed); }

  // Returns false, having done nothing, if the pool has another job.
  bool Run(size_t num_tasks, internal::TaskFn fn, const void* context, int threads) {
    if (busy_.load(std::memory_order_relaxed) || busy_.exchange(true, std::memory_order_acquire)) return false;
    // More threads than CPUs would only take time from each other.
    const size_t useful = std::min(num_tasks, static_cast<size_t>(std::min(threads, cpus_)));
    AddWorkers(static_cast<int>(useful) - 1);
    fn_ = fn;
    context_ = context;
    num_tasks_ = num_tasks;
    wanted_ = std::min(num_workers_, static_cast<int>(useful) - 1);
    caller_cpu_.store(CurrentCpu(), std::memory_order_relaxed);
    next_task_.store(0, std::memory_order_relaxed);
    state_.store(static_cast<uint64_t>(wanted_) * kPlace, std::memory_order_release);
    Wake(1);
    Work();
    WaitForWorkers();
    busy_.store(false, std::memory_order_release);
    return true;
  }

 private:
  // state_: free places in the upper half; below, whether the caller sleeps, and the number of active workers.
  static constexpr uint64_t kPlace = uint64_t{1} << 32;
  static constexpr uint64_t kCallerSleeps = uint64_t{1} << 31;

  static constexpr int kWokenAtOnce = 2;

  struct Worker {
    Pool* pool = nullptr;
    // Under the mutex:
    pthread_t thread;
    Worker* next_asleep = nullptr;
    bool woken = false;  // told to wake
    std::condition_variable wake;
    // The worker's own while it is awake, under the mutex while it sleeps.
    KeptOff kept_off;
  };

  static Pool& Create() {
    const int cpus = CpusInAffinityMask();
    Pool* fresh = new Pool(cpus, InitialThreads(cpus));  // never deleted: workers outlive main()
    // Before the pool is visible, so that no fork finds a pool in use without its handler. Not a static local,
    // whose guard would stay locked in a child forked during the initialization.
    static_cast<void>(pthread_atfork(nullptr, nullptr, ResetInChild));
    Pool* expected = nullptr;
    if (instance_.compare_exchange_strong(expected, fresh, std::memory_order_acq_rel)) return *fresh;
    delete fresh;
    return *expected;
  }

  // The child has no workers, and the locks are in any state: start again, keeping the setting.
  static void ResetInChild() {
    Pool* pool = instance_.load(std::memory_order_acquire);
    if (pool != nullptr) new (pool) Pool(pool->cpus_, pool->threads());
  }

  void AddWorkers(int wanted) {
    if (num_workers_ >= wanted || creation_failed_) return;
    sigset_t all, old;  // signals are for the application's threads
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_t attr;
    creation_failed_ = pthread_attr_init(&attr) != 0;
    if (!creation_failed_) {
      pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
      SetProcessAffinity(&attr);
      const auto start = [](void* object) -> void* {
        Worker* worker = static_cast<Worker*>(object);
        worker->pool->WorkerLoop(*worker);
      };
      while (num_workers_ < wanted && !creation_failed_) {
        Worker* worker = new (std::nothrow) Worker;  // never deleted, as the pool
        creation_failed_ = worker == nullptr;
        if (creation_failed_) break;
        worker->pool = this;
        // pthread_create may set `thread` when the new one runs already; Wake reads it under this lock.
        std::lock_guard<std::mutex> lock(mutex_);
        creation_failed_ = pthread_create(&worker->thread, &attr, start, worker) != 0;
        if (creation_failed_) {
          delete worker;
        } else {
          ++num_workers_;
        }
      }
      pthread_attr_destroy(&attr);
    }
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
  }

  [[noreturn]] void WorkerLoop(Worker& self) {
    const auto open = [this] { return IsOpen(); };
    // A caller that has not ended its job may be waiting for the very CPU that this worker runs on.
    const auto rest = [&] {
      if (!busy_.load(std::memory_order_relaxed)) return;
      LeaveCallersCpu(self);
      sched_yield();
    };
    for (;;) {
      if (!SpinUntil(open, kWorkerSpin, rest)) Sleep(self);
      uint64_t state = state_.load(std::memory_order_relaxed);
      if (state < kPlace) continue;
      if (!state_.compare_exchange_strong(state, state - kPlace + 1, std::memory_order_acquire)) continue;
      LeaveCallersCpu(self);
      Wake(kWokenAtOnce);  // so that many workers wake in a tree, and the caller pays for one
      Work();
      if (state_.fetch_sub(1, std::memory_order_acq_rel) == (kCallerSleeps | 1)) {
        std::lock_guard<std::mutex> lock(mutex_);
        job_done_.notify_one();
      }
    }
  }

  void LeaveCallersCpu(Worker& self) {
    const int cpu = caller_cpu_.load(std::memory_order_relaxed);
    if (cpu >= 0 && CurrentCpu() == cpu) self.kept_off.Set(pthread_self(), cpu, -1);
  }

  bool IsOpen() const { return state_.load(std::memory_order_relaxed) >= kPlace; }

  // By the caller and active workers: runs tasks until none is left, then closes the job.
  void Work() {
    const size_t num_tasks = num_tasks_;
    for (;;) {
      const size_t task = next_task_.fetch_add(1, std::memory_order_relaxed);
      if (task >= num_tasks) break;
      fn_(context_, task);
    }
    if (IsOpen()) state_.fetch_and(kPlace - 1, std::memory_order_relaxed);
  }

  void WaitForWorkers() {
    const auto done = [this] { return state_.load(std::memory_order_acquire) == 0; };
    if (done() || SpinUntil(done, kCallerSpin, [] {}) || SpinUntil(done, kCallerYield, sched_yield)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    state_.fetch_or(kCallerSleeps, std::memory_order_relaxed);
    job_done_.wait(lock, [this] { return state_.load(std::memory_order_acquire) == kCallerSleeps; });
    state_.store(0, std::memory_order_relaxed);
  }

  void Sleep(Worker& self) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (IsOpen()) return;
    self.next_asleep = asleep_;
    asleep_ = &self;
    num_asleep_.fetch_add(1, std::memory_order_relaxed);
    self.wake.wait(lock, [&self] { return self.woken; });
    self.woken = false;
  }

  // By the caller and active workers: wakes up to n <= kWokenAtOnce workers if those awake are fewer than the job
  // wants.
  void Wake(int n) {
    const auto missing = [this] { return wanted_ - (num_workers_ - num_asleep_.load(std::memory_order_relaxed)); };
    if (missing() <= 0) return;
    Worker* woken[kWokenAtOnce];
    int count = 0;
    {
      std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
      if (!lock.owns_lock()) return;  // never wait here; the next job tries again
      const int cpu = CurrentCpu();
      for (n = std::min(n, missing()); count < n && asleep_ != nullptr; ++count) {
        Worker& worker = *asleep_;
        asleep_ = worker.next_asleep;
        num_asleep_.fetch_sub(1, std::memory_order_relaxed);
        // Linux may wake a thread on the waker's CPU though another one is idle (in a virtual machine it mostly
        // does), and take milliseconds to move it: longer than most jobs.
        worker.kept_off.Set(worker.thread, caller_cpu_.load(std::memory_order_relaxed), cpu);
        worker.woken = true;
        woken[count] = &worker;
      }
    }
    for (int i = 0; i < count; ++i) woken[i]->wake.notify_one();
  }

  static std::atomic<Pool*> instance_;

  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<size_t> next_task_{0};

  // Written by the owner while no worker is active.
  alignas(64) std::atomic<bool> busy_{false};
  bool creation_failed_ = false;
  internal::TaskFn fn_ = nullptr;
  const void* context_ = nullptr;
  size_t num_tasks_ = 0;
  int wanted_ = 0;
  int num_workers_ = 0;
  std::atomic<int> caller_cpu_{-1};  // when the job began
  const int cpus_;
  std::atomic<int> threads_;

  alignas(64) std::mutex mutex_;
  Worker* asleep_ = nullptr;        // the workers asleep and not told to wake; under the mutex
  std::atomic<int> num_asleep_{0};  // their number; changed under the mutex
  std::condition_variable job_done_;
};

std::atomic<Pool*> Pool::instance_{nullptr};

thread_local int thread_override = 0;

}  // namespace

int NumThreads() { return thread_override > 0 ? thread_override : Pool::Get().threads(); }

int MaxParticipants() { return std::min(NumThreads(), Pool::Get().cpus()); }

void SetNumThreads(int n) { Pool::Get().set_threads(std::max(1, n)); }

int SetThreadNumThreads(int n) {
  const int previous = thread_override;
  thread_override = std::max(0, n);
  return previous;
}

void internal::ParallelForImpl(size_t num_tasks, TaskFn fn, const void* context) {
  const int threads = NumThreads();
  if (num_tasks > 1 && threads > 1 && Pool::Get().Run(num_tasks, fn, context, threads)) return;
  for (size_t task = 0; task < num_tasks; ++task) fn(context, task);
}

}  // namespace fuseprop
