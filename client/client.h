// The C++ client of a varve-store: the same interface against a remote store and an embedded one.
//
//   remote:   Client::Connect(options)
//             gRPC to an address, UCX for the bytes
//   embedded: Client::Connect(channel, transport, options)
//             an in-process store's channel and loopback (server::EmbeddedStore makes both)
//
// The store moves the bytes: Put reads from and Get writes into memory that this client registered
// or allocated.
//
// Threads: all methods may be called from any thread; calls block until answered unless named
// Async. Callbacks run on a gRPC thread, or before the call returns; they must neither block nor
// destroy the client. A process that forks must not use its clients in the child.
//
// Ownership: Memory must be destroyed before its Client, and no blocking call may be running then.
// Destroying a client cancels its asynchronous calls and returns when their callbacks have run.
//
// Deadlines: those of ClientOptions, and for the blocking calls of a thread its CallDeadline
// (call_deadline.h). Classes: the Gets and Recalls of a thread with PrefetchCalls
// (prefetch_calls.h) give way to all others in the store.
//
// Errors: UNAVAILABLE the store cannot be reached or the session was lost (the client reconnects by
// itself on the next call and re-registers its memory; calls in flight fail); the others as in
// proto/varve/v1/store.proto. After a Get or Recall that ended with DEADLINE_EXCEEDED or
// UNAVAILABLE, or whose item failed, bytes may still land in its destinations: do not reuse them
// before their Memory was destroyed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/geometry.h"
#include "kvstore/page/object_key.h"
#include "kvstore/page/rerank.h"

namespace grpc {
class Channel;
}
namespace varve::transport {
class Transport;
}

namespace varve::client {

struct ClientOptions {
  // host:port or unix:/path; unused when a channel is given.
  std::string address = "127.0.0.1:7411";
  std::string client_name = "client";
  std::string key_namespace = "default";
  std::vector<std::string> lanes = {"rdma", "shm", "tcp"};  // empty: inline only, no transport
  std::vector<std::string> devices;  // network devices of rdma and tcp; empty: all
  std::string tcp_port_range;        // that tcp listens on: "20000-20100"; empty: any
  // Bounds each attempt to have a session, its retries included.
  absl::Duration connect_timeout = absl::Seconds(10);
  absl::Duration transfer_deadline = absl::Seconds(10);  // given to the store for each batch
  absl::Duration call_timeout = absl::Seconds(30);       // of calls that move no values
  // Opens the session on the first call that needs one instead of in Connect: administration works
  // without a session, so it reaches a store that is draining.
  bool lazy_session = false;
};

// What the store allows; batches above max_batch_items are split by the client.
struct ClientLimits {
  uint32_t max_batch_items = 0;
  uint64_t max_object_bytes = 0;
  uint32_t max_regions = 0;
  uint64_t max_registered_bytes = 0;
};

// Registered memory of this process, known to the store.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual std::span<std::byte> bytes() const = 0;
};

// A piece of registered memory.
struct Piece {
  const Memory* memory = nullptr;
  size_t offset = 0;
  size_t bytes = 0;
};

// What a value that is put inline says of itself; see PutItem.
struct ValueInfo {
  page::ObjectLayout layout;
  uint32_t prompt_tokens = 0;
  uint32_t tokens = 0;
  absl::Duration ttl = absl::InfiniteDuration();
  page::ObjectKey parent;
};
struct PutItem {
  page::ObjectKey key;
  std::vector<Piece> sources;  // concatenated
  page::ObjectLayout layout;   // num_kv_heads 0: opaque
  std::string codec;           // empty: raw
  std::optional<uint32_t> crc32c;
  // Of the prompt that the value was computed for, all of it: what it costs to lose. 0: not known.
  uint32_t prompt_tokens = 0;
  // Whose keys and values it has: of two values that cost the same, the one with more bytes is the
  // first to be evicted. 0: not known.
  uint32_t tokens = 0;
  // So long the value can be found, and longer while it is pinned or held. In milliseconds, at
  // least one, at most 2^32 - 1. Of what is stored already it can only make the time longer.
  absl::Duration ttl = absl::InfiniteDuration();
  // Of an object of the block before this one's in its prompt (keys that differ in their last 4
  // bytes alone are of one block): what is stored of a prompt then loses its end first, in whatever
  // order it was put or used. Empty: none, or not known.
  page::ObjectKey parent;
};
enum class PutOutcome { kStored, kExists, kNoSpace, kCorrupt, kFailed, kInvalid };
struct PutResult {
  PutOutcome outcome = PutOutcome::kFailed;
  std::string message;
};

