// A journal in memory that remembers its past, so that a test can lose what it likes of it.
//
// As harsh as the real one may be: ids of notes that were lost are given again when nothing newer
// is left.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "kvstore/base/mutex.h"
#include "kvstore/store/journal.h"

namespace varve::recall {

class FakeJournal final : public store::Journal {
 public:
  struct Kept {
    std::string label;
    std::string payload;
  };
  using Notes = std::map<store::NoteId, Kept>;

  store::NoteId Write(Note note) override {
    store::NoteId id = 0;
    bool lost = false;
    {
      base::MutexLock lock(mutex_);
      if (note.bounded && drops_) return 0;
      id = ++last_;
      lost = loses_;
      if (!lost) Replace(id, Kept{std::move(note.label), std::move(note.payload)});
      if (lost) lost_.insert(id);
      if (holds_back_) {
        if (note.written) held_back_.push_back(std::move(note.written));
        return id;
      }
    }
    if (!note.written) return id;
    std::move(note.written)(lost ? absl::UnavailableError("lost") : absl::OkStatus());
    return id;
  }
  void Erase(std::span<const store::NoteId> ids) override {
    base::MutexLock lock(mutex_);
    for (const store::NoteId id : ids) {
      if (lost_.erase(id) > 0) continue;
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
  absl::Status Recover(Found fn) override {
    base::MutexLock lock(mutex_);
    for (auto it = notes_.rbegin(); it != notes_.rend(); ++it) {
      const auto& [id, note] = *it;
      std::optional<std::string_view> payload;
      if (!unreadable_.contains(id)) payload = note.payload;
      fn(id, note.label, payload);
    }
    return absl::OkStatus();
  }
  Room GetRoom() const override {
    base::MutexLock lock(mutex_);
    Room room{0, max_bytes_};
    for (const auto& [id, note] : notes_) room.used_bytes += note.payload.size();
    return room;
  }

  // ---- for tests, while nobody writes
  void FailSyncs(absl::Status error) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    sync_error_ = std::move(error);
  }
  // What is written from now on is dropped at once, or does not arrive.
  void Drop(bool drops) ABSL_NO_THREAD_SAFETY_ANALYSIS { drops_ = drops; }
  void LoseWrites(bool loses) ABSL_NO_THREAD_SAFETY_ANALYSIS { loses_ = loses; }
  // Nobody is told of what is written until the test says so.
  void HoldBack(bool holds_back) ABSL_NO_THREAD_SAFETY_ANALYSIS { holds_back_ = holds_back; }
  void TellHeldBack(const absl::Status& status) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    for (Written& written : std::exchange(held_back_, {})) std::move(written)(status);
  }
  // At the next start.
  void MakeUnreadable(std::set<store::NoteId> ids) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    unreadable_ = std::move(ids);
  }
  void SetMaxBytes(uint64_t bytes) ABSL_NO_THREAD_SAFETY_ANALYSIS { max_bytes_ = bytes; }
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
  void BringBack(store::NoteId id, const Kept& note) ABSL_NO_THREAD_SAFETY_ANALYSIS {
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
  void Replace(store::NoteId id, std::optional<Kept> note) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (note.has_value()) {
      notes_[id] = *note;
    } else {
      notes_.erase(id);
    }
    past_.push_back(id);
    written_.push_back(std::move(note));
  }

  mutable base::Mutex mutex_;
  bool drops_ ABSL_GUARDED_BY(mutex_) = false;
  bool loses_ ABSL_GUARDED_BY(mutex_) = false;
  bool holds_back_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Written> held_back_ ABSL_GUARDED_BY(mutex_);
  std::set<store::NoteId> lost_ ABSL_GUARDED_BY(mutex_);
  std::set<store::NoteId> unreadable_ ABSL_GUARDED_BY(mutex_);
  uint64_t max_bytes_ ABSL_GUARDED_BY(mutex_) = UINT64_MAX;
  Notes notes_ ABSL_GUARDED_BY(mutex_);
  store::NoteId last_ ABSL_GUARDED_BY(mutex_) = 0;
  // One entry for each write, with the note, and each erase, without.
  std::vector<store::NoteId> past_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::optional<Kept>> written_ ABSL_GUARDED_BY(mutex_);
  absl::Status sync_error_ ABSL_GUARDED_BY(mutex_);
  size_t synced_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace varve::recall
