#include "gpu_worker/digest_table.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvstore/page/mass.h"
#include "kvstore/page/rows.h"

namespace varve::worker {

DigestTable::DigestTable(page::DigestKind kind, const page::Geometry& geometry)
    : kind_(kind),
      geometry_(geometry),
      row_bytes_(page::DigestBytes(kind, geometry)),
      rows_(geometry.num_kv_heads),
      open_(geometry.num_kv_heads, page::DigestBuilder(kind, geometry.head_dim, geometry.dtype)),
      largest_(geometry.num_kv_heads) {}

page::DigestMatrix DigestTable::Matrix(uint32_t head) const {
  return {.kind = kind_,
          .dtype = geometry_.dtype,
          .head_dim = geometry_.head_dim,
          .page_tokens = geometry_.page_tokens,
          .rows = rows_[head].data(),
          .row_stride_bytes = row_bytes_,
          .num_pages = pages_};
}

void DigestTable::Append(uint32_t head, const void* keys, uint32_t tokens) {
  open_[head].Append(keys, tokens);
  const size_t elements = size_t{tokens} * geometry_.head_dim;
  largest_[head] = std::max(largest_[head], page::MaxMagnitude(keys, elements, geometry_.dtype));
}

void DigestTable::Seal(uint32_t head, const void* keys) {
  RowVector& rows = rows_[head];
  rows.resize((size_t{pages_} + 1) * row_bytes_);
  open_[head].Finish(keys, rows.data() + size_t{pages_} * row_bytes_);
  open_[head].Reset();
}

std::string DigestTable::Rows(uint32_t first, uint32_t count) const {
  std::string out;
  out.reserve(count * rows_.size() * row_bytes_);
  for (uint32_t page = first; page < first + count; ++page) {
    for (const RowVector& rows : rows_) {
      out.append(reinterpret_cast<const char*>(rows.data()) + page * row_bytes_, row_bytes_);
    }
  }
  return out;
}

absl::Status DigestTable::Load(uint32_t first, uint32_t count, std::string_view rows) {
  const size_t block_bytes = rows_.size() * row_bytes_;
  if (first != pages_ || rows.size() != count * block_bytes) {
    return absl::DataLossError(absl::StrCat("digests of blocks ", first, "+", count, " in ",
                                            rows.size(), " bytes, expected from block ", pages_,
                                            ", ", block_bytes, " bytes each"));
  }
  for (uint32_t i = 0; i < count; ++i) {
    if (!page::DigestRowIsSane(kind_, rows.data() + i * block_bytes, geometry_)) {
      return absl::DataLossError(absl::StrCat("digest of block ", first + i, " is not sane"));
    }
    for (size_t head = 0; head < rows_.size(); ++head) {
      const auto* row =
          reinterpret_cast<const std::byte*>(rows.data()) + i * block_bytes + head * row_bytes_;
      rows_[head].insert(rows_[head].end(), row, row + row_bytes_);
      largest_[head] = std::max(
          largest_[head], page::LargestKeyElement(kind_, row, geometry_.head_dim, geometry_.dtype));
    }
  }
  pages_ += count;
  return absl::OkStatus();
}

}  // namespace varve::worker
