// Pieces of the tensor memory that an engine shares with its sidecar, handed out to calls under
// way.
//
// Thread-safe. Pieces are aligned to 64 bytes. Take waits while others hold too much. A piece that
// the sidecar may still write is abandoned: nobody gets that memory again.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/base/mutex.h"

namespace varve::worker {

class TensorArena {
 public:
  static constexpr size_t kAlignment = 64;

  class Piece {
   public:
    Piece(TensorArena* arena, size_t offset, size_t bytes)
        : arena_(arena), offset_(offset), bytes_(bytes) {}
    Piece(Piece&& other) noexcept
        : arena_(std::exchange(other.arena_, nullptr)),
          offset_(other.offset_),
          bytes_(other.bytes_) {}
    Piece& operator=(Piece&&) = delete;
    ~Piece() {
      if (arena_ != nullptr) arena_->Release(offset_);
    }
    void Abandon() { arena_ = nullptr; }
    size_t offset() const { return offset_; }
    std::span<std::byte> bytes() const { return arena_->memory_.subspan(offset_, bytes_); }

   private:
    TensorArena* arena_;  // null: moved from or abandoned
    const size_t offset_;
    const size_t bytes_;
  };

  explicit TensorArena(std::span<std::byte> memory) : memory_(memory) {}

  size_t capacity() const { return memory_.size() / kAlignment * kAlignment; }
  // bytes: at most capacity(). RESOURCE_EXHAUSTED when there is no room within the time.
  absl::StatusOr<Piece> Take(size_t bytes, absl::Duration patience);

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
