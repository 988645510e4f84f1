// What every tier promises (tier.h), over each tier there is.
#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/tier/host_tier.h"
#include "kvstore/tier/tier.h"

namespace varve::tier {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kCapacity = 1 << 20;

struct TierCase {
  std::string name;
  std::function<absl::StatusOr<std::unique_ptr<Tier>>()> create;
};
void PrintTo(const TierCase& c, std::ostream* os) { *os << c.name; }

std::vector<TierCase> Tiers() {
  return {{"host", [] { return HostTier::Create({.capacity_bytes = kCapacity}); }}};
}

class TierContractTest : public testing::TestWithParam<TierCase> {
 protected:
  void SetUp() override {
    auto tier = GetParam().create();
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }

  absl::Status Write(const Slot& slot, uint64_t offset, std::span<const std::byte> from) {
    std::optional<absl::Status> result;
    tier_->Write(slot, offset, from, [&](absl::Status s) {
      EXPECT_FALSE(result.has_value()) << "Done ran twice";
      result = s;
    });
    return result.value();
  }
  absl::Status Read(const Slot& slot, uint64_t offset, std::span<std::byte> to) {
    std::optional<absl::Status> result;
    tier_->Read(slot, offset, to, [&](absl::Status s) {
      EXPECT_FALSE(result.has_value()) << "Done ran twice";
      result = s;
    });
    return result.value();
  }

  std::unique_ptr<Tier> tier_;
};

TEST_P(TierContractTest, ReserveNamesWhatIsAllowed) {
  EXPECT_THAT(tier_->Reserve(0).status().ToString(),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("1..1048576")));
  EXPECT_THAT(tier_->Reserve(kCapacity + 1).status().ToString(), HasSubstr("INVALID_ARGUMENT"));
  EXPECT_TRUE(tier_->Reserve(kCapacity).ok());
  EXPECT_THAT(tier_->Reserve(1).status().ToString(),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("largest hole has 0")));
}

TEST_P(TierContractTest, UsageFollowsReservations) {
  EXPECT_EQ(tier_->Usage().capacity_bytes, kCapacity);
  const auto slot = tier_->Reserve(5000);
  ASSERT_TRUE(slot.ok());
  EXPECT_EQ(slot->bytes, 5000u);
  EXPECT_GE(tier_->Usage().used_bytes, 5000u);
  EXPECT_EQ(tier_->Usage().slots, 1u);
  EXPECT_TRUE(tier_->Reserve(tier_->Usage().largest_free_bytes).ok());
  tier_->Free(*slot);
  EXPECT_EQ(tier_->Usage().slots, 1u);
}

TEST_P(TierContractTest, SlotsOfOnePlaceDifferInGeneration) {
  std::set<uint64_t> generations;
  for (int i = 0; i < 10; ++i) {
    const auto slot = tier_->Reserve(100);
    ASSERT_TRUE(slot.ok());
    EXPECT_TRUE(generations.insert(slot->generation).second);
    tier_->Free(*slot);
  }
}

TEST_P(TierContractTest, WrongFreesAreCountedAndHarmless) {
  const auto slot = tier_->Reserve(100);
  ASSERT_TRUE(slot.ok());
  tier_->Free(Slot{slot->offset, slot->bytes, slot->generation + 1});
  tier_->Free(Slot{kCapacity * 2, 1, 1});
  EXPECT_EQ(tier_->Usage().slots, 1u);
  tier_->Free(*slot);
  tier_->Free(*slot);
  EXPECT_EQ(tier_->Usage().slots, 0u);
  EXPECT_EQ(tier_->Usage().used_bytes, 0u);
  EXPECT_EQ(tier_->Usage().rejected_frees, 3u);
}

TEST_P(TierContractTest, BytesComeBackFromAnyOffset) {
  std::mt19937_64 random(11);
  std::vector<Slot> slots;
  std::vector<std::vector<std::byte>> values;
  for (int i = 0; i < 20; ++i) {
    const auto slot = tier_->Reserve(1 + random() % 20000);
    ASSERT_TRUE(slot.ok());
    std::vector<std::byte> value(slot->bytes);
    for (std::byte& b : value) b = static_cast<std::byte>(random());
    const size_t split = random() % (value.size() + 1);
    ASSERT_TRUE(Write(*slot, split, std::span(value).subspan(split)).ok());
    ASSERT_TRUE(Write(*slot, 0, std::span(value).first(split)).ok());
    slots.push_back(*slot);
    values.push_back(std::move(value));
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    const size_t from = random() % values[i].size();
    std::vector<std::byte> read(values[i].size() - from);
    ASSERT_TRUE(Read(slots[i], from, read).ok());
    EXPECT_TRUE(std::equal(read.begin(), read.end(), values[i].begin() + static_cast<long>(from)));
    if (const std::span<std::byte> mapped = tier_->Map(slots[i]); !mapped.empty()) {
      ASSERT_EQ(mapped.size(), values[i].size());
      EXPECT_EQ(std::memcmp(mapped.data(), values[i].data(), mapped.size()), 0);
    }
  }
}

TEST_P(TierContractTest, AccessOutsideTheSlotIsRefused) {
  const auto slot = tier_->Reserve(100);
  ASSERT_TRUE(slot.ok());
  std::vector<std::byte> buffer(101);
  EXPECT_THAT(Write(*slot, 0, buffer).ToString(),
              AllOf(HasSubstr("OUT_OF_RANGE"), HasSubstr("101 bytes")));
  EXPECT_EQ(Read(*slot, 1, std::span(buffer).first(100)).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Read(*slot, UINT64_MAX, std::span(buffer).first(2)).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(Read(*slot, 100, std::span(buffer).first(0)).ok());
  const Slot foreign{kCapacity - 10, 100, 1};
  EXPECT_EQ(Read(foreign, 0, std::span(buffer).first(100)).code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(tier_->Map(foreign).empty());
  EXPECT_TRUE(tier_->Map(Slot{}).empty());
}

TEST_P(TierContractTest, ManyThreadsNeverShareASlot) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      std::mt19937_64 random(static_cast<uint64_t>(t));
      for (int i = 0; i < 300; ++i) {
        const auto slot = tier_->Reserve(1 + random() % 30000);
        if (!slot.ok()) continue;
        const std::vector<std::byte> value(slot->bytes, static_cast<std::byte>(t * 64 + i));
        std::vector<std::byte> read(slot->bytes);
        tier_->Write(*slot, 0, value, [](absl::Status s) { EXPECT_TRUE(s.ok()); });
        tier_->Read(*slot, 0, read, [](absl::Status s) { EXPECT_TRUE(s.ok()); });
        EXPECT_EQ(value, read);
        tier_->Free(*slot);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(tier_->Usage().slots, 0u);
  EXPECT_EQ(tier_->Usage().largest_free_bytes, kCapacity);
}

INSTANTIATE_TEST_SUITE_P(Tiers, TierContractTest, testing::ValuesIn(Tiers()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace varve::tier
