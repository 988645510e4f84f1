// Benchmarks of the page kernels: scoring, digest building, checksum, attention, selection, with
// bytes per second.
//
// Pin the process to one core (taskset -c 1) and leave that core alone: scoring is compared with
// the read bandwidth of the same core over the same memory, measured just before (counter
// ratio_read_bandwidth).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "kvstore/page/attention.h"
#include "kvstore/page/bandwidth.h"
#include "kvstore/page/checksum.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/mass.h"
#include "kvstore/page/select.h"

namespace varve::page {
namespace {

constexpr uint32_t kPages = 4096;
constexpr uint32_t kKvHeads = 8;
constexpr uint32_t kHeadDim = 128;
constexpr size_t kColdBytes = size_t{3} << 30;

struct Release {
  void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{4096}); }
};

// One digest matrix per (unit, KV head), as the store keeps them: cycling through all units defeats
// every cache.
struct ColdDigests {
  ColdDigests(DType element_type, size_t bytes) : dtype(element_type) {
    row_bytes = DigestBytes(DigestKind::kMinMax, 32, kHeadDim, dtype);
    units = std::max<size_t>(1, bytes / unit_bytes());
    memory.reset(
        static_cast<std::byte*>(::operator new (units* unit_bytes(), std::align_val_t{4096})));
    for (size_t i = 0; i < units * unit_bytes() / DTypeBytes(dtype); ++i) {
      // Cheap numbers of both signs; their values do not matter to the speed.
      StoreF32(memory.get(), dtype, i, static_cast<float>(i * 2654435761u % 1001) / 500.0f - 1.0f);
    }
  }
  size_t unit_bytes() const { return size_t{kPages} * kKvHeads * row_bytes; }
  DigestMatrix Matrix(size_t unit, uint32_t head) const {
    const std::byte* rows = memory.get() + unit * unit_bytes() + head * kPages * row_bytes;
    return {DigestKind::kMinMax, dtype, kHeadDim, 32, rows, row_bytes, kPages};
  }

  DType dtype;
  size_t row_bytes = 0;
  size_t units = 0;
  std::unique_ptr<std::byte, Release> memory;
};

std::vector<float> RandomFloats(size_t count) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(engine);
  return values;
}

std::vector<std::byte> RandomElements(size_t count, DType dtype) {
  const std::vector<float> values = RandomFloats(count);
  std::vector<std::byte> bytes(count * DTypeBytes(dtype));
  for (size_t i = 0; i < count; ++i) StoreF32(bytes.data(), dtype, i, values[i]);
  return bytes;
}

// One iteration scores one unit: 4096 pages for each of 8 KV heads.
void Score(benchmark::State& state, ScoreFn score, const ColdDigests& digests, uint32_t heads) {
  const std::vector<float> queries = RandomFloats(size_t{kKvHeads} * heads * kHeadDim);
  std::vector<float> raw(size_t{heads} * kPages);
  const double limit =
      ReadBandwidth({digests.memory.get(), digests.units * digests.unit_bytes()}, 3);
  size_t unit = 0;
  for (auto _ : state) {
    for (uint32_t head = 0; head < kKvHeads; ++head) {
      score(digests.Matrix(unit, head), queries.data() + size_t{head} * heads * kHeadDim, heads,
            raw.data());
      benchmark::DoNotOptimize(raw.data());
      benchmark::ClobberMemory();
    }
    unit = (unit + 1) % digests.units;
  }
  const auto bytes =
      static_cast<double>(state.iterations()) * static_cast<double>(digests.unit_bytes());
  state.SetBytesProcessed(static_cast<int64_t>(bytes));
  state.counters["read_gb_per_s"] = limit;
  // A rate: bytes per second over the limit.
  state.counters["ratio_read_bandwidth"] =
      benchmark::Counter(bytes / (limit * 1e9), benchmark::Counter::kIsRate);
}

void BuildDigests(benchmark::State& state, DigestKind kind, DType dtype) {
  constexpr uint32_t kTokens = 32;
  constexpr size_t kPageCount = 512;
  const size_t page_bytes = kTokens * kHeadDim * DTypeBytes(dtype);
  const auto keys = RandomElements(kPageCount * kTokens * kHeadDim, dtype);
  std::vector<std::byte> out(DigestBytes(kind, kTokens, kHeadDim, dtype));
  size_t page = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        BuildDigest(kind, keys.data() + page * page_bytes, kTokens, kHeadDim, dtype, out.data()));
    page = (page + 1) % kPageCount;
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(page_bytes));
}

