// Low-rank keys of a sequence (policy shadowkv). The subspaces are made when the prompt is
// finished. From then on the keys of a page become low-rank when it leaves the window: its rows are
// made from its exact keys, and those that stay resident are replaced by what the rows give back,
// so that it makes no difference whether a page stayed or left and came again. Sinks and outliers
// keep their keys. The store has every page whole, and gives the values alone where the keys can be
// rebuilt.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "client/call_deadline.h"
#include "gpu_worker/low_rank_keys.h"
#include "gpu_worker/recaller.h"
#include "gpu_worker/sequence.h"
#include "kvstore/base/log.h"
#include "kvstore/base/parallel.h"
#include "kvstore/base/status.h"

namespace varve::worker {
namespace {

constexpr uint32_t kPagesAtOnce = 64;  // whose keys are read from the store in one call
constexpr absl::Duration kRetryPause = absl::Seconds(30);

// All of it where the caller has no deadline: making a subspace takes seconds.
absl::Duration TimeLeft() { return client::CallDeadline::Shorten(absl::InfiniteDuration()); }

absl::StatusOr<bool> TrueUnless(const absl::Status& status) {
  if (!status.ok()) return status;
  return true;
}

}  // namespace

bool Sequence::HasExactKeys(uint32_t layer, uint32_t head, uint32_t page) const {
  const auto [first, end] = LowRankPages(layer);
  return page < first || page >= end || low_rank_[layer]->IsOutlier(head, page);
}

std::pair<uint32_t, uint32_t> Sequence::LowRankPages(uint32_t layer) const {
  if (low_rank_.empty()) return {0, 0};
  const uint32_t end = low_rank_[layer]->projected();
  return {std::min(policy_.sinks, end), end};
}

void Sequence::RebuildKeys(uint32_t layer, uint32_t head, std::span<const PageKeys> pages,
                           RebuildScratch& scratch) const {
  if (low_rank_.empty()) return;
  scratch.pages.clear();
  for (const PageKeys& page : pages) {
    if (!HasExactKeys(layer, head, page.page)) scratch.pages.push_back(page);
  }
  low_rank_[layer]->Rebuild(head, scratch.pages, scratch);
}

std::span<const uint32_t> Sequence::Outliers(uint32_t layer, uint32_t head) const {
  if (low_rank_.empty()) return {};
  return low_rank_[layer]->outliers(head);
}

uint32_t Sequence::PinnedPages(uint32_t layer, uint32_t head, uint32_t candidates,
                               std::vector<uint32_t>& pinned) const {
  page::PinnedPages(candidates, policy_.sinks, policy_.window, pinned);
  const size_t by_position = pinned.size();
  const std::span<const uint32_t> outliers = Outliers(layer, head);
  pinned.insert(pinned.end(), outliers.begin(), outliers.end());
  std::sort(pinned.begin(), pinned.end());
  pinned.erase(std::unique(pinned.begin(), pinned.end()), pinned.end());
  return static_cast<uint32_t>(pinned.size() - by_position);
}

// Keys that are exact and here, of all KV heads; else nothing.
std::vector<const std::byte*> Sequence::ExactKeysOf(uint32_t layer, uint32_t page) const {
  std::vector<const std::byte*> keys;
  for (uint32_t head = 0; head < geometry_.num_kv_heads; ++head) {
    const HotSet& hot = layers_[layer].heads[head];
    if (!hot.resident(page) || !HasExactKeys(layer, head, page)) return {};
    keys.push_back(services_->pool->Data(hot.slot(page)));
  }
  return keys;
}

void Sequence::AddSealed(uint32_t layer, uint32_t page) {
  if (low_rank_.empty() || prefilled_) return;
  if (low_rank_[layer]->fitted() || low_rank_[layer]->added() != page) return;
  // What fails here is tried again, and told, when the prompt is finished.
  low_rank_[layer]->Add(ExactKeysOf(layer, page)).IgnoreError();
}

// use(page, keys by KV head) for the pages [first, end) in order, from here or from the store, as
// long as it answers true.
template <typename Use>
absl::Status Sequence::ForEachPage(uint32_t layer, uint32_t first, uint32_t end, const Use& use) {
  std::unique_ptr<client::Memory> memory;
  const size_t part = geometry_.part_bytes();
  const size_t block = geometry_.num_kv_heads * part;
  for (uint32_t page = first; page < end;) {
    if (const auto here = ExactKeysOf(layer, page); !here.empty()) {
      VARVE_ASSIGN_OR_RETURN(const bool more, use(page, here));
      if (!more) return absl::OkStatus();
      ++page;
      continue;
    }
    std::vector<client::GetItem> items;
    const uint32_t most = std::min(end, page + kPagesAtOnce);
    if (memory == nullptr) {
      VARVE_ASSIGN_OR_RETURN(memory, services_->client->Allocate(kPagesAtOnce * block));
    }
    for (uint32_t p = page; p < most && ExactKeysOf(layer, p).empty(); ++p) {
      client::GetItem& item = items.emplace_back();
      item.key = *page::MakeObjectKey(hashes_[p], layer);
      item.range = {page::Part::kK, 0, geometry_.num_kv_heads};
      item.destinations = {{memory.get(), (items.size() - 1) * block, block}};
    }
    VARVE_ASSIGN_OR_RETURN(const std::vector<client::GetResult> got, services_->client->Get(items));
    for (const client::GetResult& result : got) {
      if (!result.hit || result.bytes != block) {
        const std::string text = absl::StrCat(
            "the keys of page ", page, " of layer ", layer, ", sequence ", id_, " (context ",
            context_id(), "), are needed for low-rank keys and could not be read: ",
            client::MissName(result.reason), result.message.empty() ? "" : ", ", result.message);
        return MayLandLate(result.reason) ? absl::UnavailableError(text)
                                          : absl::DataLossError(text);
      }
      const size_t at = (&result - got.data()) * block;
      std::vector<const std::byte*> keys;
      for (uint32_t head = 0; head < geometry_.num_kv_heads; ++head) {
        keys.push_back(memory->bytes().data() + at + head * part);
      }
      VARVE_ASSIGN_OR_RETURN(const bool more, use(page, keys));
      if (!more) return absl::OkStatus();
      ++page;
    }
  }
  return absl::OkStatus();
}

// fn(layer) for all layers, on the threads for such work, within the time that the caller has.
template <typename Fn>
void Sequence::ShareLayers(const Fn& fn) {
  const absl::Time until = absl::Now() + TimeLeft();
  const auto run = [&](uint32_t layer, uint32_t /*thread*/) {
    const client::CallDeadline deadline(until);
    fn(layer);
  };
  base::ParallelFor(services_->fitter, services_->fit_threads, geometry_.num_layers, run);
}

absl::Status Sequence::FitLayer(uint32_t layer, uint32_t outliers) {
  LowRankKeys& keys = *low_rank_[layer];
  if (keys.fitted() && keys.added() == prompt_pages_) return absl::OkStatus();
  if (TimeLeft() == absl::ZeroDuration()) {
    return absl::DeadlineExceededError("the subspaces of low-rank keys are not all made");
  }
  const absl::Time begin = absl::Now();
  // The prompt may have grown since.
  if (keys.fitted()) keys.StartAgain();
  VARVE_RETURN_IF_ERROR(ForEachPage(
      layer, keys.added(), prompt_pages_,
      [&](uint32_t /*page*/, const auto& of_page) { return TrueUnless(keys.Add(of_page)); }));
  VARVE_RETURN_IF_ERROR(keys.Fit(outliers, services_->solver));
  NoteSubspace(keys, absl::Now() - begin, services_->metrics->subspaces_prompt);
  return absl::OkStatus();
}

// Layers that are done stay done when the time is over: the next call goes on with the others.
absl::Status Sequence::FitLowRank() {
  if (low_rank_.empty() || prompt_pages_ == 0) return absl::OkStatus();
  const uint32_t budget = std::min(budget_, prompt_pages_);
  const auto outliers = static_cast<uint32_t>(std::ceil(policy_.outliers * budget));
  std::vector<absl::Status> fitted(layers_.size());
  ShareLayers([&](uint32_t layer) { fitted[layer] = FitLayer(layer, outliers); });
  // What another call would not get over comes first.
  absl::Status first;
  for (const absl::Status& status : fitted) {
    const bool passing = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
    if (!status.ok() && !passing) return status;
    first.Update(status);
  }
  return first;
}

void Sequence::NoteSubspace(const LowRankKeys& keys, absl::Duration took,
                            prometheus::Counter& cause) const {
  cause.Increment();
  services_->metrics->fit.Observe(absl::ToDoubleSeconds(took));
  services_->metrics->discarded_energy.Observe(1 - keys.subspace().kept_share());
}

// When it is due, a new subspace is made behind the steps' backs; pages wait for it as they are.
void Sequence::RefreshSubspace(uint32_t layer) {
  const std::shared_ptr<Refit> refit = low_rank_[layer]->TakeRefit();
  if (refit == nullptr) return;
  const auto run = [refit, solver = services_->solver, metrics = services_->metrics] {
    if (refit.use_count() == 1) return;  // nobody waits any more
    const absl::Time begin = absl::Now();
    const absl::StatusOr<double> discarded = refit->Run(solver);
    if (!discarded.ok()) {
      base::LogWarning("later keys keep the subspace that they lie outside of: ",
                       discarded.status().ToString());
      return;
    }
    metrics->subspaces_refresh.Increment();
    metrics->discarded_energy.Observe(*discarded);
    metrics->fit.Observe(absl::ToDoubleSeconds(absl::Now() - begin));
  };
  services_->fitter->RunBehind(run);
}

// Pages that are not saved stay as they are, and all after them: they may have to be saved again.
// So it is for good behind a page that is lost, of which nothing can be projected.
void Sequence::AgeKeys(uint32_t layer, uint32_t most) {
  if (low_rank_.empty() || !prefilled_ || prompt_pages_ == 0) return;
  if (!KnowsStore() || absl::ToUnixNanos(absl::Now()) < age_again_ns_) return;
  LowRankKeys& keys = *low_rank_[layer];
  if (!keys.CanProject()) return;
  const uint32_t candidates = CandidatePages(layer);
  if (budget_ + keys.outliers(0).size() >= candidates) return;  // all are attended to
  const uint32_t first = keys.projected();
  uint32_t end = candidates - std::min(candidates, policy_.window);
  if (end > first) end = first + std::min(end - first, most);
  const std::vector<BlockState>& blocks = layers_[layer].blocks;
  for (uint32_t page = first; page < end; ++page) {
    if (blocks[page] != BlockState::kSaved) end = page;
  }
  if (first >= end) return;
  RebuildScratch scratch;  // layers age side by side
  const absl::Status aged = ForEachPage(
      layer, first, end, [&](uint32_t page, const auto& of_page) -> absl::StatusOr<bool> {
        if (page != keys.projected()) return absl::InternalError("pages age out of order");
        VARVE_RETURN_IF_ERROR(keys.Project(of_page));
        RefreshSubspace(layer);
        for (uint32_t head = 0; head < geometry_.num_kv_heads; ++head) {
          const HotSet& hot = layers_[layer].heads[head];
          if (!hot.resident(page)) continue;
          const PageKeys to{page, services_->pool->Data(hot.slot(page))};
          RebuildKeys(layer, head, {&to, 1}, scratch);
        }
        return keys.CanProject();
      });
  if (aged.ok()) return;
  // Their keys stay exact, and are recalled with the values.
  age_again_ns_ = absl::ToUnixNanos(absl::Now() + kRetryPause);
  base::LogWarning("keys of sequence ", id_, " stay exact for now: ", aged.ToString());
}

// Of the layers at once. What is not read in time ages with the steps.
void Sequence::AgeAllKeys() {
  if (low_rank_.empty()) return;
  ShareLayers([&](uint32_t layer) { AgeKeys(layer, UINT32_MAX); });
}

}  // namespace varve::worker
