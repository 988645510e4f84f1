// varve-bench: what a store gives on this machine, against the limits and peers measured in the
// same run.
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/bench/bare_peer.h"
#include "client/bench/bench.h"
#include "client/bench/decode_bench.h"
#include "client/bench/nvme_bench.h"
#include "client/bench/speculate_bench.h"
#include "client/bench/tier_bench.h"
#include "client/bench/trace_command.h"
#include "client/console/output.h"
#include "client/console/stop.h"
#include "client/console/table.h"
#include "kvstore/base/program.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/base/version.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/page/rerank.h"
#include "nlohmann/json.hpp"

namespace varve::client {
namespace {

constexpr char kExamples[] = R"(
Each operation but nvme starts the store it needs, unless --store names one: there it removes what it stored when it ends, also
after Ctrl-C. Contestants (varve, memcpy, the bare transport loop,
redis, fio) take turns; a ratio is the median over rounds. Examples:
  varve-bench get --transport shm --size 1MiB --batch 16
  varve-bench put --transport tcp --size 64KiB,1MiB --batch 1,16 --against redis --json
  varve-bench recall --pages 4096 --missing 64
  varve-bench speculate --compute-ms 1,2,4 --cosine 0.95
  varve-bench decode --tokens 32768 --batch 1,2,4 --hits 0.6
  varve-bench score
  varve-bench nvme --dir /mnt/nvme0 --against fio --depth 1,16
  varve-bench tiers --dir /mnt/nvme0 --objects 100000
  varve-bench trace requests.jsonl.gz --policies lru,s3fifo --host-capacity 2GiB --plot hits.svg
  varve-bench trace requests.jsonl.gz --nvme-capacity 20GiB --nvme-dir /mnt/nvme0 --durability nvme_async
  varve-bench trace requests.jsonl.gz --simulate --capacity-blocks 10000,50000
)";

std::string Text(double value) {
  return value >= 100 ? absl::StrFormat("%.0f", value) : absl::StrFormat("%.3g", value);
}

void PrintTable(const std::vector<BenchRow>& rows) {
  using console::Align;
  console::Table table({{"op"},
                        {"transport"},
                        {"value", Align::kRight},
                        {"batch", Align::kRight},
                        {"threads", Align::kRight},
                        {"GB/s", Align::kRight},
                        {"op/s", Align::kRight},
                        {"p50 us", Align::kRight},
                        {"p99 us", Align::kRight},
                        {"spread", Align::kRight}});
  for (const BenchRow& row : rows) {
    table.AddRow(
        {row.op, row.transport, row.value_bytes > 0 ? base::FormatBytes(row.value_bytes) : "-",
         absl::StrCat(row.batch), absl::StrCat(row.threads), Text(row.gb_per_s),
         Text(row.ops_per_s), row.p50_us > 0 ? Text(row.p50_us) : "-",
         row.p99_us > 0 ? Text(row.p99_us) : "-", absl::StrFormat("%.0f%%", row.spread * 100)});
  }
  std::cout << table.Render();
  for (const BenchRow& row : rows) {
    if (row.extra.empty()) continue;
    std::cout << row.op << ' ' << row.transport << ' ' << base::FormatBytes(row.value_bytes) << ':';
    for (const auto& [name, value] : row.extra) std::cout << "  " << name << '=' << Text(value);
    std::cout << '\n';
  }
}

void PrintJson(const std::vector<BenchRow>& rows, const BenchOptions& options) {
  nlohmann::json document;
  document["setting"] = {{"rounds", options.rounds},
                         {"seconds_per_round", options.seconds},
                         {"working_set_bytes", options.working_set_bytes}};
  document["results"] = nlohmann::json::array();
  for (const BenchRow& row : rows) {
    nlohmann::json out = {{"op", row.op},
                          {"transport", row.transport},
                          {"value_bytes", row.value_bytes},
                          {"batch", row.batch},
                          {"threads", row.threads},
                          {"gb_per_s", row.gb_per_s},
                          {"ops_per_s", row.ops_per_s},
                          {"spread", row.spread}};
    if (row.p50_us > 0) out["p50_us"] = row.p50_us;
    if (row.p99_us > 0) out["p99_us"] = row.p99_us;
    for (const auto& [name, value] : row.extra) out[name] = value;
    document["results"].push_back(std::move(out));
  }
  std::cout << document.dump(2) << '\n';
}

// "4KiB,1MiB" -> bytes; throws CLI::ValidationError, which the parser reports.
std::vector<uint64_t> ParseSizes(const std::vector<std::string>& texts) {
  std::vector<uint64_t> sizes;
  for (const std::string& text : texts) {
    const auto size = base::ParseBytes(text);
    if (!size.ok()) throw CLI::ValidationError("--size", std::string(size.status().message()));
    if (*size < 1 || *size > (64u << 20))
      throw CLI::ValidationError("--size", text + ": allowed 1 B to 64 MiB");
    sizes.push_back(*size);
  }
  return sizes;
}

// The store holds it twice, and what memcpy is measured with once more.
uint64_t LargestWorkingSet() {
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) / 3;
}

