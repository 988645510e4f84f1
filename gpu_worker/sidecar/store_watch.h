// Whether the store answers: asked again and again in the background, so that pages and probes have
// an answer at once, whatever the store does.
//
// Thread-safe. One log line when the store is lost, and one when it is back.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "kvstore/base/mutex.h"
#include "prometheus/gauge.h"

namespace varve::worker {

class StoreWatch {
 public:
  // store: its address. up: 1 while the store answers, else 0; outlives this.
  static absl::StatusOr<std::unique_ptr<StoreWatch>> Start(const std::string& store,
                                                           prometheus::Gauge* up);
  // Waits for the question under way, some seconds at most.
  ~StoreWatch();
  StoreWatch(const StoreWatch&) = delete;
  StoreWatch& operator=(const StoreWatch&) = delete;

  // OK when it answers and does not drain; else why not, and since when. Of a moment ago: at most
  // some seconds old.
  absl::Status state() const;
  // The same of now: asks the store, some seconds at most.
  absl::Status Ask();

 private:
  StoreWatch(std::unique_ptr<client::Client> client, prometheus::Gauge* up);
  void Loop();
  void Note(const absl::Status& status, bool draining);

  const std::unique_ptr<client::Client> client_;
  prometheus::Gauge* const up_;
  mutable base::Mutex mutex_;
  base::CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_) = absl::UnavailableError("not asked yet");
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time answered_ ABSL_GUARDED_BY(mutex_);  // the last time, or the start
  std::thread thread_;
};

}  // namespace varve::worker
