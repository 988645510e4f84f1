#include "kvstore/base/mutex.h"

#include <chrono>
#include <deque>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace varve::base {
namespace {

struct Counter {
  Mutex mutex;
  int value ABSL_GUARDED_BY(mutex) = 0;
};

TEST(Mutex, ExcludesOthers) {
  Counter counter;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 10000; ++n) {
        MutexLock lock(counter.mutex);
        ++counter.value;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  MutexLock lock(counter.mutex);
  EXPECT_EQ(counter.value, 40000);
}

struct Queue {
  Mutex mutex;
  CondVar changed;
  std::deque<int> items ABSL_GUARDED_BY(mutex);
  bool closed ABSL_GUARDED_BY(mutex) = false;
};

int Drain(Queue& queue) {
  int sum = 0;
  MutexLock lock(queue.mutex);
  for (;;) {
    while (queue.items.empty() && !queue.closed) queue.changed.Wait(queue.mutex);
    if (queue.items.empty()) return sum;
    sum += queue.items.front();
    queue.items.pop_front();
  }
}

TEST(CondVar, HandsOverBetweenThreads) {
  Queue queue;
  int sums[2] = {};
  std::thread first([&] { sums[0] = Drain(queue); });
  std::thread second([&] { sums[1] = Drain(queue); });
  for (int i = 1; i <= 1000; ++i) {
    MutexLock lock(queue.mutex);
    queue.items.push_back(i);
    queue.changed.NotifyOne();
  }
  {
    MutexLock lock(queue.mutex);
    queue.closed = true;
  }
  queue.changed.NotifyAll();
  first.join();
  second.join();
  EXPECT_EQ(sums[0] + sums[1], 500500);
}

TEST(CondVar, WaitForGivesUpAndHoldsTheLockAgain) {
  Queue queue;
  std::thread other;
  bool seen_closed = false;
  {
    MutexLock lock(queue.mutex);
    const auto start = std::chrono::steady_clock::now();
    while (queue.changed.WaitFor(queue.mutex, std::chrono::milliseconds(5))) {
    }
    EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(5));
    other = std::thread([&] {
      MutexLock entered(queue.mutex);
      seen_closed = queue.closed;
    });
    // Time for the other thread to come in, if nothing holds it up.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    queue.closed = true;
  }
  other.join();
  EXPECT_TRUE(seen_closed);
}

}  // namespace
}  // namespace varve::base
