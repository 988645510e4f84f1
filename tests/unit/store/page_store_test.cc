// The page store's promises (page_store.h), on a small host tier with a clock that the test moves.
#include "kvstore/store/page_store.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/page/checksum.h"
#include "kvstore/tier/host_tier.h"
#include "tests/support/commit_now.h"
#include "tests/support/manual_clock.h"

namespace varve::store {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kSlot = 4096;
constexpr uint64_t kCapacity = 100 * kSlot;

page::ObjectKey Key(std::string_view bytes) { return *page::ObjectKey::FromBytes(bytes); }

class PageStoreTest : public testing::Test {
 protected:
  void SetUp() override { Start({}); }

  void Start(const PageStoreOptions& options) {
    store_.reset();
    auto tier = tier::HostTier::Create({.capacity_bytes = kCapacity});
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
    auto store = PageStore::Create(tier_.get(), options, &clock_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    ns_ = *store_->InternNamespace("model");
  }

  static std::vector<std::byte> Value(std::string_view key, size_t bytes) {
    std::mt19937_64 random(std::hash<std::string_view>()(key));
    std::vector<std::byte> value(bytes);
    for (std::byte& b : value) b = static_cast<std::byte>(random());
    return value;
  }
  absl::Status Put(std::string_view key, ObjectMeta meta = {.bytes = kSlot}) {
    clock_.Advance(absl::Seconds(1));
    auto put = store_->Reserve(ns_, Key(key), meta);
    if (!put.ok()) return put.status();
    const auto value = Value(key, meta.bytes);
    std::memcpy((*put)->memory().data(), value.data(), value.size());
    return CommitNow(**put, std::nullopt);
  }
  // What a reader sees: "hit", "wrong bytes" or the reason of the miss.
  std::string Read(std::string_view key) {
    Miss miss;
    const auto get = store_->Acquire(ns_, Key(key), &miss);
    if (get == nullptr) {
      switch (miss.reason) {
        case MissReason::kNeverStored:
          return "never stored";
        case MissReason::kEvicted:
          return "evicted";
        case MissReason::kCorrupt:
          return "corrupt";
        default:
          return "other";
      }
    }
    const auto value = Value(key, get->meta().bytes);
    return std::equal(value.begin(), value.end(), get->memory().begin(), get->memory().end())
               ? "hit"
               : "wrong bytes";
  }
  // Fills the tier with objects fill-000, fill-001 ... below the high watermark.
  void Fill(int count) {
    for (int i = 0; i < count; ++i) ASSERT_TRUE(Put(Name(i)).ok()) << i;
  }
  static std::string Name(int i) {
    std::string digits = std::to_string(i);
    return "fill-" + std::string(3 - digits.size(), '0') + digits;
  }

  testing_support::ManualClock clock_;
  std::unique_ptr<tier::HostTier> tier_;
  std::unique_ptr<PageStore> store_;
  NamespaceId ns_ = 0;
};

// ---- options

TEST_F(PageStoreTest, BadOptionsNameWhatIsAllowed) {
  const auto error = [&](const PageStoreOptions& options) {
    return PageStore::Create(tier_.get(), options, &clock_).status().ToString();
  };
  EXPECT_THAT(error({.eviction = "random"}), AllOf(HasSubstr("'random'"), HasSubstr("lru")));
  for (auto [low, high] : {std::pair{0.9, 0.8},
                           {0.0, 0.5},
                           {0.5, 1.1},
                           {-1.0, 0.5},
                           {std::numeric_limits<double>::quiet_NaN(), 0.5}}) {
    EXPECT_THAT(error({.low_watermark = low, .high_watermark = high}),
                AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("0 < low <= high <= 1")));
  }
  EXPECT_THAT(error({.max_object_bytes = 0}), HasSubstr("max_object_bytes"));
}

TEST_F(PageStoreTest, NamespacesAreInternedAndApart) {
  EXPECT_EQ(*store_->InternNamespace("model"), ns_);
  const NamespaceId other = *store_->InternNamespace("other");
  EXPECT_NE(other, ns_);
  ASSERT_TRUE(Put("key-1").ok());
  EXPECT_TRUE(store_->Exists(ns_, Key("key-1")));
  EXPECT_FALSE(store_->Exists(other, Key("key-1")));
}

// ---- writing

TEST_F(PageStoreTest, StoresAndReadsBack) {
  const page::ObjectLayout layout{4, 512};
  ASSERT_TRUE(Put("key-1", {.bytes = layout.object_bytes(), .layout = layout}).ok());
  Miss miss;
  const auto get = store_->Acquire(ns_, Key("key-1"), &miss);
  ASSERT_NE(get, nullptr);
  const auto value = Value("key-1", 4096);
  EXPECT_EQ(std::memcmp(get->memory().data(), value.data(), value.size()), 0);
  EXPECT_EQ(get->crc32c(), page::Crc32c(value.data(), value.size()));
  EXPECT_EQ(get->tier(), TierId::kHost);
  EXPECT_EQ(get->meta().layout, layout);
  EXPECT_EQ(get->meta().codec, "raw");
}

TEST_F(PageStoreTest, RefusesBadMetadataAndNamesWhatIsAllowed) {
  EXPECT_THAT(Put("key-1", {.bytes = 0}).ToString(),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("1..67108864")));
  EXPECT_THAT(Put("key-1", {.bytes = (64 << 20) + 1}).ToString(), HasSubstr("INVALID_ARGUMENT"));
  EXPECT_THAT(Put("key-1", {.bytes = kCapacity + 1}).ToString(), HasSubstr("INVALID_ARGUMENT"));
  EXPECT_THAT(Put("key-1", {.bytes = 4096, .layout = {4, 511}}).ToString(),
              AllOf(HasSubstr("4088 bytes"), HasSubstr("the object has 4096")));
  EXPECT_THAT(Put("key-1", {.bytes = 4096, .layout = {0, 512}}).ToString(), HasSubstr("opaque"));
  EXPECT_THAT(Put("key-1", {.bytes = 4096, .codec = "zip"}).ToString(),
              AllOf(HasSubstr("'zip'"), HasSubstr("raw")));
  EXPECT_THAT(store_->Reserve(ns_, page::ObjectKey(), {.bytes = 1}).status().ToString(),
              AllOf(HasSubstr("key is empty"), HasSubstr("4..63")));
  EXPECT_EQ(tier_->Usage().slots, 0u);
}

