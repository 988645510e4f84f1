// Adaptive budgets in both stages of a selection (P17).
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/recall/rerank_fixture.h"

namespace varve::recall {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class AdaptiveTest : public RerankTest {};

uint64_t PagesOf(const LayerSelection& layer) {
  uint64_t pages = 0;
  for (const HeadSelection& head : layer.heads) pages += head.selected.size();
  return pages;
}

// P17: floor, ceiling and total hold; a larger target takes no fewer pages, of a layer with a total
// and else of the first layers together, and contains a smaller one's as long as the total does not
// bind. In both stages.
TEST_P(AdaptiveTest, AdaptiveBudgetsReachTheirTargets) {
  Fill(/*threads=*/3);
  for (const page::Rerank rerank : {page::Rerank::kNone, page::Rerank::kExact}) {
    for (uint64_t seed = 1; seed <= 10; ++seed) {
      const std::vector<float> q = RandomQueries(g(), seed);
      const uint32_t no_bound = 2 * g().num_kv_heads * kPages;
      for (const uint32_t total : {0u, 12u * g().num_kv_heads, no_bound}) {
        SCOPED_TRACE(::testing::Message() << "seed " << seed << ", total " << total);
        std::vector<LayerSelection> before;
        for (const double target : {0.01, 0.3, 0.6, 0.9, 1.0}) {
          SelectParams params = Params(rerank, 1024);
          params.target = target;
          params.certify = true;
          const auto now = SelectAdaptive(params, q, total);
          uint64_t pages = 0, pages_before = 0;
          for (size_t l = 0; l < 2; ++l) {
            pages = (total == 0 ? pages : 0) + PagesOf(now[l]);
            ASSERT_LE(pages, total == 0 ? (l + 1) * 7u * g().num_kv_heads : total);
            if (!before.empty()) {
              pages_before = (total == 0 ? pages_before : 0) + PagesOf(before[l]);
              EXPECT_GE(pages, pages_before);
            }
            for (uint32_t h = 0; h < g().num_kv_heads; ++h) {
              const HeadSelection& head = now[l].heads[h];
              ASSERT_GE(head.selected.size(), 4u);
              ASSERT_LE(head.selected.size(), 20u);
              ASSERT_EQ(head.dropped.log_bound.size(), g().group_size());
              if (before.empty()) continue;
              const auto& small = before[l].heads[h].selected;
              if (total < no_bound) continue;
              EXPECT_TRUE(std::includes(head.selected.begin(), head.selected.end(), small.begin(),
                                        small.end()));
              if (rerank == page::Rerank::kNone || target == 1.0) continue;
              std::vector<uint32_t> all(kPages);
              std::iota(all.begin(), all.end(), 0u);
              const std::vector<double> masses = Masses(now[l].layer, h, q, all);
              double kept = 0;
              for (const uint32_t page : head.selected) kept += masses[page];
              EXPECT_TRUE(head.selected.size() == 20 || kept > target - 1e-3)
                  << kept << " of " << target << " by " << head.selected.size();
            }
          }
          before = now;
        }
        if (total == no_bound) {
          EXPECT_EQ(PagesOf(before[0]), 20u * g().num_kv_heads) << "all ceilings";
        }
      }
    }
  }
}

TEST_P(AdaptiveTest, BadTargetsNameWhatIsAllowed) {
  Fill();
  const std::vector<float> q = RandomQueries(g(), 1);
  SelectParams params = Params(page::Rerank::kNone, 4);
  HeadQuery head{.budget_pages = 7, .resident = {}};
  uint32_t total = 0;
  const auto message = [&] {
    const std::vector<LayerQuery> layers = {
        {0, q, std::vector<HeadQuery>(g().num_kv_heads, head), total}};
    const auto selections = table_->Select(ns_, "c", params, layers, nullptr);
    EXPECT_EQ(selections.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(selections.status().message());
  };
  for (const double target : {-0.1, 1.1, std::nan("")}) {
    params.target = target;
    EXPECT_THAT(message(), AllOf(HasSubstr("target"), HasSubstr("0..1")));
  }
  params.target = 0;
  head.floor_pages = 2;
  EXPECT_THAT(message(), HasSubstr("floor_pages of layer 0, KV head 0 is 2, allowed: 0 without"));
  head = {.budget_pages = 7, .resident = {}, .ceiling_pages = 9};
  EXPECT_THAT(message(), HasSubstr("ceiling_pages of layer 0, KV head 0 is 9, allowed: 0 without"));
  head.ceiling_pages = 0;
  total = 50;
  EXPECT_THAT(message(), HasSubstr("total_pages of layer 0 is 50, allowed: 0 without target"));
  params.target = 0.9;
  total = 3 * g().num_kv_heads - 1;  // 3 pages are pinned
  EXPECT_THAT(message(), HasSubstr("pages of all floors and pinned pages"));
  for (const uint32_t absurd : {2 * g().num_kv_heads * kPages + 1, UINT32_MAX}) {
    total = absurd;
    EXPECT_THAT(message(), HasSubstr("and at most the 240 of these heads in all layers"));
  }
  total = 0;
  head.floor_pages = 8;
  EXPECT_THAT(message(), HasSubstr("is 8, allowed: 0..7, budget_pages"));
  head = {.budget_pages = 7, .resident = {}, .ceiling_pages = 6};
  EXPECT_THAT(message(), HasSubstr("is 6, allowed: 0, or at least 7, budget_pages"));
  head.ceiling_pages = 0;
  params.merge = page::ScoreMerge::kMax;
  EXPECT_THAT(message(), HasSubstr("target with merge max, allowed: softmax_mean"));
}

INSTANTIATE_TEST_SUITE_P(DTypes, AdaptiveTest,
                         testing::Values(page::DType::kF32, page::DType::kF16, page::DType::kBF16),
                         [](const auto& info) { return std::string(page::DTypeName(info.param)); });

}  // namespace
}  // namespace varve::recall
