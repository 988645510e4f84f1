#include "kvstore/tier/directory_set.h"

#include <bit>
#include <cstring>
#include <random>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kvstore/page/checksum.h"

namespace varve::tier {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr char kMagic[8] = {'V', 'A', 'R', 'V', 'E', 'S', 'E', 'T'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kMaxPathBytes = 4096;

// Followed by the members.
struct SetBlock {
  char magic[8];
  uint32_t version;
  uint32_t crc32c;  // of all bytes, this as 0
  DirectorySet::Id store_id;
  DirectorySet::Id own;
  uint64_t generation;
  uint32_t members;
  uint32_t zero;
};
static_assert(sizeof(SetBlock) == 64);

// Followed by the path.
struct MemberBlock {
  DirectorySet::Id id;
  uint32_t path_bytes;
};
static_assert(sizeof(MemberBlock) == 20);

template <typename Block>
std::string Bytes(const Block& block) {
  return {reinterpret_cast<const char*>(&block), sizeof(block)};
}

uint32_t Checksum(SetBlock block, std::string_view members) {
  block.crc32c = 0;
  return page::Crc32c(members.data(), members.size(), page::Crc32c(&block, sizeof(block)));
}

absl::Status Damaged() {
  return absl::DataLossError("the list of the log's directories is damaged");
}

}  // namespace

const DirectorySet::Member* DirectorySet::Find(const Id& id) const {
  for (const Member& member : members) {
    if (member.id == id) return &member;
  }
  return nullptr;
}

DirectorySet::Id NewDirectoryId() {
  std::random_device random;
  DirectorySet::Id id;
  for (uint8_t& byte : id) byte = static_cast<uint8_t>(random());
  return id;
}

std::string Hex(const DirectorySet::Id& id) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(id.data()), id.size()});
}

std::string EncodeDirectorySet(const DirectorySet& set) {
  std::string members;
  for (const DirectorySet::Member& member : set.members) {
    members += Bytes(MemberBlock{member.id, static_cast<uint32_t>(member.path.size())});
    members += member.path;
  }
  SetBlock block{};
  std::memcpy(block.magic, kMagic, sizeof(kMagic));
  block.version = kVersion;
  block.store_id = set.store_id;
  block.own = set.own;
  block.generation = set.generation;
  block.members = static_cast<uint32_t>(set.members.size());
  block.crc32c = Checksum(block, members);
  return Bytes(block) + members;
}

absl::StatusOr<DirectorySet> ParseDirectorySet(std::string_view bytes) {
  SetBlock block;
  if (bytes.size() < sizeof(block)) return Damaged();
  std::memcpy(&block, bytes.data(), sizeof(block));
  bytes.remove_prefix(sizeof(block));
  if (std::memcmp(block.magic, kMagic, sizeof(kMagic)) != 0) return Damaged();
  // The checksum first, and of any version: a changed bit is no other version.
  if (block.crc32c != Checksum(block, bytes)) return Damaged();
  if (block.version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat("a list of directories of version ",
                                                      block.version,
                                                      "; this program reads version ", kVersion));
  }
  if (block.zero != 0 || block.members > kMaxSetMembers) return Damaged();
  DirectorySet set{block.store_id, block.own, block.generation, {}};
  for (uint32_t i = 0; i < block.members; ++i) {
    MemberBlock member;
    if (bytes.size() < sizeof(member)) return Damaged();
    std::memcpy(&member, bytes.data(), sizeof(member));
    bytes.remove_prefix(sizeof(member));
    if (member.path_bytes > kMaxPathBytes || member.path_bytes > bytes.size() ||
        set.Find(member.id) != nullptr) {
      return Damaged();
    }
    set.members.push_back({member.id, std::string(bytes.substr(0, member.path_bytes))});
    bytes.remove_prefix(member.path_bytes);
  }
  if (!bytes.empty() || set.Find(set.own) == nullptr) return Damaged();
  return set;
}

}  // namespace varve::tier
