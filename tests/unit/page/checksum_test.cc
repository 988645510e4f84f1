#include "kvstore/page/checksum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string_view>
#include <vector>

#include "kvstore/page/simd/crc32c.h"
#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

using testing::Rng;

// Bit by bit, from the definition.
uint32_t Bitwise(const uint8_t* data, size_t bytes, uint32_t crc = 0) {
  uint32_t state = ~crc;
  for (size_t i = 0; i < bytes; ++i) {
    state ^= data[i];
    for (int bit = 0; bit < 8; ++bit) {
      state = (state >> 1) ^ ((state & 1u) != 0 ? 0x82f63b78u : 0u);
    }
  }
  return ~state;
}

std::vector<uint8_t> RandomBytes(Rng& rng, size_t count) {
  std::vector<uint8_t> bytes(count);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng.Bits());
  return bytes;
}

TEST(ChecksumTest, PublishedVectors) {
  std::vector<uint8_t> data(32, 0);
  std::vector<uint8_t> ascending(32);
  std::iota(ascending.begin(), ascending.end(), uint8_t{0});
  const std::vector<uint8_t> descending(ascending.rbegin(), ascending.rend());
  for (const Crc32cImpl& impl : Crc32cImpls()) {
    SCOPED_TRACE(impl.name);
    EXPECT_EQ(impl.fn(data.data(), 32, 0), 0x8a9136aau);
    EXPECT_EQ(impl.fn(std::vector<uint8_t>(32, 0xff).data(), 32, 0), 0x62a8ab43u);
    EXPECT_EQ(impl.fn(ascending.data(), 32, 0), 0x46dd794eu);
    EXPECT_EQ(impl.fn(descending.data(), 32, 0), 0x113fdb5cu);
    EXPECT_EQ(impl.fn("123456789", 9, 0), 0xe3069283u);
    EXPECT_EQ(impl.fn(nullptr, 0, 0), 0u);
    EXPECT_EQ(impl.fn(nullptr, 0, 0x1234u), 0x1234u);
  }
}

TEST(ChecksumTest, EverySmallSizeAtEveryAlignment) {
  constexpr uint64_t kSeed = 31;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  const std::vector<uint8_t> data = RandomBytes(rng, 1200);
  for (const Crc32cImpl& impl : Crc32cImpls()) {
    SCOPED_TRACE(impl.name);
    for (size_t size = 0; size < 1100; ++size) {
      const size_t offset = size % 67;
      ASSERT_EQ(impl.fn(data.data() + offset, size, 0), Bitwise(data.data() + offset, size))
          << size;
    }
  }
}

TEST(ChecksumTest, LargeRandomSizesWithAStartValue) {
  constexpr uint64_t kSeed = 32;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  const std::vector<uint8_t> data = RandomBytes(rng, 300000);
  for (int i = 0; i < 30; ++i) {
    const size_t offset = rng.Below(128);
    const size_t size = rng.Below(static_cast<uint32_t>(data.size() - offset));
    const auto start = static_cast<uint32_t>(rng.Bits());
    const uint32_t expected = Bitwise(data.data() + offset, size, start);
    for (const Crc32cImpl& impl : Crc32cImpls()) {
      ASSERT_EQ(impl.fn(data.data() + offset, size, start), expected) << impl.name << " " << size;
    }
    EXPECT_EQ(Crc32c(data.data() + offset, size, start), expected);
  }
}

TEST(ChecksumTest, CombineEqualsTheWhole) {
  constexpr uint64_t kSeed = 33;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  const std::vector<uint8_t> data = RandomBytes(rng, 70000);
  for (int i = 0; i < 200; ++i) {
    const size_t size = rng.Below(i < 100 ? 200 : 70000);
    const size_t split = rng.Below(static_cast<uint32_t>(size) + 1);
    const uint32_t first = Crc32c(data.data(), split);
    const uint32_t second = Crc32c(data.data() + split, size - split);
    EXPECT_EQ(Crc32cCombine(first, second, size - split), Crc32c(data.data(), size));
    EXPECT_EQ(Crc32c(data.data() + split, size - split, first), Crc32c(data.data(), size));
  }
}

TEST(ChecksumTest, CopiesAreExactAndCarryTheChecksum) {
  constexpr uint64_t kSeed = 35;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  const std::vector<uint8_t> data = RandomBytes(rng, 70000);
  const auto check = [&](size_t size, size_t from_at, size_t to_at, auto copy) {
    std::vector<uint8_t> to(size + to_at + 64, 0xee);
    const size_t to_aligned = (0 - reinterpret_cast<uintptr_t>(to.data())) % 64;
    uint8_t* out = to.data() + to_aligned + to_at;
    const uint32_t before = rng.Below(1000);
    EXPECT_EQ(copy(out, data.data() + from_at, size, before),
              Crc32c(data.data() + from_at, size, before));
    EXPECT_EQ(std::memcmp(out, data.data() + from_at, size), 0);
    EXPECT_EQ(std::count(to.begin(), to.end(), 0xee) - std::count(out, out + size, 0xee),
              static_cast<ptrdiff_t>(to.size() - size))
        << "bytes beside the copy were written";
  };
  for (int i = 0; i < 300; ++i) {
    const size_t size = rng.Below(i < 100 ? 9000 : 65536);
    const size_t from_at = rng.Below(100), to_at = i % 2 == 0 ? 0 : rng.Below(64);
    SCOPED_TRACE(::testing::Message() << size << " bytes from " << from_at << " to " << to_at);
    for (CopyMode mode : {CopyMode::kCache, CopyMode::kStream}) {
      check(size, from_at, to_at, [&](void* to, const void* from, size_t n, uint32_t crc) {
        return CopyWithCrc32c(to, from, n, crc, mode);
      });
    }
    check(size, from_at, to_at, crc::CopyInBlocks);
  }
}

TEST(ChecksumTest, OneFlippedBitIsSeen) {
  constexpr uint64_t kSeed = 34;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  std::vector<uint8_t> data = RandomBytes(rng, 16384);
  const uint32_t before = Crc32c(data.data(), data.size());
  for (int i = 0; i < 200; ++i) {
    const uint32_t bit = rng.Below(16384 * 8);
    data[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    EXPECT_NE(Crc32c(data.data(), data.size()), before);
    data[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
  }
}

}  // namespace
}  // namespace varve::page
