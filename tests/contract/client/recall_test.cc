#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "client/prefetch_calls.h"
#include "gmock/gmock.h"
#include "kvstore/page/attention.h"
#include "tests/contract/client/context_fixture.h"

namespace varve::client::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

class RecallTest : public ContextTest {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(OpenAndAppend());
    ASSERT_NO_FATAL_FAILURE(PutObjects());
    ASSERT_NO_FATAL_FAILURE(SendAllDigests());
  }

  // One slot per page of the budget in `memory`, heads and layers one after the other.
  RecallQuery Query(const std::vector<float>& queries, uint32_t budget, const Memory* memory,
                    page::Part part = page::Part::kKV) const {
    const size_t bytes = part == page::Part::kKV ? geometry_.page_bytes() : geometry_.part_bytes();
    RecallQuery query{.context_id = Id(), .epoch = epoch_};
    size_t offset = 0;
    for (uint32_t l = 0; l < geometry_.num_layers; ++l) {
      RecallLayer& layer = query.layers.emplace_back();
      layer.layer = l;
      layer.queries = queries;
      for (uint32_t h = 0; h < geometry_.num_kv_heads; ++h) {
        RecallHead& head = layer.heads.emplace_back();
        head.budget_pages = budget;
        head.part = part;
        for (uint32_t s = 0; memory != nullptr && s < budget; ++s, offset += bytes) {
          head.slots.push_back({memory, offset, bytes});
        }
      }
    }
    return query;
  }

  std::vector<uint32_t> ExpectedPages(const RecallQuery& query, uint32_t layer,
                                      uint32_t head) const {
    const std::vector<float> scores = ExpectedScores(
        layer, head, {query.layers[layer].queries.begin(), query.layers[layer].queries.end()},
        query.merge);
    std::vector<uint32_t> pinned;
    page::PinnedPages(kBlocks, query.sinks, query.window, pinned);
    page::SelectScratch scratch;
    std::vector<uint32_t> selected(kBlocks);
    selected.resize(page::SelectPages(scores, pinned, query.layers[layer].heads[head].budget_pages,
                                      scratch, selected));
    return selected;
  }
};
VARVE_EACH_LANE(RecallTest);

TEST_P(RecallTest, RecalledBytesAreTheBytesThatWerePut) {
  for (const page::Part part : {page::Part::kKV, page::Part::kK, page::Part::kV}) {
    SCOPED_TRACE(static_cast<int>(part));
    const auto memory = Allocate(4 * 6 * geometry_.page_bytes());
    const std::vector<float> queries = Queries(5);
    RecallQuery query = Query(queries, 6, memory.get(), part);
    query.sinks = 1;
    query.window = 2;
    const auto result = client().Recall(query);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_THAT(result->layers, SizeIs(geometry_.num_layers));
    for (uint32_t l = 0; l < geometry_.num_layers; ++l) {
      ASSERT_THAT(result->layers[l], SizeIs(geometry_.num_kv_heads));
      for (uint32_t h = 0; h < geometry_.num_kv_heads; ++h) {
        const RecallHeadResult& head = result->layers[l][h];
        EXPECT_EQ(head.selected, ExpectedPages(query, l, h));
        ASSERT_THAT(head.recalled, SizeIs(6));
        for (const RecalledPage& page : head.recalled) {
          ASSERT_TRUE(page.done) << page.message;
          const Piece& slot = query.layers[l].heads[h].slots.at(page.slot);
          EXPECT_TRUE(Bytes(*memory, slot.offset, slot.bytes) == Page(page.page, l, h, part))
              << "layer " << l << " head " << h << " page " << page.page;
        }
      }
    }
  }
}

