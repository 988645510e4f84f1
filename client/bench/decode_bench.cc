#include "client/bench/decode_bench.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/bench/decode_data.h"
#include "client/bench/decode_side.h"
#include "client/console/table.h"
#include "gpu_worker/worker.h"
#include "kvstore/base/row_memory.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/page/bandwidth.h"
#include "kvstore/page/simd/cpu_features.h"

namespace varve::client {
namespace {

constexpr char kDense[] = "full";

// In the order of a step; "other" is the rest of it.
struct Stage {
  const char* name;
  const char* seconds;  // series of the worker's metrics
};
constexpr Stage kStages[] = {
    {"score", R"(varve_recall_stage_duration_seconds_sum{stage="score"})"},
    {"select", R"(varve_recall_stage_duration_seconds_sum{stage="select"})"},
    {"transfer", R"(varve_recall_stage_duration_seconds_sum{stage="transfer"})"},
    {"install", R"(varve_recall_stage_duration_seconds_sum{stage="install"})"},
    {"rebuild", R"(varve_recall_stage_duration_seconds_sum{stage="rebuild"})"},
    {"attention", "varve_worker_attention_duration_seconds_sum"},
};

// What the cores of a step do at best, of each round.
struct Speeds {
  std::vector<double> read;     // bytes/s, all threads together
  std::vector<double> copy;     // bytes/s of one memcpy
  std::vector<double> compute;  // fp32 operations/s, all threads together
};

class DecodeBench {
 public:
  DecodeBench(const DecodeOptions& options, const BenchOptions& bench)
      : options_(options),
        bench_(bench),
        threads_(options.attend_threads > 0
                     ? options.attend_threads
                     : std::clamp(std::thread::hardware_concurrency() / 2, 1u, 16u)),
        other_memory_(std::max<uint64_t>(options.flush_bytes, 64 << 20), std::byte{1}) {}

  absl::StatusOr<std::vector<BenchRow>> Run() {
    const uint32_t sequences = *std::max_element(options_.batches.begin(), options_.batches.end());
    std::vector<std::string> policies = {kDense};
    for (const std::string& policy : options_.policies) policies.push_back(WithDefaults(policy));
    const uint64_t bytes = 4ull * options_.tokens * options_.kv_heads * options_.head_dim *
                           sequences * policies.size();
    VARVE_ASSIGN_OR_RETURN(store_, OpenStore(bench_, bytes + bytes / 4 + (256ull << 20)));
    VARVE_ASSIGN_OR_RETURN(const auto client, OpenClient(bench_, store_));
    VARVE_RETURN_IF_ERROR(CheckRoom(bench_, *client, bytes));
    for (const std::string& policy : policies) {
      sides_.push_back(
          std::make_unique<DecodeSide>(options_, policy, static_cast<uint32_t>(sides_.size())));
    }
    {
      page::Geometry geometry{1, options_.kv_heads, options_.kv_heads, options_.head_dim};
      geometry.rope = DecodeRope(options_.head_dim);
      const PlantedPrompt prompt(geometry, options_.tokens);
      for (const auto& side : sides_) {
        VARVE_RETURN_IF_ERROR(
            base::Annotate(side->Open(bench_, store_, sequences, prompt), side->policy()));
      }
    }
    std::vector<BenchRow> rows;
    for (const uint32_t batch : options_.batches) VARVE_RETURN_IF_ERROR(Measure(batch, rows));
    return rows;
  }

 private:
  // The budget, a hot set of what the step before selected, and the rank, where a policy does not
  // say.
  std::string WithDefaults(std::string policy) const {
    const worker::Policy parsed = *worker::ParsePolicy(policy);  // as SetPolicies has
    const uint32_t page_tokens = parsed.low_rank() ? options_.chunk_tokens : options_.page_tokens;
    std::vector<std::string> given;
    const size_t open = policy.find('(');
    if (open != std::string::npos) {
      const std::string inside = policy.substr(open + 1, policy.size() - open - 2);
      given = absl::StrSplit(inside, ',', absl::SkipEmpty());
      policy.resize(open);
    }
    const auto add = [&](const std::string& name, const std::string& value) {
      for (const std::string& each : given) {
        if (each.starts_with(name + "=")) return;
      }
      given.push_back(name + "=" + value);
    };
    add("budget", absl::StrCat(options_.budget_tokens / page_tokens, "p"));
    if (parsed.recalls()) add("hot", "1");
    if (parsed.low_rank()) add("rank", absl::StrCat(options_.rank));
    return absl::StrCat(policy, "(", absl::StrJoin(given, ","), ")");
  }

