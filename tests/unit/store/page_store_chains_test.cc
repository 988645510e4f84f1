// What is stored of a chain of blocks is always its beginning, under every policy, with a disk
// below and without, in whatever order blocks are put and used.
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "kvstore/store/eviction_policy.h"
#include "tests/unit/store/disk_fixture.h"

namespace varve::store {
namespace {

constexpr uint32_t kLayers = 2;

struct Setting {
  std::string policy;
  std::optional<Durability> disk;  // nothing: none
};

std::vector<Setting> AllSettings() {
  std::vector<Setting> settings;
  for (const std::string& policy : EvictionPolicies().NameList()) {
    settings.push_back({policy, std::nullopt});
    settings.push_back({policy, Durability::kMemory});
    settings.push_back({policy, Durability::kNvmeAsync});
  }
  return settings;
}

std::string NameOf(const testing::TestParamInfo<Setting>& info) {
  const auto& [policy, disk] = info.param;
  if (!disk.has_value()) return policy + "_memory_alone";
  return policy + (*disk == Durability::kMemory ? "_over_disk" : "_async");
}

// Host memory for 16 objects, and on disk for 36 or so.
class Rig {
 public:
  explicit Rig(const Setting& setting)
      : f_({.durability = setting.disk.value_or(Durability::kMemory),
            .disk_slots = setting.disk.has_value() ? 64u : 0u,
            .eviction = setting.policy}) {}

  PageStore& store() { return f_.store(); }
  NamespaceId ns() const { return f_.ns(); }
  void Settle() {
    f_.Settle();
    store().Tick();
  }
  void Progress(std::mt19937_64& random) {
    for (uint64_t n = random() % 6; n > 0; --n) {
      if (f_.executor().pending() > 0) f_.executor().RunOne();
      if (f_.log().pending() > 0) f_.log().End(random() % f_.log().pending());
    }
  }
  uint64_t Cuts() {
    const PageStoreUsage usage = store().Usage();
    return usage.eviction.cut_objects + (usage.disk ? usage.disk->eviction.cut_objects : 0);
  }
  uint64_t Evicted() {
    const PageStoreUsage usage = store().Usage();
    return usage.disk ? usage.disk->eviction.evicted_objects : usage.eviction.evicted_objects;
  }
  // Once what is on its way to disk has left; false: there is no room.
  bool Put(const page::ObjectKey& key, const std::string& parent, uint32_t prompt_tokens = 0) {
    for (int tries = 0; tries < 8; ++tries) {
      auto put = store().Reserve(
          ns(), key, {.bytes = DiskFixture::kSlot, .prompt_tokens = prompt_tokens}, parent);
      if (put.ok()) {
        (*put)->Commit(std::nullopt, [](const absl::Status&) {});
        return true;
      }
      if (absl::IsAlreadyExists(put.status())) return true;
      if (!absl::IsUnavailable(put.status())) return false;
      Settle();
    }
    return false;
  }

 private:
  DiskFixture f_;
};

std::string BlockName(uint32_t block) { return absl::StrFormat("block-%08d", block); }
page::ObjectKey KeyOf(uint32_t block, uint32_t layer) {
  return *page::MakeObjectKey(BlockName(block), layer);
}

// A forest of prompts, and an engine that serves them.
class Walk {
 public:
  Walk(uint64_t seed, const Setting& setting) : random_(seed), rig_(setting) {}

  void Step() {
    const uint64_t dice = random_() % 100;
    if (dice < 70) {
      Serve(AnyPrompt());
    } else if (dice < 80) {
      Hold();
    } else if (dice < 85) {
      rig_.Settle();
    } else {
      rig_.Progress(random_);
    }
    Check();
  }
  void Finish() {
    rig_.Settle();
    Check();
    for (const auto& path : held_) rig_.store().Release(rig_.ns(), path);
    held_.clear();
    // Everything can leave: others come that are of no chain, and are used more.
    std::vector<page::ObjectKey> others;
    for (int i = 0; i < 400; ++i) {
      others.push_back(*page::ObjectKey::FromBytes(absl::StrCat("of-no-chain-", 1000 + i)));
      rig_.Put(others.back(), "", UINT32_MAX);
      rig_.Settle();
      for (size_t j = others.size() > 40 ? others.size() - 40 : 0; j < others.size(); ++j) {
        rig_.store().Acquire(rig_.ns(), others[j], nullptr);
      }
      rig_.Settle();
      Check();
    }
    for (uint32_t block = 0; block < parents_.size(); ++block) EXPECT_FALSE(Has(block)) << block;
  }