uint64_t ParseWorkingSet(const std::string& text) {
  const auto bytes = base::ParseBytes(text);
  if (!bytes.ok())
    throw CLI::ValidationError("--working-set", std::string(bytes.status().message()));
  if (*bytes < (1u << 20) || *bytes > LargestWorkingSet()) {
    throw CLI::ValidationError("--working-set", text + ": allowed 1 MiB to " +
                                                    base::FormatBytes(LargestWorkingSet()) +
                                                    ", a third of the memory of this machine");
  }
  return *bytes;
}

// Of every combination that will be measured.
void CheckInFlight(const BenchOptions& options) {
  const auto largest = [](const auto& values) {
    return uint64_t{*std::max_element(values.begin(), values.end())};
  };
  const double bytes = static_cast<double>(largest(options.sizes)) *
                       static_cast<double>(largest(options.batches)) *
                       static_cast<double>(largest(options.threads));
  if (bytes <= static_cast<double>(LargestWorkingSet())) return;
  throw CLI::ValidationError("--size", absl::StrCat("times --batch and --threads are more than ",
                                                    base::FormatBytes(LargestWorkingSet()),
                                                    ", a third of the memory of this machine"));
}

// Of score: so many layers that each is read cold.
uint64_t DefaultWorkingSet(bool score) {
  return score ? std::min<uint64_t>(4ull << 30, LargestWorkingSet()) : 1ull << 30;
}

// There are two layers at least.
void CheckDigests(const BenchOptions& options) {
  const uint64_t bytes =
      2ull * options.pages * options.kv_heads *
      page::DigestBytes(page::DigestKind::kSign4, 32, options.head_dim, page::DType::kBF16);
  if (bytes <= LargestWorkingSet()) return;
  throw CLI::ValidationError("--pages", absl::StrCat(options.pages, ": two layers of digests take ",
                                                     base::FormatBytes(bytes), "; allowed up to ",
                                                     base::FormatBytes(LargestWorkingSet()),
                                                     ", a third of the memory of this machine"));
}

// Needs --pages and --kv-heads too.
void CheckMissing(const BenchOptions& options) {
  const uint64_t all = uint64_t{options.pages} * options.kv_heads;
  if (options.missing_pages >= 1 && options.missing_pages <= all) return;
  throw CLI::ValidationError("--missing", absl::StrCat(options.missing_pages, ": allowed 1 to ",
                                                       all, ", the pages of all KV heads"));
}

void AddRecallFlags(CLI::App* sub, BenchOptions& options) {
  sub->add_option(
      "--missing", options.missing_pages,
      "Pages fetched per request, of all KV heads together: as many of each, at least one");
  std::vector<std::string> kinds;
  for (const page::DigestKindInfo& info : page::DigestKinds()) kinds.emplace_back(info.name);
  sub->add_option_function<std::string>(
         "--digest",
         [&options](const std::string& name) { options.digest = *page::DigestKindByName(name); },
         "How pages are summed up (default minmax)")
      ->check(CLI::IsMember(kinds));
  sub->add_option_function<std::string>(
         "--rerank",
         [&options](const std::string& name) { options.rerank = *page::RerankByName(name); },
         "Second stage (default none)")
      ->check(CLI::IsMember({"none", "exact", "sketch"}));
  sub->add_option("--multiplier", options.multiplier,
                  "Candidates of a second stage, in multiples of the budget (default 4)")
      ->check(CLI::Range(page::kMinMultiplier, page::kMaxMultiplier));
}

// What operations have of their own.
struct OwnOptions {
  NvmeOptions nvme;
  TierBenchOptions tiers;
  SpeculateOptions speculate;
  DecodeOptions decode;
};

absl::StatusOr<std::vector<BenchRow>> Measure(const std::string& op, const BenchOptions& options,
                                              const OwnOptions& own) {
  if (op == "decode") return BenchDecode(own.decode, options);
  if (op == "speculate") return BenchSpeculate(own.speculate, options);
  if (op == "nvme") return BenchNvme(own.nvme, options);
  if (op == "tiers") return BenchTiers(own.tiers, options);
  if (op == "exists") return BenchExists(options);
  if (op == "recall") return BenchRecall(options);
  if (op == "score") return BenchScore(options);
  return BenchObjects(op, options);
}

