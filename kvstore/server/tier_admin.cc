#include "kvstore/server/tier_admin.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/path.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"

namespace varve::server {

namespace {

constexpr size_t kMaxPathBytes = 4095;  // as the system has it
constexpr uint64_t kMaxDirectoryBytes = 1ull << 50;

absl::Status NoNvmeTier() {
  return absl::FailedPreconditionError(
      "this store has no nvme tier: it takes directories at run time only when it was started with "
      "one (nvme_tier.directories)");
}

absl::Status CheckDirectory(const varve::v1::AddDirectoryRequest& request) {
  const std::string& path = request.path();
  if (path.empty() || path[0] != '/' || path.size() > kMaxPathBytes ||
      path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("path ", base::Quoted(path),
                                                   "; allowed: absolute paths of at most ",
                                                   kMaxPathBytes, " bytes"));
  }
  if (path.find(',') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("path ", base::Quoted(path),
                     "; allowed: paths without a comma, which ends a directory in "
                     "nvme_tier.directories: the next start could not be told of this one"));
  }
  if (request.capacity_bytes() > kMaxDirectoryBytes) {
    return absl::InvalidArgumentError(absl::StrCat("capacity_bytes ", request.capacity_bytes(),
                                                   "; allowed: at most ",
                                                   base::FormatBytes(kMaxDirectoryBytes)));
  }
  return absl::OkStatus();
}

absl::Status CheckDrainTier(varve::v1::Tier tier, const tier::RecordLog* log) {
  if (tier != varve::v1::TIER_HOST && tier != varve::v1::TIER_NVME) {
    return absl::InvalidArgumentError(
        absl::StrCat("tier ", static_cast<int>(tier), "; allowed: TIER_HOST"));
  }
  if (log == nullptr) return NoNvmeTier();
  if (tier == varve::v1::TIER_NVME) {
    return absl::FailedPreconditionError(
        "the nvme tier is not drained as a whole, since there is no tier below it: to replace a "
        "disk, add another directory and drain the old one; to end the store with what it holds on "
        "disk, send it SIGTERM");
  }
  if (log->Room().takes_writes) return absl::OkStatus();
  return absl::FailedPreconditionError("no directory of the nvme tier takes writes now");
}

}  // namespace

TierAdmin::TierAdmin(Core& core, tier::RecordLog* log)
    : core_(core), log_(log), adder_(log), waiting_(std::make_shared<WaitingAnswers>()) {}

TierAdmin::~TierAdmin() { Close(); }

void TierAdmin::Close() {
  adder_.Close();
  waiting_->Close();
}

void TierAdmin::AddDirectory(const varve::v1::AddDirectoryRequest& request, Answer answer) {
  if (log_ == nullptr) return std::move(answer)(NoNvmeTier());
  absl::Status status = CheckDirectory(request);
  if (!status.ok()) return std::move(answer)(std::move(status));
  adder_.Add(base::PlainPath(request.path()), request.capacity_bytes(), std::move(answer));
}

void TierAdmin::DrainDirectory(const varve::v1::DrainDirectoryRequest& request, Answer answer) {
  if (log_ == nullptr) return std::move(answer)(NoNvmeTier());
  const std::string path = base::PlainPath(request.path());
  if (!waiting_->Add(path, std::move(answer))) return;
  log_->DrainDirectory(path, [waiting = waiting_, path](const absl::Status& status) {
    if (status.ok()) {
      base::LogInfo(path, " is drained and no directory of the nvme tier any more");
    } else if (!absl::IsNotFound(status)) {
      base::LogWarning(path, " was not drained: ", status.message());
    }
    waiting->Give(path, status);
  });
}

void TierAdmin::DrainTier(const varve::v1::DrainTierRequest& request,
                          varve::v1::DrainTierReply* reply, Answer answer) {
  absl::Status status = CheckDrainTier(request.tier(), log_);
  if (!status.ok()) return std::move(answer)(std::move(status));
  // Each by itself: what was put between two calls is the second one's alone.
  const std::string work = absl::StrCat("host ", next_flush_.fetch_add(1));
  Answer filled = [pages = &core_.pages, reply,
                   answer = std::move(answer)](absl::Status s) mutable {
    if (s.ok()) {
      const store::PageStoreUsage usage = pages->Usage();
      reply->set_memory_only_objects(usage.objects - usage.disk->objects);
    }
    std::move(answer)(std::move(s));
  };
  if (!waiting_->Add(work, std::move(filled))) return;
  // Looks at every object.
  core_.connect_pool.Run(
      [contexts = &core_.contexts, pages = &core_.pages, waiting = waiting_, work] {
        contexts->WriteNotes();
        pages->Flush([waiting, work](const absl::Status& status) { waiting->Give(work, status); });
      });
}

void TierAdmin::ResizeTier(const varve::v1::ResizeTierRequest& request, Answer answer) {
  if (request.tier() != varve::v1::TIER_HOST) {
    return std::move(answer)(absl::InvalidArgumentError(
        absl::StrCat("tier ", static_cast<int>(request.tier()),
                     "; allowed: TIER_HOST. The nvme tier gets room by adding directories")));
  }
  // Touching new memory takes seconds.
  core_.connect_pool.Run([pages = &core_.pages, bytes = request.capacity_bytes(),
                          answer = std::move(answer)]() mutable {
    pages->ResizeHost(bytes, [bytes, answer = std::move(answer)](absl::Status status) mutable {
      if (status.ok()) base::LogInfo("host memory has ", base::FormatBytes(bytes), " from now on");
      std::move(answer)(std::move(status));
    });
  });
}

}  // namespace varve::server
