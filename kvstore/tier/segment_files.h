// The files of one directory of a log: varve.lock, which this process holds, varve.set, NUMBER.seg,
// and varve.spare, whose bytes a segment takes over when the file system gives no others.
//
// Threads: every method from any thread. Calls block on the file system. Errors: as BlockIo's, by
// what the system answered; messages name the file.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvstore/base/descriptor.h"

namespace varve::tier {

class SegmentFiles {
 public:
  // Makes the directory when its parent exists, and takes it. FAILED_PRECONDITION: another has it;
  // PERMISSION_DENIED: it cannot be written to.
  static absl::StatusOr<std::unique_ptr<SegmentFiles>> Open(const std::string& path);

  const std::string& path() const { return path_; }
  // What a directory is, however it is called. Nothing: there is none, as far as one can see.
  using Identity = std::pair<dev_t, ino_t>;
  static std::optional<Identity> IdentityOf(const std::string& path);
  const std::optional<Identity>& identity() const { return identity_; }
  // For new segments: what O_DIRECT needs, or 4096 when that is not known.
  uint32_t alignment() const { return alignment_; }

  // The numbers of the segments, ascending.
  absl::StatusOr<std::vector<uint64_t>> List() const;
  // A new segment of so many bytes, all of them reserved and zero; its name is durable. The file is
  // the caller's to close.
  absl::StatusOr<int> Create(uint64_t number, uint64_t bytes) const;
  // Reserves so many bytes as the spare file, unless they are. RESOURCE_EXHAUSTED: there is no
  // room.
  absl::Status MakeSpare(uint64_t bytes) const;
  // As Create, of the spare file's bytes. FAILED_PRECONDITION: there is none.
  absl::StatusOr<int> CreateFromSpare(uint64_t number) const;
  // alignment: the segment's; without O_DIRECT where the device needs more. The caller closes it.
  absl::StatusOr<int> OpenSegment(uint64_t number, uint32_t alignment) const;
  // Whether a file of that name is there, and no directory, pipe or the like.
  absl::StatusOr<bool> IsFile(uint64_t number) const;
  // Gives the file a name that List does not know; which, is the answer. Durable when it returns.
  absl::StatusOr<std::string> SetAside(uint64_t number) const;
  // Durable when it returns.
  absl::Status Remove(uint64_t number) const;
  // As Remove, but its bytes are the spare file from then on, in the place of another. Where the
  // file system cannot do that, nothing has happened.
  absl::Status RemoveToSpare(uint64_t number) const;
  // The file that names the log's directories. NOT_FOUND: there is none.
  absl::StatusOr<std::string> ReadSet() const;
  // In its place; durable when it returns.
  absl::Status WriteSet(std::string_view bytes) const;
  // Nothing of the log is left here: that file, the spare one and the lock file too go.
  void Leave() const;

 private:
  SegmentFiles(std::string path, int directory, int lock);
  std::string NameOf(uint64_t number) const;
  void ProbeDirect();
  absl::Status SyncDirectory() const;

  const std::string path_;
  const std::optional<Identity> identity_;
  const base::Descriptor directory_, lock_;
  bool direct_ = false;
  uint32_t alignment_ = 4096;
};

}  // namespace varve::tier