void Checksum(benchmark::State& state, Crc32cFn crc) {
  const auto bytes = static_cast<size_t>(state.range(0));
  const auto data = RandomElements(bytes / 2, DType::kBF16);
  for (auto _ : state) benchmark::DoNotOptimize(crc(data.data(), bytes, 0));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

void Attend(benchmark::State& state, DType dtype, uint32_t heads) {
  constexpr uint32_t kTokens = 32;
  const auto pages = static_cast<size_t>(state.range(0));
  const size_t part_bytes = kTokens * kHeadDim * DTypeBytes(dtype);
  const auto data = RandomElements(2 * pages * kTokens * kHeadDim, dtype);
  std::vector<PageView> views;
  for (size_t i = 0; i < pages; ++i) {
    const std::byte* k = data.data() + 2 * i * part_bytes;
    views.push_back({k, k + part_bytes, kTokens});
  }
  const std::vector<float> q = RandomFloats(heads * kHeadDim);
  std::vector<float> out(heads * kHeadDim), lse(heads);
  const AttentionShape shape{heads, kHeadDim, dtype, 0.0884f};
  for (auto _ : state) {
    AttendPages(shape, q.data(), views, out.data(), lse.data());
    benchmark::DoNotOptimize(out.data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(data.size()));
}

void Merge(benchmark::State& state, ScoreMerge merge) {
  constexpr uint32_t kHeads = 4;
  const std::vector<float> raw = RandomFloats(kHeads * kPages);
  std::vector<float> scratch(raw.size()), scores(kPages);
  for (auto _ : state) {
    std::memcpy(scratch.data(), raw.data(), raw.size() * sizeof(float));
    MergeScores(merge, scratch.data(), kHeads, kPages, kHeadDim, scores.data());
    benchmark::DoNotOptimize(scores.data());
  }
  state.SetItemsProcessed(state.iterations() * kPages);
}

// What a certificate adds to the scoring of one KV head: a copy of the scores, and the sums of
// those that are not selected.
void Certify(benchmark::State& state) {
  constexpr uint32_t kHeads = 4;
  const std::vector<float> raw = RandomFloats(kHeads * kPages);
  std::vector<float> bounds;
  std::vector<uint32_t> selected;
  for (uint32_t page = 0; page < kPages; page += 10) selected.push_back(page);
  for (auto _ : state) {
    bounds.assign(raw.begin(), raw.end());
    for (uint32_t g = 0; g < kHeads; ++g) {
      benchmark::DoNotOptimize(
          LogDroppedBound(std::span(bounds).subspan(g * kPages, kPages), selected, 0.0884f, 32));
    }
  }
  state.SetItemsProcessed(state.iterations() * kPages);
}

void Select(benchmark::State& state) {
  const std::vector<float> scores = RandomFloats(kPages);
  std::vector<uint32_t> pinned, out(kPages);
  PinnedPages(kPages, 1, 2, pinned);
  SelectScratch scratch;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        SelectPages(scores, pinned, static_cast<uint32_t>(state.range(0)), scratch, out));
  }
  state.SetItemsProcessed(state.iterations() * kPages);
}

void Memcpy(benchmark::State& state) {
  double limit = 0;
  for (auto _ : state) limit = std::max(limit, MeasureMemcpy(size_t{512} << 20, 1).value_or(0));
  state.counters["gb_per_s"] = limit;
}

void RegisterScores(const ColdDigests& cold, const ColdDigests& hot) {
  for (const ScoreImpl& impl : ScoreImpls()) {
    for (uint32_t heads : {1u, 4u, 8u}) {
      const std::string name =
          std::string(impl.name) + "/" + DTypeName(cold.dtype) + "/G" + std::to_string(heads);
      for (const auto* set : {&cold, &hot}) {
        benchmark::RegisterBenchmark(
            ((set == &cold ? "score/cold/" : "score/l3/") + name).c_str(),
            [set, heads, fn = impl.fn](benchmark::State& s) { Score(s, fn, *set, heads); });
      }
    }
  }
}

void RegisterOthers() {
  for (const DigestKindInfo& kind : DigestKinds()) {
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      const std::string name = "digest/" + std::string(kind.name) + "/" + DTypeName(dtype);
      benchmark::RegisterBenchmark(name.c_str(), BuildDigests, kind.kind, dtype);
    }
  }
  for (const Crc32cImpl& impl : Crc32cImpls()) {
    benchmark::RegisterBenchmark(("crc32c/" + std::string(impl.name)).c_str(), Checksum, impl.fn)
        ->Arg(512)
        ->Arg(16384)
        ->Arg(131072)
        ->Arg(1 << 20);
  }
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (uint32_t heads : {1u, 4u}) {
      const std::string name =
          std::string("attend/") + DTypeName(dtype) + "/G" + std::to_string(heads);
      benchmark::RegisterBenchmark(name.c_str(), Attend, dtype, heads)->Arg(64)->Arg(4096);
    }
  }
  benchmark::RegisterBenchmark("merge/softmax_mean", Merge, ScoreMerge::kSoftmaxMean);
  benchmark::RegisterBenchmark("merge/max", Merge, ScoreMerge::kMax);
  benchmark::RegisterBenchmark("certify/minmax/G4", Certify);
  benchmark::RegisterBenchmark("select", Select)->Arg(64)->Arg(410);
  benchmark::RegisterBenchmark("memcpy/512MiB", Memcpy)->Iterations(3);
}

}  // namespace
}  // namespace varve::page

int main(int argc, char** argv) {
  using varve::page::ColdDigests;
  using varve::page::DType;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const ColdDigests cold(DType::kBF16, varve::page::kColdBytes);
  const ColdDigests cold_f16(DType::kF16, varve::page::kColdBytes);
  const ColdDigests hot(DType::kBF16, 1);
  const ColdDigests hot_f16(DType::kF16, 1);
  varve::page::RegisterScores(cold, hot);
  varve::page::RegisterScores(cold_f16, hot_f16);
  varve::page::RegisterOthers();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
