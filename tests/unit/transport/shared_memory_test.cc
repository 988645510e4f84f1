#include "kvstore/transport/shared_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "kvstore/transport/wire.h"

namespace varve::transport {
namespace {

std::string Key(int fd, uint64_t secret) {
  WireWriter writer;
  writer.Put(static_cast<int32_t>(fd));
  writer.Put(secret);
  return std::move(writer).Seal();
}

absl::StatusCode AttachCode(const std::string& key, size_t bytes, pid_t pid = getpid()) {
  return SharedMemory::Attach(pid, key, bytes).status().code();
}

TEST(SharedMemoryTest, BothSidesSeeTheSameBytes) {
  auto owner = SharedMemory::Allocate(10'000);
  ASSERT_TRUE(owner.ok());
  auto peer = SharedMemory::Attach(getpid(), owner->Key(), 10'000);
  ASSERT_TRUE(peer.ok()) << peer.status();
  ASSERT_NE(owner->span().data(), peer->span().data());
  owner->span()[9'999] = std::byte{7};
  EXPECT_EQ(peer->span()[9'999], std::byte{7});
  // The peer's mapping outlives the owner.
  *owner = SharedMemory();
  EXPECT_EQ(peer->span()[9'999], std::byte{7});
}

TEST(SharedMemoryTest, TheSizeMustBeTheTruth) {
  const auto owner = SharedMemory::Allocate(10'000);
  for (size_t bytes : {size_t{1}, size_t{9'999}, size_t{10'001}, size_t{1} << 40, SIZE_MAX}) {
    EXPECT_EQ(AttachCode(owner->Key(), bytes), absl::StatusCode::kInvalidArgument) << bytes;
  }
}

TEST(SharedMemoryTest, OnlyMemoryMadeForItCanBeNamed) {
  const auto owner = SharedMemory::Allocate(4096);
  const std::string good = owner->Key();
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_EQ(AttachCode(good.substr(0, n), 4096), absl::StatusCode::kInvalidArgument);
  }
  const int unsealed = memfd_create("varve-0000000000000005", MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(unsealed, 4096), 0);
  EXPECT_EQ(AttachCode(Key(unsealed, 5), 4096), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(AttachCode(Key(unsealed, 6), 4096), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(AttachCode(Key(STDIN_FILENO, 5), 4096), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(AttachCode(Key(-1, 5), 4096), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(AttachCode(Key(1 << 30, 5), 4096), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(AttachCode(good, 4096, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(AttachCode(good, 4096, -1), absl::StatusCode::kInvalidArgument);
  close(unsealed);
}

// Who touches a missing page first pays for it: that must be the owner.
TEST(SharedMemoryTest, SparseMemoryIsRefused) {
  const auto owner = SharedMemory::Allocate(64 << 12);
  const std::string key = owner->Key();
  WireReader reader(key);
  ASSERT_EQ(
      fallocate(reader.Get<int32_t>(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096), 0);
  const absl::Status refused = SharedMemory::Attach(getpid(), key, 64 << 12).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.message().find("sparse"), std::string::npos) << refused;
}

TEST(SharedMemoryTest, ThePeerCannotShrinkIt) {
  const auto owner = SharedMemory::Allocate(8192);
  const std::string key = owner->Key();
  WireReader reader(key);
  EXPECT_NE(ftruncate(reader.Get<int32_t>(), 0), 0);
}

TEST(SharedMemoryTest, RefusesSizesItCannotHave) {
  EXPECT_EQ(SharedMemory::Allocate(0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SharedMemory::Allocate(SIZE_MAX).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(SharedMemory::Allocate(size_t{1} << 60).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace varve::transport
