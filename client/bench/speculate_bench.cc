#include "client/bench/speculate_bench.h"

#include <cmath>
#include <memory>
#include <random>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/console/stop.h"
#include "gpu_worker/worker.h"
#include "kvstore/base/hash.h"
#include "kvstore/base/status.h"
#include "kvstore/page/dtype.h"

namespace varve::client {
namespace {

// Sleeping ends late; the rest is waited for awake.
constexpr double kAwakeSeconds = 100e-6;

void ComputeFor(double seconds) {
  const double end = NowSeconds() + seconds;
  if (seconds > kAwakeSeconds) absl::SleepFor(absl::Seconds(seconds - kAwakeSeconds));
  while (NowSeconds() < end) {
  }
}

// Keys of a page lie around its own centre, so that pages differ for a query.
class Prompt {
 public:
  explicit Prompt(const page::Geometry& geometry)
      : geometry_(geometry),
        row_(size_t{geometry.num_kv_heads} * geometry.head_dim),
        centre_(row_),
        keys_(row_ * geometry.page_tokens),
        values_(keys_.size(), page::F32ToBF16(0.5f)) {}

  absl::Status AppendPage(worker::Worker& worker, worker::SequenceId id, uint32_t layer,
                          std::mt19937_64& random) {
    std::normal_distribution<float> normal;
    for (float& x : centre_) x = normal(random);
    for (size_t i = 0; i < keys_.size(); ++i) {
      keys_[i] = page::F32ToBF16(centre_[i % row_] + 0.5f * normal(random));
    }
    return worker.Append(id, layer, keys_.data(), values_.data(), geometry_.page_tokens);
  }

 private:
  const page::Geometry geometry_;
  const size_t row_;
  std::vector<float> centre_;
  std::vector<uint16_t> keys_, values_;
};

// One sequence and its queries.
class Decoder {
 public:
  Decoder(worker::Worker* worker, const SpeculateOptions& options)
      : worker_(worker), geometry_(worker->options().geometry), options_(options) {}
  ~Decoder() { Close().IgnoreError(); }

  absl::Status Open(const std::string& policy, const std::string& context_id = "") {
    VARVE_RETURN_IF_ERROR(Prefill(policy, context_id, "", options_.pages));
    std::normal_distribution<float> normal;
    const size_t floats = size_t{geometry_.num_query_heads} * geometry_.head_dim;
    queries_.resize(geometry_.num_layers, std::vector<float>(floats));
    out_.resize(floats);
    for (auto& layer : queries_) {
      for (float& q : layer) q = normal(random_);
    }
    return absl::OkStatus();
  }

  // A second turn: goes on from a fork of `context_id`, with a page of new tokens and the queries
  // of the one that has it.
  absl::Status Resume(const std::string& policy, const std::string& context_id,
                      const Decoder& before) {
    VARVE_RETURN_IF_ERROR(Prefill(policy, "", context_id, 1));
    queries_ = before.queries_;
    out_.resize(before.out_.size());
    return absl::OkStatus();
  }

  absl::Status Warm() {
    for (uint32_t l = 0; l < geometry_.num_layers; ++l) {
      const worker::AttendItem item{id_, queries_[l].data(), out_.data()};
      VARVE_RETURN_IF_ERROR(worker_->Warm(l, {&item, 1}));
    }
    return absl::OkStatus();
  }

  absl::Status Close() { return worker_->Close(std::exchange(id_, 0)); }

  absl::Status Step(double compute_seconds) {
    for (uint32_t l = 0; l < geometry_.num_layers; ++l) {
      ComputeFor(compute_seconds / geometry_.num_layers);
      const worker::AttendItem item{id_, queries_[l].data(), out_.data()};
      VARVE_RETURN_IF_ERROR(worker_->Attend(l, {&item, 1}));
    }
    ++steps_;
    return absl::OkStatus();
  }

