// A decorator over any transport that makes things go wrong on purpose, by a seeded plan. For tests
// and drills.
//
// Works on either side: the client's decorated transport hands out real regions and a real address
// (Connect is where its faults are), the store's decorated transport gives endpoints whose
// transfers fail, wait, hang or corrupt.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kvstore/transport/transport.h"

namespace varve::transport {

struct Fault {
  enum class Kind {
    kNone,
    kFail,         // Done gets `status`, nothing moves
    kDelay,        // the transfer starts after `delay`
    kHang,         // Done gets DEADLINE_EXCEEDED at the deadline and the endpoint closes, as with a
                   // stalled peer
    kHoldToClose,  // Done gets CANCELLED when the endpoint is closed
    kCorrupt,  // one bit is flipped: in local after a read, in the bytes sent (not in local) of a
               // write
  };
  Kind kind = Kind::kNone;
  absl::Status status = absl::UnavailableError("injected fault");
  absl::Duration delay;
};

struct FaultPlan {
  struct Rule {
    uint64_t transfer;  // counted from 0 over all endpoints of the transport
    Fault fault;
  };
  uint64_t seed = 1;
  // Chances of each transfer, drawn in this order from one random number; together at most 1.
  double fail = 0;
  double delay = 0;
  double hang = 0;
  double corrupt = 0;
  absl::Duration delay_time = absl::Milliseconds(5);
  std::vector<Rule> rules;         // come before chance
  std::vector<uint64_t> connects;  // Connects that fail with UNAVAILABLE, counted from 0
};

// Owns the inner transport. Transfers are counted in the order in which they are posted. Zero
// faults: the decorator is invisible, apart from the copy that a corrupted write sends.
std::unique_ptr<Transport> MakeFaultTransport(std::unique_ptr<Transport> inner, FaultPlan plan);

}  // namespace varve::transport
