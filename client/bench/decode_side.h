// One policy of the decode benchmark: a worker of its own, its sequences, and queries that turn.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/bench/bench.h"
#include "client/bench/decode_bench.h"
#include "client/bench/decode_data.h"
#include "gpu_worker/worker.h"
#include "kvstore/base/metrics.h"

namespace varve::client {

// Llama-3.1's.
page::RopeParameters DecodeRope(uint32_t head_dim);

struct DecodeCounts {  // of all sequences of a batch
  uint64_t steps = 0;
  uint64_t selected = 0;
  uint64_t recalled = 0;
  uint64_t recalled_bytes = 0;
  // By series of the worker's histograms: the median of what a step took. A neighbour on the
  // machine stops a step now and then.
  std::map<std::string, double> seconds;
};

// One thread.
class DecodeSide {
 public:
  // index: tells its blocks in the store from those of others. options outlive it.
  DecodeSide(const DecodeOptions& options, std::string policy, uint32_t index)
      : options_(options), policy_(std::move(policy)), index_(index) {}

  // Starts the worker and gives it the prompt as so many sequences.
  absl::Status Open(const BenchOptions& bench, const BenchStore& store, uint32_t sequences,
                    const PlantedPrompt& prompt);

  // Attention of the first `batch` sequences.
  absl::Status Step(uint32_t batch);
  // Turns all queries by the angle, in random directions.
  void Turn();
  // Finds the angle at which such a share of the budget's pages is there already.
  absl::Status Tune(uint32_t batch, double hits);

  void StartCounting(uint32_t batch);
  // What the last step took, once for each.
  void NoteStep();
  // Since StartCounting.
  DecodeCounts Counted(uint32_t batch) const;
  // What a sequence takes of the worker's memory; of low-rank keys also by the formula, or 0.
  worker::SequenceMemory Memory() const;
  uint64_t FormulaBytes() const;
  // Of the pages of the budget; outliers, which never leave, are not counted.
  double HitShare(uint32_t batch) const;

  const std::string& policy() const { return policy_; }
  bool recalls() const { return parsed_.recalls(); }
  uint32_t rank() const { return parsed_.rank; }
  double angle() const { return angle_; }
  const page::Geometry& geometry() const { return geometry_; }
  page::DigestKind digest_kind() const { return worker_->options().digest_kind; }
  uint32_t PagesOfPrompt() const { return options_.tokens / geometry_.page_tokens; }

 private:
  size_t QueryFloats() const { return size_t{geometry_.num_query_heads} * geometry_.head_dim; }
  uint64_t BudgetPages() const;
  uint64_t PoolBytes(uint32_t sequences) const;
  absl::Status Prefill(const PlantedPrompt& prompt, uint32_t sequence);
  DecodeCounts Count(uint32_t batch) const;

  const DecodeOptions& options_;
  const std::string policy_;
  const uint32_t index_;
  worker::Policy parsed_;
  page::Geometry geometry_;
  base::Metrics metrics_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<worker::Worker> worker_;
  std::vector<worker::SequenceId> ids_;
  std::mt19937_64 random_{37};
  std::vector<float> queries_, out_;  // by sequence
  std::vector<worker::AttendItem> items_;
  double angle_ = 0;  // of a query with that of the step before
  uint64_t steps_ = 0;
  DecodeCounts before_;
  uint64_t noted_steps_ = 0;
  std::map<std::string, double> sums_;                  // of all steps, by series
  std::map<std::string, std::vector<double>> by_step_;  // of those since StartCounting
};

}  // namespace varve::client
