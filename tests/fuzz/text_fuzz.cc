// Small grammars: policies, sizes, durations, hex keys. What parses survives a round trip through
// its text.
#include "gpu_worker/policy.h"
#include "kvstore/base/units.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/object_key.h"
#include "tests/fuzz/fuzz.h"

namespace varve::fuzz {

std::vector<std::string> Seeds() {
  return {"full",
          "arkvale(budget=0.1,min=3,sinks=1,window=2,hot=2.5,merge=max,generated=paged)",
          "quest(budget=64p)",
          "streaming(budget=1)",
          "1.5GiB",
          "4096",
          "1h30m",
          "250ms",
          "0123456789abcdef",
          "softmax_mean"};
}

}  // namespace varve::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using varve::fuzz::Require;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto policy = varve::worker::ParsePolicy(text);
  if (policy.ok()) {
    const auto again = varve::worker::ParsePolicy(policy->ToString());
    Require(again.ok() && again->ToString() == policy->ToString(),
            "a policy's text does not parse to itself");
  } else {
    Require(!policy.status().message().empty(), "an error without a message");
  }
  if (const auto bytes = varve::base::ParseBytes(text); bytes.ok()) {
    Require(varve::base::ParseBytes(std::to_string(*bytes)).value() == *bytes,
            "a size does not parse to itself");
  }
  if (const auto duration = varve::base::ParseDuration(text); duration.ok()) {
    Require(*duration >= absl::ZeroDuration(), "a negative duration");
  }
  if (const auto key = varve::page::ObjectKey::FromHex(text); key.has_value()) {
    Require(varve::page::ObjectKey::FromHex(key->ToHex()) == key,
            "a key's hex does not parse to itself");
  }
  if (const auto key = varve::page::ObjectKey::FromBytes(text); key.has_value()) {
    Require(key->bytes() == text, "a key changed its bytes");
  }
  (void)varve::page::DigestKindByName(text);
  (void)varve::page::ScoreMergeByName(text);
  return 0;
}
