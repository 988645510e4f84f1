// Contexts: open, append, truncate, fork, attach, park, drop, list.
//
// Threads: called on gRPC threads; nothing here blocks.
#pragma once

#include "kvstore/server/core.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

class ContextService {
 public:
  explicit ContextService(Core& core) : core_(core) {}

  absl::Status Open(const varve::v1::OpenContextRequest& request, varve::v1::ContextInfo* reply);
  absl::Status Append(const varve::v1::AppendContextRequest& request,
                      varve::v1::ContextInfo* reply);
  absl::Status Truncate(const varve::v1::TruncateContextRequest& request,
                        varve::v1::ContextInfo* reply);
  absl::Status Fork(const varve::v1::ForkContextRequest& request, varve::v1::ContextInfo* reply);
  absl::Status Attach(const varve::v1::ContextRef& request, varve::v1::ContextInfo* reply);
  absl::Status Park(const varve::v1::ParkContextRequest& request, varve::v1::ContextInfo* reply);
  absl::Status Drop(const varve::v1::ContextRef& request, varve::v1::DropContextReply* reply);
  absl::Status List(const varve::v1::ListContextsRequest& request,
                    varve::v1::ListContextsReply* reply);

 private:
  // Counts a refusal for a limit; fills the reply when there is a snapshot.
  absl::Status Fill(const absl::StatusOr<recall::ContextSnapshot>& snapshot,
                    varve::v1::ContextInfo* reply);

  Core& core_;
};

}  // namespace varve::server
