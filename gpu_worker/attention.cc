#include "gpu_worker/attention.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kvstore/page/mass.h"
#include "kvstore/page/rows.h"

namespace varve::worker {
page::AttentionShape ShapeOf(const page::Geometry& geometry) {
  return {geometry.group_size(), geometry.head_dim, geometry.dtype,
          1.0f / std::sqrt(static_cast<float>(geometry.head_dim))};
}

Attention::Attention(const Services* services)
    : services_(services), shape_(ShapeOf(services->options.geometry)), lse_(shape_.group_size) {}

absl::Status Attention::Run(HeadWork& work) {
  const Sequence& sequence = *work.sequence;
  views_.clear();
  const auto add = [&](uint32_t page) {
    const Slot slot = work.hot().slot(page);
    if (slot == kNoSlot) return false;
    views_.push_back(services_->pool->ViewOf(slot, sequence.PageTokens(work.layer, page)));
    return true;
  };
  bool resident = true;
  for (uint32_t page : work.selected()) resident = add(page) && resident;
  const uint32_t total = sequence.TotalPages(work.layer);
  for (uint32_t page = work.candidates; page < total; ++page) resident = add(page) && resident;
  if (!resident) {
    return absl::InternalError(absl::StrCat("sequence ", sequence.id(), ", layer ", work.layer,
                                            ", KV head ", work.head,
                                            ": a page to attend is not resident"));
  }
  if (views_.empty()) {
    return absl::DataLossError(absl::StrCat("sequence ", sequence.id(), ", layer ", work.layer,
                                            ", KV head ", work.head,
                                            ": every page that could be attended to is lost"));
  }
  float* lse = work.lse != nullptr ? work.lse : lse_.data();
  page::AttendPages(shape_, work.q, views_, work.out, lse);
  const size_t outputs = size_t{shape_.group_size} * shape_.head_dim;
  if (page::AllFinite(lse, shape_.group_size, page::DType::kF32) &&
      page::AllFinite(work.out, outputs, page::DType::kF32)) {
    Certify(work, lse);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("sequence ", sequence.id(), ", layer ", work.layer, ", KV head ", work.head,
                   ": the attention overflows single precision; queries times keys, and values, "
                   "must stay within it"));
}

void Attention::Certify(HeadWork& work, const float* lse) const {
  const uint32_t group = shape_.group_size;
  const auto pages = static_cast<uint32_t>(views_.size());
  const float largest = work.cache->digests.LargestKeyElement(work.head);
  const auto mean_kept = [&](std::span<const float> log_dropped,
                             bool proven) -> std::optional<double> {
    if (log_dropped.size() != group) return std::nullopt;
    double kept = 0;
    for (uint32_t g = 0; g < group; ++g) {
      const std::span<const float> q(work.q + size_t{g} * shape_.head_dim, shape_.head_dim);
      const float slack = proven ? page::LogitSlack(q, largest, shape_.scale) : 0;
      kept += (1.0 - page::DroppedShare(log_dropped[g], lse[g], pages, slack)) / group;
    }
    return kept;
  };
  work.kept_bound = mean_kept(work.log_dropped_bound, /*proven=*/true);
  work.kept_estimate = mean_kept(work.log_dropped_estimate, /*proven=*/false);
}

}  // namespace varve::worker