  // By the given cosine, in a random direction.
  absl::Status Turn() {
    const auto along = static_cast<float>(options_.cosine);
    const float across = std::sqrt(std::max(0.0f, 1 - along * along));
    std::normal_distribution<float> normal;
    for (auto& layer : queries_) {
      for (float& q : layer) q = along * q + across * normal(random_);
    }
    return absl::OkStatus();
  }

  void StartCounting() {
    before_ = Stats();
    steps_ = 0;
  }
  // Of the steps since, by step.
  std::map<std::string, double> Counts() const {
    const worker::SequenceStats now = Stats();
    const auto per_step = [this](uint64_t after, uint64_t before) {
      return static_cast<double>(after - before) / std::max<uint64_t>(1, steps_);
    };
    const double page_bytes = static_cast<double>(geometry_.page_bytes());
    const double fetched = per_step(now.recalled_pages, before_.recalled_pages);
    const double selected = per_step(now.selected_pages, before_.selected_pages);
    const double hot = per_step(now.hot_pages, before_.hot_pages);
    const double used = per_step(now.prefetch_used_pages, before_.prefetch_used_pages);
    const double kept = per_step(now.kept_heads, before_.kept_heads);
    const double corrected = per_step(now.corrected_heads, before_.corrected_heads) +
                             per_step(now.late_heads, before_.late_heads);
    return {
        {"demand_kb_per_step", fetched * page_bytes / 1e3},
        {"ahead_kb_per_step",
         per_step(now.prefetched_pages, before_.prefetched_pages) * page_bytes / 1e3},
        {"wasted_kb_per_step",
         per_step(now.prefetch_wasted_pages, before_.prefetch_wasted_pages) * page_bytes / 1e3},
        {"hot_hit_share", selected > 0 ? hot / selected : 0},
        {"hidden_share", used + fetched > 0 ? used / (used + fetched) : 0},
        {"corrected_share", kept + corrected > 0 ? corrected / (kept + corrected) : 0},
        {"late_heads_per_step", per_step(now.late_heads, before_.late_heads)},
        {"waited_us_per_step",
         absl::ToDoubleMicroseconds(now.prefetch_wait - before_.prefetch_wait) /
             static_cast<double>(std::max<uint64_t>(1, steps_))},
    };
  }

  double DemandKb() const {
    return static_cast<double>(Stats().recalled_pages * geometry_.page_bytes()) / 1e3;
  }

 private:
  absl::Status Prefill(const std::string& policy, const std::string& context_id,
                       const std::string& resume, uint32_t pages) {
    worker::SequenceOptions sequence{
        .policy = {}, .context_id = context_id, .resume_context_id = resume};
    VARVE_ASSIGN_OR_RETURN(sequence.policy, worker::ParsePolicy(policy));
    VARVE_ASSIGN_OR_RETURN(id_, worker_->Open(sequence));
    const std::vector<int32_t> tokens(geometry_.page_tokens, 1);
    Prompt prompt(geometry_);
    for (uint32_t page = 0; page < pages; ++page) {
      VARVE_RETURN_IF_ERROR(console::CheckStopped());
      VARVE_RETURN_IF_ERROR(worker_->Extend(id_, tokens));
      for (uint32_t l = 0; l < geometry_.num_layers; ++l) {
        VARVE_RETURN_IF_ERROR(prompt.AppendPage(*worker_, id_, l, random_));
      }
    }
    return worker_->FinishPrefill(id_);
  }

  worker::SequenceStats Stats() const {
    const auto info = worker_->Info(id_);
    return info.ok() ? info->stats : worker::SequenceStats{};
  }

  worker::Worker* const worker_;
  const page::Geometry geometry_;
  const SpeculateOptions& options_;
  worker::SequenceId id_ = 0;
  std::mt19937_64 random_{29};
  std::vector<std::vector<float>> queries_;  // by layer
  std::vector<float> out_;
  uint64_t steps_ = 0;
  worker::SequenceStats before_;
};

class SpeculateBench {
 public:
  SpeculateBench(const SpeculateOptions& options, const BenchOptions& bench)
      : options_(options),
        bench_(bench),
        geometry_{options.layers,   options.kv_heads, options.kv_heads * options.group_size,
                  options.head_dim, 32,               page::DType::kBF16} {}

