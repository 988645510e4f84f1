#include "kvstore/recall/kept_notes.h"

#include <algorithm>

namespace varve::recall {

// ---- the journal

store::NoteId NoteKeeper::Write(std::string label, std::string payload) {
  return journal_->Write(std::move(label), std::move(payload));
}

void NoteKeeper::Discard(store::NoteId id) {
  base::MutexLock lock(mutex_);
  if (!closed_) discarded_.push_back(id);
}

void NoteKeeper::Sweep() {
  std::vector<store::NoteId> ids;
  {
    base::MutexLock lock(mutex_);
    ids.swap(discarded_);
  }
  if (!ids.empty()) journal_->Erase(ids);
}

void NoteKeeper::Close() {
  base::MutexLock lock(mutex_);
  closed_ = true;
  discarded_.clear();
}

// ---- runs

store::NoteId NoteRun::last() const {
  base::MutexLock lock(mutex_);
  return last_;
}

void NoteRun::Add(store::NoteId id, uint32_t first_block) {
  base::MutexLock lock(mutex_);
  last_ = std::max(last_, id);
  notes_.push_back({id, first_block});
}

bool NoteRun::Has(store::NoteId last, uint32_t blocks) const {
  const Extent extent{last, blocks};
  base::MutexLock lock(mutex_);
  return std::any_of(notes_.begin(), notes_.end(),
                     [&extent](const Note& note) { return extent.Covers(note); });
}

void NoteRun::Join(const Extent& extent) {
  base::MutexLock lock(mutex_);
  shares_.push_back(extent);
}

void NoteRun::Leave(const Extent& extent) {
  base::MutexLock lock(mutex_);
  shares_.erase(std::find_if(shares_.begin(), shares_.end(), [&extent](const Extent& share) {
    return share.last == extent.last && share.blocks == extent.blocks;
  }));
  const auto covers = [](const auto& what) {
    return [&what](const Extent& share) { return share.Covers(what); };
  };
  // As a rule the context that the run was written for is still there.
  if (std::any_of(shares_.begin(), shares_.end(), covers(extent))) return;
  std::vector<Extent> widest;
  for (const Extent& share : shares_) {
    if (std::any_of(widest.begin(), widest.end(), covers(share))) continue;
    std::erase_if(widest, [&share](const Extent& other) { return share.Covers(other); });
    widest.push_back(share);
  }
  std::erase_if(notes_, [&](const Note& note) {
    if (std::any_of(widest.begin(), widest.end(), covers(note))) return false;
    keeper_->Discard(note.id);
    return true;
  });
}

RunShare::RunShare(std::shared_ptr<NoteRun> run, store::NoteId last, uint32_t blocks)
    : run_(std::move(run)), extent_{last, blocks} {
  run_->Join(extent_);
}

RunShare::~RunShare() {
  if (run_ != nullptr) run_->Leave(extent_);
}

// ---- one context's

ContextNotes::ContextNotes(NoteKeeper* keeper, OwnedNote note, std::shared_ptr<NoteRun> own,
                           std::vector<RunShare> inherited)
    : keeper_(keeper),
      inherited_(std::move(inherited)),
      own_(std::move(own), UINT64_MAX, UINT32_MAX),
      note_(std::move(note)) {}

void ContextNotes::Begin(const std::string& label) {
  if (!keeper_->keeps()) return;
  std::vector<Inherited> inherited;
  inherited.reserve(inherited_.size());
  for (const RunShare& share : inherited_) inherited.push_back(share.extent());
  note_ = OwnedNote(keeper_, keeper_->Write(label, EncodePayload(inherited)));
  own_ = RunShare(std::make_shared<NoteRun>(keeper_, note_.id()), UINT64_MAX, UINT32_MAX);
}

void ContextNotes::Add(uint32_t layer, uint32_t first, uint32_t count, std::string rows) {
  if (own_.run() == nullptr || count == 0) return;
  own_.run()->Add(
      keeper_->Write(EncodeLabel(RowsNote{note_.id(), layer, first, count}), std::move(rows)),
      first);
}

ContextNotes ContextNotes::Fork(uint32_t blocks) const {
  ContextNotes fork(keeper_);
  const auto add = [&fork](const std::shared_ptr<NoteRun>& run, store::NoteId last, uint32_t end) {
    if (run->Has(last, end)) fork.inherited_.emplace_back(run, last, end);
  };
  for (const RunShare& share : inherited_) {
    add(share.run(), share.extent().last, std::min(share.extent().blocks, blocks));
  }
  if (own_.run() != nullptr) add(own_.run(), own_.run()->last(), blocks);
  return fork;
}

}  // namespace varve::recall
