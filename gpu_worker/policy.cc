#include "gpu_worker/policy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kvstore/base/status.h"
#include "kvstore/page/lowrank/gram.h"

namespace varve::worker {
namespace {

using base::Sv;

constexpr uint32_t kMaxPages = 1u << 20;
constexpr double kMaxHot = 1000;
constexpr double kMaxSmoothing = 0.999;
constexpr uint32_t kMaxRank = page::GramAccumulator::kMaxWidth;
constexpr double kMaxOutliers = 16;

struct KindRow {
  PolicyKind kind;
  std::string_view name;
  std::string_view parameters;  // allowed ones, in the order of ToString
};
constexpr std::array<KindRow, 5> kKinds = {{
    {PolicyKind::kFull, "full", ""},
    {PolicyKind::kStreaming, "streaming", "budget,min,sinks,window,generated"},
    {PolicyKind::kQuest, "quest", "budget,min,sinks,window,merge,target,ceiling,generated"},
    {PolicyKind::kArkVale, "arkvale",
     "budget,min,sinks,window,hot,victims,smoothing,hysteresis,merge,rerank,multiplier,target,"
     "ceiling,tau,ahead,generated"},
    {PolicyKind::kShadowKV, "shadowkv",
     "budget,min,sinks,window,hot,victims,smoothing,hysteresis,merge,rerank,multiplier,tau,ahead,"
     "generated,rank,energy,outliers,refresh"},
}};

const KindRow& RowOf(PolicyKind kind) {
  return *std::find_if(kKinds.begin(), kKinds.end(), [&](auto& row) { return row.kind == kind; });
}

absl::Status Refused(std::string_view name, std::string_view value, std::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat("policy parameter ", Sv(name), "=", Sv(value),
                                                 " is not allowed, allowed: ", Sv(allowed)));
}

absl::Status SetCount(std::string_view name, std::string_view value, uint32_t least,
                      uint32_t* out) {
  uint32_t count = 0;
  if (!absl::SimpleAtoi(Sv(value), &count) || count < least || count > kMaxPages) {
    return Refused(name, value, absl::StrCat("pages, ", least, "..", kMaxPages));
  }
  *out = count;
  return absl::OkStatus();
}

absl::Status SetBudget(std::string_view value, Policy* policy) {
  constexpr std::string_view kAllowed =
      "a fraction 0 < f <= 1 of the prompt's pages, or '64p' pages";
  if (!value.empty() && value.back() == 'p') {
    const absl::Status set =
        SetCount("budget", value.substr(0, value.size() - 1), 1, &policy->budget_pages);
    return set.ok() ? set : Refused("budget", value, kAllowed);
  }
  double fraction = 0;
  if (!absl::SimpleAtod(Sv(value), &fraction) || !(fraction > 0) || fraction > 1) {
    return Refused("budget", value, kAllowed);
  }
  policy->budget_fraction = fraction;
  policy->budget_pages = 0;
  return absl::OkStatus();
}

absl::Status SetHot(std::string_view value, Policy* policy) {
  double hot = 0;
  if (!absl::SimpleAtod(Sv(value), &hot) || !(hot >= 1) || hot > kMaxHot) {
    return Refused("hot", value, absl::StrCat("a multiple of the budget, 1..", kMaxHot));
  }
  policy->hot = hot;
  return absl::OkStatus();
}

absl::Status SetVictims(std::string_view value, Policy* policy) {
  if (value != "score" && value != "lru") return Refused("victims", value, "score, lru");
  policy->victims = value == "lru" ? Victims::kLru : Victims::kScore;
  return absl::OkStatus();
}

absl::Status SetSmoothing(std::string_view value, Policy* policy) {
  double smoothing = 0;
  if (!absl::SimpleAtod(Sv(value), &smoothing) || !(smoothing >= 0 && smoothing <= kMaxSmoothing)) {
    return Refused("smoothing", value, absl::StrCat("a weight, 0..", kMaxSmoothing));
  }
  policy->smoothing = smoothing;
  return absl::OkStatus();
}

absl::Status SetHysteresis(std::string_view value, Policy* policy) {
  double hysteresis = 0;
  if (!absl::SimpleAtod(Sv(value), &hysteresis) ||
      !(hysteresis >= 0 && hysteresis <= page::kMaxHysteresis)) {
    return Refused("hysteresis", value, absl::StrCat("0..", page::kMaxHysteresis));
  }
  policy->hysteresis = hysteresis;
  return absl::OkStatus();
}

absl::Status SetMerge(std::string_view value, Policy* policy) {
  const std::optional<page::ScoreMerge> merge = page::ScoreMergeByName(value);
  if (!merge) return Refused("merge", value, page::ScoreMergeNames());
  policy->merge = *merge;
  return absl::OkStatus();
}

absl::Status SetRerank(std::string_view value, Policy* policy) {
  const std::optional<page::Rerank> rerank = page::RerankByName(value);
  if (!rerank) return Refused("rerank", value, page::RerankNames());
  policy->rerank = *rerank;
  return absl::OkStatus();
}

absl::Status SetMultiplier(std::string_view value, Policy* policy) {
  double multiplier = 0;
  if (!absl::SimpleAtod(Sv(value), &multiplier) || !(multiplier >= page::kMinMultiplier) ||
      multiplier > page::kMaxMultiplier) {
    return Refused("multiplier", value,
                   absl::StrCat("a multiple of the budget, ", page::kMinMultiplier, "..",
                                page::kMaxMultiplier));
  }
  policy->multiplier = multiplier;
  return absl::OkStatus();
}

absl::Status SetTau(std::string_view value, Policy* policy) {
  double tau = 0;
  if (!absl::SimpleAtod(Sv(value), &tau) || !(tau >= -1 && tau <= 1)) {
    return Refused("tau", value, "a cosine, -1..1");
  }
  policy->tau = tau;
  return absl::OkStatus();
}

absl::Status SetAhead(std::string_view value, Policy* policy) {
  double ahead = 0;
  if (!absl::SimpleAtod(Sv(value), &ahead) || !(ahead > 0 && ahead <= 1)) {
    return Refused("ahead", value, "a multiple of the budget, 0 < f <= 1");
  }
  policy->ahead = ahead;
  return absl::OkStatus();
}

absl::Status SetTarget(std::string_view value, Policy* policy) {
  double target = 0;
  if (!absl::SimpleAtod(Sv(value), &target) || !(target > 0) || target > 1) {
    return Refused("target", value, "a share 0 < t <= 1 of the attention mass");
  }
  policy->target = target;
  return absl::OkStatus();
}

absl::Status SetCeiling(std::string_view value, Policy* policy) {
  double ceiling = 0;
  if (!absl::SimpleAtod(Sv(value), &ceiling) || !(ceiling >= page::kMinCeiling) ||
      ceiling > page::kMaxCeiling) {
    return Refused(
        "ceiling", value,
        absl::StrCat("a multiple of the budget, ", page::kMinCeiling, "..", page::kMaxCeiling));
  }
  policy->ceiling = ceiling;
  return absl::OkStatus();
}

absl::Status SetGenerated(std::string_view value, Policy* policy) {
  if (value != "pinned" && value != "paged") return Refused("generated", value, "pinned, paged");
  policy->generated_pinned = value == "pinned";
  return absl::OkStatus();
}

absl::Status SetRank(std::string_view value, Policy* policy) {
  uint32_t rank = 0;
  if (!absl::SimpleAtoi(Sv(value), &rank) || rank < 1 || rank > kMaxRank) {
    return Refused("rank", value, absl::StrCat("1..", kMaxRank));
  }
  policy->rank = rank;
  return absl::OkStatus();
}

absl::Status SetEnergy(std::string_view value, Policy* policy) {
  double energy = 0;
  if (!absl::SimpleAtod(Sv(value), &energy) || !(energy > 0) || energy > 1) {
    return Refused("energy", value, "a share 0 < e <= 1 of the keys' energy");
  }
  policy->energy = energy;
  return absl::OkStatus();
}

absl::Status SetRefresh(std::string_view value, Policy* policy) {
  double refresh = 0;
  if (!absl::SimpleAtod(Sv(value), &refresh) || !(refresh > 0) || refresh > 1) {
    return Refused("refresh", value, "a share 0 < r <= 1 of the keys' energy, 1: never");
  }
  policy->refresh = refresh;
  return absl::OkStatus();
}

absl::Status SetOutliers(std::string_view value, Policy* policy) {
  double outliers = 0;
  if (!absl::SimpleAtod(Sv(value), &outliers) || !(outliers >= 0 && outliers <= kMaxOutliers)) {
    return Refused("outliers", value, absl::StrCat("a multiple of the budget, 0..", kMaxOutliers));
  }
  policy->outliers = outliers;
  return absl::OkStatus();
}

absl::Status SetParameter(std::string_view name, std::string_view value, Policy* policy) {
  if (name == "budget") return SetBudget(value, policy);
  if (name == "min") return SetCount(name, value, 1, &policy->min_pages);
  if (name == "sinks") return SetCount(name, value, 0, &policy->sinks);
  if (name == "window") return SetCount(name, value, 0, &policy->window);
  if (name == "hot") return SetHot(value, policy);
  if (name == "victims") return SetVictims(value, policy);
  if (name == "smoothing") return SetSmoothing(value, policy);
  if (name == "hysteresis") return SetHysteresis(value, policy);
  if (name == "merge") return SetMerge(value, policy);
  if (name == "rerank") return SetRerank(value, policy);
  if (name == "multiplier") return SetMultiplier(value, policy);
  if (name == "tau") return SetTau(value, policy);
  if (name == "ahead") return SetAhead(value, policy);
  if (name == "target") return SetTarget(value, policy);
  if (name == "ceiling") return SetCeiling(value, policy);
  if (name == "rank") return SetRank(value, policy);
  if (name == "energy") return SetEnergy(value, policy);
  if (name == "outliers") return SetOutliers(value, policy);
  if (name == "refresh") return SetRefresh(value, policy);
  return SetGenerated(value, policy);
}

absl::Status SetAll(const KindRow& row, absl::string_view list, Policy* policy) {
  const std::vector<std::string> allowed = absl::StrSplit(Sv(row.parameters), ',');
  std::vector<std::string> seen;
  for (absl::string_view entry : absl::StrSplit(list, ',')) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(entry, absl::MaxSplits('=', 1));
    std::string name(absl::StripAsciiWhitespace(parts.first));
    const std::string value(absl::StripAsciiWhitespace(parts.second));
    if (row.parameters.empty() ||
        std::find(allowed.begin(), allowed.end(), name) == allowed.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "unknown parameter '", name, "' of policy ", Sv(row.name),
          ", known: ", row.parameters.empty() ? "none" : absl::StrJoin(allowed, ", ")));
    }
    if (std::find(seen.begin(), seen.end(), name) != seen.end()) {
      return absl::InvalidArgumentError(absl::StrCat("policy parameter ", name, " given twice"));
    }
    VARVE_RETURN_IF_ERROR(SetParameter(name, value, policy));
    seen.push_back(std::move(name));
  }
  return absl::OkStatus();
}

