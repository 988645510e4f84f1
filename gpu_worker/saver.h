// Takes sealed blocks to the store: names them in the context, puts their objects, streams their
// digests.
//
// One background thread per worker does the talking, so that Append returns at once. For each job:
// the context learns the block names first (its hold then covers the objects), then the objects are
// put (the store reads the slots), then the digests are sent, in order and without holes. A slot
// may be reused only after its block is reported saved. A block that failed twice is reported
// unsaved and stays resident; its sequence submits it again later (Sequence::RetrySaves).
//
// Threads: all methods from any thread. Results are collected by the sequence's own thread
// (SaveLog::Take).
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "gpu_worker/page_pool.h"
#include "gpu_worker/worker_metrics.h"
#include "kvstore/base/mutex.h"
#include "kvstore/page/geometry.h"

namespace varve::worker {

struct SaveResult {
  uint32_t layer = 0;
  uint32_t block = 0;
  bool saved = false;
};

// What a sequence and the saver know of each other.
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

// Sealed blocks of one layer.
struct SaveJob {
  std::shared_ptr<SaveLog> log;
  uint32_t layer = 0;
  std::vector<uint32_t> blocks;     // ascending
  std::vector<std::string> hashes;  // parallel to blocks
  std::vector<Slot> slots;          // [block][kv head]
  // Digest rows of the blocks, when these are consecutive and new; empty: sent before.
  std::string digest_rows;
  absl::Time sealed;
};

class Saver {
 public:
  // All must outlive the saver. patience: for the store to take a block's name, or digests of one
  // layer.
  Saver(client::Client* client, const page::Geometry& geometry, PagePool* pool,
        WorkerMetrics* metrics, absl::Duration patience);
  // Waits for what the store is reading and the call under way; drops what is queued.
  ~Saver();
  Saver(const Saver&) = delete;
  Saver& operator=(const Saver&) = delete;

  void Submit(SaveJob job);
  // Sends digests that could not be sent before, after their blocks' names.
  void RetryDigests(const std::shared_ptr<SaveLog>& log);
  // Names the context's blocks up to first + count and sends their digests, for a layer whose
  // digests end at `first`.
  void SubmitDigests(const std::shared_ptr<SaveLog>& log, uint32_t layer, uint32_t first,
                     uint32_t count, std::string rows);
  // Frees the slots when the store has stopped reading for this log.
  void FreeWhenIdle(const std::shared_ptr<SaveLog>& log, std::vector<Slot> slots);

 private:
  struct Task {
    SaveJob job;
    std::vector<uint32_t> generations;  // of job.slots when submitted
    uint32_t name_end = 0;              // blocks to name when there is nothing to put
    bool retried = false;
  };
  using TaskPtr = std::shared_ptr<Task>;

  void Loop();
  void Enqueue(TaskPtr task);
  void Run(const TaskPtr& task);
  absl::Status NameFor(const Task& task);
  absl::Status NameBlocks(SaveLog& log, uint32_t end);
  // Takes from the store how many of the log's blocks the context holds.
  absl::Status AdoptBlocks(SaveLog& log, const client::ContextInfo& info);
  void Put(const TaskPtr& task);
  void OnPut(const TaskPtr& task, const absl::StatusOr<std::vector<client::PutResult>>& results);
  bool StillOwned(const Task& task, size_t index) const;
  void Settle(const TaskPtr& task, const std::vector<bool>& saved, const absl::Status& error);
  // A line of the log at most every kComplaintPause: a full store refuses every block.
  void Complain(const std::string& context_id, uint32_t layer, size_t blocks,
                const absl::Status& error);
  void Retry(const TaskPtr& task, const std::vector<bool>& saved);
  void SendDigests(SaveLog& log);
  void Finish(SaveLog& log);

  client::Client* const client_;
  const page::Geometry geometry_;
  PagePool* const pool_;
  WorkerMetrics* const metrics_;
  const absl::Duration patience_;
  base::Mutex mutex_;
  base::CondVar changed_;
  std::deque<TaskPtr> queue_ ABSL_GUARDED_BY(mutex_);
  uint32_t posted_ ABSL_GUARDED_BY(mutex_) = 0;  // puts that the store has not answered
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time next_complaint_ ABSL_GUARDED_BY(mutex_);
  uint64_t unsaid_blocks_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread thread_;
};

}  // namespace varve::worker
