#include "gpu_worker/worker.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/call_deadline.h"
#include "gpu_worker/head_threads.h"
#include "gpu_worker/key_rebuild.h"
#include "gpu_worker/mass_meter.h"
#include "gpu_worker/page_pool.h"
#include "gpu_worker/saver.h"
#include "gpu_worker/sequence.h"
#include "gpu_worker/speculation.h"
#include "gpu_worker/step_buffers.h"
#include "gpu_worker/worker_metrics.h"
#include "gpu_worker/worker_threads.h"
#include "kvstore/base/mutex.h"
#include "kvstore/base/status.h"

namespace varve::worker {
namespace {

constexpr uint32_t kMinPoolPages = 64;

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

constexpr int kNewSessions = 3;  // with the store, in which a step is tried again

// What choosing the pages of a batch took, and who did it.
struct Choice {
  SelectTimes times;
  prometheus::Histogram* path = nullptr;  // null: nothing was scored
};

class LinkedWorker final : public Worker {
 public:
  LinkedWorker(Services services, std::unique_ptr<PagePool> pool);
  ~LinkedWorker() override;

  absl::StatusOr<SequenceId> Open(const SequenceOptions& options) override;
  absl::Status Close(SequenceId sequence) override;
  absl::Status Extend(SequenceId sequence, absl::Span<const int32_t> tokens) override;
  absl::Status Append(SequenceId sequence, uint32_t layer, const void* k, const void* v,
                      uint32_t tokens) override;
  absl::Status FinishPrefill(SequenceId sequence) override;
  absl::Status Attend(uint32_t layer, absl::Span<const AttendItem> items) override;
  absl::Status Warm(uint32_t layer, absl::Span<const AttendItem> items) override;
  absl::StatusOr<PageTable> ExportPageTable(uint32_t layer,
                                            absl::Span<const SequenceId> sequences) const override;
  absl::StatusOr<SequenceInfo> Info(SequenceId sequence) const override;
  WorkerStatus Status() const override;
  const WorkerOptions& options() const override { return services_.options; }

 private:
  absl::StatusOr<std::shared_ptr<Sequence>> Find(SequenceId id) const;
  template <typename Call>
  absl::Status With(SequenceId id, Call&& call);

  // Adds the sequence; INVALID_ARGUMENT when it is there already.
  absl::Status Hold(SequenceId id, std::vector<SequenceUse>& uses) const;
  absl::Status HoldItems(uint32_t layer, absl::Span<const AttendItem> items, StepBuffers& buffers);
  absl::Status TakeItems(uint32_t layer, absl::Span<const AttendItem> items, StepBuffers& buffers);
  absl::Status AttendHeld(uint32_t layer, absl::Span<const AttendItem> items, StepBuffers& buffers);
  absl::Status WarmHeld(uint32_t layer, absl::Span<const AttendItem> items, StepBuffers& buffers);
  absl::Status MakeResident(std::span<HeadWork> works, StepBuffers& buffers);
  absl::Status TryResident(std::span<HeadWork> works, StepBuffers& buffers);
  absl::Status Choose(std::span<HeadWork> of_sequence, StepBuffers& buffers, Choice& choice);
  void ScoreHeads(std::span<HeadWork> of_sequence, bool kept, StepBuffers& buffers,
                  SelectTimes& times);
  auto ScoreKept(StepBuffers& buffers) {
    return [this, &buffers](std::span<HeadWork> of_sequence) {
      SelectTimes times;
      ScoreHeads(of_sequence, /*kept=*/true, buffers, times);
    };
  }
  absl::Status AttendHeads(std::span<HeadWork> works, StepBuffers& buffers);
  std::unique_ptr<StepBuffers> TakeBuffers();
  void ReturnBuffers(std::unique_ptr<StepBuffers> buffers);
  void UpdateGauges() const;

  std::unique_ptr<WorkerMetrics> metrics_;
  std::unique_ptr<PagePool> pool_;
  Services services_;
  std::unique_ptr<Saver> saver_;
  MassMeter mass_meter_;
  HeadThreads threads_;
  std::vector<std::atomic<uint64_t>> attend_calls_;  // by layer
  std::atomic<SequenceId> next_id_{1};

  mutable base::Mutex mutex_;
  std::map<SequenceId, std::shared_ptr<Sequence>> sequences_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<StepBuffers>> idle_ ABSL_GUARDED_BY(mutex_);

