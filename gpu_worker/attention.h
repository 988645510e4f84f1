// Decode attention of one KV head over its resident pages, and the certificate of what it left out.
//
// Pages are visited in ascending order, so the result does not depend on slots, history or recall
// path. One object serves one call at a time; its buffers are reused.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/selector.h"
#include "gpu_worker/sequence.h"
#include "kvstore/page/attention.h"

namespace varve::worker {

page::AttentionShape ShapeOf(const page::Geometry& geometry);

class Attention {
 public:
  explicit Attention(const Services* services);

  // Over work.selected() and all pages from work.candidates on; sets kept_bound and kept_estimate.
  // INTERNAL when one is not resident, DATA_LOSS when there is none.
  absl::Status Run(HeadWork& work);

 private:
  void Certify(HeadWork& work, const float* lse) const;

  const Services* const services_;
  const page::AttentionShape shape_;
  std::vector<page::PageView> views_;
  std::vector<float> lse_;
};

}  // namespace varve::worker
