// The calls a client has under way, so that closing it can cancel them and wait for their ends.
//
// Thread-safe.
#pragma once

#include <unordered_set>

#include "absl/status/status.h"
#include "grpcpp/client_context.h"
#include "kvstore/base/mutex.h"

namespace varve::client {

class InFlight {
 public:
  // False when the client is closing: the call must not be started.
  bool Add(grpc::ClientContext* context) {
    base::MutexLock lock(mutex_);
    return !closing_ && contexts_.insert(context).second;
  }
  // After this the call touches nothing of the client.
  void Remove(grpc::ClientContext* context) {
    base::MutexLock lock(mutex_);
    contexts_.erase(context);
    if (contexts_.empty()) empty_.NotifyAll();
  }
  void CancelAllAndWait() {
    base::MutexLock lock(mutex_);
    closing_ = true;
    for (grpc::ClientContext* context : contexts_) context->TryCancel();
    while (!contexts_.empty()) empty_.Wait(mutex_);
  }

 private:
  base::Mutex mutex_;
  base::CondVar empty_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::unordered_set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);
};

inline absl::Status ClosingError() { return absl::CancelledError("the client is being closed"); }

}  // namespace varve::client
