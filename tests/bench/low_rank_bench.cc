// Benchmarks of low-rank keys (ShadowKV) at the shape of Llama-3.1-8B: 8 KV heads, head_dim 128,
// rank 160, bf16, by instruction set where there are several. Rates are multiply-adds (item) and,
// where bytes are read once, bytes.
#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "kvstore/page/lowrank/gram.h"
#include "kvstore/page/lowrank/landmark.h"
#include "kvstore/page/lowrank/low_rank.h"
#include "kvstore/page/simd/kernels.h"

namespace varve::page {
namespace {

constexpr uint32_t kKvHeads = 8;
constexpr uint32_t kHeadDim = 128;
constexpr uint32_t kWidth = kKvHeads * kHeadDim;
constexpr uint32_t kRank = 160;
constexpr uint32_t kContext = 32768;  // rows that a selection is spread over

std::vector<std::byte> RandomElements(size_t count, DType dtype) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<std::byte> bytes(count * DTypeBytes(dtype));
  for (size_t i = 0; i < count; ++i) StoreF32(bytes.data(), dtype, i, normal(engine));
  return bytes;
}

// A selection in chunks of 8 tokens, spread over the context.
std::vector<const std::byte*> SelectedRows(const std::vector<std::byte>& rows, uint32_t tokens) {
  constexpr uint32_t kChunk = 8;
  std::mt19937 engine(2);
  std::vector<const std::byte*> selected;
  while (selected.size() < tokens) {
    const size_t chunk = engine() % (kContext / kChunk);
    for (uint32_t t = 0; t < kChunk; ++t) {
      selected.push_back(rows.data() + (chunk * kChunk + t) * kRank * DTypeBytes(DType::kBF16));
    }
  }
  return selected;
}

// One KV head of one layer.
void RebuildHead(benchmark::State& state, const KernelTable& kernels, DType basis_dtype) {
  const auto tokens = static_cast<uint32_t>(state.range(0));
  const auto rows = RandomElements(size_t{kContext} * kRank, DType::kBF16);
  const auto selected = SelectedRows(rows, tokens);
  const auto basis = RandomElements(size_t{kRank} * kHeadDim, basis_dtype);
  std::vector<float> keys(selected.size() * kHeadDim);
  for (auto _ : state) {
    kernels.multiply_rows(selected, DType::kBF16, {basis.data(), basis_dtype, kRank, kHeadDim},
                          keys.data(), kHeadDim);
    benchmark::DoNotOptimize(keys.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() *
                          static_cast<int64_t>(selected.size() * kRank * kHeadDim));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(selected.size() * kRank * 2));
}

// All KV heads of one layer, bf16 in and out.
void RebuildLayer(benchmark::State& state) {
  Subspace subspace{kKvHeads, kHeadDim, kRank, DType::kBF16,
                    RandomElements(size_t{kRank} * kWidth, DType::kBF16)};
  const auto rows = RandomElements(size_t{kContext} * kRank, DType::kBF16);
  const auto selected = SelectedRows(rows, static_cast<uint32_t>(state.range(0)));
  std::vector<std::byte> keys(selected.size() * kHeadDim * DTypeBytes(DType::kBF16));
  for (auto _ : state) {
    for (uint32_t h = 0; h < kKvHeads; ++h) {
      Rebuild(subspace, h, selected, DType::kBF16, DType::kBF16, keys.data(), kHeadDim * 2);
      benchmark::DoNotOptimize(keys.data());
      benchmark::ClobberMemory();
    }
  }
  state.SetItemsProcessed(state.iterations() *
                          static_cast<int64_t>(selected.size() * kRank * kWidth));
}

void ProjectRows(benchmark::State& state, const KernelTable& kernels, DType basis_dtype) {
  constexpr uint32_t kTokens = 48;
  const auto basis = RandomElements(size_t{kRank} * kWidth, basis_dtype);
  const auto x = RandomElements(size_t{kTokens} * kWidth, DType::kF32);
  std::vector<float> rows(kTokens * kRank);
  for (auto _ : state) {
    kernels.project_rows(reinterpret_cast<const float*>(x.data()), kTokens,
                         {basis.data(), basis_dtype, kKvHeads, kRank, kHeadDim}, rows.data());
    benchmark::DoNotOptimize(rows.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * int64_t{kTokens} * kRank * kWidth);
}

// With the checks, the energies and the rounding.
void ProjectTokens(benchmark::State& state) {
  const auto tokens = static_cast<uint32_t>(state.range(0));
  Subspace subspace{kKvHeads, kHeadDim, kRank, DType::kBF16,
                    RandomElements(size_t{kRank} * kWidth, DType::kBF16)};
  const auto keys = RandomElements(size_t{tokens} * kWidth, DType::kBF16);
  std::vector<std::byte> rows(tokens * RowBytes(subspace, DType::kBF16));
  ProjectionEnergy energy;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        Project(subspace, keys.data(), tokens, DType::kBF16, DType::kBF16, rows.data(), &energy));
  }
  state.SetItemsProcessed(state.iterations() * int64_t{tokens} * kRank * kWidth);
}

