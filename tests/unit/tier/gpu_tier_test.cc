// The GPU tier over memory that plays the device's; what every tier promises is in contract/tier.
#include "kvstore/tier/gpu_tier.h"

#include <atomic>
#include <future>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_device_memory.h"

namespace varve::tier {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

constexpr uint64_t kCapacity = 1 << 20;

std::string MessageOf(const GpuTierOptions& options) {
  const auto tier = GpuTier::Create(options);
  return tier.ok() ? "ok" : std::string(tier.status().ToString());
}

TEST(GpuTierCreateTest, RefusesSizesThatMakeNoSenseWithOrWithoutADevice) {
  EXPECT_THAT(MessageOf({.capacity_bytes = 0}),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("at least 4096")));
  EXPECT_THAT(MessageOf({.capacity_bytes = kCapacity, .slot_alignment_bytes = 100}),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("power of two")));
}

TEST(GpuTierCreateTest, WithoutADeviceItIsUnavailableAndSaysWhy) {
  EXPECT_THAT(MessageOf({.capacity_bytes = kCapacity}),
              testing::AnyOf("ok", AllOf(HasSubstr("UNAVAILABLE: gpu tier: "),
                                         testing::AnyOf(HasSubstr("built without CUDA"),
                                                        HasSubstr("cudaGetDeviceCount: cuda"),
                                                        HasSubstr("no CUDA device")))));
}

class GpuTierTest : public testing::Test {
 protected:
  GpuTierTest() {
    auto memory = std::make_unique<FakeDeviceMemory>(kCapacity);
    device_ = memory.get();
    tier_ = std::make_unique<GpuTier>(std::move(memory), 4096);
  }

  Slot Reserve(uint64_t bytes) {
    const auto slot = tier_->Reserve(bytes);
    EXPECT_TRUE(slot.ok()) << slot.status();
    return slot.value_or(Slot{});
  }
  std::future<absl::Status> Write(const Slot& slot, std::span<const std::byte> from) {
    auto promise = std::make_shared<std::promise<absl::Status>>();
    tier_->Write(slot, 0, from, [promise](absl::Status s) { promise->set_value(std::move(s)); });
    return promise->get_future();
  }
  std::future<absl::Status> Read(const Slot& slot, std::span<std::byte> to) {
    auto promise = std::make_shared<std::promise<absl::Status>>();
    tier_->Read(slot, 0, to, [promise](absl::Status s) { promise->set_value(std::move(s)); });
    return promise->get_future();
  }

  FakeDeviceMemory* device_;  // of the tier
  std::unique_ptr<GpuTier> tier_;
};

bool Ended(const std::future<absl::Status>& f) {
  return f.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

TEST_F(GpuTierTest, CallsReturnBeforeTheDeviceIsDoneAndKeepTheirOrder) {
  const Slot slot = Reserve(100);
  const std::vector<std::byte> first(100, std::byte{1}), second(100, std::byte{2});
  std::vector<std::byte> between(100), after(100);
  device_->Hold();
  auto a = Write(slot, first);
  auto b = Read(slot, between);
  auto c = Write(slot, second);
  auto d = Read(slot, after);
  device_->AwaitCopy();
  EXPECT_FALSE(Ended(a) || Ended(b) || Ended(c) || Ended(d));
  device_->Release();
  for (auto* f : {&a, &b, &c, &d}) EXPECT_EQ(f->get(), absl::OkStatus());
  EXPECT_EQ(between, first);
  EXPECT_EQ(after, second);
}

TEST_F(GpuTierTest, AnErrorReachesItsCopyAlone) {
  const Slot slot = Reserve(100);
  const std::vector<std::byte> value(100, std::byte{3});
  std::vector<std::byte> read(100);
  device_->FailStart(1, absl::InternalError("refused"));
  device_->FailCopy(2, absl::InternalError("broke off"));
  auto a = Write(slot, value);
  auto b = Read(slot, read);
  auto c = Read(slot, read);
  auto d = Read(slot, read);
  EXPECT_EQ(a.get(), absl::OkStatus());
  EXPECT_EQ(b.get(), absl::InternalError("refused"));
  EXPECT_EQ(c.get(), absl::InternalError("broke off"));
  EXPECT_EQ(d.get(), absl::OkStatus());
  EXPECT_EQ(read, value);
}

TEST_F(GpuTierTest, ADoneMayUseTheTier) {
  const Slot slot = Reserve(100);
  const std::vector<std::byte> value(100, std::byte{4});
  std::vector<std::byte> read(100);
  std::promise<absl::Status> ended;
  tier_->Write(slot, 0, value, [&](absl::Status written) {
    EXPECT_EQ(written, absl::OkStatus());
    tier_->Read(slot, 0, read, [&](absl::Status s) {
      tier_->Free(slot);
      EXPECT_EQ(tier_->Usage().slots, 0u);
      ended.set_value(std::move(s));
    });
  });
  EXPECT_EQ(ended.get_future().get(), absl::OkStatus());
  EXPECT_EQ(read, value);
}

TEST_F(GpuTierTest, TheDeviceHasManyCopiesAtOnceButNoMoreThanItTakes) {
  constexpr size_t kCopies = 3 * DeviceMemory::kMaxCopies;
  const Slot slot = Reserve(4 * kCopies);
  std::vector<uint32_t> values(kCopies);
  std::iota(values.begin(), values.end(), 1u);
  std::atomic<size_t> done = 0;
  device_->Hold();
  for (size_t i = 0; i < kCopies; ++i) {
    tier_->Write(slot, 4 * i, std::as_bytes(std::span(values).subspan(i, 1)), [&](absl::Status s) {
      EXPECT_EQ(s, absl::OkStatus());
      ++done;
    });
  }
  device_->AwaitCopy();
  EXPECT_EQ(done, 0u);
  device_->Release();
  std::vector<uint32_t> read(kCopies);
  EXPECT_EQ(Read(slot, std::as_writable_bytes(std::span(read))).get(), absl::OkStatus());
  EXPECT_EQ(done, kCopies);
  EXPECT_THAT(read, ElementsAreArray(values));
  EXPECT_EQ(device_->most_under_way(), DeviceMemory::kMaxCopies);
}

TEST_F(GpuTierTest, EndsWhenAllThatWasAskedForIsDone) {
  constexpr size_t kCopies = 3 * DeviceMemory::kMaxCopies;
  const Slot slot = Reserve(8);
  const std::vector<std::byte> value(8);
  std::atomic<size_t> done = 0;
  device_->Hold();
  for (size_t i = 0; i < kCopies; ++i) tier_->Write(slot, 0, value, [&](absl::Status) { ++done; });
  EXPECT_EQ(done, 0u);
  device_->Release();
  tier_.reset();
  EXPECT_EQ(done, kCopies);
}

}  // namespace
}  // namespace varve::tier
