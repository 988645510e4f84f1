#include "kvstore/recall/context_table.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/log.h"
#include "kvstore/base/mutex.h"
#include "kvstore/base/status.h"
#include "kvstore/recall/context.h"
#include "kvstore/recall/epochs.h"
#include "kvstore/recall/kept_notes.h"
#include "kvstore/recall/note_room.h"
#include "kvstore/recall/recovery.h"
#include "kvstore/recall/selection.h"

namespace varve::recall {

absl::Status CheckContextId(const std::string& id) {
  constexpr size_t kMaxIdBytes = 128;
  const bool allowed = std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == ':' ||
           c == '-';
  });
  if (allowed && !id.empty() && id.size() <= kMaxIdBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("context id of ", id.size(),
                                                 " characters is not valid, allowed: 1..",
                                                 kMaxIdBytes, " of A-Z a-z 0-9 . _ : -"));
}

absl::Status CheckContextOptions(const ContextOptions& options) {
  if (const std::optional<std::string> wrong = options.geometry.Invalid(); wrong.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("geometry: ", *wrong));
  }
  for (const page::DigestKindInfo& info : page::DigestKinds()) {
    if (info.kind == options.digest_kind) return absl::OkStatus();
  }
  std::string names;
  for (const page::DigestKindInfo& info : page::DigestKinds()) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", base::Sv(info.name));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "digest_kind is ", static_cast<uint32_t>(options.digest_kind), ", allowed: ", names));
}

namespace {

class ContextTableImpl final : public ContextTable {
 public:
  ContextTableImpl(store::PageStore* store, const ContextTableOptions& options)
      : store_(store),
        options_(options),
        budgets_{ByteBudget(options.max_digest_bytes, "digests", "max_digest_bytes"),
                 ByteBudget(options.max_blocks * kBlockRowBytes, "block lists",
                            "64 for each of max_blocks")},
        keeper_(options.journal),
        epochs_(&keeper_) {
    if (options_.threads > 1) {
      pool_ = std::make_unique<base::ThreadPool>("select", static_cast<int>(options_.threads - 1));
    }
  }
  ~ContextTableImpl() override;

  // What the journal has. Once, before any other call.
  absl::Status Recover();

  absl::StatusOr<ContextSnapshot> Open(store::NamespaceId ns, const std::string& id,
                                       const ContextOptions& options, uint64_t session) override;
  absl::StatusOr<ContextSnapshot> Append(store::NamespaceId ns, const std::string& id,
                                         uint32_t first_block,
                                         std::span<const std::string> block_hashes) override;
  absl::StatusOr<ContextSnapshot> Truncate(store::NamespaceId ns, const std::string& id,
                                           uint32_t num_blocks) override;
  absl::StatusOr<ContextSnapshot> Fork(store::NamespaceId ns, const std::string& id,
                                       const std::string& new_id, uint32_t num_blocks,
                                       uint64_t session) override;
  absl::StatusOr<ContextSnapshot> Attach(store::NamespaceId ns, const std::string& id,
                                         uint64_t session) override;
  absl::StatusOr<ContextSnapshot> Park(store::NamespaceId ns, const std::string& id,
                                       uint64_t session, std::vector<HotPages> hot) override;
  absl::Status Drop(store::NamespaceId ns, const std::string& id) override;
  void DetachSession(uint64_t session) override;
  absl::StatusOr<ContextSnapshot> Get(store::NamespaceId ns, const std::string& id) const override;
  std::vector<ContextSnapshot> List(store::NamespaceId ns, std::string_view after,
                                    size_t limit) const override;
  size_t size() const override;
  uint64_t digest_bytes() const override { return budgets_.digests.used_bytes(); }
  void ExpireParked() override;
  ExpiredContexts expired() const override;
  void WriteNotes() override;
  KeptContexts kept() const override;

  absl::StatusOr<uint32_t> AppendDigests(store::NamespaceId ns, const std::string& id,
                                         uint32_t epoch, uint32_t layer, uint32_t first_block,
                                         uint32_t num_blocks, std::string_view rows) override;
  absl::StatusOr<std::string> ReadDigests(store::NamespaceId ns, const std::string& id,
                                          uint32_t epoch, uint32_t layer, uint32_t first_block,
                                          uint32_t num_blocks) const override;
  absl::StatusOr<std::vector<LayerSelection>> Select(store::NamespaceId ns, const std::string& id,
                                                     const SelectParams& params,
                                                     std::span<const LayerQuery> layers,
                                                     SelectTimings* timings) const override;

