#include "tests/contract/tier/tier_contract.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <random>
#include <set>
#include <thread>
#include <utility>

#include "gmock/gmock.h"

namespace varve::tier {

void PrintTo(const TierCase& c, std::ostream* os) { *os << c.name; }

std::vector<std::byte> LoadHostMemory(std::span<const std::byte> mapped) {
  return {mapped.begin(), mapped.end()};
}

void TierContractTest::SetUp() {
  GetParam().need();
  if (IsSkipped()) return;
  auto tier = GetParam().create();
  ASSERT_TRUE(tier.ok()) << tier.status();
  tier_ = *std::move(tier);
}

absl::Status TierContractTest::Wait(absl::FunctionRef<void(Tier::Done)> start) {
  // Shared with a Done that runs twice, which may come after this has returned.
  struct Ended {
    std::promise<absl::Status> status;
    std::atomic<int> times = 0;
  };
  auto ended = std::make_shared<Ended>();
  start([ended](absl::Status status) {
    if (ended->times++ == 0) {
      ended->status.set_value(std::move(status));
    } else {
      ADD_FAILURE() << "Done ran twice";
    }
  });
  return ended->status.get_future().get();
}

absl::Status TierContractTest::Write(const Slot& slot, uint64_t offset,
                                     std::span<const std::byte> from) {
  return Wait([&](Tier::Done done) { tier_->Write(slot, offset, from, std::move(done)); });
}

absl::Status TierContractTest::Read(const Slot& slot, uint64_t offset, std::span<std::byte> to) {
  return Wait([&](Tier::Done done) { tier_->Read(slot, offset, to, std::move(done)); });
}

namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST_P(TierContractTest, ReserveNamesWhatIsAllowed) {
  EXPECT_THAT(tier_->Reserve(0).status().ToString(),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("1..1048576")));
  EXPECT_THAT(tier_->Reserve(kTierContractCapacity + 1).status().ToString(),
              HasSubstr("INVALID_ARGUMENT"));
  EXPECT_TRUE(tier_->Reserve(kTierContractCapacity).ok());
  EXPECT_THAT(tier_->Reserve(1).status().ToString(),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("largest hole has 0")));
}

TEST_P(TierContractTest, UsageFollowsReservations) {
  EXPECT_EQ(tier_->Usage().capacity_bytes, kTierContractCapacity);
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
  tier_->Free(Slot{kTierContractCapacity * 2, 1, 1});
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
      EXPECT_EQ(GetParam().load(mapped), values[i]);
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
  const Slot foreign{kTierContractCapacity - 10, 100, 1};
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
        EXPECT_EQ(Write(*slot, 0, value), absl::OkStatus());
        EXPECT_EQ(Read(*slot, 0, read), absl::OkStatus());
        EXPECT_EQ(value, read);
        tier_->Free(*slot);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(tier_->Usage().slots, 0u);
  EXPECT_EQ(tier_->Usage().largest_free_bytes, kTierContractCapacity);
}

}  // namespace
}  // namespace varve::tier
