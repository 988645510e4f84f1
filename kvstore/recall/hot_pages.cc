#include "kvstore/recall/hot_pages.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"

namespace varve::recall {
namespace {

absl::Status CheckAscending(const char* field, size_t entry, std::span<const uint32_t> pages,
                            uint32_t num_blocks) {
  for (size_t i = 0; i < pages.size(); ++i) {
    if (pages[i] < num_blocks && (i == 0 || pages[i] > pages[i - 1])) continue;
    return absl::InvalidArgumentError(absl::StrCat("hot[", entry, "].", field, "[", i, "] is ",
                                                   pages[i], ", allowed: ascending page ids below ",
                                                   num_blocks, ", each once"));
  }
  return absl::OkStatus();
}

absl::Status CheckEntry(const page::Geometry& geometry, uint32_t num_blocks, size_t entry,
                        const HotPages& hot) {
  const auto check = [entry](const char* field, uint32_t value, uint32_t count) {
    if (value < count) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("hot[", entry, "].", field, " is ", value, ", allowed: 0..", count - 1));
  };
  VARVE_RETURN_IF_ERROR(check("layer", hot.layer, geometry.num_layers));
  VARVE_RETURN_IF_ERROR(check("kv_head", hot.kv_head, geometry.num_kv_heads));
  VARVE_RETURN_IF_ERROR(CheckAscending("attended", entry, hot.attended, num_blocks));
  VARVE_RETURN_IF_ERROR(CheckAscending("others", entry, hot.others, num_blocks));
  for (const uint32_t page : hot.others) {
    if (!std::binary_search(hot.attended.begin(), hot.attended.end(), page)) continue;
    return absl::InvalidArgumentError(absl::StrCat("hot[", entry, "].others has page ", page,
                                                   ", allowed: pages that attended has not"));
  }
  return absl::OkStatus();
}

std::vector<uint32_t> PagesBelow(std::span<const uint32_t> pages, uint32_t end) {
  return {pages.begin(), std::lower_bound(pages.begin(), pages.end(), end)};
}

}  // namespace

absl::Status CheckHotPages(const page::Geometry& geometry, uint32_t num_blocks,
                           std::span<const HotPages> hot) {
  uint64_t pages = 0;
  for (const HotPages& entry : hot) pages += entry.attended.size() + entry.others.size();
  if (pages > kMaxHotPages) {
    return absl::InvalidArgumentError(
        absl::StrCat("hot has ", pages, " pages, allowed: ", kMaxHotPages));
  }
  for (size_t i = 0; i < hot.size(); ++i) {
    VARVE_RETURN_IF_ERROR(CheckEntry(geometry, num_blocks, i, hot[i]));
    if (i == 0 ||
        std::pair(hot[i].layer, hot[i].kv_head) > std::pair(hot[i - 1].layer, hot[i - 1].kv_head)) {
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("hot[", i, "] is of layer ", hot[i].layer, ", KV head ", hot[i].kv_head,
                     ", allowed: ascending by layer and KV head, each once"));
  }
  return absl::OkStatus();
}

std::shared_ptr<const KeptHotPages> KeptHotPages::Keep(std::vector<HotPages> hot,
                                                       ByteBudget* budget) {
  uint64_t bytes = hot.size() * sizeof(HotPages);
  for (const HotPages& entry : hot) {
    bytes += (entry.attended.size() + entry.others.size()) * sizeof(uint32_t);
  }
  if (!budget->Take(bytes)) return nullptr;
  return std::shared_ptr<const KeptHotPages>(new KeptHotPages(std::move(hot), bytes, budget));
}

std::vector<HotPages> KeptHotPages::Below(uint32_t end) const {
  std::vector<HotPages> below;
  for (const HotPages& entry : hot_) {
    HotPages kept{entry.layer, entry.kv_head, PagesBelow(entry.attended, end),
                  PagesBelow(entry.others, end)};
    if (!kept.attended.empty() || !kept.others.empty()) below.push_back(std::move(kept));
  }
  return below;
}

}  // namespace varve::recall
