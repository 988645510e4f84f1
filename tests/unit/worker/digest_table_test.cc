#include "gpu_worker/digest_table.h"

#include <random>

#include "gtest/gtest.h"
#include "tests/support/test_engine.h"

namespace varve::worker {
namespace {

using varve::testing::RandomText;

page::Geometry RandomGeometry(std::mt19937_64& random) {
  page::Geometry g;
  g.num_layers = 1;
  g.num_kv_heads = 1 + random() % 3;
  g.num_query_heads = g.num_kv_heads * (1 + random() % 3);
  g.head_dim = 32 + 8 * (random() % 29);
  g.page_tokens = 8u << (random() % 3);
  g.dtype = static_cast<page::DType>(1 + random() % 3);
  return g;
}

// Feeds one page of one head in random splits.
void FeedPage(const RandomText& text, uint32_t head, uint32_t page, std::mt19937_64& random,
              DigestTable& table) {
  const page::Geometry& g = text.geometry();
  const std::string bytes = text.Page(0, head, page);
  for (uint32_t done = 0; done < g.page_tokens;) {
    const uint32_t count = 1 + random() % (g.page_tokens - done);
    table.Append(head, bytes.data() + done * g.row_bytes(), count);
    done += count;
  }
  table.Seal(head, bytes.data());
}

TEST(DigestTable, AnySplitGivesTheBatchDigestBitForBit) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const page::Geometry g = RandomGeometry(random);
    const auto kind = page::DigestKinds()[random() % page::DigestKinds().size()].kind;
    const uint32_t pages = 1 + random() % 5;
    const RandomText text(g, seed, pages * g.page_tokens);
    DigestTable table(kind, g);
    for (uint32_t page = 0; page < pages; ++page) {
      for (uint32_t head = 0; head < g.num_kv_heads; ++head) {
        FeedPage(text, head, page, random, table);
      }
      table.Advance();
    }
    std::string expected;
    for (uint32_t page = 0; page < pages; ++page) {
      for (uint32_t head = 0; head < g.num_kv_heads; ++head) {
        std::string row(page::DigestBytes(kind, g), '\0');
        ASSERT_TRUE(page::BuildDigest(kind, text.Page(0, head, page).data(), g.page_tokens,
                                      g.head_dim, g.dtype, row.data()));
        expected += row;
      }
    }
    EXPECT_EQ(table.Rows(0, pages), expected);

    DigestTable loaded(kind, g);
    ASSERT_TRUE(loaded.Load(0, pages, expected).ok());
    EXPECT_EQ(loaded.Rows(0, pages), expected);
    EXPECT_EQ(loaded.pages(), pages);
  }
}

TEST(DigestTable, RefusesRowsThatDoNotFit) {
  const page::Geometry g{1, 2, 4, 64, 16, page::DType::kF32};
  DigestTable table(page::DigestKind::kMinMax, g);
  const size_t row = page::DigestRowBytes(page::DigestKind::kMinMax, g);
  EXPECT_FALSE(table.Load(1, 1, std::string(row, '\0')).ok());
  EXPECT_FALSE(table.Load(0, 2, std::string(row, '\0')).ok());
  EXPECT_FALSE(table.Load(0, 1, std::string(row, '\xff')).ok());  // NaN
  EXPECT_EQ(table.pages(), 0u);
  EXPECT_TRUE(table.Load(0, 1, std::string(row, '\0')).ok());
}

}  // namespace
}  // namespace varve::worker
