// The reference backends on random keys: masks, masses, budgets and the order of calls.
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/dense_backend.h"
#include "tests/model/selection_backend.h"

namespace varve::model {
namespace {

using testing::HasSubstr;

constexpr ModelConfig kConfig = {.hidden = 16,
                                 .ffn = 16,
                                 .layers = 2,
                                 .query_heads = 6,
                                 .kv_heads = 2,
                                 .head_dim = 32,
                                 .vocab = 16};

class Backend : public testing::Test {
 protected:
  std::vector<float> Random(size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) value = normal(rng_);
    return values;
  }
  // Gives the same random KV to all backends.
  void Feed(std::vector<KvBackend*> backends, uint32_t tokens) {
    const std::vector<int32_t> ids(tokens, 1);
    for (KvBackend* backend : backends) ASSERT_EQ(backend->Extend(ids), absl::OkStatus());
    for (uint32_t layer = 0; layer < kConfig.layers; ++layer) {
      const auto k = Random(tokens * kConfig.KvWidth());
      const auto v = Random(tokens * kConfig.KvWidth());
      keys_.insert(keys_.end(), k.begin(), k.end());
      for (KvBackend* backend : backends) {
        ASSERT_EQ(backend->Append(layer, k.data(), v.data(), tokens), absl::OkStatus());
      }
    }
  }
  std::unique_ptr<KvBackend> Make(const PolicySpec& spec) {
    return SelectionBackend::Make(kConfig, BestKernels(), spec).value();
  }
  static std::vector<float> Attend(KvBackend& backend, uint32_t layer,
                                   const std::vector<float>& q) {
    std::vector<float> out(kConfig.QueryWidth());
    EXPECT_EQ(backend.Attend(layer, q.data(), out.data()), absl::OkStatus());
    return out;
  }