 private:
  using Key = std::pair<store::NamespaceId, std::string>;
  using ContextPtr = std::shared_ptr<Context>;  // calls under way outlast a Drop
  // By the namespace's name and id: its number may not exist.
  using LeftContexts = std::map<std::pair<std::string, std::string>, ContextNotes>;

  absl::StatusOr<ContextPtr> Find(store::NamespaceId ns, const std::string& id) const;
  // ALREADY_EXISTS or RESOURCE_EXHAUSTED when a context `id` cannot be added.
  absl::Status CheckRoom(const Key& key) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes out the parked context that was used the longest ago, if there is one. To be retired and
  // destroyed after the lock: that erases its notes and frees all its digests.
  ContextPtr MakeRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status NoContextLocked(store::NamespaceId ns, const std::string& id) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The notes of a context of that name that was left on disk.
  std::optional<ContextNotes> TakeLeft(const Key& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Restore(RecoveredContext found);
  // Notes of left and of parked contexts make room for those in use.
  void TendNotes();
  // Attaches the session, then makes the context known.
  absl::StatusOr<ContextSnapshot> Add(const Key& key, ContextPtr context, uint64_t session);

  store::PageStore* const store_;
  const ContextTableOptions options_;
  ContextBudgets budgets_;  // outlive the contexts
  NoteKeeper keeper_;       // outlives the contexts
  Epochs epochs_;
  std::unique_ptr<base::ThreadPool> pool_;
  mutable base::Mutex mutex_;
  absl::btree_map<Key, ContextPtr> contexts_ ABSL_GUARDED_BY(mutex_);
  ExpiredContexts expired_ ABSL_GUARDED_BY(mutex_);
  absl::Time started_ ABSL_GUARDED_BY(mutex_);
  LeftContexts left_ ABSL_GUARDED_BY(mutex_);
  uint64_t forgotten_ ABSL_GUARDED_BY(mutex_) = 0;
};

ContextTableImpl::~ContextTableImpl() {
  // The store lives on: what attached contexts hold is given back. What is kept stays.
  WriteNotes();
  keeper_.Close();
  for (auto& [key, context] : contexts_) context->Retire();
}

absl::Status ContextTableImpl::Recover() {
  Recovery recovery(&keeper_, &budgets_);
  if (keeper_.keeps()) VARVE_RETURN_IF_ERROR(recovery.Read(options_.journal));
  VARVE_RETURN_IF_ERROR(epochs_.Begin(recovery.epochs_end()));
  if (!keeper_.keeps()) return absl::OkStatus();
  if (const absl::Status synced = options_.journal->Sync(); !synced.ok()) {
    // The next process may not learn of these epochs: they are taken where it will hardly begin.
    base::LogWarning("the epochs of contexts cannot be noted: ", synced.ToString());
    VARVE_RETURN_IF_ERROR(epochs_.BeginElsewhere(recovery.epochs_end()));
  }
  Recovery::Found found = recovery.Take(options_.max_contexts);
  for (RecoveredContext& context : found.contexts)
    VARVE_RETURN_IF_ERROR(Restore(std::move(context)));
  {
    base::MutexLock lock(mutex_);
    started_ = options_.clock->Now();
    for (LeftContext& left : found.left) {
      left_.emplace(std::pair(left.namespace_name, left.id), std::move(left.notes));
    }
  }
  keeper_.Sweep();
  return absl::OkStatus();
}

absl::Status ContextTableImpl::Restore(RecoveredContext found) {
  const auto ns = store_->InternNamespace(found.namespace_name);
  if (!ns.ok()) {
    base::LogWarning("context ", found.id,
                     " stays on disk and is not served: ", ns.status().ToString());
    base::MutexLock lock(mutex_);
    left_.emplace(std::pair(found.namespace_name, found.id), std::move(found.notes));
    return absl::OkStatus();
  }
  const uint32_t blocks = found.blocks.rows();
  auto context = std::make_shared<Context>(*ns, found.id, found.options, epochs_.Next(), store_,
                                           &budgets_, &keeper_);
  context->Restore(std::move(found.blocks), std::move(found.layers), std::move(found.notes));
  if (found.cut) VARVE_RETURN_IF_ERROR(context->Truncate(blocks, epochs_.Next()));
  context->Touch(options_.clock->Now());
  base::MutexLock lock(mutex_);
  contexts_.emplace(Key(*ns, found.id), std::move(context));
  return absl::OkStatus();
}

absl::StatusOr<ContextTableImpl::ContextPtr> ContextTableImpl::Find(store::NamespaceId ns,
                                                                    const std::string& id) const {
  VARVE_RETURN_IF_ERROR(CheckContextId(id));
  base::MutexLock lock(mutex_);
  const auto found = contexts_.find(Key(ns, id));
  if (found != contexts_.end()) {
    found->second->Touch(options_.clock->Now());
    return found->second;
  }
  return NoContextLocked(ns, id);
}

std::optional<ContextNotes> ContextTableImpl::TakeLeft(const Key& key) {
  if (left_.empty()) return std::nullopt;
  auto left = left_.extract(std::pair(store_->NamespaceName(key.first), key.second));
  if (left.empty()) return std::nullopt;
  return std::move(left.mapped());
}

absl::Status ContextTableImpl::NoContextLocked(store::NamespaceId ns, const std::string& id) const {
  const bool left = !left_.empty() && left_.contains(std::pair(store_->NamespaceName(ns), id));
  return absl::NotFoundError(
      absl::StrCat("no context '", id, "' in this namespace",
                   left ? "; one is on disk, for which there was no room at the start" : ""));
}

absl::Status ContextTableImpl::CheckRoom(const Key& key) const {
  if (contexts_.contains(key)) {
    return absl::AlreadyExistsError(absl::StrCat("context '", key.second, "' exists already"));
  }
  if (contexts_.size() >= options_.max_contexts) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", contexts_.size(), " contexts, allowed: ", options_.max_contexts,
                     " (max_contexts), and none of them is parked"));
  }
  return absl::OkStatus();
}

