// What the fake store selects and pushes.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "kvstore/base/status.h"
#include "kvstore/page/adaptive.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/mass.h"
#include "kvstore/page/select.h"
#include "tests/support/fake_client.h"

namespace varve::testing {

std::vector<client::RecallHeadResult> FakeClient::RecallHeads(const client::RecallQuery& query,
                                                              const FakeContext& context,
                                                              const client::RecallLayer& layer) {
  const page::Geometry& g = context.geometry;
  const size_t row = page::DigestBytes(context.kind, g);
  const auto* rows = reinterpret_cast<const std::byte*>(context.rows[layer.layer].data());
  const uint32_t n = query.num_blocks;
  const uint32_t group = layer.queries.size() / g.head_dim / g.num_kv_heads;
  std::vector<uint32_t> by_position;
  page::PinnedPages(n, query.sinks, query.window, by_position);
  const size_t heads = layer.heads.size();
  std::vector<std::vector<float>> bounds(heads), all_scores(heads);
  std::vector<page::MassCurve> curves(heads);
  std::vector<page::MassCurve*> all;
  uint64_t total = 0;
  for (size_t head = 0; head < heads; ++head) {
    if (layer.heads[head].skip) continue;
    std::vector<float> raw(size_t{group} * n), scores(n);
    page::ScorePages({context.kind, g.dtype, g.head_dim, g.page_tokens, rows + head * row,
                      row * g.num_kv_heads, n},
                     layer.queries.data() + head * group * g.head_dim, group, raw.data());
    const client::RecallHead& asked = layer.heads[head];
    for (uint32_t q = 0; q < group; ++q) {
      for (uint32_t page : asked.outliers) {
        raw[size_t{q} * n + page] = -std::numeric_limits<float>::infinity();
      }
    }
    bounds[head] = raw;
    page::MergeScores(query.merge, raw.data(), group, n, g.head_dim, scores.data());
    all_scores[head] = scores;
    page::FavourResidents(asked.resident, query.hysteresis, scores);
    std::vector<uint32_t> pinned;
    std::set_union(by_position.begin(), by_position.end(), asked.outliers.begin(),
                   asked.outliers.end(), std::back_inserter(pinned));
    if (query.target > 0) {
      page::MakeMassCurve(scores, pinned, {query.target, asked.floor_pages, asked.ceiling_pages},
                          curves[head]);
    } else {
      page::SelectScratch scratch;
      std::vector<uint32_t>& selected = curves[head].order;
      const auto budget =
          static_cast<uint32_t>(asked.budget_pages + pinned.size() - by_position.size());
      selected.resize(std::max<size_t>(budget, pinned.size()));
      selected.resize(page::SelectPages(scores, pinned, budget, scratch, selected));
      curves[head].budget = static_cast<uint32_t>(selected.size());
    }
    all.push_back(&curves[head]);
    total += asked.budget_pages;
  }
  if (query.target > 0) page::FitTotal(all, layer.total_pages == 0 ? total : layer.total_pages);

  std::vector<client::RecallHeadResult> results(heads);
  for (uint32_t head = 0; head < heads; ++head) {
    if (layer.heads[head].skip) continue;
    client::RecallHeadResult& result = results[head];
    result.selected = page::SelectedPages(curves[head]);
    const bool certify = query.certify && page::Info(context.kind).is_upper_bound;
    for (uint32_t q = 0; certify && q < group; ++q) {
      result.log_dropped_bound.push_back(
          page::LogDroppedBound(std::span(bounds[head]).subspan(size_t{q} * n, n), result.selected,
                                1.0f / std::sqrt(static_cast<float>(g.head_dim)), g.page_tokens));
    }
    const client::RecallHead& asked = layer.heads[head];
    for (uint32_t page : asked.resident) {
      if (query.score_hot) result.resident_scores.push_back(all_scores[head][page]);
    }
    for (uint32_t page : result.selected) {
      if (std::binary_search(asked.resident.begin(), asked.resident.end(), page)) continue;
      client::RecalledPage pushed{.page = page,
                                  .slot = static_cast<uint32_t>(result.recalled.size())};
      if (query.score_hot) result.missing_scores.push_back(all_scores[head][page]);
      if (pushed.slot >= asked.slots.size()) {
        // One row for all without a slot.
        pushed.reason = client::MissReason::kFailed;
        if (!asked.slots.empty()) result.recalled.push_back(pushed);
        break;
      }
      const bool values = asked.ValuesAlone(page);
      client::Piece slot = asked.slots.at(pushed.slot);
      if (values) slot.offset += slot.bytes /= 2;
      const client::GetResult got = GetOne({*page::MakeObjectKey(context.hashes[page], layer.layer),
                                            {values ? page::Part::kV : page::Part::kKV, head, 1},
                                            {slot}});
      pushed.done = got.hit;
      pushed.reason = got.reason;
      result.recalled.push_back(pushed);
    }
  }
  return results;
}

absl::StatusOr<client::RecallResult> FakeClient::Recall(const client::RecallQuery& query,
                                                        const client::OnRecalledLayer& on_layer) {
  base::MutexLock lock(mutex_);
  VARVE_RETURN_IF_ERROR(BeginFetch());
  ++recall_calls_;
  VARVE_ASSIGN_OR_RETURN(FakeContext * context, Find(query.context_id));
  if (query.epoch != context->epoch) return absl::FailedPreconditionError("stale epoch");
  client::RecallResult result;
  for (const client::RecallLayer& layer : query.layers) {
    if (context->digest_blocks[layer.layer] < query.num_blocks) {
      return absl::FailedPreconditionError("too few digests");
    }
    result.layers.push_back(RecallHeads(query, *context, layer));
    if (on_layer != nullptr) on_layer(result.layers.size() - 1, result.layers.back());
  }
  return result;
}

}  // namespace varve::testing
