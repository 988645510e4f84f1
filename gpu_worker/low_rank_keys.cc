#include "gpu_worker/low_rank_keys.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/page/lowrank/landmark.h"
#include "kvstore/page/lowrank/memory.h"

namespace varve::worker {
namespace {

constexpr uint32_t kTokensAtOnce = 192;  // rebuilt, as floats: they stay in the cache

absl::Status Beyond(uint32_t page, const std::string& wrong) {
  return absl::InvalidArgumentError(absl::StrCat(
      "low-rank keys: page ", page, " without its positions exceeds single precision: ", wrong));
}

// Keys near the greatest number of fp16 may come back a little beyond it.
void KeepFinite(const page::Geometry& geometry, std::byte* keys) {
  if (geometry.dtype != page::DType::kF16) return;
  constexpr uint16_t kSign = 0x8000, kInfinity = 0x7c00, kGreatest = 0x7bff;
  auto* const bits = reinterpret_cast<uint16_t*>(keys);
  for (uint32_t i = 0; i < geometry.page_tokens * geometry.head_dim; ++i) {
    if ((bits[i] & ~kSign) == kInfinity) bits[i] = (bits[i] & kSign) | kGreatest;
  }
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

uint64_t FormulaBytes(const Policy& policy, const page::Geometry& geometry, uint32_t budget_pages,
                      uint32_t window_tokens, uint64_t tokens) {
  const auto pages = [budget_pages](double multiple) {
    return static_cast<uint32_t>(std::ceil(multiple * budget_pages));
  };
  const page::LowRankShape shape = {.num_kv_heads = geometry.num_kv_heads,
                                    .head_dim = geometry.head_dim,
                                    .rank = policy.rank,
                                    .chunk_tokens = geometry.page_tokens,
                                    .dtype = geometry.dtype,
                                    .rows_dtype = geometry.dtype,
                                    .basis_dtype = geometry.dtype,
                                    .id_bytes = 0,
                                    .outlier_chunks = pages(policy.outliers),
                                    .budget_tokens = pages(policy.hot) * geometry.page_tokens,
                                    .window_tokens = window_tokens};
  return page::LowRankMemory(shape, tokens).total();
}

LowRankKeys::LowRankKeys(const page::Geometry& geometry, const Policy& policy,
                         RopePositions* positions)
    : geometry_(geometry),
      rule_{.rank = policy.rank, .energy = policy.energy},
      refresh_{.min_tokens = std::max<uint64_t>(page::RefreshRule{}.min_tokens,
                                                geometry.num_kv_heads * geometry.head_dim),
               .residual_share = policy.refresh},
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
  segments_.clear();
  for (std::vector<uint32_t>& outliers : outliers_) outliers.clear();
  added_ = 0;
  for (std::vector<float>& cosines : cosines_) cosines.clear();
}

absl::Status LowRankKeys::Fit(uint32_t outlier_pages, const page::SymmetricSolver& solver) {
  if (!gram_.has_value()) return absl::FailedPreconditionError("low-rank keys: no keys were added");
  Segment segment;
  const std::vector<double> gram = gram_->Matrix();
  if (const auto wrong =
          page::MakeSubspace(gram, gram_->tokens(), geometry_.num_kv_heads, geometry_.head_dim,
                             rule_, geometry_.dtype, segment.subspace, solver)) {
    return absl::InvalidArgumentError(absl::StrCat("low-rank keys: ", *wrong));
  }
  segments_.assign(1, std::move(segment));
  for (uint32_t head = 0; head < outliers_.size(); ++head) {
    page::ChooseOutliers(cosines_[head], outlier_pages, select_, outliers_[head]);
  }
  gram_.reset();
  return absl::OkStatus();
}

absl::Status LowRankKeys::Project(std::span<const std::byte* const> keys) {
  if (refit_ != nullptr) AdoptRefit();
  TurnBack(projected_, keys);
  Segment& segment = segments_.back();
  const size_t block_bytes = BlockBytes(segment);
  const uint32_t block = projected_ - segment.first_page;
  if (block == segment.rows.size() * kPagesOfRows) {
    segment.rows.emplace_back(kPagesOfRows * block_bytes);
  }
  page::ProjectionEnergy energy;
  if (const auto wrong =
          page::Project(segment.subspace, plain_.data(), geometry_.page_tokens, page::DType::kF32,
                        geometry_.dtype,
                        segment.rows.back().data() + block % kPagesOfRows * block_bytes, &energy)) {
    return Beyond(projected_, *wrong);
  }
  if (gram_.has_value()) {
    if (const auto wrong = gram_->Append(plain_.data(), geometry_.page_tokens, page::DType::kF32)) {
      return Beyond(projected_, *wrong);
    }
  }
  energy_.Add(energy);
  // What the subspace was made of tells nothing new.
  if (projected_ >= added_ && refresh_.residual_share < 1) recent_.Add(energy);
  ++projected_;
  return absl::OkStatus();
}

std::shared_ptr<Refit> LowRankKeys::TakeRefit() {
  if (recent_.tokens < refresh_.min_tokens) return nullptr;
  const bool due = refresh_.Due(subspace(), recent_);
  recent_ = {};
  // Most sequences never need a Gram matrix again, so it is of the next tokens, not of these.
  if (due && !gram_.has_value()) {
    gram_.emplace(geometry_.num_kv_heads * geometry_.head_dim);
    return nullptr;
  }
  if (due) {
    refit_ = std::make_shared<Refit>(gram_->Matrix(), gram_->tokens(), subspace(), rule_);
    // A subspace fits the tokens that it is of better than any others, the fewer they are the more:
    // where that alone looks like news, twice as many come to an end of it.
    refresh_.min_tokens *= 2;
  }
  gram_.reset();
  return refit_;
}

void LowRankKeys::AdoptRefit() {
  // Where none could be made, the old one stays.
  if (refit_->made_.rank > 0) {
    segments_.push_back({.subspace = std::move(refit_->made_), .first_page = projected_});
  }
  refit_.reset();
}

absl::StatusOr<double> Refit::Run(const page::SymmetricSolver& solver) {
  page::AddKept(from_, tokens_, gram_);
  const auto wrong = page::MakeSubspace(gram_, 2 * tokens_, from_.num_kv_heads, from_.head_dim,
                                        rule_, from_.dtype, made_, solver);
  gram_ = {};
  // What the old one had dropped of its tokens is not in the matrix.
  const double dropped =
      from_.discarded_energy * static_cast<double>(tokens_) / static_cast<double>(from_.tokens);
  made_.total_energy += dropped;
  made_.discarded_energy += dropped;
  const double share = 1 - made_.kept_share();
  done_.store(true, std::memory_order_release);
  if (wrong.has_value()) return absl::InternalError(*wrong);
  return share;
}

const std::byte* LowRankKeys::RowsOf(const Segment& segment, uint32_t page) const {
  const uint32_t block = page - segment.first_page;
  return segment.rows[block / kPagesOfRows].data() + block % kPagesOfRows * BlockBytes(segment);
}

const LowRankKeys::Segment& LowRankKeys::SegmentOf(uint32_t page) const {
  const auto after = std::upper_bound(
      segments_.begin(), segments_.end(), page,
      [](uint32_t page, const Segment& segment) { return page < segment.first_page; });
  return *std::prev(after);
}

void LowRankKeys::Rebuild(uint32_t head, std::span<const PageKeys> pages,
                          RebuildScratch& scratch) const {
  scratch.rows.resize(std::max<size_t>(scratch.rows.size(), kTokensAtOnce));
  scratch.plain.resize(size_t{kTokensAtOnce} * geometry_.head_dim);
  while (!pages.empty()) {
    const Segment& segment = SegmentOf(pages.front().page);
    const size_t row_bytes = page::RowBytes(segment.subspace, geometry_.dtype);
    size_t rows = 0, count = 0;
    for (; count < pages.size() && rows + geometry_.page_tokens <= kTokensAtOnce; ++count) {
      if (&SegmentOf(pages[count].page) != &segment) break;
      const std::byte* row = RowsOf(segment, pages[count].page);
      for (uint32_t t = 0; t < geometry_.page_tokens; ++t, row += row_bytes) {
        scratch.rows[rows++] = row;
      }
    }
    page::Rebuild(segment.subspace, head, std::span(scratch.rows).first(rows), geometry_.dtype,
                  page::DType::kF32, scratch.plain.data(), geometry_.head_dim * sizeof(float));
    const float* plain = scratch.plain.data();
    for (const PageKeys& page : pages.first(count)) {
      const RopePositions::Rows turns = positions_->OfPage(page.page);
      page::RopeRows(positions_->shape(), turns.cos, turns.sin, geometry_.page_tokens,
                     {plain, page::DType::kF32}, {page.keys, geometry_.dtype});
      KeepFinite(geometry_, page.keys);
      plain += size_t{geometry_.page_tokens} * geometry_.head_dim;
    }
    pages = pages.subspan(count);
  }
}

size_t LowRankKeys::row_bytes() const {
  size_t bytes = 0;
  for (size_t i = 0; i < segments_.size(); ++i) {
    const uint32_t end = i + 1 < segments_.size() ? segments_[i + 1].first_page : projected_;
    bytes += (end - segments_[i].first_page) * BlockBytes(segments_[i]);
  }
  return bytes;
}

size_t LowRankKeys::basis_bytes() const {
  size_t bytes = 0;
  for (const Segment& segment : segments_) bytes += segment.subspace.basis.size();
  return bytes;
}

bool LowRankKeys::IsOutlier(uint32_t head, uint32_t page) const {
  return std::binary_search(outliers_[head].begin(), outliers_[head].end(), page);
}

}  // namespace varve::worker
