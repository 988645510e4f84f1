// recall: which pages of a context a query chooses, and why. Nothing is brought.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <numeric>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/console/table.h"
#include "client/varvectl/command.h"
#include "kvstore/base/status.h"

namespace varve::varvectl {
namespace {

using console::Align;
using console::Table;
using nlohmann::json;

constexpr size_t kBarWidth = 30;
constexpr std::string_view kRandomPrefix = "random:";

struct RecallOptions {
  std::string context;
  uint32_t layer = 0;
  std::string head = "all";
  std::string query = "random:1";
  uint32_t budget = 16;
  std::string merge = "softmax_mean";
  uint32_t sinks = 1;
  uint32_t window = 1;
  uint32_t top = 20;
  bool explain = false;
  std::string rerank = "none";
  double multiplier = page::kDefaultMultiplier;
  double target = 0;
  uint32_t floor = 1;
  uint32_t ceiling = 0;
};

absl::StatusOr<client::ContextInfo> FindContext(client::Client& client, const Globals& globals,
                                                const std::string& id) {
  VARVE_ASSIGN_OR_RETURN(const auto contexts, client.ListContexts());
  for (const client::ContextInfo& context : contexts) {
    if (context.context_id == id) return context;
  }
  return absl::NotFoundError(absl::StrCat("no context '", id, "' in namespace '",
                                          globals.key_namespace,
                                          "' - varvectl contexts lists those that there are"));
}

absl::StatusOr<std::vector<float>> RandomQueries(const std::string& seed_text, size_t count) {
  uint64_t seed = 0;
  if (!absl::SimpleAtoi(seed_text, &seed)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--query random:", seed_text, ": the seed is a number"));
  }
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> queries(count);
  for (float& value : queries) value = normal(random);
  return queries;
}

absl::StatusOr<std::vector<float>> LoadQueries(const std::string& source,
                                               const page::Geometry& geometry) {
  const size_t count = size_t{geometry.num_query_heads} * geometry.head_dim;
  if (source.starts_with(kRandomPrefix))
    return RandomQueries(source.substr(kRandomPrefix.size()), count);
  std::ifstream in(source, std::ios::binary);
  if (!in) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot read ", source, ": ", std::strerror(errno)));
  }
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (bytes.size() != count * sizeof(float)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, " has ", bytes.size(), " bytes; a query of this context is ",
                     geometry.num_query_heads, " query heads x ", geometry.head_dim,
                     " little-endian float32, ", count * sizeof(float), " bytes"));
  }
  std::vector<float> queries(count);
  std::memcpy(queries.data(), bytes.data(), bytes.size());
  return queries;
}

absl::StatusOr<std::vector<uint32_t>> Heads(const std::string& text, uint32_t num_kv_heads) {
  std::vector<uint32_t> heads(num_kv_heads);
  std::iota(heads.begin(), heads.end(), 0);
  if (text == "all") return heads;
  uint32_t head = 0;
  if (absl::SimpleAtoi(text, &head) && head < num_kv_heads) return std::vector<uint32_t>{head};
  return absl::InvalidArgumentError(
      absl::StrCat("--head ", text, "; allowed: 0 to ", num_kv_heads - 1, ", or all"));
}

std::string Bar(double value, double lowest, double highest) {
  const double share = highest > lowest ? (value - lowest) / (highest - lowest) : 0;
  std::string bar;
  for (size_t i = 0, full = static_cast<size_t>(std::lround(share * kBarWidth)); i < full; ++i)
    bar += "█";
  return bar;
}

const char* Why(uint32_t page, uint32_t pages, const RecallOptions& options) {
  if (page < options.sinks) return "sink";
  if (page + options.window >= pages) return "window";
  if (options.rerank == "none") return "score";
  return options.rerank == "sketch" ? "sketch" : "keys";
}

