// Adding directories to the nvme tier: on threads of its own, since a disk that hangs keeps one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kvstore/base/executor.h"
#include "kvstore/server/core.h"
#include "kvstore/server/waiting_answers.h"
#include "kvstore/tier/record_log.h"

namespace varve::server {

// Thread-safe. The destructor waits for what was begun.
class DirectoryAdder {
 public:
  static constexpr int kAtATime = 4;

  // log: null without an nvme tier: then Add must not be called. Outlives this.
  explicit DirectoryAdder(tier::RecordLog* log);
  // path: absolute. Who asks for what is under way waits for that. RESOURCE_EXHAUSTED when kAtATime
  // others are.
  void Add(const std::string& path, uint64_t capacity_bytes, Answer answer);
  // Whoever waits is told that the store ends, and so is who comes later. Idempotent.
  void Close();

 private:
  tier::RecordLog* const log_;
  WaitingAnswers waiting_;
  const std::unique_ptr<base::ThreadPool> pool_;  // null without a log
};

}  // namespace varve::server
