// How much memory this process may still take, so that an arena too large is refused at start
// instead of being killed half filled.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <string>

namespace varve::tier {

struct MemoryLimit {
  uint64_t available_bytes = 0;  // UINT64_MAX: nothing known
  std::string source;  // for the error message: "MemAvailable in /proc/meminfo", "memory.max of
                       // cgroup /pod"
};

// The tightest of: MemAvailable, the process's cgroup v2 limit and its cgroup v1 limit (each less
// what is used), at every level up to the root. root: where /proc and /sys are, for tests.
MemoryLimit AvailableMemory(const std::string& root = "");

// What the machine has, whoever uses it.
uint64_t MachineMemoryBytes();

}  // namespace varve::tier
