// The thread seam: work that must not run on a gRPC or transport thread goes to an Executor.
#pragma once

#include <deque>
#include <string>
#include <thread>
#include <utility>
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
  // Work that nobody waits for yet: what Run was given goes first, whenever it comes.
  virtual void RunBehind(Task task) { Run(std::move(task)); }
};

// Runs every task at once on the caller's thread.
class InlineExecutor final : public Executor {
 public:
  void Run(Task task) override { std::move(task)(); }
};

// A fixed number of threads. All but one of them, where there are several, also take what RunBehind
// was given, so a task of Run finds a thread that is not held up by such work. The destructor runs
// what is queued, then joins; Run after that is an error.
class ThreadPool final : public Executor {
 public:
  // name: at most 11 characters, shown by ps and in the log.
  ThreadPool(const std::string& name, int threads);
  ~ThreadPool() override;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  void Run(Task task) override;
  void RunBehind(Task task) override;

 private:
  void Loop();
  bool MayRunBehind() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int most_behind_;  // threads that may be busy with RunBehind's tasks
  Mutex mutex_;
  CondVar changed_;
  std::deque<Task> queue_ ABSL_GUARDED_BY(mutex_);
  std::deque<Task> behind_ ABSL_GUARDED_BY(mutex_);
  int running_behind_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

// Names the calling thread (15 characters are kept).
void NameThisThread(const std::string& name);

}  // namespace varve::base