// The store re-ranks by keys: the answer is that of PageLogMass over all pages.
TEST_P(RecallTest, ASecondStageRanksByKeys) {
  const auto memory = Allocate(4 * 5 * geometry_.page_bytes());
  const std::vector<float> queries = Queries(9);
  RecallQuery query = Query(queries, 5, memory.get());
  query.sinks = 1;
  query.window = 1;
  query.rerank = page::Rerank::kExact;
  query.multiplier = page::kMaxMultiplier;  // every page is a candidate
  const auto result = client().Recall(query);
  ASSERT_TRUE(result.ok()) << result.status();
  bool differs = false;
  for (uint32_t l = 0; l < geometry_.num_layers; ++l) {
    for (uint32_t h = 0; h < geometry_.num_kv_heads; ++h) {
      std::vector<std::string> keys;
      for (uint32_t p = 0; p < kBlocks; ++p) keys.push_back(Page(p, l, h, page::Part::kK));
      std::vector<page::PageView> views;
      for (const std::string& k : keys) views.push_back({k.data(), nullptr, geometry_.page_tokens});
      const uint32_t group = geometry_.group_size();
      std::vector<float> log_mass(size_t{group} * kBlocks), scores(kBlocks);
      page::PageLogMass({group, geometry_.head_dim, geometry_.dtype,
                         1 / std::sqrt(static_cast<float>(geometry_.head_dim))},
                        queries.data() + size_t{h} * group * geometry_.head_dim, views,
                        log_mass.data());
      page::MassScores(log_mass.data(), group, kBlocks, scores.data());
      std::vector<uint32_t> pinned, selected(kBlocks);
      page::PinnedPages(kBlocks, 1, 1, pinned);
      page::SelectScratch scratch;
      selected.resize(page::SelectPages(scores, pinned, 5, scratch, selected));
      const RecallHeadResult& head = result->layers[l][h];
      EXPECT_EQ(head.selected, selected) << "layer " << l << " head " << h;
      differs = differs || head.selected != ExpectedPages(query, l, h);
      ASSERT_THAT(head.recalled, SizeIs(5));
      for (const RecalledPage& page : head.recalled) {
        ASSERT_TRUE(page.done) << page.message;
        const Piece& slot = query.layers[l].heads[h].slots.at(page.slot);
        EXPECT_TRUE(Bytes(*memory, slot.offset, slot.bytes) ==
                    Page(page.page, l, h, page::Part::kKV));
      }
    }
  }
  EXPECT_TRUE(differs) << "the digests alone choose the same: the test shows nothing";
  query.multiplier = 0.5;
  const auto refused = client().Recall(query);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("multiplier is 0.5"));
}

