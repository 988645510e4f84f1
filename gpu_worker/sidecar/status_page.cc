#include "gpu_worker/sidecar/status_page.h"

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "kvstore/base/html.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"

namespace varve::worker {
namespace {

constexpr const char* kHead = R"(<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta http-equiv="refresh" content="2"><title>varve-worker</title><style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1d2733}
table{border-collapse:collapse;width:100%;margin:0 0 1.5rem}td,th{padding:.35rem .7rem;text-align:left;
border-bottom:1px solid #dde3ea}th{color:#5b6b7c;font-weight:600}td.n,th.n{text-align:right;
font-variant-numeric:tabular-nums}h1{font-size:1.4rem}h2{font-size:1.05rem}.bad{color:#b3261e}
</style></head><body>)";

std::string Row(const std::string& name, const std::string& value) {
  return absl::StrCat("<tr><th>", name, "</th><td>", value, "</td></tr>\n");
}

std::string EngineRow(EngineSession& engine) {
  const WorkerStatus status = engine.worker().Status();
  const WorkerOptions& options = engine.worker().options();
  return absl::StrCat(
      "<tr><td>", base::EscapeHtml(engine.name()), "</td><td>", options.geometry.ToString(),
      "</td><td>", base::Sv(page::Info(options.digest_kind).name), ", scored in the ",
      RecallPathName(options.recall_path), "</td><td class=n>", status.sequences,
      "</td><td class=n>", status.pool_pages - status.free_pages, " of ", status.pool_pages,
      "</td><td class=n>", base::FormatBytes(engine.pool_bytes()), "</td></tr>\n");
}

}  // namespace

std::string StatusPage(const varve::v1::WorkerStatus& status,
                       const std::vector<std::shared_ptr<EngineSession>>& engines, bool draining) {
  const absl::Duration uptime = absl::Seconds(static_cast<int64_t>(status.uptime_ms() / 1000));
  std::string html =
      absl::StrCat(kHead, "<h1>varve-worker ", status.version(),
                   draining ? " <span class=bad>(draining)</span>" : "", "</h1><table>\n");
  html += Row("Up for", absl::FormatDuration(uptime));
  html += Row("Store",
              absl::StrCat(base::EscapeHtml(status.store()),
                           status.store_connected() ? absl::StrCat(" over ", status.lane())
                                                    : " <span class=bad>not connected</span>"));
  html += Row("Sequences", absl::StrCat(status.sequences()));
  html += Row("Pages in use",
              absl::StrCat(status.pool_pages() - status.free_pages(), " of ", status.pool_pages()));
  absl::StrAppend(&html, "</table><h2>Engines</h2><table><tr><th>Name</th><th>Shape</th>",
                  "<th>Digests</th><th class=n>Sequences</th><th class=n>Pages in use</th>",
                  "<th class=n>Pool</th></tr>\n");
  for (const auto& engine : engines) html += EngineRow(*engine);
  absl::StrAppend(&html, engines.empty() ? "<tr><td colspan=6>none attached</td></tr>" : "",
                  "</table><p><a href=/metrics>metrics</a></p></body></html>\n");
  return html;
}

}  // namespace varve::worker
