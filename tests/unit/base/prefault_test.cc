#include "kvstore/base/prefault.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <vector>

namespace varve::base {
namespace {

// Residency from the kernel's own books.
TEST(PrefaultTest, MakesEveryPageResidentAndKeepsWhatIsThere) {
  constexpr size_t kBytes = (130 << 20) + 100;  // three strides, a ragged end
  void* mapped = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  const std::span memory(static_cast<std::byte*>(mapped), kBytes);
  memory[4096] = std::byte{7};
  ASSERT_TRUE(Prefault(memory, 3).ok());
  std::vector<unsigned char> present((kBytes + 4095) / 4096);
  ASSERT_EQ(mincore(mapped, kBytes, present.data()), 0);
  EXPECT_TRUE(
      std::all_of(present.begin(), present.end(), [](unsigned char c) { return (c & 1) == 1; }));
  EXPECT_EQ(memory[4096], std::byte{7});
  munmap(mapped, kBytes);
  EXPECT_TRUE(Prefault({}, 4).ok());
}

TEST(PrefaultTest, StopsInBetween) {
  constexpr size_t kBytes = 200 << 20;
  void* mapped = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  const std::atomic<bool> stop{true};
  const std::span memory(static_cast<std::byte*>(mapped), kBytes);
  EXPECT_EQ(Prefault(memory, 2, &stop).code(), absl::StatusCode::kCancelled);
  std::vector<unsigned char> present(kBytes / 4096);
  ASSERT_EQ(mincore(mapped, kBytes, present.data()), 0);
  EXPECT_TRUE(
      std::none_of(present.begin(), present.end(), [](unsigned char c) { return (c & 1) == 1; }));
  munmap(mapped, kBytes);
}

TEST(PrefaultTest, ReportsMemoryThatIsNotThere) {
  void* mapped = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  munmap(mapped, 8192);
  EXPECT_EQ(Prefault({static_cast<std::byte*>(mapped), 8192}).code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace varve::base
