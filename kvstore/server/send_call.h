// One server-streaming RPC: pulls messages from a source, one after the other, as fast as the
// client takes them.
//
// Ends with the source, or early with a status (Stop): when the store drains, when the session has
// ended, or when the client has not taken a message for sessions.inline_idle_ms. The source, and
// whatever it pins, goes at once, even while a message waits for the client. Threads: Bind and
// Begin by the service; the rest by itself. Lifetime: shared; the call holds itself until gRPC is
// done with it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "kvstore/base/grpc_status.h"
#include "kvstore/base/mutex.h"
#include "kvstore/server/core.h"

namespace varve::server {

template <typename Reply>
class SendCall final : public grpc::ServerWriteReactor<Reply>,
                       public std::enable_shared_from_this<SendCall<Reply>> {
 public:
  enum class Pulled {
    kMessage,
    kEnd,    // the stream is complete
    kLater,  // the source has taken Resume(), and will call it when it can go on
  };
  // Fills the next message. Runs on the data pool, one call at a time; the source lives until it
  // has resumed.
  using Source = absl::AnyInvocable<absl::StatusOr<Pulled>(Reply*, SendCall&)>;

  SendCall(Core& core, const char* method) : core_(core), metrics_(core.metrics.method(method)) {
    metrics_.Started();
  }

  // session: whose end ends the stream; or why there is none. make(session): the source, or why
  // there is none.
  template <typename Make>
  grpc::ServerWriteReactor<Reply>* Begin(const absl::StatusOr<SessionRef>& session, Make&& make) {
    keep_alive_ = this->shared_from_this();
    stream_id_ = core_.streams.Add([weak = this->weak_from_this()](const absl::Status& reason) {
      if (auto self = weak.lock()) self->Stop(reason);
    });
    if (stream_id_ == 0) Stop(absl::UnavailableError("the store is draining"));
    if (!session.ok()) {
      Stop(session.status());
    } else {
      core_.streams.Bind(stream_id_, (*session)->number());
      absl::StatusOr<Source> source = make(**session);
      if (source.ok()) {
        base::MutexLock lock(mutex_);
        source_ = *std::move(source);
      } else {
        Stop(source.status());
      }
      if ((*session)->ended()) Stop(SessionEnded());
    }
    Pull();
    return this;
  }

  // Any thread may call it, and somebody has to, once: the call lives until then.
  base::Task Resume() {
    return [this] { Pull(); };
  }

 private:
  void Pull() {
    core_.data_pool.Run([this] {
      const Pulled pulled = Fill();
      if (pulled == Pulled::kLater) return;
      if (pulled == Pulled::kMessage) {
        core_.streams.Expect(stream_id_, absl::Now() + IdleLimit(core_));
        this->StartWrite(&message_);
      }
      Leave();
    });
  }

  Pulled Fill() {
    base::MutexLock lock(mutex_);
    if (end_.has_value()) return Pulled::kEnd;
    message_.Clear();
    const absl::StatusOr<Pulled> pulled = source_(&message_, *this);
    if (!pulled.ok() || *pulled == Pulled::kEnd) end_ = pulled.status();
    return pulled.value_or(Pulled::kEnd);
  }

  void OnWriteDone(bool ok) override {
    core_.streams.Expect(stream_id_, absl::InfiniteFuture());
    bool pull;
    {
      base::MutexLock lock(mutex_);
      ++working_;
      if (!ok && !end_.has_value()) end_ = absl::CancelledError("client gone");
      pull = !end_.has_value();
    }
    pull ? Pull() : Leave();
  }

  void Stop(const absl::Status& status) {
    {
      base::MutexLock lock(mutex_);
      ++working_;
      if (!end_.has_value()) end_ = status;
    }
    Leave();
  }

  // The last one to leave after the end finishes; nobody starts a write after that. A write that
  // waits for the client is no obstacle: the status goes out behind it.
  void Leave() {
    Source source;  // destroyed after the lock
    absl::Status status;
    {
      base::MutexLock lock(mutex_);
      if (--working_ > 0 || !end_.has_value() || finished_) return;
      finished_ = true;
      source = std::move(source_);
      status = *end_;
    }
    source = nullptr;
    metrics_.Handled(status.code(), absl::ToDoubleSeconds(absl::Now() - start_));
    this->Finish(base::ToGrpc(status));  // *this may be gone afterwards
  }

  void OnDone() override {
    core_.streams.Remove(stream_id_);
    keep_alive_.reset();
  }

  Core& core_;
  base::RpcMetrics& metrics_;
  const absl::Time start_ = absl::Now();
  uint64_t stream_id_ = 0;
  std::shared_ptr<SendCall> keep_alive_;
  Reply message_;

  base::Mutex mutex_;
  Source source_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  // Threads between a message and the next, and Begin.
  int working_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace varve::server
