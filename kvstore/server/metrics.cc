#include "kvstore/server/metrics.h"

#include <google/protobuf/descriptor.h>

#include <vector>

namespace varve::server {
namespace {

constexpr const char* kRejectReasons[] = {"sessions", "regions",  "batch_items", "object_bytes",
                                          "no_space", "draining", "contexts"};
constexpr const char* kErrorReasons[] = {"peer_gone", "deadline", "cancelled", "out_of_range",
                                         "other"};

constexpr const char* kGetsHelp = "Objects asked for, counted when delivered or missed.";
constexpr std::pair<store::TierId, const char*> kTierNames[] = {{store::TierId::kHost, "host"},
                                                                {store::TierId::kNvme, "nvme"}};
constexpr std::pair<tier::IoOp, const char*> kIoNames[] = {
    {tier::IoOp::kRead, "read"}, {tier::IoOp::kWrite, "write"}, {tier::IoOp::kSync, "sync"}};
constexpr std::pair<tier::DirectoryState, const char*> kDirectoryStates[] = {
    {tier::DirectoryState::kOk, "ok"},
    {tier::DirectoryState::kFull, "full"},
    {tier::DirectoryState::kReadOnly, "read_only"},
    {tier::DirectoryState::kFailed, "failed"},
    {tier::DirectoryState::kDraining, "draining"},
    {tier::DirectoryState::kSlow, "slow"},
    {tier::DirectoryState::kAbsent, "absent"}};

const std::vector<double>& DiskLatencyBuckets() {
  static const std::vector<double> bounds = {50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3,
                                             20e-3, 50e-3,  0.1,    0.2,    0.5,  1,    5,    30};
  return bounds;
}

// Seconds since the last use of what was evicted: short ages mean thrash.
const std::vector<double>& IdleBuckets() {
  static const std::vector<double> bounds = {0.1, 1, 10, 60, 300, 600, 1800, 3600, 6 * 3600, 86400};
  return bounds;
}

}  // namespace

StoreMetrics::StoreMetrics(base::Metrics& metrics, const std::string& version,
                           const std::string& commit)
    : methods_(metrics, *varve::v1::PutRequest::descriptor()->file()->FindServiceByName("Store")) {
  metrics
      .Gauge("varve_build_info", "1, with the build as labels.",
             {{"version", version}, {"commit", commit}})
      .Set(1);
  sessions = &metrics.Gauge("varve_sessions", "Open client sessions.");
  contexts = &metrics.Gauge("varve_contexts", "Contexts, attached and parked.");
  registered_bytes =
      &metrics.Gauge("varve_registered_memory_bytes", "Client memory registered in open sessions.");
  DeclareTiers(metrics);
  DeclareDisk(metrics);
  DeclareObjects(metrics);
  DeclareRecall(metrics);
  DeclareLanes(metrics);
  for (const char* reason : kRejectReasons) {
    rejects_[reason] =
        &metrics.Counter("varve_admission_rejects_total",
                         "Requests and items refused for a limit, by limit.", {{"reason", reason}});
  }
}

void StoreMetrics::DeclareTiers(base::Metrics& metrics) {
  for (const auto& [id, name] : kTierNames) {
    const base::Labels tier = {{"tier", name}};
    TierMetrics& of = tiers_[id];
    of.objects =
        &metrics.Gauge("varve_objects", "Objects stored; one in both tiers counts in both.", tier);
    of.capacity_bytes = &metrics.Gauge("varve_tier_capacity_bytes", "Size of the tier.", tier);
    of.used_bytes = &metrics.Gauge("varve_tier_used_bytes", "Bytes reserved in the tier.", tier);
    of.pinned_bytes = &metrics.Gauge("varve_tier_pinned_bytes",
                                     "Bytes used by objects with pins, holds or readers.", tier);
    of.checksum_failures = &metrics.Counter("varve_checksum_failures_total",
                                            "Copies dropped because their bytes changed.", tier);
    of.evicted_bytes = &metrics.Counter("varve_evicted_bytes_total", "Bytes evicted.",
                                        {{"tier", name}, {"reason", "capacity"}});
    of.evicted_on_request_bytes = &metrics.Counter("varve_evicted_bytes_total", "Bytes evicted.",
                                                   {{"tier", name}, {"reason", "request"}});
    of.cut_objects = &metrics.Counter(
        "varve_evicted_cut_objects_total",
        "Objects lost although more of their prompt is stored: nothing else could leave.", tier);
    of.evicted_idle_seconds = &metrics.Histogram(
        "varve_evicted_idle_seconds", "Time from last use to eviction.", tier, IdleBuckets());
    of.hits =
        &metrics.Counter("varve_get_objects_total", kGetsHelp, {{"result", "hit"}, {"tier", name}});
    of.served_bytes =
        &metrics.Counter("varve_served_bytes_total", "Bytes delivered to clients.", tier);
    of.get_seconds = &metrics.Histogram(
        "varve_get_duration_seconds", "Get batches, whole, by the slowest tier that they read.",
        tier, id == store::TierId::kNvme ? DiskLatencyBuckets() : base::LatencyBuckets());
  }
  fragmentation_ = &metrics.Gauge("varve_tier_fragmentation_ratio",
                                  "1 - largest free extent / free bytes.", {{"tier", "host"}});
}

void StoreMetrics::DeclareDisk(base::Metrics& metrics) {
  using Cause = store::MoveCause;
  const auto moved = [&](const char* from, const char* to, const char* cause) {
    return &metrics.Counter("varve_moved_bytes_total", "Bytes of objects written to another tier.",
                            {{"from", from}, {"to", to}, {"cause", cause}});
  };
  moved_[Cause::kPut] = moved("host", "nvme", "put");
  moved_[Cause::kDemote] = moved("host", "nvme", "demote");
  moved_[Cause::kPromote] = moved("nvme", "host", "promote");
  moved_[Cause::kPrefetch] = moved("nvme", "host", "prefetch");
  const auto queue = [&](const char* from, const char* to) {
    return &metrics.Gauge("varve_move_queue_objects", "Objects on their way to another tier.",
                          {{"from", from}, {"to", to}});
  };
  write_queue_objects_ = queue("host", "nvme");
  promote_queue_objects_ = queue("nvme", "host");
  for (const auto& [op, name] : kIoNames) {
    const base::Labels label = {{"op", name}};
    io_[op] = {
        &metrics.Histogram("varve_nvme_io_duration_seconds",
                           "Operations on disks, waiting for their turn included.", label,
                           DiskLatencyBuckets()),
        &metrics.Counter("varve_nvme_io_bytes_total", "Bytes read from and written to disks.",
                         label),
        &metrics.Counter("varve_nvme_io_errors_total", "Operations on disks that failed.", label)};
  }
  for (const char* engine : {"io_uring", "threads"}) {
    io_engines_[engine] =
        &metrics.Gauge("varve_nvme_io_info", "1 for how the disks are used.", {{"engine", engine}});
  }
  const auto failed = [&](const char* op) {
    return &metrics.Counter("varve_nvme_failed_objects_total",
                            "Objects that could not be written to disk, or read from it.",
                            {{"op", op}});
  };
  failed_writes_ = failed("write");
  failed_reads_ = failed("read");
  disk_live_bytes_ = &metrics.Gauge("varve_nvme_live_bytes",
                                    "Of used bytes, those of records that are still needed.");
  for (const auto& [state, name] : kDirectoryStates) {
    directories_[state] = &metrics.Gauge("varve_nvme_directories", "Directories of the nvme tier.",
                                         {{"state", name}});
  }
  reclaimed_segments_ =
      &metrics.Counter("varve_nvme_reclaimed_segments_total", "Segments emptied and freed.");
  reclaim_moved_bytes_ = &metrics.Counter("varve_nvme_reclaim_moved_bytes_total",
                                          "Bytes copied forward out of segments being reclaimed.");
  damaged_records_ = &metrics.Counter("varve_nvme_damaged_records_total",
                                      "Records found torn or changed at start.");
  lost_notes_ = &metrics.Counter("varve_nvme_lost_notes_total",
                                 "Notes of contexts that could not be written, or were dropped.");
  note_bytes_ = &metrics.Gauge("varve_nvme_note_bytes", "Notes of contexts on the disks.");
}

void StoreMetrics::DeclareObjects(base::Metrics& metrics) {
  miss_objects_ = &metrics.Counter("varve_get_objects_total", kGetsHelp,
                                   {{"result", "miss"}, {"tier", "none"}});
  static constexpr std::pair<store::MissReason, const char*> kReasons[] = {
      {store::MissReason::kNeverStored, "never_stored"},
      {store::MissReason::kEvicted, "evicted"},
      {store::MissReason::kExpired, "expired"},
      {store::MissReason::kIncompatible, "incompatible"},
      {store::MissReason::kCorrupt, "corrupt"},
      {store::MissReason::kFailed, "failed"}};
  for (const auto& [reason, name] : kReasons) {
    misses_[static_cast<size_t>(reason)] =
        &metrics.Counter("varve_miss_total", "Misses by reason.", {{"reason", name}});
  }
  for (const char* result : {"stored", "exists", "rejected"}) {
    puts_[result] = &metrics.Counter("varve_put_objects_total", "Objects put, by result.",
                                     {{"result", result}});
  }
  put_seconds = &metrics.Histogram("varve_put_duration_seconds", "Put batches, whole.", {},
                                   base::LatencyBuckets());
}

void StoreMetrics::DeclareRecall(base::Metrics& metrics) {
  const auto expired = [&](const char* reason) {
    return &metrics.Counter("varve_contexts_expired_total",
                            "Parked contexts that the store dropped.", {{"reason", reason}});
  };
  contexts_expired_by_age = expired("age");
  contexts_expired_for_room = expired("room");
  contexts_left = &metrics.Gauge("varve_contexts_left_on_disk",
                                 "Contexts on disk for which there was no room at the start.");
  contexts_forgotten = &metrics.Counter("varve_contexts_forgotten_total",
                                        "Contexts whose notes on disk had to make room.");
  recall_seconds = &metrics.Histogram("varve_recall_duration_seconds", "Recalls, whole.",
                                      {{"path", "store"}}, base::LatencyBuckets());
  const auto stage = [&](const char* name) {
    return &metrics.Histogram("varve_recall_stage_duration_seconds", "Recalls by stage.",
                              {{"stage", name}}, base::LatencyBuckets());
  };
  recall_score_seconds = stage("score");
  recall_select_seconds = stage("select");
  recall_rerank_seconds = stage("rerank");
  recall_locate_seconds = stage("locate");
  recall_transfer_seconds = stage("transfer");
  const auto pages = [&](const char* outcome) {
    return &metrics.Counter("varve_recall_pages_total", "Selected pages by where they came from.",
                            {{"outcome", outcome}});
  };
  const auto fetches = [&](const char* of_class) {
    return &metrics.Counter("varve_fetch_requests_total", "Recalls and gets by class.",
                            {{"class", of_class}});
  };
  fetches_demand = fetches("demand");
  fetches_prefetch = fetches("prefetch");
  recall_pages_hot = pages("hot");
  recall_pages_fetched = pages("fetched");
  const auto reranked = [&](const char* by) {
    return &metrics.Counter("varve_recall_reranked_pages_total",
                            "Candidates of a second stage by what ranked them.", {{"by", by}});
  };
  recall_reranked_exact = reranked("keys");
  recall_reranked_sketch = reranked("sketch");
  recall_reranked_digest = reranked("digest");
  digest_lag_seconds = &metrics.Histogram("varve_digest_stream_lag_seconds",
                                          "From the seal of a page to its digest's arrival.", {},
                                          base::LatencyBuckets());
}

void StoreMetrics::DeclareLanes(base::Metrics& metrics) {
  for (const char* name : {"loopback", "shm", "tcp", "rdma"}) {
    LaneMetrics& lane = lanes_[name];
    for (const char* op : {"read", "write"}) {
      LaneMetrics::Op& series = op[0] == 'r' ? lane.read : lane.write;
      const base::Labels labels = {{"op", op}, {"transport", name}};
      series.bytes =
          &metrics.Counter("varve_transfer_bytes_total",
                           "Bytes moved from (read) and into (write) client memory.", labels);
      series.seconds = &metrics.Histogram("varve_transfer_duration_seconds",
                                          "Transfers from post to remote completion.", labels,
                                          base::LatencyBuckets());
    }
    for (const char* reason : kErrorReasons) {
      lane.errors[reason] = &metrics.Counter("varve_transfer_errors_total", "Failed transfers.",
                                             {{"transport", name}, {"reason", reason}});
    }
  }
}

void StoreMetrics::CountMiss(store::MissReason reason) {
  miss_objects_->Increment();
  misses_.at(static_cast<size_t>(reason))->Increment();
}

void StoreMetrics::CountPut(varve::v1::PutResult result) {
  switch (result) {
    case varve::v1::PUT_RESULT_STORED:
      return puts_.at("stored")->Increment();
    case varve::v1::PUT_RESULT_EXISTS:
      return puts_.at("exists")->Increment();
    case varve::v1::PUT_RESULT_NO_SPACE:
      Reject("no_space");
      break;
    default:
      break;
  }
  puts_.at("rejected")->Increment();
}

const char* StoreMetrics::TransferErrorReason(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return "peer_gone";
    case absl::StatusCode::kDeadlineExceeded:
      return "deadline";
    case absl::StatusCode::kCancelled:
      return "cancelled";
    case absl::StatusCode::kOutOfRange:
      return "out_of_range";
    default:
      return "other";
  }
}

