#include "kvstore/tier/memory_limit.h"

#include <unistd.h>

#include <charconv>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string_view>

namespace varve::tier {
namespace {

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

// The number in a one-line file; nothing for "max" and for files that are not there.
std::optional<uint64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  if (!(file >> text)) return std::nullopt;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

void Tighten(MemoryLimit& limit, uint64_t available_bytes, std::string source) {
  if (available_bytes >= limit.available_bytes) return;
  limit.available_bytes = available_bytes;
  limit.source = std::move(source);
}

void ReadMemInfo(const std::string& root, MemoryLimit& limit) {
  std::ifstream file(root + "/proc/meminfo");
  std::string name;
  uint64_t kib = 0;
  std::string unit;
  while (file >> name >> kib && std::getline(file, unit)) {
    if (name == "MemAvailable:") Tighten(limit, kib * 1024, "MemAvailable in /proc/meminfo");
  }
}

struct CgroupFiles {
  std::string mount;
  std::string limit;
  std::string usage;
};

// The group's own limit and those of all groups above it.
void ReadCgroup(const std::string& root, const CgroupFiles& files, std::string group,
                MemoryLimit& limit) {
  for (;;) {
    const std::string folder = root + files.mount + (group == "/" ? "" : group) + "/";
    const std::optional<uint64_t> max = ReadNumber(folder + files.limit);
    if (max.has_value()) {
      const uint64_t used = ReadNumber(folder + files.usage).value_or(0);
      Tighten(limit, *max > used ? *max - used : 0, files.limit + " of cgroup " + group);
    }
    const size_t slash = group.rfind('/');
    if (slash == std::string::npos || group == "/") return;
    group = slash == 0 ? "/" : group.substr(0, slash);
  }
}

}  // namespace

MemoryLimit AvailableMemory(const std::string& root) {
  static const CgroupFiles kV2{"/sys/fs/cgroup", "memory.max", "memory.current"};
  static const CgroupFiles kV1{"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                               "memory.usage_in_bytes"};
  MemoryLimit limit{kUnlimited, "nothing"};
  ReadMemInfo(root, limit);
  // Lines are "id:controllers:path"; version 2 has no controllers.
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string group = line.substr(second + 1);
    if (controllers == ",,") ReadCgroup(root, kV2, group, limit);
    if (controllers.find(",memory,") != std::string::npos) ReadCgroup(root, kV1, group, limit);
  }
  return limit;
}

uint64_t MachineMemoryBytes() {
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace varve::tier
