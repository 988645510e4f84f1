// Selection over a context's digests: against a naive reference, and the properties P9, P13, P17,
// P19 and P20.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/recall/recall_fixture.h"

namespace varve::recall {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

LayerQuery MakeQuery(uint32_t layer, const std::vector<float>& queries, uint32_t heads,
                     uint32_t budget, std::span<const uint32_t> resident = {}) {
  return {layer, queries, std::vector<HeadQuery>(heads, HeadQuery{budget, resident})};
}

// Merged scores in float64 from the digests as ReadDigests gives them.
std::vector<double> ReferenceScores(const ContextOptions& options, const std::string& rows,
                                    uint32_t head, const std::vector<float>& queries,
                                    page::ScoreMerge merge, uint32_t pages) {
  const page::Geometry& g = options.geometry;
  const size_t bytes = page::DigestBytes(options.digest_kind, g);
  const page::DigestMatrix matrix{options.digest_kind,
                                  g.dtype,
                                  g.head_dim,
                                  g.page_tokens,
                                  reinterpret_cast<const std::byte*>(rows.data()) + head * bytes,
                                  bytes * g.num_kv_heads,
                                  pages};
  const uint32_t group = g.group_size();
  std::vector<double> raw(size_t{group} * pages);
  page::ScorePagesReference(matrix, queries.data() + size_t{head} * group * g.head_dim, group,
                            raw.data());
  const bool softmax =
      merge == page::ScoreMerge::kSoftmaxMean || merge == page::ScoreMerge::kSoftmaxMax;
  const bool mean = merge == page::ScoreMerge::kSoftmaxMean || merge == page::ScoreMerge::kMean;
  std::vector<double> merged(pages, mean ? 0 : -std::numeric_limits<double>::infinity());
  for (uint32_t q = 0; q < group; ++q) {
    double* row = raw.data() + size_t{q} * pages;
    if (softmax) {
      double sum = 0;
      const double top = *std::max_element(row, row + pages);
      for (uint32_t i = 0; i < pages; ++i)
        sum += row[i] = std::exp((row[i] - top) / std::sqrt(g.head_dim));
      for (uint32_t i = 0; i < pages; ++i) row[i] /= sum;
    }
    for (uint32_t i = 0; i < pages; ++i) {
      merged[i] = mean ? merged[i] + row[i] / group : std::max(merged[i], row[i]);
    }
  }
  return merged;
}

class SelectTest : public RecallTest {
 protected:
  absl::StatusOr<std::vector<LayerSelection>> Select(const SelectParams& params,
                                                     std::span<const LayerQuery> layers,
                                                     const std::string& id = "c") {
    return table_->Select(ns_, id, params, layers, nullptr);
  }
};

struct Setting {
  page::DigestKind kind;
  page::ScoreMerge merge;
  page::DType dtype;
  uint32_t threads;
};

class SelectAgainstReferenceTest : public SelectTest,
                                   public testing::WithParamInterface<Setting> {};

TEST_P(SelectAgainstReferenceTest, PicksTheBestPagesAndNamesTheMissing) {
  Start({.threads = GetParam().threads});
  ContextOptions options{SmallGeometry(), GetParam().kind};
  options.geometry.dtype = GetParam().dtype;
  constexpr uint32_t kPages = 700;
  const uint32_t epoch = Build("c", kPages, options);
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    const uint32_t candidates = 100 + static_cast<uint32_t>(random() % 601);
    const uint32_t budget = 5 + static_cast<uint32_t>(random() % 60);
    std::vector<uint32_t> resident;
    for (uint32_t p = 0; p < kPages; ++p) {
      if (random() % 5 == 0) resident.push_back(p);
    }
    const SelectParams params{.epoch = epoch,
                              .merge = GetParam().merge,
                              .sinks = 2,
                              .window = 3,
                              .num_blocks = candidates,
                              .explain = true};
    const std::vector<float> q0 = RandomQueries(options.geometry, seed);
    const std::vector<float> q1 = RandomQueries(options.geometry, seed + 1000);
    const std::vector<LayerQuery> layers = {MakeQuery(1, q1, 2, budget, resident),
                                            MakeQuery(0, q0, 2, budget + 1, resident)};
    SelectTimings timings;
    const auto selections = table_->Select(ns_, "c", params, layers, &timings);
    ASSERT_TRUE(selections.ok()) << selections.status();
    EXPECT_GT(timings.score_seconds, 0);
    EXPECT_GT(timings.select_seconds, 0);
    ASSERT_EQ(selections->size(), 2u);
    for (size_t l = 0; l < 2; ++l) {
      const LayerSelection& selection = (*selections)[l];
      EXPECT_EQ(selection.layer, layers[l].layer) << "in the order asked";
      const std::string rows = *ReadDigests("c", layers[l].layer, 0, candidates);
      std::set<uint32_t> missing_union;
      for (uint32_t h = 0; h < 2; ++h) {
        const HeadSelection& head = selection.heads[h];
        const auto truth =
            ReferenceScores(options, rows, h, l == 0 ? q1 : q0, params.merge, candidates);
        ASSERT_EQ(head.scores.size(), candidates);
        // The spread that separates one page from another, and a tolerance far below it.
        const double spread = *std::max_element(truth.begin(), truth.end()) -
                              *std::min_element(truth.begin(), truth.end());
        for (uint32_t p = 0; p < candidates; ++p)
          ASSERT_NEAR(head.scores[p], truth[p], 1e-4 * spread + 1e-9);
        ASSERT_EQ(head.selected.size(), layers[l].heads[h].budget_pages);
        ASSERT_TRUE(std::is_sorted(head.selected.begin(), head.selected.end()));
        std::vector<bool> in(candidates);
        for (uint32_t p : head.selected) in[p] = true;
        EXPECT_TRUE(in[0] && in[1] && in[candidates - 1] && in[candidates - 2] &&
                    in[candidates - 3]);
        // By threshold: nothing left out beats anything chosen.
        double worst_in = std::numeric_limits<double>::infinity();
        double best_out = -worst_in;
        for (uint32_t p = 2; p < candidates - 3; ++p) {
          (in[p] ? worst_in : best_out) =
              in[p] ? std::min(worst_in, truth[p]) : std::max(best_out, truth[p]);
        }
        EXPECT_GE(worst_in, best_out - 2e-4 * spread);
        std::vector<uint32_t> missing;
        std::set_difference(head.selected.begin(), head.selected.end(), resident.begin(),
                            resident.end(), std::back_inserter(missing));
        EXPECT_EQ(head.missing, missing);
        missing_union.insert(missing.begin(), missing.end());
      }
      EXPECT_EQ(selection.wanted_pages,
                std::vector<uint32_t>(missing_union.begin(), missing_union.end()));
      ASSERT_EQ(selection.block_hashes.size(), selection.wanted_pages.size());
      for (size_t i = 0; i < selection.block_hashes.size(); ++i) {
        EXPECT_EQ(selection.block_hashes[i], HashOf(1, selection.wanted_pages[i]));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, SelectAgainstReferenceTest,
    testing::Values(
        Setting{page::DigestKind::kMinMax, page::ScoreMerge::kSoftmaxMean, page::DType::kBF16, 1},
        Setting{page::DigestKind::kMinMax, page::ScoreMerge::kSoftmaxMax, page::DType::kF32, 3},
        Setting{page::DigestKind::kBoxMean, page::ScoreMerge::kMean, page::DType::kF16, 1},
        Setting{page::DigestKind::kMean, page::ScoreMerge::kMax, page::DType::kBF16, 2},
        Setting{page::DigestKind::kSphere, page::ScoreMerge::kSoftmaxMean, page::DType::kF32, 1},
        Setting{page::DigestKind::kSphere, page::ScoreMerge::kMax, page::DType::kF16, 2},
        Setting{page::DigestKind::kSign1, page::ScoreMerge::kSoftmaxMean, page::DType::kBF16, 2},
        Setting{page::DigestKind::kSign2, page::ScoreMerge::kMean, page::DType::kF32, 1},
        Setting{page::DigestKind::kSign4, page::ScoreMerge::kSoftmaxMax, page::DType::kF16, 3}));

// Raw scores of a big group over many pages would take more memory than the digests: the heads are
// scored some at a time.
TEST_F(SelectTest, ManyQueryHeadsOverManyPages) {
  constexpr uint32_t kPages = 5000;
  ContextOptions options{SmallGeometry(), page::DigestKind::kMean};
  options.geometry.num_layers = 1;
  options.geometry.num_kv_heads = 1;
  options.geometry.num_query_heads = 1024;
  const uint32_t epoch = Build("c", kPages, options);
  const std::vector<float> queries = RandomQueries(options.geometry, 3);
  const SelectParams params{
      .epoch = epoch, .merge = page::ScoreMerge::kSoftmaxMax, .explain = true};
  const auto selections = Select(params, {{MakeQuery(0, queries, 1, 10)}});
  ASSERT_TRUE(selections.ok()) << selections.status();
  const std::string rows = *ReadDigests("c", 0, 0, kPages);
  const auto truth = ReferenceScores(options, rows, 0, queries, params.merge, kPages);
  const double most = *std::max_element(truth.begin(), truth.end());
  const HeadSelection& head = selections->front().heads.front();
  for (uint32_t p = 0; p < kPages; ++p) ASSERT_NEAR(head.scores[p], truth[p], 1e-4 * most);
}

TEST_F(SelectTest, AnAnswerThatIsTooBigIsRefused) {
  Start({.max_answer_pages = 500});
  const uint32_t epoch = Build("c", 200);
  const std::vector<float> queries = RandomQueries(SmallGeometry(), 1);
  const auto code = [&](uint32_t budget, bool explain) {
    const std::vector<LayerQuery> layers = {MakeQuery(0, queries, 2, budget)};
    return Select({.epoch = epoch, .explain = explain}, layers).status();
  };
  EXPECT_TRUE(code(200, false).ok()) << "of two heads";
  EXPECT_TRUE(code(50, true).ok());
  const absl::Status refused = code(51, true);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("502 pages, allowed: 500"));
}

// ---- properties

// P9: the answer does not depend on how the context came to be.
TEST_F(SelectTest, P9AnswerDoesNotDependOnHowTheContextWasBuilt) {
  const ContextOptions options{SmallGeometry()};
  Build("whole", 600);
  const auto pieces = table_->Open(ns_, "pieces", options, kSession);
  for (uint32_t at = 0; at < 600; at += 7) {
    const uint32_t n = std::min(7u, 600 - at);
    ASSERT_TRUE(table_->Append(ns_, "pieces", at, Hashes(1, at, n)).ok());
    for (uint32_t l = 0; l < 2; ++l)
      ASSERT_TRUE(AddDigests("pieces", pieces->epoch, l, at, n).ok());
  }
  ASSERT_TRUE(table_->Fork(ns_, "pieces", "regrown", 300, kSession).ok());
  const uint32_t regrown = table_->Truncate(ns_, "regrown", 290)->epoch;
  ASSERT_TRUE(table_->Append(ns_, "regrown", 290, Hashes(1, 290, 310)).ok());
  for (uint32_t l = 0; l < 2; ++l) ASSERT_TRUE(AddDigests("regrown", regrown, l, 290, 310).ok());

  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const auto queries = RandomQueries(options.geometry, seed);
    const std::vector<LayerQuery> layers = {MakeQuery(0, queries, 2, 20),
                                            MakeQuery(1, queries, 2, 33)};
    std::vector<std::vector<LayerSelection>> answers;
    for (const char* id : {"whole", "pieces", "regrown"}) {
      const SelectParams params{
          .epoch = table_->Get(ns_, id)->epoch, .sinks = 1, .window = 2, .explain = true};
      answers.push_back(*Select(params, layers, id));
    }
    for (size_t a = 1; a < answers.size(); ++a) {
      for (size_t l = 0; l < 2; ++l) {
        EXPECT_EQ(answers[a][l].block_hashes, answers[0][l].block_hashes);
        for (size_t h = 0; h < 2; ++h) {
          EXPECT_EQ(answers[a][l].heads[h].selected, answers[0][l].heads[h].selected);
          EXPECT_EQ(answers[a][l].heads[h].scores, answers[0][l].heads[h].scores) << "bit for bit";
        }
      }
    }
  }
}

// P13: after a truncate or a fork nothing of the old content comes back, and the old epoch is
// refused.
TEST_F(SelectTest, P13NothingStaleComesBack) {
  const ContextOptions options{SmallGeometry()};
  uint32_t epoch = Build("c", 200);
  std::vector<std::string> truth = Hashes(1, 0, 200);
  std::mt19937_64 random(5);
  for (uint64_t round = 2; round < 30; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    const uint32_t keep = static_cast<uint32_t>(random() % truth.size());
    std::string id = "c";
    if (random() % 2 == 0) {
      id = "fork" + std::to_string(round);
      if (keep == 0) continue;
      ASSERT_TRUE(table_->Fork(ns_, "c", id, keep, kSession).ok());
      ASSERT_TRUE(table_->Drop(ns_, "c").ok());
      ASSERT_TRUE(table_->Fork(ns_, id, "c", 0, kSession).ok());
    } else {
      ASSERT_TRUE(table_->Truncate(ns_, "c", keep).ok());
    }
    truth.resize(keep);
    const auto added = Hashes(round, keep, 150);
    truth.insert(truth.end(), added.begin(), added.end());
    const uint32_t now = table_->Append(ns_, "c", keep, added)->epoch;
    for (uint32_t l = 0; l < 2; ++l) {
      EXPECT_FALSE(AddDigests("c", epoch, l, keep, 150, options, round).ok()) << "old epoch";
      ASSERT_TRUE(AddDigests("c", now, l, keep, 150, options, round).ok());
      EXPECT_EQ(table_->ReadDigests(ns_, "c", epoch, l, 0, 1).status().code(),
                absl::StatusCode::kFailedPrecondition);
    }
    const auto queries = RandomQueries(options.geometry, round);
    const std::vector<LayerQuery> layers = {MakeQuery(1, queries, 2, 40)};
    EXPECT_THAT(Select({.epoch = epoch}, layers).status().ToString(),
                AllOf(HasSubstr("FAILED_PRECONDITION"), HasSubstr("epoch " + std::to_string(epoch)),
                      HasSubstr(std::to_string(now))));
    const auto selections = Select({.epoch = now, .explain = true}, layers);
    ASSERT_TRUE(selections.ok()) << selections.status();
    const LayerSelection& layer = selections->front();
    ASSERT_EQ(layer.heads[0].scores.size(), truth.size());
    for (size_t i = 0; i < layer.wanted_pages.size(); ++i) {
      EXPECT_EQ(layer.block_hashes[i], truth[layer.wanted_pages[i]]);
    }
    // Scores are those of the new digests, every one.
    const std::string rows = *ReadDigests("c", 1, 0, static_cast<uint32_t>(truth.size()));
    EXPECT_EQ(rows.substr(keep * rows.size() / truth.size()),
              RandomDigests(options, round + 100, keep, 150));
    epoch = now;
  }
}

// P17: a larger budget only adds pages.
TEST_F(SelectTest, P17LargerBudgetsContainSmallerOnes) {
  const uint32_t epoch = Build("c", 90);
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const auto queries = RandomQueries(SmallGeometry(), seed);
    std::vector<std::vector<uint32_t>> before(2);
    for (uint32_t budget = 3; budget <= 95; ++budget) {
      const std::vector<LayerQuery> layers = {MakeQuery(0, queries, 2, budget)};
      const auto selections = Select({.epoch = epoch, .sinks = 1, .window = 2}, layers);
      ASSERT_TRUE(selections.ok());
      for (uint32_t h = 0; h < 2; ++h) {
        const auto& now = selections->front().heads[h].selected;
        ASSERT_EQ(now.size(), std::min(budget, 90u));
        ASSERT_TRUE(std::includes(now.begin(), now.end(), before[h].begin(), before[h].end()));
        before[h] = now;
      }
    }
  }
}