void Gram(benchmark::State& state) {
  constexpr uint32_t kTokens = 512;
  const auto keys = RandomElements(size_t{kTokens} * kWidth, DType::kBF16);
  GramAccumulator gram(kWidth);
  for (auto _ : state) {
    benchmark::DoNotOptimize(gram.Append(keys.data(), kTokens, DType::kBF16));
  }
  // Half of the symmetric matrix is computed.
  state.SetItemsProcessed(state.iterations() * int64_t{kTokens} * kWidth * (kWidth + 1) / 2);
  state.counters["tokens_per_s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * kTokens, benchmark::Counter::kIsRate);
}

void GramBlock(benchmark::State& state, const KernelTable& kernels) {
  constexpr uint32_t kTokens = GramAccumulator::kBlockTokens;
  const auto x = RandomElements(size_t{kTokens} * kGramBlock, DType::kF32);
  const auto* rows = reinterpret_cast<const float*>(x.data());
  std::vector<double> block(kGramBlock * kGramBlock);
  for (auto _ : state) {
    kernels.add_gram_block(rows, rows, kTokens, block.data());
    benchmark::DoNotOptimize(block.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * int64_t{kTokens} * kGramBlock * kGramBlock);
}

void Decompose(benchmark::State& state) {
  const auto heads = static_cast<uint32_t>(state.range(0));
  const uint32_t width = heads * kHeadDim;
  const auto keys = RandomElements(size_t{1024} * width, DType::kBF16);
  GramAccumulator gram(width);
  if (gram.Append(keys.data(), 1024, DType::kBF16)) state.SkipWithError("keys are refused");
  const std::vector<double> matrix = gram.Matrix();
  Subspace subspace;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        MakeSubspace(matrix, 1024, heads, kHeadDim, {kHeadDim}, DType::kBF16, subspace));
  }
}

void Landmarks(benchmark::State& state, DType dtype) {
  constexpr uint32_t kChunk = 8, kChunks = 512;
  const auto keys = RandomElements(size_t{kChunks} * kChunk * kHeadDim, dtype);
  const size_t chunk_bytes = kChunk * kHeadDim * DTypeBytes(dtype);
  std::vector<std::byte> landmark(kHeadDim * DTypeBytes(dtype));
  float cosine = 0;
  size_t chunk = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(BuildLandmark(keys.data() + chunk * chunk_bytes, kChunk, kHeadDim,
                                           dtype, landmark.data(), &cosine));
    chunk = (chunk + 1) % kChunks;
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(chunk_bytes));
}

// Tables that differ in other kernels only are left out.
void RegisterKernels() {
  const KernelTable* last = nullptr;
  for (const KernelTable* table : AllKernels()) {
    if (last != nullptr && last->multiply_rows == table->multiply_rows) continue;
    last = table;
    const std::string name(table->name);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const std::string suffix = name + "/" + DTypeName(dtype);
      benchmark::RegisterBenchmark(
          ("rebuild/head/" + suffix).c_str(),
          [table, dtype](benchmark::State& s) { RebuildHead(s, *table, dtype); })
          ->Arg(64)
          ->Arg(2048);
      benchmark::RegisterBenchmark(
          ("project/rows/" + suffix).c_str(),
          [table, dtype](benchmark::State& s) { ProjectRows(s, *table, dtype); });
    }
    benchmark::RegisterBenchmark(("gram/block/" + name).c_str(),
                                 [table](benchmark::State& s) { GramBlock(s, *table); });
  }
}

void RegisterWhole() {
  benchmark::RegisterBenchmark("rebuild/layer", RebuildLayer)->Arg(64)->Arg(2048);
  benchmark::RegisterBenchmark("project/tokens", ProjectTokens)->Arg(1)->Arg(8)->Arg(512);
  benchmark::RegisterBenchmark("gram/append", Gram);
  benchmark::RegisterBenchmark("subspace", Decompose)
      ->Arg(1)
      ->Arg(8)
      ->Unit(benchmark::kMillisecond);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    benchmark::RegisterBenchmark((std::string("landmark/") + DTypeName(dtype)).c_str(), Landmarks,
                                 dtype);
  }
}

}  // namespace
}  // namespace varve::page

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  varve::page::RegisterKernels();
  varve::page::RegisterWhole();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