  absl::Status Measure(uint32_t batch, std::vector<BenchRow>& rows) {
    std::vector<Contestant> contestants;
    Speeds speeds;
    contestants.push_back({"speeds", [this, &speeds](double, Series&) {
                             MeasureSpeeds(speeds);
                             return absl::OkStatus();
                           }});
    for (const auto& each : sides_) {
      DecodeSide* side = each.get();
      VARVE_RETURN_IF_ERROR(side->Tune(batch, options_.hits));
      contestants.push_back({side->policy(), [this, side, batch](double seconds, Series& series) {
                               if (series.rate_per_round.empty()) side->StartCounting(batch);
                               return TimedLoop(
                                   seconds, 1, series, [&] { return side->Step(batch); },
                                   [&] {
                                     side->NoteStep();
                                     side->Turn();
                                     Flush();
                                     return absl::OkStatus();
                                   });
                             }});
    }
    VARVE_ASSIGN_OR_RETURN(const auto series, Compete(contestants, bench_.rounds, bench_.seconds));
    for (const auto& side : sides_) {
      const Series& own = series.at(side->policy());
      BenchRow row = MakeRow(side->policy(), bench_, 0, batch, threads_, own);
      const Series& dense = series.at(kDense);
      row.extra["ratio_dense"] = MedianRatio(own, dense);
      Series ratios;
      for (size_t i = 0; i < own.rate_per_round.size(); ++i) {
        ratios.rate_per_round.push_back(own.rate_per_round[i] / dense.rate_per_round[i]);
      }
      row.extra["ratio_dense_spread"] = Spread(ratios);
      AddStages(*side, batch, speeds, row);
      AddMemory(*side, row);
      rows.push_back(std::move(row));
    }
    return absl::OkStatus();
  }

  // Other layers come between two steps of one: nothing of it is in a cache.
  void Flush() {
    if (options_.flush_bytes == 0) return;
    volatile uint64_t sink = 0;
    uint64_t sum = 0;
    for (size_t i = 0; i < options_.flush_bytes; i += 64) {
      sum += static_cast<uint64_t>(other_memory_[i]);
    }
    sink = sum;
    static_cast<void>(sink);
  }

  void MeasureSpeeds(Speeds& speeds) {
    std::vector<double> read(threads_), compute(threads_);
    const size_t own = other_memory_.size() / threads_;
    std::vector<std::thread> threads;
    for (uint32_t t = 0; t < threads_; ++t) {
      threads.emplace_back([&, t] {
        read[t] = page::ReadBandwidth(std::span(other_memory_).subspan(t * own, own), 1);
        compute[t] = page::MultiplyAddRate(3);
      });
    }
    for (std::thread& thread : threads) thread.join();
    speeds.read.push_back(std::accumulate(read.begin(), read.end(), 0.0) * 1e9);
    speeds.compute.push_back(std::accumulate(compute.begin(), compute.end(), 0.0) * 1e9);
    speeds.copy.push_back(page::MeasureMemcpy(128 << 20, 2).value_or(0) * 1e9);
  }