// P19: what fits the budget and is there needs nothing.
TEST_F(SelectTest, P19EverythingResidentMeansNothingMissing) {
  const uint32_t epoch = Build("c", 64);
  std::vector<uint32_t> all(64);
  std::iota(all.begin(), all.end(), 0u);
  const auto queries = RandomQueries(SmallGeometry(), 1);
  for (uint32_t budget : {64u, 65u, UINT32_MAX}) {
    const std::vector<LayerQuery> layers = {MakeQuery(0, queries, 2, budget, all)};
    const auto selections = Select({.epoch = epoch, .sinks = 1, .window = 1}, layers);
    ASSERT_TRUE(selections.ok());
    EXPECT_EQ(selections->front().heads[0].selected, all);
    EXPECT_THAT(selections->front().heads[0].missing, IsEmpty());
    EXPECT_THAT(selections->front().wanted_pages, IsEmpty());
    EXPECT_THAT(selections->front().block_hashes, IsEmpty());
  }
}

// What an answer costs is bounded by the places for it, not by what is missing.
TEST_F(SelectTest, HashesAreOfThePagesThatHaveAPlace) {
  const uint32_t epoch = Build("c", 64);
  const auto queries = RandomQueries(SmallGeometry(), 1);
  std::vector<LayerQuery> layers = {MakeQuery(0, queries, 2, 20)};
  layers[0].heads[0].places = 3;
  layers[0].heads[1].places = 0;
  const auto selections = Select({.epoch = epoch}, layers);
  ASSERT_TRUE(selections.ok()) << selections.status();
  const LayerSelection& layer = selections->front();
  ASSERT_EQ(layer.heads[0].missing.size(), 20u);
  EXPECT_EQ(layer.heads[1].missing.size(), 20u);
  const std::vector<uint32_t> first(layer.heads[0].missing.begin(),
                                    layer.heads[0].missing.begin() + 3);
  EXPECT_EQ(layer.wanted_pages, first);
  EXPECT_EQ(layer.block_hashes,
            (std::vector{HashOf(1, first[0]), HashOf(1, first[1]), HashOf(1, first[2])}));
}

