// Tasks run when the test says so.
#pragma once

#include <deque>
#include <utility>

#include "kvstore/base/executor.h"

namespace varve::base {

class ManualExecutor final : public Executor {
 public:
  void Run(Task task) override { tasks_.push_back(std::move(task)); }
  size_t pending() const { return tasks_.size(); }
  void RunOne() {
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    std::move(task)();
  }
  void RunAll() {
    while (!tasks_.empty()) RunOne();
  }

 private:
  std::deque<Task> tasks_;
};

}  // namespace varve::base
