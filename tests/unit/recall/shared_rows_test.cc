// Shared rows: sharing, copy on divergence, budget, and readers beside writers.
#include "kvstore/recall/shared_rows.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::recall {
namespace {

constexpr RowFormat kFormat{3, 16};

std::vector<std::byte> Rows(uint64_t seed, uint32_t count) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> rows(count * kFormat.row_bytes());
  for (std::byte& b : rows) b = static_cast<std::byte>(random());
  return rows;
}
std::vector<std::byte> ReadAll(const RowList& list) {
  std::vector<std::byte> rows(list.bytes());
  list.Read(0, list.rows(), rows.data());
  return rows;
}

TEST(SharedRowsTest, ComesBackHowEverItWasSplit) {
  const auto rows = Rows(1, 2000);
  for (uint32_t step : {1u, 3u, 16u, 17u, 511u, 512u, 2000u}) {
    SCOPED_TRACE(step);
    ByteBudget budget(1 << 20, "digests", "max_digest_bytes");
    RowList list(kFormat);
    for (uint32_t at = 0; at < 2000; at += step) {
      const uint32_t count = std::min(step, 2000 - at);
      auto next = list.Append(rows.data() + at * kFormat.row_bytes(), count, &budget);
      ASSERT_TRUE(next.ok());
      list = *std::move(next);
    }
    EXPECT_EQ(list.rows(), 2000u);
    EXPECT_EQ(ReadAll(list), rows);
    EXPECT_TRUE(list.Equals(5, 1990, rows.data() + 5 * kFormat.row_bytes()));
    EXPECT_FALSE(list.Equals(5, 1990, rows.data()));
    EXPECT_EQ(budget.used_bytes(), 2048 * kFormat.row_bytes()) << "in-place appends copy nothing";
  }
}

TEST(SharedRowsTest, HeadsAreContiguousAndPiecesCoverTheRows) {
  const auto rows = Rows(2, 1500);
  const RowList list = *RowList(kFormat).Append(rows.data(), 1500, nullptr);
  uint32_t next = 10;
  uint32_t pieces = 0;
  list.ForEachPiece(10, 1480, [&](const RowChunk& chunk, uint32_t row, uint32_t n, uint32_t done) {
    EXPECT_EQ(done, next - 10);
    for (uint32_t i = 0; i < n; ++i) {
      for (uint32_t h = 0; h < kFormat.heads; ++h) {
        EXPECT_EQ(std::memcmp(chunk.head(h) + (row + i) * 16,
                              rows.data() + (next + i) * kFormat.row_bytes() + h * 16, 16),
                  0);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(chunk.head(h)) % 64, 0u);
      }
    }
    next += n;
    ++pieces;
  });
  EXPECT_EQ(next, 1490u);
  EXPECT_EQ(pieces, 8u) << "chunks begin at 0 16 32 64 128 256 512 1024";
}

TEST(SharedRowsTest, BudgetRefusesAndForgetsNothing) {
  ByteBudget budget(40 * kFormat.row_bytes(), "digests", "max_digest_bytes");
  const auto rows = Rows(3, 100);
  const auto list = RowList(kFormat).Append(rows.data(), 32, &budget);
  ASSERT_TRUE(list.ok());
  const auto more = list->Append(rows.data(), 68, &budget);
  EXPECT_EQ(more.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(more.status().ToString(), testing::HasSubstr("max_digest_bytes"));
  EXPECT_EQ(budget.used_bytes(), 32 * kFormat.row_bytes());
  EXPECT_EQ(list->rows(), 32u);
}

TEST(SharedRowsTest, MemoryGoesWithTheLastList) {
  ByteBudget budget(1 << 20, "digests", "max_digest_bytes");
  const auto rows = Rows(4, 100);
  {
    RowList a = *RowList(kFormat).Append(rows.data(), 100, &budget);
    const RowList b = a.Prefix(20);
    a = RowList(kFormat);
    EXPECT_EQ(budget.used_bytes(), 32 * kFormat.row_bytes()) << "b needs the first two chunks";
  }
  EXPECT_EQ(budget.used_bytes(), 0u);
}

// Lists that fork, shrink and grow at random, each against its own plain copy.
TEST(SharedRowsTest, RandomForksNeverDisturbEachOther) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    ByteBudget budget(64 << 20, "digests", "max_digest_bytes");
    struct Pair {
      RowList list;
      std::vector<std::byte> truth;
    };
    std::vector<Pair> pairs(1, Pair{RowList(kFormat), {}});
    for (int step = 0; step < 300; ++step) {
      const size_t i = random() % pairs.size();
      switch (random() % 4) {
        case 0:
          if (pairs.size() < 8) {
            pairs.push_back(pairs[i]);
          } else {
            pairs.erase(pairs.begin() + static_cast<long>(i));
          }
          break;
        case 1: {
          const uint32_t keep = static_cast<uint32_t>(random() % (pairs[i].list.rows() + 1));
          pairs[i].list = pairs[i].list.Prefix(keep);
          pairs[i].truth.resize(keep * kFormat.row_bytes());
          break;
        }
        default: {
          const uint32_t count = static_cast<uint32_t>(random() % 60);
          const auto rows = Rows(random(), count);
          auto next = pairs[i].list.Append(rows.data(), count, &budget);
          ASSERT_TRUE(next.ok());
          pairs[i].list = *std::move(next);
          pairs[i].truth.insert(pairs[i].truth.end(), rows.begin(), rows.end());
        }
      }
      for (const Pair& pair : pairs) ASSERT_EQ(ReadAll(pair.list), pair.truth) << "step " << step;
    }
    pairs.clear();
    EXPECT_EQ(budget.used_bytes(), 0u);
  }
}

// Two forks append to the chunk they share, each from its own thread, while others read the common
// part.
TEST(SharedRowsTest, ForksAppendConcurrently) {
  for (uint64_t round = 0; round < 30; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    ByteBudget budget(1 << 20, "digests", "max_digest_bytes");
    const auto common = Rows(round, 20);
    const RowList base = *RowList(kFormat).Append(common.data(), 20, &budget);
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        RowList mine = base;
        std::vector<std::byte> truth = common;
        for (uint64_t i = 0; i < 30; ++i) {
          const auto rows = Rows(1000 * t + i, 1);
          mine = *mine.Append(rows.data(), 1, &budget);
          truth.insert(truth.end(), rows.begin(), rows.end());
        }
        EXPECT_EQ(ReadAll(mine), truth);
        EXPECT_TRUE(base.Equals(0, 20, common.data()));
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

}  // namespace
}  // namespace varve::recall