TEST_F(SelectTest, ALayerIsNamedOnce) {
  const uint32_t epoch = Build("c", 64);
  const auto queries = RandomQueries(SmallGeometry(), 1);
  const LayerQuery query = MakeQuery(1, queries, 2, 20);
  EXPECT_THAT(Select({.epoch = epoch}, std::vector{query, query}).status().ToString(),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("layer 1 is named twice")));
}

// P20: heads with identical digests and queries select the same pages, so per-head tables equal one
// per layer.
TEST_F(SelectTest, P20IdenticalHeadsSelectAlike) {
  const ContextOptions options{SmallGeometry()};
  const auto opened = table_->Open(ns_, "c", options, kSession);
  ASSERT_TRUE(table_->Append(ns_, "c", 0, Hashes(1, 0, 120)).ok());
  std::string rows = RandomDigests(options, 1, 0, 120);
  const size_t head_bytes = page::DigestBytes(options.digest_kind, options.geometry);
  for (size_t block = 0; block < 120; ++block) {
    std::memcpy(rows.data() + (2 * block + 1) * head_bytes, rows.data() + 2 * block * head_bytes,
                head_bytes);
  }
  ASSERT_TRUE(table_->AppendDigests(ns_, "c", opened->epoch, 0, 0, 120, rows).ok());
  std::vector<float> queries = RandomQueries(options.geometry, 3);
  std::copy_n(queries.begin(), 3 * 32, queries.begin() + 3 * 32);
  const std::vector<LayerQuery> layers = {MakeQuery(0, queries, 2, 17)};
  const auto selections = Select({.epoch = opened->epoch, .sinks = 1, .window = 1}, layers);
  ASSERT_TRUE(selections.ok()) << selections.status();
  EXPECT_EQ(selections->front().heads[0].selected, selections->front().heads[1].selected);
  EXPECT_EQ(selections->front().wanted_pages, selections->front().heads[0].selected);
}