  uint64_t cuts() const { return cuts_; }
  uint64_t evicted() { return rig_.Evicted(); }

 private:
  static constexpr int kRoot = -1;

  std::vector<uint32_t> PathTo(int block) const {
    std::vector<uint32_t> path;
    for (; block != kRoot; block = parents_[static_cast<size_t>(block)]) {
      path.push_back(static_cast<uint32_t>(block));
    }
    std::reverse(path.begin(), path.end());
    return path;
  }
  // A beginning that was there before, mostly, and blocks that were not.
  std::vector<uint32_t> AnyPrompt() {
    const size_t from = parents_.size() > 12 ? parents_.size() - 12 : 0;
    int block = kRoot;
    if (!parents_.empty() && random_() % 4 > 0) {
      block = static_cast<int>(from + random_() % (parents_.size() - from));
    }
    for (uint64_t more = random_() % 6; more > 0; --more) {
      parents_.push_back(block);
      block = static_cast<int>(parents_.size() - 1);
    }
    return PathTo(block);
  }
  bool Has(uint32_t block) {
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      if (!rig_.store().Exists(rig_.ns(), KeyOf(block, layer))) return false;
    }
    return true;
  }
  bool HasAny(uint32_t block) {
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      if (rig_.store().Exists(rig_.ns(), KeyOf(block, layer))) return true;
    }
    return false;
  }
  size_t LongestPrefix(const std::vector<uint32_t>& prompt) {
    const auto end = std::find_if_not(prompt.begin(), prompt.end(),
                                      [this](uint32_t block) { return Has(block); });
    return static_cast<size_t>(end - prompt.begin());
  }
  // Uses what is there in some order, and puts the rest head first, block by block, as a prefill
  // does, until there is no room.
  void Serve(const std::vector<uint32_t>& prompt) {
    const size_t found = LongestPrefix(prompt);
    if (const uint64_t order = random_() % 3; order > 0) {
      for (size_t i = 0; i < found; ++i) {
        const uint32_t block = prompt[order == 1 ? i : found - 1 - i];
        for (uint32_t layer = 0; layer < kLayers; ++layer) {
          rig_.store().Acquire(rig_.ns(), KeyOf(block, layer), nullptr);
        }
      }
    }
    for (size_t i = found; i < prompt.size(); ++i) {
      if (LongestPrefix(prompt) < i) return;  // what was below it has left meanwhile
      for (uint32_t layer = 0; layer < kLayers; ++layer) {
        const std::string parent = i > 0 ? BlockName(prompt[i - 1]) : "";
        if (!rig_.Put(KeyOf(prompt[i], layer), parent, AnyTokens())) return;
        // While it waited for room, what it follows was an end, and may have left.
        if (i > 0 && !Has(prompt[i - 1])) alone_.insert(prompt[i]);
        Check();
        if (testing::Test::HasFatalFailure()) return;
      }
      if (random_() % 3 == 0) rig_.Progress(random_);
    }
  }
  uint32_t AnyTokens() { return static_cast<uint32_t>(random_() % 99999); }
  // An attached context, now and then.
  void Hold() {
    if (!held_.empty() && random_() % 2 == 0) {
      rig_.store().Release(rig_.ns(), held_.back());
      held_.pop_back();
    } else if (held_.size() < 2) {
      const std::vector<uint32_t> prompt = AnyPrompt();
      std::vector<std::string> path;
      for (size_t i = 0; i < std::min<size_t>(prompt.size(), 3); ++i) {
        path.push_back(BlockName(prompt[i]));
      }
      rig_.store().Hold(rig_.ns(), path);
      held_.push_back(std::move(path));
    }
  }
  // The disk may have nothing else that can leave: then it cuts a prompt, and counts that.
  void Check() {
    const uint64_t cuts = rig_.Cuts();
    const bool cut = std::exchange(cuts_, cuts) != cuts;
    for (uint32_t block = 0; block < parents_.size(); ++block) {
      const int parent = parents_[block];
      if (parent == kRoot || !HasAny(block) || Has(static_cast<uint32_t>(parent))) {
        alone_.erase(block);
      } else if (cut) {
        alone_.insert(block);
      } else {
        ASSERT_TRUE(alone_.contains(block))
            << "block " << block << " is stored without block " << parent << ", which it follows";
      }
    }
  }

