#include "kvstore/page/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kvstore/page/rows.h"
#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

using testing::Rng;

uint16_t NativeF16Bits(float v) {
  const auto half = static_cast<_Float16>(v);
  return std::bit_cast<uint16_t>(half);
}

TEST(DTypeTest, EveryF16WidensLikeTheCompiler) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const auto expected = static_cast<float>(std::bit_cast<_Float16>(half));
    const float actual = F16ToF32(half);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(actual)) << bits;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(expected), std::bit_cast<uint32_t>(actual)) << bits;
    }
  }
}

TEST(DTypeTest, EveryBF16WidensToItsOwnBits) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    ASSERT_EQ(std::bit_cast<uint32_t>(BF16ToF32(static_cast<uint16_t>(bits))), bits << 16);
  }
}

TEST(DTypeTest, NarrowingAWidenedValueReturnsIt) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    if (!std::isnan(F16ToF32(half))) {
      ASSERT_EQ(F32ToF16(F16ToF32(half)), half);
    }
    if (!std::isnan(BF16ToF32(half))) {
      ASSERT_EQ(F32ToBF16(BF16ToF32(half)), half);
    }
  }
}

// Around every representable half and every midpoint between two, where rounding decides.
TEST(DTypeTest, F16RoundsToNearestEvenAtEveryMidpoint) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const double low = F16ToF32(static_cast<uint16_t>(bits));
    const double high = bits + 1 == 0x7c00 ? 65536.0 : F16ToF32(static_cast<uint16_t>(bits + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    for (float v : {static_cast<float>(low), std::nextafterf(middle, -1e30f), middle,
                    std::nextafterf(middle, 1e30f)}) {
      ASSERT_EQ(F32ToF16(v), NativeF16Bits(v)) << v;
      ASSERT_EQ(F32ToF16(-v), NativeF16Bits(-v)) << -v;
    }
  }
}

TEST(DTypeTest, BF16RoundsToNearestEvenAtEveryMidpoint) {
  for (uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const uint32_t low = bits << 16;
    const auto even = static_cast<uint16_t>(bits + (bits & 1));
    ASSERT_EQ(F32ToBF16(std::bit_cast<float>(low)), bits);
    ASSERT_EQ(F32ToBF16(std::bit_cast<float>(low + 0x7fff)), bits);
    ASSERT_EQ(F32ToBF16(std::bit_cast<float>(low + 0x8000)), even);
    ASSERT_EQ(F32ToBF16(std::bit_cast<float>(low + 0x8001)), bits + 1);
  }
}

TEST(DTypeTest, RandomFloatsNarrowLikeTheCompiler) {
  constexpr uint64_t kSeed = 11;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 200000; ++i) {
    const auto v = std::bit_cast<float>(static_cast<uint32_t>(rng.Bits()));
    if (std::isnan(v)) continue;
    ASSERT_EQ(F32ToF16(v), NativeF16Bits(v)) << v;
  }
}

TEST(DTypeTest, SpecialValuesStaySpecial) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  // A NaN whose payload sits in bits that the conversion cuts off.
  const float low_nan = std::bit_cast<float>(0x7f800001u);
  for (float v : {nan, -nan, low_nan}) {
    EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(v))));
    EXPECT_TRUE(std::isnan(BF16ToF32(F32ToBF16(v))));
  }
  EXPECT_EQ(F16ToF32(F32ToF16(-inf)), -inf);
  EXPECT_EQ(BF16ToF32(F32ToBF16(inf)), inf);
  EXPECT_EQ(F32ToF16(-0.0f), 0x8000);
  EXPECT_EQ(F32ToBF16(std::numeric_limits<float>::max()), 0x7f80);
}

TEST(DTypeTest, NamesAndSizes) {
  EXPECT_STREQ(DTypeName(DType::kF32), "f32");
  EXPECT_STREQ(DTypeName(DType::kF16), "f16");
  EXPECT_STREQ(DTypeName(DType::kBF16), "bf16");
  EXPECT_STREQ(DTypeName(static_cast<DType>(9)), "?");
  EXPECT_EQ(DTypeBytes(DType::kF32), 4u);
  EXPECT_EQ(DTypeBytes(DType::kF16), 2u);
}

TEST(RowsTest, FindsTheGreatestMagnitude) {
  for (const DType dtype : testing::kAllDTypes) {
    EXPECT_EQ(MaxMagnitude(nullptr, 0, dtype), 0.0f);
    const std::vector<float> values = {-0.0f, 0.5f, -7.0f, 3.0f};
    EXPECT_EQ(MaxMagnitude(testing::Encode(values, dtype).data(), 4, dtype), 7.0f);
    EXPECT_EQ(MaxMagnitude(testing::Encode(values, dtype).data(), 2, dtype), 0.5f);
  }
}

TEST(RowsTest, FindsTheOneBadElementAnywhere) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  for (DType dtype : testing::kAllDTypes) {
    SCOPED_TRACE(DTypeName(dtype));
    for (size_t count : {size_t{1}, size_t{7}, size_t{64}, size_t{101}}) {
      std::vector<float> values(count, -3.0f);
      EXPECT_TRUE(AllFinite(testing::Encode(values, dtype).data(), count, dtype));
      for (size_t bad = 0; bad < count; ++bad) {
        values[bad] = -inf;
        EXPECT_FALSE(AllFinite(testing::Encode(values, dtype).data(), count, dtype));
        EXPECT_FALSE(HasNaN(testing::Encode(values, dtype).data(), count, dtype));
        values[bad] = nan;
        EXPECT_FALSE(AllFinite(testing::Encode(values, dtype).data(), count, dtype));
        EXPECT_TRUE(HasNaN(testing::Encode(values, dtype).data(), count, dtype));
        values[bad] = -3.0f;
      }
    }
    EXPECT_TRUE(AllFinite(nullptr, 0, dtype));
  }
}

}  // namespace
}  // namespace varve::page
