#include "gpu_worker/sequence_memory.h"

#include <algorithm>

#include "gpu_worker/sequence.h"

namespace varve::worker {

void Sequence::CountLayer(uint32_t layer_index) {
  LayerCache& layer = layers_[layer_index];
  SequenceMemory& memory = layer.memory;
  memory.digests = layer.digests.bytes();
  if (!low_rank_.empty()) {
    const LowRankKeys& keys = *low_rank_[layer_index];
    memory.rows = keys.row_bytes();
    memory.basis = keys.basis_bytes();
    memory.gram = keys.gram_bytes();
  }

  uint64_t changes = prefilled_ ? 1 : 0;
  for (const HotSet& head : layer.heads) changes += head.changes();
  const uint32_t sealed = layer.appended / geometry_.page_tokens;
  const uint32_t candidates = prefilled_ ? CandidatePages(layer_index) : sealed;
  if (changes == layer.counted_changes && candidates == layer.counted_candidates) return;
  layer.counted_changes = changes;
  layer.counted_candidates = candidates;
  // Of the candidates, what the policy keeps in any case.
  const uint32_t sinks = std::min(policy_.sinks, candidates);
  const uint32_t window = std::max(sinks, candidates - std::min(policy_.window, candidates));
  uint64_t outliers = 0, always = 0, hot = 0;
  for (uint32_t h = 0; h < layer.heads.size(); ++h) {
    const HotSet& head = layer.heads[h];
    const uint64_t first = head.PagesBelow(sinks).size();
    const uint64_t chosen = head.PagesBelow(window).size() - first;
    uint64_t exact = 0;
    for (const uint32_t page : Outliers(layer_index, h)) {
      if (page >= sinks && page < window && head.resident(page)) ++exact;
    }
    outliers += exact;
    hot += chosen - exact;
    always += head.pages().size() - chosen;
  }
  memory.outliers = outliers * geometry_.page_bytes();
  memory.window = always * geometry_.page_bytes();
  memory.hot = hot * geometry_.page_bytes();
}

void Sequence::CountMemory() {
  SequenceMemory now;
  for (uint32_t l = 0; l < layers_.size() && !closed_; ++l) {
    CountLayer(l);
    for (const MemoryKind& kind : kMemoryKinds) now.*kind.bytes += layers_[l].memory.*kind.bytes;
  }
  SetMemory(now);
}

void Sequence::SetMemory(const SequenceMemory& now) {
  for (size_t i = 0; i < kMemoryKinds.size(); ++i) {
    const auto bytes = kMemoryKinds[i].bytes;
    if (now.*bytes == memory_.*bytes) continue;
    services_->metrics->memory[i]->Increment(static_cast<double>(now.*bytes) -
                                             static_cast<double>(memory_.*bytes));
  }
  memory_ = now;
}

}  // namespace varve::worker
