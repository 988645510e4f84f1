// varve-bench: options and rows shared by its operations.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/bench/measure.h"
#include "client/client.h"
#include "client/process/child_process.h"

namespace varve::client {

struct BenchOptions {
  std::string store;              // address; empty: start one
  std::string transport = "shm";  // shm, tcp or inline
  std::vector<uint64_t> sizes = {1 << 20};
  std::vector<uint32_t> batches = {16};
  std::vector<uint32_t> threads = {1};
  uint64_t working_set_bytes = 1ull << 30;
  int rounds = 5;
  double seconds = 1.0;  // per round and contestant
  bool against_redis = false;
  bool json = false;
  bool force = false;  // also when others' values would be evicted
  // recall and score
  uint32_t pages = 4096;
  uint32_t kv_heads = 8;
  uint32_t group_size = 4;
  uint32_t head_dim = 128;
  uint32_t missing_pages = 64;
  // recall
  page::DigestKind digest = page::DigestKind::kMinMax;
  page::Rerank rerank = page::Rerank::kNone;
  double multiplier = page::kDefaultMultiplier;
};

// One line of the table, one element of "results".
struct BenchRow {
  std::string op;
  std::string transport;
  uint64_t value_bytes = 0;
  uint32_t batch = 0;
  uint32_t threads = 0;
  double gb_per_s = 0;  // 0 where no bytes move
  double ops_per_s = 0;
  double p50_us = 0;  // of a batch; 0: not measured
  double p99_us = 0;
  double spread = 0;  // (max - min) / median of the rounds' rates
  // ratio_* against what was measured in the same run, stage times.
  std::map<std::string, double> extra;
};

// A row from a series of rounds; units_per_op: bytes of one value.
BenchRow MakeRow(const std::string& op, const BenchOptions& options, uint64_t value_bytes,
                 uint32_t batch, uint32_t threads, const Series& series);

// A store to measure: started, or the one at options.store.
struct BenchStore {
  std::unique_ptr<ChildProcess> process;  // null when somebody else runs it
  std::string address;
  std::string http_address;  // of its metrics; empty when somebody else runs it

  // What the benchmark stores here is in somebody's way.
  bool shared() const { return process == nullptr; }
};
// flags: further ones, of a store that is started; they win over those that it gets anyway.
absl::StatusOr<BenchStore> OpenStore(const BenchOptions& options, uint64_t capacity_bytes,
                                     const std::vector<std::string>& flags = {});
absl::StatusOr<std::unique_ptr<Client>> OpenClient(const BenchOptions& options,
                                                   const BenchStore& store);
// FAILED_PRECONDITION when so many bytes of values would make somebody else's store evict; with
// --force a warning.
absl::Status CheckRoom(const BenchOptions& options, Client& client, uint64_t value_bytes);
// Why a value was not stored, or is not there.
absl::Status CheckStored(const PutResult& result);
absl::Status CheckHit(const GetResult& result);

absl::StatusOr<std::vector<BenchRow>> BenchObjects(const std::string& op,
                                                   const BenchOptions& options);  // put, get
absl::StatusOr<std::vector<BenchRow>> BenchExists(const BenchOptions& options);
absl::StatusOr<std::vector<BenchRow>> BenchRecall(const BenchOptions& options);
absl::StatusOr<std::vector<BenchRow>> BenchScore(const BenchOptions& options);

}  // namespace varve::client
