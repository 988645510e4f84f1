// What the store serves over HTTP: /, /metrics, /healthz, /readyz.
#pragma once

#include <map>
#include <string>
#include <thread>

#include "kvstore/base/http_server.h"
#include "kvstore/base/metrics.h"
#include "kvstore/base/mutex.h"
#include "kvstore/server/admin_service.h"
#include "kvstore/server/core.h"
#include "kvstore/server/rates.h"

namespace varve::server {

// Samples counters once a second on a thread of its own. Handlers are thread-safe and must not
// outlive this.
class HttpPages {
 public:
  // All outlive this.
  HttpPages(Core& core, AdminService& admin, base::Metrics& registry);
  ~HttpPages();
  HttpPages(const HttpPages&) = delete;
  HttpPages& operator=(const HttpPages&) = delete;

  std::map<std::string, base::HttpHandler> Handlers();

 private:
  void SampleLoop();
  base::HttpResponse StatusPage() const;

  Core& core_;
  AdminService& admin_;
  base::Metrics& registry_;
  Rates rates_;
  base::Mutex mutex_;
  base::CondVar stopped_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread sampler_;
};

}  // namespace varve::server
