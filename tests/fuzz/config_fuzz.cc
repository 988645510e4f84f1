// Config files, environment and flags: any text is a status, and what loads prints and loads again
// to the same message.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "google/protobuf/util/message_differencer.h"
#include "kvstore/base/config.h"
#include "tests/fuzz/fuzz.h"
#include "varve/v1/config.pb.h"

namespace varve::fuzz {

std::vector<std::string> Seeds() {
  return {
      "Fhost_tier:\n  capacity_bytes: 8GiB\n  eviction: lru\n  low_watermark: 0.8\nsessions:\n  "
      "max_sessions: 12\n",
      "Ftransport:\n  lanes: [shm, tcp]\n  transfer_deadline_ms: 250ms\ndrain_ms: 1h30m\n",
      "F,",
      "F&a {host_tier: {eviction: &b lru}, listen: *b, x: *a}\n",
      "Flisten: 'unix:/tmp/x'\nhttp_listen: \"\"\n",
      "EVARVE_HOST_TIER_CAPACITY_BYTES=1.5GiB",
      "A--host_tier.capacity_bytes=64MiB",
      "A--host_tier.high_watermark=0.123456789",
      "A--listen=\"\\'# ",
      "A--transport.lanes=shm,tcp"};
}

}  // namespace varve::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  varve::v1::StoreConfig config;
  varve::base::ConfigLoader loader(&config, "VARVE_");
  absl::Status status;
  if (data[0] == 'F') {
    status = loader.LoadYamlText(text, "fuzz");
  } else if (data[0] == 'E') {
    const size_t equals = text.find('=');
    status = loader.LoadEnvironment(
        {{text.substr(0, equals), equals == std::string::npos ? "" : text.substr(equals + 1)}});
  } else {
    status = loader.LoadFlags({text}).status();
  }
  varve::fuzz::Require(status.ok() || !status.message().empty(), "an error without a message");
  if (!status.ok()) return 0;
  // YAML replaces what is no UTF-8.
  if (!std::all_of(text.begin(), text.end(), absl::ascii_isascii)) return 0;
  varve::v1::StoreConfig again;
  varve::base::ConfigLoader printed(&again, "VARVE_");
  varve::fuzz::Require(printed.LoadYamlText(loader.Print(), "printed").ok(),
                       "settings that do not load once printed");
  varve::fuzz::Require(google::protobuf::util::MessageDifferencer::Equals(config, again),
                       "settings that print as others");
  return 0;
}
