// Digests of one layer of one sequence: one matrix per KV head (rows = pages, contiguous, as
// page::ScorePages reads them), and the builders of the open page.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "kvstore/base/row_memory.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/geometry.h"

namespace varve::worker {

class DigestTable {
 public:
  DigestTable(page::DigestKind kind, const page::Geometry& geometry);

  uint32_t pages() const { return pages_; }
  page::DigestMatrix Matrix(uint32_t head) const;
  // Of the rows of all heads.
  size_t bytes() const { return rows_.size() * pages_ * row_bytes_; }

  // At least the magnitude of every element of the keys so far; +infinity when the digests that
  // were loaded cannot tell.
  float LargestKeyElement(uint32_t head) const { return largest_[head]; }

  // Adds `tokens` keys [token][head_dim] of the open page. The caller has refused values that are
  // not finite.
  void Append(uint32_t head, const void* keys, uint32_t tokens);
  // Completes the open page of one head from its keys; Advance follows when all heads are sealed.
  void Seal(uint32_t head, const void* keys);
  void Advance() { ++pages_; }

  // Rows of pages [first, first + count) as the store keeps them: [block][kv
  // head][digest].
  std::string Rows(uint32_t first, uint32_t count) const;
  // Takes such rows as the next pages. DATA_LOSS when they are not what this table can hold.
  absl::Status Load(uint32_t first, uint32_t count, std::string_view rows);

 private:
  using RowVector = std::vector<std::byte, base::RowAllocator<std::byte>>;

  const page::DigestKind kind_;
  const page::Geometry geometry_;
  const size_t row_bytes_;  // of one page and head
  uint32_t pages_ = 0;
  std::vector<RowVector> rows_;            // by head
  std::vector<page::DigestBuilder> open_;  // by head
  std::vector<float> largest_;             // by head
};

}  // namespace varve::worker
