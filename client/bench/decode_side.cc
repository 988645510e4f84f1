#include "client/bench/decode_side.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "client/bench/scrape.h"
#include "client/console/stop.h"
#include "gpu_worker/low_rank_keys.h"
#include "kvstore/base/status.h"

namespace varve::client {

page::RopeParameters DecodeRope(uint32_t head_dim) {
  page::RopeParameters rope;
  rope.theta = 500000;
  rope.rotary_dim = head_dim;
  rope.scaling = page::RopeScaling::kLlama3;
  rope.factor = 8;
  rope.low_freq_factor = 1;
  rope.high_freq_factor = 4;
  rope.original_max_position = 8192;
  return rope;
}

absl::Status DecodeSide::Open(const BenchOptions& bench, const BenchStore& store,
                              uint32_t sequences, const PlantedPrompt& prompt) {
  VARVE_ASSIGN_OR_RETURN(parsed_, worker::ParsePolicy(policy_));
  geometry_ = {.num_layers = 1,
               .num_kv_heads = options_.kv_heads,
               .num_query_heads = options_.kv_heads * options_.group_size,
               .head_dim = options_.head_dim,
               .page_tokens = parsed_.low_rank() ? options_.chunk_tokens : options_.page_tokens,
               .dtype = page::DType::kBF16,
               .rope = DecodeRope(options_.head_dim)};
  VARVE_ASSIGN_OR_RETURN(client_, OpenClient(bench, store));
  worker::WorkerOptions worker;
  worker.geometry = geometry_;
  worker.key_namespace = "varve-bench";
  worker.recall_path = worker::RecallPath::kWorker;
  // ShadowKV's landmarks.
  if (parsed_.low_rank()) worker.digest_kind = page::DigestKind::kMean;
  worker.attend_threads = options_.attend_threads;
  worker.metrics = &metrics_;
  worker.pool_bytes = PoolBytes(sequences);
  VARVE_ASSIGN_OR_RETURN(worker_, worker::Worker::Create(worker, client_.get()));
  for (uint32_t i = 0; i < sequences; ++i) VARVE_RETURN_IF_ERROR(Prefill(prompt, i));
  std::normal_distribution<float> normal;
  queries_.resize(sequences * QueryFloats());
  for (float& q : queries_) q = normal(random_);
  out_.resize(queries_.size());
  return absl::OkStatus();
}

absl::Status DecodeSide::Step(uint32_t batch) {
  items_.clear();
  for (uint32_t i = 0; i < batch; ++i) {
    items_.push_back({ids_[i], &queries_[i * QueryFloats()], &out_[i * QueryFloats()]});
  }
  ++steps_;
  return worker_->Attend(0, items_);
}

void DecodeSide::Turn() {
  const auto along = static_cast<float>(std::cos(angle_));
  const auto across = static_cast<float>(std::sin(angle_));
  std::normal_distribution<float> normal;
  for (float& q : queries_) q = along * q + across * normal(random_);
}

absl::Status DecodeSide::Tune(uint32_t batch, double hits) {
  if (!recalls()) return absl::OkStatus();
  constexpr int kHalvings = 10;
  constexpr int kSteps = 12;
  double low = 0, high = std::numbers::pi / 2;
  for (int i = 0; i < kHalvings; ++i) {
    angle_ = (low + high) / 2;
    for (int step = -2; step < kSteps; ++step) {
      VARVE_RETURN_IF_ERROR(console::CheckStopped());
      if (step == 0) StartCounting(batch);
      Turn();
      VARVE_RETURN_IF_ERROR(Step(batch));
    }
    (HitShare(batch) > hits ? low : high) = angle_;
  }
  return absl::OkStatus();
}

void DecodeSide::StartCounting(uint32_t batch) {
  before_ = Count(batch);
  noted_steps_ = steps_;
  sums_ = ParseMetrics(metrics_.Render());
  by_step_.clear();
}

void DecodeSide::NoteStep() {
  if (noted_steps_ == steps_) return;
  noted_steps_ = steps_;
  std::map<std::string, double> sums = ParseMetrics(metrics_.Render());
  for (const auto& [series, sum] : sums) {
    if (series.find("_seconds_sum") == std::string::npos) continue;
    by_step_[series].push_back(sum - sums_[series]);
  }
  sums_ = std::move(sums);
}

DecodeCounts DecodeSide::Counted(uint32_t batch) const {
  DecodeCounts now = Count(batch);
  now.steps -= before_.steps;
  now.selected -= before_.selected;
  now.recalled -= before_.recalled;
  now.recalled_bytes -= before_.recalled_bytes;
  for (const auto& [series, seconds] : by_step_) now.seconds[series] = Median(seconds);
  return now;
}

double DecodeSide::HitShare(uint32_t batch) const {
  const DecodeCounts counts = Counted(batch);
  const double asked = static_cast<double>(counts.steps) * batch * geometry_.num_kv_heads *
                       static_cast<double>(BudgetPages());
  return asked > 0 ? 1 - static_cast<double>(counts.recalled) / asked : 0;
}

uint64_t DecodeSide::BudgetPages() const {
  const auto info = worker_->Info(ids_.front());
  return info.ok() ? info->budget_pages : 0;
}

worker::SequenceMemory DecodeSide::Memory() const {
  const auto info = worker_->Info(ids_.front());
  return info.ok() ? info->memory : worker::SequenceMemory();
}

uint64_t DecodeSide::FormulaBytes() const {
  if (!parsed_.low_rank()) return 0;
  // The window is in the budget.
  return worker::FormulaBytes(parsed_, geometry_, static_cast<uint32_t>(BudgetPages()),
                              /*window_tokens=*/0, options_.tokens);
}

// Where pages leave, they do so one prompt after the other.
uint64_t DecodeSide::PoolBytes(uint32_t sequences) const {
  const uint64_t pages = PagesOfPrompt();
  uint64_t hot = pages;
  if (parsed_.evicts()) {
    const double budget = parsed_.BudgetPages(static_cast<uint32_t>(pages));
    hot = std::min(pages, static_cast<uint64_t>(2 * (parsed_.hot + parsed_.outliers) * budget));
  }
  return geometry_.object_bytes() * (sequences * hot + pages + 64);
}

absl::Status DecodeSide::Prefill(const PlantedPrompt& prompt, uint32_t sequence) {
  VARVE_ASSIGN_OR_RETURN(const worker::SequenceId id,
                         worker_->Open({.policy = parsed_, .context_id = {}}));
  ids_.push_back(id);
  constexpr uint32_t kChunk = 1024;
  for (uint32_t t = 0; t < prompt.tokens(); t += kChunk) {
    VARVE_RETURN_IF_ERROR(console::CheckStopped());
    const uint32_t count = std::min(kChunk, prompt.tokens() - t);
    // Each sequence has blocks of its own in the store.
    const std::vector<int32_t> tokens(count, static_cast<int32_t>(1 + 1000 * index_ + sequence));
    VARVE_RETURN_IF_ERROR(worker_->Extend(id, tokens));
    VARVE_RETURN_IF_ERROR(worker_->Append(id, 0, prompt.KeysFrom(t), prompt.ValuesFrom(t), count));
  }
  return worker_->FinishPrefill(id);
}

DecodeCounts DecodeSide::Count(uint32_t batch) const {
  DecodeCounts counts{.steps = steps_};
  for (uint32_t i = 0; i < batch; ++i) {
    const auto info = worker_->Info(ids_[i]);
    if (!info.ok()) continue;
    counts.selected += info->stats.selected_pages;
    counts.recalled += info->stats.recalled_pages;
    counts.recalled_bytes += info->stats.recalled_bytes;
  }
  return counts;
}

}  // namespace varve::client
