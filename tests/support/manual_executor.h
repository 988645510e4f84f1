// Tasks run when the test says so.
#pragma once

#include <deque>
#include <utility>

#include "kvstore/base/executor.h"

namespace varve::base {

class ManualExecutor final : public Executor {
 public:
  void Run(Task task) override { tasks_.push_back(std::move(task)); }
  void RunBehind(Task task) override { behind_.push_back(std::move(task)); }
  size_t pending() const { return tasks_.size() + behind_.size(); }
  void RunOne() {
    std::deque<Task>& from = tasks_.empty() ? behind_ : tasks_;
    Task task = std::move(from.front());
    from.pop_front();
    std::move(task)();
  }
  void RunAll() {
    while (pending() > 0) RunOne();
  }

 private:
  std::deque<Task> tasks_, behind_;
};

}  // namespace varve::base
