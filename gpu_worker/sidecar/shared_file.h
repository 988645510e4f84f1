// A file mapped by two processes: the worker makes it and unlinks it, the engine opens it.
//
// Its maker holds a lock on it for as long as it lives, so that what a killed worker left can be
// told from what a running one uses.
//
// RAII: unmapped, and by its maker unlinked, on destruction. The file has mode 0600 and a name that
// cannot be guessed; an engine under another user cannot open it. Pages are touched at once, so
// that a full file system shows here as RESOURCE_EXHAUSTED and not as a SIGBUS later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace varve::worker {

class SharedFile {
 public:
  // A new file `directory/varve-NAME-<random>` of so many bytes, zeroed.
  static absl::StatusOr<std::unique_ptr<SharedFile>> Create(const std::string& directory,
                                                            const std::string& name, size_t bytes);
  struct Swept {
    uint32_t files = 0;
    uint64_t bytes = 0;
  };
  // Unlinks this user's files of these names in the directory whose makers are gone.
  static Swept SweepAbandoned(const std::string& directory, std::span<const char* const> names);
  // An existing file, whole; FAILED_PRECONDITION when its size is not `bytes`.
  static absl::StatusOr<std::unique_ptr<SharedFile>> Open(const std::string& path, size_t bytes,
                                                          bool writable);
  ~SharedFile();
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;

  const std::string& path() const { return path_; }
  // Read-only mappings must not be written through this.
  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  // lock: the maker's open and locked descriptor, -1 without.
  SharedFile(std::string path, std::byte* data, size_t size, int lock)
      : path_(std::move(path)), data_(data), size_(size), lock_(lock) {}

  const std::string path_;
  std::byte* const data_;
  const size_t size_;
  const int lock_;
};

}  // namespace varve::worker
