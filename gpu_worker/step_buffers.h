// What one Attend call works with. One thread at a time, but for what is listed by thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/attention.h"
#include "gpu_worker/recaller.h"
#include "gpu_worker/selector.h"
#include "gpu_worker/sequence.h"

namespace varve::worker {

// Buffers of one Attend call, kept between calls.
struct StepBuffers {
  StepBuffers(const Services* services, uint32_t threads)
      : recaller(services),
        selectors(threads, Selector(services->options.geometry)),
        attentions(threads, Attention(services)),
        rebuilds(services->fit_threads),
        times(threads) {}
  Recaller recaller;
  // By thread.
  std::vector<Selector> selectors;
  std::vector<Attention> attentions;
  std::vector<RebuildScratch> rebuilds;  // of KeyRebuild's threads
  std::vector<SelectTimes> times;
  std::vector<absl::Status> attended;  // by work
  std::vector<SequenceUse> uses;
  std::vector<HeadWork> works;  // grows, never shrinks: [item][KV head]
};

}  // namespace varve::worker
