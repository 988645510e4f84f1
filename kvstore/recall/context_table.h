// Contexts and their digest indexes: which blocks a context has, what their pages look like from
// afar, and which pages matter for a query.
//
// A context is an ordered list of block hashes plus, per layer, the digest matrix over them, one
// matrix per KV head. Forks share blocks and digests by reference (copy on truncate or divergent
// append). While at least one session is attached, the blocks are held in the page store; parked
// contexts keep only digests.
//
// Epochs: every context gets one when it is opened or forked, and a new one with each truncate. An
// epoch is never given twice in the life of a table, so one that a worker remembers from before a
// truncate, or from a dropped context of the same id, is refused and nothing stale is ever
// returned. 0 is no epoch.
//
// With a journal the contexts survive a restart: they are then parked, with the blocks and digests
// that were written before, and each has a new epoch. What changes is gathered, and written by
// WriteNotes, when much has come together, and when the context is parked; what was not written is
// lost in a crash. What is lost leaves a hole; blocks, and the digests of a layer, end there.
// Epochs given before are not given again.
//
// Contexts for which a start has no room (the limits below), or that it cannot read, are left on
// disk: they are not in the table, and are there at a later start. Opening, forking to or dropping
// one of that name gives them up, and they expire as parked ones do.
//
// Where the journal has no room for more, the contexts parked the longest are forgotten: they are
// used on, and are gone after a restart. When that does not suffice, what comes is not kept.
//
// Limits: ids 1..128 of [A-Za-z0-9._:-]; block hashes 4..59 bytes; 2^22 blocks a context.
// Threads: all methods may be called from any thread; Select runs concurrently with everything else
// on a snapshot. A session must not be used in a call that runs concurrently with its
// DetachSession. Errors: NOT_FOUND no such context; ALREADY_EXISTS; INVALID_ARGUMENT names the
// field and what is allowed; FAILED_PRECONDITION stale epoch, holes, or too few digests;
// RESOURCE_EXHAUSTED over max_digest_bytes, max_blocks, or max_contexts with all of them attached:
// a parked one, the least recently used, makes room otherwise.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/base/clock.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/rerank.h"
#include "kvstore/recall/hot_pages.h"
#include "kvstore/store/journal.h"
#include "kvstore/store/page_store.h"

