// Recall without a transport: the store selects, the client fetches the missing pages inline.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/client_impl.h"
#include "kvstore/base/status.h"

namespace varve::client {
namespace {

// A page to fetch, and where its outcome goes.
struct Fetch {
  GetItem item;
  size_t layer;
  size_t head;
  RecalledPage page;
};

absl::Status CheckSlots(const page::Geometry& geometry, const RecallHead& head) {
  const size_t needed =
      head.part == page::Part::kKV ? geometry.page_bytes() : geometry.part_bytes();
  for (const Piece& slot : head.slots) {
    if (slot.bytes >= needed) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("a slot of ", slot.bytes, " bytes; a page needs ", needed));
  }
  return absl::OkStatus();
}

absl::Status AddFetches(const RecallQuery& query, const ContextInfo& context, size_t l, size_t h,
                        RecallHeadResult& selection, std::vector<Fetch>* fetches) {
  const RecallHead& head = query.layers[l].heads[h];
  std::vector<uint32_t> missing;
  std::set_difference(selection.selected.begin(), selection.selected.end(), head.resident.begin(),
                      head.resident.end(), std::back_inserter(missing));
  VARVE_RETURN_IF_ERROR(CheckSlots(context.geometry, head));
  const size_t count = std::min(missing.size(), head.slots.size());
  selection.recalled.resize(count);
  if (count < missing.size()) {
    // One row for all pages without a slot, as the store has it.
    selection.recalled.push_back(
        {.page = missing[count],
         .slot = static_cast<uint32_t>(count),
         .reason = MissReason::kFailed,
         .message = absl::StrCat("no slot: ", missing.size(), " pages are missing, ", count,
                                 " slots were named")});
  }
  for (uint32_t i = 0; i < count; ++i) {
    if (missing[i] >= context.block_hashes.size()) {
      return absl::FailedPreconditionError(
          absl::StrCat("context ", query.context_id, " was truncated meanwhile"));
    }
    const auto key = page::MakeObjectKey(context.block_hashes[missing[i]], query.layers[l].layer);
    page::Part part = head.part;
    Piece slot = head.slots[i];
    if (head.ValuesAlone(missing[i])) {
      part = page::Part::kV;
      slot.offset += context.geometry.part_bytes();
      slot.bytes -= context.geometry.part_bytes();
    }
    fetches->push_back({{key.value_or(page::ObjectKey()),
                         {.part = part, .head_begin = static_cast<uint32_t>(h), .head_count = 1},
                         {slot}},
                        l,
                        h,
                        {.page = missing[i], .slot = i}});
  }
  return absl::OkStatus();
}

}  // namespace

// The block hashes come with an attachment, which this session keeps (client.h says so).
absl::Status ClientImpl::FetchRecalled(const RecallQuery& query, RecallResult* selection) {
  VARVE_ASSIGN_OR_RETURN(const ContextInfo context, AttachContext(query.context_id));
  if (context.epoch != query.epoch) {
    return absl::FailedPreconditionError(absl::StrCat("context ", query.context_id, " is at epoch ",
                                                      context.epoch, ", the recall named epoch ",
                                                      query.epoch));
  }
  std::vector<Fetch> fetches;
  for (size_t l = 0; l < selection->layers.size() && l < query.layers.size(); ++l) {
    for (size_t h = 0; h < selection->layers[l].size() && h < query.layers[l].heads.size(); ++h) {
      if (query.layers[l].heads[h].slots.empty()) continue;
      VARVE_RETURN_IF_ERROR(AddFetches(query, context, l, h, selection->layers[l][h], &fetches));
    }
  }
  std::vector<GetItem> items;
  items.reserve(fetches.size());
  for (const Fetch& fetch : fetches) items.push_back(fetch.item);
  VARVE_ASSIGN_OR_RETURN(std::vector<GetResult> results, Get(items));
  for (size_t i = 0; i < fetches.size(); ++i) {
    RecalledPage page = fetches[i].page;
    page.done = results[i].hit;
    page.reason = results[i].reason;
    page.message = std::move(results[i].message);
    selection->layers[fetches[i].layer][fetches[i].head].recalled[page.slot] = std::move(page);
  }
  return absl::OkStatus();
}

}  // namespace varve::client
