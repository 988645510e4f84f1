#include "kvstore/page/object_key.h"

#include <gtest/gtest.h>

#include <string>

namespace varve::page {
namespace {

TEST(ObjectKeyTest, LengthsOutOfRangeAreRefused) {
  for (size_t size = 0; size <= 70; ++size) {
    const std::string bytes(size, 'x');
    const auto key = ObjectKey::FromBytes(bytes);
    const bool allowed = size >= ObjectKey::kMinBytes && size <= ObjectKey::kMaxBytes;
    ASSERT_EQ(key.has_value(), allowed) << size;
    if (allowed) {
      EXPECT_EQ(key->bytes(), bytes);
    }
  }
}

TEST(ObjectKeyTest, HexRoundTrip) {
  const std::string bytes("\x00\x7f\x80\xff\x1a", 5);
  const auto key = ObjectKey::FromBytes(bytes);
  ASSERT_TRUE(key.has_value());
  EXPECT_EQ(key->ToHex(), "007f80ff1a");
  EXPECT_EQ(ObjectKey::FromHex("007F80ff1a"), key);
  for (const char* bad : {"", "00", "007f8", "007f80zz", "007f80f g0"}) {
    EXPECT_EQ(ObjectKey::FromHex(bad), std::nullopt) << bad;
  }
  EXPECT_EQ(ObjectKey::FromHex(std::string(128, 'a')), std::nullopt);
  EXPECT_TRUE(ObjectKey::FromHex(std::string(126, 'a')).has_value());
}

TEST(ObjectKeyTest, LayerIsAppendedBigEndian) {
  const auto key = MakeObjectKey("hash", 0x01020304u);
  ASSERT_TRUE(key.has_value());
  EXPECT_EQ(key->bytes(), std::string("hash\x01\x02\x03\x04", 8));
  EXPECT_NE(MakeObjectKey("hash", 1), MakeObjectKey("hash", 2));
  EXPECT_TRUE(MakeObjectKey(std::string(kMaxBlockHashBytes, 'h'), 0).has_value());
  EXPECT_FALSE(MakeObjectKey(std::string(kMaxBlockHashBytes + 1, 'h'), 0).has_value());
  EXPECT_FALSE(MakeObjectKey("abc", 0).has_value());
}

TEST(ObjectKeyTest, OrderAndEqualityIgnoreUnusedBytes) {
  ObjectKey longer = *ObjectKey::FromBytes("aaaazzzz");
  const ObjectKey shorter = *ObjectKey::FromBytes("aaaa");
  EXPECT_LT(shorter, longer);
  longer = shorter;
  EXPECT_EQ(longer, shorter);
  EXPECT_TRUE(ObjectKey().bytes().empty());
}

}  // namespace
}  // namespace varve::page
