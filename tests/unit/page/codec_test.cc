#include "kvstore/page/codec/codec.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

using testing::Rng;

TEST(CodecTest, TableOfNames) {
  ASSERT_NE(CodecByName("raw"), nullptr);
  EXPECT_EQ(CodecByName("raw")->name(), "raw");
  EXPECT_EQ(CodecByName("RAW"), nullptr);
  EXPECT_EQ(CodecByName(""), nullptr);
  EXPECT_EQ(CodecNames(), "raw");
}

TEST(RawCodecTest, BytesAreTheElements) {
  constexpr uint64_t kSeed = 301;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  const Codec& raw = *CodecByName("raw");
  for (int i = 0; i < 50; ++i) {
    const Geometry g{1, 1, 1, rng.HeadDim(), rng.PageTokens(), rng.AnyDType()};
    const auto in = testing::RandomElements(rng, size_t{g.page_tokens} * g.head_dim, g.dtype);
    ASSERT_EQ(raw.Bytes(g), in.size());
    std::vector<std::byte> encoded(in.size()), decoded(in.size());
    ASSERT_TRUE(raw.Encode(g, in.data(), encoded));
    EXPECT_EQ(encoded, in);
    ASSERT_TRUE(raw.Decode(g, encoded, decoded.data()));
    EXPECT_EQ(decoded, in);
    EXPECT_EQ(raw.ErrorBound(g, 1e3), 0.0);
  }
}

TEST(RawCodecTest, NaNAndWrongSizesAreRefused) {
  const Codec& raw = *CodecByName("raw");
  const Geometry g{1, 1, 1, 32, 8, DType::kBF16};
  std::vector<float> values(8 * 32, 1.0f);
  values[200] = std::numeric_limits<float>::quiet_NaN();
  const auto bad = testing::Encode(values, g.dtype);
  std::vector<std::byte> out(bad.size());
  EXPECT_FALSE(raw.Encode(g, bad.data(), out));
  values[200] = 1.0f;
  const auto good = testing::Encode(values, g.dtype);
  EXPECT_FALSE(raw.Encode(g, good.data(), std::span(out).first(out.size() - 1)));
  EXPECT_FALSE(raw.Decode(g, std::span(good).first(good.size() - 1), out.data()));
  EXPECT_FALSE(raw.Decode(g, {}, out.data()));
}

TEST(RawCodecTest, Traits) {
  const CodecTraits traits = CodecByName("raw")->traits();
  EXPECT_TRUE(traits.token_movable);
  EXPECT_FALSE(traits.needs_query_map || traits.needs_full_prompt || traits.pre_rope);
  EXPECT_EQ(traits.seal_tokens, 1u);
  EXPECT_EQ(traits.residual_tokens, 0u);
}

}  // namespace
}  // namespace varve::page