struct GetItem {
  page::ObjectKey key;
  page::ObjectRange range;
  std::vector<Piece> destinations;
};
enum class Tier { kNone, kGpu, kHost, kNvme };
// The numbers are those of the C API.
enum class MissReason {
  kNone = 0,
  kNeverStored = 1,
  kEvicted = 2,
  kExpired = 3,
  kIncompatible = 4,
  kCorrupt = 5,
  kFailed = 6
};
// For people: "never stored".
const char* MissName(MissReason reason);
struct GetResult {
  bool hit = false;
  Tier tier = Tier::kNone;
  uint64_t bytes = 0;
  MissReason reason = MissReason::kNone;  // kNone with !hit: a bad item, see message
  std::string message;
};

struct ObjectInfo {
  page::ObjectKey key;
  uint64_t bytes = 0;
  Tier tier = Tier::kNone;
  std::string codec;
  uint32_t pins = 0;
  page::ObjectLayout layout;
  uint32_t crc32c = 0;
  std::vector<Tier> tiers;  // all that have a copy
  absl::Duration idle;      // since its last use, or since the store has found it on disk
  uint32_t prompt_tokens = 0;
  uint32_t tokens = 0;
  absl::Duration ttl = absl::InfiniteDuration();  // what is left of it
};
struct ObjectPage {
  std::vector<ObjectInfo> objects;
  std::string next_page_token;  // empty: no more
};
enum class PrefetchOutcome {
  kNotStored,
  kInMemory,
  kBegun,  // on its way, as far as room can be made for it
  kBusy,   // too many are on their way: ask again later
};

// Pages of one layer and KV head that a worker had when it parked a context: for who attaches it
// next.
struct HotPages {
  uint32_t layer = 0;
  uint32_t kv_head = 0;
  std::vector<uint32_t> attended;  // in the last step, ascending
  std::vector<uint32_t> others;    // resident too, ascending

  friend bool operator==(const HotPages&, const HotPages&) = default;
};

struct ContextInfo {
  std::string context_id;
  bool attached = false;
  page::Geometry geometry;
  page::DigestKind digest_kind = page::DigestKind::kMinMax;
  uint32_t num_blocks = 0;
  uint32_t epoch = 0;
  uint64_t digest_bytes = 0;
  std::vector<uint32_t> digest_blocks;
  std::vector<std::string> block_hashes;  // Attach only
  uint32_t attached_sessions = 0;
  std::vector<HotPages> hot;  // Attach only: what the last park left
};