void StoreMetrics::ObserveEviction(store::TierId tier, uint64_t bytes, double idle_seconds) {
  TierMetrics& of = tiers_.at(tier);
  of.evicted_bytes->Increment(static_cast<double>(bytes));
  of.evicted_idle_seconds->Observe(idle_seconds);
}

void StoreMetrics::CountMoved(store::MoveCause cause, uint64_t bytes) {
  moved_.at(cause)->Increment(static_cast<double>(bytes));
}

void StoreMetrics::ObserveIo(const tier::IoReport& report) {
  const Io& io = io_.at(report.op);
  io.seconds->Observe(report.seconds);
  if (report.ok) {
    io.bytes->Increment(static_cast<double>(report.bytes));
  } else {
    io.errors->Increment();
  }
}

Totals StoreMetrics::RateTotals() const {
  double taken = 0, given = 0, hits = 0, evicted = 0;
  for (const auto& [id, tier] : tiers_) {
    hits += tier.hits->Value();
    evicted += tier.evicted_bytes->Value();
  }
  for (const auto& [name, lane] : lanes_) {
    taken += lane.read.bytes->Value();
    given += lane.write.bytes->Value();
  }
  return {{"objects put", puts_.at("stored")->Value()},
          {"objects got", hits},
          {"misses", miss_objects_->Value()},
          {"from clients, bytes", taken},
          {"to clients, bytes", given},
          {"recalls", static_cast<double>(recall_seconds->Collect().histogram.sample_count)},
          {"pages recalled", recall_pages_fetched->Value()},
          {"evicted, bytes", evicted}};
}

