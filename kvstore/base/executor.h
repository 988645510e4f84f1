// The thread seam: work that must not run on a gRPC or transport thread goes to an Executor.
#pragma once

#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "kvstore/base/mutex.h"

namespace varve::base {

using Task = absl::AnyInvocable<void() &&>;

// Thread-safe. Tasks run at most once, in no promised order.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void Run(Task task) = 0;
};

// Runs every task at once on the caller's thread.
class InlineExecutor final : public Executor {
 public:
  void Run(Task task) override { std::move(task)(); }
};

// A fixed number of threads over one queue. The destructor runs what is queued, then joins; Run
// after that is an error.
class ThreadPool final : public Executor {
 public:
  // name: at most 11 characters, shown by ps and in the log.
  ThreadPool(const std::string& name, int threads);
  ~ThreadPool() override;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  void Run(Task task) override;

 private:
  void Loop();

  Mutex mutex_;
  CondVar changed_;
  std::deque<Task> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

// Names the calling thread (15 characters are kept).
void NameThisThread(const std::string& name);

}  // namespace varve::base
