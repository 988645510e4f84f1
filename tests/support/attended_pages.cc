#include "tests/support/attended_pages.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"

namespace varve::testing {
namespace {

// The page of the text that starts with the slot's first key.
absl::StatusOr<uint32_t> PageIn(std::span<const std::byte> pool, int32_t slot,
                                const RandomText& text, uint32_t tokens, uint32_t layer,
                                uint32_t head) {
  const page::Geometry& g = text.geometry();
  const std::byte* data = pool.data() + static_cast<size_t>(slot) * g.page_bytes();
  for (uint32_t page = 0; page * g.page_tokens < tokens; ++page) {
    const uint32_t valid = std::min(g.page_tokens, tokens - page * g.page_tokens);
    const std::string bytes = text.Page(layer, head, page);
    const size_t rows = valid * g.row_bytes();
    const char* expected = bytes.data();
    if (std::memcmp(data, expected, rows) == 0 &&
        std::memcmp(data + g.part_bytes(), expected + g.part_bytes(), rows) == 0) {
      return page;
    }
  }
  return absl::InternalError(absl::StrCat("slot ", slot, " of layer ", layer, ", KV head ", head,
                                          " holds no page of the text"));
}

}  // namespace

absl::StatusOr<std::vector<std::vector<uint32_t>>> AttendedPages(const worker::Worker& worker,
                                                                 std::span<const std::byte> pool,
                                                                 const RandomText& text,
                                                                 const Feeder& feeder,
                                                                 uint32_t layer) {
  const worker::SequenceId id = feeder.id();
  VARVE_ASSIGN_OR_RETURN(const worker::PageTable table, worker.ExportPageTable(layer, {&id, 1}));
  std::vector<std::vector<uint32_t>> pages(text.geometry().num_kv_heads);
  for (uint32_t head = 0; head < pages.size(); ++head) {
    for (int32_t i = table.indptr[head]; i < table.indptr[head + 1]; ++i) {
      VARVE_ASSIGN_OR_RETURN(const uint32_t page,
                             PageIn(pool, table.indices[i], text, feeder.tokens(), layer, head));
      if (!pages[head].empty() && page <= pages[head].back()) {
        return absl::InternalError(absl::StrCat("page ", page, " after ", pages[head].back()));
      }
      pages[head].push_back(page);
    }
  }
  return pages;
}

}  // namespace varve::testing