TEST_F(SelectTest, ThreadsDoNotChangeTheAnswer) {
  const ContextOptions options{SmallGeometry()};
  std::vector<std::vector<LayerSelection>> answers;
  const auto queries = RandomQueries(options.geometry, 1);
  for (uint32_t threads : {1u, 4u}) {
    Start({.threads = threads});
    const uint32_t epoch = Build("c", 300);
    const std::vector<LayerQuery> layers = {MakeQuery(0, queries, 2, 30),
                                            MakeQuery(1, queries, 2, 30)};
    answers.push_back(*Select({.epoch = epoch, .explain = true}, layers));
  }
  for (size_t l = 0; l < 2; ++l) {
    for (size_t h = 0; h < 2; ++h) {
      EXPECT_EQ(answers[0][l].heads[h].selected, answers[1][l].heads[h].selected);
      EXPECT_EQ(answers[0][l].heads[h].scores, answers[1][l].heads[h].scores);
    }
  }
}

TEST_F(SelectTest, CandidatesAreThePagesWithDigestsUnlessSaid) {
  const auto opened = table_->Open(ns_, "c", {SmallGeometry()}, kSession);
  ASSERT_TRUE(table_->Append(ns_, "c", 0, Hashes(1, 0, 50)).ok());
  ASSERT_TRUE(AddDigests("c", opened->epoch, 0, 0, 20).ok());
  const auto queries = RandomQueries(SmallGeometry(), 1);
  const std::vector<LayerQuery> layers = {MakeQuery(0, queries, 2, 4)};
  const auto selections = Select({.epoch = opened->epoch, .window = 1, .explain = true}, layers);
  ASSERT_TRUE(selections.ok());
  EXPECT_EQ(selections->front().heads[0].scores.size(), 20u);
  EXPECT_EQ(selections->front().heads[0].selected.back(), 19u)
      << "the window is the end of the candidates";
  EXPECT_THAT(Select({.epoch = opened->epoch, .num_blocks = 21}, layers).status().ToString(),
              AllOf(HasSubstr("FAILED_PRECONDITION"), HasSubstr("digests of 20 of 50 blocks")));
  EXPECT_THAT(Select({.epoch = opened->epoch, .num_blocks = 51}, layers).status().ToString(),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("0..50")));
  const std::vector<LayerQuery> empty_layer = {MakeQuery(1, queries, 2, 4)};
  EXPECT_THAT(Select({.epoch = opened->epoch}, empty_layer).status().ToString(),
              HasSubstr("too few"));
}

