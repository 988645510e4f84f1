// Makes the pages that a batch of queries needs resident: finds slots, fetches what is missing,
// installs it.
//
// Path worker: the selection is made (Selector); one batched Get brings the missing (block, layer,
// KV head) pages of all sequences. Path store: per context one Recall scores, selects and pushes
// into the named slots; the selection is the same. Of pages whose keys are rebuilt here the values
// alone come, either way. A page that could not be had fails the call and is named; what did arrive
// stays.
//
// One recaller serves one call at a time; its buffers are reused.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/key_rebuild.h"
#include "gpu_worker/selector.h"
#include "gpu_worker/sequence.h"

namespace varve::worker {

// "page 3 of layer 0, KV head 1, sequence 7 (context w-12)".
std::string PageName(const HeadWork& work, uint32_t page);

// What to ask the store for: K and V of one KV head of a page, or V where the keys can be rebuilt,
// into a slot.
void SetPageItem(const Sequence& sequence, uint32_t layer, uint32_t head, uint32_t page,
                 client::Piece slot, client::GetItem& item);

// What the store is told of a KV head whose pages, among so many, it chooses: the budget, what is
// here, and which keys are made here.
void SetRecallHead(const Sequence& sequence, uint32_t layer, uint32_t head, uint32_t candidates,
                   client::RecallHead& asked);

// After a call that failed so, or for a page of it that was missed so, the store may still be
// writing.
bool MayLandLate(const absl::Status& status);
bool MayLandLate(client::MissReason reason);

// The first work that lacks a selected page; null: none does.
const HeadWork* FirstMissing(std::span<const HeadWork> works);
std::string NameMissing(const HeadWork& work);

// Calls note(page, score) for what the store has answered of the pages that the worker had, which
// it was told of, and of those that it has got.
template <typename Note>
void ForEachScore(std::span<const uint32_t> resident, const client::RecallHeadResult& answer,
                  const Note& note) {
  const size_t scored = std::min(resident.size(), answer.resident_scores.size());
  for (size_t i = 0; i < scored; ++i) note(resident[i], answer.resident_scores[i]);
  // The recalled pages are the first of the missing ones.
  const size_t got = std::min(answer.recalled.size(), answer.missing_scores.size());
  for (size_t i = 0; i < got; ++i) {
    if (answer.recalled[i].done) note(answer.recalled[i].page, answer.missing_scores[i]);
  }
}

class Recaller {
 public:
  explicit Recaller(const Services* services) : services_(services) {}

  // The selected pages of every work that is not fetched yet become resident. At most one Get.
  // Keys of low rank are rebuilt meanwhile, also those that FetchFromStore left in
  // HeadWork::arrived.
  absl::Status Fetch(std::span<HeadWork> works, KeyRebuild& rebuild);
  // Lets the store choose and push, for the works of one sequence and layer (one per KV head, in
  // order) that keep no selection.
  absl::Status FetchFromStore(std::span<HeadWork> works, SelectTimes& times);
  // What was fetched ahead, or generated and aged, may have taken hot sets over their capacity:
  // their pages that nothing selects leave. After Fetch.
  void Trim(std::span<HeadWork> works);

 private:
  // A page on its way: works[work].plan.recall[index] into works[work].slots[index].
  struct Coming {
    uint32_t work = 0;
    uint32_t index = 0;
  };

  absl::Status MakeRoom(HeadWork& work, uint32_t missing);
  void Evict(HeadWork& work, std::span<const uint32_t> victims, size_t first_slot);
  void PlanTransfers(std::span<HeadWork> works);
  absl::Status Install(std::span<HeadWork> works, std::span<const client::GetResult> results);
  void GiveUp(std::span<HeadWork> works, bool may_land_late);

  absl::Status LandingSlots(std::span<HeadWork> works);
  uint32_t LandingSlots(HeadWork& work);
  absl::Status InstallPushed(HeadWork& work, std::span<const uint32_t> resident,
                             const client::RecallHeadResult& result);
  void TrimToCapacity(HeadWork& work);

  const Services* const services_;
  std::vector<Coming> coming_;
  std::vector<client::GetItem> items_;  // first coming_.size() are in use
  std::vector<Slot> freed_;
  std::vector<uint32_t> victims_;
  std::vector<uint32_t> pinned_;
  client::RecallQuery query_;
};

}  // namespace varve::worker
