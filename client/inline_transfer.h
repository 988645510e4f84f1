// Puts and gets whose values travel inside gRPC messages: for clients without a transport, with the
// results of the ordinary calls.
//
// Both functions return at once; done runs exactly once, on a gRPC thread or before they return.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "client/in_flight.h"
#include "client/session.h"
#include "varve/v1/store.grpc.pb.h"

namespace varve::client {

// What every inline call needs.
struct InlineChannel {
  v1::Store::Stub* stub;
  InFlight* in_flight;
  Session::OpenedPtr session;
  absl::Duration deadline;
};

template <typename Result>
using InlineDone = std::function<void(absl::StatusOr<std::vector<Result>>)>;

struct InlinePut {
  page::ObjectKey key;
  std::vector<std::span<const std::byte>> sources;
  page::ObjectLayout layout;
  std::string codec;
  std::optional<uint32_t> crc32c;
  uint32_t prompt_tokens = 0;
  uint32_t tokens = 0;
  absl::Duration ttl = absl::InfiniteDuration();
  page::ObjectKey parent;
};
// The sources must stay until done.
void PutOverStream(const InlineChannel& channel, std::vector<InlinePut> items,
                   InlineDone<PutResult> done);

struct InlineGet {
  page::ObjectKey key;
  page::ObjectRange range;
};
// Called for each item, in order, with its bytes (whole; empty on a miss) and may change the
// result.
using InlineValueSink =
    std::function<void(size_t item, const std::string& value, GetResult* result)>;
void GetOverStream(const InlineChannel& channel, const std::vector<InlineGet>& items,
                   InlineValueSink sink, InlineDone<GetResult> done);

}  // namespace varve::client
