#include "kvstore/store/log_journal.h"

#include <algorithm>
#include <utility>

#include "kvstore/base/log.h"
#include "kvstore/base/mutex.h"
#include "kvstore/page/checksum.h"
#include "kvstore/store/object_index.h"
#include "kvstore/store/record_label.h"
#include "kvstore/tier/arena.h"

namespace varve::store {
namespace {

constexpr uint64_t kBatchBytes = 32 << 20;
constexpr size_t kBatchNotes = 1024;
constexpr absl::Duration kLogInterval = absl::Minutes(1);

uint64_t Aligned(uint64_t bytes) {
  return (bytes + tier::kReadAlignment - 1) / tier::kReadAlignment * tier::kReadAlignment;
}

}  // namespace

void LogJournal::Add(const tier::RecordLog::Recovered& record) {
  const uint64_t bytes = DiskBytes(record.payload_bytes);
  found_.push_back({record.id, std::string(record.label), record.payload_bytes});
  base::MutexLock lock(writing_->mutex);
  writing_->used_bytes += bytes;
  writing_->sizes[record.id] = static_cast<uint32_t>(bytes);
}

uint64_t LogJournal::MaxBytes() const {
  const tier::LogRoom room = log_->Room();
  // What no directory takes is for the log to refuse.
  if (!room.takes_writes) return UINT64_MAX;
  return static_cast<uint64_t>(options_.max_share * static_cast<double>(room.usable_bytes));
}

Journal::Room LogJournal::GetRoom() const {
  const uint64_t max_bytes = MaxBytes();
  base::MutexLock lock(writing_->mutex);
  return {writing_->used_bytes, max_bytes};
}

NoteId LogJournal::Write(Note note) {
  const uint64_t bytes = DiskBytes(note.payload.size());
  const uint64_t max_bytes = note.bounded ? MaxBytes() : UINT64_MAX;
  const std::optional<uint64_t> number =
      writing_->Admit(bytes, max_bytes, note.bounded ? options_.max_pending_bytes : UINT64_MAX);
  if (!number.has_value()) return 0;
  tier::RecordLog::AppendRequest request;
  request.payload_crc32c = page::Crc32c(note.payload.data(), note.payload.size());
  request.label = EncodeNoteLabel(note.label, request.payload_crc32c);
  auto kept = std::make_unique<std::string>(std::move(note.payload));
  request.payload = std::as_bytes(std::span(*kept));
  request.sync = options_.sync;
  const NoteId id = log_->Append(
      std::move(request), [kept = std::move(kept), writing = writing_, number = *number, bytes,
                           written = std::move(note.written)](const absl::Status& status) mutable {
        writing->Over(number, bytes, status);
        if (written) std::move(written)(status);
      });
  base::MutexLock lock(writing_->mutex);
  writing_->sizes[id] = static_cast<uint32_t>(bytes);
  return id;
}

std::optional<uint64_t> LogJournal::Writing::Admit(uint64_t bytes, uint64_t max_bytes,
                                                   uint64_t max_pending_bytes) {
  uint64_t taken = 0;
  {
    base::MutexLock lock(mutex);
    const bool fits = used_bytes + bytes <= max_bytes;
    if (fits && pending_bytes + bytes <= max_pending_bytes) {
      used_bytes += bytes;
      pending_bytes += bytes;
      under_way.insert(++last);
      return last;
    }
    ++lost;
    const absl::Time now = absl::Now();
    if (now - dropped_logged < kLogInterval) return std::nullopt;
    dropped_logged = now;
    taken = fits ? 0 : used_bytes;
  }
  if (taken > 0) {
    base::LogWarning("notes of contexts take ", taken, " bytes on the disks, allowed: ", max_bytes,
                     " (nvme_tier.notes_share): contexts that are in use now lose at a restart "
                     "what comes (counted as lost notes)");
  } else {
    base::LogWarning("the disks are behind with ", max_pending_bytes,
                     " bytes of notes of contexts: more are dropped, and missing after a restart "
                     "(counted as lost notes)");
  }
  return std::nullopt;
}

void LogJournal::Writing::Over(uint64_t number, uint64_t bytes, const absl::Status& status) {
  bool first_lost = false;
  std::vector<NoteId> ids;
  {
    base::MutexLock lock(mutex);
    if (!status.ok()) {
      first_lost = lost++ == 0;
      last_error = status;
    }
    pending_bytes -= bytes;
    under_way.erase(number);
    while (!erasures.empty() && AreOver(erasures.front().after)) {
      ids.insert(ids.end(), erasures.front().ids.begin(), erasures.front().ids.end());
      erasures.pop_front();
    }
    changed.NotifyAll();
  }
  if (first_lost) {
    base::LogWarning(
        "a note of the contexts was not written, and will be missing after a restart (later ones "
        "are only counted): ",
        status.message());
  }
  if (!ids.empty()) log->Erase(ids, tier::Sync::kNo, [](const absl::Status&) {});
}

LogJournal::~LogJournal() {
  base::MutexLock lock(writing_->mutex);
  writing_->erasures.clear();
}

absl::Status LogJournal::Sync() {
  base::MutexLock lock(writing_->mutex);
  const uint64_t last = writing_->last;
  while (!writing_->AreOver(last)) writing_->changed.Wait(writing_->mutex);
  return std::exchange(writing_->last_error, absl::OkStatus());
}

uint64_t LogJournal::lost_notes() const {
  base::MutexLock lock(writing_->mutex);
  return writing_->lost;
}

void LogJournal::Erase(std::span<const NoteId> ids) {
  {
    base::MutexLock lock(writing_->mutex);
    for (const NoteId id : ids) {
      const auto size = writing_->sizes.find(id);
      if (size == writing_->sizes.end()) continue;
      writing_->used_bytes -= size->second;
      writing_->sizes.erase(size);
    }
    if (!writing_->AreOver(writing_->last)) {
      writing_->erasures.push_back({writing_->last, {ids.begin(), ids.end()}});
      return;
    }
  }
  log_->Erase(ids, tier::Sync::kNo, [](const absl::Status&) {});
}

absl::Status LogJournal::Recover(Found fn) {
  std::vector<FoundNote> notes = std::exchange(found_, {});
  std::sort(notes.begin(), notes.end(),
            [](const FoundNote& a, const FoundNote& b) { return a.id > b.id; });
  std::vector<NoteId> damaged;
  std::span<const FoundNote> left = notes;
  while (!left.empty()) {
    size_t count = 0;
    for (uint64_t bytes = 0; count < left.size() && count < kBatchNotes; ++count) {
      bytes += Aligned(left[count].payload_bytes);
      if (count > 0 && bytes > kBatchBytes) break;
    }
    Deliver(left.first(count), fn, damaged);
    left = left.subspan(count);
  }
  if (!damaged.empty()) {
    base::LogWarning(damaged.size(), " damaged notes are erased, record ", damaged.front(),
                     " among them");
    Erase(damaged);
  }
  return absl::OkStatus();
}

void LogJournal::Deliver(std::span<const FoundNote> notes, Found fn, std::vector<NoteId>& damaged) {
  uint64_t bytes = 0;
  for (const FoundNote& note : notes) bytes += Aligned(note.payload_bytes);
  const absl::StatusOr<tier::Arena> arena = tier::Arena::Map(std::max<uint64_t>(bytes, 1), false);
  std::vector<absl::Status> read(notes.size(), arena.status());
  std::span<std::byte> memory;
  if (arena.ok()) {
    memory = arena->memory();
    ReadAll(notes, memory, read);
  }
  for (size_t i = 0; i < notes.size(); ++i) {
    const FoundNote& note = notes[i];
    std::string_view bytes_read;
    if (arena.ok()) {
      bytes_read = {reinterpret_cast<const char*>(memory.data()), note.payload_bytes};
      memory = memory.subspan(Aligned(note.payload_bytes));
    }
    const absl::StatusOr<NoteLabel> label = ParseNoteLabel(note.label);
    if (!label.ok()) {
      damaged.push_back(note.id);
      continue;
    }
    std::optional<std::string_view> payload;
    if (read[i].ok()) {
      payload = bytes_read;
      if (label->payload_crc32c != page::Crc32c(payload->data(), payload->size())) {
        damaged.push_back(note.id);
        continue;
      }
    }
    fn(note.id, label->label, payload);
  }
}

void LogJournal::ReadAll(std::span<const FoundNote> notes, std::span<std::byte> memory,
                         std::vector<absl::Status>& read) {
  base::Mutex mutex;
  base::CondVar changed;
  size_t reading = 0;
  for (size_t i = 0; i < notes.size(); ++i) {
    const uint64_t size = Aligned(notes[i].payload_bytes);
    if (size == 0) continue;
    {
      base::MutexLock lock(mutex);
      ++reading;
    }
    log_->Read(notes[i].id, 0, memory.first(size), tier::IoClass::kDemand,
               [&, i](absl::Status status) {
                 base::MutexLock lock(mutex);
                 read[i] = std::move(status);
                 if (--reading == 0) changed.NotifyAll();
               });
    memory = memory.subspan(size);
  }
  base::MutexLock lock(mutex);
  while (reading > 0) changed.Wait(mutex);
}

}  // namespace varve::store
