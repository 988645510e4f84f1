#include "client/bench/trace_store.h"

#include <signal.h>

#include <algorithm>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/bench/scrape.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"

namespace varve::client {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kLargestSegment = 256 * kMiB;
constexpr uint64_t kSegments = 32;  // of a tier that is not large
constexpr uint64_t kValuesInStaging = 32;

absl::StatusOr<std::vector<std::string>> NvmeFlags(const TraceStoreOptions& options,
                                                   const std::string& folder,
                                                   uint64_t value_bytes) {
  // What the store asks of its files: this much beside a value, and four of them.
  const uint64_t least = value_bytes / kMiB * kMiB + 2 * kMiB;
  const uint64_t segment = std::max(
      std::min(options.nvme_capacity_bytes / kSegments, kLargestSegment) / kMiB * kMiB, least);
  if (options.nvme_capacity_bytes < 4 * segment) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--nvme-capacity: ", base::FormatBytes(options.nvme_capacity_bytes), "; blocks of ",
        base::FormatBytes(value_bytes), " take at least ", base::FormatBytes(4 * segment)));
  }
  return std::vector<std::string>{
      absl::StrCat("--nvme_tier.directories=", folder, "=", options.nvme_capacity_bytes),
      absl::StrCat("--nvme_tier.segment_bytes=", segment),
      absl::StrCat("--nvme_tier.staging_bytes=",
                   std::max(128 * kMiB, value_bytes * kValuesInStaging)),
      absl::StrCat("--nvme_tier.eviction=", options.nvme_policy()),
      absl::StrCat("--nvme_tier.durability=", options.durability),
      absl::StrCat("--nvme_tier.promote_uses=", options.promote_uses),
      absl::StrCat("--sessions.max_object_bytes=", value_bytes)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<TraceStore>> TraceStore::Open(const BenchOptions& bench,
                                                             const TraceStoreOptions& options,
                                                             uint64_t value_bytes) {
  std::vector<std::string> flags = {absl::StrCat("--host_tier.eviction=", options.eviction)};
  std::unique_ptr<Folder> folder;
  if (options.has_nvme()) {
    if (!bench.store.empty()) {
      return absl::InvalidArgumentError("--nvme-dir: the store at --store has its own tiers");
    }
    VARVE_ASSIGN_OR_RETURN(folder, Folder::Make(options.nvme_parent));
    VARVE_ASSIGN_OR_RETURN(const auto nvme, NvmeFlags(options, folder->path(), value_bytes));
    flags.insert(flags.end(), nvme.begin(), nvme.end());
  }
  VARVE_ASSIGN_OR_RETURN(BenchStore store, OpenStore(bench, options.host_capacity_bytes, flags));
  return std::unique_ptr<TraceStore>(new TraceStore(std::move(folder), std::move(store)));
}

TraceStore::~TraceStore() {
  // It would write all of its memory to the disk first.
  if (store_.process != nullptr) store_.process->Signal(SIGKILL);
}

absl::StatusOr<MovedBytes> TraceStore::Moved() const {
  using Metrics = std::map<std::string, double>;
  VARVE_ASSIGN_OR_RETURN(const Metrics metrics, ScrapeMetrics(store_.http_address));
  MovedBytes moved;
  for (const auto& [series, bytes] : {
           std::pair{R"(varve_moved_bytes_total{cause="put",from="host",to="nvme"})", &moved.put},
           {R"(varve_moved_bytes_total{cause="demote",from="host",to="nvme"})", &moved.demoted},
           {R"(varve_moved_bytes_total{cause="promote",from="nvme",to="host"})", &moved.promoted},
           {R"(varve_nvme_reclaim_moved_bytes_total)", &moved.reclaimed},
           {R"(varve_evicted_bytes_total{reason="capacity",tier="host"})", &moved.evicted_host},
           {R"(varve_evicted_bytes_total{reason="capacity",tier="nvme"})", &moved.evicted_nvme},
       }) {
    const auto found = metrics.find(series);
    if (found == metrics.end()) {
      return absl::InternalError(absl::StrCat("the store has no metric ", series));
    }
    *bytes = static_cast<uint64_t>(found->second);
  }
  return moved;
}

}  // namespace varve::client
