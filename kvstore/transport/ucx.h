// UCX transport (Debian's libucx 1.13): shared memory, TCP, and RDMA verbs where a device exists.
//
// shm: memory from Allocate is a sealed memfd that the store maps at Import, so that a transfer is
// a copy by the caller of Read or Write; active messages (with cross-memory attach) for the
// caller's own memory. tcp: active messages in both directions, never put/get (UCX 1.13 can abort
// the survivor when a peer dies in emulated put/get). rdma: one-sided.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/transport/transport.h"

namespace varve::transport {

struct UcxOptions {
  std::vector<std::string> lanes = {"rdma", "shm", "tcp"};  // offered, in order of preference
  std::vector<std::string> devices;                         // of tcp and rdma; empty: all
  bool tcp_this_host_only = false;  // without devices, tcp uses the loopback device alone
  std::string tcp_port_range;       // that tcp listens on: "20000-20100"; empty: any
  size_t segment_bytes = 1 << 20;   // of messages that large transfers are cut into
  // How often a silent shm peer is looked after.
  absl::Duration keepalive = absl::Milliseconds(500);
  absl::Duration connect_timeout = absl::Seconds(5);  // for the peer's answer, per lane
};

// INVALID_ARGUMENT for unknown lanes or devices and a malformed range, UNAVAILABLE when no lane can
// be opened. A lane that cannot be, where others can, is left out.
absl::StatusOr<std::unique_ptr<Transport>> MakeUcxTransport(const UcxOptions& options);

}  // namespace varve::transport
