// 64 threads that append, fork, truncate, attach and recall at once.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/recall/fake_journal.h"
#include "tests/unit/recall/recall_fixture.h"

namespace varve::recall {
namespace {

constexpr uint32_t kBlocks = 96;

class RecallThreadsTest : public RecallTest {
 protected:
  // One writer's life: its context grows block by block, with digests of both layers.
  void Write(const std::string& id, uint64_t seed) {
    const uint32_t epoch = table_->Get(ns_, id)->epoch;
    for (uint32_t at = 0; at < kBlocks; at += 8) {
      ASSERT_TRUE(table_->Append(ns_, id, at, Hashes(seed, at, 8)).ok());
      for (uint32_t l = 0; l < 2; ++l) {
        ASSERT_TRUE(AddDigests(id, epoch, l, at, 8, {SmallGeometry()}, seed).ok());
      }
    }
  }
  // Recalls until the context is complete; every answer must belong to the context.
  void Recall(const std::string& id, uint64_t seed) {
    const auto queries = RandomQueries(SmallGeometry(), seed);
    const LayerQuery query{static_cast<uint32_t>(seed % 2), queries,
                           std::vector<HeadQuery>(2, HeadQuery{12, {}})};
    for (uint32_t seen = 0; seen < kBlocks;) {
      const auto snapshot = table_->Get(ns_, id);
      ASSERT_TRUE(snapshot.ok());
      seen = snapshot->digest_blocks[query.layer];
      const auto selections = table_->Select(ns_, id, {.epoch = snapshot->epoch, .explain = true},
                                             std::span(&query, 1), nullptr);
      if (!selections.ok()) {
        ASSERT_EQ(selections.status().code(), absl::StatusCode::kFailedPrecondition);
        ASSERT_EQ(seen, 0u) << selections.status();
        continue;
      }
      const LayerSelection& layer = selections->front();
      ASSERT_GE(layer.heads[0].scores.size(), seen);
      for (size_t i = 0; i < layer.wanted_pages.size(); ++i) {
        ASSERT_EQ(layer.block_hashes[i], HashOf(seed, layer.wanted_pages[i]));
      }
    }
  }
};

TEST_F(RecallThreadsTest, AppendAndSelectSideBySide) {
  Start({.threads = 2});
  std::vector<std::thread> threads;
  for (uint64_t c = 0; c < 16; ++c) {
    const std::string id = "c" + std::to_string(c);
    ASSERT_TRUE(table_->Open(ns_, id, {SmallGeometry()}, kSession).ok());
    threads.emplace_back([this, id, c] { Write(id, c); });
    for (int reader = 0; reader < 3; ++reader) {
      threads.emplace_back([this, id, c] { Recall(id, c); });
    }
  }
  ASSERT_EQ(threads.size(), 64u);
  for (std::thread& thread : threads) thread.join();
  for (uint64_t c = 0; c < 16; ++c) {
    EXPECT_EQ(*ReadDigests("c" + std::to_string(c), 1, 0, kBlocks),
              RandomDigests({SmallGeometry()}, c + 100, 0, kBlocks));
  }
}

// All fork one context, diverge from it, and drop their forks; the one stays as it was.
TEST_F(RecallThreadsTest, ForksOfOneContextDoNotDisturbIt) {
  for (uint32_t b = 0; b < 40; ++b) StoreObject(HashOf(1, b), 0);
  Build("c", 40);
  const uint64_t before = table_->digest_bytes();
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 16; ++t) {
    threads.emplace_back([this, t] {
      for (uint64_t round = 0; round < 8; ++round) {
        const std::string id = "f" + std::to_string(t);
        const uint64_t seed = 1000 + t * 10 + round;
        const auto fork = table_->Fork(ns_, "c", id, 20 + static_cast<uint32_t>(round), t);
        ASSERT_TRUE(fork.ok()) << fork.status();
        const uint32_t at = fork->num_blocks;
        ASSERT_TRUE(table_->Append(ns_, id, at, Hashes(seed, at, 30)).ok());
        ASSERT_TRUE(AddDigests(id, fork->epoch, 0, at, 30, {SmallGeometry()}, seed).ok());
        ASSERT_EQ(*ReadDigests(id, 0, at, 30), RandomDigests({SmallGeometry()}, seed, at, 30));
        ASSERT_TRUE(table_->Attach(ns_, id, t + 100).ok());
        if (round % 2 == 0) table_->DetachSession(t);
        ASSERT_TRUE(table_->Drop(ns_, id).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(*ReadDigests("c", 0, 0, 40), RandomDigests({SmallGeometry()}, 1, 0, 40));
  EXPECT_EQ(table_->size(), 1u);
  EXPECT_EQ(table_->digest_bytes(), before);
  EXPECT_EQ(PinnedObjects(), 40u);
  table_->DetachSession(kSession);
  EXPECT_EQ(PinnedObjects(), 0u) << "every hold was given back";
}

// Of many forks to one name one wins, and the others leave nothing behind.
TEST_F(RecallThreadsTest, LosersOfARaceForANameHoldNothing) {
  for (uint32_t b = 0; b < 4; ++b) StoreObject(HashOf(1, b), 0);
  // Many blocks, so that taking the holds lasts long enough to be overtaken.
  Build("c", 3000);
  table_->DetachSession(kSession);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> winners{0};
    std::atomic<bool> go{false};
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        while (!go) std::this_thread::yield();
        const absl::Status status = table_->Fork(ns_, "c", "f", 0, t).status();
        if (status.ok()) ++winners;
        EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kAlreadyExists) << status;
      });
    }
    go = true;
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(winners.load(), 1);
    ASSERT_TRUE(table_->Drop(ns_, "f").ok());
    ASSERT_EQ(PinnedObjects(), 0u) << "round " << round;
  }
}

// P13 while digests are on their way: rows sent for one epoch never show up in the next. Every
// value of a row says which epoch it was sent for.
TEST_F(RecallThreadsTest, P13DigestsOfAnOldEpochNeverArriveInTheNext) {
  const ContextOptions options{SmallGeometry(), page::DigestKind::kMean};
  constexpr uint32_t kRows = 2000;
  const size_t row_bytes = page::DigestRowBytes(options.digest_kind, options.geometry);
  ASSERT_TRUE(table_->Open(ns_, "c", options, kSession).ok());
  ASSERT_TRUE(table_->Append(ns_, "c", 0, Hashes(1, 0, kRows)).ok());
  std::atomic<bool> stop{false};
  std::vector<std::thread> writers;
  for (uint32_t layer = 0; layer < 2; ++layer) {
    writers.emplace_back([&, layer] {
      std::vector<uint16_t> values(kRows * row_bytes / 2);
      while (!stop) {
        const uint32_t epoch = table_->Get(ns_, "c")->epoch;
        std::fill(values.begin(), values.end(), page::F32ToBF16(static_cast<float>(epoch % 256)));
        table_
            ->AppendDigests(ns_, "c", epoch, layer, 0, kRows,
                            {reinterpret_cast<const char*>(values.data()), kRows * row_bytes})
            .IgnoreError();
      }
    });
  }
  int complete = 0;
  for (int round = 0; round < 200 || complete < 5; ++round) {
    ASSERT_TRUE(table_->Truncate(ns_, "c", 0).ok());
    const auto now = table_->Append(ns_, "c", 0, Hashes(1, 0, kRows));
    ASSERT_TRUE(now.ok());
    const uint16_t expected = page::F32ToBF16(static_cast<float>(now->epoch % 256));
    for (uint32_t layer = 0; layer < 2; ++layer) {
      const uint32_t there = table_->Get(ns_, "c")->digest_blocks[layer];
      const std::string rows = *ReadDigests("c", layer, 0, there);
      if (there == kRows) ++complete;
      for (size_t i = 0; i < rows.size(); i += row_bytes) {
        uint16_t value;
        std::memcpy(&value, rows.data() + i, sizeof(value));
        ASSERT_EQ(value, expected) << "row " << i / row_bytes << ", round " << round;
      }
    }
  }
  stop = true;
  for (std::thread& writer : writers) writer.join();
}

// P13 under concurrency: one thread rewrites the tail again and again, others recall. A recall that
// succeeds answers hashes of one version only, the one its epoch belongs to.
TEST_F(RecallThreadsTest, P13TruncateBesideRecallIsNeverMixed) {
  Build("c", 30);
  std::atomic<bool> stop{false};
  std::atomic<uint32_t> answers{0};
  std::vector<std::thread> readers;
  for (uint64_t r = 0; r < 4; ++r) {
    readers.emplace_back([&, r] {
      const auto queries = RandomQueries(SmallGeometry(), r);
      const LayerQuery query{0, queries, std::vector<HeadQuery>(2, HeadQuery{30, {}})};
      while (!stop) {
        const auto snapshot = table_->Get(ns_, "c");
        const auto selections =
            table_->Select(ns_, "c", {.epoch = snapshot->epoch}, std::span(&query, 1), nullptr);
        if (!selections.ok()) {
          ASSERT_EQ(selections.status().code(), absl::StatusCode::kFailedPrecondition);
          continue;
        }
        std::set<std::string> versions;
        const LayerSelection& layer = selections->front();
        for (size_t i = 0; i < layer.wanted_pages.size(); ++i) {
          if (layer.wanted_pages[i] < 20) continue;
          versions.insert(layer.block_hashes[i].substr(0, layer.block_hashes[i].find('-')));
        }
        ASSERT_LE(versions.size(), 1u);
        ++answers;
      }
    });
  }
  for (uint64_t version = 2; version < 100 || answers < 20; ++version) {
    const uint32_t epoch = table_->Truncate(ns_, "c", 20)->epoch;
    ASSERT_TRUE(table_->Append(ns_, "c", 20, Hashes(version, 20, 10)).ok());
    ASSERT_TRUE(AddDigests("c", epoch, 0, 20, 10, {SmallGeometry()}, version).ok());
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
}

// What many threads change is noted as it was published.
TEST_F(RecallThreadsTest, NotesTellWhatIsPublished) {
  constexpr uint32_t kThreads = 8;
  constexpr int kChanges = 300;
  FakeJournal journal;
  Start({.journal = &journal});
  Build("c0", 20);
  std::atomic<uint32_t> unique{1000};
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, &unique, t] {
      std::mt19937_64 random(20261121 + t);
      for (int change = 0; change < kChanges; ++change) {
        // Refusals are part of it: somebody else was first.
        const std::string id = "c" + std::to_string(random() % 4);
        const std::string other = "c" + std::to_string(random() % 4);
        const auto context = table_->Get(ns_, id);
        if (!context.ok()) {
          table_->Open(ns_, id, {SmallGeometry()}, kSession).IgnoreError();
          continue;
        }
        const uint32_t blocks = context->num_blocks;
        const uint32_t layer = random() % 2;
        const uint32_t rows = context->digest_blocks[layer];
        const uint32_t what = random() % 100;
        if (what < 40) {
          table_->Append(ns_, id, blocks, Hashes(++unique, blocks, 1 + random() % 5)).IgnoreError();
        } else if (what < 80 && rows < blocks) {
          AddDigests(id, context->epoch, layer, rows, blocks - rows, {SmallGeometry()}, ++unique)
              .IgnoreError();
        } else if (what < 88) {
          table_->Truncate(ns_, id, blocks - blocks / 3).IgnoreError();
        } else if (what < 97) {
          table_->Fork(ns_, id, other, 0, kSession).IgnoreError();
        } else {
          table_->Drop(ns_, id).IgnoreError();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const auto look = [this] {
    std::vector<std::string> all;
    for (const ContextSnapshot& listed : table_->List(ns_, "", 10)) {
      all.push_back(listed.context_id);
      const auto found = table_->Attach(ns_, listed.context_id, kSession);
      all.insert(all.end(), found->block_hashes.begin(), found->block_hashes.end());
      for (uint32_t l = 0; l < 2; ++l) {
        all.push_back(*ReadDigests(listed.context_id, l, 0, listed.digest_blocks[l]));
      }
    }
    return all;
  };
  const std::vector<std::string> before = look();
  Start({.journal = &journal});
  EXPECT_TRUE(look() == before);
  for (const ContextSnapshot& listed : table_->List(ns_, "", 10)) {
    EXPECT_TRUE(table_->Drop(ns_, listed.context_id).ok());
  }
  EXPECT_EQ(journal.notes().size(), 1u);
  table_.reset();  // before its journal
}

}  // namespace
}  // namespace varve::recall
