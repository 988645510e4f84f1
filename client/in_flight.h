// The calls a client has under way, so that closing it can cancel them and wait for their ends.
//
// A grpc::ClientContext keeps its channel alive, and the last holder of a channel waits for gRPC's
// callback threads: were that one of them, it would wait for itself. So a call that ends in a
// callback destroys its context (after Release) before it says that it has ended (Remove).
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <map>

#include "absl/status/status.h"
#include "grpcpp/client_context.h"
#include "kvstore/base/mutex.h"

namespace varve::client {

class InFlight {
 public:
  using Call = uint64_t;

  // 0 when the client is closing: the call must not be started.
  Call Add(grpc::ClientContext* context) {
    base::MutexLock lock(mutex_);
    if (closing_) return 0;
    contexts_[++last_] = context;
    return last_;
  }
  // The context is about to go; the call still counts.
  void Release(Call call) {
    base::MutexLock lock(mutex_);
    contexts_[call] = nullptr;
  }
  // From here on the call touches nothing of the client.
  void Remove(Call call) {
    base::MutexLock lock(mutex_);
    contexts_.erase(call);
    if (contexts_.empty()) empty_.NotifyAll();
  }
  bool closing() const {
    base::MutexLock lock(mutex_);
    return closing_;
  }
  void CancelAllAndWait() {
    base::MutexLock lock(mutex_);
    closing_ = true;
    for (const auto& [call, context] : contexts_) {
      if (context != nullptr) context->TryCancel();
    }
    while (!contexts_.empty()) empty_.Wait(mutex_);
  }

 private:
  mutable base::Mutex mutex_;
  base::CondVar empty_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  Call last_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<Call, grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);  // null: released
};

inline absl::Status ClosingError() { return absl::CancelledError("the client is being closed"); }

}  // namespace varve::client
