// Values into files, without a reader ever seeing half of one.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvstore/base/descriptor.h"

namespace varve::varvectl {

// A file being written, piece by piece. One thread at a time.
//
// A regular file, or one that does not exist yet, is written beside its place and renamed over it
// by Commit, following symbolic links; it keeps its mode and, where allowed, its owner, and is as
// it was when Commit did not come or failed. Anything else (a device, a pipe) is opened and written
// to as it is. Errors are FAILED_PRECONDITION with the reason of the system.
class OutputFile {
 public:
  static absl::StatusOr<std::unique_ptr<OutputFile>> Open(const std::string& file);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  absl::Status Write(std::string_view bytes);
  // Once, at the end.
  absl::Status Commit();

 private:
  OutputFile() = default;
  absl::Status Error() const;

  std::string target_;
  std::string part_;  // empty: written in place, or renamed
  std::optional<struct stat> old_;
  std::optional<base::Descriptor> out_;
};

// All of a file; progress: told how many bytes are written.
absl::Status WriteFile(const std::string& file, std::string_view bytes,
                       const std::function<void(uint64_t)>& progress);

}  // namespace varve::varvectl
