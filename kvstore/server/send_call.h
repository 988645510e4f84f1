// One server-streaming RPC: pulls messages from a source, one after the other, as fast as the
// client takes them.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "kvstore/base/grpc_status.h"
#include "kvstore/base/mutex.h"
#include "kvstore/server/core.h"

namespace varve::server {

// Deletes itself when gRPC is done with it.
template <typename Reply>
class SendCall final : public grpc::ServerWriteReactor<Reply> {
 public:
  // Fills the next message; false: there is none, the stream is complete. Runs on the data pool,
  // one call at a time.
  using Source = absl::AnyInvocable<absl::StatusOr<bool>(Reply*)>;

  SendCall(Core& core, const char* method) : core_(core), metrics_(core.metrics.method(method)) {
    metrics_.Started();
    stream_id_ = core_.streams.Add([stop = stop_](const absl::Status&) { stop->store(true); });
    if (stream_id_ == 0) stop_->store(true);
  }

  // A source, or why there is none.
  grpc::ServerWriteReactor<Reply>* Begin(absl::StatusOr<Source> source) {
    if (source.ok()) {
      source_ = *std::move(source);
      Pull();
    } else {
      Complete(source.status());
    }
    return this;
  }

 private:
  void Pull() {
    core_.data_pool.Run([this] {
      if (stop_->load()) return Complete(absl::UnavailableError("the store is draining"));
      const absl::StatusOr<bool> more = Fill();
      if (more.ok() && *more) return this->StartWrite(&message_);
      Complete(more.status());
    });
  }

  absl::StatusOr<bool> Fill() {
    // gRPC orders these calls already; the lock shows it to ThreadSanitizer, which does not see
    // into gRPC.
    base::MutexLock lock(fill_mutex_);
    message_.Clear();
    return source_(&message_);
  }

  void OnWriteDone(bool ok) override {
    ok ? Pull() : Complete(absl::CancelledError("client gone"));
  }

  void Complete(const absl::Status& status) {
    metrics_.Handled(status.code(), absl::ToDoubleSeconds(absl::Now() - start_));
    this->Finish(base::ToGrpc(status));
  }

  void OnDone() override {
    core_.streams.Remove(stream_id_);
    delete this;
  }

  Core& core_;
  base::RpcMetrics& metrics_;
  const absl::Time start_ = absl::Now();
  // Outlives the call: a closer may run beside OnDone.
  const std::shared_ptr<std::atomic<bool>> stop_ = std::make_shared<std::atomic<bool>>(false);
  uint64_t stream_id_ = 0;
  base::Mutex fill_mutex_;
  Source source_;
  Reply message_;
};

}  // namespace varve::server
