// score: digests of a long context and the second stage over a quarter of its pages, cold, one
// core, against the same core's read bandwidth.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <utility>

#include "client/bench/bench.h"
#include "kvstore/base/row_memory.h"
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
// and means, such that logits are of usual size.
class DigestUnits {
  static constexpr float kSpread = 0.05f;

 public:
  DigestUnits(const BenchOptions& options, size_t total_bytes)
      : options_(options),
        memory_(std::max<size_t>({2 * unit_bytes(kKinds[3]), object_bytes(), total_bytes}) / 2) {
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal(0, kSpread);
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
  std::vector<uint16_t, base::RowAllocator<uint16_t>> memory_;
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
  std::vector<float> queries;                 // [kv_heads][group_size][head_dim]
  std::vector<float> raw;                     // [group_size][pages]
  std::map<std::string, Series> limits;       // GB/s in address order
  std::map<std::string, Series> rows_limits;  // of the second stage: of the very rows
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

// The rows that the second stage of each unit must read.
class UnitRows {
 public:
  using ByHead = std::vector<std::vector<const std::byte*>>;

  // row(unit, head, i): the i-th candidate's.
  template <class Row>
  UnitRows(size_t units, uint32_t heads, uint32_t candidates, size_t row_bytes, const Row& row)
      : row_bytes_(row_bytes), units_(units, ByHead(heads)) {
    for (size_t unit = 0; unit < units; ++unit) {
      for (uint32_t h = 0; h < heads; ++h) {
        for (uint32_t i = 0; i < candidates; ++i) units_[unit][h].push_back(row(unit, h, i));
      }
    }
  }

  size_t row_bytes() const { return row_bytes_; }
  size_t bytes() const { return row_bytes_ * units_[0].size() * units_[0][0].size(); }
  const ByHead& Of(size_t unit) const { return units_[unit % units_.size()]; }

 private:
  const size_t row_bytes_;
  std::vector<ByHead> units_;
};

// Bytes per second at which the rows of units from `first` on are read, in the kernel's order, with
// nothing done to them: the best of some distances of prefetching. A working set of many times the
// cache has gone by when a unit comes again.
double RowsLimit(const UnitRows& rows, size_t first) {
  constexpr size_t kUnits = 4;
  double best = 0;
  for (const size_t ahead : {size_t{0}, size_t{1}, size_t{4}, size_t{8}, size_t{16}}) {
    const auto start = std::chrono::steady_clock::now();
    for (size_t i = 0; i < kUnits; ++i) {
      for (const auto& list : rows.Of(first++)) page::ReadRows(list, rows.row_bytes(), ahead);
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(kUnits * rows.bytes()) / elapsed.count());
  }
  return best;
}

// The rounds of a limit are parallel to those of the series, of which the first is thrown away.
void AddLimit(const Series& series, double limit, Series& limits) {
  limits.rate_per_round.resize(series.rate_per_round.size());
  if (!limits.rate_per_round.empty()) limits.rate_per_round.back() = limit;
}

// One call of run(unit) reads `bytes`. rows: null where they lie in one piece.
Contestant MakeContestant(Bench& bench, const std::string& name, double bytes,
                          std::function<void(size_t unit)> run,
                          std::shared_ptr<const UnitRows> rows = nullptr) {
  return {name, [&bench, name, bytes, run = std::move(run), rows = std::move(rows),
                 unit = size_t{0}](double seconds, Series& series) mutable {
            const auto rows_limit = [&] {
              return rows == nullptr ? 0 : RowsLimit(*rows, unit + 1);
            };
            const double before = bench.Limit();
            const double rows_before = rows_limit();
            const absl::Status status = TimedLoop(seconds, bytes, series, [&] {
              run(unit++);
              return absl::OkStatus();
            });
            AddLimit(series, (before + bench.Limit()) / 2, bench.limits[name]);
            if (rows != nullptr) {
              AddLimit(series, (rows_before + rows_limit()) / 2, bench.rows_limits[name]);
            }
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
  const size_t units = (objects + options.pages - 1) / options.pages;
  const auto rows = std::make_shared<const UnitRows>(
      units, options.kv_heads, candidates.count(), KeyBytes(options),
      [&](size_t unit, uint32_t head, uint32_t i) {
        const size_t place = unit * options.pages + candidates.Place(candidates.Of(head)[i]);
        return bench.digests.all().data() + place % objects * object + 2 * head * KeyBytes(options);
      });
  const auto score = [&bench, rows](size_t unit) {
    std::vector<page::PageView> views;
    for (uint32_t h = 0; h < bench.options.kv_heads; ++h) {
      views.clear();
      for (const std::byte* keys : rows->Of(unit)[h]) views.push_back({keys, nullptr, kPageTokens});
      page::PageLogMass(ShapeOf(bench.options), bench.QueriesOf(h), views, bench.raw.data());
    }
  };
  return MakeContestant(bench, "second stage/keys", static_cast<double>(rows->bytes()), score,
                        rows);
}

Contestant SketchesContestant(Bench& bench, const Candidates& candidates, page::DigestKind kind) {
  const BenchOptions& options = bench.options;
  const size_t units = bench.digests.all().size() / bench.digests.unit_bytes(kind);
  const auto rows = std::make_shared<const UnitRows>(
      units, options.kv_heads, candidates.count(), bench.digests.row_bytes(kind),
      [&](size_t unit, uint32_t head, uint32_t i) {
        const page::DigestMatrix matrix = bench.digests.Matrix(kind, unit, head);
        return matrix.rows + candidates.Of(head)[i] * matrix.row_stride_bytes;
      });
  const auto score = [&bench, rows, kind](size_t unit) {
    for (uint32_t h = 0; h < bench.options.kv_heads; ++h) {
      page::SketchLogMass(kind, kPageTokens, ShapeOf(bench.options), bench.QueriesOf(h),
                          rows->Of(unit)[h], bench.raw.data());
    }
  };
  return MakeContestant(bench, "second stage/" + std::string(page::Info(kind).name),
                        static_cast<double>(rows->bytes()), score, rows);
}

// What of `limits` each round reached, under `name`.
void AddRatio(const Series& series, const Series& limits, const std::string& name, BenchRow& row) {
  Series ratios;
  for (size_t i = 0; i < series.rate_per_round.size(); ++i) {
    ratios.rate_per_round.push_back(series.rate_per_round[i] / limits.rate_per_round[i]);
  }
  row.extra["ratio_" + name] = ratios.rate();
  row.extra["ratio_" + name + "_spread"] = Spread(ratios);
  row.extra[name + "_gb_per_s"] = limits.rate() / 1e9;
}

// pages: of one call of a contestant, over all KV heads.
BenchRow RowOf(const Bench& bench, const std::string& name, const Series& series, size_t bytes,
               uint64_t pages) {
  BenchRow row = MakeRow("score/" + name, bench.options, bytes, 1, 1, series);
  row.transport = "-";
  AddRatio(series, bench.limits.at(name), "read_bandwidth", row);
  const auto rows = bench.rows_limits.find(name);
  if (rows != bench.rows_limits.end()) AddRatio(series, rows->second, "read_same_rows", row);
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
