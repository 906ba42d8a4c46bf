#include "threads/cpus.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

namespace fuseprop {
namespace {

// The first number of the environment variable, which `rest` may follow; 0 if unset or malformed.
int EnvThreads(const char* name, char rest) {
  const char* text = std::getenv(name);
  if (text == nullptr) return 0;
  char* end = nullptr;
  const long n = std::strtol(text, &end, 10);
  while (end != text && (*end == ' ' || *end == '\t')) ++end;
  return n >= 1 && n <= kMaxThreads && (*end == '\0' || *end == rest) ? static_cast<int>(n) : 0;
}

// Reads up to two numbers from a file; returns how many there were.
int ReadNumbers(const std::string& path, double* a, double* b) {
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return 0;
  const int count = std::fscanf(file, "%lf %lf", a, b);
  std::fclose(file);
  return count;
}

// The smallest quota, in CPUs, of a control group and those above it. `path` need not exist below `mount`:
// inside a container it is often the host's, and the container's own group is mounted at the top.
double QuotaInHierarchy(const std::string& mount, std::string path) {
  double cpus = INT_MAX;
  for (;; path.resize(path.rfind('/'))) {
    while (!path.empty() && path.back() == '/') path.pop_back();
    double quota = 0, period = 0, unused = 0;
    const bool v2 = ReadNumbers(mount + path + "/cpu.max", &quota, &period) == 2;
    const bool v1 = !v2 && ReadNumbers(mount + path + "/cpu.cfs_quota_us", &quota, &unused) == 1 &&
                    ReadNumbers(mount + path + "/cpu.cfs_period_us", &period, &unused) == 1;
    if ((v1 || v2) && quota > 0 && period > 0) cpus = std::min(cpus, quota / period);
    if (path.find('/') == std::string::npos) return cpus;
  }
}

int CpusInQuota() {
  double cpus = INT_MAX;
  std::FILE* file = std::fopen("/proc/self/cgroup", "re");
  if (file == nullptr) return INT_MAX;
  char controllers[256], path[4096];
  for (char line[4400]; std::fgets(line, sizeof(line), file) != nullptr;) {  // "4:cpu,cpuacct:/a" or "0::/a"
    if (std::sscanf(line, "0::%4095[^\n]", path) == 1) {
      cpus = std::min(cpus, QuotaInHierarchy("/sys/fs/cgroup", path));
    } else if (std::sscanf(line, "%*d:%255[^:]:%4095[^\n]", controllers, path) == 2 &&
               ("," + std::string(controllers) + ",").find(",cpu,") != std::string::npos) {
      cpus = std::min(cpus, QuotaInHierarchy("/sys/fs/cgroup/cpu", path));
    }
  }
  std::fclose(file);
  return static_cast<int>(std::max(1.0, std::ceil(cpus)));
}

}  // namespace

#ifdef __linux__

using CpuMask = cpu_set_t[8];  // 8192 CPUs

int CpusInAffinityMask() {
  CpuMask mask;
  if (sched_getaffinity(getpid(), sizeof(mask), mask) == 0) return std::max(1, CPU_COUNT_S(sizeof(mask), mask));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

void SetProcessAffinity(pthread_attr_t* attr) {
  CpuMask mask;
  if (sched_getaffinity(getpid(), sizeof(mask), mask) == 0) pthread_attr_setaffinity_np(attr, sizeof(mask), mask);
}

int CurrentCpu() { return sched_getcpu(); }

void KeptOff::Set(pthread_t thread, int a, int b) {
  const auto is_kept_off = [&](int cpu) { return cpu < 0 || cpu == cpus_[0] || cpu == cpus_[1]; };
  if (is_kept_off(a) && is_kept_off(b)) return;
  CpuMask mask;
  if (pthread_getaffinity_np(thread, sizeof(mask), mask) != 0) return;
  CpuMask process;
  if (sched_getaffinity(getpid(), sizeof(process), process) != 0) return;
  for (const int cpu : cpus_) {
    if (cpu < 0 || !CPU_ISSET_S(static_cast<size_t>(cpu), sizeof(process), process)) continue;
    CPU_SET_S(static_cast<size_t>(cpu), sizeof(mask), mask);
  }
  const auto take = [&](int cpu) {
    if (cpu < 0 || !CPU_ISSET_S(static_cast<size_t>(cpu), sizeof(mask), mask)) return -1;
    CPU_CLR_S(static_cast<size_t>(cpu), sizeof(mask), mask);
    return cpu;
  };
  const int taken[2] = {take(a), take(b)};
  // Refused for an empty mask.
  if (pthread_setaffinity_np(thread, sizeof(mask), mask) != 0) return;
  std::copy(taken, taken + 2, cpus_);
}

#else

int CpusInAffinityMask() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }
void SetProcessAffinity(pthread_attr_t*) {}
int CurrentCpu() { return -1; }
void KeptOff::Set(pthread_t, int, int) {}

#endif

int InitialThreads(int cpus) {
  if (const int n = EnvThreads("FUSEPROP_NUM_THREADS", '\0')) return n;
  if (const int n = EnvThreads("OMP_NUM_THREADS", ',')) return n;
  return std::min(cpus, CpusInQuota());
}

}  // namespace fuseprop
