#include "gpu_worker/low_rank_keys.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/page/lowrank/landmark.h"

namespace varve::worker {
namespace {

absl::Status Beyond(uint32_t page, const std::string& wrong) {
  return absl::InvalidArgumentError(absl::StrCat(
      "low-rank keys: page ", page, " without its positions exceeds single precision: ", wrong));
}

}  // namespace

absl::Status CheckLowRank(const Policy& policy, const page::Geometry& geometry) {
  if (!policy.low_rank()) return absl::OkStatus();
  const auto refused = [&](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat("policy ", policy.ToString(), ": ", why));
  };
  if (!geometry.rope.has_value()) {
    return refused(
        "keys are rebuilt at their positions, and the geometry does not state its RoPE parameters: "
        "allowed with geometry.rope");
  }
  const uint32_t width = geometry.num_kv_heads * geometry.head_dim;
  if (width > page::GramAccumulator::kMaxWidth) {
    return refused(absl::StrCat("num_kv_heads * head_dim is ", width, ", allowed: at most ",
                                page::GramAccumulator::kMaxWidth));
  }
  if (policy.rank > width) {
    return refused(absl::StrCat("rank is ", policy.rank, ", allowed: 1..", width,
                                ", num_kv_heads * head_dim of the geometry"));
  }
  return absl::OkStatus();
}

LowRankKeys::LowRankKeys(const page::Geometry& geometry, const Policy& policy,
                         RopePositions* positions)
    : geometry_(geometry),
      rule_{.rank = policy.rank, .energy = policy.energy},
      positions_(positions),
      cosines_(geometry.num_kv_heads),
      outliers_(geometry.num_kv_heads),
      plain_(size_t{geometry.page_tokens} * geometry.num_kv_heads * geometry.head_dim),
      turned_(size_t{geometry.page_tokens} * geometry.head_dim),
      landmark_(geometry.row_bytes()) {}

void LowRankKeys::TurnBack(uint32_t page, std::span<const std::byte* const> keys) {
  const RopePositions::Rows rows = positions_->OfPage(page);
  const uint32_t d = geometry_.head_dim;
  for (uint32_t head = 0; head < keys.size(); ++head) {
    page::UnropeRows(positions_->shape(), rows.cos, rows.sin, geometry_.page_tokens,
                     {keys[head], geometry_.dtype}, {turned_.data(), page::DType::kF32});
    for (uint32_t t = 0; t < geometry_.page_tokens; ++t) {
      std::copy_n(&turned_[size_t{t} * d], d, &plain_[(size_t{t} * keys.size() + head) * d]);
    }
  }
}

absl::Status LowRankKeys::Add(std::span<const std::byte* const> keys) {
  TurnBack(added_, keys);
  if (!gram_.has_value()) gram_.emplace(geometry_.num_kv_heads * geometry_.head_dim);
  if (const auto wrong = gram_->Append(plain_.data(), geometry_.page_tokens, page::DType::kF32)) {
    return Beyond(added_, *wrong);
  }
  ++added_;
  for (uint32_t head = 0; head < keys.size(); ++head) {
    float cosine = -1;
    page::BuildLandmark(keys[head], geometry_.page_tokens, geometry_.head_dim, geometry_.dtype,
                        landmark_.data(), &cosine);
    cosines_[head].push_back(cosine);
  }
  return absl::OkStatus();
}

void LowRankKeys::StartAgain() {
  gram_.reset();
  added_ = 0;
  for (std::vector<float>& cosines : cosines_) cosines.clear();
}

absl::Status LowRankKeys::Fit(uint32_t outlier_pages) {
  if (!gram_.has_value()) return absl::FailedPreconditionError("low-rank keys: no keys were added");
  const std::vector<double> gram = gram_->Matrix();
  if (const auto wrong =
          page::MakeSubspace(gram, gram_->tokens(), geometry_.num_kv_heads, geometry_.head_dim,
                             rule_, geometry_.dtype, subspace_)) {
    return absl::InvalidArgumentError(absl::StrCat("low-rank keys: ", *wrong));
  }
  for (uint32_t head = 0; head < outliers_.size(); ++head) {
    page::ChooseOutliers(cosines_[head], outlier_pages, select_, outliers_[head]);
  }
  gram_.reset();
  return absl::OkStatus();
}

absl::Status LowRankKeys::Project(std::span<const std::byte* const> keys) {
  TurnBack(projected_, keys);
  const size_t block_bytes = geometry_.page_tokens * page::RowBytes(subspace_, geometry_.dtype);
  rows_.resize((size_t{projected_} + 1) * block_bytes);
  if (const auto wrong =
          page::Project(subspace_, plain_.data(), geometry_.page_tokens, page::DType::kF32,
                        geometry_.dtype, rows_.data() + projected_ * block_bytes, &energy_)) {
    return Beyond(projected_, *wrong);
  }
  ++projected_;
  return absl::OkStatus();
}

void LowRankKeys::Rebuild(uint32_t head, uint32_t page, std::byte* keys) {
  const size_t row_bytes = page::RowBytes(subspace_, geometry_.dtype);
  const std::byte* rows = rows_.data() + size_t{page} * geometry_.page_tokens * row_bytes;
  row_list_.clear();
  for (uint32_t t = 0; t < geometry_.page_tokens; ++t) row_list_.push_back(rows + t * row_bytes);
  page::Rebuild(subspace_, head, row_list_, geometry_.dtype, page::DType::kF32, turned_.data(),
                geometry_.head_dim * sizeof(float));
  const RopePositions::Rows turns = positions_->OfPage(page);
  page::RopeRows(positions_->shape(), turns.cos, turns.sin, geometry_.page_tokens,
                 {turned_.data(), page::DType::kF32}, {keys, geometry_.dtype});
}

bool LowRankKeys::IsOutlier(uint32_t head, uint32_t page) const {
  return std::binary_search(outliers_[head].begin(), outliers_[head].end(), page);
}

}  // namespace varve::worker
