#include "kvstore/server/status_page.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "kvstore/base/html.h"
#include "kvstore/base/units.h"

namespace varve::server {
namespace {

using absl::StrAppend;
using absl::StrCat;

constexpr const char* kHead = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>varve-store</title><style>
:root{color-scheme:light dark;--bg:#fbfaf8;--fg:#22262b;--dim:#6b7280;--line:#e2ded7;--card:#fff;--bar:#3b7a8c;--pin:#b5651d;--warn:#b42318}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e5e7eb;--dim:#9aa3ad;--line:#2c3238;--card:#1b2025;--bar:#5aa9bd;--pin:#d99152;--warn:#f97066}}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.45 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 20px}
h1{font-size:22px;margin:0}h2{font-size:14px;margin:26px 0 8px;color:var(--dim);font-weight:600;letter-spacing:.02em}
p.sub{margin:4px 0 0;color:var(--dim)}.warn{color:var(--warn);font-weight:600}
.wrap{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:7px 12px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}th{color:var(--dim);font-weight:500;font-size:13px}
th:first-child,td:first-child,td.text,th.text{text-align:left}
.bar{position:relative;min-width:220px;height:12px;border-radius:6px;background:var(--line);overflow:hidden}
.bar i{position:absolute;top:0;bottom:0;left:0;background:var(--bar)}.bar i.pin{background:var(--pin)}
.none{padding:10px 12px;color:var(--dim)}.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:10px}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 12px}
.card b{display:block;font-size:18px;font-variant-numeric:tabular-nums}.card span{color:var(--dim);font-size:13px}
footer{margin-top:28px;color:var(--dim);font-size:13px}footer a{color:inherit}
</style></head><body><main>
)";

std::string Seconds(double seconds) {
  if (seconds <= 0) return "-";
  if (seconds < 1e-3) return absl::StrFormat("%.0f &micro;s", seconds * 1e6);
  if (seconds < 1) return absl::StrFormat("%.2f ms", seconds * 1e3);
  return absl::StrFormat("%.2f s", seconds);
}

std::string Age(uint64_t millis) {
  return absl::FormatDuration(absl::Seconds(static_cast<int64_t>(millis / 1000)));
}

