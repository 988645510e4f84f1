// The journal as records of the log, beside those of objects.
//
// Threads: as journal.h. May be destroyed while notes are being written.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "kvstore/base/mutex.h"
#include "kvstore/store/journal.h"
#include "kvstore/tier/record_log.h"

namespace varve::store {

struct LogJournalOptions {
  tier::Sync sync = tier::Sync::kNo;      // what notes survive
  double max_share = 0.25;                // of what the log can use
  uint64_t max_pending_bytes = 64 << 20;  // given to the log and not yet written
};

class LogJournal final : public Journal {
 public:
  // log outlives this.
  LogJournal(tier::RecordLog* log, const LogJournalOptions& options)
      : log_(log), options_(options), writing_(std::make_shared<Writing>(log)) {}
  // Erasures that wait for notes under way are not done any more.
  ~LogJournal() override;

  // At start: a note that the log has.
  void Add(const tier::RecordLog::Recovered& record);

  NoteId Write(Note note) override;
  void Erase(std::span<const NoteId> ids) override;
  absl::Status Sync() override;
  absl::Status Recover(Found fn) override;
  Room GetRoom() const override;

  // That could not be written, or were dropped. Monotonic.
  uint64_t lost_notes() const;

 private:
  struct FoundNote {
    tier::RecordId id = 0;
    std::string label;
    uint64_t payload_bytes = 0;
  };
  struct Erasure {
    uint64_t after = 0;  // this note and all before it
    std::vector<NoteId> ids;
  };
  // What outlives this. Notes are numbered as they are written: their ids come later.
  struct Writing {
    explicit Writing(tier::RecordLog* to) : log(to) {}
    // Note `number` is over: erases what has waited for it.
    void Over(uint64_t number, uint64_t bytes, const absl::Status& status);
    bool AreOver(uint64_t until) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
      return under_way.empty() || *under_way.begin() > until;
    }

    // The number of a note that is about to be written; none: it is dropped.
    std::optional<uint64_t> Admit(uint64_t bytes, uint64_t max_bytes, uint64_t max_pending_bytes);

    tier::RecordLog* const log;
    base::Mutex mutex;
    base::CondVar changed;
    uint64_t last ABSL_GUARDED_BY(mutex) = 0;
    absl::btree_set<uint64_t> under_way ABSL_GUARDED_BY(mutex);  // with the log
    std::deque<Erasure> erasures ABSL_GUARDED_BY(mutex);         // by `after`
    uint64_t pending_bytes ABSL_GUARDED_BY(mutex) = 0;
    uint64_t used_bytes ABSL_GUARDED_BY(mutex) = 0;
    absl::flat_hash_map<NoteId, uint32_t> sizes
        ABSL_GUARDED_BY(mutex);  // in bytes on disk, lost ones included
    uint64_t lost ABSL_GUARDED_BY(mutex) = 0;
    absl::Time dropped_logged ABSL_GUARDED_BY(mutex) = absl::InfinitePast();
    absl::Status last_error ABSL_GUARDED_BY(mutex);  // since Sync was called last
  };

  uint64_t MaxBytes() const;
  // So many notes at once, in their order. Adds those that are damaged.
  void Deliver(std::span<const FoundNote> notes, Found fn, std::vector<NoteId>& damaged);
  // One after the other into memory.
  void ReadAll(std::span<const FoundNote> notes, std::span<std::byte> memory,
               std::vector<absl::Status>& read);

  tier::RecordLog* const log_;
  std::vector<FoundNote> found_;
  const LogJournalOptions options_;
  const std::shared_ptr<Writing> writing_;
};

}  // namespace varve::store
