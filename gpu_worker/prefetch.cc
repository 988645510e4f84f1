#include "gpu_worker/prefetch.h"

#include <algorithm>
#include <chrono>

#include "absl/time/clock.h"
#include "client/call_deadline.h"
#include "client/prefetch_calls.h"
#include "gpu_worker/recaller.h"

namespace varve::worker {
namespace {

// Where a batch has more, its sequences do not wait for each other's.
constexpr size_t kItemsTogether = 4096;

}  // namespace

Prefetch::Prefetch(const Services* services, std::shared_ptr<PrefetchCounts> counts,
                   std::vector<PrefetchLayer> layers, client::RecallQuery query,
                   std::vector<client::GetItem> items)
    : services_(services),
      counts_(std::move(counts)),
      deadline_(absl::Now() + services->options.step_deadline),
      layers_(std::move(layers)),
      query_(std::move(query)),
      items_(std::move(items)),
      results_(layers_.size()),
      finished_(layers_.size()),
      places_(layers_.size(), Place::kComing) {
  for (size_t l = 0; l < layers_.size(); ++l) results_[l].resize(layers_[l].heads.size());
}

// The last holder is its sequence or, after that, the thread: nothing is under way any more.
Prefetch::~Prefetch() {
  for (size_t l = 0; l < layers_.size(); ++l) Drop(l);
}

void Prefetch::Start(std::vector<std::shared_ptr<Prefetch>> prefetches) {
  if (prefetches.empty()) return;
  base::Executor* const threads = prefetches.front()->services_->prefetcher;
  std::vector<std::shared_ptr<Prefetch>> together;
  size_t items = 0;
  const auto send = [&] {
    if (together.empty()) return;
    threads->Run([together = std::exchange(together, {})] { Run(together); });
    items = 0;
  };
  for (std::shared_ptr<Prefetch>& prefetch : prefetches) {
    if (prefetch->selects()) {
      threads->Run([alone = std::move(prefetch)] { Run({&alone, 1}); });
      continue;
    }
    if (items + prefetch->items_.size() > kItemsTogether) send();
    items += prefetch->items_.size();
    together.push_back(std::move(prefetch));
  }
  send();
}

bool Prefetch::Wait(size_t place, absl::Duration patience) {
  const absl::Time until = absl::Now() + patience;
  base::MutexLock lock(mutex_);
  while (places_[place] == Place::kComing) {
    const absl::Duration left = until - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    changed_.WaitFor(mutex_, absl::ToChronoNanoseconds(left));
  }
  return true;
}

std::vector<PrefetchedHead> Prefetch::Take(size_t place) {
  base::MutexLock lock(mutex_);
  places_[place] = Place::kGone;
  return std::move(results_[place]);
}

void Prefetch::Drop(size_t place) {
  base::MutexLock lock(mutex_);
  if (places_[place] == Place::kComing) places_[place] = Place::kDropped;
  if (places_[place] == Place::kHere) FreeLanded(place);
}

bool Prefetch::AllDropped() const {
  base::MutexLock lock(mutex_);
  return std::all_of(places_.begin(), places_.end(),
                     [](Place place) { return place == Place::kDropped; });
}

void Prefetch::FreeLanded(size_t place) {
  std::vector<Slot> slots;
  for (const PrefetchedHead& head : results_[place]) {
    for (const auto& [page, slot] : head.pages) slots.push_back(slot);
  }
  results_[place].clear();
  places_[place] = Place::kGone;
  services_->pool->Free(slots);
  counts_->wasted += slots.size();
  services_->metrics->prefetch_wasted.Increment(static_cast<double>(slots.size()));
}

void Prefetch::Run(std::span<const std::shared_ptr<Prefetch>> prefetches) {
  const absl::Time begin = absl::Now();
  std::vector<std::shared_ptr<Prefetch>> wanted;
  absl::Time until = absl::InfiniteFuture();
  for (const std::shared_ptr<Prefetch>& prefetch : prefetches) {
    if (prefetch->AllDropped()) continue;
    wanted.push_back(prefetch);
    until = std::min(until, prefetch->deadline_);
  }
  if (!wanted.empty()) {
    const client::CallDeadline deadline(until);
    const client::PrefetchCalls prefetch;
    if (wanted.front()->selects()) {
      wanted.front()->AskRecall();
    } else {
      AskGet(wanted);
    }
    wanted.front()->services_->metrics->prefetch.Observe(
        absl::ToDoubleSeconds(absl::Now() - begin));
  }
  for (const std::shared_ptr<Prefetch>& prefetch : prefetches) {
    for (size_t l = 0; l < prefetch->layers_.size(); ++l) {
      prefetch->Finish(l, /*may_land_late=*/false);
    }
  }
}

// Each layer is here as soon as the store has answered for it.
void Prefetch::AskRecall() {
  for (size_t l = 0; l < layers_.size(); ++l) {
    query_.layers[l].queries = layers_[l].queries;
    for (size_t h = 0; h < layers_[l].heads.size(); ++h) {
      for (Slot slot : layers_[l].heads[h].slots) {
        query_.layers[l].heads[h].slots.push_back(services_->pool->PieceOf(slot));
      }
    }
  }
  const absl::Time sent = services_->pool->Now();
  const auto answer = services_->client->Recall(
      query_, [this](size_t l, const std::vector<client::RecallHeadResult>& heads) {
        if (l < layers_.size()) Land(l, heads);
      });
  if (answer.ok()) services_->pool->NoteAnswer(sent);
  const bool late = !answer.ok() && MayLandLate(answer.status());
  for (size_t l = 0; l < layers_.size(); ++l) Finish(l, late);
}

void Prefetch::Land(size_t place, std::vector<client::RecallHeadResult> answer) {
  bool late = false;
  for (size_t h = 0; h < std::min(layers_[place].heads.size(), answer.size()); ++h) {
    PrefetchHead& asked = layers_[place].heads[h];
    if (!asked.asked) continue;
    PrefetchedHead& result = results_[place][h];
    result.answered = true;
    ForEachScore(query_.layers[place].heads[h].resident, answer[h],
                 [&](uint32_t page, float score) { result.scores.emplace_back(page, score); });
    result.selected = std::move(answer[h].selected);
    for (const client::RecalledPage& page : answer[h].recalled) {
      if (page.slot >= asked.slots.size() || asked.slots[page.slot] == kNoSlot) continue;
      if (!page.done) {
        late = late || MayLandLate(page.reason);
        continue;
      }
      result.pages.emplace_back(page.page, std::exchange(asked.slots[page.slot], kNoSlot));
    }
  }
  Finish(place, late);
}

void Prefetch::AskGet(std::span<const std::shared_ptr<Prefetch>> prefetches) {
  std::vector<client::GetItem> all;
  const bool one = prefetches.size() == 1;
  for (const std::shared_ptr<Prefetch>& prefetch : prefetches) {
    if (!one) all.insert(all.end(), prefetch->items_.begin(), prefetch->items_.end());
  }
  const Services& services = *prefetches.front()->services_;
  const absl::Time sent = services.pool->Now();
  const std::vector<client::GetItem>& items = one ? prefetches.front()->items_ : all;
  auto answer = services.client->Get(items);
  if (answer.ok() && answer->size() != items.size()) {
    answer = absl::InternalError("a Get answered another number of items than it was asked");
  }
  if (answer.ok()) services.pool->NoteAnswer(sent);
  size_t first = 0;
  for (const std::shared_ptr<Prefetch>& prefetch : prefetches) {
    if (!answer.ok()) {
      prefetch->LandItems(answer.status());
      continue;
    }
    const size_t count = prefetch->items_.size();
    prefetch->LandItems(std::span(*answer).subspan(first, count));
    first += count;
  }
}

void Prefetch::LandItems(const absl::StatusOr<std::span<const client::GetResult>>& answer) {
  size_t item = 0;
  for (size_t l = 0; l < layers_.size(); ++l) {
    bool late = !answer.ok() && MayLandLate(answer.status());
    for (size_t h = 0; answer.ok() && h < layers_[l].heads.size(); ++h) {
      PrefetchHead& asked = layers_[l].heads[h];
      for (size_t i = 0; i < asked.slots.size(); ++i, ++item) {
        const client::GetResult& got = (*answer)[item];
        if (got.hit && got.bytes == items_[item].destinations.front().bytes) {
          results_[l][h].pages.emplace_back(asked.pages[i], std::exchange(asked.slots[i], kNoSlot));
        } else {
          late = late || (!got.hit && MayLandLate(got.reason));
        }
      }
    }
    Finish(l, late);
  }
}

// Gives back the slots that no page came into; what came is here. Once for each layer.
void Prefetch::Finish(size_t place, bool may_land_late) {
  if (finished_[place]) return;
  finished_[place] = true;
  std::vector<Slot> slots;
  for (const PrefetchHead& head : layers_[place].heads) {
    for (Slot slot : head.slots) {
      if (slot != kNoSlot) slots.push_back(slot);
    }
  }
  for (const PrefetchedHead& head : results_[place]) counts_->landed += head.pages.size();
  if (may_land_late) {
    // As those of a recall that failed: see Recaller::GiveUp.
    services_->pool->Quarantine(slots, 2 * services_->options.transfer_deadline);
  } else {
    services_->pool->Free(slots);
  }
  base::MutexLock lock(mutex_);
  if (places_[place] == Place::kDropped) {
    FreeLanded(place);
  } else {
    places_[place] = Place::kHere;
  }
  changed_.NotifyAll();
}

}  // namespace varve::worker
