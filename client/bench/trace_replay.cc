#include "client/bench/trace_replay.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <span>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/bench/measure.h"
#include "client/console/progress.h"
#include "client/console/stop.h"
#include "kvstore/base/hash.h"
#include "kvstore/base/mutex.h"
#include "kvstore/base/status.h"

namespace varve::client {
namespace {

constexpr size_t kBatch = 16;  // values in one get or put
constexpr absl::Duration kLook = absl::Milliseconds(50);

size_t Batches(size_t blocks) { return (blocks + kBatch - 1) / kBatch; }
std::span<const uint32_t> Batch(std::span<const uint32_t> blocks, size_t batch) {
  return blocks.subspan(batch * kBatch, std::min(kBatch, blocks.size() - batch * kBatch));
}

// What all engines of a replay share. Thread-safe.
class Replay {
 public:
  Replay(const Trace& trace, const ReplayOptions& options)
      : trace_(trace),
        options_(options),
        value_bytes_(uint64_t{kTraceBlockTokens} * options.bytes_per_token),
        run_(base::RandomBytes(6)),
        stored_(trace.distinct_blocks),
        slice_seconds_((trace.requests.back().arrival_seconds + 1e-9) / kReplaySlices) {
    for (size_t i = 0; i < kReplaySlices; ++i) {
      result_.slices[i].begin_seconds = static_cast<double>(i) * slice_seconds_;
    }
    result_.value_bytes = value_bytes_;
  }

  const Trace& trace() const { return trace_; }
  uint64_t value_bytes() const { return value_bytes_; }

  page::ObjectKey Key(uint32_t block) const {
    std::string bytes = absl::StrCat("trace/", run_);
    bytes.append(reinterpret_cast<const char*>(&block), sizeof(block));
    return *page::MakeObjectKey(bytes, 0);
  }

  // The trace's time begins. Before any Next().
  void Begin() { began_seconds_ = NowSeconds(); }

  // The next request, at its time; null when there is none, or the replay has ended.
  const TraceRequest* Next() {
    const size_t i = next_++;
    if (i >= trace_.requests.size() || ended_) return nullptr;
    const TraceRequest& request = trace_.requests[i];
    if (options_.speed_up > 0) {
      const double at = began_seconds_ + request.arrival_seconds / options_.speed_up;
      for (double now = NowSeconds(); now < at && !ended_; now = NowSeconds()) {
        absl::SleepFor(std::min(absl::Seconds(at - now), kLook));
      }
    }
    return ended_ ? nullptr : &request;
  }

  void Stored(uint32_t block) { stored_[block].store(true, std::memory_order_relaxed); }

  struct Outcome {
    uint64_t hits_host = 0, hits_nvme = 0, late_misses = 0, puts = 0, refused_puts = 0;
    double lookup_seconds = 0, get_seconds = 0, put_seconds = 0;
    std::vector<double> host_batch_seconds, nvme_batch_seconds;
  };
  void Done(const TraceRequest& request, const Outcome& outcome) {
    base::MutexLock lock(mutex_);
    const auto slice = static_cast<size_t>(request.arrival_seconds / slice_seconds_);
    ReplaySlice& part = result_.slices[std::min(slice, kReplaySlices - 1)];
    ++part.requests;
    part.references += request.blocks.size();
    part.hits_host += outcome.hits_host;
    part.hits_nvme += outcome.hits_nvme;
    ++result_.requests;
    result_.references += request.blocks.size();
    result_.hits_host += outcome.hits_host;
    result_.hits_nvme += outcome.hits_nvme;
    result_.late_misses += outcome.late_misses;
    result_.puts += outcome.puts;
    result_.refused_puts += outcome.refused_puts;
    result_.lookup_seconds.push_back(outcome.lookup_seconds);
    if (outcome.get_seconds > 0) result_.get_seconds.push_back(outcome.get_seconds);
    if (outcome.put_seconds > 0) result_.put_seconds.push_back(outcome.put_seconds);
    Append(outcome.host_batch_seconds, result_.host_batch_seconds);
    Append(outcome.nvme_batch_seconds, result_.nvme_batch_seconds);
    result_.seconds = NowSeconds() - began_seconds_;
  }

  // The first error ends the replay.
  void End(const absl::Status& status) {
    base::MutexLock lock(mutex_);
    status_.Update(status);
    ended_ = true;
  }
  bool ended() const { return ended_; }
  uint64_t requests_done() const {
    base::MutexLock lock(mutex_);
    return result_.requests;
  }
  absl::StatusOr<ReplayResult> Take() {
    base::MutexLock lock(mutex_);
    if (!status_.ok()) return status_;
    return std::move(result_);
  }

  absl::Status RemoveStored(Client& client) const {
    constexpr size_t kKeysAtOnce = 1024;
    std::vector<page::ObjectKey> keys;
    for (uint32_t block = 0; block < stored_.size(); ++block) {
      if (stored_[block].load(std::memory_order_relaxed)) keys.push_back(Key(block));
      if (keys.empty() || (keys.size() < kKeysAtOnce && block + 1 < stored_.size())) continue;
      VARVE_RETURN_IF_ERROR(client.Remove(keys, /*force=*/false).status());
      keys.clear();
    }
    return absl::OkStatus();
  }

