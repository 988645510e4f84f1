#include "kvstore/transport/shared_mapping.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

namespace varve::transport {
namespace {

constexpr size_t kPage = 4096;

// Two shared objects mapped next to each other, as a careless kernel might place two peers' segments.
class SharedMappingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    void* space = mmap(nullptr, 8 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(space, MAP_FAILED);
    base_ = static_cast<std::byte*>(space);
    for (int i = 0; i < 2; ++i) {
      files_[i] = memfd_create("test", 0);
      ASSERT_EQ(ftruncate(files_[i], 8 * kPage), 0);
    }
  }
  void TearDown() override {
    munmap(base_, 8 * kPage);
    for (int file : files_) close(file);
  }
  void Map(size_t page, size_t pages, int file, size_t file_page, int protection, int flags) {
    ASSERT_NE(mmap(base_ + page * kPage, pages * kPage, protection, flags | MAP_FIXED, files_[file],
                   static_cast<off_t>(file_page * kPage)),
              MAP_FAILED);
  }
  bool Check(size_t offset, size_t bytes) { return IsOneSharedMapping({base_ + offset, bytes}); }

  std::byte* base_ = nullptr;
  int files_[2] = {-1, -1};
};

TEST_F(SharedMappingTest, AcceptsWhatLiesInside) {
  Map(1, 3, 0, 0, PROT_READ | PROT_WRITE, MAP_SHARED);
  EXPECT_TRUE(Check(kPage, 3 * kPage));
  EXPECT_TRUE(Check(kPage + 100, 3 * kPage - 100));
  EXPECT_FALSE(Check(kPage - 1, 10));
  EXPECT_FALSE(Check(kPage, 3 * kPage + 1));
  EXPECT_FALSE(Check(kPage, 0));
  EXPECT_FALSE(Check(kPage, SIZE_MAX));
}

TEST_F(SharedMappingTest, ASplitMappingIsStillOne) {
  Map(1, 3, 0, 0, PROT_READ | PROT_WRITE, MAP_SHARED);
  ASSERT_EQ(madvise(base_ + 2 * kPage, kPage, MADV_DONTDUMP), 0);  // the kernel splits it in three
  EXPECT_TRUE(Check(kPage, 3 * kPage));
}

TEST_F(SharedMappingTest, RefusesToRunIntoAnotherObject) {
  Map(1, 2, 0, 0, PROT_READ | PROT_WRITE, MAP_SHARED);
  Map(3, 2, 1, 2, PROT_READ | PROT_WRITE, MAP_SHARED);
  EXPECT_TRUE(Check(kPage, 2 * kPage));
  EXPECT_FALSE(Check(kPage, 2 * kPage + 1));
}

TEST_F(SharedMappingTest, RefusesAGapInTheObject) {
  Map(1, 2, 0, 0, PROT_READ | PROT_WRITE, MAP_SHARED);
  Map(3, 2, 0, 4, PROT_READ | PROT_WRITE, MAP_SHARED);
  EXPECT_FALSE(Check(kPage, 3 * kPage));
}

TEST_F(SharedMappingTest, RefusesPrivateAndReadOnlyMemory) {
  Map(1, 1, 0, 0, PROT_READ | PROT_WRITE, MAP_PRIVATE);
  Map(3, 1, 0, 0, PROT_READ, MAP_SHARED);
  EXPECT_FALSE(Check(kPage, 10));
  EXPECT_FALSE(Check(3 * kPage, 10));
  std::vector<std::byte> heap(100);
  EXPECT_FALSE(IsOneSharedMapping(heap));
}

}  // namespace
}  // namespace varve::transport