  WorkerThreads background_;  // last: uses all of the above
};

LinkedWorker::LinkedWorker(Services services, std::unique_ptr<PagePool> pool)
    : metrics_(std::make_unique<WorkerMetrics>(services.options.metrics)),
      pool_(std::move(pool)),
      services_(std::move(services)),
      mass_meter_(&services_),
      threads_(ThreadsOf(services_.options)),
      attend_calls_(services_.options.geometry.num_layers),
      background_(services_) {
  saver_ = std::make_unique<Saver>(services_.client, services_.options.geometry, pool_.get(),
                                   metrics_.get(), services_.options.step_deadline);
  services_.pool = pool_.get();
  services_.saver = saver_.get();
  services_.metrics = metrics_.get();
  UpdateGauges();
}

LinkedWorker::~LinkedWorker() {
  std::vector<SequenceId> open;
  {
    base::MutexLock lock(mutex_);
    for (const auto& [id, sequence] : sequences_) open.push_back(id);
  }
  const client::CallDeadline deadline(absl::Now() + services_.options.step_deadline);
  for (SequenceId id : open) Close(id).IgnoreError();
}

absl::StatusOr<std::shared_ptr<Sequence>> LinkedWorker::Find(SequenceId id) const {
  base::MutexLock lock(mutex_);
  const auto it = sequences_.find(id);
  if (it == sequences_.end()) {
    return absl::NotFoundError(absl::StrCat("no sequence ", id, " is open"));
  }
  return it->second;
}

template <typename Call>
absl::Status LinkedWorker::With(SequenceId id, Call&& call) {
  VARVE_ASSIGN_OR_RETURN(std::shared_ptr<Sequence> sequence, Find(id));
  SequenceUse use(std::move(sequence));
  VARVE_RETURN_IF_ERROR(use.status());
  absl::Status status = call(*use);
  UpdateGauges();
  return status;
}

void LinkedWorker::UpdateGauges() const {
  const WorkerStatus status = Status();
  metrics_->pool_pages.Set(static_cast<double>(status.pool_pages));
  metrics_->pool_free_pages.Set(static_cast<double>(status.free_pages));
  metrics_->sequences.Set(status.sequences);
}

absl::StatusOr<SequenceId> LinkedWorker::Open(const SequenceOptions& options) {
  const SequenceId id = next_id_.fetch_add(1);
  VARVE_ASSIGN_OR_RETURN(std::shared_ptr<Sequence> sequence,
                         Sequence::Open(&services_, id, options));
  {
    base::MutexLock lock(mutex_);
    sequences_.emplace(id, std::move(sequence));
  }
  UpdateGauges();
  return id;
}

absl::Status LinkedWorker::Close(SequenceId id) {
  return With(id, [this, id](Sequence& sequence) {
    {
      base::MutexLock lock(mutex_);
      sequences_.erase(id);
    }
    return sequence.Close();
  });
}

absl::Status LinkedWorker::Extend(SequenceId id, absl::Span<const int32_t> tokens) {
  return With(id, [&](Sequence& sequence) { return sequence.Extend(tokens); });
}

absl::Status LinkedWorker::Append(SequenceId id, uint32_t layer, const void* k, const void* v,
                                  uint32_t tokens) {
  return With(id, [&](Sequence& sequence) { return sequence.Append(layer, k, v, tokens); });
}

absl::Status LinkedWorker::FinishPrefill(SequenceId id) {
  return With(id, [&](Sequence& sequence) { return sequence.FinishPrefill(); });
}

std::unique_ptr<StepBuffers> LinkedWorker::TakeBuffers() {
  base::MutexLock lock(mutex_);
  if (idle_.empty()) return std::make_unique<StepBuffers>(&services_, threads_.count());
  std::unique_ptr<StepBuffers> buffers = std::move(idle_.back());
  idle_.pop_back();
  return buffers;
}

void LinkedWorker::ReturnBuffers(std::unique_ptr<StepBuffers> buffers) {
  buffers->uses.clear();
  base::MutexLock lock(mutex_);
  idle_.push_back(std::move(buffers));
}

absl::Status LinkedWorker::Hold(SequenceId id, std::vector<SequenceUse>& uses) const {
  VARVE_ASSIGN_OR_RETURN(std::shared_ptr<Sequence> sequence, Find(id));
  SequenceUse use(std::move(sequence));
  if (const absl::Status status = use.status(); !status.ok()) {
    const bool twice =
        std::any_of(uses.begin(), uses.end(), [id](const SequenceUse& u) { return u->id() == id; });
    if (!twice) return status;
    return absl::InvalidArgumentError(
        absl::StrCat("sequence ", id, " is in the batch twice, allowed: each sequence once"));
  }
  uses.push_back(std::move(use));
  return absl::OkStatus();
}

// Holds every sequence of the batch and checks all that the engine gave, before anything changes.
absl::Status LinkedWorker::HoldItems(uint32_t layer, absl::Span<const AttendItem> items,
                                     StepBuffers& buffers) {
  const page::Geometry& g = services_.options.geometry;
  if (layer >= g.num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer is ", layer, ", allowed: 0..", g.num_layers - 1));
  }
  for (size_t i = 0; i < items.size(); ++i) {
    const AttendItem& item = items[i];
    if (item.q == nullptr || item.out == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("item ", i, ": q or out is null"));
    }
    VARVE_RETURN_IF_ERROR(Hold(item.sequence, buffers.uses));
    VARVE_RETURN_IF_ERROR(buffers.uses.back()->CheckAttend(layer, item));
  }
  return absl::OkStatus();
}

// Takes the tokens that come with the items and lists the work, one entry per KV head.
absl::Status LinkedWorker::TakeItems(uint32_t layer, absl::Span<const AttendItem> items,
                                     StepBuffers& buffers) {
  const page::Geometry& g = services_.options.geometry;
  buffers.works.resize(std::max(buffers.works.size(), items.size() * g.num_kv_heads));
  const size_t group_floats = size_t{g.group_size()} * g.head_dim;
  for (size_t i = 0; i < items.size(); ++i) {
    const AttendItem& item = items[i];
    Sequence& held = *buffers.uses[i];
    VARVE_RETURN_IF_ERROR(held.AppendStep(layer, item));
    // Before anything is evicted that the store may not have any more. Without a store the step may
    // still do: its pages may all be here.
    if (held.StoreChanged()) held.MeetStore().IgnoreError();
    held.ApplySaves();
    held.RetrySaves();
    held.AgeKeys(layer);
    for (uint32_t head = 0; head < g.num_kv_heads; ++head) {
      HeadWork& work = buffers.works[i * g.num_kv_heads + head];
      work.sequence = &held;
      work.cache = &held.layer(layer);
      work.layer = layer;
      work.head = head;
      work.candidates = held.CandidatePages(layer);
      work.q = item.q + head * group_floats;
      work.out = item.out + head * group_floats;
      work.lse = item.lse == nullptr ? nullptr : item.lse + head * g.group_size();
      work.cache->has_attended = false;
    }
  }
  return absl::OkStatus();
}

// Of the heads that keep their selection, or of the others. The time is the busiest thread's.
void LinkedWorker::ScoreHeads(std::span<HeadWork> of_sequence, bool kept, StepBuffers& buffers,
                              SelectTimes& times) {
  const HeadWork& first = of_sequence.front();
  const uint64_t bytes =
      uint64_t{first.candidates} *
      page::DigestRowBytes(services_.options.digest_kind, services_.options.geometry);
  std::fill(buffers.times.begin(), buffers.times.end(), SelectTimes{});
  threads_.Share(of_sequence.size(), bytes, [&](uint32_t head, uint32_t thread) {
    if (of_sequence[head].kept != kept) return;
    buffers.selectors[thread].SelectByDigests(of_sequence[head], buffers.times[thread]);
  });
  if (first.sequence->policy().adapts()) buffers.selectors.front().FitBudgets(of_sequence);
  const SelectTimes busiest = Busiest(buffers.times);
  times.score_seconds += busiest.score_seconds;
  times.select_seconds += busiest.select_seconds;
}

// Every sequence of the batch waits for all of it.
absl::Status LinkedWorker::AttendHeads(std::span<HeadWork> works, StepBuffers& buffers) {
  const auto begin = Clock::now();
  uint64_t pages = 0;
  for (const HeadWork& work : works) {
    pages += work.selected().size() + work.sequence->TotalPages(work.layer) - work.candidates;
  }
  buffers.attended.assign(works.size(), absl::OkStatus());
  threads_.Share(works.size(), pages * pool_->page_bytes(), [&](uint32_t i, uint32_t thread) {
    buffers.attended[i] = buffers.attentions[thread].Run(works[i]);
  });
  for (const absl::Status& status : buffers.attended) VARVE_RETURN_IF_ERROR(status);
  const double seconds = SecondsSince(begin);
  metrics_->attention.Observe(seconds);
  for (size_t i = 0; i < works.size(); i += services_.options.geometry.num_kv_heads) {
    works[i].cache->has_attended = true;
    SequenceStats& stats = works[i].sequence->stats();
    stats.attend += absl::Seconds(seconds);
    if (works[i].layer == 0) ++stats.steps;
  }
  mass_meter_.Count(works);
  return absl::OkStatus();
}

// Pages of one sequence, per KV head. When some are missing, the store is one that is known to have
// them: otherwise pages would be evicted for others that do not come.
absl::Status LinkedWorker::Choose(std::span<HeadWork> of_sequence, StepBuffers& buffers,
                                  Choice& choice) {
  Sequence& sequence = *of_sequence.front().sequence;
  SelectTimes times;
  while (true) {
    bool needs_scores = false;  // the same for all heads: policy and budget decide
    for (HeadWork& work : of_sequence) {
      work.fetched = work.kept = false;
      needs_scores = !buffers.selectors.front().SelectWithoutScores(work);
    }
    if (sequence.speculation() != nullptr) sequence.speculation()->Resolve(of_sequence);
    const bool all_kept = std::all_of(of_sequence.begin(), of_sequence.end(),
                                      [](const HeadWork& work) { return work.kept; });
    // The store does not know which pages are lost.
    const bool ask_store = needs_scores && !all_kept && !sequence.has_lost() &&
                           services_.options.recall_path == RecallPath::kStore;
    if (needs_scores && !ask_store) ScoreHeads(of_sequence, /*kept=*/false, buffers, times);
    const HeadWork* missing = ask_store ? &of_sequence.front() : FirstMissing(of_sequence);
    if (missing == nullptr || sequence.KnowsStore()) {
      if (ask_store) VARVE_RETURN_IF_ERROR(buffers.recaller.FetchFromStore(of_sequence, times));
      if (needs_scores)
        choice.path = &(ask_store ? metrics_->recall_store : metrics_->recall_worker);
      break;
    }
    if (absl::Status met = sequence.MeetStore(); !met.ok()) {
      return base::Annotate(met, NameMissing(*missing));
    }
  }
  SequenceStats& stats = sequence.stats();
  stats.score += absl::Seconds(times.score_seconds);
  stats.select += absl::Seconds(times.select_seconds);
  choice.times.score_seconds += times.score_seconds;
  choice.times.select_seconds += times.select_seconds;
  return absl::OkStatus();
}

// Chooses pages for every KV head of the batch and brings what is missing: one Get for all, or one
// Recall per context when the store scores.
absl::Status LinkedWorker::TryResident(std::span<HeadWork> works, StepBuffers& buffers) {
  const uint32_t heads = services_.options.geometry.num_kv_heads;
  const auto begin = Clock::now();
  Choice choice;
  absl::Status fetched;
  for (size_t i = 0; i < works.size(); i += heads) {
    if (fetched.ok()) fetched = Choose(works.subspan(i, heads), buffers, choice);
  }
  KeyRebuild rebuild(&services_, works, buffers.rebuilds);
  if (fetched.ok()) fetched = buffers.recaller.Fetch(works, rebuild);
  rebuild.Finish();  // what the store chose and pushed, also for a step that fails: it stays
  VARVE_RETURN_IF_ERROR(fetched);
  buffers.recaller.Trim(works);
  if (choice.path == nullptr) return absl::OkStatus();
  metrics_->score.Observe(choice.times.score_seconds);
  metrics_->select.Observe(choice.times.select_seconds);
  choice.path->Observe(SecondsSince(begin));
  return absl::OkStatus();
}

// A step that failed because the store was replaced under it is tried again with the new one.
absl::Status LinkedWorker::MakeResident(std::span<HeadWork> works, StepBuffers& buffers) {
  for (int attempt = 0;; ++attempt) {
    const absl::Status status = TryResident(works, buffers);
    if (status.ok() || attempt == kNewSessions) return status;
    const bool changed = std::any_of(works.begin(), works.end(), [](const HeadWork& work) {
      return work.sequence->StoreChanged();
    });
    if (!changed) return status;
    for (HeadWork& work : works) {
      if (work.sequence->StoreChanged()) VARVE_RETURN_IF_ERROR(work.sequence->MeetStore());
    }
  }
}

absl::Status LinkedWorker::AttendHeld(uint32_t layer, absl::Span<const AttendItem> items,
                                      StepBuffers& buffers) {
  const auto begin = Clock::now();
  VARVE_RETURN_IF_ERROR(HoldItems(layer, items, buffers));
  VARVE_RETURN_IF_ERROR(TakeItems(layer, items, buffers));
  const uint32_t heads = services_.options.geometry.num_kv_heads;
  const std::span<HeadWork> works = std::span(buffers.works).first(items.size() * heads);
  VARVE_RETURN_IF_ERROR(MakeResident(works, buffers));
  VARVE_RETURN_IF_ERROR(AttendHeads(works, buffers));
  LookAhead(works, heads, ScoreKept(buffers));
  metrics_->attend.Observe(SecondsSince(begin));
  const uint32_t every = services_.options.mass_sample_every;
  if (every > 0 && attend_calls_[layer].fetch_add(1) % every == 0) mass_meter_.Sample(works);
  return absl::OkStatus();
}

absl::Status LinkedWorker::Attend(uint32_t layer, absl::Span<const AttendItem> items) {
  const client::CallDeadline deadline(absl::Now() + services_.options.step_deadline);
  std::unique_ptr<StepBuffers> buffers = TakeBuffers();
  absl::Status status = AttendHeld(layer, items, *buffers);
  ReturnBuffers(std::move(buffers));
  return status;
}

absl::Status LinkedWorker::WarmHeld(uint32_t layer, absl::Span<const AttendItem> items,
                                    StepBuffers& buffers) {
  VARVE_RETURN_IF_ERROR(HoldItems(layer, items, buffers));
  VARVE_RETURN_IF_ERROR(TakeItems(layer, items, buffers));
  const uint32_t heads = services_.options.geometry.num_kv_heads;
  WarmUp(std::span(buffers.works).first(items.size() * heads), heads, ScoreKept(buffers));
  return absl::OkStatus();
}

absl::Status LinkedWorker::Warm(uint32_t layer, absl::Span<const AttendItem> items) {
  const client::CallDeadline deadline(absl::Now() + services_.options.step_deadline);
  std::unique_ptr<StepBuffers> buffers = TakeBuffers();
  float unused = 0;
  std::vector<AttendItem> queries;
  for (const AttendItem& item : items) queries.push_back({item.sequence, item.q, &unused});
  absl::Status status = WarmHeld(layer, queries, *buffers);
  ReturnBuffers(std::move(buffers));
  return status;
}

absl::StatusOr<PageTable> LinkedWorker::ExportPageTable(
    uint32_t layer, absl::Span<const SequenceId> sequences) const {
  if (layer >= services_.options.geometry.num_layers) {
    return absl::InvalidArgumentError(absl::StrCat("layer is ", layer, ", allowed: 0..",
                                                   services_.options.geometry.num_layers - 1));
  }
  PageTable table;
  table.indptr.push_back(0);
  // Held until all are done: a list that names one again and again would have no end of a reply.
  std::vector<SequenceUse> uses;
  for (SequenceId id : sequences) {
    VARVE_RETURN_IF_ERROR(Hold(id, uses));
    VARVE_RETURN_IF_ERROR(uses.back()->ExportPages(layer, table));
  }
  return table;
}

absl::StatusOr<SequenceInfo> LinkedWorker::Info(SequenceId id) const {
  VARVE_ASSIGN_OR_RETURN(std::shared_ptr<Sequence> sequence, Find(id));
  return sequence->Info();
}

WorkerStatus LinkedWorker::Status() const {
  WorkerStatus status{.pool_pages = pool_->capacity(), .free_pages = pool_->free()};
  base::MutexLock lock(mutex_);
  status.sequences = static_cast<uint32_t>(sequences_.size());
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Worker>> Worker::Create(const WorkerOptions& options,
                                                       client::Client* client) {
  if (client == nullptr) return absl::InvalidArgumentError("the client is null");
  if (const auto wrong = options.geometry.Invalid()) {
    return absl::InvalidArgumentError(absl::StrCat("geometry: ", *wrong));
  }
  if (options.attend_threads > kMaxAttendThreads) {
    return absl::InvalidArgumentError(absl::StrCat("attend_threads is ", options.attend_threads,
                                                   ", allowed: 0..", kMaxAttendThreads));
  }
  std::unique_ptr<client::Memory> memory;
  if (options.pool_memory.empty()) {
    VARVE_ASSIGN_OR_RETURN(memory, client->Allocate(options.pool_bytes));
  } else {
    VARVE_ASSIGN_OR_RETURN(memory, client->Register(options.pool_memory));
  }
  VARVE_ASSIGN_OR_RETURN(std::unique_ptr<PagePool> pool,
                         HostPagePool::Create(options.geometry, std::move(memory), kMinPoolPages));
  std::shared_ptr<Eigensolver> solver = options.eigensolver;
  if (solver == nullptr) {
    VARVE_ASSIGN_OR_RETURN(solver, Eigensolver::Create(EigensolverChoice::kAuto, options.metrics));
  }
  return std::make_unique<LinkedWorker>(
      Services{.options = options,
               .client = client,
               .solver = [solver](auto matrix, auto width,
                                  auto& out) { return solver->Decompose(matrix, width, out); },
               .rope = RopePositions::Of(options.geometry)},
      std::move(pool));
}

}  // namespace varve::worker