  std::mt19937_64 random_;
  Rig rig_;
  std::vector<int> parents_;  // by block
  std::vector<std::vector<std::string>> held_;
  uint64_t cuts_ = 0;
  std::set<uint32_t> alone_;  // stored without what they follow, since a cut
};

class EveryStoreChainsTest : public testing::TestWithParam<Setting> {};

TEST_P(EveryStoreChainsTest, WhatIsStoredOfAChainIsItsBeginning) {
  uint64_t cuts = 0, evicted = 0;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Walk walk(seed, GetParam());
    for (int step = 0; step < 60; ++step) {
      walk.Step();
      if (testing::Test::HasFailure()) FAIL() << "at step " << step;
    }
    walk.Finish();
    if (testing::Test::HasFailure()) FAIL() << "at the end";
    cuts += walk.cuts();
    evicted += walk.evicted();
  }
  RecordProperty("cuts", static_cast<int>(cuts));
  RecordProperty("evicted", static_cast<int>(evicted));
  EXPECT_LE(cuts, GetParam().disk.has_value() ? evicted / 50 : 0) << "of " << evicted;
}

// More than there is room for: what comes too late is refused, or leaves first.
TEST_P(EveryStoreChainsTest, OfAChainThatIsTooLongTheBeginningStays) {
  Rig rig(GetParam());
  bool refused = false;
  for (uint32_t block = 0; block < 80 && !refused; ++block) {
    refused = !rig.Put(KeyOf(block, 0), block > 0 ? BlockName(block - 1) : "");
    rig.Settle();
  }
  uint32_t leading = 0;
  while (rig.store().Exists(rig.ns(), KeyOf(leading, 0))) ++leading;
  EXPECT_GE(leading, GetParam().disk.has_value() ? 36u : 13u);
}

// What must stay keeps what it follows only as long as something else can leave.
TEST(PageStoreChainsTest, APinnedEndDoesNotFreezeTheRest) {
  for (const std::string& policy : EvictionPolicies().NameList()) {
    SCOPED_TRACE(policy);
    Rig rig({policy, std::nullopt});
    uint32_t block = 0;
    for (; block < 13; ++block) {
      EXPECT_TRUE(rig.Put(KeyOf(block, 0), block > 0 ? BlockName(block - 1) : ""));
    }
    EXPECT_TRUE(rig.store().Pin(rig.ns(), KeyOf(block - 1, 0), 1, absl::InfiniteDuration()));
    for (uint32_t other = 100; other < 200; ++other) {
      EXPECT_TRUE(rig.Put(KeyOf(other, 0), other % 3 > 0 ? BlockName(other - 1) : "")) << other;
    }
    EXPECT_TRUE(rig.store().Exists(rig.ns(), KeyOf(block - 1, 0)));
  }
}

// A prompt that fills both tiers does not keep others from the disk.
TEST(PageStoreChainsTest, OthersReachADiskThatOneChainFills) {
  for (const std::string& policy : EvictionPolicies().NameList()) {
    SCOPED_TRACE(policy);
    DiskFixture f({.durability = Durability::kNvmeAsync, .disk_slots = 64, .eviction = policy});
    const auto settle = [&f] {
      f.Settle();
      f.store().Tick();
    };
    for (uint32_t block = 0; block < 60; ++block) {
      const std::string name(KeyOf(block, 0).bytes());
      f.Put(name, 0, {.bytes = DiskFixture::kSlot}, block > 0 ? BlockName(block - 1) : "");
      settle();
    }
    constexpr int kOthers = 40;
    for (int i = 0; i < kOthers; ++i) {
      const auto put = f.Put(absl::StrCat("other-", 1000 + i));
      ASSERT_TRUE(put->has_value() && (*put)->ok()) << **put;
      settle();
    }
    f.Crash();
    for (int i = kOthers - 10; i < kOthers; ++i) {
      EXPECT_EQ(f.Read(absl::StrCat("other-", 1000 + i)), 0) << i;
    }
  }
}

