// Requests and their replies on one long-lived gRPC stream, many in flight.
//
// Replies are matched to requests by the order of sending, or by a tag when the stream has a tag
// function. A tagged stream may have a limit of requests that the store has not answered: others
// are sent when it answers, or never when nobody waits for them by then. With a more function a
// request may have several replies: those that more follow after are parts. A stream that broke
// stays broken: its owner starts another one. The final status of the stream is the error of every
// exchange that was waiting.
//
// Threads: all methods from any thread; on_closed runs once, on a gRPC thread, after the last
// exchange has been failed.
//
// Ownership: the stream keeps itself alive until gRPC is done with it.
#pragma once

#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <iterator>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/convert.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/client_callback.h"
#include "kvstore/base/mutex.h"

namespace varve::client {

template <typename Request, typename Reply>
class ExchangeStream final : private grpc::ClientBidiReactor<Request, Reply> {
 public:
  using Reactor = grpc::ClientBidiReactor<Request, Reply>;
  using TagOf = uint64_t (*)(const Reply&);
  using HasMore = bool (*)(const Reply&);
  using OnPart = std::function<void(Reply)>;
  using Bind = std::function<void(grpc::ClientContext*, Reactor*)>;

  // bind: calls the stub's method. tag_of: null when replies come in the order of the requests.
  // has_more: null when each request has one reply. max_unanswered: at least 1.
  static std::shared_ptr<ExchangeStream> Start(
      const Bind& bind, TagOf tag_of, std::function<void()> on_closed,
      size_t max_unanswered = std::numeric_limits<size_t>::max(), HasMore has_more = nullptr) {
    std::shared_ptr<ExchangeStream> stream(
        new ExchangeStream(tag_of, has_more, max_unanswered, std::move(on_closed)));
    stream->self_ = stream;
    bind(&*stream->context_, stream.get());
    stream->AddHold();  // writes start outside of reactions
    stream->StartRead(&stream->reply_);
    stream->StartCall();
    return stream;
  }

  // Sends and waits. tag: what the reply will carry (ignored without a tag function); unique among
  // those in flight. on_part: gets the parts, on this thread, in order; what is returned is the
  // last reply. DEADLINE_EXCEEDED when that did not come in time, the stream's final status when it
  // broke.
  absl::StatusOr<Reply> Exchange(Request request, uint64_t tag, absl::Duration timeout,
                                 const OnPart& on_part = nullptr) {
    auto slot = std::make_shared<Slot>();
    uint64_t id = tag;
    {
      base::MutexLock lock(mutex_);
      if (final_.has_value()) return *final_;
      if (tag_of_ == nullptr) id = next_sent_++;
      waiting_[id] = slot;
      // A stream that is ending is about to say why.
      if (!read_closed_) SendLocked(id, std::move(request));
    }
    const absl::Time deadline = absl::Now() + timeout;
    for (;;) {
      std::deque<Reply> parts;
      std::optional<absl::StatusOr<Reply>> result = Await(id, *slot, deadline, parts);
      for (Reply& part : parts) {
        if (on_part != nullptr) on_part(std::move(part));
      }
      if (result.has_value()) return *std::move(result);
    }
  }

  bool alive() const {
    base::MutexLock lock(mutex_);
    return !read_closed_;
  }
  // gRPC is done with it.
  bool finished() const {
    base::MutexLock lock(mutex_);
    return finished_;
  }
  void Cancel() {
    base::MutexLock lock(context_mutex_);
    if (context_.has_value()) context_->TryCancel();
  }
  // Must not be called from on_closed.
  void CancelAndWait() {
    Cancel();
    base::MutexLock lock(mutex_);
    while (!finished_) all_done_.Wait(mutex_);
  }

 private:
  struct Slot {
    base::CondVar done;
    std::deque<Reply> parts;
    std::optional<absl::StatusOr<Reply>> result;
  };

  ExchangeStream(TagOf tag_of, HasMore has_more, size_t max_unanswered,
                 std::function<void()> on_closed)
      : tag_of_(tag_of),
        has_more_(has_more),
        max_unanswered_(max_unanswered),
        on_closed_(std::move(on_closed)) {}

