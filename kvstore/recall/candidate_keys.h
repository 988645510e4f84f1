// The keys of a layer's candidate pages, where the store has them in memory, pinned while somebody
// reads them.
//
// Threads: Pin on one thread; then Keys from any. The page store outlives it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kvstore/page/geometry.h"
#include "kvstore/recall/shared_rows.h"
#include "kvstore/store/page_store.h"

namespace varve::recall {

// Where the objects of a context are.
struct ObjectSource {
  store::PageStore* store = nullptr;
  store::NamespaceId ns = 0;
};

class CandidateKeys {
 public:
  explicit CandidateKeys(const page::Geometry& geometry)
      : layout_{geometry.num_kv_heads, static_cast<uint32_t>(geometry.part_bytes())} {}
  ~CandidateKeys();
  CandidateKeys(const CandidateKeys&) = delete;
  CandidateKeys& operator=(const CandidateKeys&) = delete;

  // Once. pages: ascending, below the rows of blocks. For no use: policies do not hear of it.
  void Pin(const ObjectSource& source, const RowList& blocks, uint32_t layer,
           std::span<const uint32_t> pages);
  // [page_tokens][head_dim] of a page that was named to Pin; null: not in memory, or not of this
  // geometry.
  const std::byte* Keys(uint32_t page, uint32_t head) const;

 private:
  const page::ObjectLayout layout_;
  store::PageStore* store_ = nullptr;
  std::vector<uint32_t> pages_;
  std::vector<std::unique_ptr<store::GetHandle>> objects_;  // parallel to pages_
};

}  // namespace varve::recall
