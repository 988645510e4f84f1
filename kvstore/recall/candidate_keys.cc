#include "kvstore/recall/candidate_keys.h"

#include <algorithm>
#include <utility>

#include "kvstore/page/object_key.h"
#include "kvstore/recall/context.h"

namespace varve::recall {

CandidateKeys::~CandidateKeys() {
  if (store_ != nullptr) store_->CloseAll(std::move(objects_));
}

void CandidateKeys::Pin(const ObjectSource& source, const RowList& blocks, uint32_t layer,
                        std::span<const uint32_t> pages) {
  pages_.assign(pages.begin(), pages.end());
  std::vector<page::ObjectKey> keys;
  keys.reserve(pages.size());
  for (const uint32_t page : pages) {
    // Blocks of a context have names that make keys.
    keys.push_back(*page::MakeObjectKey(DecodeHashes(blocks, page, 1).front(), layer));
  }
  store_ = source.store;
  objects_ = source.store->Peek(source.ns, keys);
  for (std::unique_ptr<store::GetHandle>& object : objects_) {
    if (object == nullptr) continue;
    if (object->meta().layout != layout_ || object->meta().codec != "raw") object.reset();
  }
}

const std::byte* CandidateKeys::Keys(uint32_t page, uint32_t head) const {
  const auto found = std::lower_bound(pages_.begin(), pages_.end(), page);
  const auto& object = objects_[found - pages_.begin()];
  if (object == nullptr) return nullptr;
  return object->memory().data() + size_t{head} * 2 * layout_.part_bytes;
}

}  // namespace varve::recall