  std::mt19937 rng_{20251};
  std::vector<float> keys_;  // in the order fed
};

TEST_F(Backend, ABudgetOfEveryPageIsFullAttentionBitForBit) {
  DenseBackend dense(kConfig, BestKernels());
  std::vector<std::unique_ptr<KvBackend>> owned;
  std::vector<KvBackend*> all = {&dense};
  for (const char* name :
       {"full", "stream", "oracle", "arkvale-max", "arkvale-sum", "arkvale-center"}) {
    owned.push_back(Make({name, 16, 1.0}));
    all.push_back(owned.back().get());
  }
  Feed(all, 160);
  for (KvBackend* backend : all) ASSERT_EQ(backend->FinishPrefill(), absl::OkStatus());
  Feed(all, 1);
  const auto q = Random(kConfig.QueryWidth());
  for (KvBackend* backend : all) EXPECT_EQ(Attend(*backend, 1, q), Attend(dense, 1, q));
}

TEST_F(Backend, DenseAttentionAgreesWithTheFormulaInDouble) {
  DenseBackend dense(kConfig, BestKernels());
  Feed({&dense}, 70);
  ASSERT_EQ(dense.FinishPrefill(), absl::OkStatus());
  const auto q = Random(kConfig.QueryWidth());
  Attend(dense, 0, q);
  for (uint32_t h = 0; h < kConfig.query_heads; ++h) {
    double sum = 0;
    for (uint32_t t = 0; t < 70; ++t) {
      double dot = 0;
      for (uint32_t d = 0; d < 32; ++d) {
        dot += double{q[h * 32 + d]} * keys_[(t * 2 + h / 3) * 32 + d];
      }
      sum += std::exp(dot / std::sqrt(32.0));
    }
    EXPECT_NEAR(dense.LastLogSumExp()[h], std::log(sum), 1e-5) << "head " << h;
  }
}

TEST_F(Backend, PageMassesSumToOneAndTheOracleKeepsTheLargest) {
  constexpr uint32_t kPages = 20;
  DenseBackend dense(kConfig, BestKernels());
  const auto oracle = Make({"oracle", 8, 0.25});
  Feed({&dense, oracle.get()}, kPages * 8);
  ASSERT_EQ(dense.FinishPrefill(), absl::OkStatus());
  ASSERT_EQ(oracle->FinishPrefill(), absl::OkStatus());
  const auto q = Random(kConfig.QueryWidth());
  Attend(*oracle, 0, q);
  Attend(dense, 0, q);
  const auto mass = dense.PageMass(0, q.data(), 8);
  for (uint32_t kv_head = 0; kv_head < 2; ++kv_head) {
    std::vector<double> group(kPages);
    for (uint32_t g = 0; g < 3; ++g) {
      const float* row = &mass[(kv_head * 3 + g) * kPages];
      EXPECT_NEAR(std::accumulate(row, row + kPages, 0.0), 1, 1e-5);
      for (uint32_t p = 0; p < kPages; ++p) group[p] += row[p];
    }
    // First and last are forced; of the rest, the 3 heaviest fill the budget of 5 pages.
    std::sort(group.begin() + 1, group.end() - 1, std::greater<>());
    const double expected = group.front() + group.back() + group[1] + group[2] + group[3];
    double kept = 0;
    for (uint32_t h = kv_head * 3; h < kv_head * 3 + 3; ++h) {
      kept += std::exp(oracle->LastLogSumExp()[h] - dense.LastLogSumExp()[h]);
    }
    EXPECT_NEAR(kept, expected, 1e-4);
  }
  EXPECT_EQ(oracle->Stats().pages_selected, 2u * 5u);
}

TEST_F(Backend, TheBudgetRoundsUpAndIsAtLeastThreePages) {
  for (const auto& [budget, pages] : {std::pair{0.01, 3u}, {0.31, 4u}, {0.4, 4u}, {1.0, 10u}}) {
    SCOPED_TRACE(budget);
    const auto backend = Make({"arkvale-max", 16, budget});
    Feed({backend.get()}, 160);
    ASSERT_EQ(backend->FinishPrefill(), absl::OkStatus());
    Attend(*backend, 0, Random(kConfig.QueryWidth()));
    EXPECT_EQ(backend->Stats().pages_selected, pages * kConfig.kv_heads);
  }
}

TEST_F(Backend, TheMassProbeMeasuresTheShareThatAPolicyKeeps) {
  MassProbe probe(kConfig, BestKernels(), Make({"stream", 8, 0.1}), 2);
  MassProbe whole(kConfig, BestKernels(), Make({"full", 8, 1.0}), 1);
  Feed({&probe, &whole}, 80);
  ASSERT_EQ(probe.FinishPrefill(), absl::OkStatus());
  ASSERT_EQ(whole.FinishPrefill(), absl::OkStatus());
  for (int step = 0; step < 3; ++step) {
    Feed({&probe, &whole}, 1);
    const auto q = Random(kConfig.QueryWidth());
    Attend(probe, step % 2, q);
    Attend(whole, step % 2, q);
  }
  EXPECT_EQ(probe.Stats().mass_samples, 2u * kConfig.query_heads);
  EXPECT_EQ(whole.Stats().mass_samples, 3u * kConfig.query_heads);
  EXPECT_NEAR(whole.Stats().mass_kept_sum, 3 * kConfig.query_heads, 1e-4);
  const double share = probe.Stats().mass_kept_sum / probe.Stats().mass_samples;
  EXPECT_GT(share, 0.01);
  EXPECT_LT(share, 0.6);
}

TEST_F(Backend, RefusesWrongPolicies) {
  const auto refused = [](const PolicySpec& spec, const std::string& message) {
    const absl::Status status = SelectionBackend::Make(kConfig, BestKernels(), spec).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  refused({"arkval", 32, 0.1}, "unknown policy \"arkval\", known are: full, stream, oracle");
  refused({"oracle", 0, 0.1}, "page_tokens is 0");
  refused({"oracle", 32, 0}, "budget 0, must be in (0, 1]");
  refused({"oracle", 32, 1.5}, "budget 1.5");
  refused({"oracle", 32, std::nan("")}, "budget nan");
}

TEST_F(Backend, RefusesAPromptOfBrokenPages) {
  const auto backend = Make({"oracle", 32, 0.1});
  Feed({backend.get()}, 70);
  const absl::Status status = backend->FinishPrefill();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("70 tokens is not whole pages of 32"));
}

TEST_F(Backend, RefusesCallsOutOfOrder) {
  DenseBackend dense(kConfig, BestKernels());
  const auto kv = Random(4 * kConfig.KvWidth());
  std::vector<float> out(kConfig.QueryWidth());
  const std::vector<int32_t> ids(4, 1);
  const auto refused = [](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  };
  refused(dense.FinishPrefill());
  refused(dense.Append(0, kv.data(), kv.data(), 4));
  ASSERT_EQ(dense.Extend(ids), absl::OkStatus());
  refused(dense.Extend(ids));
  refused(dense.Append(0, kv.data(), kv.data(), 3));
  refused(dense.Append(2, kv.data(), kv.data(), 4));
  ASSERT_EQ(dense.Append(0, kv.data(), kv.data(), 4), absl::OkStatus());
  refused(dense.Attend(0, kv.data(), out.data()));
  ASSERT_EQ(dense.Append(1, kv.data(), kv.data(), 4), absl::OkStatus());
  ASSERT_EQ(dense.FinishPrefill(), absl::OkStatus());
  refused(dense.FinishPrefill());
  refused(dense.Attend(2, kv.data(), out.data()));
  EXPECT_EQ(dense.Attend(1, kv.data(), out.data()), absl::OkStatus());
}

}  // namespace
}  // namespace varve::model
