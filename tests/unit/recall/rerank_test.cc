// The second stage of a selection against the exact attention mass in float64 (specs: two-stage
// recall, P17).
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/recall/rerank_fixture.h"

namespace varve::recall {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// What the first stage leaves to the second, which then takes the best by true mass.
TEST_P(RerankTest, TakesTheCandidatesOfMostAttention) {
  Fill();
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    const auto budget = static_cast<uint32_t>(4 + seed % 9);
    const double multiplier = 1.0 + 0.5 * static_cast<double>(seed % 7);
    const std::vector<float> q = RandomQueries(g(), seed);
    const auto wide =
        Select(Params(page::Rerank::kNone, 1), q, page::CandidatePages(budget, multiplier, kPages));
    SelectTimings timings;
    const auto chosen = Select(Params(page::Rerank::kExact, multiplier), q, budget, &timings);
    EXPECT_GT(timings.rerank_seconds, 0);
    EXPECT_EQ(timings.estimated_pages, 0u);
    uint64_t candidates_in_all = 0;
    for (size_t l = 0; l < 2; ++l) {
      for (uint32_t h = 0; h < g().num_kv_heads; ++h) {
        const std::vector<uint32_t>& candidates = wide[l].heads[h].selected;
        const std::vector<uint32_t>& selected = chosen[l].heads[h].selected;
        candidates_in_all += candidates.size();
        ASSERT_EQ(selected.size(), budget);
        ASSERT_TRUE(std::is_sorted(selected.begin(), selected.end()));
        ASSERT_TRUE(
            std::includes(candidates.begin(), candidates.end(), selected.begin(), selected.end()));
        const std::vector<double> masses = Masses(wide[l].layer, h, q, candidates);
        const auto pinned = [](uint32_t page) { return page < 1 || page >= kPages - 2; };
        double least_in = std::numeric_limits<double>::infinity();
        double most_out = 0;
        for (const uint32_t page : candidates) {
          const bool in = std::binary_search(selected.begin(), selected.end(), page);
          if (pinned(page)) {
            EXPECT_TRUE(in) << page;
          } else if (in) {
            least_in = std::min(least_in, masses[page]);
          } else {
            most_out = std::max(most_out, masses[page]);
          }
        }
        EXPECT_LE(most_out, least_in * (1 + 1e-3));
      }
    }
    EXPECT_EQ(timings.reranked_pages, candidates_in_all);
  }
}

// With all pages as candidates the second stage is a sketch over all pages.
TEST_P(RerankTest, SketchesRankAsSketchesOfAllPagesDo) {
  options_.digest_kind = page::DigestKind::kSign4;
  Fill();
  const std::vector<float> q = RandomQueries(g(), 11);
  const auto alone = Select(Params(page::Rerank::kNone, 1), q, 7);
  options_.digest_kind = page::DigestKind::kMinMaxSign4;
  Fill();
  const auto by_box = Select(Params(page::Rerank::kNone, 1), q, 7);
  SelectTimings timings;
  const auto ranked = Select(Params(page::Rerank::kSketch, 1024), q, 7, &timings);
  EXPECT_EQ(timings.sketched_pages, 2u * g().num_kv_heads * kPages);
  EXPECT_EQ(timings.reranked_pages + timings.estimated_pages, 0u);
  bool differs = false;
  for (size_t l = 0; l < 2; ++l) {
    for (uint32_t h = 0; h < g().num_kv_heads; ++h) {
      EXPECT_EQ(ranked[l].heads[h].selected, alone[l].heads[h].selected);
      differs = differs || by_box[l].heads[h].selected != alone[l].heads[h].selected;
    }
  }
  EXPECT_TRUE(differs) << "the boxes alone choose the same: the test shows nothing";
}

TEST_P(RerankTest, PagesWithoutKeysAreRankedByTheirSketches) {
  options_.digest_kind = page::DigestKind::kMinMaxSign2;
  Fill();
  const std::vector<float> q = RandomQueries(g(), 12);
  const auto sketched = Select(Params(page::Rerank::kSketch, 4), q, 7);
  for (uint32_t page = 0; page < kPages; ++page) {
    Remove(0, page);
    Remove(1, page);
  }
  SelectTimings timings;
  const auto chosen = Select(Params(page::Rerank::kExact, 4), q, 7, &timings);
  EXPECT_EQ(timings.sketched_pages, 2u * g().num_kv_heads * 28);
  EXPECT_EQ(timings.estimated_pages, 0u);
  for (size_t l = 0; l < 2; ++l) {
    for (uint32_t h = 0; h < g().num_kv_heads; ++h) {
      EXPECT_EQ(chosen[l].heads[h].selected, sketched[l].heads[h].selected);
    }
  }
}

TEST_P(RerankTest, WithoutAnyKeysTheDigestsDecide) {
  Fill();
  for (uint32_t page = 0; page < kPages; ++page) {
    Remove(0, page);
    Remove(1, page);
  }
  const std::vector<float> q = RandomQueries(g(), 5);
  const auto digests = Select(Params(page::Rerank::kNone, 1), q, 7);
  SelectTimings timings;
  const auto chosen = Select(Params(page::Rerank::kExact, 4), q, 7, &timings);
  EXPECT_EQ(timings.reranked_pages, 0u);
  EXPECT_EQ(timings.estimated_pages, 2u * g().num_kv_heads * 28);
  for (size_t l = 0; l < 2; ++l) {
    for (uint32_t h = 0; h < g().num_kv_heads; ++h) {
      EXPECT_EQ(chosen[l].heads[h].selected, digests[l].heads[h].selected);
    }
  }
}