double Percent(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

std::string TierName(varve::v1::Tier tier) {
  switch (tier) {
    case varve::v1::TIER_GPU:
      return "gpu";
    case varve::v1::TIER_HOST:
      return "host";
    case varve::v1::TIER_NVME:
      return "nvme";
    default:
      return "?";
  }
}

void AddHeader(const varve::v1::StoreStatus& status, std::string& html) {
  StrAppend(&html, "<h1>varve-store</h1><p class=\"sub\">version ",
            base::EscapeHtml(status.version()), ", up ", Age(status.uptime_ms()), ", ",
            status.sessions_size(), " sessions, ", status.contexts(), " contexts, ",
            status.objects(), " objects");
  if (status.draining()) StrAppend(&html, " &middot; <span class=\"warn\">draining</span>");
  StrAppend(&html, "</p>");
}

void AddDirectories(const varve::v1::TierStatus& tier, std::string& html) {
  StrAppend(
      &html, "<h2>Directories of ", TierName(tier.tier()), ": ",
      base::EscapeHtml(tier.durability()), ", ", base::EscapeHtml(tier.io()),
      "</h2><div class=\"wrap\"><table><tr><th class=\"text\">path</th><th class=\"text\">state"
      "</th><th>used</th><th>live</th><th>capacity</th><th>files</th><th>records</th></tr>");
  for (const varve::v1::DirectoryStatus& directory : tier.directories()) {
    const bool ok = directory.state() == "ok";
    StrAppend(&html, "<tr><td class=\"text\">", base::EscapeHtml(directory.path()),
              "</td><td class=\"text\">", ok ? "" : "<span class=\"warn\">", directory.state(),
              ok ? "" : "</span> ", base::EscapeHtml(directory.problem()), "</td><td>",
              base::FormatBytes(directory.used_bytes()), "</td><td>",
              base::FormatBytes(directory.live_bytes()), "</td><td>",
              base::FormatBytes(directory.capacity_bytes()), "</td><td>", directory.segments(),
              "</td><td>", directory.records(), "</td></tr>");
  }
  StrAppend(&html, "</table></div>");
}

void AddTiers(const varve::v1::StoreStatus& status, std::string& html) {
  StrAppend(
      &html,
      "<h2>Tiers</h2><div class=\"wrap\"><table><tr><th>tier</th><th class=\"text\">used and pinned"
      "</th><th>used</th><th>pinned</th><th>capacity</th><th>objects</th><th>queued</th>"
      "<th>evicted</th><th>cut</th><th>fragmentation</th><th>evicts at</th></tr>");
  for (const varve::v1::TierStatus& tier : status.tiers()) {
    const double used = Percent(tier.used_bytes(), tier.capacity_bytes());
    const double pinned = Percent(tier.pinned_bytes(), tier.capacity_bytes());
    StrAppend(&html, "<tr><td>", TierName(tier.tier()),
              "</td><td class=\"text\"><div class=\"bar\"><i style=\"width:",
              absl::StrFormat("%.1f", used),
              "%\"></i><i class=\"pin\" style=\"width:", absl::StrFormat("%.1f", pinned),
              "%\"></i></div></td><td>", base::FormatBytes(tier.used_bytes()),
              absl::StrFormat(" (%.0f&thinsp;%%)", used), "</td><td>",
              base::FormatBytes(tier.pinned_bytes()), "</td><td>",
              base::FormatBytes(tier.capacity_bytes()),
              tier.beyond_bytes() == 0
                  ? ""
                  : absl::StrCat(" <span class=\"warn\">", base::FormatBytes(tier.beyond_bytes()),
                                 " beyond</span>"),
              "</td><td>", tier.objects(), "</td><td>", tier.queued_objects(), "</td><td>",
              tier.evicted_objects(), "</td><td>", tier.cut_objects(), "</td><td>",
              absl::StrFormat("%.2f", tier.fragmentation_ratio()), "</td><td>",
              absl::StrFormat("%.0f&thinsp;%%", tier.high_watermark() * 100), "</td></tr>");
  }
  StrAppend(&html, "</table></div>");
  for (const varve::v1::TierStatus& tier : status.tiers()) {
    if (tier.directories_size() > 0) AddDirectories(tier, html);
  }
}

void AddRates(const Totals& rates, std::string& html) {
  StrAppend(&html, "<h2>Per second, last 10 s</h2><div class=\"cards\">");
  for (const auto& [name, value] : rates) {
    const std::string text = absl::EndsWith(name, ", bytes")
                                 ? base::FormatBytes(static_cast<uint64_t>(std::max(0.0, value)))
                                 : absl::StrFormat(value < 10 ? "%.1f" : "%.0f", value);
    StrAppend(&html, "<div class=\"card\"><b>", text, "</b><span>", base::EscapeHtml(name),
              "</span></div>");
  }
  StrAppend(&html, "</div>");
}

void AddStages(const std::vector<StageQuantiles>& stages, std::string& html) {
  StrAppend(&html,
            "<h2>Recall by stage, since start</h2><div "
            "class=\"wrap\"><table><tr><th>stage</th><th>count</th>"
            "<th>p50</th><th>p99</th></tr>");
  for (const StageQuantiles& stage : stages) {
    StrAppend(&html, "<tr><td>", base::EscapeHtml(stage.stage), "</td><td>", stage.count,
              "</td><td>", Seconds(stage.p50_seconds), "</td><td>", Seconds(stage.p99_seconds),
              "</td></tr>");
  }
  StrAppend(&html, "</table></div>");
}

void AddSessions(const varve::v1::StoreStatus& status, std::string& html) {
  StrAppend(&html, "<h2>Sessions</h2><div class=\"wrap\">");
  if (status.sessions().empty()) {
    StrAppend(&html, "<div class=\"none\">no client is connected</div></div>");
    return;
  }
  StrAppend(&html,
            "<table><tr><th>client</th><th class=\"text\">namespace</th><th "
            "class=\"text\">lane</th><th>age</th>"
            "<th>regions</th><th>registered</th><th>taken</th><th>given</th><th "
            "class=\"text\">peer</th></tr>");
  for (const varve::v1::SessionStatus& session : status.sessions()) {
    StrAppend(&html, "<tr><td>", base::EscapeHtml(session.client_name()),
              "</td><td class=\"text\">", base::EscapeHtml(session.key_namespace()),
              "</td><td class=\"text\">", base::EscapeHtml(session.lane()), "</td><td>",
              Age(session.age_ms()), "</td><td>");
    StrAppend(&html, session.regions(), "</td><td>", base::FormatBytes(session.registered_bytes()),
              "</td><td>", base::FormatBytes(session.read_bytes()), "</td><td>",
              base::FormatBytes(session.written_bytes()), "</td><td class=\"text\">",
              base::EscapeHtml(session.peer()), "</td></tr>");
  }
  StrAppend(&html, "</table></div>");
}

void AddContexts(const std::vector<varve::v1::ContextInfo>& contexts, std::string& html) {
  StrAppend(&html, "<h2>Contexts of connected clients</h2><div class=\"wrap\">");
  if (contexts.empty()) {
    StrAppend(&html, "<div class=\"none\">none</div></div>");
    return;
  }
  StrAppend(&html,
            "<table><tr><th>context</th><th class=\"text\">state</th><th>blocks</th><th>tokens</th>"
            "<th>digests</th><th>sessions</th><th>epoch</th></tr>");
  for (const varve::v1::ContextInfo& context : contexts) {
    const bool attached = context.state() == varve::v1::CONTEXT_STATE_ATTACHED;
    StrAppend(&html, "<tr><td>", base::EscapeHtml(context.context_id()), "</td><td class=\"text\">",
              attached ? "attached" : "parked", "</td><td>", context.num_blocks(), "</td><td>",
              uint64_t{context.num_blocks()} * context.geometry().page_tokens(), "</td><td>",
              base::FormatBytes(context.digest_bytes()), "</td><td>");
    StrAppend(&html, context.attached_sessions(), "</td><td>", context.epoch(), "</td></tr>");
  }
  StrAppend(&html, "</table></div>");
}

void AddFooter(const varve::v1::StoreStatus& status, std::string& html) {
  StrAppend(&html, "<footer>");
  for (int i = 0; i < status.plugins_size(); ++i) {
    StrAppend(&html, i == 0 ? "" : " &middot; ", base::EscapeHtml(status.plugins(i)));
  }
  StrAppend(
      &html,
      "<br><a href=\"/metrics\">metrics</a> &middot; <a href=\"/healthz\">healthz</a> &middot; "
      "<a href=\"/readyz\">readyz</a></footer></main></body></html>\n");
}

double Quantile(const std::vector<prometheus::ClientMetric::Bucket>& buckets, double count,
                double q) {
  const double rank = q * count;
  double below = 0, low = 0;
  for (const auto& bucket : buckets) {
    const double here = static_cast<double>(bucket.cumulative_count);
    if (here >= rank && here > below) {
      // The last bucket has no upper bound: its lower one is all that is known.
      if (std::isinf(bucket.upper_bound)) return low;
      return low + (bucket.upper_bound - low) * (rank - below) / (here - below);
    }
    below = here;
    low = bucket.upper_bound;
  }
  return low;
}

}  // namespace

StageQuantiles Quantiles(const std::string& stage, const prometheus::Histogram& histogram) {
  const prometheus::ClientMetric::Histogram collected = histogram.Collect().histogram;
  StageQuantiles quantiles{stage, collected.sample_count};
  if (collected.sample_count == 0) return quantiles;
  const double count = static_cast<double>(collected.sample_count);
  quantiles.p50_seconds = Quantile(collected.bucket, count, 0.5);
  quantiles.p99_seconds = Quantile(collected.bucket, count, 0.99);
  return quantiles;
}

std::string RenderStatusPage(const StatusPageData& data) {
  std::string html = kHead;
  AddHeader(data.status, html);
  AddTiers(data.status, html);
  AddRates(data.rates, html);
  AddStages(data.stages, html);
  AddSessions(data.status, html);
  AddContexts(data.contexts, html);
  AddFooter(data.status, html);
  return html;
}

}  // namespace varve::server
