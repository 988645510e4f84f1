// Outliers of a selection: in whatever they score, beside the budget, and no part of what the
// others score.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/recall/rerank_fixture.h"

namespace varve::recall {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class OutliersTest : public RerankTest {
 protected:
  absl::StatusOr<HeadSelection> TrySelect(const SelectParams& params, const std::vector<float>& q,
                                          uint32_t budget, const std::vector<uint32_t>& outliers) {
    const HeadQuery head{.budget_pages = budget, .resident = {}, .outliers = outliers};
    const std::vector<LayerQuery> layers = {{1, q, std::vector<HeadQuery>(g().num_kv_heads, head)}};
    auto selections = table_->Select(ns_, "c", params, layers, nullptr);
    if (!selections.ok()) return selections.status();
    return std::move((*selections)[0].heads[0]);
  }
  HeadSelection SelectOne(const SelectParams& params, const std::vector<float>& q, uint32_t budget,
                          const std::vector<uint32_t>& outliers) {
    auto selected = TrySelect(params, q, budget, outliers);
    EXPECT_TRUE(selected.ok()) << selected.status();
    return selected.ok() ? *std::move(selected) : HeadSelection();
  }

  // Merged scores of layer 1, KV head 0 by its digests, as if the outliers were not there.
  std::vector<double> Scores(const std::vector<float>& q, page::ScoreMerge merge,
                             const std::vector<uint32_t>& outliers) {
    const size_t bytes = page::DigestBytes(options_.digest_kind, g());
    const std::string rows = *ReadDigests("c", 1, 0, kPages);
    const uint32_t group = g().group_size();
    std::vector<double> raw(size_t{group} * kPages), merged(kPages);
    page::ScorePagesReference(
        {options_.digest_kind, g().dtype, g().head_dim, g().page_tokens,
         reinterpret_cast<const std::byte*>(rows.data()), bytes * g().num_kv_heads, kPages},
        q.data(), group, raw.data());
    const bool shares = page::ScoresAreShares(merge);
    const bool mean = merge == page::ScoreMerge::kSoftmaxMean || merge == page::ScoreMerge::kMean;
    for (uint32_t n = 0; n < group; ++n) {
      double sum = 0;
      for (uint32_t p = 0; p < kPages; ++p) {
        double& score = raw[n * kPages + p];
        if (shares) score = std::exp(score / std::sqrt(g().head_dim));
        if (!std::binary_search(outliers.begin(), outliers.end(), p)) sum += score;
      }
      for (uint32_t p = 0; p < kPages; ++p) {
        const double score = raw[n * kPages + p] / (shares ? sum : 1);
        merged[p] = n == 0 ? score : mean ? merged[p] + score : std::max(merged[p], score);
      }
    }
    return merged;
  }
  ContextOptions WithSketch() const {
    ContextOptions options = options_;
    options.digest_kind = page::DigestKind::kMinMaxSign2;
    return options;
  }
};

std::vector<uint32_t> SomePages(uint64_t seed, uint32_t count) {
  std::vector<uint32_t> pages(kPages);
  std::iota(pages.begin(), pages.end(), 0u);
  std::mt19937_64 random(seed);
  std::shuffle(pages.begin(), pages.end(), random);
  pages.resize(count);
  std::sort(pages.begin(), pages.end());
  return pages;
}

// The outliers, and as many as the budget of the best others; the first page and the last two are
// pinned, in the budget.
std::vector<uint32_t> Best(std::vector<double> scores, const std::vector<uint32_t>& outliers,
                           uint32_t budget) {
  for (const uint32_t page : outliers) scores[page] = -1e9;
  for (const uint32_t page : {0u, kPages - 2, kPages - 1}) scores[page] = 1e9;
  std::vector<uint32_t> best(kPages), all;
  std::iota(best.begin(), best.end(), 0u);
  std::sort(best.begin(), best.end(),
            [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  best.resize(budget);
  std::sort(best.begin(), best.end());
  std::set_union(best.begin(), best.end(), outliers.begin(), outliers.end(),
                 std::back_inserter(all));
  return all;
}

TEST_P(OutliersTest, AreInBesideTheBudgetAndOutOfTheScores) {
  Fill();
  bool differs = false;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    const std::vector<float> q = RandomQueries(g(), seed);
    std::vector<uint32_t> outliers = SomePages(seed, 5);
    if (seed % 2 == 0) outliers = {0, 7, 30, kPages - 1};  // pinned ones among them
    for (const page::ScoreMerge merge :
         {page::ScoreMerge::kSoftmaxMean, page::ScoreMerge::kSoftmaxMax, page::ScoreMerge::kMax,
          page::ScoreMerge::kMean}) {
      SCOPED_TRACE(std::string(page::ScoreMergeName(merge)));
      SelectParams params = Params(page::Rerank::kNone, 4);
      params.merge = merge;
      params.explain = true;
      const HeadSelection head = SelectOne(params, q, 9, outliers);
      EXPECT_EQ(head.selected, Best(Scores(q, merge, outliers), outliers, 9));
      EXPECT_EQ(head.missing, head.selected);
      ASSERT_THAT(head.scores, SizeIs(kPages));
      for (const uint32_t page : outliers) EXPECT_LE(head.scores[page], 0);
      differs = differs || head.scores != SelectOne(params, q, 9, {}).scores;
    }
  }
  EXPECT_TRUE(differs);
}

// Their keys are at hand: shares are of the mass of all candidates, outliers among them.
TEST_P(OutliersTest, OfASecondStageTheyAreCandidatesBesideTheOthers) {
  options_ = WithSketch();
  Fill();
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    const std::vector<float> q = RandomQueries(g(), seed);
    const std::vector<uint32_t> outliers = SomePages(seed, 6);
    SelectParams params = Params(page::Rerank::kExact, 1024);
    params.certify = true;
    std::vector<uint32_t> all(kPages);
    std::iota(all.begin(), all.end(), 0u);
    const HeadSelection whole = SelectOne(params, q, 9, outliers);
    EXPECT_EQ(whole.selected, Best(Masses(1, 0, q, all), outliers, 9));
    ASSERT_THAT(whole.dropped.log_estimate, SizeIs(g().group_size()));
    for (uint32_t n = 0; n < g().group_size(); ++n) {
      const std::vector<double> masses = LogMasses(1, n, q);
      double dropped = 0;
      for (uint32_t p = 0; p < kPages; ++p) {
        if (std::binary_search(whole.selected.begin(), whole.selected.end(), p)) continue;
        dropped += std::exp(masses[p]);
      }
      EXPECT_NEAR(whole.dropped.log_estimate[n], std::log(dropped), 1e-3);
    }
    // Twice the budget by the digests, and the outliers.
    params.multiplier = 2;
    const std::vector<uint32_t> candidates =
        Best(Scores(q, page::ScoreMerge::kSoftmaxMean, outliers), outliers, 18);
    EXPECT_EQ(SelectOne(params, q, 9, outliers).selected,
              Best(Masses(1, 0, q, candidates), outliers, 9));
    for (const page::Rerank rerank : {page::Rerank::kExact, page::Rerank::kSketch}) {
      params.rerank = rerank;
      const std::vector<uint32_t> selected = SelectOne(params, q, 9, outliers).selected;
      EXPECT_TRUE(
          std::includes(selected.begin(), selected.end(), outliers.begin(), outliers.end()));
      EXPECT_TRUE(
          std::includes(candidates.begin(), candidates.end(), selected.begin(), selected.end()));
    }
  }
}

// The bound is of the pages that are dropped, so outliers have no part in it.
TEST_P(OutliersTest, TheCertificateLeavesThemOut) {
  Fill();
  const std::vector<float> q = RandomQueries(g(), 3);
  SelectParams params = Params(page::Rerank::kNone, 4);
  params.certify = true;
  const std::vector<uint32_t> outliers = SomePages(3, 40);
  const HeadSelection with = SelectOne(params, q, 9, outliers);
  const HeadSelection without = SelectOne(params, q, 9, {});
  ASSERT_THAT(with.dropped.log_bound, SizeIs(g().group_size()));
  for (uint32_t n = 0; n < g().group_size(); ++n) {
    const std::vector<double> masses = LogMasses(1, n, q);
    double dropped = 0;
    for (uint32_t p = 0; p < kPages; ++p) {
      if (!std::binary_search(with.selected.begin(), with.selected.end(), p)) {
        dropped += std::exp(masses[p]);
      }
    }
    EXPECT_GE(with.dropped.log_bound[n], std::log(dropped));
    EXPECT_LT(with.dropped.log_bound[n], without.dropped.log_bound[n]);
  }
}

TEST_P(OutliersTest, WithTheBudgetTheyMayBeAllPages) {
  Fill();
  const std::vector<float> q = RandomQueries(g(), 4);
  for (const page::Rerank rerank : {page::Rerank::kNone, page::Rerank::kExact}) {
    SelectParams params = Params(rerank, 1);
    params.certify = true;
    params.score_hot = true;
    for (const uint32_t count : {kPages - 5, kPages}) {
      const HeadSelection head = SelectOne(params, q, 9, SomePages(count, count));
      EXPECT_THAT(head.selected, SizeIs(kPages));
      EXPECT_THAT(head.dropped.log_bound, Each(-std::numeric_limits<float>::infinity()));
      EXPECT_THAT(head.resident_scores, IsEmpty());
    }
    std::vector<uint32_t> outliers = SomePages(9, kPages);
    outliers.erase(outliers.begin() + 3, outliers.begin() + 13);
    EXPECT_THAT(SelectOne(params, q, 4, outliers).selected, SizeIs(kPages - 9));
    EXPECT_THAT(SelectOne(params, q, std::numeric_limits<uint32_t>::max(), outliers).selected,
                SizeIs(kPages));
  }
}

TEST_P(OutliersTest, BadListsNameWhatIsAllowed) {
  Fill();
  const std::vector<float> q = RandomQueries(g(), 1);
  SelectParams params = Params(page::Rerank::kNone, 4);
  const auto message = [&](const std::vector<uint32_t>& outliers) {
    const auto selected = TrySelect(params, q, 7, outliers);
    EXPECT_EQ(selected.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(selected.status().message());
  };
  EXPECT_THAT(message({5, 4}), AllOf(HasSubstr("outliers[1] of layer 1, KV head 0 is 4"),
                                     HasSubstr("allowed: ascending page ids below 60")));
  EXPECT_THAT(message({5, 5}), HasSubstr("outliers[1]"));
  EXPECT_THAT(message({0, kPages}), HasSubstr("outliers[1]"));
  EXPECT_THAT(message({std::numeric_limits<uint32_t>::max()}), HasSubstr("outliers[0]"));
  params.num_blocks = 40;
  EXPECT_THAT(message({39, 40}), HasSubstr("ascending page ids below 40"));
  params.num_blocks = 0;
  params.target = 0.9;
  EXPECT_THAT(message({5}),
              HasSubstr("outliers of layer 1, KV head 0 with a target, allowed: one of them"));
}

INSTANTIATE_TEST_SUITE_P(DTypes, OutliersTest,
                         testing::Values(page::DType::kF32, page::DType::kBF16),
                         [](const auto& info) { return std::string(page::DTypeName(info.param)); });

}  // namespace
}  // namespace varve::recall
