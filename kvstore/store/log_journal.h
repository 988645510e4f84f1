// The journal as records of the log, beside those of objects.
//
// Threads: as journal.h. May be destroyed while notes are being written.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/btree_set.h"
#include "kvstore/base/mutex.h"
#include "kvstore/store/journal.h"
#include "kvstore/tier/record_log.h"

namespace varve::store {

class LogJournal final : public Journal {
 public:
  // log outlives this. sync: what notes survive.
  LogJournal(tier::RecordLog* log, tier::Sync sync)
      : log_(log), sync_(sync), writing_(std::make_shared<Writing>(log)) {}
  // Erasures that wait for notes under way are not done any more.
  ~LogJournal() override;

  // At start: a note that the log has.
  void Found(const tier::RecordLog::Recovered& record);

  NoteId Write(std::string label, std::string payload) override;
  void Erase(std::span<const NoteId> ids) override;
  absl::Status Sync() override;
  absl::Status Recover(
      absl::FunctionRef<void(NoteId, std::string_view label, std::string_view payload)> fn)
      override;

  // That could not be written.
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
    void Over(uint64_t number, const absl::Status& status);
    bool AreOver(uint64_t until) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
      return under_way.empty() || *under_way.begin() > until;
    }

    tier::RecordLog* const log;
    base::Mutex mutex;
    base::CondVar changed;
    uint64_t last ABSL_GUARDED_BY(mutex) = 0;
    absl::btree_set<uint64_t> under_way ABSL_GUARDED_BY(mutex);  // with the log
    std::deque<Erasure> erasures ABSL_GUARDED_BY(mutex);         // by `after`
    uint64_t lost ABSL_GUARDED_BY(mutex) = 0;
    absl::Status last_error ABSL_GUARDED_BY(mutex);  // since Sync was called last
  };

  // So many notes at once, in their order.
  void Deliver(std::span<const FoundNote> notes,
               absl::FunctionRef<void(NoteId, std::string_view, std::string_view)> fn);

  tier::RecordLog* const log_;
  std::vector<FoundNote> found_;
  const tier::Sync sync_;
  const std::shared_ptr<Writing> writing_;
};

}  // namespace varve::store
