#include "kvstore/recall/kept_notes.h"

#include <algorithm>

namespace varve::recall {
namespace {

// Of one note of rows, about: beyond it what a note takes besides them is little.
constexpr size_t kMaxGatheredBytes = 256 << 10;

}  // namespace

// ---- the journal

store::NoteId NoteKeeper::Write(store::Journal::Note note) {
  if (note.written) {
    note.written = [gate = gate_,
                    written = std::move(note.written)](const absl::Status& status) mutable {
      {
        base::MutexLock lock(gate->mutex);
        if (gate->closed) return;
        ++gate->inside;
      }
      std::move(written)(status);
      base::MutexLock lock(gate->mutex);
      --gate->inside;
      gate->changed.NotifyAll();
    };
  }
  return journal_->Write(std::move(note));
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
  {
    base::MutexLock lock(gate_->mutex);
    gate_->closed = true;
    while (gate_->inside > 0) gate_->changed.Wait(gate_->mutex);
  }
  base::MutexLock lock(mutex_);
  closed_ = true;
  discarded_.clear();
}

// ---- one note

OwnedNote::OwnedNote(NoteKeeper* keeper, store::Journal::Note note, std::shared_ptr<void> replaced)
    : keeper_(keeper), writing_(std::make_shared<Writing>()) {
  {
    base::MutexLock lock(writing_->mutex);
    writing_->replaced = std::move(replaced);
  }
  note.written = [keeper, writing = writing_](const absl::Status& status) {
    writing->Over(status);
    keeper->Sweep();
  };
  id_ = keeper_->Write(std::move(note));
  if (id_ == 0) writing_->Over(absl::ResourceExhaustedError("dropped"));
}

void OwnedNote::Writing::Over(const absl::Status& status) {
  std::shared_ptr<void> gone;  // destroyed after the lock
  base::MutexLock lock(mutex);
  lost = !status.ok();
  if (!lost) gone = std::exchange(replaced, nullptr);
}

bool OwnedNote::lost() const {
  if (writing_ == nullptr) return false;
  base::MutexLock lock(writing_->mutex);
  return writing_->lost;
}

std::optional<std::shared_ptr<void>> OwnedNote::TakeReplacedIfLost() {
  if (writing_ == nullptr) return std::nullopt;
  base::MutexLock lock(writing_->mutex);
  if (!writing_->lost) return std::nullopt;
  return std::exchange(writing_->replaced, nullptr);
}

OwnedNote::~OwnedNote() {
  if (id_ != 0) keeper_->Discard(id_);
  if (writing_ == nullptr) return;
  std::shared_ptr<void> gone;
  base::MutexLock lock(writing_->mutex);
  gone = std::exchange(writing_->replaced, nullptr);
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
      begun_(true),
      inherited_(std::move(inherited)),
      own_(std::move(own), UINT64_MAX, UINT32_MAX),
      note_(std::move(note)) {}

ContextNotes ContextNotes::None(NoteKeeper* keeper) {
  ContextNotes none(keeper);
  none.begun_ = true;
  none.hole_ = 0;
  return none;
}

void ContextNotes::Begin(const std::string& label, ContextNotes replaced) {
  begun_ = true;
  if (!keeper_->keeps() || hole_ == 0) return;
  std::vector<Inherited> inherited;
  inherited.reserve(inherited_.size());
  for (const RunShare& share : inherited_) inherited.push_back(share.extent());
  store::Journal::Note note;
  note.label = label;
  note.payload = EncodePayload(inherited);
  // What was never noted is not to be kept for its own sake.
  auto before = replaced.note_.TakeReplacedIfLost();
  if (!before.has_value()) before = std::make_shared<ContextNotes>(std::move(replaced));
  note_ = OwnedNote(keeper_, std::move(note), *std::move(before));
  if (note_.id() == 0) return;
  own_ = RunShare(std::make_shared<NoteRun>(keeper_, note_.id()), UINT64_MAX, UINT32_MAX);
}

void ContextNotes::Add(const RowsSection& section, std::string rows) {
  if (!begun_ || !keeper_->keeps() || section.count == 0 || section.first >= hole_) return;
  if (own_.run() == nullptr) {
    hole_ = section.first;
    return;
  }
  gathered_bytes_ += rows.size();
  Gathered& gathered = gathered_[section.layer];
  if (gathered.rows.empty()) {
    gathered = {section, std::move(rows)};
  } else {
    gathered.section.count += section.count;  // lists only grow
    gathered.rows += rows;
  }
  if (gathered_bytes_ >= kMaxGatheredBytes) Write();
}

void ContextNotes::Write() {
  if (gathered_.empty()) return;
  RowsNote rows{note_.id(), {}};
  uint32_t first = UINT32_MAX;
  for (const auto& [layer, gathered] : gathered_) {
    rows.sections.push_back(gathered.section);
    first = std::min(first, gathered.section.first);
  }
  store::Journal::Note note;
  note.label = EncodeLabel(rows);
  note.payload = EncodePayload(rows.sections);
  note.payload.reserve(note.payload.size() + gathered_bytes_);
  for (const auto& [layer, gathered] : gathered_) note.payload += gathered.rows;
  gathered_.clear();
  gathered_bytes_ = 0;
  const store::NoteId id = keeper_->Write(std::move(note));
  if (id != 0) {
    own_.run()->Add(id, first);
  } else {
    hole_ = first;
  }
}

ContextNotes ContextNotes::Fork(uint32_t blocks) {
  Write();
  ContextNotes fork(keeper_);
  if (blocks > hole_) fork.hole_ = hole_;
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
