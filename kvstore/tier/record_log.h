// Records that outlive the process: a log on disks. A record is a label, bytes that say what it is,
// and a payload; the log knows no keys and no policy.
//
// Each record has an id for life: moves inside the log and restarts keep it. Ids grow in the order
// of Append, and none is given twice.
//
// Threads: every method but Recover may be called from any thread. Done functions run exactly once,
// on a thread of the log or of its BlockIo, never under a lock of either: they must be quick and
// may call the log again. The destructor waits for everything that was begun.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvstore/tier/block_io.h"

namespace varve::tier {

using RecordId = uint64_t;  // 0: none

// Whether an operation is over when the system has the bytes (they survive the process), or the
// device (they survive the machine).
enum class Sync : bool { kNo, kYes };

// Reads begin and end at multiples of this, in the payload and in memory.
constexpr size_t kReadAlignment = 4096;

enum class DirectoryState : uint8_t {
  kOk,
  kFull,      // the file system has less room than its capacity: it makes do with what it has
  kReadOnly,  // refuses writes: its records can be read
  kFailed,    // a write failed: no more are tried until a restart; its records can be read
  kDraining,  // its records move to other directories
  kSlow,      // its disk has owed an answer for long: others take what is written, until it comes
  kAbsent,    // belongs to the log and was not there at its start: what it holds is not seen
};

struct DirectoryUsage {
  std::string path;
  DirectoryState state = DirectoryState::kOk;
  std::string problem;          // why the state is not kOk; empty without one
  uint64_t capacity_bytes = 0;  // whole segments
  uint64_t live_bytes = 0;      // of records that were not erased, headers and rounding included
  // Of all directories, from here on.
  uint64_t used_bytes = 0;  // of segments that are not free
  uint64_t segments = 0;
  uint64_t records = 0;
};

// What decides whether one more record may come, of the directories that take writes: quickly told.
struct LogRoom {
  // What records may take, so that room for moving them is left: eviction works against this.
  uint64_t usable_bytes = 0;
  uint64_t live_bytes = 0;
  // Of the usable ones: what is live, what is queued, and what ends of segments waste into which no
  // record fits.
  uint64_t taken_bytes = 0;
  uint64_t pending_bytes = 0;  // appended, not yet written
  bool takes_writes = false;   // a directory does
};

struct LogUsage : LogRoom {
  uint64_t used_bytes = 0;
  uint64_t records = 0;
  // Monotonic.
  uint64_t written_bytes = 0;  // payloads
  uint64_t moved_bytes = 0;    // payloads copied forward by reclaim
  uint64_t reclaimed_segments = 0;
  uint64_t damaged_records = 0;  // found at start: torn, or their bytes changed
  uint64_t write_errors = 0;
  std::vector<DirectoryUsage> directories;
};

class RecordLog {
 public:
  using Done = absl::AnyInvocable<void(absl::Status) &&>;

  struct Recovered {
    RecordId id = 0;
    std::string_view label;
    uint64_t payload_bytes = 0;
  };
  struct AppendRequest {
    std::string label;  // at most kMaxLabelBytes
    // Must live until Done; any alignment; may be empty.
    std::span<const std::byte> payload;
    uint32_t payload_crc32c = 0;
    Sync sync = Sync::kNo;
  };

  virtual ~RecordLog() = default;
  RecordLog(const RecordLog&) = delete;
  RecordLog& operator=(const RecordLog&) = delete;

  // Calls fn for every record that was there at start, in no promised order; label is valid during
  // the call. Once, before any other call.
  virtual absl::Status Recover(absl::FunctionRef<void(const Recovered&)> fn) = 0;

  // The record's id at once; Done when it is written (and synced, when asked). Until then it cannot
  // be read; erased before, it is as if never written. RESOURCE_EXHAUSTED: its bytes do not fit
  // beside the live records; UNAVAILABLE: no directory takes writes now (the message says why);
  // INVALID_ARGUMENT: larger than a segment can hold. Waits for space that reclaim is making.
  virtual RecordId Append(AppendRequest request, Done done) = 0;

  // Payload bytes [offset, offset + to.size()), aligned to kReadAlignment; what lies beyond the
  // payload's end is undefined. NOT_FOUND: no such record; DATA_LOSS: the device failed;
  // INVALID_ARGUMENT: not aligned.
  virtual void Read(RecordId id, uint64_t offset, std::span<std::byte> to, IoClass io_class,
                    Done done) = 0;

  // The records are gone at once, and for good when done. Ids that are no record's are skipped.
  virtual void Erase(std::span<const RecordId> ids, Sync sync, Done done) = 0;

  // Every second or so: sees which directories are slow, and tries full ones again.
  virtual void Tick() = 0;

  virtual LogRoom Room() const = 0;
  virtual LogUsage Usage() const = 0;

  // ---- administration
  // Takes an empty directory. INVALID_ARGUMENT, FAILED_PRECONDITION (in use, or not empty),
  // PERMISSION_DENIED, RESOURCE_EXHAUSTED.
  virtual absl::Status AddDirectory(const std::string& path, uint64_t capacity_bytes) = 0;
  // Moves a directory's records to the others; Done when it is empty and no longer used.
  // RESOURCE_EXHAUSTED: they do not fit there; it is then in use as before. NOT_FOUND;
  // FAILED_PRECONDITION: it drains already, it takes no writes, or no other does; UNAVAILABLE: the
  // log ended first.
  virtual void DrainDirectory(const std::string& path, Done done) = 0;

 protected:
  RecordLog() = default;
};

}  // namespace varve::tier
