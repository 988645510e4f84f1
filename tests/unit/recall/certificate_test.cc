// What a selection says of what it drops, against float64 (specs: certificate, P7).
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/recall/rerank_fixture.h"

namespace varve::recall {
namespace {

class CertificateTest : public RerankTest {};

// P7: what the store says of the dropped mass, against float64; exact masses make it tighter.
TEST_P(CertificateTest, P7TheBoundIsNeverBelowWhatIsDropped) {
  for (const page::DigestKind kind : {page::DigestKind::kMinMax, page::DigestKind::kSphere}) {
    options_.digest_kind = kind;
    Fill();
    for (uint32_t page = 10; page < 20; ++page) Remove(0, page);
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      SCOPED_TRACE(seed);
      const std::vector<float> q = RandomQueries(g(), seed);
      const double multiplier = seed % 3 == 0 ? 1024 : 2;
      SelectParams params = Params(page::Rerank::kNone, 1);
      params.certify = true;
      const auto by_digests = Select(params, q, 9);
      params.rerank = page::Rerank::kExact;
      params.multiplier = multiplier;
      const auto by_keys = Select(params, q, 9);
      const uint32_t group = g().group_size();
      for (uint32_t head = 0; head < g().num_query_heads; ++head) {
        const uint32_t layer = by_keys[1].layer, h = head / group;
        const std::vector<double> masses = LogMasses(layer, head, q);
        const auto check = [&](const HeadSelection& selection) {
          double dropped = 0;
          for (uint32_t page = 0; page < kPages; ++page) {
            const bool in =
                std::binary_search(selection.selected.begin(), selection.selected.end(), page);
            if (!in) dropped += std::exp(masses[page]);
          }
          ASSERT_EQ(selection.dropped.log_bound.size(), group);
          // The store leaves the rounding of the dot products to the reader.
          EXPECT_GE(selection.dropped.log_bound[head % group] + 1e-3, std::log(dropped));
          if (selection.dropped.log_estimate.empty()) return;
          EXPECT_LE(selection.dropped.log_estimate[head % group], std::log(dropped) + 1e-3);
        };
        check(by_digests[1].heads[h]);
        check(by_keys[1].heads[h]);
        // Some pages of this layer have no keys: of candidates among them there is no telling.
        const size_t told = by_keys[1].heads[h].dropped.log_estimate.size();
        EXPECT_TRUE(told == 0 || (told == group && multiplier < 1024)) << told;
        EXPECT_EQ(by_keys[0].heads[h].dropped.log_estimate.size(), group);
        EXPECT_TRUE(by_digests[1].heads[h].dropped.log_estimate.empty());
      }
    }
  }
}

TEST_P(CertificateTest, KeysOfAllCandidatesAreTheirMassInTheCertificate) {
  Fill();
  const std::vector<float> q = RandomQueries(g(), 3);
  SelectParams params = Params(page::Rerank::kExact, 1024);
  params.certify = true;
  const auto chosen = Select(params, q, 9);
  for (uint32_t head = 0; head < g().num_query_heads; ++head) {
    const HeadSelection& selection = chosen[1].heads[head / g().group_size()];
    const uint32_t at = head % g().group_size();
    const std::vector<double> masses = LogMasses(0, head, q);
    double dropped = 0;
    for (uint32_t page = 0; page < kPages; ++page) {
      const auto& selected = selection.selected;
      if (!std::binary_search(selected.begin(), selected.end(), page)) {
        dropped += std::exp(masses[page]);
      }
    }
    EXPECT_NEAR(selection.dropped.log_bound[at], std::log(dropped), 1e-3);
    EXPECT_NEAR(selection.dropped.log_estimate[at], std::log(dropped), 1e-3);
  }
}

TEST_P(CertificateTest, CertificatesSayWhatIsUnknown) {
  const float none = -std::numeric_limits<float>::infinity();
  for (const page::DigestKind kind : {page::DigestKind::kMinMax, page::DigestKind::kMean}) {
    options_.digest_kind = kind;
    Fill();
    const std::vector<float> q = RandomQueries(g(), 3);
    SelectParams params = Params(page::Rerank::kNone, 1);
    EXPECT_TRUE(Select(params, q, 9)[0].heads[0].dropped.log_bound.empty()) << "not asked for";
    params.certify = true;
    const bool bounds = page::Info(kind).is_upper_bound;
    EXPECT_EQ(Select(params, q, 9)[0].heads[0].dropped.log_bound.size(),
              bounds ? g().group_size() : 0);
    for (const page::Rerank rerank : {page::Rerank::kNone, page::Rerank::kExact}) {
      params.rerank = rerank;
      params.explain = rerank == page::Rerank::kExact;
      EXPECT_THAT(Select(params, q, kPages)[0].heads[0].dropped.log_bound,
                  testing::AllOf(testing::SizeIs(g().group_size()), testing::Each(none)))
          << "nothing is dropped";
    }
    params.multiplier = 2;
    const DroppedMass dropped = Select(params, q, 9)[0].heads[0].dropped;
    EXPECT_EQ(dropped.log_bound.size(), bounds ? g().group_size() : 0);
    EXPECT_EQ(dropped.log_estimate.size(), g().group_size());
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, CertificateTest,
                         testing::Values(page::DType::kF32, page::DType::kF16, page::DType::kBF16),
                         [](const auto& info) { return std::string(page::DTypeName(info.param)); });

}  // namespace
}  // namespace varve::recall
