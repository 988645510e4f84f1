// Append-only rows shared by reference: what forks and snapshots of a context have in common is
// stored once.
//
// A RowList is a value: copying it copies references to chunks. Rows never change once appended, so
// a copy taken under a lock is read without one while others append. Appending writes in place when
// the list's end is also the end of what anybody wrote into its last chunk, and copies that partial
// chunk otherwise (a fork that diverges, an append after a truncate); all full chunks stay shared.
//
// A row is `heads` pieces of head_bytes, given and read as [head][head_bytes]; inside a chunk it
// lies as [head][row][head_bytes], so that the matrix of one head is contiguous. Chunks start at 16
// rows and double up to 512, at fixed row numbers: a small list costs little, and the layout
// depends on nothing but the number of rows.
//
// Threads: RowList is a value without locks; any number of lists may share chunks across threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"

namespace varve::recall {

struct RowFormat {
  uint32_t heads = 1;
  size_t head_bytes = 0;
  size_t row_bytes() const { return heads * head_bytes; }
  friend bool operator==(const RowFormat&, const RowFormat&) = default;
};

// Bytes that chunks may take together. Thread-safe; outlives the chunks.
class ByteBudget {
 public:
  // what is counted ("digests"), and the setting that limits it, for errors: string literals.
  ByteBudget(uint64_t max_bytes, const char* what, const char* setting)
      : max_bytes_(max_bytes), what_(what), setting_(setting) {}
  bool Take(uint64_t bytes);
  void Give(uint64_t bytes) { used_bytes_.fetch_sub(bytes, std::memory_order_relaxed); }
  uint64_t max_bytes() const { return max_bytes_; }
  uint64_t used_bytes() const { return used_bytes_.load(std::memory_order_relaxed); }
  // RESOURCE_EXHAUSTED: `bytes` more do not fit.
  absl::Status Refusal(uint64_t bytes) const;

 private:
  const uint64_t max_bytes_;
  const char* const what_;
  const char* const setting_;
  std::atomic<uint64_t> used_bytes_{0};
};

class RowChunk {
 public:
  static constexpr uint32_t kMinRows = 16;
  static constexpr uint32_t kMaxRows = 512;

  // RESOURCE_EXHAUSTED when the budget or the memory is used up. budget may be null.
  static absl::StatusOr<std::shared_ptr<RowChunk>> Create(const RowFormat& format,
                                                          uint32_t capacity, ByteBudget* budget);
  ~RowChunk();
  RowChunk(const RowChunk&) = delete;
  RowChunk& operator=(const RowChunk&) = delete;

  // Takes rows [begin, end) for writing: false when somebody was there first.
  bool Claim(uint32_t begin, uint32_t end) {
    return claimed_rows_.compare_exchange_strong(begin, end, std::memory_order_relaxed);
  }
  const std::byte* head(uint32_t head) const { return memory_ + head * head_stride_; }
  std::byte* mutable_head(uint32_t head) { return memory_ + head * head_stride_; }

 private:
  RowChunk(const RowFormat& format, uint32_t capacity, std::byte* memory, ByteBudget* budget);

  const size_t head_stride_;
  const size_t bytes_;
  std::byte* const memory_;  // of base::AllocateRows, owned
  ByteBudget* const budget_;
  std::atomic<uint32_t> claimed_rows_{0};
};

class RowList {
 public:
  explicit RowList(const RowFormat& format) : format_(format) {}

  const RowFormat& format() const { return format_; }
  uint32_t rows() const { return rows_; }
  uint64_t bytes() const { return uint64_t{rows_} * format_.row_bytes(); }

  // The first `rows` rows, at most rows().
  RowList Prefix(uint32_t rows) const;
  // This list and `count` more rows, packed [row][head][head_bytes]. On RESOURCE_EXHAUSTED nothing
  // has changed.
  absl::StatusOr<RowList> Append(const std::byte* rows, uint32_t count, ByteBudget* budget) const;
  // Rows [first, first + count), inside the list, packed as for Append.
  void Read(uint32_t first, uint32_t count, std::byte* out) const;
  bool Equals(uint32_t first, uint32_t count, const std::byte* rows) const;

  // Calls fn(const RowChunk&, first row in the chunk, rows, rows before) for each chunk's share of
  // the rows.
  template <typename Fn>
  void ForEachPiece(uint32_t first, uint32_t count, Fn&& fn) const {
    for (uint32_t done = 0; done < count;) {
      const Place place = PlaceOf(first + done);
      const uint32_t here = std::min(count - done, place.capacity - place.row);
      fn(*chunks_[place.chunk], place.row, here, done);
      done += here;
    }
  }

 private:
  struct Place {
    uint32_t chunk = 0;
    uint32_t row = 0;  // in the chunk
    uint32_t capacity = 0;
  };
  static Place PlaceOf(uint32_t row);
  absl::Status MakeWritable(const Place& place, uint32_t count, ByteBudget* budget);

  RowFormat format_;
  uint32_t rows_ = 0;
  std::vector<std::shared_ptr<RowChunk>> chunks_;
};

}  // namespace varve::recall
