// A stored prefix loses its end first.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/store/eviction_policy.h"
#include "kvstore/tier/host_tier.h"
#include "tests/support/commit_now.h"
#include "tests/support/manual_clock.h"

namespace varve::store {
namespace {

constexpr uint64_t kSlot = 4096;
constexpr uint32_t kBlocks = 10;

// Host memory for 20 objects of a block each.
class PageStoreOrderTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    tier_ = *tier::HostTier::Create({.capacity_bytes = 2 * kBlocks * kSlot});
    PageStoreOptions options;
    options.eviction = GetParam();
    options.low_watermark = 0.99;
    options.high_watermark = 1;
    store_ = *PageStore::Create(tier_.get(), options, &clock_);
    ns_ = *store_->InternNamespace("model");
    for (uint32_t i = 0; i < kBlocks; ++i) prefix_.push_back(absl::StrCat("prefix-of-it-", i));
  }

  static page::ObjectKey KeyOf(const std::string& block) {
    return *page::ObjectKey::FromBytes(block + std::string(4, '\0'));
  }
  void Put(const std::string& block) {
    auto put = store_->Reserve(ns_, KeyOf(block), {.bytes = kSlot});
    ASSERT_TRUE(put.ok()) << put.status();
    ASSERT_TRUE(CommitNow(**put, std::nullopt).ok());
  }
  // In the order of the server's batches.
  void PutPrefix() {
    for (uint32_t i = kBlocks; i-- > 0;) Put(prefix_[i]);
  }
  // Others come until nothing of the prefix is left: its end leaves first.
  void ExpectItLosesItsEndFirst() {
    uint32_t before = kBlocks;
    for (int i = 0; i < 1000 && before > 0; ++i) {
      const std::string other = absl::StrCat("other-blocks-", others_++);
      Put(other);
      store_->Acquire(ns_, KeyOf(other), nullptr);  // no less used than the prefix
      uint32_t leading = 0, there = 0;
      for (uint32_t b = 0; b < kBlocks; ++b) {
        if (!store_->Exists(ns_, KeyOf(prefix_[b]))) continue;
        leading += there == b ? 1 : 0;
        ++there;
      }
      ASSERT_EQ(leading, there) << "there is a hole, after " << i << " others";
      ASSERT_LE(there, before);
      before = there;
    }
    EXPECT_EQ(before, 0u) << "it never leaves";
  }

  testing_support::ManualClock clock_;
  std::unique_ptr<tier::HostTier> tier_;
  std::unique_ptr<PageStore> store_;
  NamespaceId ns_ = 0;
  std::vector<std::string> prefix_;
  int others_ = 0;
};

TEST_P(PageStoreOrderTest, OfWhatWasPut) {
  PutPrefix();
  ExpectItLosesItsEndFirst();
}

TEST_P(PageStoreOrderTest, OfWhatWasUsed) {
  PutPrefix();
  for (uint32_t i = kBlocks; i-- > 0;) store_->Acquire(ns_, KeyOf(prefix_[i]), nullptr);
  ExpectItLosesItsEndFirst();
}

// Whatever the order in which they were put: held, they came up as victims and were passed over.
TEST_P(PageStoreOrderTest, OfWhatWasHeld) {
  for (const std::string& block : prefix_) Put(block);
  store_->Hold(ns_, prefix_);
  for (int i = 0; i < 500; ++i) Put(absl::StrCat("other-blocks-", others_++));
  for (const std::string& block : prefix_) EXPECT_TRUE(store_->Exists(ns_, KeyOf(block)));
  store_->Release(ns_, prefix_);
  ExpectItLosesItsEndFirst();
}

INSTANTIATE_TEST_SUITE_P(Policies, PageStoreOrderTest,
                         testing::ValuesIn(EvictionPolicies().NameList()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace varve::store
