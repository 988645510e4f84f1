#include "gpu_worker/recaller.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"

namespace varve::worker {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

absl::Status MissError(const HeadWork& work, uint32_t page, client::MissReason reason,
                       const std::string& message) {
  const std::string text =
      absl::StrCat(PageName(work, page), " could not be recalled: ", client::MissName(reason),
                   message.empty() ? "" : ", ", message);
  return MayLandLate(reason) ? absl::UnavailableError(text) : absl::DataLossError(text);
}

bool AnyFailed(const client::RecallResult& result) {
  for (const auto& layer : result.layers) {
    for (const client::RecallHeadResult& head : layer) {
      for (const client::RecalledPage& page : head.recalled) {
        if (!page.done && MayLandLate(page.reason)) return true;
      }
    }
  }
  return false;
}

}  // namespace

void SetPageItem(const Sequence& sequence, uint32_t layer, uint32_t head, uint32_t page,
                 client::Piece slot, client::GetItem& item) {
  item.key = *page::MakeObjectKey(sequence.block_hash(page), layer);
  item.range = {page::Part::kKV, head, 1};
  if (!sequence.HasExactKeys(layer, head, page)) {
    item.range.part = page::Part::kV;
    slot.bytes /= 2;
    slot.offset += slot.bytes;
  }
  item.destinations.assign(1, slot);
}

void SetRecallHead(const Sequence& sequence, uint32_t layer, uint32_t head, uint32_t candidates,
                   client::RecallHead& asked) {
  const auto resident = sequence.layer(layer).heads[head].PagesBelow(candidates);
  const std::span<const uint32_t> outliers = sequence.Outliers(layer, head);
  // Of a prompt of a page or less the budget may be below the pinned pages, which are in anyway.
  const Policy& policy = sequence.policy();
  const uint64_t pinned = std::min<uint64_t>(uint64_t{policy.sinks} + policy.window, candidates);
  asked.budget_pages = std::max(sequence.budget_pages(), static_cast<uint32_t>(pinned));
  asked.resident.assign(resident.begin(), resident.end());
  asked.outliers.assign(outliers.begin(), outliers.end());
  std::tie(asked.values_begin, asked.values_end) = sequence.LowRankPages(layer);
}

bool MayLandLate(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsCancelled(status) || absl::IsUnknown(status) || absl::IsInternal(status);
}

bool MayLandLate(client::MissReason reason) {
  return reason == client::MissReason::kFailed || reason == client::MissReason::kNone;
}

const HeadWork* FirstMissing(std::span<const HeadWork> works) {
  for (const HeadWork& work : works) {
    if (work.hot().CountMissing(work.selected()) > 0) return &work;
  }
  return nullptr;
}

std::string NameMissing(const HeadWork& work) {
  uint32_t missing = 0;
  for (uint32_t page : work.selected()) {
    missing = page;
    if (!work.hot().resident(page)) break;
  }
  return absl::StrCat(PageName(work, missing), " could not be recalled");
}

std::string PageName(const HeadWork& work, uint32_t page) {
  return absl::StrCat("page ", page, " of layer ", work.layer, ", KV head ", work.head,
                      ", sequence ", work.sequence->id(), " (context ", work.sequence->context_id(),
                      ")");
}

// ---- scored in the worker

absl::Status Recaller::Fetch(std::span<HeadWork> works, KeyRebuild& rebuild) {
  coming_.clear();
  for (HeadWork& work : works) {
    work.slots.clear();
    work.plan.recall.clear();
    if (work.fetched) continue;
    const uint32_t missing = work.hot().CountMissing(work.selected());
    SequenceStats& stats = work.sequence->stats();
    if (work.sequence->policy().victims == Victims::kLru) {
      work.hot().Touch(work.selected(), static_cast<float>(stats.steps));
    }
    stats.selected_pages += work.selected().size();
    stats.hot_pages += work.selected().size() - missing;
    services_->metrics->pages_hot.Increment(static_cast<double>(work.selected().size() - missing));
    if (missing == 0) continue;
    if (absl::Status room = MakeRoom(work, missing); !room.ok()) {
      GiveUp(works.first(static_cast<size_t>(&work - works.data()) + 1), /*may_land_late=*/false);
      return room;
    }
  }
  PlanTransfers(works);
  if (coming_.empty()) return absl::OkStatus();

  const auto begin = Clock::now();
  rebuild.Start();
  const absl::Time asked = services_->pool->Now();
  const auto results = services_->client->Get(std::span(items_).first(coming_.size()));
  const double seconds = SecondsSince(begin);
  services_->metrics->transfer.Observe(seconds);
  rebuild.Finish();  // before slots may be given up
  const Sequence* waited = nullptr;
  for (const Coming& coming : coming_) {
    Sequence* sequence = works[coming.work].sequence;
    if (sequence != waited) sequence->stats().recall += absl::Seconds(seconds);
    waited = sequence;
  }
  if (!results.ok()) {
    const Coming first = coming_.front();
    const HeadWork& work = works[first.work];
    absl::Status status = base::Annotate(
        results.status(), absl::StrCat(PageName(work, work.plan.recall[first.index]), " and ",
                                       coming_.size() - 1, " more could not be recalled"));
    GiveUp(works, MayLandLate(results.status()));
    return status;
  }
  services_->pool->NoteAnswer(asked);
  return Install(works, *results);
}

