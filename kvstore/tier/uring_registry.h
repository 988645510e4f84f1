// Memory and files that are registered with a ring: operations on them spare the kernel looking
// them up. A refusal is one line of the log; what is not registered has no index.
//
// Not thread-safe: of the ring's thread.
#pragma once

#include <liburing.h>

#include <cstddef>
#include <map>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace varve::tier {

class UringRegistry {
 public:
  // The ring is made before the first call of Add, and its end is that of what is registered.
  // piece_bytes: the kernel takes buffers of at most 1 GiB.
  explicit UringRegistry(io_uring* ring, size_t piece_bytes = size_t{1} << 30)
      : ring_(ring), piece_bytes_(piece_bytes) {}
  UringRegistry(const UringRegistry&) = delete;
  UringRegistry& operator=(const UringRegistry&) = delete;

  // Pins the memory, in pieces.
  void AddBuffer(std::span<std::byte> buffer);
  void RemoveBuffer(std::span<std::byte> buffer);
  void AddFile(int fd);
  void RemoveFile(int fd);

  // The index of the buffer that has all these bytes, or of the file; -1: none.
  int BufferOf(const std::byte* data, size_t bytes) const;
  int FileOf(int fd) const;

 private:
  // Indexes of one of the ring's tables, which is made when the first is asked for.
  class Table {
   public:
    Table(const char* what, unsigned slots, int (*make)(io_uring*, unsigned))
        : what_(what), slots_(slots), make_(make) {}
    // -1: full, or the kernel has refused the table.
    int Take(io_uring* ring);
    void Give(int index) { free_.push_back(index); }
    // Says once that the kernel does not take everything that is there. error: an errno.
    void Refused(int error);

   private:
    const char* const what_;
    const unsigned slots_;
    int (*const make_)(io_uring*, unsigned);
    bool made_ = false, refused_ = false;
    std::vector<int> free_;
  };
  struct Piece {
    size_t bytes = 0;
    int index = -1;
  };

  void AddPiece(std::span<std::byte> piece);
  int SetBuffer(int index, std::span<std::byte> memory);
  int SetFile(int index, int fd);

  io_uring* const ring_;
  const size_t piece_bytes_;
  Table buffer_table_{"memory", 4096, &io_uring_register_buffers_sparse};
  Table file_table_{"files", 1024, &io_uring_register_files_sparse};
  std::map<const std::byte*, Piece> pieces_;  // by their beginning
  absl::flat_hash_map<int, int> files_;       // fd -> index
};

}  // namespace varve::tier
