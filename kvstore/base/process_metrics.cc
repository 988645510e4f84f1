#include "kvstore/base/process_metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <memory>

#include "kvstore/base/mutex.h"

namespace varve::base {
namespace {

size_t CountEntries(const char* directory) {
  size_t entries = 0;
  if (DIR* dir = opendir(directory)) {
    while (const dirent* entry = readdir(dir)) entries += entry->d_name[0] != '.';
    closedir(dir);
  }
  return entries;
}

double ResidentBytes() {
  unsigned long total = 0, resident = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%lu %lu", &total, &resident) != 2) resident = 0;
    std::fclose(file);
  }
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

void DeclareProcessMetrics(Metrics& metrics) {
  auto* resident = &metrics.Gauge("process_resident_memory_bytes", "Resident memory.");
  auto* descriptors = &metrics.Gauge("process_open_fds", "Open file descriptors.");
  auto* threads = &metrics.Gauge("process_threads", "Threads.");
  auto* cpu = &metrics.Counter("process_cpu_seconds_total", "User and system time.");
  metrics.Gauge("process_start_time_seconds", "Start of the process, Unix time.")
      .Set(static_cast<double>(std::time(nullptr)));
  metrics.OnScrape([=, mutex = std::make_shared<Mutex>()] {
    MutexLock lock(*mutex);
    resident->Set(ResidentBytes());
    // Reading the directory opens one descriptor of its own.
    descriptors->Set(static_cast<double>(CountEntries("/proc/self/fd")) - 1);
    threads->Set(static_cast<double>(CountEntries("/proc/self/task")));
    cpu->Increment(CpuSeconds() - cpu->Value());
  });
}

}  // namespace varve::base