// Slots for the missing pages: free ones while the hot set is below its capacity, then those of
// victims.
absl::Status Recaller::MakeRoom(HeadWork& work, uint32_t missing) {
  Sequence& sequence = *work.sequence;
  HotSet& hot = work.hot();
  const auto selected = static_cast<uint32_t>(work.selected().size());
  const uint32_t capacity = sequence.HotCapacity(work.candidates, selected);
  work.slots.resize(missing);
  uint32_t got = 0;
  while (true) {
    const auto resident = static_cast<uint32_t>(hot.PagesBelow(work.candidates).size());
    const uint32_t spare = capacity > resident ? capacity - resident : 0;
    got = services_->pool->AllocateSome(std::span(work.slots).first(std::min(missing, spare)));
    if (hot.Plan(work.selected(), work.states(), got, work.plan)) break;
    // Residents that are not saved yet cannot leave: go over the capacity for now, or wait for the
    // store.
    got += services_->pool->AllocateSome(std::span(work.slots).subspan(got, missing - got));
    if (hot.Plan(work.selected(), work.states(), got, work.plan)) break;
    services_->pool->Free(std::span(work.slots).first(got));
    if (sequence.Spare(missing - got)) continue;
    if (absl::Status waited = sequence.WaitForSaves(missing - got); !waited.ok()) {
      work.slots.clear();
      work.plan.recall.clear();
      return waited;
    }
  }
  Evict(work, work.plan.victims, got);
  return absl::OkStatus();
}

void Recaller::Evict(HeadWork& work, std::span<const uint32_t> victims, size_t first_slot) {
  for (size_t i = 0; i < victims.size(); ++i) {
    work.slots[first_slot + i] = work.hot().Remove(victims[i]);
  }
  services_->pool->Recycle(std::span(work.slots).subspan(first_slot, victims.size()));
  work.sequence->stats().evicted_pages += victims.size();
  services_->metrics->pages_evicted.Increment(static_cast<double>(victims.size()));
}

void Recaller::PlanTransfers(std::span<HeadWork> works) {
  for (uint32_t w = 0; w < works.size(); ++w) {
    HeadWork& work = works[w];
    for (uint32_t i = 0; i < work.plan.recall.size(); ++i) {
      if (items_.size() <= coming_.size()) items_.emplace_back();
      SetPageItem(*work.sequence, work.layer, work.head, work.plan.recall[i],
                  services_->pool->PieceOf(work.slots[i]), items_[coming_.size()]);
      coming_.push_back({w, i});
      if (work.sequence->policy().low_rank()) {
        work.arrived.push_back({work.plan.recall[i], services_->pool->Data(work.slots[i])});
      }
    }
  }
}

absl::Status Recaller::Install(std::span<HeadWork> works,
                               std::span<const client::GetResult> results) {
  const auto begin = Clock::now();
  absl::Status status;
  if (results.size() != coming_.size()) {
    status = absl::InternalError(
        absl::StrCat(results.size(), " results for ", coming_.size(), " pages"));
    GiveUp(works, /*may_land_late=*/true);
    return status;
  }
  bool late = false;
  for (size_t i = 0; i < coming_.size(); ++i) {
    HeadWork& work = works[coming_[i].work];
    const uint32_t page = work.plan.recall[coming_[i].index];
    Slot& slot = work.slots[coming_[i].index];
    const client::GetResult& result = results[i];
    const size_t page_bytes = items_[i].destinations.front().bytes;
    if (result.hit && result.bytes == page_bytes) {
      work.hot().Insert(page, slot);
      ++work.sequence->stats().recalled_pages;
      work.sequence->stats().recalled_bytes += page_bytes;
      services_->metrics->pages_fetched.Increment();
      slot = kNoSlot;
      continue;
    }
    if (result.hit) {
      status.Update(absl::DataLossError(absl::StrCat(
          PageName(work, page), " came with ", result.bytes, " bytes instead of ", page_bytes)));
    } else {
      status.Update(MissError(work, page, result.reason, result.message));
      late = late || MayLandLate(result.reason);
    }
  }
  if (!status.ok()) GiveUp(works, late);
  services_->metrics->install.Observe(SecondsSince(begin));
  return status;
}