TEST_F(PageStoreTest, NothingIsVisibleBeforeCommit) {
  auto put = store_->Reserve(ns_, Key("key-1"), {.bytes = 100});
  ASSERT_TRUE(put.ok());
  EXPECT_EQ((*put)->memory().size(), 100u);
  EXPECT_FALSE(store_->Exists(ns_, Key("key-1")));
  EXPECT_EQ(Read("key-1"), "never stored");
  EXPECT_THAT(store_->List(ns_, "", "", 10), IsEmpty());
  ASSERT_TRUE(CommitNow(**put, std::nullopt).ok());
  EXPECT_TRUE(store_->Exists(ns_, Key("key-1")));
  EXPECT_TRUE((*put)->memory().empty()) << "committed bytes are immutable";
  EXPECT_EQ(CommitNow(**put, std::nullopt).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(PageStoreTest, AbandonedReservationsGiveTheirSpaceBack) {
  { const auto put = store_->Reserve(ns_, Key("key-1"), {.bytes = 100}); }
  EXPECT_EQ(tier_->Usage().slots, 0u);
}

TEST_F(PageStoreTest, FirstCommitWins) {
  auto a = store_->Reserve(ns_, Key("key-1"), {.bytes = 100});
  auto b = store_->Reserve(ns_, Key("key-1"), {.bytes = 100});
  ASSERT_TRUE(a.ok() && b.ok());
  std::memset((*a)->memory().data(), 'a', 100);
  std::memset((*b)->memory().data(), 'b', 100);
  EXPECT_TRUE(CommitNow(**b, std::nullopt).ok());
  EXPECT_EQ(CommitNow(**a, std::nullopt).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(tier_->Usage().slots, 1u) << "the loser's space is given back at once";
  EXPECT_EQ(store_->Acquire(ns_, Key("key-1"), nullptr)->memory()[0], std::byte{'b'});
  EXPECT_EQ(store_->Reserve(ns_, Key("key-1"), {.bytes = 100}).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST_F(PageStoreTest, WrongChecksumIsNotStored) {
  for (const page::ObjectLayout& layout : {page::ObjectLayout{}, page::ObjectLayout{2, 1000}}) {
    const auto value = Value("key-1", 4000);
    const uint32_t crc = page::Crc32c(value.data(), value.size());
    for (const uint32_t expected : {crc ^ 1, crc}) {
      auto put = store_->Reserve(ns_, Key("key-1"), {.bytes = 4000, .layout = layout});
      ASSERT_TRUE(put.ok());
      std::memcpy((*put)->memory().data(), value.data(), value.size());
      EXPECT_EQ(CommitNow(**put, expected).code(),
                expected == crc ? absl::StatusCode::kOk : absl::StatusCode::kDataLoss);
      EXPECT_EQ(store_->Exists(ns_, Key("key-1")), expected == crc);
    }
    EXPECT_TRUE(store_->Remove(ns_, Key("key-1"), false));
    EXPECT_EQ(tier_->Usage().slots, 0u);
  }
}

// ---- removal and handles

TEST_F(PageStoreTest, RemovedBytesStayValidForTheirReaders) {
  ASSERT_TRUE(Put("key-1").ok());
  auto first = store_->Acquire(ns_, Key("key-1"), nullptr);
  auto second = store_->Acquire(ns_, Key("key-1"), nullptr);
  EXPECT_TRUE(store_->Remove(ns_, Key("key-1"), false));
  EXPECT_FALSE(store_->Exists(ns_, Key("key-1")));
  EXPECT_FALSE(store_->Remove(ns_, Key("key-1"), false));
  // A new object of the same key does not touch the old bytes.
  ASSERT_TRUE(Put("key-1").ok());
  EXPECT_NE(store_->Acquire(ns_, Key("key-1"), nullptr)->memory().data(), first->memory().data());
  const auto value = Value("key-1", kSlot);
  EXPECT_EQ(std::memcmp(first->memory().data(), value.data(), value.size()), 0);
  EXPECT_EQ(tier_->Usage().slots, 2u);
  first.reset();
  EXPECT_EQ(tier_->Usage().slots, 2u);
  second.reset();
  EXPECT_EQ(tier_->Usage().slots, 1u);
}

TEST_F(PageStoreTest, RemoveRespectsPinsAndHoldsUnlessForced) {
  ASSERT_TRUE(Put("block-hash-0001").ok());
  const page::ObjectKey key = Key("block-hash-0001");
  EXPECT_TRUE(store_->Pin(ns_, key, 7, absl::InfiniteDuration()));
  EXPECT_FALSE(store_->Remove(ns_, key, false));
  EXPECT_TRUE(store_->Unpin(ns_, key, 7));
  const std::vector<std::string> hash = {"block-hash-"};
  store_->Hold(ns_, hash);
  EXPECT_FALSE(store_->Remove(ns_, key, false));
  EXPECT_TRUE(store_->Remove(ns_, key, true));
  store_->Release(ns_, hash);
}

// ---- eviction

TEST_F(PageStoreTest, EvictsFromHighToLowWatermarkOldestFirst) {
  Fill(95);
  EXPECT_EQ(store_->Usage().eviction.evicted_objects, 0u) << "95 % is not above the high watermark";
  ASSERT_TRUE(Put("one-more").ok());
  const PageStoreUsage usage = store_->Usage();
  EXPECT_EQ(usage.eviction.evicted_objects, 11u) << "down to 85 %, the newcomer included";
  EXPECT_EQ(usage.eviction.evicted_bytes, 11 * kSlot);
  EXPECT_EQ(usage.objects, 85u);
  EXPECT_EQ(usage.host.used_bytes, 85 * kSlot);
  EXPECT_EQ(Read(Name(10)), "evicted");
  EXPECT_EQ(Read(Name(11)), "hit");
  EXPECT_EQ(Read("absent"), "never stored");
  EXPECT_EQ(Read("one-more"), "hit");
}

TEST_F(PageStoreTest, ReadObjectsOutliveUnreadOnes) {
  Fill(95);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Read(Name(i)), "hit");
  ASSERT_TRUE(Put("one-more").ok());
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Read(Name(i)), "hit") << i;
  EXPECT_EQ(Read(Name(15)), "evicted");
}

TEST_F(PageStoreTest, ReportsEvictedObjectsWithTheirIdleTime) {
  std::vector<std::pair<uint64_t, double>> evicted;
  Start({.on_evicted = [&](TierId, uint64_t n, double s) { evicted.emplace_back(n, s); }});
  Fill(95);
  clock_.Advance(absl::Seconds(100));
  ASSERT_TRUE(Put("one-more").ok());
  ASSERT_EQ(evicted.size(), 11u);
  // fill-000 was stored 94 s before fill-094, 195 s before the newcomer.
  EXPECT_EQ(evicted.front().first, kSlot);
  EXPECT_DOUBLE_EQ(evicted.front().second, 195);
  EXPECT_DOUBLE_EQ(evicted.back().second, 185);
  EXPECT_DOUBLE_EQ(store_->Usage().eviction.last_evicted_idle_seconds, 185);
}

TEST_F(PageStoreTest, LargeReservationMakesItsRoom) {
  Fill(90);
  ASSERT_TRUE(Put("large", {.bytes = 80 * kSlot}).ok());
  EXPECT_EQ(Read("large"), "hit");
  EXPECT_LE(store_->Usage().objects, 21u);
  for (int i = 0; i < 90; ++i) ASSERT_TRUE(Put("tiny" + std::to_string(i), {.bytes = 1}).ok());
  EXPECT_TRUE(Put("big one", {.bytes = 80 * kSlot}).ok()) << "a tiny object fills a slot too";
}

TEST_F(PageStoreTest, GuardedObjectsAreNeverEvicted) {
  Fill(40);
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(store_->Pin(ns_, Key(Name(i)), 7, absl::InfiniteDuration()));
  }
  std::vector<std::unique_ptr<GetHandle>> handles;
  for (int i = 10; i < 20; ++i) handles.push_back(store_->Acquire(ns_, Key(Name(i)), nullptr));
  // fill-020 .. fill-029 share the group "fill" with all others; hold a group of its own.
  const std::vector<std::string> held = {"block-hash-"};
  store_->Hold(ns_, held);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(Put("block-hash-000" + std::to_string(i)).ok());
  EXPECT_EQ(store_->Usage().pinned_bytes, 30 * kSlot);
  for (int i = 100; i < 300; ++i) ASSERT_TRUE(Put(Name(i)).ok());
  EXPECT_GT(store_->Usage().eviction.evicted_objects, 100u);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Read(Name(i)), "hit") << i;
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Read("block-hash-000" + std::to_string(i)), "hit");
  EXPECT_EQ(Read(Name(25)), "evicted");
  handles.clear();
  store_->UnpinAll(7);
  store_->Release(ns_, held);
  EXPECT_EQ(store_->Usage().pinned_bytes, 0u);
  for (int i = 300; i < 500; ++i) ASSERT_TRUE(Put(Name(i)).ok());
  EXPECT_EQ(Read(Name(0)), "evicted");
  EXPECT_EQ(Read("block-hash-0000"), "evicted");
}

