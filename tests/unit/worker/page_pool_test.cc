#include "gpu_worker/page_pool.h"

#include <cmath>
#include <cstring>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_client.h"

namespace varve::worker {
namespace {

using ::testing::HasSubstr;

constexpr page::Geometry kGeometry{1, 2, 4, 64, 16, page::DType::kF32};

class MovedClock final : public base::Clock {
 public:
  absl::Time Now() const override { return now; }
  absl::Time now = absl::FromUnixSeconds(1000);
};

class PagePoolTest : public ::testing::Test {
 protected:
  std::unique_ptr<PagePool> Make(uint32_t pages) {
    auto memory = client_.Allocate(pages * kGeometry.page_bytes());
    auto pool = HostPagePool::Create(kGeometry, std::move(*memory), 1, &clock_);
    EXPECT_TRUE(pool.ok()) << pool.status();
    return std::move(*pool);
  }
  varve::testing::FakeClient client_;
  MovedClock clock_;
};

TEST_F(PagePoolTest, GivesEverySlotOnce) {
  const auto pool = Make(10);
  std::vector<Slot> slots(10);
  ASSERT_TRUE(pool->Allocate(slots));
  EXPECT_EQ(std::set<Slot>(slots.begin(), slots.end()).size(), 10u);
  EXPECT_EQ(pool->free(), 0u);
  Slot one = kNoSlot;
  EXPECT_FALSE(pool->Allocate({&one, 1}));
  pool->Free(slots);
  EXPECT_EQ(pool->free(), 10u);
}

TEST_F(PagePoolTest, AllOrNothingAndSome) {
  const auto pool = Make(4);
  std::vector<Slot> slots(5);
  EXPECT_FALSE(pool->Allocate(slots));
  EXPECT_EQ(pool->free(), 4u);
  EXPECT_EQ(pool->AllocateSome(slots, 3), 1u);
  EXPECT_EQ(pool->AllocateSome(slots, 3), 0u);
  EXPECT_EQ(pool->AllocateSome(slots, 9), 0u);
  EXPECT_EQ(pool->AllocateSome(slots), 3u);
  EXPECT_EQ(pool->AllocateSome(slots), 0u);
}

TEST_F(PagePoolTest, GenerationTellsTheNextOwner) {
  const auto pool = Make(1);
  Slot slot = kNoSlot;
  ASSERT_TRUE(pool->Allocate({&slot, 1}));
  const uint32_t first = pool->generation(slot);
  pool->Free({&slot, 1});
  EXPECT_EQ(pool->generation(slot), first);
  ASSERT_TRUE(pool->Allocate({&slot, 1}));
  EXPECT_NE(pool->generation(slot), first);
  const uint32_t second = pool->generation(slot);
  pool->Recycle({&slot, 1});
  EXPECT_NE(pool->generation(slot), second);
}

TEST_F(PagePoolTest, QuarantineHoldsSlotsBackForATimeAfterAnAnswer) {
  const auto pool = Make(2);
  std::vector<Slot> slots(2);
  ASSERT_TRUE(pool->Allocate(slots));
  const absl::Time before = pool->Now();
  clock_.now += absl::Seconds(1);
  pool->Quarantine(slots, absl::Seconds(5));
  EXPECT_TRUE(pool->AwaitsAnswer());
  // A store that hangs may write at any time.
  clock_.now += absl::Hours(5);
  EXPECT_EQ(pool->AllocateSome(slots), 0u);
  pool->NoteAnswer(before);  // was asked earlier: says nothing about what came after
  EXPECT_TRUE(pool->AwaitsAnswer());
  pool->NoteAnswer(pool->Now());
  EXPECT_FALSE(pool->AwaitsAnswer());
  clock_.now += absl::Seconds(4);
  EXPECT_EQ(pool->AllocateSome(slots), 0u);
  EXPECT_EQ(pool->free(), 0u);
  EXPECT_EQ(pool->quarantined(), 2u);
  clock_.now += absl::Seconds(1);
  EXPECT_EQ(pool->free(), 2u);
  EXPECT_EQ(pool->quarantined(), 0u);
  EXPECT_EQ(pool->AllocateSome(slots), 2u);
}

TEST_F(PagePoolTest, WritesStridedRowsIntoTheParts) {
  const auto pool = Make(1);
  Slot slot = kNoSlot;
  ASSERT_TRUE(pool->Allocate({&slot, 1}));
  const size_t d = kGeometry.head_dim;
  std::vector<float> source(3 * 2 * d);  // [token][2 heads][d]
  for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<float>(i);
  const auto* bytes = reinterpret_cast<const std::byte*>(source.data());
  const size_t row = kGeometry.row_bytes();
  pool->WriteRows(slot, page::Part::kV, 4, 3, bytes + row, 2 * row);
  const page::PageView view = pool->ViewOf(slot, 7);
  const auto* v = static_cast<const float*>(view.v);
  for (size_t t = 0; t < 3; ++t) {
    EXPECT_EQ(0, std::memcmp(v + (4 + t) * d, source.data() + (2 * t + 1) * d, row));
  }
}

#ifndef NDEBUG
TEST_F(PagePoolTest, FreedSlotsArePoisoned) {
  const auto pool = Make(1);
  Slot slot = kNoSlot;
  ASSERT_TRUE(pool->Allocate({&slot, 1}));
  std::memset(pool->Data(slot), 0, pool->page_bytes());
  pool->Free({&slot, 1});
  EXPECT_TRUE(std::isnan(*reinterpret_cast<const float*>(pool->Data(slot))));
}
#endif

TEST_F(PagePoolTest, TooSmallNamesTheNeed) {
  auto memory = client_.Allocate(10 * kGeometry.page_bytes());
  const auto pool = HostPagePool::Create(kGeometry, std::move(*memory), 64);
  EXPECT_EQ(pool.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(pool.status().message()), HasSubstr("at least 64 pages"));
}

}  // namespace
}  // namespace varve::worker