ContextTableImpl::ContextPtr ContextTableImpl::MakeRoom() {
  // One that is being attached just now is passed over.
  for (;;) {
    auto oldest = contexts_.end();
    for (auto it = contexts_.begin(); it != contexts_.end(); ++it) {
      if (oldest != contexts_.end() && it->second->last_use() >= oldest->second->last_use()) {
        continue;
      }
      if (it->second->IsParked()) oldest = it;
    }
    if (oldest == contexts_.end()) return nullptr;
    if (!oldest->second->RetireIfParked()) continue;
    ContextPtr gone = std::move(oldest->second);
    contexts_.erase(oldest);
    ++expired_.for_room;
    return gone;
  }
}

void ContextTableImpl::ExpireParked() {
  if (keeper_.keeps()) TendNotes();
  if (options_.parked_ttl == absl::InfiniteDuration()) return;
  const absl::Time before = options_.clock->Now() - options_.parked_ttl;
  std::vector<ContextPtr> gone;
  {
    LeftContexts left;  // destroyed after the lock
    base::MutexLock lock(mutex_);
    if (started_ <= before) left.swap(left_);
    expired_.by_age += left.size();
    for (auto it = contexts_.begin(); it != contexts_.end();) {
      if (it->second->last_use() <= before && it->second->RetireIfParked()) {
        gone.push_back(std::move(it->second));
        it = contexts_.erase(it);
        ++expired_.by_age;
      } else {
        ++it;
      }
    }
  }
  for (const ContextPtr& context : gone) context->Retire();
  keeper_.Sweep();
}

void ContextTableImpl::TendNotes() {
  uint64_t forgotten = 0;
  std::vector<ContextPtr> contexts;
  for (NoteRoom room(&keeper_); room.TakesTooMuch(); ++forgotten) {
    LeftContexts::node_type left;  // destroyed after the lock
    base::MutexLock lock(mutex_);
    if (left_.empty()) break;
    left = left_.extract(left_.begin());
  }
  {
    base::MutexLock lock(mutex_);
    for (const auto& [key, context] : contexts_) contexts.push_back(context);
  }
  forgotten += varve::recall::TendNotes(&keeper_, std::move(contexts));
  base::MutexLock lock(mutex_);
  forgotten_ += forgotten;
}

void ContextTableImpl::WriteNotes() {
  std::vector<ContextPtr> contexts;
  {
    base::MutexLock lock(mutex_);
    for (const auto& [key, context] : contexts_) {
      if (context->has_gathered()) contexts.push_back(context);
    }
  }
  for (const ContextPtr& context : contexts) context->WriteNotes();
}

