#include "kvstore/store/log_journal.h"

#include <algorithm>
#include <utility>

#include "kvstore/base/log.h"
#include "kvstore/base/mutex.h"
#include "kvstore/page/checksum.h"
#include "kvstore/store/record_label.h"
#include "kvstore/tier/arena.h"

namespace varve::store {
namespace {

constexpr uint64_t kBatchBytes = 32 << 20;
constexpr size_t kBatchNotes = 1024;

uint64_t Aligned(uint64_t bytes) {
  return (bytes + tier::kReadAlignment - 1) / tier::kReadAlignment * tier::kReadAlignment;
}

}  // namespace

void LogJournal::Found(const tier::RecordLog::Recovered& record) {
  found_.push_back({record.id, std::string(record.label), record.payload_bytes});
}

NoteId LogJournal::Write(std::string label, std::string payload) {
  tier::RecordLog::AppendRequest request;
  request.payload_crc32c = page::Crc32c(payload.data(), payload.size());
  request.label = EncodeNoteLabel(label, request.payload_crc32c);
  auto kept = std::make_unique<std::string>(std::move(payload));
  request.payload = std::as_bytes(std::span(*kept));
  request.sync = sync_;
  uint64_t number = 0;
  {
    base::MutexLock lock(writing_->mutex);
    number = ++writing_->last;
    writing_->under_way.insert(number);
  }
  return log_->Append(std::move(request),
                      [kept = std::move(kept), writing = writing_,
                       number](const absl::Status& status) { writing->Over(number, status); });
}

void LogJournal::Writing::Over(uint64_t number, const absl::Status& status) {
  bool first_lost = false;
  std::vector<NoteId> ids;
  {
    base::MutexLock lock(mutex);
    if (!status.ok()) {
      first_lost = lost++ == 0;
      last_error = status;
    }
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
    if (!writing_->AreOver(writing_->last)) {
      writing_->erasures.push_back({writing_->last, {ids.begin(), ids.end()}});
      return;
    }
  }
  log_->Erase(ids, tier::Sync::kNo, [](const absl::Status&) {});
}

absl::Status LogJournal::Recover(
    absl::FunctionRef<void(NoteId, std::string_view label, std::string_view payload)> fn) {
  std::vector<FoundNote> notes = std::exchange(found_, {});
  std::sort(notes.begin(), notes.end(),
            [](const FoundNote& a, const FoundNote& b) { return a.id < b.id; });
  std::span<const FoundNote> left = notes;
  while (!left.empty()) {
    size_t count = 0;
    for (uint64_t bytes = 0; count < left.size() && count < kBatchNotes; ++count) {
      bytes += Aligned(left[count].payload_bytes);
      if (count > 0 && bytes > kBatchBytes) break;
    }
    Deliver(left.first(count), fn);
    left = left.subspan(count);
  }
  return absl::OkStatus();
}

void LogJournal::Deliver(std::span<const FoundNote> notes,
                         absl::FunctionRef<void(NoteId, std::string_view, std::string_view)> fn) {
  uint64_t bytes = 0;
  for (const FoundNote& note : notes) bytes += Aligned(note.payload_bytes);
  absl::StatusOr<tier::Arena> arena = tier::Arena::Map(std::max<uint64_t>(bytes, 1), false);
  if (!arena.ok()) {
    base::LogError("notes of the contexts are left out: ", arena.status().message());
    return;
  }
  base::Mutex mutex;
  base::CondVar changed;
  size_t reading = 0;
  std::vector<absl::Status> read(notes.size());
  std::span<std::byte> memory = arena->memory();
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
  {
    base::MutexLock lock(mutex);
    while (reading > 0) changed.Wait(mutex);
  }
  memory = arena->memory();
  for (size_t i = 0; i < notes.size(); ++i) {
    const std::string_view payload(reinterpret_cast<const char*>(memory.data()),
                                   notes[i].payload_bytes);
    memory = memory.subspan(Aligned(notes[i].payload_bytes));
    const absl::StatusOr<NoteLabel> label = ParseNoteLabel(notes[i].label);
    if (read[i].ok() && label.ok() &&
        label->payload_crc32c == page::Crc32c(payload.data(), payload.size())) {
      fn(notes[i].id, label->label, payload);
    } else {
      base::LogWarning("left out a damaged note of the contexts: record ", notes[i].id);
    }
  }
}

}  // namespace varve::store
