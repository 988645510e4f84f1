// What every BlockIo promises (kvstore/tier/block_io.h), on files of a temporary folder.
#include "kvstore/tier/block_io.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <future>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/base/mutex.h"
#include "kvstore/tier/directory_io.h"
#include "kvstore/tier/faulty_io.h"
#include "tests/support/io_kinds.h"

namespace varve::tier {
namespace {

using ::testing::HasSubstr;

// Pages of their own.
class Mapping {
 public:
  explicit Mapping(size_t bytes) : bytes_(bytes) { MapAnew(PROT_READ | PROT_WRITE); }
  ~Mapping() { munmap(data_, bytes_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Other pages, of zeros, at the same address.
  void MapAnew(int protection) {
    const int fixed = data_ == nullptr ? 0 : MAP_FIXED;
    data_ = mmap(data_, bytes_, protection, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
    EXPECT_NE(data_, MAP_FAILED);
  }
  std::span<std::byte> bytes() { return {static_cast<std::byte*>(data_), bytes_}; }

 private:
  const size_t bytes_;
  void* data_ = nullptr;
};

class BlockIoContractTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    Start({.queue_depth = 8});
    folder_ = ::testing::TempDir() + "varve-io-" + std::to_string(getpid());
    std::filesystem::create_directories(folder_);
    fd_ = open((folder_ + "/file").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    ASSERT_GE(fd_, 0);
  }
  void TearDown() override {
    io_.reset();
    inner_.reset();
    close(fd_);
    std::filesystem::remove_all(folder_);
  }
  void Start(const BlockIoOptions& options) {
    auto io = Make(options);
    ASSERT_TRUE(io.ok()) << io.status();
    io_.reset();
    inner_ = *std::move(io);
    if (GetParam() == "directory") {
      io_ = std::make_unique<DirectoryIo>(inner_.get(), options.queue_depth);
    } else {
      io_ = std::move(inner_);
    }
    EXPECT_EQ(io_->name(), Kind());
  }
  static bool decorated() { return GetParam() == "faulty" || GetParam() == "directory"; }
  static std::string Kind() { return decorated() ? varve::testing::IoKinds().front() : GetParam(); }
  static absl::StatusOr<std::unique_ptr<BlockIo>> Make(const BlockIoOptions& options) {
    auto io = Kind() == "threads" ? MakeThreadIo(options) : MakeUringIo(options);
    if (!io.ok() || GetParam() != "faulty") return io;
    return std::make_unique<FaultyIo>(*std::move(io));
  }

  absl::Status Wait(const std::function<void(BlockIo::Done)>& start) {
    std::promise<absl::Status> promise;
    std::future<absl::Status> future = promise.get_future();
    start([&promise](absl::Status status) { promise.set_value(std::move(status)); });
    return future.get();
  }
  absl::Status Read(int fd, uint64_t offset, std::span<std::byte> to) {
    return Wait([&](auto done) { io_->Read(fd, offset, to, IoClass::kDemand, std::move(done)); });
  }
  absl::Status Write(int fd, uint64_t offset, std::span<const std::byte> from) {
    return Wait(
        [&](auto done) { io_->Write(fd, offset, from, IoClass::kDemand, std::move(done)); });
  }
  std::vector<std::byte> RandomBytes(size_t n) {
    std::vector<std::byte> bytes(n);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random_());
    return bytes;
  }

  std::mt19937 random_{20261121};
  std::string folder_;
  int fd_ = -1;
  std::unique_ptr<BlockIo> inner_;  // of a decorator that has none of its own
  std::unique_ptr<BlockIo> io_;
};

TEST_P(BlockIoContractTest, ReadsWhatWasWritten) {
  for (const size_t bytes : {size_t{1}, size_t{4096}, size_t{1} << 20, (size_t{3} << 20) + 17}) {
    const std::vector<std::byte> sent = RandomBytes(bytes);
    std::vector<std::byte> got(bytes);
    ASSERT_TRUE(Write(fd_, 12345, sent).ok());
    ASSERT_TRUE(Wait([&](auto done) { io_->Sync(fd_, std::move(done)); }).ok());
    ASSERT_TRUE(Read(fd_, 12345, got).ok());
    EXPECT_EQ(got, sent) << bytes;
  }
}

TEST_P(BlockIoContractTest, ManyAtOnceEndOnceEach) {
  constexpr size_t kBlock = 4096;
  constexpr int kBlocks = 500;
  const std::vector<std::byte> sent = RandomBytes(kBlock * kBlocks);
  std::vector<std::byte> got(sent.size());
  std::vector<std::atomic<int>> runs(2 * kBlocks);
  std::atomic<int> left{kBlocks};
  std::promise<void> all;
  for (int i = 0; i < kBlocks; ++i) {
    const auto io_class = i % 3 == 0 ? IoClass::kPrefetch : IoClass::kDemand;
    // A read that begins in the Done of its write.
    io_->Write(fd_, i * kBlock, std::span(sent).subspan(i * kBlock, kBlock), io_class,
               [&, i, io_class](const absl::Status& status) {
                 EXPECT_TRUE(status.ok()) << status;
                 ++runs[2 * i];
                 io_->Read(fd_, i * kBlock, std::span(got).subspan(i * kBlock, kBlock), io_class,
                           [&, i](const absl::Status& read) {
                             EXPECT_TRUE(read.ok()) << read;
                             ++runs[2 * i + 1];
                             if (--left == 0) all.set_value();
                           });
               });
  }
  all.get_future().wait();
  EXPECT_EQ(got, sent);
  for (const std::atomic<int>& count : runs) EXPECT_EQ(count, 1);
}

TEST_P(BlockIoContractTest, TheDestructorWaits) {
  std::vector<std::byte> bytes = RandomBytes(64 << 10);
  std::atomic<int> ended{0};
  for (int i = 0; i < 100; ++i) {
    io_->Write(fd_, i * bytes.size(), bytes, IoClass::kPrefetch,
               [&](const absl::Status&) { ++ended; });
  }
  io_.reset();
  EXPECT_EQ(ended, 100);
}

TEST_P(BlockIoContractTest, ErrorsAreNamed) {
  std::vector<std::byte> bytes = RandomBytes(4096);
  ASSERT_TRUE(Write(fd_, 0, bytes).ok());
  const absl::Status beyond = Read(fd_, 1000, bytes);
  EXPECT_EQ(beyond.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(beyond.message()), HasSubstr("ends at 4096"));
  const int read_only = open((folder_ + "/file").c_str(), O_RDONLY);
  EXPECT_EQ(Write(read_only, 0, bytes).code(), absl::StatusCode::kPermissionDenied);
  close(read_only);
  const int full = open("/dev/full", O_RDWR);
  ASSERT_GE(full, 0);
  const absl::Status no_space = Write(full, 0, bytes);
  EXPECT_EQ(no_space.code(), absl::StatusCode::kResourceExhausted) << no_space;
  EXPECT_THAT(std::string(no_space.message()), HasSubstr("write of 4096 bytes"));
  close(full);
  EXPECT_EQ(Read(-1, 0, bytes).code(), absl::StatusCode::kPermissionDenied);
}

TEST_P(BlockIoContractTest, QueueDepthOneDoesOneAfterTheOther) {
  Start({.queue_depth = 1});
  std::vector<std::byte> bytes = RandomBytes(4096);
  std::vector<int> order;
  std::promise<void> last;
  for (int i = 0; i < 20; ++i) {
    io_->Write(fd_, 0, bytes, IoClass::kDemand, [&, i](const absl::Status&) {
      order.push_back(i);
      if (i == 19) last.set_value();
    });
  }
  last.get_future().wait();
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_P(BlockIoContractTest, HintsChangeNoResult) {
  Mapping buffer(1 << 20);
  const auto at = [&](size_t begin, size_t n) { return buffer.bytes().subspan(begin, n); };
  const std::vector<std::byte> sent = RandomBytes(1 << 20);
  std::ranges::copy(sent, buffer.bytes().begin());
  io_->AddBuffer(at(0, 300'000));
  io_->AddFile(fd_);
  // Inside the registered memory, at its very end, and across it.
  for (const auto& [begin, n] : std::vector<std::pair<size_t, size_t>>{
           {0, 300'000}, {12345, 4096}, {299'999, 1}, {200'000, 200'000}, {300'000, 5000}}) {
    SCOPED_TRACE(begin);
    std::ranges::copy(sent, buffer.bytes().begin());
    ASSERT_TRUE(Write(fd_, 777, at(begin, n)).ok());
    ASSERT_TRUE(Wait([&](auto done) { io_->Sync(fd_, std::move(done)); }).ok());
    std::ranges::fill(buffer.bytes(), std::byte{});
    ASSERT_TRUE(Read(fd_, 777, at(begin, n)).ok());
    EXPECT_TRUE(std::ranges::equal(at(begin, n), std::span(sent).subspan(begin, n)));
    EXPECT_EQ(Read(fd_, 1 << 30, at(begin, n)).code(), absl::StatusCode::kOutOfRange);
  }
}

TEST_P(BlockIoContractTest, HintsComeAndGoBesideOperations) {
  constexpr size_t kBlock = 4096;
  constexpr size_t kBlocks = 256;
  Mapping buffer(kBlock * kBlocks);
  const std::vector<std::byte> sent = RandomBytes(kBlock * kBlocks);
  ASSERT_TRUE(Write(fd_, 0, sent).ok());
  std::atomic<size_t> left{kBlocks};
  std::promise<void> all;
  for (size_t i = 0; i < kBlocks; ++i) {
    // From this thread, and from the BlockIo's while operations are under way.
    if (i % 5 == 0) io_->AddFile(fd_);
    if (i % 7 == 0) io_->AddBuffer(buffer.bytes());
    io_->Read(fd_, i * kBlock, buffer.bytes().subspan(i * kBlock, kBlock), IoClass::kDemand,
              [&, i](const absl::Status& status) {
                EXPECT_TRUE(status.ok()) << status;
                if (i % 5 == 2) io_->RemoveFile(fd_);
                if (i % 7 == 3) io_->RemoveBuffer(buffer.bytes());
                if (--left == 0) all.set_value();
              });
  }
  all.get_future().wait();
  EXPECT_TRUE(std::ranges::equal(buffer.bytes(), sent));
}

TEST_P(BlockIoContractTest, WhatWasRemovedIsForgotten) {
  const std::vector<std::byte> first = RandomBytes(4096), second = RandomBytes(4096);
  const int other = open((folder_ + "/other").c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_GE(other, 0);
  ASSERT_TRUE(Write(fd_, 0, first).ok());
  ASSERT_TRUE(Write(other, 0, second).ok());
  Mapping buffer(4096);
  const int fd = dup(fd_);
  io_->AddBuffer(buffer.bytes());
  io_->AddFile(fd);
  ASSERT_TRUE(Read(fd, 0, buffer.bytes()).ok());
  EXPECT_TRUE(std::ranges::equal(buffer.bytes(), first));
  io_->RemoveBuffer(buffer.bytes());
  io_->RemoveFile(fd);
  // The same address and the same descriptor, of another memory and another file.
  buffer.MapAnew(PROT_READ | PROT_WRITE);
  ASSERT_EQ(dup2(other, fd), fd);
  ASSERT_TRUE(Read(fd, 0, buffer.bytes()).ok());
  EXPECT_TRUE(std::ranges::equal(buffer.bytes(), second));
  close(fd);
  close(other);
}

TEST_P(BlockIoContractTest, ARefusedHintHarmsNothing) {
  Mapping nobodys(8192);
  nobodys.MapAnew(PROT_NONE);
  io_->AddBuffer(nobodys.bytes());
  io_->AddFile(-1);
  io_->RemoveBuffer(nobodys.bytes().first(4096));
  io_->RemoveFile(12345);
  std::vector<std::byte> bytes = RandomBytes(4096);
  EXPECT_TRUE(Write(fd_, 0, bytes).ok());
  EXPECT_EQ(Read(-1, 0, bytes).code(), absl::StatusCode::kPermissionDenied);
}

TEST_P(BlockIoContractTest, EveryOperationIsReportedBeforeItsDone) {
  base::Mutex mutex;
  std::vector<IoReport> reports;
  Start({.queue_depth = 4, .on_io = [&](const IoReport& report) {
           base::MutexLock lock(mutex);
           reports.push_back(report);
         }});
  std::vector<std::byte> bytes = RandomBytes(5000);
  ASSERT_TRUE(Write(fd_, 0, bytes).ok());
  ASSERT_TRUE(Wait([&](auto done) { io_->Sync(fd_, std::move(done)); }).ok());
  ASSERT_TRUE(Read(fd_, 4096, std::span(bytes).first(904)).ok());
  ASSERT_FALSE(Read(fd_, 1, bytes).ok());
  base::MutexLock lock(mutex);
  ASSERT_EQ(reports.size(), 4u);
  const auto expect = [&](int i, IoOp op, uint64_t n, bool ok) {
    EXPECT_EQ(reports[i].op, op) << i;
    EXPECT_EQ(reports[i].bytes, n) << i;
    EXPECT_EQ(reports[i].ok, ok) << i;
    EXPECT_GT(reports[i].seconds, 0) << i;
    EXPECT_LT(reports[i].seconds, 600) << i;
  };
  expect(0, IoOp::kWrite, 5000, true);
  expect(1, IoOp::kSync, 0, true);
  expect(2, IoOp::kRead, 904, true);
  expect(3, IoOp::kRead, 5000, false);
}

TEST_P(BlockIoContractTest, RefusesDepthsOutOfRange) {
  for (const uint32_t depth : {0u, 4097u}) {
    EXPECT_EQ(Make({.queue_depth = depth}).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, BlockIoContractTest, ::testing::ValuesIn(varve::testing::IoKinds()),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Decorated, BlockIoContractTest, ::testing::Values("faulty", "directory"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace varve::tier
