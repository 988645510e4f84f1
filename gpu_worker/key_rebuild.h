// Rebuilds low-rank keys of a step while their values are on the way: rows are here already, and
// who asks for the values waits.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/functional/any_invocable.h"
#include "gpu_worker/selector.h"
#include "gpu_worker/sequence.h"
#include "kvstore/base/parallel.h"

namespace varve::worker {

class KeyRebuild {
 public:
  // scratch: services->fit_threads of them at least.
  KeyRebuild(const Services* services, std::span<HeadWork> works, std::span<RebuildScratch> scratch)
      : services_(services), works_(works), scratch_(scratch) {}

  // Other threads begin with the keys of HeadWork::arrived, whose slots wait for values.
  void Start() {
    uint64_t pages = 0;
    for (const HeadWork& work : works_) pages += work.arrived.size();
    if (pages == 0) return;
    loop_.emplace(services_->fitter, services_->fit_threads, static_cast<uint32_t>(works_.size()),
                  rebuild_);
  }
  // Joins them; without Start, begins. Until then slots of HeadWork::arrived stay where they are.
  void Finish() {
    if (!loop_.has_value()) Start();
    if (!loop_.has_value()) return;
    const auto begin = std::chrono::steady_clock::now();
    loop_->Finish();
    loop_.reset();
    for (HeadWork& work : works_) work.arrived.clear();
    services_->metrics->rebuild.Observe(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }

 private:
  using Rebuild = absl::AnyInvocable<void(uint32_t work, uint32_t thread) const>;

  const Services* const services_;
  const std::span<HeadWork> works_;
  const std::span<RebuildScratch> scratch_;
  const Rebuild rebuild_ = [this](uint32_t i, uint32_t thread) {
    const HeadWork& work = works_[i];
    work.sequence->RebuildKeys(work.layer, work.head, work.arrived, scratch_[thread]);
  };
  std::optional<base::ParallelLoop<const Rebuild>> loop_;
};

}  // namespace varve::worker
