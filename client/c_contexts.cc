// The C interface: contexts, digests and recall.
#include <algorithm>
#include <utility>

#include "client/c_api.h"
#include "kvstore/base/status.h"

using varve::client::Adopt;
using varve::client::AdoptAt;
using varve::client::Guarded;
using varve::client::NullError;

struct varve_recall_result {
  varve::client::RecallResult result;
  std::vector<std::vector<std::vector<varve_recalled_page>>> pages;  // [layer][head]
};

namespace varve::client {
namespace {

absl::Status CheckCall(const varve_client* client, const char* id) {
  if (client == nullptr) return NullError("client");
  if (id == nullptr) return NullError("id");
  return absl::OkStatus();
}

// Before the call is made: what was done cannot be told as an error.
absl::Status CheckInfo(const varve_context_info* info) {
  if (info == nullptr) return absl::OkStatus();
  return Adopt(info, info->struct_size, "varve_context_info").status();
}

absl::Status GiveInfo(const absl::StatusOr<ContextInfo>& answer, varve_context_info* info) {
  VARVE_RETURN_IF_ERROR(answer.status());
  if (info == nullptr) return absl::OkStatus();
  StoreAt(varve_context_info{.struct_size = 0,
                             .attached = answer->attached ? 1u : 0u,
                             .num_blocks = answer->num_blocks,
                             .epoch = answer->epoch,
                             .attached_sessions = answer->attached_sessions,
                             .digest_bytes = answer->digest_bytes},
          info, 0);
  return absl::OkStatus();
}

// Our enumerations are narrower than C's: what they have not stays wrong, and is refused later.
template <typename Enum, typename Given>
Enum Narrow(Given given) {
  static_assert(sizeof(Enum) == 1);
  return static_cast<Enum>(std::min(static_cast<unsigned>(given), 255u));
}

page::RopeParameters ToRope(const varve_rope& given) {
  return {.theta = given.theta,
          .rotary_dim = given.rotary_dim,
          .pairing = static_cast<page::RopePairing>(given.pairing),
          .scaling = static_cast<page::RopeScaling>(given.scaling),
          .factor = given.factor,
          .low_freq_factor = given.low_freq_factor,
          .high_freq_factor = given.high_freq_factor,
          .original_max_position = given.original_max_position,
          .arithmetic = {.angles = static_cast<page::RopeAngles>(given.angles),
                         .table = Narrow<page::DType>(given.table),
                         .rotation = static_cast<page::RopeRotation>(given.rotation)}};
}

absl::StatusOr<page::Geometry> ToGeometry(const varve_geometry& given) {
  page::Geometry geometry{.num_layers = given.num_layers,
                          .num_kv_heads = given.num_kv_heads,
                          .num_query_heads = given.num_query_heads,
                          .head_dim = given.head_dim,
                          .page_tokens = given.page_tokens,
                          .dtype = Narrow<page::DType>(given.dtype)};
  if (given.rope != nullptr) {
    VARVE_ASSIGN_OR_RETURN(const varve_rope rope,
                           Adopt(given.rope, given.rope->struct_size, "varve_rope"));
    if (rope.reserved != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("varve_rope.reserved is ", rope.reserved, ", allowed: 0"));
    }
    geometry.rope = ToRope(rope);
  }
  return geometry;
}

absl::StatusOr<RecallHead> ToHead(const varve_recall_head& given) {
  if (given.resident == nullptr && given.num_resident > 0)
    return NullError("varve_recall_head.resident");
  if (given.outliers == nullptr && given.num_outliers > 0)
    return NullError("varve_recall_head.outliers");
  RecallHead head;
  head.budget_pages = given.budget_pages;
  head.floor_pages = given.floor_pages;
  head.ceiling_pages = given.ceiling_pages;
  head.resident.assign(given.resident, given.resident + given.num_resident);
  head.outliers.assign(given.outliers, given.outliers + given.num_outliers);
  head.values_begin = given.values_begin;
  head.values_end = given.values_end;
  VARVE_ASSIGN_OR_RETURN(head.slots,
                         ToPieces(given.slots, given.num_slots, "varve_recall_head.slots"));
  VARVE_ASSIGN_OR_RETURN(head.part, ToPart(given.part));
  return head;
}

absl::StatusOr<RecallLayer> ToLayer(const varve_recall_layer& given) {
  if (given.queries == nullptr && given.num_queries > 0)
    return NullError("varve_recall_layer.queries");
  if (given.heads == nullptr && given.num_heads > 0) return NullError("varve_recall_layer.heads");
  RecallLayer layer;
  layer.layer = given.layer;
  layer.total_pages = given.total_pages;
  layer.queries = {given.queries, given.num_queries};
  for (size_t h = 0; h < given.num_heads; ++h) {
    VARVE_ASSIGN_OR_RETURN(const varve_recall_head head,
                           AdoptAt(given.heads, h, "varve_recall_head"));
    VARVE_ASSIGN_OR_RETURN(layer.heads.emplace_back(), ToHead(head));
  }
  return layer;
}

absl::StatusOr<RecallQuery> ToQuery(const varve_recall_query& given) {
  if (given.context_id == nullptr) return NullError("varve_recall_query.context_id");
  if (given.layers == nullptr && given.num_layers > 0)
    return NullError("varve_recall_query.layers");
  RecallQuery query;
  query.context_id = given.context_id;
  query.epoch = given.epoch;
  if (given.merge != VARVE_MERGE_SOFTMAX_MEAN) query.merge = Narrow<page::ScoreMerge>(given.merge);
  query.sinks = given.sinks;
  query.window = given.window;
  query.num_blocks = given.num_blocks;
  query.rerank = Narrow<page::Rerank>(given.rerank);
  if (given.multiplier != 0) query.multiplier = given.multiplier;
  query.target = given.target;
  query.hysteresis = given.hysteresis;
  for (size_t l = 0; l < given.num_layers; ++l) {
    VARVE_ASSIGN_OR_RETURN(const varve_recall_layer layer,
                           AdoptAt(given.layers, l, "varve_recall_layer"));
    VARVE_ASSIGN_OR_RETURN(query.layers.emplace_back(), ToLayer(layer));
  }
  return query;
}

std::vector<std::vector<std::vector<varve_recalled_page>>> ToPages(const RecallResult& result) {
  std::vector<std::vector<std::vector<varve_recalled_page>>> pages;
  for (const auto& heads : result.layers) {
    auto& layer = pages.emplace_back();
    for (const RecallHeadResult& head : heads) {
      auto& list = layer.emplace_back();
      for (const RecalledPage& page : head.recalled) {
        list.push_back(
            {page.page, page.slot, page.done ? 1u : 0u, static_cast<varve_miss>(page.reason)});
      }
    }
  }
  return pages;
}

absl::Status CheckIndexes(const varve_recall_result* result, size_t layer, size_t head) {
  if (result == nullptr) return NullError("result");
  const auto& layers = result->result.layers;
  if (layer < layers.size() && head < layers[layer].size()) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat(
      "layer ", layer, ", head ", head, " is outside of the recall's ", layers.size(), " layers"));
}

}  // namespace
}  // namespace varve::client

