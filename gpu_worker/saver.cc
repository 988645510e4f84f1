#include "gpu_worker/saver.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/call_deadline.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"
#include "kvstore/page/checksum.h"

namespace varve::worker {
namespace {

// Enough to keep the lane busy; more would only age in the store's queue against the transfer
// deadline.
constexpr uint32_t kMaxPosted = 4;
constexpr size_t kMaxBlocksPerPut = 128;
constexpr size_t kMaxBytesPerPut = 16u << 20;
constexpr absl::Duration kComplaintPause = absl::Seconds(10);

}  // namespace

Saver::Saver(client::Client* client, const page::Geometry& geometry, PagePool* pool,
             WorkerMetrics* metrics, absl::Duration patience)
    : client_(client),
      geometry_(geometry),
      pool_(pool),
      metrics_(metrics),
      patience_(patience),
      thread_([this] { Loop(); }) {}

Saver::~Saver() {
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
  base::MutexLock lock(mutex_);
  while (posted_ > 0) changed_.Wait(mutex_);
}

void Saver::Submit(SaveJob job) {
  const size_t heads = geometry_.num_kv_heads;
  const size_t digest_bytes = job.blocks.empty() ? 0 : job.digest_rows.size() / job.blocks.size();
  const size_t most =
      std::clamp<size_t>(kMaxBytesPerPut / geometry_.object_bytes(), 1, kMaxBlocksPerPut);
  for (size_t begin = 0; begin < job.blocks.size(); begin += most) {
    const size_t end = std::min(begin + most, job.blocks.size());
    auto task = std::make_shared<Task>();
    task->job.log = job.log;
    task->job.layer = job.layer;
    task->job.sealed = job.sealed;
    task->job.prompt_tokens = job.prompt_tokens;
    task->job.blocks.assign(job.blocks.begin() + begin, job.blocks.begin() + end);
    task->job.parents.assign(job.parents.begin() + begin, job.parents.begin() + end);
    task->job.hashes.assign(job.hashes.begin() + begin, job.hashes.begin() + end);
    task->job.slots.assign(job.slots.begin() + begin * heads, job.slots.begin() + end * heads);
    task->job.digest_rows =
        job.digest_rows.substr(begin * digest_bytes, (end - begin) * digest_bytes);
    for (Slot slot : task->job.slots) task->generations.push_back(pool_->generation(slot));
    {
      base::MutexLock lock(job.log->mutex_);
      ++job.log->under_way_;
      if (digest_bytes > 0) {
        job.log->unsent_[job.layer].push_back({task->job.blocks.front(),
                                               static_cast<uint32_t>(end - begin),
                                               std::move(task->job.digest_rows), job.sealed});
      }
    }
    Enqueue(std::move(task));
  }
}

void Saver::Enqueue(TaskPtr task) {
  base::MutexLock lock(mutex_);
  queue_.push_back(std::move(task));
  changed_.NotifyAll();
}

void Saver::SubmitDigests(const std::shared_ptr<SaveLog>& log, uint32_t layer, uint32_t first,
                          uint32_t count, std::string rows) {
  auto task = std::make_shared<Task>();
  task->job.log = log;
  task->name_end = first + count;
  {
    base::MutexLock lock(log->mutex_);
    ++log->under_way_;
    log->unsent_[layer].push_back({first, count, std::move(rows), absl::Now()});
  }
  Enqueue(std::move(task));
}

void Saver::RetryDigests(const std::shared_ptr<SaveLog>& log) {
  auto task = std::make_shared<Task>();
  task->job.log = log;
  {
    base::MutexLock lock(log->mutex_);
    ++log->under_way_;
    log->error_ = absl::OkStatus();
    for (const auto& rows : log->unsent_) {
      if (rows.empty()) continue;
      task->name_end = std::max(task->name_end, rows.back().first + rows.back().count);
    }
  }
  Enqueue(std::move(task));
}

void Saver::FreeWhenIdle(const std::shared_ptr<SaveLog>& log, std::vector<Slot> slots) {
  {
    base::MutexLock lock(log->mutex_);
    if (log->under_way_ > 0) {
      log->orphans_.insert(log->orphans_.end(), slots.begin(), slots.end());
      return;
    }
  }
  pool_->Free(slots);
}

void Saver::Loop() {
  base::NameThisThread("varve-saver");
  while (true) {
    TaskPtr task;
    bool drop = false;
    {
      base::MutexLock lock(mutex_);
      while (!stopping_ && (queue_.empty() || posted_ >= kMaxPosted)) changed_.Wait(mutex_);
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
      drop = stopping_;
    }
    {
      base::MutexLock lock(task->job.log->mutex_);
      drop = drop || task->job.log->cancelled_;
    }
    if (!drop) Run(task);
    Finish(*task->job.log);
  }
}

void Saver::Run(const TaskPtr& task) {
  SaveLog& log = *task->job.log;
  const absl::Status named = NameFor(*task);
  if (task->job.blocks.empty()) {
    if (named.ok()) return SendDigests(log);
    base::MutexLock lock(log.mutex_);
    log.error_ = named;
    return;
  }
  if (!named.ok()) {
    const std::vector<bool> none(task->job.blocks.size(), false);
    if (task->retried) {
      Settle(task, none, named);
    } else {
      Retry(task, none);
    }
    return;
  }
  Put(task);
  SendDigests(log);
}

absl::Status Saver::NameFor(const Task& task) {
  SaveLog& log = *task.job.log;
  const client::CallDeadline deadline(absl::Now() + patience_);
  if (task.job.blocks.empty()) return NameBlocks(log, task.name_end);
  absl::Status named;
  // A session that was lost in between left the context parked: what it holds must not be evicted.
  if (task.retried) {
    if (const auto info = client_->AttachContext(log.context_id_); info.ok()) {
      named = AdoptBlocks(log, *info);
    }
  }
  named.Update(NameBlocks(log, task.job.blocks.back() + 1));
  return named;
}

absl::Status Saver::NameBlocks(SaveLog& log, uint32_t end) {
  bool unsure = false;
  {
    base::MutexLock lock(log.mutex_);
    if (log.context_blocks_ >= end) return absl::OkStatus();
    unsure = log.blocks_unsure_;
  }
  if (unsure) {
    VARVE_ASSIGN_OR_RETURN(const client::ContextInfo info, client_->AttachContext(log.context_id_));
    VARVE_RETURN_IF_ERROR(AdoptBlocks(log, info));
  }
  uint32_t first = 0;
  std::vector<std::string> hashes;
  {
    base::MutexLock lock(log.mutex_);
    first = log.context_blocks_;
    if (first >= end) return absl::OkStatus();
    hashes.assign(log.hashes_.begin() + (first - log.first_hash_),
                  log.hashes_.begin() + (end - log.first_hash_));
  }
  const auto info = client_->AppendContext(log.context_id_, first, hashes);
  base::MutexLock lock(log.mutex_);
  log.blocks_unsure_ = !info.ok();
  if (info.ok()) log.context_blocks_ = end;
  return info.status();
}

absl::Status Saver::AdoptBlocks(SaveLog& log, const client::ContextInfo& info) {
  base::MutexLock lock(log.mutex_);
  // Fewer than it had: the store was replaced. The sequence finds that out and starts a new log.
  if (info.epoch != log.epoch_ || info.num_blocks < log.context_blocks_) return absl::OkStatus();
  const size_t known = log.first_hash_ + log.hashes_.size();
  const bool same = info.block_hashes.size() == info.num_blocks && info.num_blocks <= known &&
                    std::equal(info.block_hashes.begin() + log.first_hash_, info.block_hashes.end(),
                               log.hashes_.begin());
  if (!same) {
    return absl::FailedPreconditionError(
        absl::StrCat("context ", log.context_id_, " holds other blocks than this sequence's"));
  }
  log.context_blocks_ = info.num_blocks;
  log.blocks_unsure_ = false;
  return absl::OkStatus();
}

void Saver::Put(const TaskPtr& task) {
  const SaveJob& job = task->job;
  const size_t heads = geometry_.num_kv_heads;
  std::vector<client::PutItem> items(job.blocks.size());
  for (size_t i = 0; i < items.size(); ++i) {
    client::PutItem& item = items[i];
    item.key = *page::MakeObjectKey(job.hashes[i], job.layer);
    item.layout = {geometry_.num_kv_heads, static_cast<uint32_t>(geometry_.part_bytes())};
    uint32_t crc = 0;
    for (size_t head = 0; head < heads; ++head) {
      const Slot slot = job.slots[i * heads + head];
      item.sources.push_back(pool_->PieceOf(slot));
      crc = page::Crc32c(pool_->Data(slot), geometry_.page_bytes(), crc);
    }
    item.crc32c = crc;
    item.prompt_tokens = job.prompt_tokens;
    item.tokens = geometry_.page_tokens;
    if (!job.parents[i].empty()) item.parent = *page::MakeObjectKey(job.parents[i], job.layer);
  }
  {
    base::MutexLock lock(job.log->mutex_);
    ++job.log->under_way_;
  }
  {
    base::MutexLock lock(mutex_);
    ++posted_;
  }
  client_->PutAsync(std::move(items),
                    [this, task](absl::StatusOr<std::vector<client::PutResult>> results) {
                      OnPut(task, results);
                      Finish(*task->job.log);
                      base::MutexLock lock(mutex_);
                      --posted_;
                      changed_.NotifyAll();
                    });
}

bool Saver::StillOwned(const Task& task, size_t index) const {
  const size_t heads = geometry_.num_kv_heads;
  for (size_t i = index * heads; i < (index + 1) * heads; ++i) {
    if (pool_->generation(task.job.slots[i]) != task.generations[i]) return false;
  }
  return true;
}

void Saver::OnPut(const TaskPtr& task,
                  const absl::StatusOr<std::vector<client::PutResult>>& results) {
  const size_t count = task->job.blocks.size();
  std::vector<bool> saved(count, false);
  absl::Status error = results.status();
  if (results.ok() && results->size() != count) {
    error =
        absl::InternalError(absl::StrCat(results->size(), " put results for ", count, " items"));
  }
  for (size_t i = 0; error.ok() && i < count; ++i) {
    const client::PutResult& result = (*results)[i];
    const bool stored = result.outcome == client::PutOutcome::kStored;
    saved[i] = stored || result.outcome == client::PutOutcome::kExists;
    if (saved[i] && !StillOwned(*task, i)) {
      base::LogError("block ", task->job.blocks[i], " of layer ", task->job.layer,
                     ": a slot was reused before the store had read it");
      saved[i] = false;
    }
    if (saved[i]) (stored ? metrics_->saves_stored : metrics_->saves_exists).Increment();
  }
  for (size_t i = 0; error.ok() && i < count; ++i) {
    if (saved[i]) continue;
    const client::PutResult& result = (*results)[i];
    const std::string what = absl::StrCat("saving block ", task->job.blocks[i], " of layer ",
                                          task->job.layer, ": ", result.message);
    switch (result.outcome) {
      case client::PutOutcome::kNoSpace:
        error = absl::ResourceExhaustedError(what);
        break;
      case client::PutOutcome::kInvalid:  // a store that does not take such pages
        error = absl::FailedPreconditionError(what);
        break;
      default:
        error = absl::UnavailableError(what);
    }
  }
  if (!error.ok() && !task->retried) {
    Retry(task, saved);
  } else {
    Settle(task, saved, error);
  }
}

// The blocks that are not saved go once more.
void Saver::Retry(const TaskPtr& task, const std::vector<bool>& saved) {
  const size_t heads = geometry_.num_kv_heads;
  auto again = std::make_shared<Task>();
  again->retried = true;
  again->job.log = task->job.log;
  again->job.layer = task->job.layer;
  again->job.prompt_tokens = task->job.prompt_tokens;
  {
    base::MutexLock lock(task->job.log->mutex_);
    for (size_t i = 0; i < saved.size(); ++i) {
      if (saved[i]) {
        task->job.log->results_.push_back({task->job.layer, task->job.blocks[i], true});
        continue;
      }
      again->job.blocks.push_back(task->job.blocks[i]);
      again->job.hashes.push_back(task->job.hashes[i]);
      again->job.parents.push_back(task->job.parents[i]);
      for (size_t j = i * heads; j < (i + 1) * heads; ++j) {
        again->job.slots.push_back(task->job.slots[j]);
        again->generations.push_back(task->generations[j]);
      }
    }
    ++task->job.log->under_way_;
    ++task->job.log->moves_;
    task->job.log->moved_.NotifyAll();
  }
  Enqueue(std::move(again));
}

void Saver::Settle(const TaskPtr& task, const std::vector<bool>& saved, const absl::Status& error) {
  SaveLog& log = *task->job.log;
  const auto failed = static_cast<size_t>(std::count(saved.begin(), saved.end(), false));
  if (failed > 0) {
    metrics_->saves_failed.Increment(static_cast<double>(failed));
    Complain(log.context_id_, task->job.layer, failed, error);
  }
  base::MutexLock lock(log.mutex_);
  for (size_t i = 0; i < saved.size(); ++i) {
    log.results_.push_back({task->job.layer, task->job.blocks[i], saved[i]});
  }
  if (!error.ok()) log.error_ = error;
}

void Saver::Complain(const std::string& context_id, uint32_t layer, size_t blocks,
                     const absl::Status& error) {
  uint64_t unsaid = 0;
  {
    base::MutexLock lock(mutex_);
    const absl::Time now = absl::Now();
    if (now < next_complaint_) {
      unsaid_blocks_ += blocks;
      return;
    }
    next_complaint_ = now + kComplaintPause;
    unsaid = std::exchange(unsaid_blocks_, 0);
  }
  base::LogError("context ", context_id, " layer ", layer, ": ", blocks,
                 " blocks could not be saved and stay resident: ", error.ToString(),
                 unsaid > 0 ? absl::StrCat("; ", unsaid, " more of this worker before") : "");
}

void Saver::SendDigests(SaveLog& log) {
  for (uint32_t layer = 0; layer < log.unsent_.size(); ++layer) {
    while (true) {
      {
        base::MutexLock lock(mutex_);
        if (stopping_) return;
      }
      SaveLog::DigestRows rows;
      {
        base::MutexLock lock(log.mutex_);
        if (log.unsent_[layer].empty()) break;
        rows = log.unsent_[layer].front();
        if (rows.first + rows.count > log.context_blocks_) break;
      }
      const client::CallDeadline deadline(absl::Now() + patience_);
      const absl::Status sent = client_->SendDigests(log.context_id_, log.epoch_, layer, rows.first,
                                                     rows.count, std::move(rows.rows), rows.sealed);
      base::MutexLock lock(log.mutex_);
      ++log.moves_;
      log.moved_.NotifyAll();
      if (!sent.ok()) {
        log.error_ = base::Annotate(sent, absl::StrCat("sending digests of layer ", layer));
        if (absl::IsUnavailable(sent) || absl::IsDeadlineExceeded(sent)) return;
        break;
      }
      log.unsent_[layer].pop_front();
      log.digest_blocks_[layer] = rows.first + rows.count;
      metrics_->digest_lag.Observe(absl::ToDoubleSeconds(absl::Now() - rows.sealed));
    }
  }
}

void Saver::Finish(SaveLog& log) {
  std::vector<Slot> orphans;
  {
    base::MutexLock lock(log.mutex_);
    ++log.moves_;
    if (--log.under_way_ == 0) orphans.swap(log.orphans_);
    log.moved_.NotifyAll();
  }
  if (!orphans.empty()) pool_->Free(orphans);
}

}  // namespace varve::worker