TEST_P(RecallTest, LayersComeOneByOne) {
  const auto memory =
      Allocate(geometry_.num_layers * geometry_.num_kv_heads * 6 * geometry_.page_bytes());
  const std::vector<float> queries = Queries(5);
  RecallQuery query = Query(queries, 6, memory.get());
  const auto whole = client().Recall(query);
  ASSERT_TRUE(whole.ok()) << whole.status();
  std::memset(memory->bytes().data(), 0, memory->bytes().size());
  std::vector<size_t> seen;
  const auto by_layer = [&](size_t l, const std::vector<RecallHeadResult>& heads) {
    seen.push_back(l);
    ASSERT_THAT(heads, SizeIs(geometry_.num_kv_heads));
    for (uint32_t h = 0; h < heads.size(); ++h) {
      EXPECT_EQ(heads[h].selected, whole->layers[l][h].selected);
      for (const RecalledPage& page : heads[h].recalled) {
        ASSERT_TRUE(page.done) << page.message;
        const Piece& slot = query.layers[l].heads[h].slots[page.slot];
        EXPECT_TRUE(Bytes(*memory, slot.offset, slot.bytes) ==
                    Page(page.page, static_cast<uint32_t>(l), h, page::Part::kKV));
      }
    }
  };
  const auto result = client().Recall(query, by_layer);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(seen, UnorderedElementsAre(0, 1));
  ASSERT_THAT(result->layers, SizeIs(geometry_.num_layers));
  EXPECT_EQ(result->layers[1][0].selected, whole->layers[1][0].selected);
  EXPECT_GT(result->timings.total_us, 0);

  // The one that cannot be answered takes nothing from the other, where the store pushes pages.
  const bool pushed = GetParam() != Lane::kInline;
  seen.clear();
  query.layers[1].heads[0].resident = {3, 2};
  const auto refused = client().Recall(query, by_layer);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << refused.status();
  EXPECT_EQ(seen, pushed ? std::vector<size_t>{0} : std::vector<size_t>{});
  query.layers[1].heads[0].resident.clear();
  query.layers[0].heads[0].resident = {3, 2};
  seen.clear();
  EXPECT_EQ(client().Recall(query, by_layer).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(seen, pushed ? std::vector<size_t>{1} : std::vector<size_t>{});
}

// Of adaptive budgets: the first layer has a sharp attention, the second a flat one. All at once,
// layer by layer, and by requests of one layer that name what they may have.
TEST_P(RecallTest, WhatALayerLeavesLaterOnesMayHave) {
  std::vector<float> sharp = Queries(8);
  for (float& x : sharp) x *= 20;
  const std::vector<float> flat(sharp.size(), 0.0f);
  RecallQuery query = Query(sharp, 6, nullptr);
  query.target = 0.9;
  query.layers[1].queries = flat;
  const auto whole = client().Recall(query);
  ASSERT_TRUE(whole.ok()) << whole.status();
  const auto pages = [](const std::vector<RecallHeadResult>& heads) {
    uint32_t sum = 0;
    for (const RecallHeadResult& head : heads) sum += static_cast<uint32_t>(head.selected.size());
    return sum;
  };
  const uint32_t own = 6 * geometry_.num_kv_heads, first = pages(whole->layers[0]);
  ASSERT_LT(first, own);
  EXPECT_EQ(pages(whole->layers[1]), 2 * own - first);
  const auto expect_same = [&](size_t l, const std::vector<RecallHeadResult>& heads) {
    for (size_t h = 0; h < heads.size(); ++h) {
      EXPECT_EQ(heads[h].selected, whole->layers[l][h].selected) << l << ", " << h;
    }
  };
  const PrefetchCalls prefetch;  // of either class
  ASSERT_TRUE(client().Recall(query, expect_same).ok());

  RecallQuery one = query;
  one.layers.pop_back();
  const auto alone = client().Recall(one);
  ASSERT_TRUE(alone.ok()) << alone.status();
  expect_same(0, alone->layers[0]);
  one.layers[0] = query.layers[1];
  const auto without = client().Recall(one);
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_EQ(pages(without->layers[0]), own);
  one.layers[0].total_pages = 2 * own - first;
  const auto named = client().Recall(one);
  ASSERT_TRUE(named.ok()) << named.status();
  expect_same(1, named->layers[0]);
  // In the order given; a layer with a total has that and no more.
  std::swap(query.layers[0], query.layers[1]);
  EXPECT_EQ(pages(client().Recall(query)->layers[0]), own);
  std::swap(query.layers[0], query.layers[1]);
  query.layers[1].total_pages = own;
  EXPECT_EQ(pages(client().Recall(query)->layers[1]), own);
}

TEST_P(RecallTest, ResidentPagesDoNotTravel) {
  const auto memory = Allocate(4 * 8 * geometry_.page_bytes());
  const std::vector<float> queries = Queries(6);
  RecallQuery query = Query(queries, 8, memory.get());
  const std::vector<uint32_t> expected = ExpectedPages(query, 1, 0);
  query.layers[1].heads[0].resident = {expected[1], expected[4], expected[5]};
  query.layers[0].heads[1].resident = ExpectedPages(query, 0, 1);
  const auto result = client().Recall(query);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->layers[1][0].selected, expected);
  std::vector<uint32_t> recalled;
  for (const RecalledPage& page : result->layers[1][0].recalled) {
    EXPECT_TRUE(page.done) << page.message;
    EXPECT_EQ(page.slot, recalled.size());
    recalled.push_back(page.page);
  }
  EXPECT_EQ(recalled, (std::vector<uint32_t>{expected[0], expected[2], expected[3], expected[6],
                                             expected[7]}));
  EXPECT_THAT(result->layers[0][1].recalled, IsEmpty());
}

TEST_P(RecallTest, HotPagesAreScoredAndFavoured) {
  const auto memory = Allocate(4 * 4 * geometry_.page_bytes());
  const std::vector<float> queries = Queries(7);
  RecallQuery query = Query(queries, 4, memory.get());
  const std::vector<float> scores = ExpectedScores(1, 0, queries, query.merge);
  const std::vector<uint32_t> resident = {0, 2, 3, 5, 6, 9};
  query.layers[1].heads[0].resident = resident;
  query.score_hot = true;
  auto result = client().Recall(query);
  ASSERT_TRUE(result.ok()) << result.status();
  const RecallHeadResult& head = result->layers[1][0];
  ASSERT_THAT(head.resident_scores, SizeIs(resident.size()));
  for (size_t i = 0; i < resident.size(); ++i) {
    EXPECT_EQ(head.resident_scores[i], scores[resident[i]]);
  }
  ASSERT_FALSE(head.recalled.empty()) << "the test shows nothing";
  ASSERT_EQ(head.missing_scores.size(), head.recalled.size());
  for (size_t i = 0; i < head.recalled.size(); ++i) {
    EXPECT_EQ(head.missing_scores[i], scores[head.recalled[i].page]);
  }

  query.hysteresis = 100;
  result = client().Recall(query);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(std::includes(resident.begin(), resident.end(), result->layers[1][0].selected.begin(),
                            result->layers[1][0].selected.end()))
      << "the best of what is there, whatever there is elsewhere";
  query.score_hot = false;
  result = client().Recall(query);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->layers[1][0].resident_scores, IsEmpty());

  query.hysteresis = -1;
  const auto refused = client().Recall(query);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("hysteresis is -1, allowed: 0..100"));
}