// Slots that hold no page go back to the pool, after a pause when the store may still write into
// them.
void Recaller::GiveUp(std::span<HeadWork> works, bool may_land_late) {
  freed_.clear();
  for (HeadWork& work : works) {
    for (Slot slot : work.slots) {
      if (slot != kNoSlot) freed_.push_back(slot);
    }
    work.slots.clear();
  }
  if (may_land_late) {
    // The store counts its deadline from when it reads the request: before it answers the next one,
    // because the client sends no more recalls than the store reads.
    services_->pool->Quarantine(freed_, 2 * services_->options.transfer_deadline);
  } else {
    services_->pool->Free(freed_);
  }
}

// ---- scored in the store

absl::Status Recaller::FetchFromStore(std::span<HeadWork> works, SelectTimes& times) {
  Sequence& sequence = *works.front().sequence;
  const Policy& policy = sequence.policy();
  const uint32_t candidates = works.front().candidates;
  const uint32_t layer = works.front().layer;
  VARVE_RETURN_IF_ERROR(sequence.WaitForDigests(layer, candidates));
  query_.context_id = sequence.context_id();
  query_.epoch = sequence.log().epoch();
  query_.merge = policy.merge;
  query_.rerank = policy.rerank;
  query_.multiplier = policy.multiplier;
  // Bounds are of exact keys.
  query_.certify = !policy.low_rank() || policy.rerank != page::Rerank::kNone;
  query_.target = policy.target;
  query_.hysteresis = policy.hysteresis;
  query_.score_hot = policy.victims == Victims::kScore;
  query_.sinks = policy.sinks;
  query_.window = policy.window;
  query_.num_blocks = candidates;
  query_.layers.resize(1);
  client::RecallLayer& asked = query_.layers.front();
  const page::Geometry& g = services_->options.geometry;
  asked.layer = layer;
  asked.queries = {works.front().q, size_t{g.num_query_heads} * g.head_dim};
  asked.heads.resize(works.size());
  VARVE_RETURN_IF_ERROR(LandingSlots(works));
  const page::AdaptiveLimits limits = sequence.Limits(candidates);
  asked.total_pages = policy.adapts() ? static_cast<uint32_t>(sequence.TotalFor(layer)) : 0;
  for (size_t h = 0; h < works.size(); ++h) {
    client::RecallHead& head = asked.heads[h];
    head.skip = works[h].kept;
    if (head.skip) continue;
    SetRecallHead(sequence, layer, works[h].head, candidates, head);
    head.floor_pages = policy.adapts() ? limits.floor : 0;
    head.ceiling_pages = policy.adapts() ? limits.ceiling : 0;
    head.slots.clear();
    for (Slot slot : works[h].slots) head.slots.push_back(services_->pool->PieceOf(slot));
  }
  const absl::Time sent = services_->pool->Now();
  const auto result = services_->client->Recall(query_);
  if (result.ok()) services_->pool->NoteAnswer(sent);
  absl::Status status = result.status();
  if (status.ok() && (result->layers.size() != 1 || result->layers[0].size() != works.size())) {
    status = absl::InternalError("the store answered for other layers or heads than asked");
  }
  const auto installing = Clock::now();
  for (size_t h = 0; status.ok() && h < works.size(); ++h) {
    if (works[h].kept) continue;
    status = InstallPushed(works[h], asked.heads[h].resident, result->layers[0][h]);
  }
  services_->metrics->install.Observe(SecondsSince(installing));
  GiveUp(works, MayLandLate(status) || (result.ok() && AnyFailed(*result)));
  if (!status.ok()) {
    return base::Annotate(status,
                          absl::StrCat("recall of layer ", layer, " for sequence ", sequence.id(),
                                       " (context ", sequence.context_id(), ")"));
  }
  uint64_t selected = 0;
  for (HeadWork& work : works) {
    if (work.kept) continue;
    selected += work.selected().size();
    TrimToCapacity(work);
    work.fetched = true;
  }
  sequence.CountSelected(selected);
  times.score_seconds += result->timings.score_us * 1e-6;
  times.select_seconds += result->timings.select_us * 1e-6;
  sequence.stats().recall += absl::Microseconds(result->timings.transfer_us);
  services_->metrics->locate.Observe(result->timings.locate_us * 1e-6);
  services_->metrics->transfer.Observe(result->timings.transfer_us * 1e-6);
  return absl::OkStatus();
}

