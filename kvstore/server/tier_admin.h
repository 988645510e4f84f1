// What operators change about tiers while the store runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "kvstore/server/core.h"
#include "kvstore/server/directory_adder.h"
#include "kvstore/server/waiting_answers.h"
#include "kvstore/tier/record_log.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

// Thread-safe. Answers come on any thread, at once or when the work is done.
class TierAdmin {
 public:
  // log: null without an nvme tier. Both outlive what was begun here, not only this.
  TierAdmin(Core& core, tier::RecordLog* log);
  ~TierAdmin();

  void AddDirectory(const varve::v1::AddDirectoryRequest& request, Answer answer);
  // A directory that drains already is waited for as well.
  void DrainDirectory(const varve::v1::DrainDirectoryRequest& request, Answer answer);
  void DrainTier(const varve::v1::DrainTierRequest& request, varve::v1::DrainTierReply* reply,
                 Answer answer);
  void ResizeTier(const varve::v1::ResizeTierRequest& request, Answer answer);

  // Whoever waits is told that the store ends, and so is who comes later. Idempotent.
  void Close();

 private:
  Core& core_;
  tier::RecordLog* const log_;
  DirectoryAdder adder_;
  // Shared with what was begun, which may end after this.
  const std::shared_ptr<WaitingAnswers> waiting_;
  std::atomic<uint64_t> next_flush_{0};
};

}  // namespace varve::server
