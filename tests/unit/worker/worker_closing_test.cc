// What ending a worker may take.
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "gpu_worker/worker.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"
#include "tests/support/fake_client.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

constexpr page::Geometry kShape{2, 2, 4, 32, 8, page::DType::kF32};

// A store that takes its time, but goes on.
class SlowClient final : public FakeClient {
 public:
  absl::Status SendDigests(const std::string& id, uint32_t epoch, uint32_t layer,
                           uint32_t first_block, uint32_t num_blocks, std::string rows,
                           absl::Time sealed) override {
    absl::SleepFor(absl::Milliseconds(100));
    return FakeClient::SendDigests(id, epoch, layer, first_block, num_blocks, std::move(rows),
                                   sealed);
  }
};

TEST(WorkerClosing, EndsAtItsDeadlineThoughSavesGoOn) {
  SlowClient client;
  const RandomText text(kShape, 24, 800);
  worker::WorkerOptions options;
  options.geometry = kShape;
  options.pool_bytes = 512 * kShape.page_bytes();
  options.step_deadline = absl::Seconds(1);
  auto made = worker::Worker::Create(options, &client);
  ASSERT_TRUE(made.ok()) << made.status();
  Feeder feeder(made->get(), &text);
  ASSERT_OK(feeder.Open("full", "kept"));
  for (uint32_t block = 0; block < 100; ++block) ASSERT_OK(feeder.Feed(8));
  const absl::Time begin = absl::Now();
  made->reset();  // its digests would take 20 s
  EXPECT_LT(absl::Now() - begin, absl::Seconds(8));
  EXPECT_TRUE(client.context("kept").parked);
}

}  // namespace
}  // namespace varve::testing
