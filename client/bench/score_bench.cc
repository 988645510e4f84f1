// score: digests of a long context, cold, one core, against the same core's read bandwidth.
#include <cstring>
#include <random>
#include <utility>

#include "client/bench/bench.h"
#include "kvstore/base/status.h"
#include "kvstore/page/bandwidth.h"
#include "kvstore/page/digest/score.h"

namespace varve::client {
namespace {

// Digest units of one (layer) each, together far larger than the last-level cache, visited in turn.
class DigestUnits {
 public:
  DigestUnits(const BenchOptions& options, size_t total_bytes)
      : head_stride_(size_t{options.pages} *
                     page::DigestBytes(page::DigestKind::kMinMax, options.head_dim, kDType)),
        unit_bytes_(head_stride_ * options.kv_heads),
        units_(std::max<size_t>(2, total_bytes / unit_bytes_)),
        memory_(units_ * unit_bytes_ / 2) {
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal;
    const size_t row = 2 * options.head_dim;
    std::vector<uint16_t> pattern(row * 1024);
    for (size_t i = 0; i < pattern.size(); i += row) {
      for (size_t d = 0; d < options.head_dim; ++d) {
        const float a = normal(random), b = normal(random);
        pattern[i + d] = page::F32ToBF16(std::max(a, b));
        pattern[i + options.head_dim + d] = page::F32ToBF16(std::min(a, b));
      }
    }
    for (size_t i = 0; i < memory_.size(); i += pattern.size()) {
      std::memcpy(&memory_[i], pattern.data(), 2 * std::min(pattern.size(), memory_.size() - i));
    }
  }

  static constexpr page::DType kDType = page::DType::kBF16;
  size_t unit_bytes() const { return unit_bytes_; }
  const std::byte* head(size_t unit, uint32_t h) const {
    return reinterpret_cast<const std::byte*>(memory_.data()) + unit % units_ * unit_bytes_ +
           h * head_stride_;
  }
  std::span<const std::byte> all() const { return std::as_bytes(std::span(memory_)); }

 private:
  size_t head_stride_, unit_bytes_, units_;
  std::vector<uint16_t> memory_;
};

}  // namespace

absl::StatusOr<std::vector<BenchRow>> BenchScore(const BenchOptions& options) {
  const DigestUnits digests(options, options.working_set_bytes);
  std::vector<float> queries(size_t{options.kv_heads} * options.group_size * options.head_dim);
  std::mt19937_64 random(11);
  for (float& q : queries) q = std::normal_distribution<float>()(random);
  std::vector<float> raw(size_t{options.group_size} * options.pages);

  std::vector<Contestant> contestants;
  for (const page::ScoreImpl& impl : page::ScoreImpls()) {
    contestants.push_back(
        {std::string(impl.name),
         [&, unit = size_t{0}, fn = impl.fn](double seconds, Series& series) mutable {
           return TimedLoop(seconds, static_cast<double>(digests.unit_bytes()), series, [&] {
             for (uint32_t h = 0; h < options.kv_heads; ++h) {
               const page::DigestMatrix matrix{page::DigestKind::kMinMax,
                                               DigestUnits::kDType,
                                               options.head_dim,
                                               digests.head(unit, h),
                                               2 * options.head_dim * sizeof(uint16_t),
                                               options.pages};
               fn(matrix, queries.data() + size_t{h} * options.group_size * options.head_dim,
                  options.group_size, raw.data());
             }
             ++unit;
             return absl::OkStatus();
           });
         }});
  }
  contestants.push_back({"read_bandwidth", [&](double, Series& series) {
                           series.rate_per_round.push_back(page::ReadBandwidth(digests.all(), 1) *
                                                           1e9);
                           return absl::OkStatus();
                         }});
  VARVE_ASSIGN_OR_RETURN(const auto series, Compete(contestants, options.rounds, options.seconds));

  std::vector<BenchRow> rows;
  for (const page::ScoreImpl& impl : page::ScoreImpls()) {
    const Series& s = series.at(std::string(impl.name));
    BenchRow row =
        MakeRow("score/" + std::string(impl.name), options, digests.unit_bytes(), 1, 1, s);
    row.transport = "-";
    row.extra["ratio_read_bandwidth"] = MedianRatio(s, series.at("read_bandwidth"));
    row.extra["read_bandwidth_gb_per_s"] = series.at("read_bandwidth").rate() / 1e9;
    row.extra["page_heads_per_us"] = s.rate() / static_cast<double>(digests.unit_bytes()) *
                                     options.pages * options.kv_heads / 1e6;
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace varve::client
