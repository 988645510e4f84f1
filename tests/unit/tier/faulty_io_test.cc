// What FaultyIo does to operations, by what is in the file afterwards.
#include "kvstore/tier/faulty_io.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <future>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace varve::tier {
namespace {

using Kind = IoFault::Kind;

class FaultyIoTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Start(1);
    folder_ = ::testing::TempDir() + "varve-faulty-io-" + std::to_string(getpid());
    std::filesystem::create_directories(folder_ + "/other");
    fd_ = Open("/file");
    other_ = Open("/other/file");
  }
  void TearDown() override {
    io_.reset();
    close(fd_);
    close(other_);
    std::filesystem::remove_all(folder_);
  }
  void Start(uint64_t seed) {
    auto inner = MakeThreadIo({.queue_depth = 4});
    ASSERT_TRUE(inner.ok()) << inner.status();
    io_ = std::make_unique<FaultyIo>(*std::move(inner), seed);
  }
  int Open(const std::string& name) const {
    const int fd = open((folder_ + name).c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    EXPECT_GE(fd, 0);
    return fd;
  }

  static absl::Status Wait(const std::function<void(BlockIo::Done)>& start) {
    std::promise<absl::Status> promise;
    std::future<absl::Status> future = promise.get_future();
    start([&promise](absl::Status status) { promise.set_value(std::move(status)); });
    return future.get();
  }
  absl::Status Write(int fd, const std::string& text) {
    return Wait([&](auto done) {
      io_->Write(fd, 0, std::as_bytes(std::span(text)), IoClass::kDemand, std::move(done));
    });
  }
  absl::Status Read(int fd, size_t bytes) {
    std::vector<std::byte> to(bytes);
    return Wait([&](auto done) { io_->Read(fd, 0, to, IoClass::kDemand, std::move(done)); });
  }
  absl::Status Sync(int fd) {
    return Wait([&](auto done) { io_->Sync(fd, std::move(done)); });
  }
  static std::string Content(int fd) {
    char bytes[100];
    const ssize_t n = pread(fd, bytes, sizeof(bytes), 0);
    return {bytes, static_cast<size_t>(std::max<ssize_t>(n, 0))};
  }

  std::string folder_;
  int fd_ = -1, other_ = -1;
  std::unique_ptr<FaultyIo> io_;
};

TEST_F(FaultyIoTest, WithoutRulesItIsInvisible) {
  EXPECT_STREQ(io_->name(), "threads");
  EXPECT_TRUE(Write(fd_, "hello").ok());
  EXPECT_TRUE(Sync(fd_).ok());
  EXPECT_TRUE(Read(fd_, 5).ok());
  EXPECT_EQ(Content(fd_), "hello");
  EXPECT_EQ(io_->begun(IoOp::kWrite), 1u);
  EXPECT_EQ(io_->struck(), 0u);
}

