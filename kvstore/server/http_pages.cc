#include "kvstore/server/http_pages.h"

#include <chrono>
#include <set>
#include <utility>

#include "absl/time/clock.h"
#include "kvstore/base/executor.h"
#include "kvstore/server/convert.h"
#include "kvstore/server/status_page.h"

namespace varve::server {
namespace {

constexpr size_t kContextsShown = 50;

std::vector<varve::v1::ContextInfo> ShownContexts(const Core& core) {
  std::set<store::NamespaceId> namespaces;
  for (const SessionRef& session : core.sessions.List()) namespaces.insert(session->ns());
  std::vector<varve::v1::ContextInfo> contexts;
  for (const store::NamespaceId ns : namespaces) {
    for (const recall::ContextSnapshot& snapshot :
         core.contexts.List(ns, "", kContextsShown - contexts.size())) {
      ToProto(snapshot, &contexts.emplace_back());
    }
    if (contexts.size() >= kContextsShown) break;
  }
  return contexts;
}

}  // namespace

HttpPages::HttpPages(Core& core, AdminService& admin, base::Metrics& registry)
    : core_(core), admin_(admin), registry_(registry), sampler_([this] { SampleLoop(); }) {}

HttpPages::~HttpPages() {
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
  }
  stopped_.NotifyAll();
  sampler_.join();
}

void HttpPages::SampleLoop() {
  base::NameThisThread("rates");
  base::MutexLock lock(mutex_);
  while (!stopping_) {
    rates_.Sample(absl::Now(), core_.metrics.RateTotals());
    stopped_.WaitFor(mutex_, std::chrono::seconds(1));
  }
}

std::map<std::string, base::HttpHandler> HttpPages::Handlers() {
  std::map<std::string, base::HttpHandler> handlers;
  handlers["/"] = [this](const std::string&) { return StatusPage(); };
  handlers["/metrics"] = [this](const std::string&) {
    return base::HttpResponse{200, "text/plain; version=0.0.4; charset=utf-8", registry_.Render()};
  };
  handlers["/healthz"] = [](const std::string&) { return base::HttpResponse{.body = "ok\n"}; };
  handlers["/readyz"] = [this](const std::string&) {
    return core_.sessions.closed() ? base::HttpResponse{.code = 503, .body = "draining\n"}
                                   : base::HttpResponse{.body = "ready\n"};
  };
  return handlers;
}

base::HttpResponse HttpPages::StatusPage() const {
  StatusPageData data;
  admin_.FillStatus(&data.status);
  data.contexts = ShownContexts(core_);
  data.rates = rates_.PerSecond();
  const StoreMetrics& metrics = core_.metrics;
  data.stages = {Quantiles("score", *metrics.recall_score_seconds),
                 Quantiles("select", *metrics.recall_select_seconds),
                 Quantiles("rerank", *metrics.recall_rerank_seconds),
                 Quantiles("locate", *metrics.recall_locate_seconds),
                 Quantiles("transfer", *metrics.recall_transfer_seconds),
                 Quantiles("whole", *metrics.recall_seconds)};
  return {200, "text/html; charset=utf-8", RenderStatusPage(data)};
}

}  // namespace varve::server
