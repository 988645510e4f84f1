#include "gpu_worker/speculation.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "gpu_worker/recaller.h"

namespace varve::worker {

double MeanCosine(const float* a, const float* b, uint32_t group, uint32_t head_dim) {
  double sum = 0;
  for (uint32_t g = 0; g < group; ++g, a += head_dim, b += head_dim) {
    double dot = 0, aa = 0, bb = 0;
    for (uint32_t i = 0; i < head_dim; ++i) {
      dot += double{a[i]} * b[i];
      aa += double{a[i]} * a[i];
      bb += double{b[i]} * b[i];
    }
    if (aa == 0 && bb == 0) {
      sum += 1;
    } else if (aa > 0 && bb > 0) {
      sum += std::clamp(dot / std::sqrt(aa * bb), -1.0, 1.0);
    }
  }
  return sum / group;
}

Speculation::Speculation(const Services* services, Sequence* sequence, double tau)
    : services_(services),
      geometry_(services->options.geometry),
      sequence_(sequence),
      tau_(tau),
      layers_(geometry_.num_layers) {
  for (Layer& state : layers_) {
    state.chosen.resize(geometry_.num_kv_heads);
    state.known.resize(geometry_.num_kv_heads);
    state.outcomes.resize(geometry_.num_kv_heads);
  }
}

bool Speculation::Applies(uint32_t layer) const {
  return sequence_->budget_pages() < sequence_->CandidatePages(layer) && !sequence_->has_lost();
}

void Speculation::Forget(Layer& state) {
  if (state.prefetch != nullptr) state.prefetch->Drop(state.place);
  state.prefetch.reset();
  state.queries.clear();
  state.noted = state.resuming = false;
}

void Speculation::Resolve(std::span<HeadWork> works) {
  const uint32_t layer = works.front().layer;
  Layer& state = layers_[layer];
  for (HeadWork& work : works) work.kept = false;
  std::fill(state.outcomes.begin(), state.outcomes.end(), Outcome::kFirst);
  state.noted = false;
  if (state.resuming) CollectHot(layer, works.front().candidates, /*wait=*/true);
  if (!Applies(layer) || state.candidates != works.front().candidates) Forget(state);
  if (state.queries.empty()) return;
  const uint32_t group = geometry_.group_size();
  bool needed = false;
  for (const HeadWork& work : works) {
    const float* before = state.queries.data() + size_t{work.head} * group * geometry_.head_dim;
    const bool turned = tau_ >= 1 || MeanCosine(work.q, before, group, geometry_.head_dim) < tau_;
    state.outcomes[work.head] = turned ? Outcome::kTurned : Outcome::kKept;
    needed = needed || !turned;
  }
  Collect(layer, needed || state.warming);
  state.warming = false;
  for (HeadWork& work : works) {
    Outcome& outcome = state.outcomes[work.head];
    if (outcome == Outcome::kKept && !state.known[work.head]) outcome = Outcome::kLate;
    if (outcome != Outcome::kKept) continue;
    work.kept = true;
    // What the selection drops was told for the queries it was made with.
    work.log_dropped_bound.clear();
    work.log_dropped_estimate.clear();
    work.selected() = state.chosen[work.head];
  }
}

// False: it is given up.
bool Speculation::Collect(uint32_t layer, bool needed) {
  Layer& state = layers_[layer];
  if (state.prefetch == nullptr) return true;
  const std::shared_ptr<Prefetch> prefetch = std::exchange(state.prefetch, nullptr);
  const absl::Time begin = absl::Now();
  const absl::Duration patience =
      needed ? std::min(sequence_->Patience(), services_->options.prefetch_patience)
             : absl::ZeroDuration();
  const bool ended = prefetch->Wait(state.place, patience);
  if (needed) {
    const absl::Duration waited = absl::Now() - begin;
    sequence_->stats().prefetch_wait += waited;
    services_->metrics->prefetch_wait.Observe(absl::ToDoubleSeconds(waited));
  }
  if (!ended) {
    prefetch->Drop(state.place);
    return false;
  }
  Install(layer, prefetch->Take(state.place));
  return true;
}

void Speculation::CollectHot(uint32_t layer, uint32_t candidates, bool wait) {
  Layer& state = layers_[layer];
  if (sequence_->has_lost()) return Forget(state);
  state.candidates = candidates;
  const bool here = Collect(layer, wait);
  state.resuming = false;
  if (here || !wait) return;
  for (Layer& other : layers_) {
    if (other.resuming) Forget(other);
  }
}

void Speculation::Install(uint32_t layer, std::vector<PrefetchedHead> heads) {
  Layer& state = layers_[layer];
  std::vector<Slot> unused;
  for (uint32_t h = 0; h < heads.size(); ++h) {
    PrefetchedHead& head = heads[h];
    if (head.answered && !head.selected.empty() && head.selected.back() < state.candidates) {
      state.chosen[h] = std::move(head.selected);
      state.known[h] = true;
    }
    HotSet& hot = sequence_->layer(layer).heads[h];
    arrived_.clear();
    for (const auto& [page, slot] : head.pages) {
      if (page >= state.candidates || hot.resident(page)) {
        unused.push_back(slot);
      } else {
        arrived_.push_back({page, services_->pool->Data(slot)});
        hot.InsertAhead(page, slot);
        // Above all that was never asked for.
        if (state.resuming) hot.Touch({&page, 1}, HotSet::kNeverScored);
      }
    }
    sequence_->RebuildKeys(layer, h, arrived_, rebuild_);
    for (const auto& [page, score] : head.scores) {
      if (hot.resident(page)) hot.NoteScore(page, score, sequence_->policy().smoothing);
    }
  }
  services_->pool->Free(unused);
  counts_->wasted += unused.size();
  services_->metrics->prefetch_wasted.Increment(static_cast<double>(unused.size()));
}

void Speculation::CountStep(std::span<HeadWork> works) {
  const Layer& state = layers_[works.front().layer];
  SequenceStats& stats = sequence_->stats();
  WorkerMetrics& metrics = *services_->metrics;
  uint32_t used = 0, wasted = 0, kept = 0, turned = 0, late = 0;
  for (HeadWork& work : works) {
    used += work.hot().TakeUsed(work.selected());
    wasted += work.hot().TakeWasted();
    if (tau_ > 1) continue;
    const Outcome outcome = state.outcomes[work.head];
    kept += outcome == Outcome::kKept ? 1 : 0;
    turned += outcome == Outcome::kTurned ? 1 : 0;
    late += outcome == Outcome::kLate ? 1 : 0;
  }
  counts_->wasted += wasted;
  stats.prefetched_pages = counts_->landed;
  stats.prefetch_used_pages += used;
  stats.prefetch_wasted_pages = counts_->wasted;
  stats.kept_heads += kept;
  stats.corrected_heads += turned;
  stats.late_heads += late;
  metrics.prefetch_used.Increment(used);
  metrics.prefetch_wasted.Increment(wasted);
  metrics.heads_kept.Increment(kept);
  metrics.heads_corrected.Increment(turned);
  metrics.heads_late.Increment(late);
}

void LookAhead(std::span<HeadWork> works, uint32_t heads, Speculation::Score score) {
  std::vector<std::shared_ptr<Prefetch>> requests;
  for (size_t i = 0; i < works.size(); i += heads) {
    Speculation* speculation = works[i].sequence->speculation();
    if (speculation == nullptr) continue;
    speculation->LookAhead(works.subspan(i, heads), score);
    speculation->TakeRequests(requests);
  }
  Prefetch::Start(std::move(requests));
}

void WarmUp(std::span<HeadWork> works, uint32_t heads, Speculation::Score score) {
  std::vector<std::shared_ptr<Prefetch>> requests;
  for (size_t i = 0; i < works.size(); i += heads) {
    Sequence& sequence = *works[i].sequence;
    if (!sequence.policy().recalls()) continue;
    sequence.MaySpeculate();
    sequence.speculation()->Warm(works.subspan(i, heads), score);
    sequence.speculation()->TakeRequests(requests);
  }
  Prefetch::Start(std::move(requests));
}

void Speculation::TakeRequests(std::vector<std::shared_ptr<Prefetch>>& requests) {
  std::move(requests_.begin(), requests_.end(), std::back_inserter(requests));
  requests_.clear();
}

void Speculation::Warm(std::span<HeadWork> works, Score score) {
  Layer& state = layers_[works.front().layer];
  if (state.resuming) CollectHot(works.front().layer, works.front().candidates, /*wait=*/false);
  Forget(state);
  for (HeadWork& work : works) work.kept = true;
  state.warming = true;
  SelectNext(works, score);
}

void Speculation::LookAhead(std::span<HeadWork> works, Score score) {
  CountStep(works);
  SelectNext(works, score);
}

void Speculation::SelectNext(std::span<HeadWork> works, Score score) {
  if (Note(works)) {
    SwapSelections(works);
    score(works);
    SwapSelections(works);
  }
  Ask(works.front().layer);
}

// True: the kept heads need the next step's selection from this worker.
bool Speculation::Note(std::span<HeadWork> works) {
  const uint32_t layer = works.front().layer;
  Layer& state = layers_[layer];
  if (!Applies(layer)) {
    Forget(state);
    return false;
  }
  const float* q = works.front().q;
  state.queries.assign(q, q + size_t{geometry_.num_query_heads} * geometry_.head_dim);
  state.candidates = works.front().candidates;
  state.noted = true;
  bool kept = false;
  for (HeadWork& work : works) {
    kept = kept || work.kept;
    state.known[work.head] = !work.kept;
    if (!work.kept) state.chosen[work.head] = work.selected();
  }
  return kept && services_->options.recall_path == RecallPath::kWorker;
}

// Exchanges the attended selections of the kept heads with those of the next step.
void Speculation::SwapSelections(std::span<HeadWork> works) {
  Layer& state = layers_[works.front().layer];
  for (HeadWork& work : works) {
    if (!work.kept) continue;
    std::swap(work.selected(), state.chosen[work.head]);
    state.known[work.head] = true;
  }
}

uint32_t Speculation::LayersTogether() const {
  const uint32_t together = services_->options.prefetch_layers;
  return together == 0 ? (geometry_.num_layers + 3) / 4 : together;
}

// When the layers that share a request are all noted.
void Speculation::Ask(uint32_t layer) {
  const uint32_t together = LayersTogether();
  const uint32_t first = layer / together * together;
  const uint32_t end = std::min(geometry_.num_layers, first + together);
  for (uint32_t l = first; l < end; ++l) {
    if (!layers_[l].noted) return;
  }
  for (uint32_t l = first; l < end; ++l) layers_[l].noted = false;
  Send(first, end);
}

uint32_t Speculation::MostPages(uint32_t layer) const {
  const uint32_t budget = sequence_->budget_pages();
  if (layers_[layer].warming) return budget;
  return static_cast<uint32_t>(std::ceil(sequence_->policy().ahead * budget));
}

// Spare slots of the pool, but for those that the sequence's next tokens need, then those of pages
// that no present selection has.
void Speculation::TakeSlots(uint32_t layer, uint32_t head, uint32_t wanted,
                            std::vector<Slot>& slots) {
  LayerCache& cache = sequence_->layer(layer);
  HotSet& hot = cache.heads[head];
  slots.resize(wanted);
  uint32_t got =
      services_->pool->AllocateSome(slots, /*leave=*/geometry_.num_layers * geometry_.num_kv_heads);
  if (got < wanted) {
    const uint32_t candidates = layers_[layer].candidates;
    const auto resident = static_cast<uint32_t>(hot.PagesBelow(candidates).size());
    const uint32_t least = resident - std::min(resident, wanted - got);
    keep_.clear();
    const std::vector<uint32_t>& next = layers_[layer].chosen[head];
    std::set_union(cache.attended[head].begin(), cache.attended[head].end(), next.begin(),
                   next.end(), std::back_inserter(keep_));
    hot.Surplus(keep_, std::span(cache.blocks).first(candidates),
                std::max(sequence_->budget_pages(), least), victims_);
    for (uint32_t page : victims_) slots[got++] = hot.Remove(page);
    services_->pool->Recycle(std::span(slots).subspan(got - victims_.size(), victims_.size()));
    sequence_->stats().evicted_pages += victims_.size();
    services_->metrics->pages_evicted.Increment(static_cast<double>(victims_.size()));
  }
  slots.resize(got);
}

// The heads whose next selection the store makes.
bool Speculation::AskStore(uint32_t layer, PrefetchLayer& asked, client::RecallLayer& query) {
  Layer& state = layers_[layer];
  const uint32_t n = state.candidates;
  if (sequence_->log().digest_blocks(layer) < n) return false;
  query.layer = layer;
  query.heads.resize(geometry_.num_kv_heads);
  bool any = false;
  for (uint32_t h = 0; h < geometry_.num_kv_heads; ++h) {
    query.heads[h].skip = state.known[h];
    if (state.known[h]) continue;
    any = true;
    PrefetchHead& head = asked.heads[h];
    HotSet& hot = sequence_->layer(layer).heads[h];
    const uint32_t beside = sequence_->PinnedPages(layer, h, n, pinned_);
    const auto selected =
        std::max(sequence_->budget_pages() + beside, static_cast<uint32_t>(pinned_.size()));
    const auto pinned = static_cast<uint32_t>(pinned_.size()) - hot.CountMissing(pinned_);
    const auto absent = n - static_cast<uint32_t>(hot.PagesBelow(n).size());
    head.asked = true;
    TakeSlots(layer, h, std::min({MostPages(layer), selected - pinned, absent}), head.slots);
    SetRecallHead(*sequence_, layer, h, n, query.heads[h]);
  }
  if (any) asked.queries = state.queries;
  return any;
}

// What this worker has selected and lacks.
bool Speculation::AskPages(uint32_t layer, PrefetchLayer& asked,
                           std::vector<client::GetItem>& items) {
  Layer& state = layers_[layer];
  bool any = false;
  for (uint32_t h = 0; h < geometry_.num_kv_heads; ++h) {
    HotSet& hot = sequence_->layer(layer).heads[h];
    const uint32_t missing = state.known[h] ? hot.CountMissing(state.chosen[h]) : 0;
    if (missing == 0) continue;
    PrefetchHead& head = asked.heads[h];
    head.asked = true;
    TakeSlots(layer, h, std::min(MostPages(layer), missing), head.slots);
    for (uint32_t page : state.chosen[h]) {
      if (head.pages.size() == head.slots.size()) break;
      if (hot.resident(page)) continue;
      SetPageItem(*sequence_, layer, h, page,
                  services_->pool->PieceOf(head.slots[head.pages.size()]), items.emplace_back());
      head.pages.push_back(page);
    }
    any = any || !head.slots.empty();
  }
  return any;
}

void Speculation::Send(uint32_t first, uint32_t end) {
  if (!sequence_->KnowsStore()) return;
  const bool store_selects = services_->options.recall_path == RecallPath::kStore;
  const Policy& policy = sequence_->policy();
  client::RecallQuery query{.context_id = sequence_->context_id(),
                            .epoch = sequence_->log().epoch(),
                            .merge = policy.merge,
                            .sinks = policy.sinks,
                            .window = policy.window,
                            .num_blocks = layers_[first].candidates,
                            .rerank = policy.rerank,
                            .multiplier = policy.multiplier,
                            .hysteresis = policy.hysteresis,
                            .score_hot = policy.victims == Victims::kScore};
  std::vector<client::GetItem> items;
  std::vector<PrefetchLayer> asked;
  for (uint32_t l = first; l < end; ++l) {
    // One request has one number of candidates.
    if (layers_[l].queries.empty() || layers_[l].candidates != query.num_blocks) continue;
    PrefetchLayer next{.layer = l};
    next.heads.resize(geometry_.num_kv_heads);
    client::RecallLayer of_layer;
    if (store_selects ? !AskStore(l, next, of_layer) : !AskPages(l, next, items)) continue;
    if (store_selects) query.layers.push_back(std::move(of_layer));
    asked.push_back(std::move(next));
  }
  if (!asked.empty()) Request(std::move(asked), std::move(query), std::move(items));
}

void Speculation::Request(std::vector<PrefetchLayer> asked, client::RecallQuery query,
                          std::vector<client::GetItem> items) {
  std::vector<uint32_t> layers;
  for (const PrefetchLayer& layer : asked) layers.push_back(layer.layer);
  const auto prefetch = std::make_shared<Prefetch>(services_, counts_, std::move(asked),
                                                   std::move(query), std::move(items));
  for (size_t place = 0; place < layers.size(); ++place) {
    layers_[layers[place]].prefetch = prefetch;
    layers_[layers[place]].place = place;
  }
  requests_.push_back(prefetch);
}

// The last of the pages, as far as `most` of the head and the slots go, but for those to leave.
void Speculation::TakeSpareSlots(std::span<const uint32_t> pages, uint32_t most, uint32_t leave,
                                 PrefetchHead& head) {
  const size_t before = head.slots.size();
  head.slots.resize(before + std::min<size_t>(pages.size(), most - before));
  head.slots.resize(before +
                    services_->pool->AllocateSome(std::span(head.slots).subspan(before), leave));
  const auto taken = pages.last(head.slots.size() - before);
  head.pages.insert(head.pages.end(), taken.begin(), taken.end());
}

void Speculation::Resume(std::span<const client::HotPages> hot) {
  const uint32_t blocks = sequence_->TotalPages(0);
  const uint32_t most = sequence_->HotCapacity(blocks, 0);
  // The sequence may be long in coming to its first step, and others cannot take these slots back.
  const uint32_t leave =
      std::max(geometry_.num_layers * geometry_.num_kv_heads, services_->pool->free() / 2);
  std::vector<PrefetchLayer> layers(geometry_.num_layers);
  for (uint32_t l = 0; l < layers.size(); ++l) {
    layers[l].layer = l;
    layers[l].heads.resize(geometry_.num_kv_heads);
  }
  // Of all layers and heads what the last step attended to comes first.
  for (const auto part : {&client::HotPages::attended, &client::HotPages::others}) {
    for (const client::HotPages& entry : hot) {
      if (entry.layer >= layers.size() || entry.kv_head >= geometry_.num_kv_heads) continue;
      const std::vector<uint32_t>& pages = entry.*part;
      const auto end = std::lower_bound(pages.begin(), pages.end(), blocks);
      TakeSpareSlots({pages.begin(), end}, most, leave, layers[entry.layer].heads[entry.kv_head]);
    }
  }
  for (uint32_t first = 0; first < layers.size(); first += LayersTogether()) {
    std::vector<PrefetchLayer> asked;
    std::vector<client::GetItem> items;
    for (uint32_t l = first; l < std::min<size_t>(layers.size(), first + LayersTogether()); ++l) {
      for (uint32_t h = 0; h < geometry_.num_kv_heads; ++h) {
        const PrefetchHead& head = layers[l].heads[h];
        for (size_t i = 0; i < head.slots.size(); ++i) {
          SetPageItem(*sequence_, l, h, head.pages[i], services_->pool->PieceOf(head.slots[i]),
                      items.emplace_back());
        }
      }
      layers_[l].resuming = true;
      asked.push_back(std::move(layers[l]));
    }
    if (!items.empty()) Request(std::move(asked), {}, std::move(items));
  }
  // Each by itself: the first layers are wanted first.
  for (std::shared_ptr<Prefetch>& request : requests_) Prefetch::Start({std::move(request)});
  requests_.clear();
}

bool Speculation::GiveBack(absl::Duration patience) {
  bool any = false;
  for (Layer& state : layers_) {
    if (state.prefetch == nullptr) continue;
    any = true;
    state.prefetch->Wait(state.place, patience);
    state.prefetch->Drop(state.place);
    state.prefetch.reset();
  }
  return any;
}

void Speculation::Abandon() {
  for (Layer& state : layers_) Forget(state);
}

}  // namespace varve::worker
