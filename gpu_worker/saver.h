// Takes sealed blocks to the store: names them in the context, puts their objects, streams their
// digests.
//
// One background thread per worker does the talking, so that Append returns at once. For each job:
// the context learns the block names first (its hold then covers the objects), then the objects are
// put (the store reads the slots), then the digests are sent, in order and without holes. A slot
// may be reused only after its block is reported saved. A block that failed twice is reported
// unsaved and stays resident; its sequence submits it again later (Sequence::RetrySaves).
//
// Threads: all methods from any thread.
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
#include "gpu_worker/save_log.h"
#include "gpu_worker/worker_metrics.h"
#include "kvstore/base/mutex.h"
#include "kvstore/page/geometry.h"

namespace varve::worker {

// Sealed blocks of one layer.
struct SaveJob {
  std::shared_ptr<SaveLog> log;
  uint32_t layer = 0;
  std::vector<uint32_t> blocks;     // ascending
  std::vector<std::string> hashes;  // parallel to blocks
  // Likewise, of the block before; empty: there is none.
  std::vector<std::string> parents;
  std::vector<Slot> slots;  // [block][kv head]
  // That the sequence has announced by now, those of the blocks and all before them included: what
  // is known of its prompt. The store keeps what it was told first: a sequence that grows says more
  // only with its later blocks.
  uint32_t prompt_tokens = 0;
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