// Pages by falling score, the chosen ones beyond `top` included.
std::string ScoreTable(const client::RecallHeadResult& head, const page::Geometry& geometry,
                       const RecallOptions& options) {
  std::vector<uint32_t> order(head.scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return head.scores[a] > head.scores[b]; });
  const auto [lowest, highest] = std::minmax_element(head.scores.begin(), head.scores.end());
  Table table({{"rank", Align::kRight},
               {"page", Align::kRight},
               {"tokens"},
               {"score", Align::kRight},
               {"chosen"},
               {""}});
  for (size_t rank = 0; rank < order.size(); ++rank) {
    const uint32_t page = order[rank];
    const bool chosen = std::binary_search(head.selected.begin(), head.selected.end(), page);
    if (rank >= options.top && !chosen) continue;
    const uint64_t first = uint64_t{page} * geometry.page_tokens;
    table.AddRow({absl::StrCat(rank + 1), absl::StrCat(page),
                  absl::StrCat(first, "-", first + geometry.page_tokens - 1),
                  absl::StrFormat("%.5g", head.scores[page]),
                  chosen ? Why(page, static_cast<uint32_t>(order.size()), options) : "-",
                  Bar(head.scores[page], *lowest, *highest)});
  }
  return table.Render();
}

// Softmax merges sum to 1 over the pages: the share that the chosen ones hold.
double ChosenShare(const client::RecallHeadResult& head) {
  double chosen = 0, all = 0;
  for (const float score : head.scores) all += score;
  for (const uint32_t page : head.selected) chosen += head.scores[page];
  return all > 0 ? chosen / all : 0;
}

json HeadJson(uint32_t head, const client::RecallHeadResult& result) {
  json row = {{"head", head}, {"selected", result.selected}};
  if (!result.scores.empty()) row["scores"] = result.scores;
  return row;
}

std::string Join(const std::vector<uint32_t>& pages) {
  std::string text;
  for (const uint32_t page : pages) absl::StrAppend(&text, text.empty() ? "" : " ", page);
  return text;
}

void PrintHead(uint32_t h, const client::RecallHeadResult& head, const page::Geometry& geometry,
               const RecallOptions& options) {
  if (!options.explain) {
    std::printf("head %u: %s\n", h, Join(head.selected).c_str());
    return;
  }
  std::printf("\nlayer %u, KV head %u: %zu of %zu pages chosen", options.layer, h,
              head.selected.size(), head.scores.size());
  if (options.merge == "softmax_mean") {
    std::printf(", holding %.1f %% of the score", 100 * ChosenShare(head));
  }
  std::printf("\n%s", ScoreTable(head, geometry, options).c_str());
}

client::RecallQuery QueryFor(const client::ContextInfo& context, const RecallOptions& options,
                             const std::vector<float>& queries, page::ScoreMerge merge,
                             page::Rerank rerank) {
  client::RecallQuery query;
  query.context_id = context.context_id;
  query.epoch = context.epoch;
  query.merge = merge;
  query.sinks = options.sinks;
  query.window = options.window;
  query.explain = options.explain;
  query.rerank = rerank;
  query.multiplier = options.multiplier;
  query.target = options.target;
  client::RecallLayer& layer = query.layers.emplace_back();
  layer.layer = options.layer;
  layer.queries = queries;
  layer.heads.resize(context.geometry.num_kv_heads,
                     client::RecallHead{.budget_pages = options.budget});
  if (options.target == 0) return query;
  for (client::RecallHead& head : layer.heads) {
    head.floor_pages = options.floor;
    head.ceiling_pages = options.ceiling;
  }
  return query;
}