extern "C" {

varve_status varve_context_open(varve_client* client, const char* id,
                                const varve_geometry* geometry, varve_digest digest,
                                varve_context_info* info) {
  return Guarded([&]() -> absl::Status {
    VARVE_RETURN_IF_ERROR(varve::client::CheckCall(client, id));
    VARVE_RETURN_IF_ERROR(varve::client::CheckInfo(info));
    if (geometry == nullptr) return NullError("geometry");
    VARVE_ASSIGN_OR_RETURN(const varve_geometry own,
                           Adopt(geometry, geometry->struct_size, "varve_geometry"));
    VARVE_ASSIGN_OR_RETURN(const varve::page::Geometry shape, varve::client::ToGeometry(own));
    return varve::client::GiveInfo(
        client->client->OpenContext(id, shape,
                                    varve::client::Narrow<varve::page::DigestKind>(digest)),
        info);
  });
}

varve_status varve_context_append(varve_client* client, const char* id, uint32_t first_block,
                                  const void* block_hashes, size_t hash_bytes, size_t count,
                                  varve_context_info* info) {
  return Guarded([&]() -> absl::Status {
    VARVE_RETURN_IF_ERROR(varve::client::CheckCall(client, id));
    VARVE_RETURN_IF_ERROR(varve::client::CheckInfo(info));
    if (block_hashes == nullptr && count > 0) return NullError("block_hashes");
    std::vector<std::string> hashes;
    for (size_t i = 0; i < count; ++i) {
      hashes.emplace_back(static_cast<const char*>(block_hashes) + i * hash_bytes, hash_bytes);
    }
    return varve::client::GiveInfo(client->client->AppendContext(id, first_block, hashes), info);
  });
}

varve_status varve_context_attach(varve_client* client, const char* id, varve_context_info* info) {
  return Guarded([&]() -> absl::Status {
    VARVE_RETURN_IF_ERROR(varve::client::CheckCall(client, id));
    VARVE_RETURN_IF_ERROR(varve::client::CheckInfo(info));
    return varve::client::GiveInfo(client->client->AttachContext(id), info);
  });
}

varve_status varve_context_park(varve_client* client, const char* id, varve_context_info* info) {
  return Guarded([&]() -> absl::Status {
    VARVE_RETURN_IF_ERROR(varve::client::CheckCall(client, id));
    VARVE_RETURN_IF_ERROR(varve::client::CheckInfo(info));
    return varve::client::GiveInfo(client->client->ParkContext(id), info);
  });
}

varve_status varve_context_fork(varve_client* client, const char* id, const char* new_id,
                                uint32_t num_blocks, varve_context_info* info) {
  return Guarded([&]() -> absl::Status {
    VARVE_RETURN_IF_ERROR(varve::client::CheckCall(client, id));
    VARVE_RETURN_IF_ERROR(varve::client::CheckInfo(info));
    if (new_id == nullptr) return NullError("new_id");
    return varve::client::GiveInfo(client->client->ForkContext(id, new_id, num_blocks), info);
  });
}

varve_status varve_context_truncate(varve_client* client, const char* id, uint32_t num_blocks,
                                    varve_context_info* info) {
  return Guarded([&]() -> absl::Status {
    VARVE_RETURN_IF_ERROR(varve::client::CheckCall(client, id));
    VARVE_RETURN_IF_ERROR(varve::client::CheckInfo(info));
    return varve::client::GiveInfo(client->client->TruncateContext(id, num_blocks), info);
  });
}

varve_status varve_context_drop(varve_client* client, const char* id) {
  return Guarded([&]() -> absl::Status {
    VARVE_RETURN_IF_ERROR(varve::client::CheckCall(client, id));
    return client->client->DropContext(id);
  });
}

varve_status varve_send_digests(varve_client* client, const char* id, uint32_t epoch,
                                uint32_t layer, uint32_t first_block, uint32_t num_blocks,
                                const void* rows, size_t row_bytes) {
  return Guarded([&]() -> absl::Status {
    VARVE_RETURN_IF_ERROR(varve::client::CheckCall(client, id));
    if (rows == nullptr) return NullError("rows");
    return client->client->SendDigests(id, epoch, layer, first_block, num_blocks,
                                       std::string(static_cast<const char*>(rows), row_bytes),
                                       absl::Now());
  });
}

varve_status varve_recall(varve_client* client, const varve_recall_query* query,
                          varve_recall_result** result) {
  return Guarded([&]() -> absl::Status {
    if (client == nullptr) return NullError("client");
    if (query == nullptr || result == nullptr) return NullError("query and result");
    VARVE_ASSIGN_OR_RETURN(const varve_recall_query given,
                           Adopt(query, query->struct_size, "varve_recall_query"));
    VARVE_ASSIGN_OR_RETURN(const varve::client::RecallQuery own, varve::client::ToQuery(given));
    VARVE_ASSIGN_OR_RETURN(varve::client::RecallResult answer, client->client->Recall(own));
    auto pages = varve::client::ToPages(answer);
    *result = new varve_recall_result{std::move(answer), std::move(pages)};
    return absl::OkStatus();
  });
}

varve_status varve_recall_selected(const varve_recall_result* result, size_t layer, size_t head,
                                   const uint32_t** pages, size_t* count) {
  return Guarded([&]() -> absl::Status {
    VARVE_RETURN_IF_ERROR(varve::client::CheckIndexes(result, layer, head));
    if (pages == nullptr || count == nullptr) return NullError("pages and count");
    const std::vector<uint32_t>& selected = result->result.layers[layer][head].selected;
    *pages = selected.data();
    *count = selected.size();
    return absl::OkStatus();
  });
}

varve_status varve_recall_pages(const varve_recall_result* result, size_t layer, size_t head,
                                const varve_recalled_page** pages, size_t* count) {
  return Guarded([&]() -> absl::Status {
    VARVE_RETURN_IF_ERROR(varve::client::CheckIndexes(result, layer, head));
    if (pages == nullptr || count == nullptr) return NullError("pages and count");
    const std::vector<varve_recalled_page>& list = result->pages[layer][head];
    *pages = list.data();
    *count = list.size();
    return absl::OkStatus();
  });
}

void varve_recall_free(varve_recall_result* result) { delete result; }

}  // extern "C"
