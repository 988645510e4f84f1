// Every metric family that the store feeds (names: docs/metrics.md), declared with all its label
// sets.
//
// Thread-safe. Handles live as long as the base::Metrics they were declared in.
#pragma once

#include <array>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "kvstore/base/metrics.h"
#include "kvstore/base/rpc_metrics.h"
#include "kvstore/server/rates.h"
#include "kvstore/store/page_store.h"
#include "kvstore/tier/block_io.h"
#include "kvstore/tier/record_log.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

// varve_transfer_* of one lane.
struct LaneMetrics {
  struct Op {
    prometheus::Counter* bytes;
    prometheus::Histogram* seconds;
  };
  Op read;                                             // from clients: puts
  Op write;                                            // into clients: gets
  std::map<std::string, prometheus::Counter*> errors;  // by reason
};

// Of one tier.
struct TierMetrics {
  prometheus::Gauge* objects;
  prometheus::Gauge* capacity_bytes;
  prometheus::Gauge* used_bytes;
  prometheus::Gauge* pinned_bytes;
  prometheus::Counter* hits;
  prometheus::Counter* served_bytes;
  prometheus::Histogram* get_seconds;
  prometheus::Counter* checksum_failures;
  prometheus::Counter* evicted_bytes;
  prometheus::Counter* evicted_on_request_bytes;
  prometheus::Counter* cut_objects;
  prometheus::Histogram* evicted_idle_seconds;
};

class StoreMetrics {
 public:
  StoreMetrics(base::Metrics& metrics, const std::string& version, const std::string& commit);

  // By the name in the proto.
  base::RpcMetrics& method(const std::string& name) { return methods_.at(name); }
  void CountMiss(store::MissReason reason);
  void CountPut(varve::v1::PutResult result);
  // Of an endpoint's lane: loopback, shm, tcp or rdma.
  LaneMetrics& lane(const std::string& name) { return lanes_.at(name); }
  static const char* TransferErrorReason(const absl::Status& status);
  void Reject(const std::string& reason) { rejects_.at(reason)->Increment(); }
  TierMetrics& tier(store::TierId tier) { return tiers_.at(tier); }
  void ObserveEviction(store::TierId tier, uint64_t bytes, double idle_seconds);
  void CountMoved(store::MoveCause cause, uint64_t bytes);
  // An operation of a disk: on its thread.
  void ObserveIo(const tier::IoReport& report);
  // "io_uring" or "threads"
  void SetIoEngine(const std::string& name) { io_engines_.at(name)->Set(1); }
  // What the status page shows as rates.
  Totals RateTotals() const;
  // Sets a counter that mirrors one kept elsewhere. One caller at a time.
  static void Raise(prometheus::Counter* counter, uint64_t total);
  // Sets the gauges and counters that mirror the page store. One caller at a time.
  void Mirror(const store::PageStoreUsage& usage);

  prometheus::Gauge* sessions;
  prometheus::Gauge* contexts;
  prometheus::Gauge* registered_bytes;
  prometheus::Counter* contexts_expired_by_age;
  prometheus::Counter* contexts_expired_for_room;
  prometheus::Gauge* contexts_left;
  prometheus::Counter* contexts_forgotten;
  prometheus::Histogram* put_seconds;
  prometheus::Histogram* recall_seconds;
  prometheus::Histogram* recall_score_seconds;
  prometheus::Histogram* recall_select_seconds;
  prometheus::Histogram* recall_rerank_seconds;
  prometheus::Histogram* recall_locate_seconds;
  prometheus::Histogram* recall_transfer_seconds;
  // Recalls and gets, by their class.
  prometheus::Counter* fetches_demand;
  prometheus::Counter* fetches_prefetch;
  prometheus::Counter* recall_pages_hot;
  prometheus::Counter* recall_pages_fetched;
  prometheus::Counter* recall_reranked_exact;
  prometheus::Counter* recall_reranked_sketch;
  prometheus::Counter* recall_reranked_digest;
  prometheus::Histogram* digest_lag_seconds;

 private:
  void DeclareTiers(base::Metrics& metrics);
  void DeclareDisk(base::Metrics& metrics);
  void MirrorDisk(const store::PageStoreUsage::Disk& disk);
  void DeclareObjects(base::Metrics& metrics);
  void DeclareRecall(base::Metrics& metrics);
  void DeclareLanes(base::Metrics& metrics);

  base::ServiceMetrics methods_;
  std::map<std::string, LaneMetrics> lanes_;
  std::map<std::string, prometheus::Counter*> rejects_;
  std::array<prometheus::Counter*, 7> misses_{};  // by store::MissReason
  prometheus::Counter* miss_objects_;
  std::map<std::string, prometheus::Counter*> puts_;
  std::map<store::TierId, TierMetrics> tiers_;
  prometheus::Gauge* fragmentation_;
  // ---- the disk's
  std::map<store::MoveCause, prometheus::Counter*> moved_;
  struct Io {
    prometheus::Histogram* seconds;
    prometheus::Counter* bytes;
    prometheus::Counter* errors;
  };
  std::map<tier::IoOp, Io> io_;
  std::map<std::string, prometheus::Gauge*> io_engines_;
  prometheus::Gauge* write_queue_objects_;
  prometheus::Gauge* promote_queue_objects_;
  prometheus::Counter* failed_writes_;
  prometheus::Counter* failed_reads_;
  prometheus::Gauge* disk_live_bytes_;
  std::map<tier::DirectoryState, prometheus::Gauge*> directories_;
  prometheus::Counter* reclaimed_segments_;
  prometheus::Counter* reclaim_moved_bytes_;
  prometheus::Counter* damaged_records_;
  prometheus::Counter* lost_notes_;
  prometheus::Gauge* note_bytes_;
};

}  // namespace varve::server