TEST_F(FaultyIoTest, TheNthFailsAndTheOthersDoNot) {
  io_->Add({.op = IoOp::kWrite, .skip = 1, .times = 2, .status = InjectedNoSpace()});
  io_->Add({.op = IoOp::kRead, .status = InjectedDeviceError()});
  io_->Add({.op = IoOp::kSync, .skip = 1, .status = InjectedReadOnly()});
  EXPECT_TRUE(Write(fd_, "a").ok());
  EXPECT_EQ(Write(fd_, "b").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Write(fd_, "c").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Content(fd_), "a");
  EXPECT_TRUE(Write(fd_, "d").ok());
  EXPECT_EQ(Content(fd_), "d");
  EXPECT_EQ(Read(fd_, 1).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(Read(fd_, 1).ok());
  EXPECT_TRUE(Sync(fd_).ok());
  EXPECT_EQ(Sync(fd_).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(io_->struck(), 4u);
}

TEST_F(FaultyIoTest, OnlyFilesOfThePath) {
  io_->Add({.op = IoOp::kWrite, .path = folder_ + "/other/", .times = UINT64_MAX});
  EXPECT_TRUE(Write(fd_, "a").ok());
  EXPECT_FALSE(Write(other_, "a").ok());
  EXPECT_FALSE(Write(other_, "a").ok());
  io_->Clear();
  EXPECT_TRUE(Write(other_, "a").ok());
}

TEST_F(FaultyIoTest, ChanceFollowsTheSeed) {
  const auto outcomes = [&](uint64_t seed) {
    Start(seed);
    io_->Add({.op = IoOp::kWrite, .times = UINT64_MAX, .chance = 0.25});
    std::string text;
    for (int i = 0; i < 400; ++i) text += Write(fd_, "a").ok() ? '.' : 'x';
    return text;
  };
  const std::string first = outcomes(7);
  EXPECT_EQ(first, outcomes(7));
  EXPECT_NE(first, outcomes(8));
  const auto failed = std::count(first.begin(), first.end(), 'x');
  EXPECT_GT(failed, 50);
  EXPECT_LT(failed, 150);
}

TEST_F(FaultyIoTest, TornWrites) {
  io_->Add({.kind = Kind::kTear, .torn_bytes = 3});
  EXPECT_EQ(Write(fd_, "abcdef").code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Content(fd_), "abc");
  io_->Add({.kind = Kind::kTear, .status = absl::OkStatus(), .torn_bytes = 4});
  EXPECT_TRUE(Write(fd_, "ABCDEF").ok());
  EXPECT_EQ(Content(fd_), "ABCD");
  io_->Add({.kind = Kind::kTear, .status = absl::OkStatus(), .torn_bytes = 0});
  EXPECT_TRUE(Write(fd_, "xyz").ok());
  EXPECT_EQ(Content(fd_), "ABCD");
}

TEST_F(FaultyIoTest, WhatIsHeldIsDoneAndItsDoneWaits) {
  io_->Add({.times = 2, .kind = Kind::kHold});
  std::vector<int> ended;
  std::promise<void> last;
  const std::string text = "held";
  for (int i = 0; i < 2; ++i) {
    io_->Write(fd_, 0, std::as_bytes(std::span(text)), IoClass::kDemand, [&, i](absl::Status s) {
      EXPECT_TRUE(s.ok()) << s;
      ended.push_back(i);
      if (ended.size() == 2) last.set_value();
    });
    io_->AwaitHeld(i + 1);
  }
  EXPECT_EQ(Content(fd_), "held");
  EXPECT_TRUE(Write(fd_, "HELD").ok());  // passes by
  EXPECT_TRUE(ended.empty());
  io_->Release();
  last.get_future().wait();
  EXPECT_EQ(ended, (std::vector{0, 1}));
}

TEST_F(FaultyIoTest, TheDestructorRunsWhatIsHeld) {
  io_->Add({.op = IoOp::kSync, .times = UINT64_MAX, .kind = Kind::kHold});
  std::atomic<int> ended{0};
  FaultyIo* const io = io_.get();
  io->Sync(fd_, [&, io](const absl::Status&) {
    // An operation of a Done that the destructor runs.
    io->Sync(fd_, [&](const absl::Status&) { ++ended; });
    ++ended;
  });
  io_->AwaitHeld(1);
  io_.reset();
  EXPECT_EQ(ended, 2);
}

TEST_F(FaultyIoTest, NothingReachesTheFileAfterAPowerCut) {
  io_->Add({.skip = 1, .kind = Kind::kPowerCut, .torn_bytes = 2});
  EXPECT_TRUE(Write(fd_, "abcdef").ok());
  EXPECT_EQ(Write(fd_, "ABCDEF").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Content(fd_), "ABcdef");
  EXPECT_EQ(Write(fd_, "x").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Read(fd_, 1).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Sync(fd_).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Content(fd_), "ABcdef");

  Start(1);
  io_->CutPower();
  EXPECT_EQ(Write(fd_, "x").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Content(fd_), "ABcdef");
}

}  // namespace
}  // namespace varve::tier