 private:
  static void Append(const std::vector<double>& from, std::vector<double>& to) {
    to.insert(to.end(), from.begin(), from.end());
  }

  const Trace& trace_;
  const ReplayOptions& options_;
  const uint64_t value_bytes_;
  const std::string run_;  // keeps the keys of runs apart
  std::vector<std::atomic<bool>> stored_;
  const double slice_seconds_;
  double began_seconds_ = 0;
  std::atomic<size_t> next_{0};
  std::atomic<bool> ended_{false};
  mutable base::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  ReplayResult result_ ABSL_GUARDED_BY(mutex_);
};

// One engine: its session, and room for a batch of values.
class Engine {
 public:
  Engine(Replay& replay, std::unique_ptr<Client> client, std::unique_ptr<Memory> memory)
      : replay_(replay), client_(std::move(client)), memory_(std::move(memory)) {}

  void Run() {
    while (const TraceRequest* request = replay_.Next()) {
      const absl::Status status = Serve(*request);
      if (!status.ok()) return replay_.End(status);
    }
  }

 private:
  absl::Status Serve(const TraceRequest& request) {
    Replay::Outcome outcome;
    const std::span<const uint32_t> blocks = request.blocks;
    std::vector<page::ObjectKey> keys;
    for (const uint32_t block : blocks) keys.push_back(replay_.Key(block));
    const double began = NowSeconds();
    VARVE_ASSIGN_OR_RETURN(const uint32_t found, client_->LongestPrefix(keys));
    const double looked_up = NowSeconds();
    outcome.lookup_seconds = looked_up - began;
    // From the last batch, and so do the puts: what is used last leaves last, and that shall be the
    // head.
    size_t have = found;
    for (size_t batch = Batches(found); batch-- > 0;) {
      const auto part = Batch(blocks.first(found), batch);
      VARVE_ASSIGN_OR_RETURN(const size_t hits, Get(part, outcome));
      if (hits < part.size()) have = batch * kBatch + hits;
    }
    outcome.late_misses = found - have;
    const double got = NowSeconds();
    if (found > 0) outcome.get_seconds = got - looked_up;
    const auto rest = blocks.subspan(have);
    for (size_t batch = Batches(rest.size()); batch-- > 0;) {
      const std::span<const uint32_t> part = Batch(rest, batch);
      const size_t first = have + batch * kBatch;
      const page::ObjectKey parent = first > 0 ? keys[first - 1] : page::ObjectKey();
      VARVE_RETURN_IF_ERROR(Put(part, parent, request.input_tokens, outcome));
    }
    if (have < blocks.size()) outcome.put_seconds = NowSeconds() - got;
    replay_.Done(request, outcome);
    return absl::OkStatus();
  }

  Piece Place(size_t i) const {
    return {memory_.get(), i * replay_.value_bytes(), replay_.value_bytes()};
  }
  // The block's number stands at both ends of its value.
  std::byte* Front(size_t i) const { return memory_->bytes().data() + i * replay_.value_bytes(); }
  std::byte* Back(size_t i) const { return Front(i) + replay_.value_bytes() - sizeof(uint32_t); }

  // How many came, from the first on.
  absl::StatusOr<size_t> Get(std::span<const uint32_t> blocks, Replay::Outcome& outcome) {
    std::vector<GetItem> items;
    for (size_t i = 0; i < blocks.size(); ++i) {
      std::memset(Front(i), 0xff, sizeof(uint32_t));
      std::memset(Back(i), 0xff, sizeof(uint32_t));
      items.push_back({replay_.Key(blocks[i]), {}, {Place(i)}});
    }
    const double began = NowSeconds();
    VARVE_ASSIGN_OR_RETURN(const std::vector<GetResult> results, client_->Get(items));
    const double seconds = NowSeconds() - began;
    VARVE_ASSIGN_OR_RETURN(const size_t hits, CheckValues(blocks, results));
    const auto from_nvme = [](const GetResult& result) {
      return result.hit && result.tier == Tier::kNvme;
    };
    const auto nvme = static_cast<uint64_t>(
        std::count_if(results.begin(), results.begin() + static_cast<ptrdiff_t>(hits), from_nvme));
    outcome.hits_nvme += nvme;
    outcome.hits_host += hits - nvme;
    // The slowest tier decides how long a batch takes.
    if (std::any_of(results.begin(), results.end(), from_nvme)) {
      outcome.nvme_batch_seconds.push_back(seconds);
    } else if (hits > 0) {
      outcome.host_batch_seconds.push_back(seconds);
    }
    return hits;
  }