  // Times of a step by stage, medians over the steps, and what each takes at least: its bytes at
  // the speed of reading or copying, or its multiply-adds, whichever takes longer.
  void AddStages(const DecodeSide& side, uint32_t batch, const Speeds& speeds,
                 BenchRow& row) const {
    const page::Geometry& g = side.geometry();
    const DecodeCounts counts = side.Counted(batch);
    const auto steps = static_cast<double>(std::max<uint64_t>(1, counts.steps));
    const double read = Median(speeds.read) / 1e6;
    const double copy = Median(speeds.copy) / 1e6;
    const double compute = Median(speeds.compute) / 1e6;
    row.extra["read_gb_per_s"] = read / 1e3;
    row.extra["copy_gb_per_s"] = copy / 1e3;
    row.extra["fp32_gflops"] = compute / 1e3;

    std::map<std::string, double> limits;
    const double heads = static_cast<double>(batch) * g.num_kv_heads;
    const double pages = side.PagesOfPrompt();
    const double recalled = static_cast<double>(counts.recalled) / steps;
    const double recalled_bytes = static_cast<double>(counts.recalled_bytes) / steps;
    if (side.recalls()) {
      limits["score"] =
          heads * pages * static_cast<double>(page::DigestBytes(side.digest_kind(), g)) / read;
      limits["select"] = heads * pages * sizeof(float) / read;
      limits["transfer"] = recalled_bytes / copy;
      row.extra["hit_share"] = side.HitShare(batch);
      row.extra["cosine"] = std::cos(side.angle());
      row.extra["recalled_kb"] = recalled_bytes / 1e3;
      // Those that came with one part of two.
      const double rebuilt = 2 * recalled - recalled_bytes / static_cast<double>(g.part_bytes());
      const double keys = rebuilt * g.page_tokens;
      // They are rebuilt while the values come: the longer of both is the stage's limit.
      if (keys > 0) {
        const double in_registers =
            page::Cpu().amx_bf16 ? 0 : 2.0 * keys * side.rank() * g.head_dim / compute;
        row.extra["limit_rebuild_us"] =
            std::max(in_registers, keys * side.rank() * page::DTypeBytes(g.dtype) / read);
        limits["transfer"] = std::max(limits["transfer"], row.extra["limit_rebuild_us"]);
      }
    }
    const double attended = static_cast<double>(counts.selected) / steps * g.page_tokens;
    limits["attention"] = std::max(attended * 2 * static_cast<double>(g.row_bytes()) / read,
                                   attended * 4 * g.group_size() * g.head_dim / compute);
    row.extra["attended_tokens"] = attended / heads;

    double other = Micros(counts, "varve_worker_attend_duration_seconds_sum");
    row.extra["step_us"] = other;
    for (const Stage& stage : kStages) {
      const double us = Micros(counts, stage.seconds);
      other -= us;
      if (us == 0) continue;
      row.extra[absl::StrCat(stage.name, "_us")] = us;
      const auto limit = limits.find(stage.name);
      if (limit == limits.end()) continue;
      row.extra[absl::StrCat("limit_", stage.name, "_us")] = limit->second;
      row.extra["limit_us"] += limit->second;
    }
    row.extra["other_us"] = other;
    row.extra["ratio_limit"] = row.extra["limit_us"] / row.extra["step_us"];
  }

  // Bytes a token of one sequence, by kind.
  void AddMemory(const DecodeSide& side, BenchRow& row) const {
    const worker::SequenceMemory memory = side.Memory();
    const auto tokens = static_cast<double>(options_.tokens);
    for (const worker::MemoryKind& kind : worker::kMemoryKinds) {
      row.extra[absl::StrCat("memory_", kind.name)] =
          static_cast<double>(memory.*kind.bytes) / tokens;
    }
    row.extra["memory"] = static_cast<double>(memory.total()) / tokens;
    const uint64_t formula = side.FormulaBytes();
    if (formula > 0) row.extra["memory_by_formula"] = static_cast<double>(formula) / tokens;
  }

  static double Micros(const DecodeCounts& counts, const std::string& series) {
    const auto it = counts.seconds.find(series);
    return it == counts.seconds.end() ? 0 : it->second * 1e6;
  }

