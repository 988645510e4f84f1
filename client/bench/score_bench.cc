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

constexpr page::DType kDType = page::DType::kBF16;
constexpr uint32_t kPageTokens = 32;
constexpr page::DigestKind kKinds[] = {page::DigestKind::kMinMax, page::DigestKind::kSign1,
                                       page::DigestKind::kSign2, page::DigestKind::kSign4};

// Memory far larger than the last-level cache, which units of one layer each are cut from, visited
// in turn. Its bytes are minmax digests; as a sketch they are some codes, scales and means, whose
// values do not matter to the speed.
class DigestUnits {
 public:
  DigestUnits(const BenchOptions& options, size_t total_bytes)
      : options_(options), memory_(std::max<size_t>(2 * unit_bytes(kKinds[3]), total_bytes) / 2) {
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

  size_t row_bytes(page::DigestKind kind) const {
    return page::DigestBytes(kind, kPageTokens, options_.head_dim, kDType);
  }
  size_t unit_bytes(page::DigestKind kind) const {
    return size_t{options_.pages} * options_.kv_heads * row_bytes(kind);
  }
  page::DigestMatrix Matrix(page::DigestKind kind, size_t unit, uint32_t head) const {
    const size_t units = 2 * memory_.size() / unit_bytes(kind);
    return {.kind = kind,
            .dtype = kDType,
            .head_dim = options_.head_dim,
            .page_tokens = kPageTokens,
            .rows = all().data() + unit % units * unit_bytes(kind) +
                    size_t{head} * options_.pages * row_bytes(kind),
            .row_stride_bytes = row_bytes(kind),
            .num_pages = options_.pages};
  }
  std::span<const std::byte> all() const { return std::as_bytes(std::span(memory_)); }

 private:
  const BenchOptions& options_;
  std::vector<uint16_t> memory_;
};

std::string Name(page::DigestKind kind, const page::ScoreImpl& impl) {
  const std::string name(impl.name);
  if (kind == page::DigestKind::kMinMax) return name;
  return std::string(page::Info(kind).name) + "/" + name;
}

// Layer after layer of one kind.
Contestant ScoreContestant(const BenchOptions& options, const DigestUnits& digests,
                           page::DigestKind kind, const page::ScoreImpl& impl,
                           const std::vector<float>& queries, std::vector<float>& raw) {
  return {Name(kind, impl),
          [&, kind, unit = size_t{0}, fn = impl.fn](double seconds, Series& series) mutable {
            const auto bytes = static_cast<double>(digests.unit_bytes(kind));
            return TimedLoop(seconds, bytes, series, [&] {
              for (uint32_t h = 0; h < options.kv_heads; ++h) {
                fn(digests.Matrix(kind, unit, h),
                   queries.data() + size_t{h} * options.group_size * options.head_dim,
                   options.group_size, raw.data());
              }
              ++unit;
              return absl::OkStatus();
            });
          }};
}

}  // namespace

absl::StatusOr<std::vector<BenchRow>> BenchScore(const BenchOptions& options) {
  const DigestUnits digests(options, options.working_set_bytes);
  std::vector<float> queries(size_t{options.kv_heads} * options.group_size * options.head_dim);
  std::mt19937_64 random(11);
  for (float& q : queries) q = std::normal_distribution<float>()(random);
  std::vector<float> raw(size_t{options.group_size} * options.pages);

  std::vector<Contestant> contestants;
  for (const page::DigestKind kind : kKinds) {
    for (const page::ScoreImpl& impl : page::ScoreImpls()) {
      contestants.push_back(ScoreContestant(options, digests, kind, impl, queries, raw));
    }
  }
  contestants.push_back({"read_bandwidth", [&](double, Series& series) {
                           series.rate_per_round.push_back(page::ReadBandwidth(digests.all(), 1) *
                                                           1e9);
                           return absl::OkStatus();
                         }});
  VARVE_ASSIGN_OR_RETURN(const auto series, Compete(contestants, options.rounds, options.seconds));

  std::vector<BenchRow> rows;
  for (const page::DigestKind kind : kKinds) {
    for (const page::ScoreImpl& impl : page::ScoreImpls()) {
      const Series& s = series.at(Name(kind, impl));
      const size_t bytes = digests.unit_bytes(kind);
      BenchRow row = MakeRow("score/" + Name(kind, impl), options, bytes, 1, 1, s);
      row.transport = "-";
      row.extra["ratio_read_bandwidth"] = MedianRatio(s, series.at("read_bandwidth"));
      row.extra["read_bandwidth_gb_per_s"] = series.at("read_bandwidth").rate() / 1e9;
      row.extra["page_heads_per_us"] =
          s.rate() / static_cast<double>(bytes) * options.pages * options.kv_heads / 1e6;
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

}  // namespace varve::client
