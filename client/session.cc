#include "client/session.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/call_deadline.h"
#include "client/in_flight.h"
#include "client/waiter.h"
#include "kvstore/base/status.h"

namespace varve::client {
namespace {

constexpr absl::Duration kFirstBackoff = absl::Milliseconds(20);
constexpr absl::Duration kLastBackoff = absl::Milliseconds(500);
constexpr absl::Duration kRegionTimeout = absl::Seconds(10);
constexpr int kRegisterAttempts = 3;

v1::SessionRequest RegisterRequest(uint64_t region_id, const std::string& descriptor) {
  v1::SessionRequest request;
  request.mutable_register_region()->set_region_id(region_id);
  request.mutable_register_region()->set_descriptor_bytes(descriptor);
  return request;
}

v1::SessionRequest UnregisterRequest(uint64_t region_id) {
  v1::SessionRequest request;
  request.mutable_unregister_region()->set_region_id(region_id);
  return request;
}

absl::Status RegionError(const absl::StatusOr<v1::SessionReply>& reply) {
  if (!reply.ok()) return reply.status();
  const v1::RegionReply& region = reply->region();
  if (region.error().empty()) return absl::OkStatus();
  // A store of before the code had this one in mind, mostly.
  const auto code = region.error_code() == 0 ? absl::StatusCode::kInvalidArgument
                                             : static_cast<absl::StatusCode>(region.error_code());
  return absl::Status(code, absl::StrCat("the store refused the memory: ", region.error()));
}

bool WorthRetrying(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable ||
         status.code() == absl::StatusCode::kDeadlineExceeded;
}

}  // namespace

Session::Session(v1::Store::Stub* stub, v1::OpenSession open, absl::Duration connect_timeout)
    : stub_(stub),
      open_(std::move(open)),
      connect_timeout_(connect_timeout),
      opener_([this] { Run(); }) {}

Session::~Session() { Shutdown(); }

void Session::Acquire(Callback done) {
  absl::StatusOr<OpenedPtr> now = ClosingError();
  {
    base::MutexLock lock(mutex_);
    if (!closing_ && opened_ == nullptr) {
      waiting_.push_back(std::move(done));
      wake_.NotifyAll();
      return;
    }
    if (!closing_) now = opened_;
  }
  done(std::move(now));
}

absl::StatusOr<Session::OpenedPtr> Session::Acquire() {
  if (OpenedPtr opened = current()) return opened;
  Waiter<absl::StatusOr<OpenedPtr>> waiter;
  Acquire(waiter.Callback());
  // An attempt to have a session ends by itself.
  auto opened = waiter.TakeWithin(CallDeadline::Shorten(absl::Hours(24)));
  if (opened.has_value()) return *std::move(opened);
  return absl::DeadlineExceededError("no session with the store in time");
}

Session::OpenedPtr Session::current() const {
  base::MutexLock lock(mutex_);
  return closing_ ? nullptr : opened_;
}

Session::OpenedPtr Session::last() const {
  base::MutexLock lock(mutex_);
  return last_;
}

void Session::Lost(uint64_t generation) {
  std::shared_ptr<Link> link;
  {
    base::MutexLock lock(mutex_);
    if (opened_ == nullptr || opened_->generation != generation) return;
    opened_.reset();
    link = link_;
  }
  link->Cancel();
}

absl::Status Session::AddRegion(uint64_t region_id, const std::string& descriptor) {
  {
    base::MutexLock lock(mutex_);
    regions_[region_id] = {descriptor, 0};
  }
  absl::Status status;
  for (int attempt = 0; attempt < kRegisterAttempts; ++attempt) {
    absl::StatusOr<OpenedPtr> opened = Acquire();
    status = opened.status();
    if (!status.ok()) break;
    std::shared_ptr<Link> link;
    {
      base::MutexLock lock(mutex_);
      if (regions_[region_id].generation >= (*opened)->generation) return absl::OkStatus();
      if (opened_ != *opened) continue;  // link_ is already another session's
      link = link_;
    }
    status = RegionError(link->Exchange(RegisterRequest(region_id, descriptor), 0,
                                        CallDeadline::Shorten(kRegionTimeout)));
    // A session that broke meanwhile has been, or will be, replaced by one that knows the region.
    if (status.ok() || !WorthRetrying(status)) break;
    Lost((*opened)->generation);
    if (CallDeadline::Shorten(kRegionTimeout) <= absl::ZeroDuration()) break;
  }
  if (!status.ok()) {
    base::MutexLock lock(mutex_);
    regions_.erase(region_id);
  }
  return status;
}

void Session::RemoveRegion(uint64_t region_id) {
  std::shared_ptr<Link> link;
  uint64_t generation = 0;
  {
    base::MutexLock lock(mutex_);
    if (regions_.erase(region_id) == 0 || opened_ == nullptr) return;
    link = link_;
    generation = opened_->generation;
  }
  const auto reply =
      link->Exchange(UnregisterRequest(region_id), 0, CallDeadline::Shorten(kRegionTimeout));
  // The store's view of the region goes with the session, which other errors mean is gone already.
  if (absl::IsDeadlineExceeded(reply.status())) Lost(generation);
}

void Session::Shutdown() {
  std::vector<std::shared_ptr<Link>> links;
  {
    base::MutexLock lock(mutex_);
    closing_ = true;
    links.swap(retired_);
    if (link_ != nullptr) links.push_back(link_);
    wake_.NotifyAll();
  }
  for (const std::shared_ptr<Link>& link : links) link->CancelAndWait();
  if (opener_.joinable()) opener_.join();
}

void Session::Run() {
  for (;;) {
    std::vector<Callback> waiting;
    bool closing = false;
    {
      base::MutexLock lock(mutex_);
      while (!closing_ && waiting_.empty()) wake_.Wait(mutex_);
      waiting.swap(waiting_);
      closing = closing_;
    }
    const absl::StatusOr<OpenedPtr> opened = closing ? ClosingError() : OpenWithRetries();
    for (Callback& done : waiting) done(opened);
    if (closing) return;
  }
}

absl::StatusOr<Session::OpenedPtr> Session::OpenWithRetries() {
  if (OpenedPtr opened = current()) return opened;
  const absl::Time deadline = absl::Now() + connect_timeout_;
  absl::Duration backoff = kFirstBackoff;
  absl::Status why;
  for (;;) {
    absl::StatusOr<OpenedPtr> opened = OpenOnce(deadline);
    if (opened.ok() || !WorthRetrying(opened.status())) return opened;
    // The last attempt may only have run out of time: an earlier one knew more.
    if (why.ok() || !absl::IsDeadlineExceeded(opened.status())) why = opened.status();
    if (absl::Now() + backoff >= deadline) {
      return absl::UnavailableError(absl::StrCat("no session with the store within ",
                                                 absl::FormatDuration(connect_timeout_), ": ",
                                                 why.message()));
    }
    if (!PauseUnlessClosing(backoff)) return ClosingError();
    backoff = std::min(backoff * 2, kLastBackoff);
  }
}

bool Session::PauseUnlessClosing(absl::Duration pause) {
  const absl::Time end = absl::Now() + pause;
  base::MutexLock lock(mutex_);
  while (!closing_) {
    const absl::Duration left = end - absl::Now();
    if (left <= absl::ZeroDuration()) return true;
    wake_.WaitFor(mutex_, absl::ToChronoNanoseconds(left));
  }
  return false;
}

absl::StatusOr<Session::OpenedPtr> Session::OpenOnce(absl::Time deadline) {
  std::shared_ptr<Link> link;
  uint64_t generation = 0;
  {
    base::MutexLock lock(mutex_);
    if (closing_) return ClosingError();
    generation = ++last_generation_;
    link =
        Link::Start([this](grpc::ClientContext* context,
                           Link::Reactor* reactor) { stub_->async()->Session(context, reactor); },
                    nullptr, [this, generation] { OnLinkClosed(generation); });
    std::erase_if(retired_, [](const auto& old) { return old->finished(); });
    if (link_ != nullptr) retired_.push_back(std::move(link_));
    link_ = link;
  }
  absl::StatusOr<OpenedPtr> opened = Introduce(*link, generation, deadline);
  if (!opened.ok()) link->CancelAndWait();
  return opened;
}

absl::StatusOr<Session::OpenedPtr> Session::Introduce(Link& link, uint64_t generation,
                                                      absl::Time deadline) {
  v1::SessionRequest request;
  *request.mutable_open() = open_;
  const int64_t left_ms = absl::ToInt64Milliseconds(deadline - absl::Now());
  request.mutable_open()->set_timeout_ms(static_cast<uint32_t>(std::max<int64_t>(left_ms, 1)));
  VARVE_ASSIGN_OR_RETURN(v1::SessionReply reply,
                         link.Exchange(std::move(request), 0, deadline - absl::Now()));
  if (!reply.has_opened())
    return absl::InternalError("the store answered a new session with something else");
  auto opened = std::make_shared<Opened>();
  opened->generation = generation;
  opened->session_id = reply.opened().session_id();
  opened->lane = reply.opened().lane();
  opened->store_version = reply.opened().store_version();
  opened->limits = reply.opened().limits();
  VARVE_RETURN_IF_ERROR(SyncRegions(link, opened, deadline));
  return OpenedPtr(opened);
}

// Regions come and go while this runs: repeats until the store knows exactly those of now, then
// publishes the session under the same lock.
absl::Status Session::SyncRegions(Link& link, const OpenedPtr& opened, absl::Time deadline) {
  std::set<uint64_t> known;
  for (;;) {
    std::map<uint64_t, std::string> add;
    std::vector<uint64_t> drop;
    {
      base::MutexLock lock(mutex_);
      for (const auto& [id, entry] : regions_) {
        if (!known.contains(id)) add[id] = entry.descriptor;
      }
      for (uint64_t id : known) {
        if (!regions_.contains(id)) drop.push_back(id);
      }
      if (add.empty() && drop.empty()) {
        if (!link.alive()) return absl::UnavailableError("the store closed the new session");
        for (auto& [id, entry] : regions_) entry.generation = opened->generation;
        opened_ = opened;
        last_ = opened;
        return absl::OkStatus();
      }
    }
    for (const auto& [id, descriptor] : add) {
      VARVE_RETURN_IF_ERROR(
          RegionError(link.Exchange(RegisterRequest(id, descriptor), 0, deadline - absl::Now())));
      known.insert(id);
    }
    for (uint64_t id : drop) {
      VARVE_RETURN_IF_ERROR(
          link.Exchange(UnregisterRequest(id), 0, deadline - absl::Now()).status());
      known.erase(id);
    }
  }
}

void Session::OnLinkClosed(uint64_t generation) {
  base::MutexLock lock(mutex_);
  if (opened_ != nullptr && opened_->generation == generation) opened_.reset();
}

}  // namespace varve::client
