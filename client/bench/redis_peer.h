// Redis as a peer: a redis-server of its own on loopback TCP, persistence off, and a plain
// pipelining client.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace varve::client {

class RedisPeer {
 public:
  // Starts redis-server on a free port. NOT_FOUND when it is not installed.
  static absl::StatusOr<std::unique_ptr<RedisPeer>> Start(uint64_t max_memory_bytes);
  virtual ~RedisPeer() = default;

  // Pipelined batches over one connection; key i is "k<i>". Value i of a batch is at i *
  // value_bytes.
  virtual absl::Status Set(uint64_t first_key, int batch, const char* values,
                           size_t value_bytes) = 0;
  // Copies every value into `into` (batch * value_bytes). NOT_FOUND when one is missing.
  virtual absl::Status Get(uint64_t first_key, int batch, char* into, size_t value_bytes) = 0;
};

}  // namespace varve::client