  absl::StatusOr<std::vector<BenchRow>> Run() {
    const uint64_t bytes = uint64_t{options_.pages} * options_.layers * geometry_.object_bytes();
    // The prompt's pages of all three sequences, and of the conversation.
    VARVE_ASSIGN_OR_RETURN(store_, OpenStore(bench_, 5 * bytes + (256ull << 20)));
    VARVE_ASSIGN_OR_RETURN(client_, OpenClient(bench_, store_));
    VARVE_RETURN_IF_ERROR(CheckRoom(bench_, *client_, 4 * bytes));
    worker::WorkerOptions worker;
    worker.geometry = geometry_;
    worker.key_namespace = "varve-bench";
    worker.recall_path = options_.recall_path == "store" ? worker::RecallPath::kStore
                                                         : worker::RecallPath::kWorker;
    worker.prefetch_layers = options_.prefetch_layers;
    const uint64_t heads = uint64_t{options_.layers} * options_.kv_heads;
    worker.pool_bytes =
        heads * geometry_.page_bytes() *
        (options_.pages / 2 + static_cast<uint64_t>(4 * (options_.hot + 1) * options_.budget_pages));
    VARVE_ASSIGN_OR_RETURN(worker_, worker::Worker::Create(worker, client_.get()));
    std::vector<BenchRow> rows;
    for (double compute_ms : options_.compute_ms) VARVE_RETURN_IF_ERROR(Measure(compute_ms, rows));
    return rows;
  }

 private:
  absl::Status Measure(double compute_ms, std::vector<BenchRow>& rows) {
    const std::string budget = absl::StrCat("budget=", options_.budget_pages, "p");
    const std::string arkvale =
        absl::StrCat("arkvale(", budget, ",hot=", options_.hot,
                     options_.policy_parameters.empty() ? "" : ",", options_.policy_parameters);
    const std::vector<std::pair<std::string, std::string>> kinds = {
        {"no recall", absl::StrCat("streaming(", budget, ")")},
        {"on demand", absl::StrCat(arkvale, ")")},
        {"speculating",
         absl::StrCat(arkvale, ",tau=", options_.tau, ",ahead=", options_.ahead, ")")}};
    VARVE_ASSIGN_OR_RETURN(const auto turns, SecondTurns(kinds[1].second, compute_ms));
    std::vector<std::unique_ptr<Decoder>> decoders;
    std::vector<Contestant> contestants;
    for (const auto& [name, policy] : kinds) {
      decoders.push_back(std::make_unique<Decoder>(worker_.get(), options_));
      Decoder* decoder = decoders.back().get();
      VARVE_RETURN_IF_ERROR(decoder->Open(policy));
      contestants.push_back({name, [decoder, compute_ms](double seconds, Series& series) {
                               if (series.rate_per_round.empty()) decoder->StartCounting();
                               return TimedLoop(
                                   seconds, 1, series,
                                   [&] { return decoder->Step(compute_ms / 1e3); },
                                   [&] { return decoder->Turn(); });
                             }});
    }
    VARVE_ASSIGN_OR_RETURN(const auto series, Compete(contestants, bench_.rounds, bench_.seconds));
    for (size_t i = 0; i < kinds.size(); ++i) {
      const Series& own = series.at(kinds[i].first);
      BenchRow row = MakeRow(kinds[i].first, bench_, 0, 1, 1, own);
      row.extra["compute_ms"] = compute_ms;
      row.extra["ratio_step"] = MedianRatio(series.at("no recall"), own);
      if (i > 0) row.extra.merge(decoders[i]->Counts());
      if (i == 1) row.extra.insert(turns.begin(), turns.end());
      rows.push_back(std::move(row));
    }
    return absl::OkStatus();
  }

