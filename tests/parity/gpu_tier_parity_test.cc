// The tier contract over a CUDA device, and what is particular to one.
#include <cuda_runtime_api.h>

#include <string>

#include "gmock/gmock.h"
#include "kvstore/tier/gpu_tier.h"
#include "tests/contract/tier/tier_contract.h"

namespace varve::tier {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

void NeedDevice() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(status);
  }
}

std::vector<std::byte> LoadDeviceMemory(std::span<const std::byte> mapped) {
  std::vector<std::byte> bytes(mapped.size());
  EXPECT_EQ(cudaMemcpy(bytes.data(), mapped.data(), bytes.size(), cudaMemcpyDeviceToHost),
            cudaSuccess);
  return bytes;
}

INSTANTIATE_TEST_SUITE_P(
    Gpu, TierContractTest,
    testing::Values(TierCase{
        .name = "gpu",
        .create = [] { return GpuTier::Create({.capacity_bytes = kTierContractCapacity}); },
        .load = LoadDeviceMemory,
        .need = NeedDevice}),
    [](const auto& info) { return info.param.name; });

std::string MessageOf(const GpuTierOptions& options) {
  const auto tier = GpuTier::Create(options);
  return tier.ok() ? "ok" : std::string(tier.status().ToString());
}

class GpuTierParityTest : public testing::Test {
 protected:
  void SetUp() override { NeedDevice(); }
};

TEST_F(GpuTierParityTest, RefusesADeviceThatIsNotThere) {
  EXPECT_THAT(MessageOf({.device = 1000, .capacity_bytes = 1 << 20}),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("device is 1000, allowed: 0..")));
}

TEST_F(GpuTierParityTest, RefusesMoreThanTheDeviceHasAndNamesIt) {
  EXPECT_THAT(MessageOf({.capacity_bytes = 1ull << 50}),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("1.00 PiB"),
                    HasSubstr("are free on CUDA device 0")));
}

TEST_F(GpuTierParityTest, MemoryGoesBackToTheDevice) {
  size_t free = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  const uint64_t bytes = free / 3 * 2;
  for (int i = 0; i < 2; ++i) EXPECT_EQ(MessageOf({.capacity_bytes = bytes}), "ok");
}

TEST(GpuTierWithoutADeviceTest, CreateSaysWhyThereIsNone) {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess && devices > 0) return;  // the tests above are of that machine
  EXPECT_THAT(MessageOf({.capacity_bytes = 1 << 20}),
              AllOf(HasSubstr("UNAVAILABLE: gpu tier: cudaGetDeviceCount"),
                    HasSubstr(cudaGetErrorName(error))));
}

}  // namespace
}  // namespace varve::tier