// After a restart the order is known by the labels on disk.
TEST(PageStoreChainsTest, ARestartKnowsTheChains) {
  for (const std::string& policy : EvictionPolicies().NameList()) {
    SCOPED_TRACE(policy);
    DiskFixture f({.durability = Durability::kNvmeAsync, .disk_slots = 48, .eviction = policy});
    constexpr uint32_t kBlocks = 10;
    const auto name = [](uint32_t block) { return std::string(KeyOf(block, 0).bytes()); };
    for (uint32_t block = 0; block < kBlocks; ++block) {
      f.Put(name(block), 0, {.bytes = DiskFixture::kSlot}, block > 0 ? BlockName(block - 1) : "");
      f.Settle();
    }
    f.Crash();
    uint32_t before = kBlocks;
    for (int i = 0; i < 400 && before > 0; ++i) {
      f.Put(absl::StrCat("other-", 1000 + i));
      f.Settle();
      f.store().Tick();
      uint32_t leading = 0, there = 0;
      for (uint32_t block = 0; block < kBlocks; ++block) {
        if (!f.store().Exists(f.ns(), f.Key(name(block)))) continue;
        leading += there == block ? 1 : 0;
        ++there;
      }
      ASSERT_EQ(leading, there) << "there is a hole, after " << i << " others";
      before = there;
    }
    EXPECT_EQ(before, 0u) << "it never leaves";
  }
}

TEST(PageStoreChainsTest, BlocksThatCannotFollowAreRefused) {
  Rig rig({"lru", std::nullopt});
  const auto refused = [&](const page::ObjectKey& key, const std::string& parent) {
    return rig.store().Reserve(rig.ns(), key, {.bytes = 100}, parent).status().code();
  };
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(refused(KeyOf(1, 0), BlockName(1)), kInvalid) << "its own";
  EXPECT_EQ(refused(KeyOf(1, 0), "abc"), kInvalid);
  EXPECT_EQ(refused(KeyOf(1, 0), std::string(60, 'x')), kInvalid);
  EXPECT_EQ(refused(*page::ObjectKey::FromBytes("short"), BlockName(1)), kInvalid);
  EXPECT_EQ(refused(KeyOf(1, 0), std::string(59, 'x')), absl::StatusCode::kOk);
  EXPECT_EQ(rig.store().Usage().objects, 0u);
}

// Two blocks that are said to follow each other: nothing is kept for ever.
TEST(PageStoreChainsTest, CirclesAreNoChains) {
  Rig rig({"lru", std::nullopt});
  for (const auto& [block, parent] : {std::pair{1u, 2u}, {2u, 3u}, {3u, 1u}}) {
    EXPECT_TRUE(rig.Put(KeyOf(block, 0), BlockName(parent)));
  }
  for (uint32_t block = 10; block < 60; ++block) EXPECT_TRUE(rig.Put(KeyOf(block, 0), ""));
  for (uint32_t block : {1u, 2u, 3u}) {
    EXPECT_FALSE(rig.store().Exists(rig.ns(), KeyOf(block, 0))) << block;
  }
}

// Cuts are counted for lack of room, not where they were asked for.
TEST(PageStoreChainsTest, EvictedOnRequestIsNoCut) {
  Rig rig({"lru", std::nullopt});
  EXPECT_TRUE(rig.Put(KeyOf(0, 0), ""));
  EXPECT_TRUE(rig.Put(KeyOf(1, 0), BlockName(0)));
  const auto evicted = rig.store().EvictMatching("model", BlockName(0));
  EXPECT_TRUE(evicted.ok() && evicted->objects == 1u);
  EXPECT_EQ(rig.Evicted(), 1u);
  EXPECT_EQ(rig.Cuts(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Settings, EveryStoreChainsTest, testing::ValuesIn(AllSettings()), NameOf);

}  // namespace
}  // namespace varve::store