// ---- every field out of range

TEST_F(SelectTest, BadRequestsNameWhatIsAllowed) {
  const uint32_t epoch = Build("c", 20);
  const auto queries = RandomQueries(SmallGeometry(), 1);
  const auto error = [&](const SelectParams& params, const LayerQuery& query) {
    const std::vector<LayerQuery> layers = {query};
    return Select(params, layers).status().ToString();
  };
  const SelectParams ok{.epoch = epoch};
  EXPECT_EQ(error(ok, MakeQuery(0, queries, 2, 4)), "OK");
  EXPECT_THAT(Select(ok, {}).status().ToString(), AllOf(HasSubstr("layers"), HasSubstr("1..2")));
  const std::vector<LayerQuery> three(3, MakeQuery(0, queries, 2, 4));
  EXPECT_THAT(Select(ok, three).status().ToString(), HasSubstr("1..2"));
  EXPECT_THAT(error(ok, MakeQuery(2, queries, 2, 4)),
              AllOf(HasSubstr("layer is 2"), HasSubstr("0..1")));
  for (size_t size : {size_t{0}, queries.size() - 1}) {
    const std::vector<float> cut(queries.begin(), queries.begin() + static_cast<long>(size));
    EXPECT_THAT(error(ok, MakeQuery(0, cut, 2, 4)),
                AllOf(HasSubstr("queries"), HasSubstr("192 (6 query heads of 32)")));
  }
  for (float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    auto broken = queries;
    broken[100] = bad;
    EXPECT_THAT(error(ok, MakeQuery(0, broken, 2, 4)),
                AllOf(HasSubstr("value 100 (query head 3)"), HasSubstr("finite")));
  }
  EXPECT_THAT(error(ok, MakeQuery(0, queries, 1, 4)),
              AllOf(HasSubstr("heads"), HasSubstr("allowed: 2")));
  EXPECT_THAT(error(ok, MakeQuery(0, queries, 2, 0)),
              AllOf(HasSubstr("budget_pages"), HasSubstr("at least 1")));
  for (const std::vector<uint32_t>& resident :
       {std::vector<uint32_t>{3, 2}, {3, 3}, {20}, {1, UINT32_MAX}}) {
    EXPECT_THAT(error(ok, MakeQuery(0, queries, 2, 4, resident)),
                AllOf(HasSubstr("resident["), HasSubstr("ascending page ids below 20")));
  }
  EXPECT_THAT(error({.epoch = epoch, .merge = static_cast<page::ScoreMerge>(9)},
                    MakeQuery(0, queries, 2, 4)),
              AllOf(HasSubstr("merge is 9"), HasSubstr("softmax_mean")));
  EXPECT_THAT(error({.epoch = epoch, .sinks = 3, .window = 2}, MakeQuery(0, queries, 2, 4)),
              AllOf(HasSubstr("budget_pages"), HasSubstr("at least the 5 pages")));
  EXPECT_THAT(error({.epoch = epoch, .sinks = UINT32_MAX, .window = UINT32_MAX},
                    MakeQuery(0, queries, 2, 4)),
              HasSubstr("at least the 20 pages"));
  EXPECT_EQ(error({.epoch = epoch, .sinks = UINT32_MAX, .window = UINT32_MAX},
                  MakeQuery(0, queries, 2, 20)),
            "OK");
  EXPECT_THAT(error({.epoch = 0}, MakeQuery(0, queries, 2, 4)), HasSubstr("epoch 0"));
}

}  // namespace
}  // namespace varve::recall
