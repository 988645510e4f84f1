// Which directories make up a log: a small file in each of them says it. Pure functions over
// memory; docs/page_format.md has the layout in prose.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace varve::tier {

inline constexpr uint32_t kMaxSetMembers = 1024;

struct DirectorySet {
  using Id = std::array<uint8_t, 16>;
  struct Member {
    Id id{};
    std::string path;  // where it was last
    friend bool operator==(const Member&, const Member&) = default;
  };

  Id store_id{};            // of the log
  Id own{};                 // of the directory that the file is in
  uint64_t generation = 0;  // grows with each change; of several files the newest counts
  std::vector<Member> members;
  friend bool operator==(const DirectorySet&, const DirectorySet&) = default;

  const Member* Find(const Id& id) const;
};

DirectorySet::Id NewDirectoryId();
std::string Hex(const DirectorySet::Id& id);

std::string EncodeDirectorySet(const DirectorySet& set);
// DATA_LOSS for what is none or is damaged, FAILED_PRECONDITION for another version.
absl::StatusOr<DirectorySet> ParseDirectorySet(std::string_view bytes);

}  // namespace varve::tier
