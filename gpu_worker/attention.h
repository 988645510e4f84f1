// Decode attention of one KV head over its resident pages, and the measure of what a selection left
// out.
//
// Pages are visited in ascending order, so the result does not depend on slots, history or recall
// path. One object serves one call at a time; its buffers are reused.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/selector.h"
#include "gpu_worker/sequence.h"
#include "kvstore/base/mutex.h"
#include "kvstore/page/attention.h"

namespace varve::worker {

page::AttentionShape ShapeOf(const page::Geometry& geometry);

class Attention {
 public:
  explicit Attention(const Services* services);

  // Over work.selected() and all pages from work.candidates on. INTERNAL when one is not resident,
  // DATA_LOSS when there is none.
  absl::Status Run(const HeadWork& work);

 private:
  const Services* const services_;
  const page::AttentionShape shape_;
  std::vector<page::PageView> views_;
  std::vector<float> lse_;
};

// Share of the full attention mass (all tokens of the sequence) that the attended pages hold, mean
// over the query heads of the group. Pages that are not resident are read from the store into
// memory of its own, keys only. Thread-safe; for evaluation.
class MassMeter {
 public:
  explicit MassMeter(const Services* services) : services_(services) {}

  // Adds to the stats of the sequences and to the metrics. The step is done by then: what cannot be
  // had is logged.
  void Sample(std::span<const HeadWork> works);

 private:
  absl::StatusOr<double> KeptMass(const HeadWork& work);
  absl::Status LogMasses(const HeadWork& work, std::vector<float>& log_mass);
  absl::Status FetchKeys(const HeadWork& work, std::span<const uint32_t> pages);

  const Services* const services_;
  base::Mutex mutex_;
  std::unique_ptr<client::Memory> memory_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace varve::worker