  // How many came, from the first on, and are what they should be.
  absl::StatusOr<size_t> CheckValues(std::span<const uint32_t> blocks,
                                     std::span<const GetResult> results) const {
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (!results[i].hit) {
        if (results[i].reason == MissReason::kFailed) return CheckHit(results[i]);
        return i;
      }
      if (std::memcmp(Front(i), &blocks[i], sizeof(uint32_t)) != 0 ||
          std::memcmp(Back(i), &blocks[i], sizeof(uint32_t)) != 0) {
        return absl::DataLossError(
            absl::StrCat("block ", blocks[i], " came with the bytes of another"));
      }
    }
    return blocks.size();
  }

  // parent: of the first block.
  absl::Status Put(std::span<const uint32_t> blocks, page::ObjectKey parent, uint32_t prompt_tokens,
                   Replay::Outcome& outcome) {
    std::vector<PutItem> items;
    for (size_t i = 0; i < blocks.size(); ++i) {
      std::memcpy(Front(i), &blocks[i], sizeof(uint32_t));
      std::memcpy(Back(i), &blocks[i], sizeof(uint32_t));
      const page::ObjectKey key = replay_.Key(blocks[i]);
      items.push_back({.key = key,
                       .sources = {Place(i)},
                       .prompt_tokens = prompt_tokens,
                       .tokens = kTraceBlockTokens,
                       .parent = parent == key ? page::ObjectKey() : parent});
      parent = key;
    }
    VARVE_ASSIGN_OR_RETURN(const std::vector<PutResult> results, client_->Put(items));
    for (size_t i = 0; i < blocks.size(); ++i) {
      // Stored by another engine, or twice in one prompt.
      if (results[i].outcome == PutOutcome::kExists) continue;
      if (results[i].outcome == PutOutcome::kNoSpace) {
        ++outcome.refused_puts;
        continue;
      }
      VARVE_RETURN_IF_ERROR(CheckStored(results[i]));
      replay_.Stored(blocks[i]);
      ++outcome.puts;
    }
    return absl::OkStatus();
  }

  Replay& replay_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Memory> memory_;
};

absl::StatusOr<std::vector<std::unique_ptr<Engine>>> MakeEngines(Replay& replay,
                                                                 const BenchOptions& bench,
                                                                 const BenchStore& store,
                                                                 uint32_t count) {
  std::vector<std::unique_ptr<Engine>> engines;
  for (uint32_t i = 0; i < count; ++i) {
    VARVE_ASSIGN_OR_RETURN(auto client, OpenClient(bench, store));
    VARVE_ASSIGN_OR_RETURN(auto memory, client->Allocate(kBatch * replay.value_bytes()));
    std::memset(memory->bytes().data(), 1, memory->bytes().size());
    engines.push_back(std::make_unique<Engine>(replay, std::move(client), std::move(memory)));
  }
  return engines;
}

void RunEngines(Replay& replay, std::span<const std::unique_ptr<Engine>> engines) {
  std::atomic<size_t> running{engines.size()};
  std::vector<std::thread> threads;
  for (const auto& engine : engines) {
    threads.emplace_back([&running, engine = engine.get()] {
      engine->Run();
      --running;
    });
  }
  console::Progress progress("replaying", replay.trace().requests.size());
  while (running > 0) {
    absl::SleepFor(kLook);
    progress.Update(replay.requests_done(), "requests");
    if (const absl::Status stopped = console::CheckStopped(); !stopped.ok()) replay.End(stopped);
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

absl::StatusOr<ReplayResult> ReplayTrace(const Trace& trace, const BenchOptions& bench,
                                         const ReplayOptions& options) {
  const uint64_t value_bytes = uint64_t{kTraceBlockTokens} * options.bytes_per_token;
  VARVE_ASSIGN_OR_RETURN(const auto opened, TraceStore::Open(bench, options.store, value_bytes));
  const BenchStore& store = opened->store();
  VARVE_ASSIGN_OR_RETURN(const auto watcher, OpenClient(bench, store));
  VARVE_RETURN_IF_ERROR(CheckRoom(bench, *watcher, trace.distinct_blocks * value_bytes));
  Replay replay(trace, options);
  VARVE_ASSIGN_OR_RETURN(const auto engines, MakeEngines(replay, bench, store, options.engines));
  replay.Begin();
  RunEngines(replay, engines);
  absl::StatusOr<ReplayResult> result = replay.Take();
  if (store.shared()) {
    const absl::Status cleaned = replay.RemoveStored(*watcher);
    if (result.ok() && !cleaned.ok()) return base::Annotate(cleaned, "removing the values again");
  }
  if (!result.ok()) return result;
  VARVE_ASSIGN_OR_RETURN(const StoreStatus status, watcher->Status());
  result->has_nvme = std::any_of(status.tiers.begin(), status.tiers.end(),
                                 [](const TierInfo& tier) { return tier.tier == Tier::kNvme; });
  if (!store.shared()) {
    VARVE_ASSIGN_OR_RETURN(result->moved, opened->Moved());
  }
  return result;
}

}  // namespace varve::client
