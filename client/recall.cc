// Recall: one exchange on a long-lived stream.
#include <functional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/client_impl.h"
#include "client/prefetch_calls.h"
#include "kvstore/base/status.h"

namespace varve::client {
namespace {

bool WantsPages(const RecallQuery& query) {
  for (const RecallLayer& layer : query.layers) {
    for (const RecallHead& head : layer.heads) {
      if (!head.slots.empty()) return true;
    }
  }
  return false;
}

void AddTimings(const RecallTimings& part, RecallTimings& whole) {
  whole.queue_us = part.queue_us;
  whole.score_us += part.score_us;
  whole.select_us += part.select_us;
  whole.rerank_us += part.rerank_us;
  whole.locate_us += part.locate_us;
  whole.transfer_us += part.transfer_us;
  whole.total_us = part.total_us;
}

}  // namespace

absl::Status ErrorIn(const v1::RecallReply& reply) {
  if (reply.error().empty() && reply.error_code() == 0) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(reply.error_code());
  return absl::Status(code == absl::StatusCode::kOk ? absl::StatusCode::kUnknown : code,
                      reply.error());
}

absl::StatusOr<v1::RecallRequest> ClientImpl::RecallRequestFor(const RecallQuery& query) const {
  v1::RecallRequest request;
  request.set_context_id(query.context_id);
  request.set_epoch(query.epoch);
  request.set_merge(ToProto(query.merge));
  request.set_sinks(query.sinks);
  request.set_window(query.window);
  request.set_num_blocks(query.num_blocks);
  request.set_explain(query.explain);
  request.set_certify(query.certify);
  request.set_target(query.target);
  request.set_hysteresis(query.hysteresis);
  request.set_score_hot(query.score_hot);
  request.set_rerank(static_cast<v1::Rerank>(query.rerank));
  request.set_multiplier(query.multiplier);
  request.set_deadline_ms(transfer_deadline_ms());
  request.set_prefetch(PrefetchCalls::On());
  for (const RecallLayer& layer : query.layers) {
    v1::LayerRecall* wire = request.add_layers();
    wire->set_layer(layer.layer);
    wire->set_total_pages(layer.total_pages);
    wire->mutable_queries()->Add(layer.queries.begin(), layer.queries.end());
    for (size_t h = 0; h < layer.heads.size(); ++h) {
      const RecallHead& head = layer.heads[h];
      v1::HeadRecall* wire_head = wire->add_heads();
      if (head.skip) {
        wire_head->set_skip(true);
        continue;
      }
      wire_head->set_budget_pages(head.budget_pages);
      wire_head->set_floor_pages(head.floor_pages);
      wire_head->set_ceiling_pages(head.ceiling_pages);
      wire_head->mutable_resident()->Add(head.resident.begin(), head.resident.end());
      wire_head->set_part(static_cast<v1::Part>(head.part));
      wire_head->mutable_outliers()->Add(head.outliers.begin(), head.outliers.end());
      wire_head->set_values_begin(head.values_begin);
      wire_head->set_values_end(head.values_end);
      if (inline_only()) continue;  // FetchRecalled fills the slots
      VARVE_RETURN_IF_ERROR(AppendRefs(
          &session_, head.slots,
          [&] { return absl::StrCat("layer ", layer.layer, ", head ", h, ": slots"); },
          wire_head->mutable_slots()));
    }
  }
  return request;
}

absl::StatusOr<RecallResult> ClientImpl::Recall(const RecallQuery& query,
                                                const OnRecalledLayer& on_layer) {
  VARVE_ASSIGN_OR_RETURN(v1::RecallRequest request, RecallRequestFor(query));
  const uint64_t tag = next_recall_tag_.fetch_add(1);
  request.set_tag(tag);
  // Inline pages come after the answer anyway.
  if (on_layer != nullptr && !inline_only())
    return RecallByLayer(query, std::move(request), on_layer);
  VARVE_ASSIGN_OR_RETURN(const v1::RecallReply reply,
                         ExchangeInSession(recalls_, std::move(request), tag));
  RecallResult result = FromProto(reply);
  if (inline_only() && WantsPages(query)) VARVE_RETURN_IF_ERROR(FetchRecalled(query, &result));
  for (size_t l = 0; on_layer != nullptr && l < result.layers.size(); ++l) {
    on_layer(l, result.layers[l]);
  }
  return result;
}

absl::StatusOr<RecallResult> ClientImpl::RecallByLayer(const RecallQuery& query,
                                                       v1::RecallRequest request,
                                                       const OnRecalledLayer& on_layer) {
  RecallResult whole;
  whole.layers.resize(query.layers.size());
  std::vector<bool> answered(query.layers.size());
  const std::function<void(v1::RecallReply)> take = [&](const v1::RecallReply& reply) {
    RecallResult part = FromProto(reply);
    AddTimings(part.timings, whole.timings);
    for (int i = 0; i < reply.layers_size(); ++i) {
      size_t l = 0;
      while (l < answered.size() &&
             (answered[l] || query.layers[l].layer != reply.layers(i).layer())) {
        ++l;
      }
      if (l == answered.size()) continue;  // not asked for
      answered[l] = true;
      whole.layers[l] = std::move(part.layers[i]);
      on_layer(l, whole.layers[l]);
    }
  };
  const uint64_t tag = request.tag();
  request.set_by_layer(true);
  VARVE_ASSIGN_OR_RETURN(const v1::RecallReply last,
                         ExchangeInSession(recalls_, std::move(request), tag, take));
  take(last);
  for (size_t l = 0; l < answered.size(); ++l) {
    if (answered[l]) continue;
    return absl::InternalError(
        absl::StrCat("the store did not answer for layer ", query.layers[l].layer));
  }
  return whole;
}

}  // namespace varve::client
