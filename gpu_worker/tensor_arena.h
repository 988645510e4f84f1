// Pieces of the tensor memory that an engine shares with its sidecar, handed out to calls under
// way.
//
// Thread-safe. Pieces are aligned to 64 bytes. Take waits while others hold too much.
#pragma once

#include <cstddef>
#include <map>
#include <span>

#include "absl/status/statusor.h"
#include "kvstore/base/mutex.h"

namespace varve::worker {

class TensorArena {
 public:
  static constexpr size_t kAlignment = 64;

  class Piece {
   public:
    Piece(TensorArena* arena, size_t offset, size_t bytes)
        : arena_(arena), offset_(offset), bytes_(bytes) {}
    ~Piece() { arena_->Release(offset_); }
    Piece(const Piece&) = delete;
    Piece& operator=(const Piece&) = delete;
    size_t offset() const { return offset_; }
    std::span<std::byte> bytes() const { return arena_->memory_.subspan(offset_, bytes_); }

   private:
    TensorArena* const arena_;
    const size_t offset_;
    const size_t bytes_;
  };

  explicit TensorArena(std::span<std::byte> memory) : memory_(memory) {}

  size_t capacity() const { return memory_.size() / kAlignment * kAlignment; }
  // bytes: at most capacity().
  Piece Take(size_t bytes);

 private:
  void Release(size_t offset);
  // The lowest gap of so many bytes; capacity() when there is none.
  size_t FindGap(size_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::span<std::byte> memory_;
  base::Mutex mutex_;
  base::CondVar released_;
  std::map<size_t, size_t> taken_ ABSL_GUARDED_BY(mutex_);  // end by offset
};

}  // namespace varve::worker