// Heads that are not asked for: nothing is selected or pushed, whatever else is said of them.
TEST_P(RecallTest, HeadsAreSkipped) {
  const auto memory = Allocate(4 * 6 * geometry_.page_bytes());
  const std::vector<float> queries = Queries(5);
  const RecallQuery whole = Query(queries, 6, memory.get());
  RecallQuery query = whole;
  query.layers[0].heads[1].skip = true;
  query.layers[1].heads[0] = RecallHead{.skip = true};
  const auto result = client().Recall(query);
  ASSERT_TRUE(result.ok()) << result.status();
  for (uint32_t l = 0; l < geometry_.num_layers; ++l) {
    ASSERT_THAT(result->layers[l], SizeIs(geometry_.num_kv_heads));
    for (uint32_t h = 0; h < geometry_.num_kv_heads; ++h) {
      const RecallHeadResult& head = result->layers[l][h];
      if (l != h) {
        EXPECT_THAT(head.selected, IsEmpty());
        EXPECT_THAT(head.recalled, IsEmpty());
        continue;
      }
      EXPECT_EQ(head.selected, ExpectedPages(whole, l, h));
      EXPECT_THAT(head.recalled, SizeIs(6));
    }
  }
}

// Calls of the prefetch class get the same bytes, in however many pieces.
TEST_P(RecallTest, ThePrefetchClassHasTheSameAnswers) {
  const auto memory = Allocate(4 * 6 * geometry_.page_bytes());
  const std::vector<float> queries = Queries(5);
  const RecallQuery query = Query(queries, 6, memory.get());
  constexpr size_t kValue = 128 << 10, kValues = 16;
  const auto values = Allocate(2 * kValues * kValue);
  std::vector<PutItem> puts;
  std::vector<GetItem> gets;
  for (size_t i = 0; i < kValues; ++i) {
    std::memset(values->bytes().data() + i * kValue, static_cast<int>(i + 1), kValue);
    const page::ObjectKey key = *page::MakeObjectKey(absl::StrCat(Id(), "-value-", i), 0);
    puts.push_back({key, {{values.get(), i * kValue, kValue}}, {}, "", {}});
    gets.push_back({key, {}, {{values.get(), (kValues + i) * kValue, kValue}}});
  }
  ASSERT_TRUE(client().Put(puts).ok());

  const PrefetchCalls prefetch;
  const auto result = client().Recall(query);
  ASSERT_TRUE(result.ok()) << result.status();
  for (uint32_t l = 0; l < geometry_.num_layers; ++l) {
    for (uint32_t h = 0; h < geometry_.num_kv_heads; ++h) {
      EXPECT_EQ(result->layers[l][h].selected, ExpectedPages(query, l, h));
      for (const RecalledPage& got : result->layers[l][h].recalled) {
        ASSERT_TRUE(got.done) << got.message;
        const Piece& slot = query.layers[l].heads[h].slots.at(got.slot);
        EXPECT_TRUE(Bytes(*memory, slot.offset, slot.bytes) ==
                    Page(got.page, l, h, page::Part::kKV));
      }
    }
  }
  const auto got = client().Get(gets);
  ASSERT_TRUE(got.ok()) << got.status();
  for (const GetResult& value : *got) EXPECT_TRUE(value.hit) << value.message;
  EXPECT_EQ(std::memcmp(values->bytes().data(), values->bytes().data() + kValues * kValue,
                        kValues * kValue),
            0);
}

TEST_P(RecallTest, ExplainAnswersTheScoresOfThePageLibrary) {
  const std::vector<float> queries = Queries(7);
  for (const page::ScoreMerge merge :
       {page::ScoreMerge::kSoftmaxMean, page::ScoreMerge::kSoftmaxMax, page::ScoreMerge::kMax,
        page::ScoreMerge::kMean}) {
    SCOPED_TRACE(std::string(page::ScoreMergeName(merge)));
    RecallQuery query = Query(queries, 5, nullptr);
    query.explain = true;
    query.merge = merge;
    const auto result = client().Recall(query);
    ASSERT_TRUE(result.ok()) << result.status();
    for (uint32_t l = 0; l < geometry_.num_layers; ++l) {
      for (uint32_t h = 0; h < geometry_.num_kv_heads; ++h) {
        const std::vector<float> expected = ExpectedScores(l, h, queries, merge);
        const RecallHeadResult& head = result->layers[l][h];
        ASSERT_EQ(head.scores.size(), expected.size());
        for (size_t i = 0; i < expected.size(); ++i) EXPECT_FLOAT_EQ(head.scores[i], expected[i]);
        EXPECT_EQ(head.selected, ExpectedPages(query, l, h));
        EXPECT_THAT(head.recalled, IsEmpty()) << "no slots, nothing to bring";
      }
    }
  }
}

