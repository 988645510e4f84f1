#include "kvstore/base/executor.h"

#include <pthread.h>

#include <utility>

namespace varve::base {

void NameThisThread(const std::string& name) {
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
}

ThreadPool::ThreadPool(const std::string& name, int threads) {
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

void ThreadPool::Loop() {
  for (;;) {
    Task task;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && !stopping_) changed_.Wait(mutex_);
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    std::move(task)();
  }
}

}  // namespace varve::base
