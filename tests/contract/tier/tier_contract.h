// What every tier promises (tier.h): a suite to be instantiated with the tiers that a program has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "kvstore/tier/tier.h"

namespace varve::tier {

// The capacity of the tiers that the suite is given.
inline constexpr uint64_t kTierContractCapacity = 1 << 20;

std::vector<std::byte> LoadHostMemory(std::span<const std::byte> mapped);

struct TierCase {
  std::string name;
  std::function<absl::StatusOr<std::unique_ptr<Tier>>()> create;
  // The bytes of a slot's memory.
  std::function<std::vector<std::byte>(std::span<const std::byte> mapped)> load = LoadHostMemory;
  // Skips the test, with the reason, where the machine lacks what the tier needs.
  std::function<void()> need = [] {};
};
void PrintTo(const TierCase& c, std::ostream* os);

class TierContractTest : public testing::TestWithParam<TierCase> {
 protected:
  void SetUp() override;

  // Return when Done has run.
  absl::Status Write(const Slot& slot, uint64_t offset, std::span<const std::byte> from);
  absl::Status Read(const Slot& slot, uint64_t offset, std::span<std::byte> to);

  std::unique_ptr<Tier> tier_;

 private:
  static absl::Status Wait(absl::FunctionRef<void(Tier::Done)> start);
};

}  // namespace varve::tier
