#include "kvstore/base/executor.h"

#include <pthread.h>

#include <atomic>
#include <latch>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace varve::base {
namespace {

TEST(InlineExecutor, RunsOnTheCallersThread) {
  InlineExecutor executor;
  std::thread::id id;
  executor.Run([&] { id = std::this_thread::get_id(); });
  EXPECT_EQ(id, std::this_thread::get_id());
}

TEST(ThreadPool, RunsEveryTaskOnce) {
  constexpr int kTasks = 2000;
  std::vector<std::atomic<int>> runs(kTasks);
  {
    ThreadPool pool("test", 3);
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller) {
      callers.emplace_back([&, caller] {
        for (int i = caller; i < kTasks; i += 4) pool.Run([&runs, i] { ++runs[i]; });
      });
    }
    for (std::thread& caller : callers) caller.join();
  }
  for (int i = 0; i < kTasks; ++i) ASSERT_EQ(runs[i], 1) << i;
}

TEST(ThreadPool, DestructorRunsWhatIsQueued) {
  std::latch started(1), release(1);
  std::atomic<int> done{0};
  auto pool = std::make_unique<ThreadPool>("test", 1);
  pool->Run([&] {
    started.count_down();
    release.wait();
  });
  for (int i = 0; i < 10; ++i) pool->Run([&] { ++done; });
  started.wait();
  EXPECT_EQ(done, 0);
  release.count_down();
  pool.reset();
  EXPECT_EQ(done, 10);
}

TEST(ThreadPool, TasksRunConcurrently) {
  std::latch all(3);
  ThreadPool pool("test", 3);
  // Each task waits for the others: two threads would never get there.
  for (int i = 0; i < 3; ++i) pool.Run([&] { all.arrive_and_wait(); });
  all.wait();
}

TEST(ThreadPool, TasksMayOwnAndMayAddTasks) {
  std::atomic<int> sum{0};
  {
    ThreadPool pool("test", 2);
    auto value = std::make_unique<int>(41);
    pool.Run([&pool, &sum, value = std::move(value)] {
      sum += *value;
      pool.Run([&sum] { ++sum; });
    });
    while (sum != 42) std::this_thread::yield();
  }
  EXPECT_EQ(sum, 42);
}

TEST(ThreadPool, WhatIsRunGoesBeforeWhatIsRunBehind) {
  std::latch started(1), release(1);
  std::string order;  // of the only thread
  {
    ThreadPool pool("test", 1);
    pool.Run([&] {
      started.count_down();
      release.wait();
    });
    started.wait();
    pool.RunBehind([&] { order += "b"; });
    pool.RunBehind([&] { order += "B"; });
    pool.Run([&] { order += "r"; });
    pool.Run([&] { order += "R"; });
    release.count_down();
  }
  EXPECT_EQ(order, "rRbB");
}

TEST(ThreadPool, AThreadStaysFreeForWhatIsRun) {
  std::latch started(2), release(1), ran(1);
  std::atomic<int> behind{0};
  {
    ThreadPool pool("test", 3);
    for (int i = 0; i < 5; ++i) {
      pool.RunBehind([&] {
        if (behind.fetch_add(1) < 2) started.count_down();
        release.wait();
      });
    }
    started.wait();
    // Two of three are held up, three tasks wait: this one finds a thread.
    pool.Run([&] { ran.count_down(); });
    ran.wait();
    EXPECT_EQ(behind, 2);
    release.count_down();
  }
  EXPECT_EQ(behind, 5);
}

TEST(ThreadPool, ThreadsCarryItsName) {
  std::string name;
  {
    ThreadPool pool("mover", 1);
    pool.Run([&name] {
      char text[16];
      pthread_getname_np(pthread_self(), text, sizeof(text));
      name = text;
    });
  }
  EXPECT_EQ(name, "mover/0");
}

}  // namespace
}  // namespace varve::base
