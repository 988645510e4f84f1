// What the page store and the context table cost per call: reserve + commit, acquire, holds,
// attach, recall.
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kvstore/recall/context_table.h"
#include "kvstore/store/page_store.h"
#include "kvstore/tier/host_tier.h"
#include "tests/support/commit_now.h"

namespace varve {
namespace {

constexpr uint32_t kPages = 4096;
constexpr uint32_t kLayers = 32;
constexpr uint64_t kSession = 1;

struct Stack {
  std::unique_ptr<tier::HostTier> tier;
  std::unique_ptr<store::PageStore> store;
  std::unique_ptr<recall::ContextTable> table;
  store::NamespaceId ns = 0;
};

Stack MakeStack(uint64_t capacity_bytes, uint32_t threads) {
  Stack stack;
  stack.tier = *tier::HostTier::Create(
      {.capacity_bytes = capacity_bytes, .huge_pages = true, .slot_alignment_bytes = 64});
  stack.store = *store::PageStore::Create(stack.tier.get(), {}, &base::SystemClock::Get());
  stack.table = *recall::ContextTable::Create(stack.store.get(), {.threads = threads});
  stack.ns = *stack.store->InternNamespace("bench");
  return stack;
}

std::vector<std::string> Hashes(uint32_t count) {
  std::mt19937_64 random(1);
  std::vector<std::string> hashes(count, std::string(32, '\0'));
  for (std::string& hash : hashes) {
    for (char& c : hash) c = static_cast<char>(random());
  }
  return hashes;
}

void PutAll(Stack& stack, const std::vector<std::string>& hashes, uint32_t layers) {
  for (const std::string& hash : hashes) {
    for (uint32_t layer = 0; layer < layers; ++layer) {
      auto put = stack.store->Reserve(stack.ns, *page::MakeObjectKey(hash, layer), {.bytes = 64});
      store::CommitNow(**put, std::nullopt).IgnoreError();
    }
  }
}

// Small values, so that the books and not the checksum are measured; evicts in the steady state.
void BM_ReserveCommit(benchmark::State& state) {
  Stack stack = MakeStack(64 << 20, 1);
  const std::vector<std::string> hashes = Hashes(1 << 18);
  uint64_t n = 0;
  for (auto _ : state) {
    const auto key =
        *page::MakeObjectKey(hashes[n % hashes.size()], static_cast<uint32_t>(n / hashes.size()));
    ++n;
    auto put = stack.store->Reserve(stack.ns, key, {.bytes = 256});
    store::CommitNow(**put, std::nullopt).IgnoreError();
  }
  state.SetItemsProcessed(state.iterations());
  state.counters["evicted"] = static_cast<double>(stack.store->Usage().eviction.evicted_objects);
}
BENCHMARK(BM_ReserveCommit);

void BM_Acquire(benchmark::State& state) {
  static Stack stack;
  static const std::vector<std::string> hashes = Hashes(4096);
  if (state.thread_index() == 0) {
    stack = MakeStack(64 << 20, 1);
    PutAll(stack, hashes, kLayers);
  }
  std::mt19937 random(static_cast<uint32_t>(state.thread_index()));
  for (auto _ : state) {
    const uint32_t n = random();
    const auto key = *page::MakeObjectKey(hashes[n % 4096], n / 4096 % kLayers);
    benchmark::DoNotOptimize(stack.store->Acquire(stack.ns, key, nullptr));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_Acquire)->ThreadRange(1, 4)->UseRealTime();

// 4096 blocks of 32 objects each.
void BM_HoldRelease(benchmark::State& state) {
  Stack stack = MakeStack(64 << 20, 1);
  const std::vector<std::string> hashes = Hashes(kPages);
  PutAll(stack, hashes, kLayers);
  for (auto _ : state) {
    stack.store->Hold(stack.ns, hashes);
    stack.store->Release(stack.ns, hashes);
  }
}
BENCHMARK(BM_HoldRelease)->Unit(benchmark::kMillisecond);

void BM_AttachPark(benchmark::State& state) {
  Stack stack = MakeStack(64 << 20, 1);
  const std::vector<std::string> hashes = Hashes(kPages);
  PutAll(stack, hashes, kLayers);
  const page::Geometry geometry{kLayers, 8, 32, 128, 32, page::DType::kBF16};
  stack.table->Open(stack.ns, "c", {geometry}, kSession).IgnoreError();
  stack.table->Append(stack.ns, "c", 0, hashes).IgnoreError();
  stack.table->Park(stack.ns, "c", kSession).IgnoreError();
  for (auto _ : state) {
    benchmark::DoNotOptimize(stack.table->Attach(stack.ns, "c", kSession));
    benchmark::DoNotOptimize(stack.table->Park(stack.ns, "c", kSession));
  }
}
BENCHMARK(BM_AttachPark)->Unit(benchmark::kMillisecond);

// One layer of a 128k context, a budget of 64 pages of which `missing` share is not resident;
// layers take turns, so that digests come from memory and not from a cache.
void BM_Select(benchmark::State& state) {
  const auto threads = static_cast<uint32_t>(state.range(0));
  const uint32_t layers = 8;
  Stack stack = MakeStack(1 << 20, threads);
  const page::Geometry geometry{layers, 8, 32, 128, 32, page::DType::kBF16};
  const auto opened = stack.table->Open(stack.ns, "c", {geometry}, kSession);
  stack.table->Append(stack.ns, "c", 0, Hashes(kPages)).IgnoreError();
  const size_t row_bytes = page::DigestRowBytes(page::DigestKind::kMinMax, geometry);
  std::mt19937 random(2);
  std::string rows(kPages * row_bytes, '\0');
  for (size_t i = 0; i < rows.size() / 2; ++i) {
    const bool hi = i / 128 % 2 == 0;
    const float value = static_cast<float>(random() % 1000) / 1000.0f;
    page::StoreF32(rows.data(), page::DType::kBF16, i, hi ? value : -value);
  }
  for (uint32_t l = 0; l < layers; ++l) {
    const auto added = stack.table->AppendDigests(stack.ns, "c", opened->epoch, l, 0, kPages, rows);
    if (!added.ok()) state.SkipWithError(added.status().ToString().c_str());
  }
  std::vector<float> queries(32 * 128);
  for (float& q : queries) q = static_cast<float>(random() % 2000) / 1000.0f - 1.0f;
  recall::SelectTimings sum;
  uint32_t layer = 0;
  for (auto _ : state) {
    const recall::LayerQuery query{layer++ % layers, queries,
                                   std::vector<recall::HeadQuery>(8, {64, {}})};
    recall::SelectTimings timings;
    benchmark::DoNotOptimize(stack.table->Select(stack.ns, "c",
                                                 {.epoch = opened->epoch, .sinks = 1, .window = 1},
                                                 std::span(&query, 1), &timings));
    sum.score_seconds += timings.score_seconds;
    sum.select_seconds += timings.select_seconds;
  }
  const auto calls = static_cast<double>(state.iterations());
  state.counters["score_us"] = 1e6 * sum.score_seconds / calls;
  state.counters["select_us"] = 1e6 * sum.select_seconds / calls;
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(rows.size()));
}
BENCHMARK(BM_Select)->Arg(1)->Arg(2)->Unit(benchmark::kMicrosecond)->UseRealTime();

}  // namespace
}  // namespace varve

BENCHMARK_MAIN();