namespace varve::recall {

struct ContextOptions {
  page::Geometry geometry;
  page::DigestKind digest_kind = page::DigestKind::kMinMax;
};

struct ContextSnapshot {
  std::string context_id;
  ContextOptions options;
  uint32_t num_blocks = 0;
  uint32_t epoch = 0;
  uint64_t digest_bytes = 0;            // of all layers, shared ones too
  std::vector<uint32_t> digest_blocks;  // per layer: leading blocks with digests
  uint32_t attached_sessions = 0;
  // Of an Attach only.
  std::vector<std::string> block_hashes;
  std::vector<HotPages> hot;  // what the last park left
};

struct HeadQuery {
  uint32_t budget_pages = 0;  // selected pages, pinned ones included; at least 1
  // Page ids the worker has, ascending, below the context's num_blocks.
  std::span<const uint32_t> resident;
  uint32_t places = UINT32_MAX;  // for missing pages, the lowest first
  bool skip = false;             // nothing is scored or selected; the rest is ignored
  // With a target.
  uint32_t floor_pages = 0;    // at least; at most the budget
  uint32_t ceiling_pages = 0;  // at most; at least the budget; 0: kDefaultCeiling times the budget
  // Selected beside the budget and not scored: page ids below the number of candidates, ascending;
  // not with a target.
  std::span<const uint32_t> outliers = {};
};
struct LayerQuery {
  uint32_t layer = 0;
  std::span<const float> queries;  // [num_query_heads][head_dim]
  std::vector<HeadQuery> heads;    // num_kv_heads
  // With a target: of all heads at most; 0: the sum of their budgets, and what earlier layers of
  // the request have left of their totals.
  uint32_t total_pages = 0;
};
struct SelectParams {
  uint32_t epoch = 0;
  page::ScoreMerge merge = page::ScoreMerge::kSoftmaxMean;
  uint32_t sinks = 0;
  uint32_t window = 0;
  // Candidates are pages [0, num_blocks); 0: all with digests in the layer.
  uint32_t num_blocks = 0;
  bool explain = false;
  // With a second stage the digests choose multiplier x budget candidates, and their keys, where
  // the store has them in memory, choose among those.
  page::Rerank rerank = page::Rerank::kNone;
  double multiplier = page::kDefaultMultiplier;
  bool alone = false;    // on the caller's thread only: the others are for those who wait
  bool certify = false;  // also answer what the selection drops
  // The share of the attention mass to reach, with as few pages as can be (page/adaptive.h), by
  // scores that are shares: softmax_mean, or a second stage. 0: as many pages as the budget.
  double target = 0;
  // With a target: what layers that were selected before, of the same request, have left.
  uint64_t left_pages = 0;
  // Scores of resident pages, which must be shares, count 1 + hysteresis times in the last stage.
  double hysteresis = 0;
  bool score_hot = false;  // also answer the scores of resident and missing pages
};
// What a selection drops, per query head of the group (page/mass.h); empty: unknown.
struct DroppedMass {
  // LogDroppedBound, by digests that bound and by keys; unknown too when query heads x pages are
  // more than 4 Mi.
  std::vector<float> log_bound;
  // Of the candidates of a second stage, by keys or sketches: LogDroppedMass. Unknown too when some
  // had neither.
  std::vector<float> log_estimate;
};
struct HeadSelection {
  std::vector<uint32_t> selected;  // ascending
  std::vector<uint32_t> missing;   // selected and not resident, ascending
  std::vector<float> scores;       // explain only: by the digests
  // score_hot only, of the last stage, parallel to the resident and to the missing pages; 0 for
  // those that a second stage did not look at; empty where nothing was scored.
  std::vector<float> resident_scores;
  std::vector<float> missing_scores;
  DroppedMass dropped;  // certify only
};
struct LayerSelection {
  uint32_t layer = 0;
  std::vector<HeadSelection> heads;
  // Missing pages that a head has a place for: union over heads, ascending; and their block hashes.
  std::vector<uint32_t> wanted_pages;
  std::vector<std::string> block_hashes;
  uint64_t left_pages = 0;  // with a target: of the totals up to this layer
};
struct SelectTimings {
  // Of the busiest thread.
  double score_seconds = 0;
  double select_seconds = 0;
  double rerank_seconds = 0;  // finding the keys included
  // Candidates ranked by their keys, by sketches of them, and by their digests.
  uint64_t reranked_pages = 0;
  uint64_t sketched_pages = 0;
  uint64_t estimated_pages = 0;
};

struct ContextTableOptions {
  uint32_t threads = 1;  // that one Select may use; they are started once and shared by all
  uint64_t max_digest_bytes = 4ull << 30;
  uint32_t max_contexts = 10000;
  uint64_t max_blocks = 8 << 20;  // in the block lists of all contexts; what they share counts once
  // Budgets, or candidates of a second stage, and explained scores of one Select.
  uint64_t max_answer_pages = 4 << 20;
  // A context that nobody is attached to or uses expires after so long.
  absl::Duration parked_ttl = absl::InfiniteDuration();
  const base::Clock* clock = &base::SystemClock::Get();  // outlives the table
  store::Journal* journal = nullptr;  // null: nothing survives; outlives the table otherwise
};

// Parked contexts that the table dropped by itself. Monotonic.
struct ExpiredContexts {
  uint64_t by_age = 0;    // parked_ttl
  uint64_t for_room = 0;  // max_contexts was reached, and another one was opened
};

// Contexts and the journal.
struct KeptContexts {
  uint64_t left = 0;       // on disk, not in the table
  uint64_t forgotten = 0;  // whose notes had to make room. Monotonic
};

// INVALID_ARGUMENT, without the text, for what no context can be called.
absl::Status CheckContextId(const std::string& id);
// INVALID_ARGUMENT for a shape that no context can have.
absl::Status CheckContextOptions(const ContextOptions& options);

class ContextTable {
 public:
  // store must outlive the table. Recovers from the journal: its errors; FAILED_PRECONDITION when
  // it has notes of another version.
  static absl::StatusOr<std::unique_ptr<ContextTable>> Create(store::PageStore* store,
                                                              const ContextTableOptions& options);
  virtual ~ContextTable() = default;