// Objects that are missing, of another shape, or of keys that are no numbers.
TEST_P(RerankTest, StrangeObjectsSpoilNothing) {
  Fill();
  const std::vector<float> q = RandomQueries(g(), 6);
  const auto best = Select(Params(page::Rerank::kExact, 1024), q, 8);
  std::set<uint32_t> strange;
  for (uint32_t page = 1; page < kPages - 2 && strange.size() < 9; ++page) {
    const std::vector<uint32_t>& selected = best[1].heads[0].selected;
    if (std::binary_search(selected.begin(), selected.end(), page)) continue;
    strange.insert(page);
    Remove(0, page);
    std::vector<std::byte> object = Object(0, page);
    if (strange.size() % 3 == 1) {
      for (size_t i = 0; i < object.size() / page::DTypeBytes(g().dtype); ++i) {
        page::StoreF32(object.data(), g().dtype, i, std::numeric_limits<float>::quiet_NaN());
      }
      Put(0, page, object);
    } else if (strange.size() % 3 == 2) {
      StoreObject(HashOf(1, page), 0, 64);
    }
  }
  SelectTimings timings;
  const auto chosen = Select(Params(page::Rerank::kExact, 1024), q, 8, &timings);
  EXPECT_EQ(timings.estimated_pages, strange.size() * g().num_kv_heads);
  EXPECT_EQ(chosen[0].heads[0].selected, best[0].heads[0].selected) << "the other layer";
  // The best that are there lose a place at most to one whose digest promises more.
  for (uint32_t h = 0; h < g().num_kv_heads; ++h) {
    EXPECT_EQ(chosen[1].heads[h].selected.size(), 8u);
  }
  const auto again = Select(Params(page::Rerank::kExact, 1024), q, 8);
  EXPECT_EQ(again[1].heads[0].selected, chosen[1].heads[0].selected);
}

TEST_P(RerankTest, P17LargerBudgetsContainSmallerOnes) {
  Fill();
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    const std::vector<float> q = RandomQueries(g(), seed);
    std::vector<LayerSelection> before;
    for (uint32_t budget = 4; budget <= kPages; budget += 5) {
      auto now = Select(Params(page::Rerank::kExact, 1024), q, budget);
      for (size_t l = 0; l < before.size(); ++l) {
        for (uint32_t h = 0; h < g().num_kv_heads; ++h) {
          const auto& small = before[l].heads[h].selected;
          const auto& large = now[l].heads[h].selected;
          EXPECT_TRUE(std::includes(large.begin(), large.end(), small.begin(), small.end()));
        }
      }
      before = std::move(now);
    }
  }
}

TEST_P(RerankTest, ThreadsDoNotChangeTheAnswer) {
  Fill();
  const std::vector<float> q = RandomQueries(g(), 3);
  const auto one = Select(Params(page::Rerank::kExact, 3), q, 6);
  Fill(/*threads=*/4);
  const auto four = Select(Params(page::Rerank::kExact, 3), q, 6);
  for (size_t l = 0; l < 2; ++l) {
    EXPECT_EQ(one[l].wanted_pages, four[l].wanted_pages);
    for (uint32_t h = 0; h < g().num_kv_heads; ++h) {
      EXPECT_EQ(one[l].heads[h].selected, four[l].heads[h].selected);
    }
  }
}

TEST_P(RerankTest, ExplainedScoresAreThoseOfTheDigests) {
  Fill();
  const std::vector<float> q = RandomQueries(g(), 4);
  SelectParams params = Params(page::Rerank::kNone, 1);
  params.explain = true;
  const auto digests = Select(params, q, 6);
  params.rerank = page::Rerank::kExact;
  params.multiplier = 2;
  const auto chosen = Select(params, q, 6);
  EXPECT_EQ(chosen[0].heads[1].scores, digests[0].heads[1].scores);
  EXPECT_EQ(chosen[0].heads[1].scores.size(), kPages);
}

TEST_P(RerankTest, BadParametersNameWhatIsAllowed) {
  Fill();
  const std::vector<float> q = RandomQueries(g(), 1);
  const std::vector<LayerQuery> layers = {
      {0, q,
       std::vector<HeadQuery>(g().num_kv_heads, HeadQuery{.budget_pages = 4, .resident = {}})}};
  const auto message = [&](const SelectParams& params) {
    const auto selections = table_->Select(ns_, "c", params, layers, nullptr);
    EXPECT_EQ(selections.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(selections.status().message());
  };
  for (const double multiplier : {0.0, 0.99, -1.0, 1025.0, std::nan("")}) {
    EXPECT_THAT(message(Params(page::Rerank::kExact, multiplier)),
                AllOf(HasSubstr("multiplier"), HasSubstr("1..1024")));
  }
  EXPECT_THAT(message(Params(page::Rerank::kSketch, 4)),
              AllOf(HasSubstr("kind minmax have no sketch"), HasSubstr("minmax_sign4")));
  EXPECT_THAT(message(Params(static_cast<page::Rerank>(7), 4)),
              AllOf(HasSubstr("rerank is 7"), HasSubstr("none, exact")));
}

INSTANTIATE_TEST_SUITE_P(DTypes, RerankTest,
                         testing::Values(page::DType::kF32, page::DType::kF16, page::DType::kBF16),
                         [](const auto& info) { return std::string(page::DTypeName(info.param)); });

}  // namespace
}  // namespace varve::recall
