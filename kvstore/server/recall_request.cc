#include "kvstore/server/recall_request.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/status.h"
#include "kvstore/server/convert.h"
#include "kvstore/server/transfer.h"

namespace varve::server {
namespace {

size_t SlotBytes(const page::Geometry& geometry, page::Part part) {
  return part == page::Part::kKV ? geometry.page_bytes() : geometry.part_bytes();
}

// Sets the pages of which the values alone travel.
absl::Status SetValues(const varve::v1::HeadRecall& head, uint32_t num_blocks, HeadTarget& target) {
  if (head.values_begin() > head.values_end() || head.values_end() > num_blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("values_begin ", head.values_begin(), " and values_end ", head.values_end(),
                     "; allowed: a range within [0, ", num_blocks, ")"));
  }
  if (head.values_begin() < head.values_end() && target.part != page::Part::kKV) {
    return absl::InvalidArgumentError("values_end with a part; allowed: with PART_KV");
  }
  target.values_begin = head.values_begin();
  target.values_end = head.values_end();
  target.outliers = {head.outliers().data(), static_cast<size_t>(head.outliers_size())};
  return absl::OkStatus();
}

absl::StatusOr<HeadTarget> CheckHead(const Session& session, const recall::ContextSnapshot& context,
                                     const varve::v1::HeadRecall& head) {
  HeadTarget target;
  if (head.skip()) return target;
  VARVE_ASSIGN_OR_RETURN(target.part, ParsePart(head.part()));
  VARVE_RETURN_IF_ERROR(SetValues(head, context.num_blocks, target));
  const size_t needed = SlotBytes(context.options.geometry, target.part);
  if (head.slots_size() > 0 && session.endpoint() == nullptr) {
    return absl::InvalidArgumentError("slots: an inline session has no registered memory");
  }
  target.slots.reserve(head.slots_size());
  for (int i = 0; i < head.slots_size(); ++i) {
    absl::StatusOr<Piece> slot = ResolveRef(session, head.slots(i));
    if (!slot.ok()) return base::Annotate(slot.status(), "slots[" + std::to_string(i) + "]");
    if (slot->bytes < needed) {
      return absl::InvalidArgumentError(
          absl::StrCat("slots[", i, "] of ", slot->bytes, " bytes; a page needs ", needed));
    }
    target.slots.push_back(*std::move(slot));
  }
  return target;
}

absl::Status CheckLayer(const varve::v1::LayerRecall& layer, const page::Geometry& geometry) {
  if (layer.layer() >= geometry.num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", layer.layer(), "; allowed: 0 to ", geometry.num_layers - 1));
  }
  const size_t queries = size_t{geometry.num_query_heads} * geometry.head_dim;
  if (static_cast<size_t>(layer.queries_size()) != queries) {
    return absl::InvalidArgumentError(absl::StrCat(
        layer.queries_size(), " query values; the context has ", geometry.num_query_heads,
        " query heads of ", geometry.head_dim, ": ", queries));
  }
  if (static_cast<uint32_t>(layer.heads_size()) != geometry.num_kv_heads) {
    return absl::InvalidArgumentError(absl::StrCat(layer.heads_size(), " heads; the context has ",
                                                   geometry.num_kv_heads, " KV heads"));
  }
  return absl::OkStatus();
}

absl::Status AddLayer(const varve::v1::LayerRecall& layer, const recall::ContextSnapshot& context,
                      CheckedRecall& out) {
  VARVE_RETURN_IF_ERROR(CheckLayer(layer, context.options.geometry));
  recall::LayerQuery query;
  query.layer = layer.layer();
  query.total_pages = layer.total_pages();
  query.queries = {layer.queries().data(), static_cast<size_t>(layer.queries_size())};
  std::vector<HeadTarget> targets;
  for (int h = 0; h < layer.heads_size(); ++h) {
    const varve::v1::HeadRecall& head = layer.heads(h);
    absl::StatusOr<HeadTarget> target = CheckHead(*out.session, context, head);
    if (!target.ok()) return base::Annotate(target.status(), "heads[" + std::to_string(h) + "]");
    targets.push_back(*std::move(target));
    query.heads.push_back({head.budget_pages(),
                           {head.resident().data(), static_cast<size_t>(head.resident_size())},
                           static_cast<uint32_t>(head.slots_size()),
                           head.skip(),
                           head.floor_pages(),
                           head.ceiling_pages(),
                           {head.outliers().data(), static_cast<size_t>(head.outliers_size())}});
  }
  out.layers.push_back(std::move(query));
  out.targets.push_back(std::move(targets));
  return absl::OkStatus();
}

absl::Status CheckInTime(absl::Time arrived, absl::Time deadline) {
  const absl::Time now = absl::Now();
  if (now < deadline) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat(
      "the request waited ", absl::FormatDuration(now - arrived),
      " for a recall thread; its deadline was ", absl::FormatDuration(deadline - arrived)));
}

}  // namespace

absl::StatusOr<CheckedRecall> CheckRecall(Core& core, absl::Time arrived,
                                          const varve::v1::RecallRequest& request) {
  (request.prefetch() ? core.metrics.fetches_prefetch : core.metrics.fetches_demand)->Increment();
  CheckedRecall checked;
  VARVE_ASSIGN_OR_RETURN(checked.session, RequireSession(core, request.session_id()));
  VARVE_ASSIGN_OR_RETURN(checked.deadline, TransferDeadline(core, arrived, request.deadline_ms()));
  VARVE_RETURN_IF_ERROR(CheckInTime(arrived, checked.deadline));
  VARVE_ASSIGN_OR_RETURN(checked.params.merge, ParseScoreMerge(request.merge()));
  checked.params.epoch = request.epoch();
  checked.params.sinks = request.sinks();
  checked.params.window = request.window();
  checked.params.num_blocks = request.num_blocks();
  checked.params.explain = request.explain();
  checked.params.certify = request.certify();
  checked.params.target = request.target();
  checked.params.hysteresis = request.hysteresis();
  checked.params.score_hot = request.score_hot();
  VARVE_ASSIGN_OR_RETURN(checked.params.rerank, ParseRerank(request.rerank()));
  checked.prefetch = request.prefetch();
  checked.params.alone = request.prefetch();
  if (request.multiplier() != 0) checked.params.multiplier = request.multiplier();
  if (request.layers().empty()) {
    return absl::InvalidArgumentError("no layers; allowed: at least 1 layer");
  }
  VARVE_RETURN_IF_ERROR(CountReject(
      core, "batch_items",
      CheckBatchSize("layers", request.layers_size(), core.config.sessions().max_batch_items())));
  VARVE_ASSIGN_OR_RETURN(const recall::ContextSnapshot context,
                         core.contexts.Get(checked.session->ns(), request.context_id()));
  checked.context = context.options;
  for (int i = 0; i < request.layers_size(); ++i) {
    const absl::Status status = AddLayer(request.layers(i), context, checked);
    if (!status.ok()) return base::Annotate(status, "layers[" + std::to_string(i) + "]");
  }
  return checked;
}

}  // namespace varve::server
