// What the tests of the worker's contract share. For every form of the worker: linked or behind the
// sidecar, over any store, scored here or there.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/contract/worker/worker_env.h"
#include "tests/support/assert_ok.h"
#include "tests/support/test_engine.h"

namespace varve::testing {

constexpr page::Geometry kSmall{2, 2, 4, 32, 8, page::DType::kF32};

class WorkerContract : public ::testing::TestWithParam<WorkerSetting> {
 protected:
  void SetUp() override {
    auto store = MakeStore(GetParam().store);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
  }
  std::unique_ptr<WorkerUnderTest> Make(const page::Geometry& geometry, uint32_t pages = 1024,
                                        page::DigestKind digest = page::DigestKind::kMinMax,
                                        uint32_t mass_every = 0) {
    worker::WorkerOptions options;
    options.geometry = geometry;
    options.digest_kind = digest;
    options.mass_sample_every = mass_every;
    auto made = MakeWorker(GetParam(), store_.get(), options, pages);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? std::move(*made) : nullptr;
  }
  std::unique_ptr<StoreSetup> store_;
};

inline void ExpectNaive(const RandomText& text, const Feeder& feeder, const std::string& policy,
                        page::DigestKind digest, uint32_t prompt, uint32_t step, double tolerance) {
  uint64_t left = 0;
  for (uint32_t l = 0; l < text.geometry().num_layers; ++l) {
    const std::vector<float> q = text.Query(l, step);
    const auto pages = NaivePages(text, *worker::ParsePolicy(policy), digest, l, q, prompt,
                                  feeder.tokens(), &left);
    const NaiveResult truth = NaiveAttention(text, l, q, feeder.tokens(), pages);
    EXPECT_LE(RelativeError(feeder.outputs()[l], truth.out), tolerance)
        << policy << ", layer " << l << ", step " << step << ", " << text.geometry().ToString();
    EXPECT_LE(RelativeError(feeder.lse()[l], truth.lse), tolerance);
  }
}

}  // namespace varve::testing