absl::Status Run(const CLI::App& app, const BenchOptions& options, const OwnOptions& own) {
  const std::string op = app.get_subcommands()[0]->get_name();
  VARVE_ASSIGN_OR_RETURN(const std::vector<BenchRow> rows, Measure(op, options, own));
  if (options.json) {
    PrintJson(rows, options);
  } else if (op == "decode") {
    std::cout << DecodeTable(rows);
  } else {
    PrintTable(rows);
  }
  return absl::OkStatus();
}

void AddObjectFlags(CLI::App* sub, BenchOptions& options, std::vector<std::string>& sizes,
                    std::string& working_set, std::string& against) {
  sub->add_option("--size", sizes, "Value sizes, comma separated (default 1MiB)")->delimiter(',');
  sub->add_option("--threads", options.threads, "Client threads, comma separated")
      ->delimiter(',')
      ->check(CLI::Range(1, 256));
  sub->add_option("--working-set", working_set, "Bytes of values in play (default 1GiB)");
  sub->add_option("--against", against, "Also measure a peer: redis")
      ->check(CLI::IsMember({"redis"}));
}

int Main(int argc, char** argv) {
  base::SetUpProcess();
  if (const int code = MaybeRunBarePeer(argc, argv); code >= 0) return code;
  BenchOptions options;
  OwnOptions own;
  std::vector<std::string> sizes = {"1MiB"};
  std::string working_set, against;

  CLI::App app{"Benchmarks of a varve-store, as ratios to the limits of the machine."};
  app.footer(kExamples);
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", base::VersionText("varve-bench"));
  app.add_option("--store", options.store, "Address of a running store (default: start one)");
  app.add_flag("--force", options.force,
               "With --store: also when the values do not fit, and others' are evicted");
  app.add_option("--transport", options.transport, "shm, tcp or inline")
      ->check(CLI::IsMember({"shm", "tcp", "inline"}));
  app.add_option("--rounds", options.rounds, "Rounds of each contestant")
      ->check(CLI::Range(1, 1000));
  app.add_option("--seconds", options.seconds, "Seconds per round")->check(CLI::Range(0.01, 60.0));
  app.add_option("--batch", options.batches, "Items per call, comma separated")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096));
  app.add_flag("--json", options.json, "One JSON document instead of a table");
  for (const char* op : {"put", "get"}) {
    CLI::App* sub =
        app.add_subcommand(op, std::string(op) + " values through the session's transport");
    AddObjectFlags(sub, options, sizes, working_set, against);
  }
  app.add_subcommand("exists", "look up keys, against a bare gRPC echo of the same bytes");
  for (const auto& [op, help] :
       {std::pair{"recall", "store-scored recall of one layer, by stage"},
        std::pair{"score", "digest scoring on one core, against its read bandwidth"}}) {
    CLI::App* sub = app.add_subcommand(op, help);
    sub->add_option("--pages", options.pages, "Pages of the context")
        ->check(CLI::Range(16, 1 << 20));
    sub->add_option("--kv-heads", options.kv_heads, "KV heads")->check(CLI::Range(1, 256));
    sub->add_option("--group", options.group_size, "Query heads per KV head")
        ->check(CLI::Range(1, 16));
    sub->add_option("--head-dim", options.head_dim, "Elements per head")
        ->check(CLI::IsMember({32, 64, 96, 128, 256}));
    if (std::string(op) == "score")
      sub->add_option("--working-set", working_set,
                      "Bytes of digests, visited in turn (default 4GiB)");
    if (std::string(op) == "recall") AddRecallFlags(sub, options);
  }
  AddNvmeCommand(app, own.nvme);
  AddTiersCommand(app, own.tiers);
  AddSpeculateCommand(app, own.speculate);
  AddDecodeCommand(app, own.decode);
  TraceCommand trace(app);
  try {
    app.parse(argc, argv);
    options.sizes = ParseSizes(sizes);
    const bool score = app.got_subcommand("score");
    options.working_set_bytes =
        working_set.empty() ? DefaultWorkingSet(score) : ParseWorkingSet(working_set);
    if (score) CheckDigests(options);
    if (app.got_subcommand("put") || app.got_subcommand("get")) CheckInFlight(options);
    if (app.got_subcommand("recall")) CheckMissing(options);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  options.against_redis = against == "redis";
  console::StopOnSignals();

  const absl::Status done =
      app.got_subcommand("trace") ? trace.Run(options) : Run(app, options, own);
  if (!done.ok()) {
    std::cerr << "varve-bench: " << done.message() << '\n';
    return console::Stopped() ? console::kInterrupted : 1;
  }
  if (const absl::Status written = console::FlushOutput(); !written.ok()) {
    std::cerr << "varve-bench: " << written.message() << '\n';
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace varve::client

int main(int argc, char** argv) { return varve::client::Main(argc, argv); }
