// What is registered with a ring has an index; what the kernel refuses has none.
#include "kvstore/tier/uring_registry.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/io_kinds.h"

namespace varve::tier {
namespace {

class UringRegistryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (varve::testing::RefusesIoUring()) GTEST_SKIP() << "io_uring is refused here";
    ASSERT_EQ(io_uring_queue_init(4, &ring_, 0), 0);
  }
  void TearDown() override {
    if (!IsSkipped()) io_uring_queue_exit(&ring_);
  }

  io_uring ring_{};
  UringRegistry registry_{&ring_};
};

TEST_F(UringRegistryTest, BuffersAreFoundByTheirBytes) {
  std::vector<std::byte> memory(20000);
  const std::span<std::byte> all(memory), a = all.first(8000), b = all.subspan(10000);
  EXPECT_EQ(registry_.BufferOf(a.data(), 1), -1);
  registry_.AddBuffer(a);
  registry_.AddBuffer(b);
  const int index = registry_.BufferOf(a.data(), a.size());
  EXPECT_GE(index, 0);
  EXPECT_EQ(registry_.BufferOf(&memory[7999], 1), index);
  EXPECT_NE(registry_.BufferOf(b.data(), b.size()), index);
  EXPECT_GE(registry_.BufferOf(b.data(), b.size()), 0);
  EXPECT_EQ(registry_.BufferOf(&memory[7999], 2), -1);   // across the end
  EXPECT_EQ(registry_.BufferOf(&memory[9999], 1), -1);   // between
  EXPECT_EQ(registry_.BufferOf(&memory[9999], 10), -1);  // before
  registry_.RemoveBuffer(a);
  EXPECT_EQ(registry_.BufferOf(a.data(), 1), -1);
  EXPECT_GE(registry_.BufferOf(b.data(), 1), 0);
}

TEST_F(UringRegistryTest, FilesAreFoundByTheirDescriptors) {
  const int a = open("/dev/null", O_RDWR), b = open("/dev/zero", O_RDWR);
  registry_.AddFile(a);
  registry_.AddFile(b);
  EXPECT_GE(registry_.FileOf(a), 0);
  EXPECT_GE(registry_.FileOf(b), 0);
  EXPECT_NE(registry_.FileOf(a), registry_.FileOf(b));
  registry_.RemoveFile(a);
  EXPECT_EQ(registry_.FileOf(a), -1);
  EXPECT_GE(registry_.FileOf(b), 0);
  close(a);
  close(b);
}

TEST_F(UringRegistryTest, LargeBuffersAreSplit) {
  UringRegistry registry(&ring_, 4096);
  std::vector<std::byte> memory(3 * 4096 + 100);
  registry.AddBuffer(memory);
  std::set<int> indexes;
  for (size_t at = 0; at < memory.size(); at += 4096) {
    indexes.insert(registry.BufferOf(&memory[at], std::min<size_t>(4096, memory.size() - at)));
  }
  EXPECT_EQ(indexes.size(), 4u);
  EXPECT_FALSE(indexes.contains(-1));
  EXPECT_EQ(registry.BufferOf(&memory[4000], 200), -1);  // in two pieces
  registry.RemoveBuffer(memory);
  for (size_t at = 0; at < memory.size(); at += 4096) {
    EXPECT_EQ(registry.BufferOf(&memory[at], 1), -1) << at;
  }
}

TEST_F(UringRegistryTest, TheKernelsRefusalLeavesNoIndex) {
  void* const memory = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const std::span<std::byte> nobodys(static_cast<std::byte*>(memory), 4096);
  registry_.AddBuffer(nobodys);
  EXPECT_EQ(registry_.BufferOf(nobodys.data(), 1), -1);
  registry_.AddFile(12345);
  EXPECT_EQ(registry_.FileOf(12345), -1);
  std::vector<std::byte> good(100);
  registry_.AddBuffer(good);
  EXPECT_GE(registry_.BufferOf(good.data(), 100), 0);
  munmap(memory, 4096);
}

// As when a start is refused, and ends before the ring's thread has come to its memory and files.
TEST_F(UringRegistryTest, WhatHasGoneMeanwhileIsNoWarning) {
  void* const memory =
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const std::span<std::byte> gone(static_cast<std::byte*>(memory), 4096);
  munmap(memory, 4096);
  ::testing::internal::CaptureStderr();
  registry_.AddBuffer(gone);
  registry_.AddFile(12345);
  registry_.RemoveBuffer(gone);
  registry_.RemoveFile(12345);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

// Indexes are used again: many more come and go than a table has.
TEST_F(UringRegistryTest, TablesDoNotRunOut) {
  std::vector<std::byte> memory(64);
  const int fd = open("/dev/null", O_RDWR);
  for (int i = 0; i < 10000; ++i) {
    registry_.AddBuffer(memory);
    registry_.AddFile(fd);
    ASSERT_GE(registry_.BufferOf(memory.data(), 64), 0) << i;
    ASSERT_GE(registry_.FileOf(fd), 0) << i;
    if (i % 2 == 0) registry_.RemoveBuffer(memory);  // else it is added again
    if (i % 2 == 0) registry_.RemoveFile(fd);
  }
  close(fd);
}

}  // namespace
}  // namespace varve::tier
