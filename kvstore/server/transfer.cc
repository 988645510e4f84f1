#include "kvstore/server/transfer.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/status.h"
#include "kvstore/server/config.h"

namespace varve::server {
namespace {

// Metrics, and the rule.
void AccountTransfer(Core& core, Direction direction, const SessionRef& session, uint64_t bytes,
                     absl::Time start, const absl::Status& status) {
  LaneMetrics& lane = core.metrics.lane(session->lane());
  if (!status.ok()) {
    lane.errors.at(StoreMetrics::TransferErrorReason(status))->Increment();
    // The endpoint knows whether the client is gone or stalled. A transfer may also fail alone: its
    // time was over before it began, or its region is unregistered.
    if (session->ended() || session->endpoint()->Health().ok()) return;
    const absl::Status reason = absl::UnavailableError(
        absl::StrCat("the client's memory did not answer: ", status.message()));
    core.control_pool.Run(
        [&core, session, reason] { core.sessions.End(session, EndMode::kAbrupt, reason); });
    return;
  }
  LaneMetrics::Op& op = direction == Direction::kFromClient ? lane.read : lane.write;
  op.bytes->Increment(static_cast<double>(bytes));
  op.seconds->Observe(absl::ToDoubleSeconds(absl::Now() - start));
  (direction == Direction::kFromClient ? session->read_bytes : session->written_bytes) += bytes;
}

constexpr uint64_t kPatientBytes = 256 << 10;

class PatientTransfer : public std::enable_shared_from_this<PatientTransfer> {
 public:
  PatientTransfer(Core& core, SessionRef session, std::vector<transport::Segment> segments,
                  absl::Time deadline, transport::Done done)
      : core_(core),
        session_(std::move(session)),
        segments_(std::move(segments)),
        deadline_(deadline),
        done_(std::move(done)) {}

  void Next() {
    std::vector<transport::Segment> piece;
    for (uint64_t bytes = 0; sent_ < segments_.size() && bytes < kPatientBytes; ++sent_) {
      bytes += segments_[sent_].local.size();
      piece.push_back(std::move(segments_[sent_]));
    }
    StartTransfer(core_, Direction::kToClient, session_, std::move(piece), deadline_,
                  [self = shared_from_this()](absl::Status status) {
                    if (!status.ok() || self->sent_ == self->segments_.size()) {
                      return std::move(self->done_)(std::move(status));
                    }
                    // Copies of mapped memory end on the thread that started them.
                    self->core_.data_pool.RunBehind([self] { self->Next(); });
                  });
  }

 private:
  Core& core_;
  const SessionRef session_;
  std::vector<transport::Segment> segments_;
  size_t sent_ = 0;
  const absl::Time deadline_;
  transport::Done done_;
};

}  // namespace

void StartPatientTransfer(Core& core, const SessionRef& session,
                          std::vector<transport::Segment> segments, absl::Time deadline,
                          transport::Done done) {
  std::make_shared<PatientTransfer>(core, session, std::move(segments), deadline, std::move(done))
      ->Next();
}

void StartTransfer(Core& core, Direction direction, const SessionRef& session,
                   std::vector<transport::Segment> segments, absl::Time deadline,
                   transport::Done done) {
  uint64_t bytes = 0;
  for (const transport::Segment& segment : segments) bytes += segment.local.size();
  transport::Endpoint& endpoint = *session->endpoint();
  auto accounted = [&core, direction, session, bytes, start = absl::Now(),
                    done = std::move(done)](absl::Status status) mutable {
    AccountTransfer(core, direction, session, bytes, start, status);
    std::move(done)(std::move(status));
  };
  if (direction == Direction::kFromClient) {
    endpoint.Read(std::move(segments), deadline, std::move(accounted));
  } else {
    endpoint.Write(std::move(segments), deadline, std::move(accounted));
  }
}

absl::StatusOr<absl::Time> TransferDeadline(const Core& core, absl::Time arrived,
                                            uint32_t deadline_ms) {
  if (deadline_ms == 0) deadline_ms = core.config.transport().transfer_deadline_ms();
  const absl::Duration duration = absl::Milliseconds(deadline_ms);
  if (duration > kMaxTransferDeadline) {
    return absl::InvalidArgumentError(absl::StrCat("deadline_ms ", deadline_ms, "; allowed: up to ",
                                                   absl::ToInt64Milliseconds(kMaxTransferDeadline),
                                                   ", or 0 for the store's default"));
  }
  return arrived + duration;
}

}  // namespace varve::server