  // What the first step of a second turn fetches on demand: of one that finds its hot sets cold, of
  // one that was warmed by its queries, and of one that resumes with what was hot.
  absl::StatusOr<std::map<std::string, double>> SecondTurns(const std::string& policy,
                                                            double compute_ms) {
    const std::string id =
        absl::StrCat("varve-bench-", absl::BytesToHexString(base::RandomBytes(8)));
    const absl::Cleanup drop = [&] { client_->DropContext(id).IgnoreError(); };
    constexpr int kSteps = 8;
    std::map<std::string, double> demand;
    Decoder first(worker_.get(), options_);
    VARVE_RETURN_IF_ERROR(first.Open(policy, id));
    for (int step = 0; step < kSteps; ++step) {
      VARVE_RETURN_IF_ERROR(first.Step(compute_ms / 1e3));
      VARVE_RETURN_IF_ERROR(first.Turn());
    }
    for (const std::string kind : {"cold", "warmed", "resumed"}) {
      // From here on the context has what was hot.
      if (kind == "resumed") VARVE_RETURN_IF_ERROR(first.Close());
      Decoder second(worker_.get(), options_);
      VARVE_RETURN_IF_ERROR(second.Resume(policy, id, first));
      if (kind == "warmed") VARVE_RETURN_IF_ERROR(second.Warm());
      VARVE_RETURN_IF_ERROR(second.Step(compute_ms / 1e3));
      demand["first_step_kb_" + kind] = second.DemandKb();
    }
    return demand;
  }

  const SpeculateOptions& options_;
  const BenchOptions& bench_;
  const page::Geometry geometry_;
  BenchStore store_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<worker::Worker> worker_;
};

}  // namespace

void AddSpeculateCommand(CLI::App& app, SpeculateOptions& speculate) {
  CLI::App* sub = app.add_subcommand(
      "speculate",
      "decode steps that recall on demand, and that fetch ahead; a simulated model computes");
  sub->add_option("--compute-ms", speculate.compute_ms,
                  "Time that a step computes, spread over the layers, comma separated (default "
                  "1,2,4)")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 1000.0));
  sub->add_option("--layers", speculate.layers, "Layers (default 8)")->check(CLI::Range(1, 256));
  sub->add_option("--pages", speculate.pages, "Pages of the prompt (default 256)")
      ->check(CLI::Range(16, 1 << 16));
  sub->add_option("--kv-heads", speculate.kv_heads, "KV heads (default 4)")
      ->check(CLI::Range(1, 256));
  sub->add_option("--group", speculate.group_size, "Query heads per KV head (default 4)")
      ->check(CLI::Range(1, 16));
  sub->add_option("--head-dim", speculate.head_dim, "Elements per head (default 128)")
      ->check(CLI::IsMember({32, 64, 96, 128, 256}));
  sub->add_option("--budget", speculate.budget_pages, "Pages attended per head (default 32)")
      ->check(CLI::Range(3, 1 << 16));
  sub->add_option("--hot", speculate.hot, "Hot set as a multiple of the budget (default 1.5)")
      ->check(CLI::Range(1.0, 1000.0));
  sub->add_option("--policy-parameters", speculate.policy_parameters,
                  "Added to the policies that recall, such as smoothing=0 or victims=lru");
  sub->add_option("--cosine", speculate.cosine,
                  "Cosine of a query with that of the step before (default 0.95)")
      ->check(CLI::Range(0.0, 1.0));
  sub->add_option("--tau", speculate.tau, "Policy parameter tau (default 0.85)")
      ->check(CLI::Range(-1.0, 1.0));
  sub->add_option("--ahead", speculate.ahead, "Policy parameter ahead (default 0.25)")
      ->check(CLI::Range(0.001, 1.0));
  sub->add_option("--prefetch-layers", speculate.prefetch_layers,
                  "Layers that share a prefetch (default 0: a quarter of them)")
      ->check(CLI::Range(0, 256));
  sub->add_option("--recall-path", speculate.recall_path, "Who scores: store (default) or worker")
      ->check(CLI::IsMember({"store", "worker"}));
}

absl::StatusOr<std::vector<BenchRow>> BenchSpeculate(const SpeculateOptions& speculate,
                                                     const BenchOptions& bench) {
  return SpeculateBench(speculate, bench).Run();
}

}  // namespace varve::client
