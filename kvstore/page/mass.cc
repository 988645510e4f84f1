#include "kvstore/page/mass.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kvstore/page/rows.h"
#include "kvstore/page/simd/kernels.h"

namespace varve::page {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// The vector exponential is good to a few ulp, and a block's sum to a few more.
constexpr double kExpError = 1e-5;
constexpr double kUlp = 0x1p-24;
constexpr float kSmallest = std::numeric_limits<float>::min();

float RoundUp(double value) {
  const auto rounded = static_cast<float>(value);
  return rounded < value ? std::nextafter(rounded, std::numeric_limits<float>::infinity())
                         : rounded;
}

// What PageLogMass may be below the logarithm of what it summed.
float RoundUpMass(float log_mass) {
  return RoundUp(double{log_mass} + kExpError + 4 * kUlp * std::abs(double{log_mass}));
}

// Log of a sum of exp(scale * value), rounded up. Taken in blocks, so that the exponentials
// vectorise. A value that is NaN or infinite makes the sum infinite.
class LogSum {
 public:
  explicit LogSum(float scale) : scale_(scale) {}

  void Add(std::span<const float> values) {
    while (!values.empty()) {
      const size_t count = std::min(values.size(), block_.size() - size_);
      std::copy_n(values.begin(), count, block_.begin() + size_);
      size_ += count;
      values = values.subspan(count);
      if (size_ == block_.size()) Flush();
    }
  }

  float Value() {
    Flush();
    if (total_ == 0) return static_cast<float>(-kInfinity);
    return RoundUp(max_ + std::log(total_) + kExpError);
  }

 private:
  void Flush() {
    if (size_ == 0) return;
    if (!AllFinite(block_.data(), size_, DType::kF32)) {
      max_ = total_ = kInfinity;
    } else if (max_ != kInfinity) {
      const float block_max = Kernels().row_max(block_.data(), size_);
      const double sum = Kernels().exp_and_sum(block_.data(), size_, block_max, scale_);
      const double logit = double{block_max} * scale_;
      const double new_max = std::max(max_, logit);
      total_ = total_ * std::exp(max_ - new_max) + sum * std::exp(logit - new_max);
      max_ = new_max;
    }
    size_ = 0;
  }

  float scale_;
  std::array<float, 256> block_;
  size_t size_ = 0;
  double max_ = -kInfinity;
  double total_ = 0;
};

// Calls fn(begin, end) for the runs of [0, count) between the selected ones.
template <typename Fn>
void ForEachUnselected(size_t count, std::span<const uint32_t> selected, Fn&& fn) {
  size_t begin = 0;
  for (const uint32_t page : selected) {
    if (page > begin) fn(begin, page);
    begin = page + 1;
  }
  if (count > begin) fn(begin, count);
}

// Calls fn(index in known) for those that are not selected.
template <typename Fn>
void ForEachUnselectedOf(std::span<const uint32_t> known, std::span<const uint32_t> selected,
                         Fn&& fn) {
  auto next = selected.begin();
  for (size_t i = 0; i < known.size(); ++i) {
    next = std::lower_bound(next, selected.end(), known[i]);
    if (next == selected.end() || *next != known[i]) fn(i);
  }
}

}  // namespace

float LogAdd(float a, float b) {
  const double max = std::max(a, b);
  const double difference = std::abs(double{a} - b);
  // NaN: both are the same infinity.
  return std::isnan(difference) ? a : RoundUp(max + std::log1p(std::exp(-difference)));
}

float LargestKeyElement(DigestKind kind, const void* row, uint32_t head_dim, DType dtype) {
  if (Info(kind).vectors == 2 && Info(kind).is_upper_bound) {
    return MaxMagnitude(row, size_t{2} * head_dim, dtype);
  }
  if (kind != DigestKind::kSphere) return std::numeric_limits<float>::infinity();
  return RoundUp(MaxMagnitude(row, head_dim, dtype) +
                 double{kRadiusScale} * LoadAsF32(row, dtype, head_dim));
}

float LogDroppedBound(std::span<const float> scores, std::span<const uint32_t> selected,
                      float scale, uint32_t page_tokens) {
  LogSum dropped(scale);
  ForEachUnselected(scores.size(), selected, [&](size_t begin, size_t end) {
    dropped.Add(scores.subspan(begin, end - begin));
  });
  return RoundUp(double{dropped.Value()} + std::log(static_cast<double>(page_tokens)));
}

float LogDroppedBound(std::span<const float> scores, std::span<const uint32_t> known,
                      std::span<const float> log_mass, std::span<const uint32_t> selected,
                      float scale, uint32_t page_tokens) {
  const double log_tokens = std::log(static_cast<double>(page_tokens));
  LogSum dropped(1);
  auto next = known.begin();
  ForEachUnselected(scores.size(), selected, [&](size_t begin, size_t end) {
    for (size_t page = begin; page < end; ++page) {
      float bound = RoundUp(double{scores[page]} * scale + log_tokens);
      next = std::lower_bound(next, known.end(), page);
      if (next != known.end() && *next == page) {
        bound = std::min(bound, RoundUpMass(log_mass[static_cast<size_t>(next - known.begin())]));
      }
      dropped.Add({&bound, 1});
    }
  });
  return dropped.Value();
}

float LogDroppedMass(std::span<const uint32_t> known, std::span<const float> log_mass,
                     std::span<const uint32_t> selected) {
  double max = -kInfinity;
  ForEachUnselectedOf(known, selected, [&](size_t i) { max = std::max(max, double{log_mass[i]}); });
  double sum = 0;
  ForEachUnselectedOf(known, selected, [&](size_t i) { sum += std::exp(log_mass[i] - max); });
  return static_cast<float>(sum == 0 ? -kInfinity : max + std::log(sum));
}

float LogitSlack(std::span<const float> q, float largest_key, float scale) {
  double norm = 0;
  for (const float value : q) norm += std::abs(double{value});
  // score.h: 4 * head_dim * 2^-24 of sum |q_i| |k_i|, and products that may count as zero.
  const auto dims = static_cast<double>(q.size());
  return RoundUp((4 * dims * kUlp * norm * largest_key + dims * 0x1p-116) * scale);
}

float DroppedShare(float log_dropped, float kept_lse, uint32_t kept_pages, float slack) {
  if (log_dropped == -kInfinity) return 0.0f;
  // AttendPages adds up page by page in single precision.
  const double kept_error =
      kExpError + 4 * kUlp * (static_cast<double>(kept_pages) + std::abs(double{kept_lse}));
  const double most = double{log_dropped} + slack;
  const double least = double{kept_lse} - kept_error - slack;
  const double share = 1.0 / (1.0 + std::exp(least - most));
  if (std::isnan(share)) return 1.0f;  // nothing is known of infinite sums
  // The double arithmetic rounds too, down to nothing at its smallest.
  return RoundUp(std::min(1.0, std::max(share * (1 + 1e-12), double{kSmallest})));
}

}  // namespace varve::page
