#include "kvstore/base/executor.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

namespace varve::base {

void NameThisThread(const std::string& name) {
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
}

ThreadPool::ThreadPool(const std::string& name, int threads)
    : most_behind_(std::max(1, threads - 1)) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this, name, i] {
      NameThisThread(name + "/" + std::to_string(i));
      Loop();
    });
  }
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::Run(Task task) {
  MutexLock lock(mutex_);
  queue_.push_back(std::move(task));
  // Under the lock: once the task has run, its owner may destroy the pool.
  changed_.NotifyOne();
}

void ThreadPool::RunBehind(Task task) {
  MutexLock lock(mutex_);
  behind_.push_back(std::move(task));
  changed_.NotifyOne();
}

bool ThreadPool::MayRunBehind() const {
  return !behind_.empty() && running_behind_ < most_behind_;
}

void ThreadPool::Loop() {
  MutexLock lock(mutex_);
  for (;;) {
    while (queue_.empty() && !MayRunBehind() && !(stopping_ && behind_.empty())) {
      changed_.Wait(mutex_);
    }
    const bool is_behind = queue_.empty();
    std::deque<Task>& from = is_behind ? behind_ : queue_;
    if (from.empty()) return;
    Task task = std::move(from.front());
    from.pop_front();
    running_behind_ += is_behind ? 1 : 0;
    mutex_.Unlock();
    std::move(task)();
    task = nullptr;  // what it holds may take locks when it goes
    mutex_.Lock();
    if (!is_behind) continue;
    --running_behind_;
    // Others may have been told of the next one and found that it had to wait.
    if (stopping_ || !behind_.empty()) changed_.NotifyAll();
  }
}

}  // namespace varve::base
