// A journal in memory that remembers its past, so that a test can lose what it likes of it.
//
// As harsh as the real one may be: ids of notes that were lost are given again when nothing newer
// is left.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "kvstore/base/mutex.h"
#include "kvstore/store/journal.h"

namespace varve::recall {

class FakeJournal final : public store::Journal {
 public:
  struct Note {
    std::string label;
    std::string payload;
  };
  using Notes = std::map<store::NoteId, Note>;

  store::NoteId Write(std::string label, std::string payload) override {
    base::MutexLock lock(mutex_);
    Replace(++last_, Note{std::move(label), std::move(payload)});
    return last_;
  }
  void Erase(std::span<const store::NoteId> ids) override {
    base::MutexLock lock(mutex_);
    for (const store::NoteId id : ids) {
      EXPECT_TRUE(notes_.contains(id)) << "note " << id << " is erased, and is not there";
      Replace(id, std::nullopt);
    }
  }
  absl::Status Sync() override {
    base::MutexLock lock(mutex_);
    if (!sync_error_.ok()) return sync_error_;
    synced_ = past_.size();
    return absl::OkStatus();
  }
  absl::Status Recover(
      absl::FunctionRef<void(store::NoteId, std::string_view, std::string_view)> fn) override {
    base::MutexLock lock(mutex_);
    for (const auto& [id, note] : notes_) fn(id, note.label, note.payload);
    return absl::OkStatus();
  }

  // ---- for tests, while nobody writes
  void FailSyncs(absl::Status error) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    sync_error_ = std::move(error);
  }
  const Notes& notes() const ABSL_NO_THREAD_SAFETY_ANALYSIS { return notes_; }
  // Single writes and erases until now, and those that cannot be lost any more.
  size_t position() const ABSL_NO_THREAD_SAFETY_ANALYSIS { return past_.size(); }
  size_t synced() const ABSL_NO_THREAD_SAFETY_ANALYSIS { return synced_; }
  // As a crash would leave it that keeps the first writes and erases alone.
  void LoseAfter(size_t position) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    past_.resize(position);
    written_.resize(position);
    notes_.clear();
    for (size_t i = 0; i < position; ++i) {
      if (written_[i].has_value()) {
        notes_[past_[i]] = *written_[i];
      } else {
        notes_.erase(past_[i]);
      }
    }
    last_ = notes_.empty() ? 0 : notes_.rbegin()->first;
  }
  void Lose(store::NoteId id) ABSL_NO_THREAD_SAFETY_ANALYSIS { Replace(id, std::nullopt); }
  // An erased note is there again.
  void BringBack(store::NoteId id, const Note& note) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    Replace(id, note);
  }
  // All notes that were ever written.
  Notes Past() const ABSL_NO_THREAD_SAFETY_ANALYSIS {
    Notes all;
    for (size_t i = 0; i < past_.size(); ++i) {
      if (written_[i].has_value()) all[past_[i]] = *written_[i];
    }
    return all;
  }

 private:
  void Replace(store::NoteId id, std::optional<Note> note) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (note.has_value()) {
      notes_[id] = *note;
    } else {
      notes_.erase(id);
    }
    past_.push_back(id);
    written_.push_back(std::move(note));
  }

  base::Mutex mutex_;
  Notes notes_ ABSL_GUARDED_BY(mutex_);
  store::NoteId last_ ABSL_GUARDED_BY(mutex_) = 0;
  // One entry for each write, with the note, and each erase, without.
  std::vector<store::NoteId> past_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::optional<Note>> written_ ABSL_GUARDED_BY(mutex_);
  absl::Status sync_error_ ABSL_GUARDED_BY(mutex_);
  size_t synced_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace varve::recall
