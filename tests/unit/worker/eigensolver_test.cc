#include "gpu_worker/eigensolver.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"

namespace varve::worker {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kWidth = 24;

std::vector<double> GramOfNoise(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> rows(kWidth * kWidth), gram(kWidth * kWidth);
  for (double& v : rows) v = normal(random);
  for (uint32_t i = 0; i < kWidth; ++i) {
    for (uint32_t j = 0; j < kWidth; ++j) {
      for (uint32_t t = 0; t < kWidth; ++t) {
        gram[i * kWidth + j] += rows[t * kWidth + i] * rows[t * kWidth + j];
      }
    }
  }
  return gram;
}

// What a device would do, by the CPU: ascending, and every other vector turned round.
class FakeDevice final : public DeviceSolver {
 public:
  struct Script {
    std::vector<absl::Status> answers;  // of the first calls; later ones succeed
    size_t calls = 0;
    std::atomic<int> at_once{0};
    int opened = 0, closed = 0;
  };
  explicit FakeDevice(Script* script) : script_(script) { ++script->opened; }
  ~FakeDevice() override { ++script_->closed; }

  std::string name() const override { return "a fake"; }
  absl::Status Decompose(std::span<const double> matrix, std::span<double> values,
                         std::span<double> vectors) override {
    EXPECT_EQ(++script_->at_once, 1);
    const absl::Status answer = script_->calls < script_->answers.size()
                                    ? script_->answers[script_->calls]
                                    : absl::Status();
    ++script_->calls;
    const size_t width = values.size();
    page::SymmetricEigen eigen;
    EXPECT_TRUE(page::DecomposeSymmetric(matrix, static_cast<uint32_t>(width), eigen));
    for (size_t j = 0; j < width; ++j) {
      values[j] = eigen.values[width - 1 - j];
      for (size_t i = 0; i < width; ++i) {
        vectors[j * width + i] = (j % 2 ? -1 : 1) * eigen.vectors[(width - 1 - j) * width + i];
      }
    }
    --script_->at_once;
    return answer;
  }

 private:
  Script* const script_;
};

Eigensolver::Open Opens(FakeDevice::Script* script) {
  return [script] {
    return absl::StatusOr<std::unique_ptr<DeviceSolver>>(std::make_unique<FakeDevice>(script));
  };
}

// The same bits as the CPU's, whoever did it.
void ExpectDecomposes(Eigensolver& solver, uint64_t seed) {
  const std::vector<double> gram = GramOfNoise(seed);
  page::SymmetricEigen expected, got;
  ASSERT_TRUE(page::DecomposeSymmetric(gram, kWidth, expected));
  ASSERT_TRUE(solver.Decompose(gram, kWidth, got));
  EXPECT_EQ(got.values, expected.values);
  EXPECT_EQ(got.vectors, expected.vectors);
}

// How many each solver did, as a scrape has it.
void ExpectCounts(const base::Metrics& metrics, int cuda, int cpu) {
  const std::string series = "varve_worker_decompositions_total{solver=";
  EXPECT_THAT(metrics.Render(), HasSubstr(absl::StrCat(series, "\"cuda\"} ", cuda, "\n")));
  EXPECT_THAT(metrics.Render(), HasSubstr(absl::StrCat(series, "\"cpu\"} ", cpu, "\n")));
}

TEST(Eigensolver, ADeviceIsTakenWhenTheFirstMatrixComes) {
  FakeDevice::Script script;
  base::Metrics metrics;
  const auto solver = Eigensolver::Create(EigensolverChoice::kAuto, &metrics, Opens(&script));
  ASSERT_OK(solver.status());
  EXPECT_EQ(script.opened, 0);
  for (uint64_t seed = 1; seed <= 3; ++seed) ExpectDecomposes(**solver, seed);
  EXPECT_EQ(script.opened, 1);
  EXPECT_EQ(script.calls, 3u);
  ExpectCounts(metrics, 3, 0);
}

TEST(Eigensolver, WithoutADeviceItIsTheCPU) {
  int tries = 0;
  const auto none = [&]() -> absl::StatusOr<std::unique_ptr<DeviceSolver>> {
    ++tries;
    return absl::UnavailableError("no such thing here");
  };
  base::Metrics metrics;
  const auto solver = Eigensolver::Create(EigensolverChoice::kAuto, &metrics, none);
  ASSERT_OK(solver.status());
  for (uint64_t seed = 1; seed <= 2; ++seed) ExpectDecomposes(**solver, seed);
  EXPECT_EQ(tries, 1);
  ExpectCounts(metrics, 0, 2);

  const auto refused = Eigensolver::Create(EigensolverChoice::kCuda, nullptr, none);
  EXPECT_TRUE(absl::IsUnavailable(refused.status()));
  EXPECT_EQ(refused.status().message(), "eigensolver cuda: no such thing here");
}

TEST(Eigensolver, TheCPUNeverAsksForADevice) {
  FakeDevice::Script script;
  const auto solver = Eigensolver::Create(EigensolverChoice::kCpu, nullptr, Opens(&script));
  ASSERT_OK(solver.status());
  ExpectDecomposes(**solver, 1);
  EXPECT_EQ(script.opened, 0);
}

TEST(Eigensolver, WhatADeviceHasNoRoomForTheCPUDoes) {
  FakeDevice::Script script{.answers = {absl::ResourceExhaustedError("full")}};
  base::Metrics metrics;
  const auto solver = Eigensolver::Create(EigensolverChoice::kCuda, &metrics, Opens(&script));
  ASSERT_OK(solver.status());
  EXPECT_EQ(script.opened, 1);
  for (uint64_t seed = 1; seed <= 3; ++seed) ExpectDecomposes(**solver, seed);
  EXPECT_EQ(script.calls, 3u);
  ExpectCounts(metrics, 2, 1);
  EXPECT_EQ(script.closed, 0);
}

TEST(Eigensolver, ADeviceThatFailsIsLeftAlone) {
  FakeDevice::Script script{.answers = {{}, absl::InternalError("launch failure")}};
  base::Metrics metrics;
  const auto solver = Eigensolver::Create(EigensolverChoice::kAuto, &metrics, Opens(&script));
  ASSERT_OK(solver.status());
  for (uint64_t seed = 1; seed <= 4; ++seed) ExpectDecomposes(**solver, seed);
  EXPECT_EQ(script.calls, 2u);
  EXPECT_EQ(script.opened, 1);
  EXPECT_EQ(script.closed, 1);
  ExpectCounts(metrics, 1, 3);
}

TEST(Eigensolver, ThreadsTakeTurnsAtTheDevice) {
  FakeDevice::Script script;
  const auto solver = Eigensolver::Create(EigensolverChoice::kAuto, nullptr, Opens(&script));
  ASSERT_OK(solver.status());
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 5; ++i) ExpectDecomposes(**solver, 10 * t + i);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(script.calls, 20u);
  EXPECT_EQ(script.opened, 1);
}

TEST(Eigensolver, ChoicesHaveNames) {
  EXPECT_EQ(*ParseEigensolverChoice("auto"), EigensolverChoice::kAuto);
  EXPECT_EQ(*ParseEigensolverChoice("cpu"), EigensolverChoice::kCpu);
  EXPECT_EQ(*ParseEigensolverChoice("cuda"), EigensolverChoice::kCuda);
  EXPECT_THAT(ParseEigensolverChoice("gpu").status().message(),
              HasSubstr("eigensolver is 'gpu', allowed: auto, cpu, cuda"));
}

}  // namespace
}  // namespace varve::worker
