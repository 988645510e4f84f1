// The worker behind a sidecar (varve-worker), as its engine calls it: the Worker interface over a
// Unix socket or a loopback address, tensors in shared memory.
//
// Attach opens the engine's session; destroying the object ends it, and the sidecar closes its
// sequences. When the sidecar goes away, calls fail with UNAVAILABLE; a new Attach is needed.
// A call that is not answered within call_timeout fails with DEADLINE_EXCEEDED; what it did to its
// sequence is then unknown, and its part of the tensor memory is not used again.
// Threads: as Worker. Calls wait for room when those under way fill the tensor memory.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gpu_worker/worker.h"

namespace varve::worker {

struct RemoteWorkerOptions {
  std::string address = "unix:/tmp/varve-worker.sock";
  std::string engine_name = "engine";
  page::Geometry geometry;
  uint64_t tensor_bytes = 64ull << 20;
  uint64_t pool_bytes = 0;  // 0: all that the sidecar has left
  // The sidecar's configuration where not set.
  std::optional<page::DigestKind> digest_kind;
  std::optional<RecallPath> recall_path;
  uint32_t mass_sample_every = 0;
  absl::Duration connect_timeout = absl::Seconds(10);
  // Bounds each call, the attachment included (for which the sidecar zeroes a page pool).
  absl::Duration call_timeout = absl::Seconds(60);
  // How long the destructor lets the sidecar close the sequences.
  absl::Duration close_timeout = absl::Seconds(10);
};

class RemoteWorker : public Worker {
 public:
  // UNAVAILABLE when no sidecar answers, DEADLINE_EXCEEDED when it does not attach the engine in
  // time; otherwise as Worker::Create.
  static absl::StatusOr<std::unique_ptr<RemoteWorker>> Attach(const RemoteWorkerOptions& options);

  // The page pool, mapped read-only: slot i of a page table is at i * page_bytes.
  virtual std::span<const std::byte> pool() const = 0;
};

}  // namespace varve::worker
