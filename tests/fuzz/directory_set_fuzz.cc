// Lists of a log's directories: what parses is the same when it is encoded and parsed again. The
// checksum is made right unless the input's first byte says no.
#include "kvstore/tier/directory_set.h"

#include <cstring>

#include "kvstore/page/checksum.h"
#include "tests/fuzz/fuzz.h"

namespace varve::fuzz {
namespace {

constexpr size_t kChecksum = 12, kHeaderBytes = 64;

}  // namespace

std::vector<std::string> Seeds() {
  tier::DirectorySet set;
  set.store_id.fill(1);
  set.own.fill(2);
  set.generation = 3;
  set.members = {{set.own, "/mnt/nvme0/varve"}};
  const std::string one = EncodeDirectorySet(set);
  set.members.push_back({set.store_id, ""});
  set.members.push_back({{}, std::string(300, 'x')});
  const std::string three = EncodeDirectorySet(set);
  return {std::string(1, 0) + one, std::string(1, 0) + three, std::string(1, 1) + three};
}

}  // namespace varve::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace varve;  // NOLINT(google-build-using-namespace): a fuzzer of several rooms
  if (size == 0) return 0;
  std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0 && bytes.size() >= fuzz::kHeaderBytes) {
    std::memset(&bytes[fuzz::kChecksum], 0, sizeof(uint32_t));
    const uint32_t checksum = page::Crc32c(bytes.data(), bytes.size());
    std::memcpy(&bytes[fuzz::kChecksum], &checksum, sizeof(checksum));
  }
  const auto set = tier::ParseDirectorySet(bytes);
  if (!set.ok()) {
    fuzz::Require(!set.status().message().empty(), "an error without a message");
    return 0;
  }
  fuzz::Require(set->Find(set->own) != nullptr, "a directory that is not in its own list");
  fuzz::Require(tier::EncodeDirectorySet(*set) == bytes, "other bytes when encoded again");
  return 0;
}