TEST_F(PageStoreTest, FullOfPinnedIsAClearErrorAndCostsNothing) {
  Fill(90);
  for (int i = 0; i < 80; ++i) {
    EXPECT_TRUE(store_->Pin(ns_, Key(Name(i)), 7, absl::InfiniteDuration()));
  }
  const absl::Status status = Put("too-large", {.bytes = 30 * kSlot});
  EXPECT_THAT(status.ToString(),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr(std::to_string(30 * kSlot)),
                    HasSubstr(std::to_string(80 * kSlot) + " of them")));
  EXPECT_EQ(store_->Usage().objects, 90u) << "what cannot succeed must not evict";
  EXPECT_TRUE(Put("fits", {.bytes = 20 * kSlot}).ok());
}

TEST_F(PageStoreTest, SoftPinsLapseWithTheClock) {
  Fill(90);
  for (int i = 0; i < 90; ++i) EXPECT_TRUE(store_->Pin(ns_, Key(Name(i)), 7, absl::Hours(1)));
  EXPECT_EQ(store_->Usage().pinned_bytes, 90 * kSlot);
  EXPECT_FALSE(Put("large", {.bytes = 50 * kSlot}).ok());
  clock_.Advance(absl::Hours(2));
  EXPECT_TRUE(Put("large", {.bytes = 50 * kSlot}).ok());
  EXPECT_EQ(store_->Usage().pinned_bytes, 0u);
  EXPECT_FALSE(store_->Pin(ns_, Key("large"), 7, absl::ZeroDuration()));
  EXPECT_FALSE(store_->Pin(ns_, Key("absent"), 7, absl::Hours(1)));
}