TEST_P(RecallTest, AMissingPageIsReportedNeverSkipped) {
  const std::vector<float> queries = Queries(8);
  const auto memory = Allocate(4 * 6 * geometry_.page_bytes());
  const RecallQuery query = Query(queries, 6, memory.get());
  const uint32_t gone = ExpectedPages(query, 0, 0)[2];
  ASSERT_EQ(client().Remove(std::vector{ObjectKeyOf(gone, 0)}, true).value(),
            std::vector<bool>{true});
  const auto result = client().Recall(query);
  ASSERT_TRUE(result.ok()) << result.status();
  const RecallHeadResult& head = result->layers[0][0];
  ASSERT_THAT(head.recalled, SizeIs(6));
  for (const RecalledPage& page : head.recalled) {
    EXPECT_EQ(page.done, page.page != gone);
    EXPECT_EQ(page.reason, page.page == gone ? MissReason::kNeverStored : MissReason::kNone);
  }
}

TEST_P(RecallTest, PagesBeyondTheSlotsAreReported) {
  const std::vector<float> queries = Queries(9);
  const auto memory = Allocate(4 * 6 * geometry_.page_bytes());
  RecallQuery query = Query(queries, 6, memory.get());
  query.layers[0].heads[0].slots.resize(4);
  const auto result = client().Recall(query);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_THAT(result->layers[0][0].recalled, SizeIs(5)) << "one row for all without a slot";
  for (const RecalledPage& page : result->layers[0][0].recalled) {
    EXPECT_EQ(page.done, page.slot < 4);
    EXPECT_THAT(page.message, HasSubstr(page.done ? "" : "slot"));
  }
}

TEST_P(RecallTest, RefusesWhatCannotBe) {
  const std::vector<float> queries = Queries(10);
  const auto memory = Allocate(4 * 6 * geometry_.page_bytes());
  const RecallQuery good = Query(queries, 6, memory.get());
  const auto code = [&](const auto& change) {
    RecallQuery query = good;
    change(query);
    return client().Recall(query).status().code();
  };
  EXPECT_EQ(code([](RecallQuery& q) { q.context_id = "nobody"; }), absl::StatusCode::kNotFound);
  EXPECT_EQ(code([](RecallQuery& q) { q.epoch += 7; }), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(code([](RecallQuery& q) { q.layers[0].layer = 2; }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](RecallQuery& q) { q.layers[0].heads.pop_back(); }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([&](RecallQuery& q) { q.layers[0].queries = q.layers[0].queries.first(7); }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](RecallQuery& q) { q.layers[0].heads[0].slots[0].bytes -= 1; }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](RecallQuery& q) { q.layers[0].heads[0].slots[0].memory = nullptr; }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](RecallQuery& q) { q.layers.clear(); }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](RecallQuery&) {}), absl::StatusCode::kOk);
}

TEST_P(RecallTest, ManyThreadsRecallOnOneStream) {
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      const auto memory = Allocate(4 * 4 * geometry_.page_bytes());
      for (uint64_t round = 0; round < 8; ++round) {
        SCOPED_TRACE(100 * t + round);
        const std::vector<float> queries = Queries(100 * t + round);
        const RecallQuery query = Query(queries, 4, memory.get());
        const auto result = client().Recall(query);
        ASSERT_TRUE(result.ok()) << result.status();
        EXPECT_EQ(result->layers[1][1].selected, ExpectedPages(query, 1, 1));
        for (const RecalledPage& page : result->layers[1][1].recalled) {
          ASSERT_TRUE(page.done) << page.message;
          const Piece& slot = query.layers[1].heads[1].slots.at(page.slot);
          EXPECT_TRUE(Bytes(*memory, slot.offset, slot.bytes) ==
                      Page(page.page, 1, 1, page::Part::kKV));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace varve::client::testing
