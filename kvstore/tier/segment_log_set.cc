// Which directories a log has, and which of them are not there.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/path.h"
#include "kvstore/base/status.h"
#include "kvstore/tier/segment_log_impl.h"

namespace varve::tier {

absl::Status SegmentLog::OpenSet() {
  base::MutexLock set_lock(set_mutex_);
  std::vector<std::optional<DirectorySet>> found;
  {
    base::MutexLock lock(state_.mutex);
    for (const auto& directory : directories_) {
      absl::StatusOr<DirectorySet> set = DirectorySet{};
      const absl::StatusOr<std::string> bytes = directory->files->ReadSet();
      set = bytes.ok() ? ParseDirectorySet(*bytes) : bytes.status();
      if (absl::IsFailedPrecondition(set.status())) {
        return base::Annotate(set.status(), directory->path);
      }
      if (!set.ok() && !absl::IsNotFound(set.status())) {
        base::LogWarning(directory->path, ": ", set.status().message());
      }
      // Which of the two is the one that was used last, nobody can tell.
      for (size_t i = 0; set.ok() && i < found.size(); ++i) {
        if (!found[i].has_value() || found[i]->own != set->own) continue;
        return absl::FailedPreconditionError(absl::StrCat(
            directory->path, " is a copy of ", directories_[i]->path, " (both are ", Hex(set->own),
            "): name the one that was used last, and remove the files of the other"));
      }
      found.push_back(set.ok() ? std::optional(*std::move(set)) : std::nullopt);
    }
    for (const auto& directory : directories_) VARVE_RETURN_IF_ERROR(OpenSegments(*directory));
    for (const std::optional<DirectorySet>& set : found) {
      if (!set.has_value() || has_store_id_) continue;
      store_id_ = set->store_id;
      has_store_id_ = true;
    }
  }
  if (!has_store_id_) store_id_ = NewDirectoryId();
  has_store_id_ = true;
  set_.store_id = store_id_;
  // The newest list counts; two of one age were written while the others were not there.
  for (std::optional<DirectorySet>& set : found) {
    // That of another log, in a directory without segments.
    if (set.has_value() && set->store_id != store_id_) set.reset();
    if (!set.has_value() || set->generation < set_.generation) continue;
    if (set->generation > set_.generation) set_.members.clear();
    set_.generation = set->generation;
    for (const DirectorySet::Member& member : set->members) {
      if (set_.Find(member.id) != nullptr) continue;
      set_.members.push_back({member.id, base::PlainPath(member.path)});
    }
  }
  {
    base::MutexLock lock(state_.mutex);
    for (size_t i = 0; i < directories_.size(); ++i) {
      Directory& directory = *directories_[i];
      const bool has_segments = directory.holding.segments > 0;
      if (found[i].has_value()) {
        directory.id = found[i]->own;
        if (has_segments && set_.Find(directory.id) == nullptr) {
          return absl::FailedPreconditionError(
              absl::StrCat(directory.path,
                           " was taken out of this log while it was not there: what it holds is "
                           "out of date; remove its files to use it again"));
        }
      } else if (has_segments) {
        // It has lost its list. An empty directory may be what a disk is not mounted on.
        for (const DirectorySet::Member& member : set_.members) {
          if (member.path == directory.path) directory.id = member.id;
        }
      }
      Join(directory);
    }
    NoteAbsentLocked();
    for (const auto& [path, id] : absent_) {
      base::LogWarning(path,
                       " belongs to this log and is not there: what it holds is missed, and "
                       "what is removed meanwhile is remembered until it is back, or is drained");
    }
  }
  bool known = true;
  for (const std::optional<DirectorySet>& set : found) {
    known = known && set.has_value() && set->generation == set_.generation &&
            set->members == set_.members;
  }
  if (!known) WriteSets();
  return absl::OkStatus();
}

void SegmentLog::Join(Directory& directory) {
  if (directory.id == DirectorySet::Id{}) directory.id = NewDirectoryId();
  for (DirectorySet::Member& member : set_.members) {
    if (member.id != directory.id) continue;
    member.path = directory.path;
    return;
  }
  set_.members.push_back({directory.id, directory.path});
}

void SegmentLog::NoteAbsentLocked() {
  absent_.clear();
  for (const DirectorySet::Member& member : set_.members) {
    bool here = false;
    std::string name = member.path;
    for (const auto& directory : directories_) {
      here = here || directory->id == member.id;
      // Another one has taken its place.
      if (directory->path == member.path) name = absl::StrCat(member.path, "#", Hex(member.id));
    }
    if (!here) absent_[name] = member.id;
  }
  state_.table.SetIncomplete(!absent_.empty());
}

void SegmentLog::WriteSets() {
  std::vector<Directory*> directories;
  sets_behind_ = false;
  {
    base::MutexLock lock(state_.mutex);
    for (const auto& directory : directories_) {
      // Nobody waits for it: it gets the list when it answers, or at the next start.
      sets_behind_ = sets_behind_ || directory->slow;
      if (!directory->slow) directories.push_back(directory.get());
    }
  }
  ++set_.generation;
  for (Directory* directory : directories) {
    DirectorySet set = set_;
    set.own = directory->id;
    const DirectoryIo::Call call(&directory->io);
    const absl::Status written = directory->files->WriteSet(EncodeDirectorySet(set));
    if (!written.ok()) {
      base::LogWarning(directory->path,
                       ": the list of the log's directories was not written: ", written.message());
    }
  }
}

void SegmentLog::WriteSetsBehind() {
  base::MutexLock set_lock(set_mutex_);
  if (sets_behind_) WriteSets();
}

bool SegmentLog::GiveUpAbsent(const std::string& path) {
  std::vector<Directory*> directories;
  {
    base::MutexLock set_lock(set_mutex_);
    {
      base::MutexLock lock(state_.mutex);
      const auto absent = absent_.find(path);
      if (absent == absent_.end()) return false;
      std::erase_if(set_.members, [&](const auto& member) { return member.id == absent->second; });
      NoteAbsentLocked();
      for (const auto& directory : directories_) directories.push_back(directory.get());
    }
    WriteSets();
  }
  // Tombstones may be of no use any more.
  for (Directory* directory : directories) directory->reclaimer->Wake();
  return true;
}

}  // namespace varve::tier
