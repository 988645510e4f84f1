#include "kvstore/recall/note_room.h"

#include <algorithm>
#include <utility>

#include "kvstore/base/log.h"

namespace varve::recall {
namespace {

// Shares of the journal's limit.
constexpr double kHigh = 0.9;
constexpr double kLow = 0.8;

}  // namespace

bool NoteRoom::TakesTooMuch() {
  keeper_->Sweep();
  const store::Journal::Room room = keeper_->room();
  const double limit = (making_ ? kLow : kHigh) * static_cast<double>(room.max_bytes);
  making_ = static_cast<double>(room.used_bytes) > limit;
  return making_;
}

uint64_t TendNotes(NoteKeeper* keeper, std::vector<std::shared_ptr<Context>> contexts) {
  NoteRoom room(keeper);
  uint64_t forgotten = 0;
  if (room.TakesTooMuch()) {
    std::vector<std::pair<absl::Time, Context*>> parked;
    for (const auto& context : contexts) {
      if (context->IsParked()) parked.emplace_back(context->last_use(), context.get());
    }
    std::sort(parked.begin(), parked.end());
    for (auto next = parked.begin(); next != parked.end() && room.TakesTooMuch(); ++next) {
      if (next->second->Forget()) ++forgotten;
    }
    if (forgotten > 0) {
      base::LogWarning("notes of contexts take nearly all that they may on the disks: ", forgotten,
                       " parked contexts will be missing after a restart");
    }
  }
  if (room.TakesTooMuch()) return forgotten;
  for (const auto& context : contexts) context->NoteAgain();
  return forgotten;
}

}  // namespace varve::recall
