// The heads of one Attend are shared by threads: the result must not show by how many.
#include <string>
#include <vector>

#include "gpu_worker/worker.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"
#include "tests/support/fake_client.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

// Large enough that more than one thread is worth waking: a page has 32 KiB, its digest 1 KiB.
constexpr page::Geometry kShape{1, 6, 12, 128, 32, page::DType::kF32};
constexpr uint32_t kPrompt = 4000;
constexpr uint32_t kSteps = 6;

using Results = std::vector<std::vector<float>>;  // outputs and lse, by step and sequence

// A batch of sequences of different lengths and policies, a few steps long.
void Decode(uint32_t threads, Results& results) {
  const RandomText text(kShape, 31, kPrompt + 100);
  FakeClient client;
  worker::WorkerOptions options;
  options.geometry = kShape;
  options.pool_bytes = 256 << 20;
  options.attend_threads = threads;
  auto made = worker::Worker::Create(options, &client);
  ASSERT_TRUE(made.ok()) << made.status();
  worker::Worker& w = **made;
  const std::pair<const char*, uint32_t> kinds[] = {
      {"arkvale(budget=0.2,hot=1)", kPrompt}, {"quest(budget=0.3)", 3000}, {"full", 777}};
  std::vector<Feeder> feeders;
  for (const auto& [policy, tokens] : kinds) {
    ASSERT_OK(feeders.emplace_back(&w, &text).Prefill(policy, tokens));
  }
  const size_t width = size_t{kShape.num_query_heads} * kShape.head_dim;
  for (uint32_t step = 0; step < kSteps; ++step) {
    const std::vector<float> q = text.Query(0, step);
    std::vector<worker::AttendItem> items;
    const size_t first = results.size();
    for (size_t i = 0; i < feeders.size(); ++i) {
      results.emplace_back(width);
      results.emplace_back(kShape.num_query_heads);
    }
    for (size_t i = 0; i < feeders.size(); ++i) {
      ASSERT_OK(feeders[i].Announce());
      worker::AttendItem& item = items.emplace_back();
      item.sequence = feeders[i].id();
      item.q = q.data();
      item.out = results[first + 2 * i].data();
      item.lse = results[first + 2 * i + 1].data();
      item.k = text.Keys(0, feeders[i].tokens() - 1);
      item.v = text.Values(0, feeders[i].tokens() - 1);
    }
    ASSERT_OK(w.Attend(0, items));
  }
}

TEST(AttendThreads, ResultsAreTheSameBitForBit) {
  Results alone;
  Decode(1, alone);
  ASSERT_EQ(alone.size(), kSteps * 3u * 2u);
  for (const uint32_t threads : {2u, 3u, 8u, 0u}) {
    SCOPED_TRACE(threads);
    Results shared;
    Decode(threads, shared);
    EXPECT_EQ(shared, alone);
  }
}

TEST(AttendThreads, TooManyAreRefused) {
  FakeClient client;
  worker::WorkerOptions options;
  options.geometry = kShape;
  options.attend_threads = 257;
  const absl::Status status = worker::Worker::Create(options, &client).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("attend_threads is 257, allowed: 0..256"),
            absl::string_view::npos)
      << status;
}

}  // namespace
}  // namespace varve::testing