// Landing slots for all heads, or none. Hot sets that spare pages may be those of the heads that
// had theirs, so all are counted again.
absl::Status Recaller::LandingSlots(std::span<HeadWork> works) {
  for (HeadWork& work : works) work.slots.clear();
  for (size_t h = 0; h < works.size();) {
    const uint32_t missing = works[h].kept ? 0 : LandingSlots(works[h]);
    if (missing == 0) {
      ++h;
      continue;
    }
    GiveUp(works, /*may_land_late=*/false);
    Sequence& sequence = *works[h].sequence;
    if (!sequence.Spare(missing)) VARVE_RETURN_IF_ERROR(sequence.WaitForSaves(missing));
    h = 0;
  }
  return absl::OkStatus();
}

// As many slots as could be missing. What the store will choose is not known yet, so these are
// spare slots of the pool, above the capacity for a moment; when the pool has too few, residents
// are given up first. Returns how many are still missing.
uint32_t Recaller::LandingSlots(HeadWork& work) {
  const Sequence& sequence = *work.sequence;
  HotSet& hot = work.hot();
  const uint32_t beside = sequence.PinnedPages(work.layer, work.head, work.candidates, pinned_);
  const auto selected = std::max<uint32_t>(sequence.Limits(work.candidates).ceiling + beside,
                                           static_cast<uint32_t>(pinned_.size()));
  const auto pinned = static_cast<uint32_t>(pinned_.size()) - hot.CountMissing(pinned_);
  while (true) {
    const auto resident = static_cast<uint32_t>(hot.PagesBelow(work.candidates).size());
    const uint32_t most = std::min(selected - pinned, work.candidates - resident);
    work.slots.resize(most);
    const uint32_t got = services_->pool->AllocateSome(work.slots);
    const uint32_t missing = most - got;
    if (missing == 0) return 0;
    hot.Surplus(pinned_, work.states(), resident - std::min(resident, missing), victims_);
    if (victims_.size() < missing) {
      work.slots.resize(got);
      return missing;
    }
    // What leaves may be missing too: counted again.
    Evict(work, victims_, got);
    services_->pool->Free(work.slots);
  }
}

absl::Status Recaller::InstallPushed(HeadWork& work, std::span<const uint32_t> resident,
                                     const client::RecallHeadResult& result) {
  HotSet& hot = work.hot();
  const Policy& policy = work.sequence->policy();
  SequenceStats& stats = work.sequence->stats();
  for (const client::RecalledPage& page : result.recalled) {
    if (!page.done) return MissError(work, page.page, page.reason, page.message);
    if (page.page >= work.candidates || page.slot >= work.slots.size() ||
        work.slots[page.slot] == kNoSlot || hot.resident(page.page)) {
      return absl::InternalError(absl::StrCat("the store pushed page ", page.page, " into slot ",
                                              page.slot, ", which was not asked for"));
    }
    const bool whole = work.sequence->HasExactKeys(work.layer, work.head, page.page);
    stats.recalled_bytes += services_->pool->page_bytes() / (whole ? 1 : 2);
    ++stats.recalled_pages;
    services_->metrics->pages_fetched.Increment();
    if (policy.low_rank()) {
      work.arrived.push_back({page.page, services_->pool->Data(work.slots[page.slot])});
    }
    hot.Insert(page.page, work.slots[page.slot]);
    work.slots[page.slot] = kNoSlot;
  }
  work.selected() = result.selected;
  work.log_dropped_bound.clear();
  if (!policy.low_rank()) work.log_dropped_bound = result.log_dropped_bound;
  work.log_dropped_estimate = result.log_dropped_estimate;
  if (hot.CountMissing(work.selected()) > 0 ||
      (!work.selected().empty() && work.selected().back() >= work.candidates)) {
    return absl::InternalError("the store selected pages that it did not push");
  }
  stats.selected_pages += result.selected.size();
  stats.hot_pages += result.selected.size() - result.recalled.size();
  services_->metrics->pages_hot.Increment(
      static_cast<double>(result.selected.size() - result.recalled.size()));
  if (policy.victims == Victims::kLru) {
    hot.Touch(work.selected(), static_cast<float>(stats.steps));
  } else {
    ForEachScore(resident, result,
                 [&](uint32_t page, float score) { hot.NoteScore(page, score, policy.smoothing); });
  }
  return absl::OkStatus();
}

void Recaller::Trim(std::span<HeadWork> works) {
  for (HeadWork& work : works) {
    const bool may_grow =
        work.sequence->speculation() != nullptr || !work.sequence->policy().generated_pinned;
    if (may_grow && !work.fetched) TrimToCapacity(work);
  }
}

void Recaller::TrimToCapacity(HeadWork& work) {
  const auto selected = static_cast<uint32_t>(work.selected().size());
  const uint32_t capacity = work.sequence->HotCapacity(work.candidates, selected);
  work.hot().Surplus(work.selected(), work.states(), capacity, victims_);
  work.slots.resize(victims_.size());
  Evict(work, victims_, 0);
  services_->pool->Free(work.slots);
  work.slots.clear();
}

}  // namespace varve::worker