void StoreMetrics::Mirror(const store::PageStoreUsage& usage) {
  TierMetrics& host = tiers_.at(store::TierId::kHost);
  host.objects->Set(static_cast<double>(usage.host_objects));
  host.capacity_bytes->Set(static_cast<double>(usage.host.capacity_bytes));
  host.used_bytes->Set(static_cast<double>(usage.host.used_bytes));
  host.pinned_bytes->Set(static_cast<double>(usage.pinned_bytes));
  const double free = static_cast<double>(usage.host.free_bytes);
  fragmentation_->Set(free > 0 ? 1 - static_cast<double>(usage.host.largest_free_bytes) / free : 0);
  Raise(host.checksum_failures, usage.checksum_failures);
  Raise(host.cut_objects, usage.eviction.cut_objects);
  if (usage.disk.has_value()) MirrorDisk(*usage.disk);
}

void StoreMetrics::MirrorDisk(const store::PageStoreUsage::Disk& disk) {
  TierMetrics& nvme = tiers_.at(store::TierId::kNvme);
  nvme.objects->Set(static_cast<double>(disk.objects));
  uint64_t capacity = 0, live = 0;
  std::map<tier::DirectoryState, int> states;
  for (const tier::DirectoryUsage& directory : disk.log.directories) {
    capacity += directory.capacity_bytes;
    live += directory.live_bytes;
    ++states[directory.state];
  }
  for (const auto& [state, gauge] : directories_) gauge->Set(states[state]);
  nvme.capacity_bytes->Set(static_cast<double>(capacity));
  nvme.used_bytes->Set(static_cast<double>(disk.log.used_bytes));
  nvme.pinned_bytes->Set(static_cast<double>(disk.pinned_bytes));
  Raise(nvme.checksum_failures, disk.checksum_failures);
  Raise(nvme.cut_objects, disk.eviction.cut_objects);
  disk_live_bytes_->Set(static_cast<double>(live));
  write_queue_objects_->Set(static_cast<double>(disk.queued_objects));
  promote_queue_objects_->Set(static_cast<double>(disk.promoting_objects));
  Raise(reclaimed_segments_, disk.log.reclaimed_segments);
  Raise(reclaim_moved_bytes_, disk.log.moved_bytes);
  Raise(damaged_records_, disk.log.damaged_records);
  Raise(lost_notes_, disk.lost_notes);
  Raise(failed_writes_, disk.write_errors);
  Raise(failed_reads_, disk.read_errors);
  note_bytes_->Set(static_cast<double>(disk.note_bytes));
}

void StoreMetrics::Raise(prometheus::Counter* counter, uint64_t total) {
  const double fresh = static_cast<double>(total) - counter->Value();
  if (fresh > 0) counter->Increment(fresh);
}

}  // namespace varve::server