// What the parameters ask of each other.
absl::Status CheckTogether(const Policy& policy) {
  if (policy.adapts() && policy.merge != page::ScoreMerge::kSoftmaxMean) {
    return Refused("merge", page::ScoreMergeName(policy.merge), "softmax_mean with a target");
  }
  if (policy.adapts() && policy.tau.has_value()) {
    return absl::InvalidArgumentError(
        "policy parameters target and tau exclude each other: what is fetched ahead has a fixed "
        "budget");
  }
  if (policy.hysteresis == 0) return absl::OkStatus();
  if (policy.adapts()) {
    return absl::InvalidArgumentError(
        "policy parameters target and hysteresis exclude each other: hysteresis works on a fixed "
        "budget");
  }
  if (policy.rerank == page::Rerank::kNone && !page::ScoresAreShares(policy.merge)) {
    return Refused("merge", page::ScoreMergeName(policy.merge),
                   "softmax_mean, softmax_max or a second stage with hysteresis");
  }
  return absl::OkStatus();
}

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

}  // namespace

absl::StatusOr<Policy> ParsePolicy(std::string_view text) {
  absl::string_view rest = absl::StripAsciiWhitespace(Sv(text));
  const size_t open = rest.find('(');
  const absl::string_view name = absl::StripAsciiWhitespace(rest.substr(0, open));
  const auto row = std::find_if(kKinds.begin(), kKinds.end(),
                                [&](const KindRow& r) { return Sv(r.name) == name; });
  if (row == kKinds.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown policy '", name, "', known: ", PolicyNames()));
  }
  Policy policy;
  policy.kind = row->kind;
  if (policy.low_rank()) {
    policy.merge = page::ScoreMerge::kSoftmaxMax;
    policy.generated_pinned = false;
  }
  if (open == absl::string_view::npos) return policy;
  rest.remove_prefix(open + 1);
  if (!absl::ConsumeSuffix(&rest, ")")) {
    return absl::InvalidArgumentError(
        absl::StrCat("policy '", Sv(text), "' lacks its closing ')', form: name(key=value,...)"));
  }
  if (absl::StripAsciiWhitespace(rest).empty()) return policy;
  VARVE_RETURN_IF_ERROR(SetAll(*row, rest, &policy));
  VARVE_RETURN_IF_ERROR(CheckTogether(policy));
  return policy;
}

