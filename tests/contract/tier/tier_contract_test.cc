// The tiers that every machine has. The GPU tier over a device that is there is in parity/.
#include "tests/contract/tier/tier_contract.h"
#include "kvstore/tier/gpu_tier.h"
#include "kvstore/tier/host_tier.h"
#include "tests/support/fake_device_memory.h"

namespace varve::tier {
namespace {

std::vector<TierCase> Tiers() {
  return {
      {.name = "host",
       .create = [] { return HostTier::Create({.capacity_bytes = kTierContractCapacity}); }},
      {.name = "gpu_over_fake_memory",
       .create =
           [] {
             auto memory = std::make_unique<FakeDeviceMemory>(kTierContractCapacity);
             return std::make_unique<GpuTier>(std::move(memory), 4096);
           }},
  };
}

INSTANTIATE_TEST_SUITE_P(Tiers, TierContractTest, testing::ValuesIn(Tiers()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace varve::tier
