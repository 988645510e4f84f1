#include "kvstore/page/mass.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kvstore/page/simd/kernels.h"

namespace varve::page {
namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

// A running log-sum-exp of scaled scores, taken in blocks so that the exponentials vectorise.
class LogSum {
 public:
  explicit LogSum(float scale) : scale_(scale) {}

  void Add(float score) {
    block_[size_++] = score;
    if (size_ == block_.size()) Flush();
  }

  double Value() {
    Flush();
    return total_ == 0 ? kNone : max_ + std::log(total_);
  }

 private:
  void Flush() {
    if (size_ == 0) return;
    const float block_max = Kernels().row_max(block_.data(), size_);
    const double sum = Kernels().exp_and_sum(block_.data(), size_, block_max, scale_);
    const double logit = double{block_max} * scale_;
    const double new_max = std::max(max_, logit);
    total_ = total_ * std::exp(max_ - new_max) + sum * std::exp(logit - new_max);
    max_ = new_max;
    size_ = 0;
  }

  float scale_;
  std::array<float, 256> block_;
  uint32_t size_ = 0;
  double max_ = kNone;
  double total_ = 0;
};

}  // namespace

float DroppedMassBound(std::span<const float> scores, float score_slack,
                       std::span<const uint32_t> selected, float scale, uint32_t page_tokens,
                       float kept_lse) {
  LogSum dropped(scale);
  auto next = selected.begin();
  for (uint32_t page = 0; page < scores.size(); ++page) {
    if (next != selected.end() && *next == page) {
      ++next;
    } else {
      dropped.Add(scores[page]);
    }
  }
  const double log_sum = dropped.Value();
  if (log_sum == kNone) return 0.0f;
  const double log_dropped =
      log_sum + std::log(static_cast<double>(page_tokens)) + double{score_slack} * scale;
  // The vector exponential is good to a few ulp: one part in 10^5 rounds every step up.
  const double share = 1.0 / (1.0 + std::exp(double{kept_lse} - log_dropped));
  return static_cast<float>(std::min(1.0, share * 1.00001));
}

}  // namespace varve::page
