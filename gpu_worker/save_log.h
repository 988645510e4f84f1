// What a sequence and the saver know of each other: which blocks were handed over, which of them
// the store has, and what went wrong.
//
// Threads: all methods from any thread. Results are collected by the sequence's own thread (Take).
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gpu_worker/page_pool.h"
#include "kvstore/base/mutex.h"

namespace varve::worker {

struct SaveResult {
  uint32_t layer = 0;
  uint32_t block = 0;
  bool saved = false;
};

class SaveLog {
 public:
  // known_blocks: blocks that the context has, with their digests, when it is resumed.
  SaveLog(std::string context_id, uint32_t epoch, uint32_t num_layers, uint32_t known_blocks);
  // digest_blocks: by layer, blocks that have digests.
  SaveLog(std::string context_id, uint32_t epoch, uint32_t known_blocks,
          std::vector<uint32_t> digest_blocks);

  const std::string& context_id() const { return context_id_; }
  uint32_t epoch() const { return epoch_; }

  void AddBlockHash(std::string hash);
  // Moves the results that came since the last call to the end of out.
  void Take(std::vector<SaveResult>& out);
  // OK, or why the last failed save failed.
  absl::Status error() const;
  // Nothing is queued or under way.
  bool idle() const;
  uint32_t digest_blocks(uint32_t layer) const;
  // Blocks that the store has named.
  uint32_t context_blocks() const;
  // Queued work is dropped: the context is about to go.
  void Cancel();

  // Until nothing is queued or under way. DEADLINE_EXCEEDED when nothing moves for `patience`, or
  // the thread's CallDeadline is over.
  absl::Status WaitIdle(absl::Duration patience);
  // Until something moves. DEADLINE_EXCEEDED after `patience`; false when nothing is under way.
  absl::StatusOr<bool> WaitProgress(absl::Duration patience);

 private:
  friend class Saver;
  struct DigestRows {
    uint32_t first = 0;
    uint32_t count = 0;
    std::string rows;
    absl::Time sealed;
  };

  const std::string context_id_;
  const uint32_t epoch_;
  mutable base::Mutex mutex_;
  base::CondVar moved_;
  std::vector<std::string> hashes_ ABSL_GUARDED_BY(mutex_);  // from first_hash_ on
  const uint32_t first_hash_;
  uint32_t context_blocks_ ABSL_GUARDED_BY(mutex_);
  // An append failed: the store may have done it and only the answer was lost.
  bool blocks_unsure_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<uint32_t> digest_blocks_ ABSL_GUARDED_BY(mutex_);         // acknowledged, by layer
  std::vector<std::deque<DigestRows>> unsent_ ABSL_GUARDED_BY(mutex_);  // by layer
  uint32_t under_way_ ABSL_GUARDED_BY(mutex_) = 0;  // queued tasks and posted puts
  uint64_t moves_ ABSL_GUARDED_BY(mutex_) = 0;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  std::vector<SaveResult> results_ ABSL_GUARDED_BY(mutex_);
  std::vector<Slot> orphans_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace varve::worker
