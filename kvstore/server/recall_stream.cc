#include "kvstore/server/recall_stream.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "kvstore/base/mutex.h"
#include "kvstore/recall/selection.h"
#include "kvstore/server/recall_service.h"
#include "kvstore/server/stream_call.h"

namespace varve::server {
namespace {

using varve::v1::RecallReply;
using varve::v1::RecallRequest;

std::unique_ptr<RecallReply> ErrorReply(const absl::Status& status) {
  auto reply = std::make_unique<RecallReply>();
  reply->set_error(std::string(status.message()));
  reply->set_error_code(static_cast<uint32_t>(status.code()));
  return reply;
}

class RecallStreamCall final : public StreamCall<RecallRequest, RecallReply> {
 public:
  explicit RecallStreamCall(Core& core) : StreamCall(core, "RecallStream", kMaxInFlight) {}

 private:
  // A worker asks for a few layers ahead; beyond this it waits in the stream's flow control.
  static constexpr int kMaxInFlight = 64;

  class Layers;

  void OnRequest(std::unique_ptr<RecallRequest> request) override;

  std::shared_ptr<RecallStreamCall> Self() {
    return std::static_pointer_cast<RecallStreamCall>(shared_from_this());
  }
};

// A request with a reply for each of its layers. Each layer takes its own turn on a recall thread,
// the next one when it has been selected, so that a request of many layers holds up nobody else's
// and pages of the first travel while the next is scored.
class RecallStreamCall::Layers final : public std::enable_shared_from_this<Layers> {
 public:
  Layers(std::shared_ptr<RecallStreamCall> call, std::unique_ptr<RecallRequest> request)
      : call_(std::move(call)), request_(std::move(request)) {}

  void Check() {
    absl::StatusOr<CheckedRecall> checked = CheckRecall(call_->core(), arrived_, *request_);
    if (!checked.ok()) return Fail(checked.status());
    // Each layer is selected alone: what holds for all of them together is seen here.
    const absl::Status whole =
        recall::CheckQueries(checked->context, checked->params, checked->layers);
    if (!whole.ok()) return Fail(whole);
    checked_ = *std::move(checked);
    {
      base::MutexLock lock(mutex_);
      open_ = checked_.layers.size();
    }
    RunLayer(0);
  }

 private:
  void Fail(const absl::Status& status) {
    QueueReply(ErrorReply(status), /*more=*/false);
    call_->Respond(*request_, nullptr);
  }

  void QueueReply(std::unique_ptr<RecallReply> reply, bool more) {
    reply->set_tag(request_->tag());
    reply->set_more(more);
    call_->Queue(std::move(reply));
  }

  void RunLayer(size_t i) {
    auto reply = std::make_unique<RecallReply>();
    RecallReply* out = reply.get();
    CheckedRecall one{.session = checked_.session,
                      .context = checked_.context,
                      .params = checked_.params,
                      .layers = {std::move(checked_.layers[i])},
                      .targets = {},
                      .deadline = checked_.deadline,
                      .prefetch = checked_.prefetch};
    one.targets.push_back(std::move(checked_.targets[i]));
    const uint64_t left = RunRecall(
        call_->core(), arrived_, std::move(one), request_->context_id(), out,
        [self = shared_from_this(), reply = std::move(reply)](const absl::Status& status) mutable {
          self->Done(status, std::move(reply));
        });
    if (i + 1 == checked_.targets.size()) return;
    checked_.params.left_pages = left;
    RunOnRecallThread(call_->core(), *request_,
                      [self = shared_from_this(), i] { self->RunLayer(i + 1); });
  }

  // On any thread.
  void Done(const absl::Status& status, std::unique_ptr<RecallReply> reply) {
    bool last = false;
    {
      // The order of replies is decided here: what says to be the last one is.
      base::MutexLock lock(mutex_);
      if (failure_.ok()) failure_ = status;
      last = --open_ == 0;
      if (status.ok()) QueueReply(std::move(reply), /*more=*/!last || !failure_.ok());
      if (last && !failure_.ok()) QueueReply(ErrorReply(failure_), /*more=*/false);
    }
    if (last) return call_->Respond(*request_, nullptr);
    call_->Flush();
  }

  const std::shared_ptr<RecallStreamCall> call_;
  const std::unique_ptr<RecallRequest> request_;
  const absl::Time arrived_ = absl::Now();
  CheckedRecall checked_;
  base::Mutex mutex_;
  size_t open_ ABSL_GUARDED_BY(mutex_) = 0;  // layers
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

void RecallStreamCall::OnRequest(std::unique_ptr<RecallRequest> request) {
  if (request->by_layer()) {
    const RecallRequest& asked = *request;
    RunOnRecallThread(
        core(), asked,
        [layers = std::make_shared<Layers>(Self(), std::move(request))] { layers->Check(); });
    return;
  }
  auto reply = std::make_unique<RecallReply>();
  RecallReply* out = reply.get();
  const RecallRequest& asked = *request;
  StartRecall(core(), asked, out,
              [self = Self(), request = std::move(request),
               reply = std::move(reply)](const absl::Status& status) mutable {
                if (!status.ok()) reply = ErrorReply(status);
                reply->set_tag(request->tag());
                self->Respond(*request, std::move(reply));
              });
}

}  // namespace

RecallReactor* StartRecallStream(Core& core) {
  return std::make_shared<RecallStreamCall>(core)->Begin();
}

}  // namespace varve::server