  // The opening session is attached.
  virtual absl::StatusOr<ContextSnapshot> Open(store::NamespaceId ns, const std::string& id,
                                               const ContextOptions& options, uint64_t session) = 0;
  virtual absl::StatusOr<ContextSnapshot> Append(store::NamespaceId ns, const std::string& id,
                                                 uint32_t first_block,
                                                 std::span<const std::string> block_hashes) = 0;
  virtual absl::StatusOr<ContextSnapshot> Truncate(store::NamespaceId ns, const std::string& id,
                                                   uint32_t num_blocks) = 0;
  // num_blocks 0: all. The forking session is attached to the fork.
  virtual absl::StatusOr<ContextSnapshot> Fork(store::NamespaceId ns, const std::string& id,
                                               const std::string& new_id, uint32_t num_blocks,
                                               uint64_t session) = 0;
  // Attaching twice from one session is one attachment.
  virtual absl::StatusOr<ContextSnapshot> Attach(store::NamespaceId ns, const std::string& id,
                                                 uint64_t session) = 0;
  // hot: kept for who attaches next, instead of what an earlier park left, as long as
  // max_digest_bytes has room for it; empty: that stays. Forks take it along, a truncate drops what
  // is beyond it, a restart loses it. INVALID_ARGUMENT, and the session stays attached, for pages
  // that cannot be.
  virtual absl::StatusOr<ContextSnapshot> Park(store::NamespaceId ns, const std::string& id,
                                               uint64_t session, std::vector<HotPages> hot) = 0;
  absl::StatusOr<ContextSnapshot> Park(store::NamespaceId ns, const std::string& id,
                                       uint64_t session) {
    return Park(ns, id, session, {});
  }
  virtual absl::Status Drop(store::NamespaceId ns, const std::string& id) = 0;
  // Drops what is parked for longer than parked_ttl, and tends the journal's room. To be called now
  // and then.
  virtual void ExpireParked() = 0;
  virtual ExpiredContexts expired() const = 0;
  // Gives the journal what was gathered for it. To be called several times a second, and at the end
  // (the destructor does, too).
  virtual void WriteNotes() = 0;
  virtual KeptContexts kept() const = 0;
  // The session ended: parks every context that it was attached to.
  virtual void DetachSession(uint64_t session) = 0;
  virtual absl::StatusOr<ContextSnapshot> Get(store::NamespaceId ns,
                                              const std::string& id) const = 0;
  virtual std::vector<ContextSnapshot> List(store::NamespaceId ns, std::string_view after,
                                            size_t limit) const = 0;
  virtual size_t size() const = 0;
  // Memory taken by digests and hot pages; what contexts share counts once.
  virtual uint64_t digest_bytes() const = 0;

  // rows: num_blocks digest rows [kv head][vectors][head_dim]. Re-sending rows already there is
  // accepted when they are identical, refused otherwise (FAILED_PRECONDITION). The blocks must have
  // been appended to the context before. Answers the layer's digest_blocks.
  virtual absl::StatusOr<uint32_t> AppendDigests(store::NamespaceId ns, const std::string& id,
                                                 uint32_t epoch, uint32_t layer,
                                                 uint32_t first_block, uint32_t num_blocks,
                                                 std::string_view rows) = 0;
  // Rows [first_block, first_block + num_blocks) of a layer in the same form, for attaching
  // workers. FAILED_PRECONDITION when the context is of another epoch, or has fewer rows.
  virtual absl::StatusOr<std::string> ReadDigests(store::NamespaceId ns, const std::string& id,
                                                  uint32_t epoch, uint32_t layer,
                                                  uint32_t first_block,
                                                  uint32_t num_blocks) const = 0;

  // Scores and selects, all layers of the request. One selection per layer, in the order asked.
  // Pages pinned by sinks and window must fit the budget. timings may be null.
  virtual absl::StatusOr<std::vector<LayerSelection>> Select(store::NamespaceId ns,
                                                             const std::string& id,
                                                             const SelectParams& params,
                                                             std::span<const LayerQuery> layers,
                                                             SelectTimings* timings) const = 0;
};

}  // namespace varve::recall