KeptContexts ContextTableImpl::kept() const {
  base::MutexLock lock(mutex_);
  return {left_.size(), forgotten_};
}

ExpiredContexts ContextTableImpl::expired() const {
  base::MutexLock lock(mutex_);
  return expired_;
}

absl::StatusOr<ContextSnapshot> ContextTableImpl::Add(const Key& key, ContextPtr context,
                                                      uint64_t session) {
  VARVE_RETURN_IF_ERROR(context->Attach(session));
  context->Touch(options_.clock->Now());
  absl::Status status;
  ContextPtr gone;
  {
    base::MutexLock lock(mutex_);
    if (contexts_.size() >= options_.max_contexts && !contexts_.contains(key)) gone = MakeRoom();
    status = CheckRoom(key);
    if (status.ok()) {
      // Not earlier: of two notes of one name the newer one is believed.
      context->Keep(TakeLeft(key).value_or(ContextNotes(&keeper_)));
      contexts_.emplace(key, context);
    }
  }
  keeper_.Sweep();
  if (gone != nullptr) gone->Retire();
  if (!status.ok()) {
    context->Retire();
    return status;
  }
  return context->Snapshot(/*for_attach=*/false);
}

absl::StatusOr<ContextSnapshot> ContextTableImpl::Open(store::NamespaceId ns, const std::string& id,
                                                       const ContextOptions& options,
                                                       uint64_t session) {
  VARVE_RETURN_IF_ERROR(CheckContextId(id));
  VARVE_RETURN_IF_ERROR(CheckContextOptions(options));
  return Add(
      Key(ns, id),
      std::make_shared<Context>(ns, id, options, epochs_.Next(), store_, &budgets_, &keeper_),
      session);
}

absl::StatusOr<ContextSnapshot> ContextTableImpl::Append(
    store::NamespaceId ns, const std::string& id, uint32_t first_block,
    std::span<const std::string> block_hashes) {
  VARVE_ASSIGN_OR_RETURN(const ContextPtr context, Find(ns, id));
  VARVE_RETURN_IF_ERROR(context->Append(first_block, block_hashes));
  return context->Snapshot(/*for_attach=*/false);
}

absl::StatusOr<ContextSnapshot> ContextTableImpl::Truncate(store::NamespaceId ns,
                                                           const std::string& id,
                                                           uint32_t num_blocks) {
  VARVE_ASSIGN_OR_RETURN(const ContextPtr context, Find(ns, id));
  VARVE_RETURN_IF_ERROR(context->Truncate(num_blocks, epochs_.Next()));
  return context->Snapshot(/*for_attach=*/false);
}

absl::StatusOr<ContextSnapshot> ContextTableImpl::Fork(store::NamespaceId ns, const std::string& id,
                                                       const std::string& new_id,
                                                       uint32_t num_blocks, uint64_t session) {
  VARVE_RETURN_IF_ERROR(CheckContextId(new_id));
  VARVE_ASSIGN_OR_RETURN(const ContextPtr context, Find(ns, id));
  const Key key(ns, new_id);
  VARVE_ASSIGN_OR_RETURN(ContextPtr fork, context->Fork(new_id, num_blocks, epochs_.Next()));
  return Add(key, std::move(fork), session);
}

absl::StatusOr<ContextSnapshot> ContextTableImpl::Attach(store::NamespaceId ns,
                                                         const std::string& id, uint64_t session) {
  VARVE_ASSIGN_OR_RETURN(const ContextPtr context, Find(ns, id));
  VARVE_RETURN_IF_ERROR(context->Attach(session));
  return context->Snapshot(/*for_attach=*/true);
}

absl::StatusOr<ContextSnapshot> ContextTableImpl::Park(store::NamespaceId ns, const std::string& id,
                                                       uint64_t session,
                                                       std::vector<HotPages> hot) {
  VARVE_ASSIGN_OR_RETURN(const ContextPtr context, Find(ns, id));
  VARVE_RETURN_IF_ERROR(context->Park(session, std::move(hot)));
  return context->Snapshot(/*for_attach=*/false);
}

