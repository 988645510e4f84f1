// What operators ask: status, configuration, drain, eviction.
#pragma once

#include <functional>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kvstore/server/core.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

// Thread-safe.
class AdminService {
 public:
  // start_draining: must return at once.
  AdminService(Core& core, std::string config_text, std::function<void()> start_draining)
      : core_(core),
        config_text_(std::move(config_text)),
        start_draining_(std::move(start_draining)) {}

  void FillStatus(varve::v1::StoreStatus* status) const;
  const std::string& config_text() const { return config_text_; }
  void Drain() { start_draining_(); }
  absl::Status ListNamespaces(const varve::v1::ListNamespacesRequest& request,
                              varve::v1::ListNamespacesReply* reply) const;
  absl::Status Evict(const varve::v1::EvictRequest& request, varve::v1::EvictReply* reply);

 private:
  Core& core_;
  const std::string config_text_;
  const std::function<void()> start_draining_;
  const absl::Time start_ = absl::Now();
};

}  // namespace varve::server
