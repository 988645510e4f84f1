// What the services share. Everything outlives every call.
#pragma once

#include <atomic>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "kvstore/base/executor.h"
#include "kvstore/recall/context_table.h"
#include "kvstore/server/metrics.h"
#include "kvstore/server/open_streams.h"
#include "kvstore/server/session_table.h"
#include "kvstore/store/page_store.h"
#include "kvstore/transport/transport.h"
#include "varve/v1/config.pb.h"

namespace varve::server {

// Answers a call, exactly once, on any thread. Request and reply live until then.
using Answer = absl::AnyInvocable<void(absl::Status) &&>;

struct Core {
  const varve::v1::StoreConfig& config;
  StoreMetrics& metrics;
  store::PageStore& pages;
  recall::ContextTable& contexts;
  SessionTable& sessions;
  OpenStreams& streams;
  transport::Transport& transport;
  base::Executor& data_pool;    // checksums and copies of gets, chunks of streams
  base::Executor& put_pool;     // those of puts: a get does not wait behind them
  base::Executor& recall_pool;  // scoring
  // Connecting to clients, touching memory, looking at all objects: blocks for seconds.
  base::Executor& connect_pool;
  base::Executor& control_pool;         // importing, ending sessions
  const char* io_name;                  // how the disks are used; empty without any
  std::atomic<uint32_t> connecting{0};  // sessions being opened
};

// UNAUTHENTICATED, or FAILED_PRECONDITION while draining (counted as rejected).
absl::StatusOr<SessionRef> RequireSession(Core& core, const std::string& session_id);
// What a stream is told whose session ended in mid-call.
absl::Status SessionEnded();
// How long a client may let a stream wait that holds something for it.
absl::Duration IdleLimit(const Core& core);
// Counts RESOURCE_EXHAUSTED under `limit`; passes the status on.
absl::Status CountReject(Core& core, const char* limit, absl::Status status);

}  // namespace varve::server