absl::Status Recall(const Globals& globals, const RecallOptions& options) {
  const auto merge = page::ScoreMergeByName(options.merge);
  if (!merge.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--merge ", options.merge, "; allowed: ", std::string(page::ScoreMergeNames())));
  }
  const auto rerank = page::RerankByName(options.rerank);
  if (!rerank.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rerank ", options.rerank, "; allowed: ", std::string(page::RerankNames())));
  }
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, true));
  VARVE_ASSIGN_OR_RETURN(const client::ContextInfo context,
                         FindContext(*client, globals, options.context));
  VARVE_ASSIGN_OR_RETURN(const std::vector<uint32_t> heads,
                         Heads(options.head, context.geometry.num_kv_heads));
  VARVE_ASSIGN_OR_RETURN(const std::vector<float> queries,
                         LoadQueries(options.query, context.geometry));
  VARVE_ASSIGN_OR_RETURN(const client::RecallResult result,
                         client->Recall(QueryFor(context, options, queries, *merge, *rerank)));
  if (globals.json) {
    json rows = json::array();
    for (const uint32_t head : heads) rows.push_back(HeadJson(head, result.layers.at(0).at(head)));
    PrintJson({{"context_id", context.context_id},
               {"layer", options.layer},
               {"budget_pages", options.budget},
               {"merge", options.merge},
               {"rerank", options.rerank},
               {"target", options.target},
               {"heads", std::move(rows)},
               {"queue_us", result.timings.queue_us},
               {"score_us", result.timings.score_us},
               {"select_us", result.timings.select_us},
               {"rerank_us", result.timings.rerank_us}});
    return absl::OkStatus();
  }
  std::printf("context %s, %s, %u blocks; queued %.0f us, scored in %.0f us, selected in %.0f us",
              context.context_id.c_str(), context.geometry.ToString().c_str(), context.num_blocks,
              result.timings.queue_us, result.timings.score_us, result.timings.select_us);
  if (*rerank != page::Rerank::kNone) {
    std::printf(", re-ranked in %.0f us", result.timings.rerank_us);
  }
  std::printf("\n");
  for (const uint32_t head : heads)
    PrintHead(head, result.layers.at(0).at(head), context.geometry, options);
  return absl::OkStatus();
}

}  // namespace

void AddRecallCommand(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* recall = AddCommand(
      app, "recall",
      "Ask the store which pages of a context matter for a query; no page is brought.\n"
      "A page's score is computed from its digest, merged over the query heads of a KV head. With\n"
      "--rerank exact the keys of the best by digest decide which of them are chosen, with\n"
      "--rerank sketch the sketches of their keys, where the digests have those.",
      "  varvectl recall --context chat-7 --layer 12 --head 0 --budget 16 --explain\n"
      "  varvectl recall --context chat-7 --layer 0 --query q.f32 --merge max --json\n"
      "  varvectl recall --context chat-7 --layer 3 --query random:42 --budget 32\n"
      "  varvectl recall --context chat-7 --layer 3 --budget 32 --target 0.99");
  auto options = std::make_shared<RecallOptions>();
  recall->add_option("--context", options->context, "Its id; varvectl contexts lists them")
      ->required();
  recall->add_option("--layer", options->layer, "Layer of the query")->capture_default_str();
  recall->add_option("--head", options->head, "KV head, or all")->capture_default_str();
  recall
      ->add_option("--query", options->query,
                   "File of float32 [query head][head_dim], or random:SEED")
      ->capture_default_str();
  recall
      ->add_option("--budget", options->budget,
                   "Pages to choose per KV head, sinks and window included")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  recall->add_option("--merge", options->merge, "softmax_mean, softmax_max, max or mean")
      ->capture_default_str();
  recall->add_option("--rerank", options->rerank, "Second stage: none, exact or sketch")
      ->capture_default_str();
  recall
      ->add_option("--multiplier", options->multiplier,
                   "Candidates of the second stage, in multiples of the budget")
      ->check(CLI::Range(page::kMinMultiplier, page::kMaxMultiplier))
      ->capture_default_str();
  auto* target = recall->add_option("--target", options->target,
                                    "Share of the attention mass to reach with as few pages as "
                                    "can be; the budgets are then an average over the KV heads");
  target->check(CLI::Range(0.0, 1.0))->capture_default_str();
  recall->add_option("--floor", options->floor, "With --target: pages per KV head at least")
      ->needs(target)
      ->capture_default_str();
  recall
      ->add_option("--ceiling", options->ceiling,
                   "With --target: pages per KV head at most; 0: 4 times the budget")
      ->needs(target)
      ->capture_default_str();
  recall->add_option("--sinks", options->sinks, "First pages, always chosen")
      ->capture_default_str();
  recall->add_option("--window", options->window, "Last pages, always chosen")
      ->capture_default_str();
  recall->add_option("--top", options->top, "Rows of the table that are not chosen end here")
      ->capture_default_str();
  recall->add_flag("--explain", options->explain,
                   "Show scores, ranks and a chart, not only the chosen pages");
  recall->callback([&globals, &action, options] {
    action = [&globals, options] { return Recall(globals, *options); };
  });
}

}  // namespace varve::varvectl