absl::Status ContextTableImpl::Drop(store::NamespaceId ns, const std::string& id) {
  VARVE_RETURN_IF_ERROR(CheckContextId(id));
  ContextPtr context;
  {
    std::optional<ContextNotes> gone;  // destroyed after the lock
    base::MutexLock lock(mutex_);
    const auto found = contexts_.find(Key(ns, id));
    if (found != contexts_.end()) {
      context = std::move(found->second);
      contexts_.erase(found);
    } else {
      gone = TakeLeft(Key(ns, id));
      if (!gone.has_value()) return NoContextLocked(ns, id);
    }
  }
  if (context != nullptr) context->Retire();
  keeper_.Sweep();
  return absl::OkStatus();
}

void ContextTableImpl::DetachSession(uint64_t session) {
  std::vector<ContextPtr> contexts;
  {
    base::MutexLock lock(mutex_);
    contexts.reserve(contexts_.size());
    for (const auto& [key, context] : contexts_) contexts.push_back(context);
  }
  for (const ContextPtr& context : contexts) {
    if (!context->IsAttached(session)) continue;
    context->Touch(options_.clock->Now());
    context->Park(session, {}).IgnoreError();  // fails for hot pages alone
  }
}

// ---- looking

absl::StatusOr<ContextSnapshot> ContextTableImpl::Get(store::NamespaceId ns,
                                                      const std::string& id) const {
  VARVE_ASSIGN_OR_RETURN(const ContextPtr context, Find(ns, id));
  return context->Snapshot(/*for_attach=*/false);
}

std::vector<ContextSnapshot> ContextTableImpl::List(store::NamespaceId ns, std::string_view after,
                                                    size_t limit) const {
  std::vector<ContextPtr> contexts;
  {
    base::MutexLock lock(mutex_);
    auto it = contexts_.upper_bound(Key(ns, std::string(after)));
    for (; it != contexts_.end() && it->first.first == ns && contexts.size() < limit; ++it) {
      contexts.push_back(it->second);
    }
  }
  std::vector<ContextSnapshot> snapshots;
  snapshots.reserve(contexts.size());
  for (const ContextPtr& context : contexts) snapshots.push_back(context->Snapshot(false));
  return snapshots;
}

size_t ContextTableImpl::size() const {
  base::MutexLock lock(mutex_);
  return contexts_.size();
}

// ---- digests and recall

absl::StatusOr<uint32_t> ContextTableImpl::AppendDigests(store::NamespaceId ns,
                                                         const std::string& id, uint32_t epoch,
                                                         uint32_t layer, uint32_t first_block,
                                                         uint32_t num_blocks,
                                                         std::string_view rows) {
  VARVE_ASSIGN_OR_RETURN(const ContextPtr context, Find(ns, id));
  return context->AppendDigests(epoch, layer, first_block, num_blocks, rows);
}

absl::StatusOr<std::string> ContextTableImpl::ReadDigests(store::NamespaceId ns,
                                                          const std::string& id, uint32_t epoch,
                                                          uint32_t layer, uint32_t first_block,
                                                          uint32_t num_blocks) const {
  VARVE_ASSIGN_OR_RETURN(const ContextPtr context, Find(ns, id));
  return context->ReadDigests(epoch, layer, first_block, num_blocks);
}

absl::StatusOr<std::vector<LayerSelection>> ContextTableImpl::Select(
    store::NamespaceId ns, const std::string& id, const SelectParams& params,
    std::span<const LayerQuery> layers, SelectTimings* timings) const {
  VARVE_ASSIGN_OR_RETURN(const ContextPtr context, Find(ns, id));
  VARVE_RETURN_IF_ERROR(CheckQueries(context->options(), params, layers));
  VARVE_ASSIGN_OR_RETURN(const Context::RecallView view, context->View(params.epoch, layers));
  VARVE_RETURN_IF_ERROR(CheckCandidates(context->options().geometry, view, params, layers,
                                        options_.max_answer_pages));
  SelectThreads threads{pool_.get(), std::max(options_.threads, 1u)};
  if (params.alone) threads = {};
  auto all = SelectFrom(context->options(), view, params, layers, {store_, ns}, threads, timings);
  // A truncate while we worked makes the answer stale.
  VARVE_RETURN_IF_ERROR(context->CheckEpoch(params.epoch));
  return all;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ContextTable>> ContextTable::Create(
    store::PageStore* store, const ContextTableOptions& options) {
  auto table = std::make_unique<ContextTableImpl>(store, options);
  VARVE_RETURN_IF_ERROR(table->Recover());
  return table;
}

}  // namespace varve::recall
