#include "kvstore/transport/shared_mapping.h"

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>

namespace varve::transport {
namespace {

struct Mapping {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t offset = 0;
  uint64_t inode = 0;
  unsigned device_major = 0;
  unsigned device_minor = 0;
  char permissions[5] = {};

  bool SharedReadWrite() const { return permissions[0] == 'r' && permissions[1] == 'w' && permissions[3] == 's'; }
  // Goes on where `before` ends, in memory and in the object.
  bool Continues(const Mapping& before) const {
    return begin == before.end && inode == before.inode && device_major == before.device_major &&
           device_minor == before.device_minor && offset == before.offset + (before.end - before.begin);
  }
};

std::optional<Mapping> ParseMapping(const std::string& line) {
  Mapping m;
  const int fields = sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &m.begin, &m.end,
                            m.permissions, &m.offset, &m.device_major, &m.device_minor, &m.inode);
  return fields == 7 ? std::optional(m) : std::nullopt;
}

}  // namespace

bool IsOneSharedMapping(std::span<const std::byte> range) {
  const auto begin = reinterpret_cast<uint64_t>(range.data());
  if (range.empty() || begin > UINT64_MAX - range.size()) return false;
  const uint64_t end = begin + range.size();
  std::ifstream maps("/proc/self/maps");
  std::optional<Mapping> before;
  for (std::string line; std::getline(maps, line);) {
    const std::optional<Mapping> mapping = ParseMapping(line);
    if (!mapping || mapping->end <= begin) continue;
    const bool follows = before ? mapping->Continues(*before) : mapping->begin <= begin;
    if (!follows || !mapping->SharedReadWrite()) return false;
    if (mapping->end >= end) return true;
    before = mapping;
  }
  return false;
}

}  // namespace varve::transport