  // Waits for the result or for parts; takes what has come.
  std::optional<absl::StatusOr<Reply>> Await(uint64_t id, Slot& slot, absl::Time deadline,
                                             std::deque<Reply>& parts) {
    base::MutexLock lock(mutex_);
    while (!slot.result.has_value() && slot.parts.empty()) {
      const absl::Duration left = deadline - absl::Now();
      if (left <= absl::ZeroDuration()) {
        Forget(id);
        return absl::DeadlineExceededError("the store did not answer in time");
      }
      slot.done.WaitFor(mutex_, absl::ToChronoNanoseconds(left));
    }
    parts.swap(slot.parts);
    return std::move(slot.result);
  }

  // Whoever ended the stream, to an exchange it is as if the connection had gone.
  static absl::Status BrokenBy(const grpc::Status& status) {
    if (status.ok()) return absl::UnavailableError("the store closed the stream");
    if (status.error_code() != grpc::StatusCode::CANCELLED) return FromGrpc(status);
    return absl::UnavailableError("the stream to the store was cancelled");
  }

  void SendLocked(uint64_t id, Request request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    queue_.emplace_back(id, std::move(request));
    WriteLocked();
  }

  void WriteLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || read_closed_ || queue_.empty() || unanswered_ >= max_unanswered_) return;
    writing_ = true;
    ++unanswered_;
    this->StartWrite(&queue_.front().second);
  }

  // Nobody waits for the answer any more: what was not sent yet must not be. What was sent keeps
  // its slot in an ordered stream: its reply still takes its turn.
  void Forget(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto unsent =
        std::find_if(writing_ ? std::next(queue_.begin()) : queue_.begin(), queue_.end(),
                     [id](const std::pair<uint64_t, Request>& entry) { return entry.first == id; });
    if (tag_of_ != nullptr || unsent != queue_.end()) waiting_.erase(id);
    if (unsent != queue_.end()) queue_.erase(unsent);
  }

  void OnWriteDone(bool ok) override {
    base::MutexLock lock(mutex_);
    queue_.pop_front();
    writing_ = false;
    if (ok) WriteLocked();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      base::MutexLock lock(mutex_);
      read_closed_ = true;
      this->RemoveHold();
      return;
    }
    const bool part = has_more_ != nullptr && has_more_(reply_);
    {
      base::MutexLock lock(mutex_);
      if (!part) {
        --unanswered_;
        WriteLocked();
      }
      auto it = tag_of_ == nullptr ? waiting_.begin() : waiting_.find(tag_of_(reply_));
      if (it != waiting_.end()) {
        it->second->done.NotifyAll();
        if (part) {
          it->second->parts.push_back(std::move(reply_));
        } else {
          it->second->result = std::move(reply_);
          waiting_.erase(it);
        }
      }
    }
    reply_ = Reply();
    this->StartRead(&reply_);
  }

  void OnDone(const grpc::Status& status) override {
    std::shared_ptr<ExchangeStream> self = std::move(self_);
    {
      // Before anybody learns in any way that this has ended: see in_flight.h.
      base::MutexLock lock(context_mutex_);
      context_.reset();
    }
    {
      base::MutexLock lock(mutex_);
      final_ = BrokenBy(status);
      for (auto& [tag, slot] : waiting_) {
        slot->result = *final_;
        slot->done.NotifyAll();
      }
      waiting_.clear();
    }
    on_closed_();
    base::MutexLock lock(mutex_);
    finished_ = true;
    all_done_.NotifyAll();
  }

  const TagOf tag_of_;
  const HasMore has_more_;
  const size_t max_unanswered_;
  const std::function<void()> on_closed_;
  base::Mutex context_mutex_;  // for Cancel against the end
  std::optional<grpc::ClientContext> context_{std::in_place};
  Reply reply_;  // of the read under way
  std::shared_ptr<ExchangeStream> self_;

  mutable base::Mutex mutex_;
  base::CondVar all_done_;
  std::list<std::pair<uint64_t, Request>> queue_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;   // the front of the queue
  size_t unanswered_ ABSL_GUARDED_BY(mutex_) = 0;  // handed to gRPC, waited for or not
  std::map<uint64_t, std::shared_ptr<Slot>> waiting_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_sent_ ABSL_GUARDED_BY(mutex_) = 0;
  bool read_closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> final_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace varve::client