struct RecallHead {
  uint32_t budget_pages = 0;
  std::vector<uint32_t> resident;
  std::vector<Piece> slots;  // one page (or part) each
  page::Part part = page::Part::kKV;
  bool skip = false;  // not asked for: nothing is selected, the rest is ignored
  // With a target.
  uint32_t floor_pages = 0;    // at least
  uint32_t ceiling_pages = 0;  // at most; 0: 4 times the budget
  // Pages that are selected beside the budget and not scored, ascending. Not with a target.
  std::vector<uint32_t> outliers;
  // With Part::kKV: of pages [values_begin, values_end) that are no outliers the values alone come,
  // into the second half of their slots.
  uint32_t values_begin = 0;
  uint32_t values_end = 0;
  bool ValuesAlone(uint32_t page) const {
    return page >= values_begin && page < values_end &&
           !std::binary_search(outliers.begin(), outliers.end(), page);
  }
};
struct RecallLayer {
  uint32_t layer = 0;
  std::span<const float> queries;  // [num_query_heads][head_dim]
  std::vector<RecallHead> heads;
  // With a target: of all heads at most; 0: the sum of their budgets, and what earlier layers of
  // the query have left of theirs.
  uint32_t total_pages = 0;
};
struct RecallQuery {
  std::string context_id;
  uint32_t epoch = 0;  // of the context, as its ContextInfo says
  std::vector<RecallLayer> layers;
  page::ScoreMerge merge = page::ScoreMerge::kSoftmaxMean;
  uint32_t sinks = 0;
  uint32_t window = 0;
  uint32_t num_blocks = 0;
  bool explain = false;
  // A second stage in the store, over multiplier x budget candidates.
  page::Rerank rerank = page::Rerank::kNone;
  double multiplier = page::kDefaultMultiplier;
  bool certify = false;  // also answer what the selection drops
  // The share of the attention mass to reach with as few pages as can be; 0: the budgets are fixed.
  double target = 0;
  // Scores of resident pages count 1 + hysteresis times in the last stage, 0..100; not with a
  // target.
  double hysteresis = 0;
  bool score_hot = false;  // also answer the scores of the pages that the worker has then
};
struct RecalledPage {
  uint32_t page = 0;
  uint32_t slot = 0;
  bool done = false;
  MissReason reason = MissReason::kNone;
  std::string message;
};
struct RecallHeadResult {
  std::vector<uint32_t> selected;
  std::vector<RecalledPage> recalled;
  std::vector<float> scores;
  // certify only, per query head of the group (page/mass.h): empty where it is unknown.
  std::vector<float> log_dropped_bound;     // without the slack of the logits
  std::vector<float> log_dropped_estimate;  // of the second stage
  // score_hot only, one for each resident page of the query, and one for each selected page that
  // was not resident, ascending; empty when nothing was scored.
  std::vector<float> resident_scores, missing_scores;
};
struct RecallTimings {
  double queue_us = 0, score_us = 0, select_us = 0, rerank_us = 0, locate_us = 0;
  double transfer_us = 0, total_us = 0;
};
struct RecallResult {
  std::vector<std::vector<RecallHeadResult>> layers;  // [layer of the query][KV head]
  // Of several layers that were answered one by one: the stages summed, queue and total of the
  // last.
  RecallTimings timings;
};
// Gets an index into the query's layers, and what RecallResult has of it.
using OnRecalledLayer = std::function<void(size_t, const std::vector<RecallHeadResult>&)>;

// One directory of the nvme tier.
struct DirectoryInfo {
  std::string path;
  std::string state;    // ok, full, read_only, failed, draining, slow or absent
  std::string problem;  // why it is not ok
  uint64_t capacity_bytes = 0, used_bytes = 0, live_bytes = 0, segments = 0, records = 0;
};
struct TierInfo {
  Tier tier = Tier::kNone;
  uint64_t capacity_bytes = 0, used_bytes = 0, pinned_bytes = 0, objects = 0;
  double fragmentation_ratio = 0, low_watermark = 0, high_watermark = 0;
  std::string eviction;
  uint64_t evicted_objects = 0;  // to make room, since the store started
  // Of them lost although more of their prompt is stored: nothing else could leave.
  uint64_t cut_objects = 0;
  absl::Duration last_evicted_idle;  // from its last use to the last eviction
  uint64_t queued_objects = 0;       // on their way to this tier ...
  uint64_t queued_bytes = 0;         // ... nvme only
  uint64_t beyond_bytes = 0;  // host only: of objects still beyond a capacity that was made smaller
  // Of nvme only.
  std::string durability, io;
  uint64_t live_bytes = 0;  // of used_bytes, what is still needed
  uint64_t recovered_objects = 0;
  absl::Duration recovery_time;
  std::vector<DirectoryInfo> directories;
};
struct SessionInfo {
  std::string client_name, key_namespace, lane, peer;
  absl::Duration age;
  uint32_t regions = 0;
  uint64_t registered_bytes = 0, read_bytes = 0, written_bytes = 0;
};
struct StoreStatus {
  std::string version;
  absl::Duration uptime;
  bool draining = false;
  std::vector<TierInfo> tiers;
  std::vector<SessionInfo> sessions;
  uint64_t contexts = 0, objects = 0;
  std::vector<std::string> plugins;
};

struct EvictOutcome {
  uint64_t objects = 0, bytes = 0;
  uint64_t kept = 0;  // objects that match and are pinned, held or being read
};