TEST_F(PageStoreTest, MemoryOfEvictionsIsBoundedAndHealsOnStore) {
  Start({.evicted_memory = 4});
  Fill(95);
  ASSERT_TRUE(Put("one-more").ok());
  EXPECT_EQ(Read(Name(0)), "never stored") << "only the last 4 of 11 are remembered";
  EXPECT_EQ(Read(Name(10)), "evicted");
  ASSERT_TRUE(Put(Name(10)).ok());
  EXPECT_EQ(Read(Name(10)), "hit");
  EXPECT_TRUE(store_->Remove(ns_, Key(Name(10)), false));
  EXPECT_EQ(Read(Name(10)), "never stored") << "removed by its owner, not evicted";
}

// ---- verification

TEST_F(PageStoreTest, VerifyDropsACorruptObjectOnce) {
  const page::ObjectLayout layout{4, 512};
  ASSERT_TRUE(Put("key-1", {.bytes = 4096, .layout = layout}).ok());
  auto a = store_->Acquire(ns_, Key("key-1"), nullptr);
  auto b = store_->Acquire(ns_, Key("key-1"), nullptr);
  EXPECT_TRUE(a->Verify({}).ok());
  // V of head 2, flipped behind the store's back.
  const_cast<std::byte&>(a->memory()[5 * 512 + 9]) ^= std::byte{1};
  EXPECT_TRUE(a->Verify({page::Part::kK, 0, 0}).ok()) << "other granules are still good";
  EXPECT_TRUE(a->Verify({page::Part::kV, 0, 2}).ok());
  EXPECT_TRUE(store_->Exists(ns_, Key("key-1")));
  EXPECT_THAT(a->Verify({page::Part::kV, 2, 1}).ToString(),
              AllOf(HasSubstr("DATA_LOSS"), HasSubstr("granule 5")));
  EXPECT_FALSE(store_->Exists(ns_, Key("key-1")));
  EXPECT_EQ(b->Verify({}).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(store_->Usage().checksum_failures, 1u);
  EXPECT_EQ(Read("key-1"), "corrupt");
  a.reset();
  b.reset();
  EXPECT_EQ(tier_->Usage().slots, 0u);
  EXPECT_TRUE(Put("key-1", {.bytes = 4096, .layout = layout}).ok()) << "it can be stored anew";
  EXPECT_EQ(Read("key-1"), "hit");
}

TEST_F(PageStoreTest, VerifyJudgesWhatWasCopied) {
  const page::ObjectLayout layout{4, 512};
  ASSERT_TRUE(Put("key-1", {.bytes = 4096, .layout = layout}).ok());
  std::vector<std::byte> copy(4096);
  {
    const auto get = store_->Acquire(ns_, Key("key-1"), nullptr);
    get->CopyTo(copy.data(), get->memory().data(), 1000);
    get->CopyTo(copy.data() + 1000, get->memory().data() + 1000, 3096);
    EXPECT_TRUE(std::ranges::equal(copy, get->memory()));
    EXPECT_TRUE(get->Verify({}).ok());
  }
  const auto get = store_->Acquire(ns_, Key("key-1"), nullptr);
  std::byte& last = const_cast<std::byte&>(get->memory()[4095]);
  last ^= std::byte{1};
  get->CopyTo(copy.data(), get->memory().data(), 4096);
  last ^= std::byte{1};
  EXPECT_TRUE(get->Verify({page::Part::kKV, 0, 3}).ok()) << "other granules are still good";
  EXPECT_EQ(get->Verify({}).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(store_->Usage().checksum_failures, 1u);
  EXPECT_EQ(Read("key-1"), "corrupt");
}

// What is copied in and what a transfer puts there are checked alike.
TEST_F(PageStoreTest, CopiedBytesHaveTheSameChecksum) {
  std::vector<std::byte> value(200000);
  for (size_t i = 0; i < value.size(); ++i) value[i] = static_cast<std::byte>(i * 7 + i / 255);
  const uint32_t crc = page::Crc32c(value.data(), value.size());
  for (size_t copied : {size_t{0}, size_t{70001}, value.size()}) {
    const auto key = Key(absl::StrCat("copied-", copied));
    auto put = store_->Reserve(ns_, key, {.bytes = value.size()});
    ASSERT_TRUE(put.ok()) << put.status();
    std::memcpy((*put)->memory().data(), value.data(), value.size());
    (*put)->CopyFrom(0, value.data(), copied);
    EXPECT_EQ((*put)->checksummed(), copied == value.size());
    EXPECT_TRUE(CommitNow(**put, crc).ok());
    auto wrong = store_->Reserve(ns_, Key("wrong"), {.bytes = value.size()});
    ASSERT_TRUE(wrong.ok());
    (*wrong)->CopyFrom(0, value.data(), value.size());
    EXPECT_EQ(CommitNow(**wrong, crc ^ 1).code(), absl::StatusCode::kDataLoss);
  }
}

TEST_F(PageStoreTest, VerifyRefusesRangesThatDoNotFit) {
  ASSERT_TRUE(Put("key-1", {.bytes = 4096, .layout = {4, 512}}).ok());
  ASSERT_TRUE(Put("opaque", {.bytes = 4096}).ok());
  const auto get = store_->Acquire(ns_, Key("key-1"), nullptr);
  EXPECT_THAT(get->Verify({page::Part::kKV, 4, 1}).ToString(),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("4 KV heads")));
  EXPECT_EQ(get->Verify({page::Part::kK, 1, 4}).code(), absl::StatusCode::kInvalidArgument);
  const auto opaque = store_->Acquire(ns_, Key("opaque"), nullptr);
  EXPECT_EQ(opaque->Verify({page::Part::kK, 0, 1}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(opaque->Verify({}).ok());
}

// ---- listing

TEST_F(PageStoreTest, ListsAscendingAndPaged) {
  // More than one lock's worth of rows, of objects as small as they come.
  auto tier = tier::HostTier::Create({.capacity_bytes = 1 << 20, .slot_alignment_bytes = 64});
  ASSERT_TRUE(tier.ok());
  auto store = PageStore::Create(tier->get(), {}, &clock_);
  ASSERT_TRUE(store.ok());
  const NamespaceId ns = *(*store)->InternNamespace("n");
  std::vector<std::string> names;
  for (int i = 0; i < 1000; ++i) names.push_back("key-" + std::to_string(10000 + i * 7919 % 1000));
  for (const std::string& name : names) {
    auto put = (*store)->Reserve(ns, Key(name), {.bytes = 8});
    ASSERT_TRUE(put.ok());
    ASSERT_TRUE(CommitNow(**put, std::nullopt).ok());
  }
  std::sort(names.begin(), names.end());
  for (size_t limit : {1u, 7u, 256u, 257u, 2000u}) {
    std::vector<std::string> listed;
    for (bool more = true; more;) {
      const auto rows = (*store)->List(ns, "", listed.empty() ? "" : listed.back(), limit);
      for (const ObjectRow& row : rows) listed.emplace_back(row.key.bytes());
      more = rows.size() == limit;
    }
    EXPECT_EQ(listed, names) << "page size " << limit;
  }
  EXPECT_EQ((*store)->List(ns, "key-1001", "", 100).size(), 10u);
  EXPECT_THAT((*store)->List(ns, "nothing", "", 100), IsEmpty());
  EXPECT_THAT((*store)->List(ns + 1, "", "", 100), IsEmpty());
}

TEST_F(PageStoreTest, ListShowsPinsAndChecksum) {
  ASSERT_TRUE(Put("key-1").ok());
  store_->Pin(ns_, Key("key-1"), 7, absl::InfiniteDuration());
  store_->Pin(ns_, Key("key-1"), 8, absl::Hours(1));
  const auto rows = store_->List(ns_, "", "", 10);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].pins, 2u);
  EXPECT_EQ(rows[0].meta.bytes, kSlot);
  const auto value = Value("key-1", kSlot);
  EXPECT_EQ(rows[0].crc32c, page::Crc32c(value.data(), value.size()));
}

// ---- budgets and fragmentation

TEST_F(PageStoreTest, AHoleBetweenPinnedObjectsCostsNothingWhenItCannotBeMade) {
  Fill(90);
  for (int i = 0; i < 90; i += 10) ASSERT_TRUE(store_->Pin(ns_, Key(Name(i)), 1, absl::Hours(1)));
  ASSERT_TRUE(store_->Pin(ns_, Key(Name(89)), 1, absl::Hours(1)));
  // Nine slots lie between two pins, ten behind the last.
  for (int round = 0; round < 2; ++round) {
    const absl::Status status = Put("big object", {.bytes = 15 * kSlot});
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_GE(store_->Usage().objects, 85u) << "more than to the low watermark";
  }
  // Now there can be one, and no more than it needs goes.
  ASSERT_TRUE(store_->Unpin(ns_, Key(Name(40)), 1));
  EXPECT_TRUE(Put("big object", {.bytes = 15 * kSlot}).ok());
  EXPECT_EQ(Read("big object"), "hit");
  EXPECT_GE(store_->Usage().objects, 85u - 15);
  EXPECT_EQ(store_->Usage().host.slots, store_->Usage().objects);
}

TEST_F(PageStoreTest, NumberOfNamespacesIsLimited) {
  Start({.max_namespaces = 2});  // one of them is Start's
  const auto other = store_->InternNamespace("other");
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(store_->InternNamespace("third").status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(*store_->InternNamespace("other"), *other) << "known ones are found for ever";
}

}  // namespace
}  // namespace varve::store
