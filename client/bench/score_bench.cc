// score: digests of a long context and the second stage over a quarter of its pages, cold, one
// core, against the same core's read bandwidth.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>

#include "client/bench/bench.h"
#include "kvstore/base/status.h"
#include "kvstore/page/attention.h"
#include "kvstore/page/bandwidth.h"
#include "kvstore/page/digest/score.h"

namespace varve::client {
namespace {

constexpr page::DType kDType = page::DType::kBF16;
constexpr uint32_t kPageTokens = 32;
constexpr page::DigestKind kKinds[] = {page::DigestKind::kMinMax, page::DigestKind::kSign1,
                                       page::DigestKind::kSign2, page::DigestKind::kSign4};

// Memory far larger than the last-level cache, which units of one layer each are cut from, visited
// in turn. Its bytes are minmax digests; as keys they are some keys, as a sketch some codes, scales
// and means, whose values do not matter to the speed.
class DigestUnits {
 public:
  DigestUnits(const BenchOptions& options, size_t total_bytes)
      : options_(options),
        memory_(std::max<size_t>({2 * unit_bytes(kKinds[3]), object_bytes(), total_bytes}) / 2) {
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
  // K and V of a page, all KV heads.
  size_t object_bytes() const {
    return size_t{2} * kPageTokens * options_.head_dim * page::DTypeBytes(kDType) *
           options_.kv_heads;
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

// What every contestant has in common. The read bandwidth is measured right before and after each
// of its rounds, over memory of the same kind: a shared machine changes from second to second.
struct Bench {
  const BenchOptions& options;
  const DigestUnits& digests;
  std::vector<float> queries;  // [kv_heads][group_size][head_dim]
  std::vector<float> raw;      // [group_size][pages]
  std::map<std::string, Series> limits;
  size_t limit_at = 0;

  const float* QueriesOf(uint32_t head) const {
    return queries.data() + size_t{head} * options.group_size * options.head_dim;
  }

  // GB/s over the next part of the memory.
  double Limit() {
    constexpr size_t kPart = 32 << 20;
    const std::span<const std::byte> all = digests.all();
    const size_t bytes = std::min(kPart, all.size());
    limit_at = limit_at + bytes > all.size() ? 0 : limit_at;
    const double rate = page::ReadBandwidth(all.subspan(limit_at, bytes), 1);
    limit_at += bytes;
    return rate * 1e9;
  }
};

// One call of run(unit) reads `bytes`.
Contestant MakeContestant(Bench& bench, const std::string& name, double bytes,
                          std::function<void(size_t unit)> run) {
  return {name, [&bench, name, bytes, run = std::move(run), unit = size_t{0}](
                    double seconds, Series& series) mutable {
            const double before = bench.Limit();
            const absl::Status status = TimedLoop(seconds, bytes, series, [&] {
              run(unit++);
              return absl::OkStatus();
            });
            // The rounds of the limit are parallel to those of the series, of which the first is
            // thrown away.
            std::vector<double>& limits = bench.limits[name].rate_per_round;
            limits.resize(series.rate_per_round.size());
            if (!limits.empty()) limits.back() = (before + bench.Limit()) / 2;
            return status;
          }};
}

// Layer after layer of one kind.
Contestant ScoreContestant(Bench& bench, page::DigestKind kind, const page::ScoreImpl& impl) {
  const auto bytes = static_cast<double>(bench.digests.unit_bytes(kind));
  return MakeContestant(bench, Name(kind, impl), bytes, [&bench, kind, fn = impl.fn](size_t unit) {
    for (uint32_t h = 0; h < bench.options.kv_heads; ++h) {
      fn(bench.digests.Matrix(kind, unit, h), bench.QueriesOf(h), bench.options.group_size,
         bench.raw.data());
    }
  });
}

// The second stage as the store calls it: every fourth page, chosen at random, in ascending order.
// Their objects, K and V of all KV heads, lie anywhere; sketches lie where the first stage finds
// them.
constexpr uint32_t kCandidateShare = 4;

class Candidates {
 public:
  explicit Candidates(const BenchOptions& options) : count_(options.pages / kCandidateShare) {
    std::mt19937_64 random(13);
    std::vector<uint32_t> pages(options.pages);
    std::iota(pages.begin(), pages.end(), 0u);
    places_ = pages;
    std::shuffle(places_.begin(), places_.end(), random);
    for (uint32_t h = 0; h < options.kv_heads; ++h) {
      std::shuffle(pages.begin(), pages.end(), random);
      chosen_.emplace_back(pages.begin(), pages.begin() + count_);
      std::sort(chosen_.back().begin(), chosen_.back().end());
    }
  }

  uint32_t count() const { return count_; }
  const std::vector<uint32_t>& Of(uint32_t head) const { return chosen_[head]; }
  // Which of the objects in memory is this page's.
  uint32_t Place(uint32_t page) const { return places_[page]; }

 private:
  const uint32_t count_;
  std::vector<uint32_t> places_;
  std::vector<std::vector<uint32_t>> chosen_;  // by head
};

size_t KeyBytes(const BenchOptions& options) {
  return size_t{kPageTokens} * options.head_dim * page::DTypeBytes(kDType);
}

page::AttentionShape ShapeOf(const BenchOptions& options) {
  return {options.group_size, options.head_dim, kDType,
          1.0f / std::sqrt(static_cast<float>(options.head_dim))};
}

Contestant KeysContestant(Bench& bench, const Candidates& candidates) {
  const BenchOptions& options = bench.options;
  const size_t object = bench.digests.object_bytes();
  const size_t objects = bench.digests.all().size() / object;
  const auto bytes = static_cast<double>(KeyBytes(options)) * candidates.count() * options.kv_heads;
  return MakeContestant(
      bench, "second stage/keys", bytes, [&bench, &candidates, object, objects](size_t unit) {
        std::vector<page::PageView> views(candidates.count());
        for (uint32_t h = 0; h < bench.options.kv_heads; ++h) {
          for (uint32_t i = 0; i < candidates.count(); ++i) {
            const size_t place = unit * bench.options.pages + candidates.Place(candidates.Of(h)[i]);
            views[i] = {bench.digests.all().data() + place % objects * object +
                            2 * h * KeyBytes(bench.options),
                        nullptr, kPageTokens};
          }
          page::PageLogMass(ShapeOf(bench.options), bench.QueriesOf(h), views, bench.raw.data());
        }
      });
}

Contestant SketchesContestant(Bench& bench, const Candidates& candidates, page::DigestKind kind) {
  const auto bytes = static_cast<double>(bench.digests.row_bytes(kind)) * candidates.count() *
                     bench.options.kv_heads;
  return MakeContestant(bench, "second stage/" + std::string(page::Info(kind).name), bytes,
                        [&bench, &candidates, kind](size_t unit) {
                          std::vector<const std::byte*> rows(candidates.count());
                          for (uint32_t h = 0; h < bench.options.kv_heads; ++h) {
                            const page::DigestMatrix matrix = bench.digests.Matrix(kind, unit, h);
                            for (uint32_t i = 0; i < candidates.count(); ++i) {
                              rows[i] = matrix.rows + candidates.Of(h)[i] * matrix.row_stride_bytes;
                            }
                            page::SketchLogMass(kind, kPageTokens, ShapeOf(bench.options),
                                                bench.QueriesOf(h), rows, bench.raw.data());
                          }
                        });
}

// pages: of one call of a contestant, over all KV heads.
BenchRow RowOf(const Bench& bench, const std::string& name, const Series& series, size_t bytes,
               uint64_t pages) {
  const Series& limit = bench.limits.at(name);
  BenchRow row = MakeRow("score/" + name, bench.options, bytes, 1, 1, series);
  row.transport = "-";
  Series ratios;
  for (size_t i = 0; i < series.rate_per_round.size(); ++i) {
    ratios.rate_per_round.push_back(series.rate_per_round[i] / limit.rate_per_round[i]);
  }
  row.extra["ratio_read_bandwidth"] = ratios.rate();
  row.extra["ratio_spread"] = Spread(ratios);
  row.extra["read_bandwidth_gb_per_s"] = limit.rate() / 1e9;
  const double pages_per_s =
      series.rate() / static_cast<double>(bytes) * static_cast<double>(pages);
  row.extra["ns_per_page"] = 1e9 / pages_per_s;
  return row;
}

}  // namespace

absl::StatusOr<std::vector<BenchRow>> BenchScore(const BenchOptions& options) {
  const DigestUnits digests(options, options.working_set_bytes);
  Bench bench{options, digests, {}, {}, {}};
  bench.queries.resize(size_t{options.kv_heads} * options.group_size * options.head_dim);
  std::mt19937_64 random(11);
  for (float& q : bench.queries) q = std::normal_distribution<float>()(random);
  bench.raw.resize(size_t{options.group_size} * options.pages);
  const Candidates candidates(options);

  struct Entry {
    size_t bytes;
    uint64_t pages;
  };
  std::vector<Contestant> contestants;
  std::vector<Entry> entries;
  for (const page::DigestKind kind : kKinds) {
    for (const page::ScoreImpl& impl : page::ScoreImpls()) {
      contestants.push_back(ScoreContestant(bench, kind, impl));
      entries.push_back({digests.unit_bytes(kind), uint64_t{options.pages} * options.kv_heads});
    }
  }
  const uint64_t pages = uint64_t{candidates.count()} * options.kv_heads;
  contestants.push_back(KeysContestant(bench, candidates));
  entries.push_back({KeyBytes(options) * pages, pages});
  for (const page::DigestKind kind : kKinds) {
    if (!page::IsSketch(kind)) continue;
    contestants.push_back(SketchesContestant(bench, candidates, kind));
    entries.push_back({digests.row_bytes(kind) * pages, pages});
  }
  VARVE_ASSIGN_OR_RETURN(const auto series, Compete(contestants, options.rounds, options.seconds));

  std::vector<BenchRow> rows;
  for (size_t i = 0; i < contestants.size(); ++i) {
    const std::string& name = contestants[i].name;
    rows.push_back(RowOf(bench, name, series.at(name), entries[i].bytes, entries[i].pages));
  }
  return rows;
}

}  // namespace varve::client
