// One bidirectional streaming RPC, as a queue of replies and a bounded number of requests in work.
//
// A subclass gets requests one at a time, in order, on a gRPC thread (OnRequest), may work on up to
// max_in_flight of them anywhere, and answers each exactly once (Respond; replies before its last
// one are queued, Queue). While those in work come
// to more than kMaxMessageBytes no further one is read. Replies go out in the order of Respond; one
// that the client has not taken counts as in flight, so a client that does not read is not read
// from either. The stream ends when the client has half-closed and every request was answered, or
// with a status (End: an error, or the store drains) once the requests in work were answered.
// Threads: Respond and End from any thread. Lifetime: shared; the call holds itself until gRPC is
// done with it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "kvstore/base/grpc_status.h"
#include "kvstore/base/mutex.h"
#include "kvstore/server/config.h"
#include "kvstore/server/core.h"

namespace varve::server {

template <typename Request, typename Reply>
class StreamCall : public grpc::ServerBidiReactor<Request, Reply>,
                   public std::enable_shared_from_this<StreamCall<Request, Reply>> {
 public:
  // method: its name in the proto.
  StreamCall(Core& core, const char* method, size_t max_in_flight)
      : core_(core), metrics_(core.metrics.method(method)), max_in_flight_(max_in_flight) {}

  // Once, by the service; gRPC takes the returned pointer.
  grpc::ServerBidiReactor<Request, Reply>* Begin() {
    keep_alive_ = this->shared_from_this();
    metrics_.Started();
    stream_id_ = core_.streams.Add([weak = this->weak_from_this()](const absl::Status& reason) {
      if (auto self = weak.lock()) self->End(reason);
    });
    if (stream_id_ == 0) {
      core_.metrics.Reject("draining");
      End(absl::FailedPreconditionError("the store is draining"));
    }
    Advance();
    return this;
  }

  // Answers one request, unchanged since OnRequest. null: nothing to say.
  void Respond(const Request& request, std::unique_ptr<Reply> reply) {
    {
      base::MutexLock lock(mutex_);
      --in_flight_;
      bytes_in_flight_ -= static_cast<size_t>(request.GetCachedSize());
      if (reply != nullptr) replies_.push_back(std::move(reply));
    }
    Advance();
  }

  // One of several replies to a request, before its Respond; goes out with the next Flush or
  // Respond.
  void Queue(std::unique_ptr<Reply> reply) {
    base::MutexLock lock(mutex_);
    replies_.push_back(std::move(reply));
  }
  void Flush() { Advance(); }

  // No more requests are read; the first status given wins.
  void End(const absl::Status& status) {
    {
      base::MutexLock lock(mutex_);
      if (!end_.has_value()) end_ = status;
    }
    Advance();
  }

 protected:
  // The request is in work until Respond.
  virtual void OnRequest(std::unique_ptr<Request> request) = 0;
  // The client half-closed and every request was answered: the status that the stream ends with.
  virtual absl::Status OnInputEnded() { return absl::OkStatus(); }
  // The call is over, however it ended. Exactly once, on a gRPC thread; no request is in work.
  virtual void OnClosed() {}

  Core& core() { return core_; }
  // In core().streams.
  uint64_t stream_id() const { return stream_id_; }

 private:
  enum class Action { kNone, kRead, kWrite, kFinish };

  // gRPC may run a reaction inside Start* and Finish, so they are called without the lock, by one
  // thread at a time.
  void Advance() {
    for (bool first = true;; first = false) {
      Action action;
      {
        base::MutexLock lock(mutex_);
        if (first && acting_) return;  // the acting thread looks again
        action = Next();
        acting_ = action != Action::kNone;
      }
      switch (action) {
        case Action::kNone:
          return;
        case Action::kRead:
          this->StartRead(incoming_.get());
          break;
        case Action::kWrite:
          this->StartWrite(outgoing_.get());
          break;
        case Action::kFinish:
          return Complete();  // *this may be gone afterwards
      }
    }
  }

  Action Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_ || writing_) return ReadOr(Action::kNone);
    if (!replies_.empty() && !broken_) {
      outgoing_ = std::move(replies_.front());
      replies_.pop_front();
      writing_ = true;
      return Action::kWrite;
    }
    const bool over = end_.has_value() || input_ended_;
    if (over && in_flight_ == 0 && !delivering_) {
      finished_ = true;
      return Action::kFinish;
    }
    return ReadOr(Action::kNone);
  }

  Action ReadOr(Action otherwise) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_ || end_.has_value() || input_ended_ || reading_) return otherwise;
    if (in_flight_ + replies_.size() + (writing_ ? 1 : 0) >= max_in_flight_) return otherwise;
    if (bytes_in_flight_ > size_t{kMaxMessageBytes}) return otherwise;
    reading_ = true;
    incoming_ = std::make_unique<Request>();
    return Action::kRead;
  }

  void Complete() {
    std::optional<absl::Status> status;
    {
      base::MutexLock lock(mutex_);
      status = end_;
      if (!status.has_value() && broken_) status = absl::CancelledError("client gone");
    }
    if (!status.has_value()) status = OnInputEnded();
    metrics_.Handled(status->code(), absl::ToDoubleSeconds(absl::Now() - start_));
    this->Finish(base::ToGrpc(*status));
  }

  void OnReadDone(bool ok) override {
    {
      base::MutexLock lock(mutex_);
      input_ended_ |= !ok;
      in_flight_ += ok ? 1 : 0;
      bytes_in_flight_ += ok ? incoming_->ByteSizeLong() : 0;
      delivering_ = ok;  // keeps the call from finishing under OnRequest
    }
    if (ok) OnRequest(std::move(incoming_));
    {
      base::MutexLock lock(mutex_);
      reading_ = false;
      delivering_ = false;
    }
    Advance();
  }

  void OnWriteDone(bool ok) override {
    {
      base::MutexLock lock(mutex_);
      writing_ = false;
      if (!ok) {
        broken_ = true;
        input_ended_ = true;
      }
    }
    Advance();
  }

  void OnDone() override {
    core_.streams.Remove(stream_id_);
    OnClosed();
    keep_alive_.reset();
  }

  Core& core_;
  base::RpcMetrics& metrics_;
  uint64_t stream_id_ = 0;
  const size_t max_in_flight_;
  const absl::Time start_ = absl::Now();
  std::shared_ptr<StreamCall> keep_alive_;
  std::unique_ptr<Request> incoming_;  // of the read that is out
  std::unique_ptr<Reply> outgoing_;    // of the write that is out

  base::Mutex mutex_;
  std::deque<std::unique_ptr<Reply>> replies_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  size_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;  // requests in work
  size_t bytes_in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  bool acting_ ABSL_GUARDED_BY(mutex_) = false;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool delivering_ ABSL_GUARDED_BY(mutex_) = false;
  bool input_ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace varve::server