class Client {
 public:
  // INVALID_ARGUMENT also for an address of another form.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const ClientOptions& options);
  // channel: to the store. transport: null for inline only; must outlive the client.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(std::shared_ptr<grpc::Channel> channel,
                                                         transport::Transport* transport,
                                                         const ClientOptions& options);
  virtual ~Client() = default;

  // "loopback", "shm", "tcp", "rdma", "inline"; of the last session, empty before the first.
  virtual std::string lane() const = 0;
  // Grows with every session opened with the store; 0 while there is none. Pins and attachments
  // belong to a session: once this has changed they are gone, and the store may be a new process
  // without any of what the old one held.
  virtual uint64_t session() const = 0;
  // Of the last session; all zero before the first.
  virtual ClientLimits limits() const { return {}; }

  // The caller's memory must outlive the handle. Allocate gives the lane's fastest kind. A store
  // that does not answer for 10 s (also when a handle is destroyed) loses the session.
  virtual absl::StatusOr<std::unique_ptr<Memory>> Register(std::span<std::byte> memory) = 0;
  virtual absl::StatusOr<std::unique_ptr<Memory>> Allocate(size_t bytes) = 0;

  // ---- objects: one result per item, in order
  virtual absl::StatusOr<std::vector<bool>> Exists(std::span<const page::ObjectKey> keys) = 0;
  virtual absl::StatusOr<uint32_t> LongestPrefix(std::span<const page::ObjectKey> keys) = 0;
  virtual absl::StatusOr<std::vector<PutResult>> Put(std::span<const PutItem> items) = 0;
  virtual absl::StatusOr<std::vector<GetResult>> Get(std::span<const GetItem> items) = 0;
  virtual void PutAsync(std::vector<PutItem> items,
                        std::function<void(absl::StatusOr<std::vector<PutResult>>)> done) = 0;
  virtual void GetAsync(std::vector<GetItem> items,
                        std::function<void(absl::StatusOr<std::vector<GetResult>>)> done) = 0;
  virtual absl::StatusOr<std::vector<bool>> Remove(std::span<const page::ObjectKey> keys,
                                                   bool force) = 0;
  // ttl infinite: until unpinned or the session ends.
  virtual absl::StatusOr<std::vector<bool>> Pin(std::span<const page::ObjectKey> keys,
                                                absl::Duration ttl) = 0;
  virtual absl::StatusOr<std::vector<bool>> Unpin(std::span<const page::ObjectKey> keys) = 0;
  virtual absl::StatusOr<ObjectPage> List(std::string_view key_prefix, uint32_t page_size,
                                          const std::string& page_token) = 0;
  // Begins to bring objects from disk into host memory, below what clients wait for.
  virtual absl::StatusOr<std::vector<PrefetchOutcome>> Prefetch(
      std::span<const page::ObjectKey> keys) = 0;

  // Values inside gRPC messages: works on every lane.
  virtual absl::StatusOr<PutResult> PutInline(const page::ObjectKey& key,
                                              std::span<const std::byte> value,
                                              const ValueInfo& info) = 0;
  // The value is set only on a hit.
  virtual absl::StatusOr<GetResult> GetInline(const page::ObjectKey& key,
                                              const page::ObjectRange& range,
                                              std::string* value) = 0;

  // ---- contexts and recall
  virtual absl::StatusOr<ContextInfo> OpenContext(const std::string& id,
                                                  const page::Geometry& geometry,
                                                  page::DigestKind kind) = 0;
  virtual absl::StatusOr<ContextInfo> AppendContext(const std::string& id, uint32_t first_block,
                                                    std::span<const std::string> block_hashes) = 0;
  virtual absl::StatusOr<ContextInfo> TruncateContext(const std::string& id,
                                                      uint32_t num_blocks) = 0;
  virtual absl::StatusOr<ContextInfo> ForkContext(const std::string& id, const std::string& new_id,
                                                  uint32_t num_blocks) = 0;
  virtual absl::StatusOr<ContextInfo> AttachContext(const std::string& id) = 0;
  // hot: ascending by layer and KV head, each once; kept by the store instead of what an earlier
  // park left, until it restarts; empty: that stays. INVALID_ARGUMENT, and the context stays
  // attached, for pages that it has not.
  virtual absl::StatusOr<ContextInfo> ParkContext(const std::string& id,
                                                  std::span<const HotPages> hot) = 0;
  absl::StatusOr<ContextInfo> ParkContext(const std::string& id) { return ParkContext(id, {}); }
  virtual absl::Status DropContext(const std::string& id) = 0;
  // All contexts of the namespace.
  virtual absl::StatusOr<std::vector<ContextInfo>> ListContexts() = 0;
  // rows: [block][kv head][vectors][head_dim]. Sent on a long-lived stream; blocks until
  // acknowledged.
  virtual absl::Status SendDigests(const std::string& id, uint32_t epoch, uint32_t layer,
                                   uint32_t first_block, uint32_t num_blocks, std::string rows,
                                   absl::Time sealed) = 0;
  // Calls sink(layer, first_block, num_blocks, rows) in order; call_timeout bounds all of it.
  // FAILED_PRECONDITION: the context is at another epoch.
  virtual absl::Status ReadDigests(
      const std::string& id, uint32_t epoch, uint32_t layer_begin, uint32_t layer_count,
      const std::function<absl::Status(uint32_t, uint32_t, uint32_t, std::string_view)>& sink) = 0;
  // One round trip on a long-lived stream. Without slots pages are selected and nothing is brought.
  // A client without a transport fetches the pages inline, which attaches its session to the
  // context. on_layer: called on this thread for each layer as soon as its pages are in place, in
  // any order, before Recall returns; layers that it was called for are in place also when the
  // recall fails.
  virtual absl::StatusOr<RecallResult> Recall(const RecallQuery& query,
                                              const OnRecalledLayer& on_layer) = 0;
  absl::StatusOr<RecallResult> Recall(const RecallQuery& query) { return Recall(query, nullptr); }

  // ---- administration
  virtual absl::StatusOr<StoreStatus> Status() = 0;
  virtual absl::StatusOr<std::string> Config() = 0;
  virtual absl::Status Drain() = 0;
  // What is not pinned, held or being read, of any namespace, with this key prefix (empty: all).
  // NOT_FOUND: no session has used the namespace.
  virtual absl::StatusOr<EvictOutcome> Evict(const std::string& key_namespace,
                                             std::string_view key_prefix) = 0;
  // All that the store knows, in the order of their first use, with objects or without.
  virtual absl::StatusOr<std::vector<std::string>> ListNamespaces() = 0;
  // Another directory for the nvme tier, an absolute path on the store's host, until the store
  // ends. FAILED_PRECONDITION: there is no nvme tier, or the directory is in use or not empty;
  // PERMISSION_DENIED.
  virtual absl::Status AddDirectory(const std::string& path, uint64_t capacity_bytes) = 0;
  // Moves what is in a directory to the others; done when it is empty and the store has left it,
  // however long that takes. The end of the client ends the waiting, not the draining. NOT_FOUND:
  // not one of the store's; RESOURCE_EXHAUSTED: the others have no room; UNAVAILABLE: the store
  // ended.
  virtual void DrainDirectoryAsync(const std::string& path,
                                   std::function<void(absl::Status)> done) = 0;
  // Writes what is in host memory alone to disk, where it stays in memory too (kHost; other tiers
  // cannot be drained). As above, and UNAVAILABLE when some of it could not be written; done is
  // told how many objects are in host memory alone by then: put since.
  virtual void DrainTierAsync(Tier tier, std::function<void(absl::StatusOr<uint64_t>)> done) = 0;
  // Gives the tier (kHost alone) so much memory until the store ends; done when it has it and, if
  // it has less than before, the rest is the system's again. What does not fit moves to disk, or is
  // evicted where there is none. As above; INVALID_ARGUMENT says what is allowed,
  // FAILED_PRECONDITION: more is pinned; RESOURCE_EXHAUSTED: the system has no memory; ABORTED:
  // another call came before this was done.
  virtual void ResizeTierAsync(Tier tier, uint64_t capacity_bytes,
                               std::function<void(absl::Status)> done) = 0;
  // Round trip of an empty request and a `bytes`-long payload each way (benchmarks).
  virtual absl::Status Echo(size_t bytes) = 0;
};

}  // namespace varve::client
