#include "gpu_worker/sidecar/store_watch.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"

namespace varve::worker {
namespace {

constexpr absl::Duration kPause = absl::Seconds(1);
constexpr absl::Duration kPatience = absl::Seconds(3);  // of one question

absl::Status Draining() { return absl::UnavailableError("it is draining"); }

}  // namespace

absl::StatusOr<std::unique_ptr<StoreWatch>> StoreWatch::Start(const std::string& store,
                                                              prometheus::Gauge* up) {
  client::ClientOptions options;
  options.address = store;
  options.client_name = "varve-worker-watch";
  options.lanes.clear();
  options.connect_timeout = kPatience;
  options.call_timeout = kPatience;
  options.lazy_session = true;  // and none is ever opened
  VARVE_ASSIGN_OR_RETURN(std::unique_ptr<client::Client> client, client::Client::Connect(options));
  return std::unique_ptr<StoreWatch>(new StoreWatch(std::move(client), up));
}

StoreWatch::StoreWatch(std::unique_ptr<client::Client> client, prometheus::Gauge* up)
    : client_(std::move(client)), up_(up), answered_(absl::Now()), thread_([this] { Loop(); }) {}

StoreWatch::~StoreWatch() {
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void StoreWatch::Loop() {
  base::NameThisThread("varve-watch");
  while (true) {
    Ask().IgnoreError();
    const absl::Time next = absl::Now() + kPause;
    base::MutexLock lock(mutex_);
    while (!stopping_ && absl::Now() < next) {
      changed_.WaitFor(mutex_, absl::ToChronoNanoseconds(next - absl::Now()));
    }
    if (stopping_) return;
  }
}

absl::Status StoreWatch::Ask() {
  const absl::StatusOr<client::StoreStatus> status = client_->Status();
  const bool draining = status.ok() && status->draining;
  Note(status.status(), draining);
  return draining ? Draining() : status.status();
}

void StoreWatch::Note(const absl::Status& status, bool draining) {
  const absl::Time now = absl::Now();
  bool changed = false;
  absl::Duration away;
  {
    base::MutexLock lock(mutex_);
    if (stopping_) return;
    changed = status_.ok() != status.ok();
    status_ = status;
    draining_ = draining;
    if (status.ok()) away = now - std::exchange(answered_, now);
  }
  up_->Set(status.ok() ? 1 : 0);
  if (!changed) return;
  if (status.ok()) {
    base::LogInfo("the store answers, after ",
                  absl::FormatDuration(absl::Trunc(away, absl::Milliseconds(1))));
  } else {
    base::LogWarning("the store is lost: ", status.ToString());
  }
}

absl::Status StoreWatch::state() const {
  base::MutexLock lock(mutex_);
  if (draining_) return Draining();
  if (status_.ok()) return status_;
  const int64_t seconds = absl::ToInt64Seconds(absl::Now() - answered_);
  return base::Annotate(status_, absl::StrCat("no answer for ", seconds, " s"));
}

}  // namespace varve::worker