std::string PolicyNames() {
  std::string names;
  for (const KindRow& row : kKinds)
    absl::StrAppend(&names, names.empty() ? "" : ", ", Sv(row.name));
  return names;
}

uint32_t Policy::BudgetPages(uint32_t prompt_pages) const {
  if (kind == PolicyKind::kFull) return prompt_pages;
  const uint32_t wanted =
      budget_pages != 0 ? budget_pages : page::BudgetPages(budget_fraction, 0, prompt_pages);
  const uint32_t budget = std::max(min_pages, wanted);
  return generated_pinned ? std::min(prompt_pages, budget) : budget;
}

std::string Policy::ToString() const {
  const KindRow& row = RowOf(kind);
  if (row.parameters.empty()) return std::string(row.name);
  std::vector<std::string> parts = {budget_pages != 0
                                        ? absl::StrCat("budget=", budget_pages, "p")
                                        : absl::StrCat("budget=", Number(budget_fraction)),
                                    absl::StrCat("min=", min_pages), absl::StrCat("sinks=", sinks),
                                    absl::StrCat("window=", window)};
  if (recalls()) {
    parts.push_back(absl::StrCat("hot=", Number(hot)));
    parts.push_back(victims == Victims::kLru ? "victims=lru"
                                             : absl::StrCat("smoothing=", Number(smoothing)));
    if (hysteresis != 0) parts.push_back(absl::StrCat("hysteresis=", Number(hysteresis)));
  }
  if (selects()) parts.push_back(absl::StrCat("merge=", Sv(page::ScoreMergeName(merge))));
  if (rerank != page::Rerank::kNone) {
    parts.push_back(absl::StrCat("rerank=", Sv(page::RerankName(rerank))));
    parts.push_back(absl::StrCat("multiplier=", Number(multiplier)));
  }
  if (adapts()) {
    parts.push_back(absl::StrCat("target=", Number(target)));
    parts.push_back(absl::StrCat("ceiling=", Number(ceiling)));
  }
  if (tau.has_value()) {
    parts.push_back(absl::StrCat("tau=", Number(*tau)));
    parts.push_back(absl::StrCat("ahead=", Number(ahead)));
  }
  parts.push_back(absl::StrCat("generated=", generated_pinned ? "pinned" : "paged"));
  if (low_rank()) {
    parts.push_back(absl::StrCat("rank=", rank));
    if (energy != 0) parts.push_back(absl::StrCat("energy=", Number(energy)));
    parts.push_back(absl::StrCat("outliers=", Number(outliers)));
    parts.push_back(absl::StrCat("refresh=", Number(refresh)));
  }
  return absl::StrCat(Sv(row.name), "(", absl::StrJoin(parts, ","), ")");
}

}  // namespace varve::worker
