// What a peer's worker address says, checked before UCX sees it: UCX 1.13 takes no length, aborts
// the process over an unknown format, and maps the shared memory that an address names without a
// look at its size.
//
// A checked address is one that UCX of this version can have made: its structure is whole, what two
// workers of one lane have in common is equal to our own (on one machine everything but names), and
// shared memory is a queue of the process that it claims to come from. This keeps out formats and
// files that would crash us. It authenticates nobody: UCX may still abort over a lie about a
// worker's id or port, and trusts what a peer writes into its queues and what reaches its tcp port
// (docs/operations.md).
//
// Pure functions, apart from a look into /proc for shared memory. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kvstore/transport/ucx_protocol.h"

namespace varve::transport {

// The library's major and minor version: peers must have the same.
uint32_t UcxVersion();

// Version 1 of UCX's format, as ucp_worker_get_address makes it with LaneSettings. Views into the
// parsed bytes.
struct WorkerAddress {
  // One transport on one device.
  struct Entry {
    uint16_t transport;  // CRC of its name
    uint32_t features;   // what it can do
    std::string_view device;
    std::string_view interface;
  };
  uint64_t worker;  // random, one per worker
  std::vector<Entry> entries;
  std::string shape;  // all its bytes, zeroed where they name the worker, a device or an interface
};

// INVALID_ARGUMENT when bytes are missing or too many, or a field has a value that UCX never
// writes.
absl::StatusOr<WorkerAddress> ParseWorkerAddress(std::string_view bytes);

// Whether a worker of this lane may connect to `peer`, an address of process `pid`. own: the
// worker's own address. INVALID_ARGUMENT when not.
absl::Status CheckWorkerAddress(LaneKind lane, std::string_view own, std::string_view peer,
                                uint32_t pid);

}  // namespace varve::transport
