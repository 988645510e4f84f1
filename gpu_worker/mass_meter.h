// What a selection left out of the attention: what steps say of it themselves, and samples of the
// truth.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/selector.h"
#include "gpu_worker/sequence.h"
#include "kvstore/base/mutex.h"

namespace varve::worker {

// Feeds the sequences' stats and the worker's metrics. Thread-safe.
class MassMeter {
 public:
  explicit MassMeter(const Services* services) : services_(services) {}

  // kept_bound and kept_estimate of works that were attended.
  void Count(std::span<const HeadWork> works) const;
  // The true share that they kept. The step is done by then: it does not fail for a sample that
  // cannot be had. For evaluation.
  void Sample(std::span<const HeadWork> works);

 private:
  // Share of the full attention mass (all tokens of the sequence) that the attended pages hold,
  // mean over the query heads of the group. Pages that are not resident are read from the store
  // into memory of its own, keys only.
  absl::StatusOr<double> KeptMass(const HeadWork& work);
  absl::Status LogMasses(const HeadWork& work, std::vector<float>& log_mass)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status FetchKeys(const HeadWork& work, std::span<const uint32_t> pages)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Services* const services_;
  base::Mutex mutex_;
  std::unique_ptr<client::Memory> memory_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace varve::worker