  const DecodeOptions& options_;
  const BenchOptions& bench_;
  const uint32_t threads_;
  std::vector<std::byte, base::RowAllocator<std::byte>> other_memory_;
  BenchStore store_;
  std::vector<std::unique_ptr<DecodeSide>> sides_;
};

// At commas that are not inside parentheses. Without white space, which no policy needs.
std::vector<std::string> SplitPolicies(const std::string& text) {
  std::vector<std::string> policies(1);
  int depth = 0;
  for (const char c : text) {
    if (absl::ascii_isspace(static_cast<unsigned char>(c))) continue;
    depth += c == '(' ? 1 : c == ')' ? -1 : 0;
    if (c == ',' && depth == 0) {
      policies.emplace_back();
    } else {
      policies.back() += c;
    }
  }
  return policies;
}

// Throws CLI::ValidationError, which the parser reports.
void SetPolicies(const std::string& text, DecodeOptions& decode) {
  decode.policies = SplitPolicies(text);
  for (const std::string& policy : decode.policies) {
    const auto parsed = worker::ParsePolicy(policy);
    if (!parsed.ok()) {
      throw CLI::ValidationError("--policies", std::string(parsed.status().message()));
    }
    if (parsed->kind == worker::PolicyKind::kFull) {
      throw CLI::ValidationError("--policies", "full is what the others are compared with");
    }
  }
}

}  // namespace

void AddDecodeCommand(CLI::App& app, DecodeOptions& decode) {
  CLI::App* sub = app.add_subcommand(
      "decode", "decode attention of one layer at a long context, by stage, against dense");
  sub->footer(R"(
One layer of a decode step through the worker: score, select, fetch what is not resident, rebuild
keys, attend. Defaults are a layer of Llama-3.1-8B at 32k tokens. "full" attends to every token, by
the same worker on as many threads. Keys are made up, of low rank before RoPE; queries turn from
step to step by an angle that is searched for each policy and batch, such that --hits of the pages
of its budget were selected by the step before. No token is appended. Between two steps other memory
is read, so that the layer is in no cache that the thread of the step uses.

A policy without a budget, hot or rank has those of --budget-tokens, hot=1 (the hot set is what the
last step selected) and --rank. "limit" is what a stage takes at least: its bytes at this run's
speed of reading (a transfer: of memcpy), or its multiply-adds at the speed of fp32 in registers.
Keys are rebuilt while their values come: "rebuild" is what is left of it then, and the limit of the
transfer is the longer of both; of a rebuild in tiles (AMX) its bytes count alone.
  varve-bench decode
  varve-bench decode --batch 4 --hits 0.9 --policies 'shadowkv(outliers=0)' --json)");
  sub->add_option("--tokens", decode.tokens, "Tokens of each sequence (default 32768)")
      ->check(CLI::Range(256, 1 << 20));
  sub->add_option("--batch", decode.batches, "Sequences of a step, comma separated (default 1,2,4)")
      ->delimiter(',')
      ->check(CLI::Range(1, 64));
  sub->add_option("--budget-tokens", decode.budget_tokens,
                  "Tokens attended per KV head (default 2048)")
      ->check(CLI::Range(96, 1 << 20));
  sub->add_option("--hits", decode.hits,
                  "Share of the budget's pages that the step before selected (default 0.6)")
      ->check(CLI::Range(0.05, 0.99));
  sub->add_option_function<std::string>(
      "--policies", [&decode](const std::string& text) { SetPolicies(text, decode); },
      "Comma separated (default arkvale,shadowkv)");
  sub->add_option("--page-tokens", decode.page_tokens, "Tokens of a page (default 32)")
      ->check(CLI::IsMember({8, 16, 32}));
  sub->add_option("--chunk-tokens", decode.chunk_tokens, "The same of shadowkv (default 8)")
      ->check(CLI::IsMember({8, 16, 32}));
  sub->add_option("--rank", decode.rank, "Rank of shadowkv's keys (default 160)")
      ->check(CLI::Range(1, 8192));
  sub->add_option("--kv-heads", decode.kv_heads, "KV heads (default 8)")->check(CLI::Range(1, 64));
  sub->add_option("--group", decode.group_size, "Query heads per KV head (default 4)")
      ->check(CLI::Range(1, 16));
  sub->add_option("--head-dim", decode.head_dim, "Elements per head (default 128)")
      ->check(CLI::IsMember({32, 64, 96, 128, 256}));
  sub->add_option("--attend-threads", decode.attend_threads,
                  "Threads of a step (default 0: half of the CPUs)")
      ->check(CLI::Range(0u, worker::kMaxAttendThreads));
  sub->add_option_function<std::string>(
      "--flush",
      [&decode](const std::string& text) {
        const auto bytes = base::ParseBytes(text);
        if (!bytes.ok())
          throw CLI::ValidationError("--flush", std::string(bytes.status().message()));
        decode.flush_bytes = *bytes;
      },
      "Other memory that is read between two steps (default 256MiB; 0: none)");
}

absl::StatusOr<std::vector<BenchRow>> BenchDecode(const DecodeOptions& decode,
                                                  const BenchOptions& bench) {
  return DecodeBench(decode, bench).Run();
}

std::string DecodeTable(const std::vector<BenchRow>& rows) {
  using console::Align;
  console::Table table({{"policy"},
                        {"batch", Align::kRight},
                        {"stage"},
                        {"us", Align::kRight},
                        {"of the step", Align::kRight},
                        {"limit us", Align::kRight},
                        {"limit/us", Align::kRight}});
  std::string summary;
  for (const BenchRow& row : rows) {
    const auto value = [&row](const std::string& name) {
      const auto it = row.extra.find(name);
      return it == row.extra.end() ? 0.0 : it->second;
    };
    const auto add = [&](const std::string& policy, const std::string& batch,
                         const std::string& stage, double us, double limit) {
      table.AddRow({policy, batch, stage, absl::StrFormat("%.0f", us),
                    absl::StrFormat("%.0f%%", 100 * us / value("step_us")),
                    limit > 0 ? absl::StrFormat("%.0f", limit) : "-",
                    limit > 0 ? absl::StrFormat("%.2f", limit / us) : "-"});
    };
    table.AddRule();
    add(row.op, absl::StrCat(row.batch), "step", value("step_us"), value("limit_us"));
    for (const Stage& stage : kStages) {
      const double us = value(absl::StrCat(stage.name, "_us"));
      const bool beside = stage.name == std::string("rebuild");
      const double limit = beside ? 0 : value(absl::StrCat("limit_", stage.name, "_us"));
      if (us > 0) add("", "", stage.name, us, limit);
    }
    add("", "", "other", value("other_us"), 0);
    absl::StrAppendFormat(&summary, "%s, batch %d: %.2f times as fast as full (spread %.0f%%)",
                          row.op, row.batch, value("ratio_dense"),
                          100 * value("ratio_dense_spread"));
    if (row.extra.contains("hit_share")) {
      absl::StrAppendFormat(&summary, ", %.1f%% hits at a cosine of %.4f, %.0f kB a step",
                            100 * value("hit_share"), value("cosine"), value("recalled_kb"));
    }
    absl::StrAppendFormat(&summary,
                          ", %.0f tokens attended\n  memory of the worker, bytes a token: %.0f",
                          value("attended_tokens"), value("memory"));
    const char* separator = " (";
    for (const worker::MemoryKind& kind : worker::kMemoryKinds) {
      const double bytes = value(absl::StrCat("memory_", kind.name));
      if (bytes == 0) continue;
      absl::StrAppendFormat(&summary, "%s%s %.1f", separator, kind.name, bytes);
      separator = ", ";
    }
    summary += ")";
    if (row.extra.contains("memory_by_formula")) {
      absl::StrAppendFormat(&summary, ", by formula %.0f", value("memory_by_formula"));
    }
    summary += "\n";
  }
  if (!rows.empty()) {
    const std::map<std::string, double>& speeds = rows.back().extra;
    absl::StrAppendFormat(&summary,
                          "%d threads: read %.1f GB/s, copy %.1f GB/s, fp32 %.0f GFlop/s\n",
                          rows.back().threads, speeds.at("read_gb_per_s"),
                          speeds.at("copy_gb_per_s"), speeds.at("fp32_gflops"));
  }
  return table.Render() + summary;
}

}  // namespace varve::client
