#include "kvstore/server/metrics.h"

#include <google/protobuf/descriptor.h>

#include <vector>

namespace varve::server {
namespace {

constexpr const char* kRejectReasons[] = {"sessions", "regions",  "batch_items", "object_bytes",
                                          "no_space", "draining", "contexts"};
constexpr const char* kErrorReasons[] = {"peer_gone", "deadline", "cancelled", "out_of_range",
                                         "other"};

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
  DeclareTier(metrics);
  DeclareObjects(metrics);
  DeclareRecall(metrics);
  DeclareLanes(metrics);
  for (const char* reason : kRejectReasons) {
    rejects_[reason] =
        &metrics.Counter("varve_admission_rejects_total",
                         "Requests and items refused for a limit, by limit.", {{"reason", reason}});
  }
}

void StoreMetrics::DeclareTier(base::Metrics& metrics) {
  const base::Labels host = {{"tier", "host"}};
  objects_ = &metrics.Gauge("varve_objects", "Objects stored.", host);
  capacity_bytes_ = &metrics.Gauge("varve_tier_capacity_bytes", "Size of the tier.", host);
  used_bytes_ = &metrics.Gauge("varve_tier_used_bytes", "Bytes reserved in the tier.", host);
  pinned_bytes_ = &metrics.Gauge("varve_tier_pinned_bytes",
                                 "Bytes used by objects with pins, holds or readers.", host);
  fragmentation_ = &metrics.Gauge("varve_tier_fragmentation_ratio",
                                  "1 - largest free extent / free bytes.", host);
  checksum_failures_ = &metrics.Counter("varve_checksum_failures_total",
                                        "Objects dropped because their bytes changed.", host);
  evicted_bytes_ = &metrics.Counter("varve_evicted_bytes_total", "Bytes evicted.",
                                    {{"tier", "host"}, {"reason", "capacity"}});
  evicted_on_request_bytes = &metrics.Counter("varve_evicted_bytes_total", "Bytes evicted.",
                                              {{"tier", "host"}, {"reason", "request"}});
  evicted_idle_seconds_ = &metrics.Histogram(
      "varve_evicted_idle_seconds", "Time from last use to eviction.", host, IdleBuckets());
}

void StoreMetrics::DeclareObjects(base::Metrics& metrics) {
  const char* gets = "Objects asked for, counted when delivered or missed.";
  hits_host =
      &metrics.Counter("varve_get_objects_total", gets, {{"result", "hit"}, {"tier", "host"}});
  miss_objects_ =
      &metrics.Counter("varve_get_objects_total", gets, {{"result", "miss"}, {"tier", "none"}});
  static constexpr std::pair<store::MissReason, const char*> kReasons[] = {
      {store::MissReason::kNeverStored, "never_stored"},
      {store::MissReason::kEvicted, "evicted"},
      {store::MissReason::kIncompatible, "incompatible"},
      {store::MissReason::kCorrupt, "corrupt"},
      {store::MissReason::kFailed, "failed"}};
  for (const auto& [reason, name] : kReasons) {
    misses_[static_cast<size_t>(reason)] =
        &metrics.Counter("varve_miss_total", "Misses by reason.", {{"reason", name}});
  }
  served_bytes_host = &metrics.Counter("varve_served_bytes_total", "Bytes delivered to clients.",
                                       {{"tier", "host"}});
  for (const char* result : {"stored", "exists", "rejected"}) {
    puts_[result] = &metrics.Counter("varve_put_objects_total", "Objects put, by result.",
                                     {{"result", result}});
  }
  put_seconds = &metrics.Histogram("varve_put_duration_seconds", "Put batches, whole.", {},
                                   base::LatencyBuckets());
  get_seconds_host = &metrics.Histogram("varve_get_duration_seconds", "Get batches, whole.",
                                        {{"tier", "host"}}, base::LatencyBuckets());
}

void StoreMetrics::DeclareRecall(base::Metrics& metrics) {
  const auto expired = [&](const char* reason) {
    return &metrics.Counter("varve_contexts_expired_total",
                            "Parked contexts that the store dropped.", {{"reason", reason}});
  };
  contexts_expired_by_age = expired("age");
  contexts_expired_for_room = expired("room");
  recall_seconds = &metrics.Histogram("varve_recall_duration_seconds", "Recalls, whole.",
                                      {{"path", "store"}}, base::LatencyBuckets());
  const auto stage = [&](const char* name) {
    return &metrics.Histogram("varve_recall_stage_duration_seconds", "Recalls by stage.",
                              {{"stage", name}}, base::LatencyBuckets());
  };
  recall_score_seconds = stage("score");
  recall_select_seconds = stage("select");
  recall_locate_seconds = stage("locate");
  recall_transfer_seconds = stage("transfer");
  const auto pages = [&](const char* outcome) {
    return &metrics.Counter("varve_recall_pages_total", "Selected pages by where they came from.",
                            {{"outcome", outcome}});
  };
  recall_pages_hot = pages("hot");
  recall_pages_fetched = pages("fetched");
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

void StoreMetrics::ObserveEviction(uint64_t bytes, double idle_seconds) {
  evicted_bytes_->Increment(static_cast<double>(bytes));
  evicted_idle_seconds_->Observe(idle_seconds);
}

Totals StoreMetrics::RateTotals() const {
  double taken = 0, given = 0;
  for (const auto& [name, lane] : lanes_) {
    taken += lane.read.bytes->Value();
    given += lane.write.bytes->Value();
  }
  return {{"objects put", puts_.at("stored")->Value()},
          {"objects got", hits_host->Value()},
          {"misses", miss_objects_->Value()},
          {"from clients, bytes", taken},
          {"to clients, bytes", given},
          {"recalls", static_cast<double>(recall_seconds->Collect().histogram.sample_count)},
          {"pages recalled", recall_pages_fetched->Value()},
          {"evicted, bytes", evicted_bytes_->Value()}};
}

void StoreMetrics::Mirror(const store::PageStoreUsage& usage) {
  objects_->Set(static_cast<double>(usage.objects));
  capacity_bytes_->Set(static_cast<double>(usage.host.capacity_bytes));
  used_bytes_->Set(static_cast<double>(usage.host.used_bytes));
  pinned_bytes_->Set(static_cast<double>(usage.pinned_bytes));
  const double free = static_cast<double>(usage.host.capacity_bytes - usage.host.used_bytes);
  fragmentation_->Set(free > 0 ? 1 - static_cast<double>(usage.host.largest_free_bytes) / free : 0);
  Raise(checksum_failures_, usage.checksum_failures);
}

void StoreMetrics::Raise(prometheus::Counter* counter, uint64_t total) {
  const double fresh = static_cast<double>(total) - counter->Value();
  if (fresh > 0) counter->Increment(fresh);
}

}  // namespace varve::server
