#include <thread>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "kvstore/page/checksum.h"
#include "tests/contract/client/fixture.h"

namespace varve::client::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class ObjectsTest : public ClientTest {};
VARVE_EACH_LANE(ObjectsTest);

TEST_P(ObjectsTest, NamesItsLane) { EXPECT_EQ(client().lane(), LaneName(GetParam())); }

TEST_P(ObjectsTest, ValuesOfAllSizesComeBackUnchanged) {
  constexpr size_t kSizes[] = {
      1, 2, 63, 4095, 4096, 4097, 65536, (1 << 20) - 1, (1 << 20) + 1, 16 << 20};
  const auto from = Allocate((16 << 20) + 7);
  const auto to = Allocate((16 << 20) + 7);
  for (const size_t size : kSizes) {
    SCOPED_TRACE(size);
    const std::string value = RandomBytes(size, size);
    const std::string key = "size-" + std::to_string(size);
    Fill(*from, 3, value);
    const auto put =
        client().Put(std::vector<PutItem>{{.key = Key(key),
                                           .sources = {{from.get(), 3, size}},
                                           .crc32c = page::Crc32c(value.data(), size)}});
    ASSERT_TRUE(put.ok()) << put.status();
    ASSERT_EQ(put->at(0).outcome, PutOutcome::kStored) << put->at(0).message;
    const GetResult got = GetInto(key, {}, {{to.get(), 5, size}});
    ASSERT_TRUE(got.hit) << got.message;
    EXPECT_EQ(got.bytes, size);
    EXPECT_EQ(got.tier, Tier::kHost);
    EXPECT_TRUE(Bytes(*to, 5, size) == value);
  }
}

TEST_P(ObjectsTest, MemoryOfTheCallerWorksLikeAllocatedMemory) {
  std::string own = RandomBytes(1, 300'001);
  const std::string value = own;
  const auto memory = client().Register(std::as_writable_bytes(std::span(own)));
  ASSERT_TRUE(memory.ok()) << memory.status();
  const auto put = client().Put(
      std::vector<PutItem>{{.key = Key("caller"), .sources = {{memory->get(), 0, own.size()}}}});
  ASSERT_TRUE(put.ok()) << put.status();
  ASSERT_EQ(put->at(0).outcome, PutOutcome::kStored) << put->at(0).message;
  std::fill(own.begin(), own.end(), '\0');
  ASSERT_TRUE(GetInto("caller", {}, {{memory->get(), 0, own.size()}}).hit);
  EXPECT_TRUE(own == value);
}

TEST_P(ObjectsTest, GathersFromAndScattersIntoManyPieces) {
  const auto a = Allocate(1000), b = Allocate(1000), to = Allocate(3000);
  Fill(*a, 0, RandomBytes(1, 1000));
  Fill(*b, 0, RandomBytes(2, 1000));
  const std::string value =
      Bytes(*a, 900, 100) + Bytes(*b, 1, 333) + Bytes(*a, 0, 1) + Bytes(*b, 400, 500);
  const auto put = client().Put(std::vector<PutItem>{
      {.key = Key("gather"),
       .sources = {{a.get(), 900, 100}, {b.get(), 1, 333}, {a.get(), 0, 1}, {b.get(), 400, 500}}}});
  ASSERT_TRUE(put.ok()) << put.status();
  ASSERT_EQ(put->at(0).outcome, PutOutcome::kStored) << put->at(0).message;
  ASSERT_TRUE(
      GetInto("gather", {}, {{to.get(), 2000, 7}, {to.get(), 0, 600}, {to.get(), 1000, 900}}).hit);
  EXPECT_EQ(Bytes(*to, 2000, 7) + Bytes(*to, 0, 600) + Bytes(*to, 1000, 934 - 607), value);
  EXPECT_EQ(Bytes(*to, 1000 + 934 - 607, 100), std::string(100, '\0')) << "wrote behind the value";
}

TEST_P(ObjectsTest, ValuesExpire) {
  const auto memory = Allocate(100);
  const std::vector<Piece> all = {{memory.get(), 0, 100}};
  const auto put = client().Put(
      std::vector<PutItem>{{.key = Key("long"),
                            .sources = all,
                            .prompt_tokens = 4096,
                            .tokens = 32,
                            .ttl = absl::Hours(1)},
                           {.key = Key("short"), .sources = all, .ttl = absl::Milliseconds(1)}});
  ASSERT_TRUE(put.ok()) << put.status();
  for (const PutResult& result : *put) {
    ASSERT_EQ(result.outcome, PutOutcome::kStored) << result.message;
  }
  GetResult got = GetInto("short", {}, all);
  for (const absl::Time end = absl::Now() + absl::Seconds(20); got.hit && absl::Now() < end;) {
    got = GetInto("short", {}, all);
  }
  EXPECT_FALSE(got.hit);
  EXPECT_EQ(got.reason, MissReason::kExpired);
  EXPECT_TRUE(GetInto("long", {}, all).hit);
}

TEST_P(ObjectsTest, BlocksFollowOthers) {
  const auto memory = Allocate(100);
  const std::vector<Piece> all = {{memory.get(), 0, 100}};
  const auto put = client().Put(std::vector<PutItem>{
      {.key = Key("block-0-lay0"), .sources = all},
      {.key = Key("block-1-lay0"), .sources = all, .parent = Key("block-0-lay0")},
      {.key = Key("block-2-lay0"), .sources = all, .parent = Key("not-there-lay0")},
      {.key = Key("block-3-lay1"), .sources = all, .parent = Key("block-3-lay0")},  // its own block
      {.key = Key("block-4-lay1"), .sources = all, .parent = Key("small")},
      {.key = Key("small"), .sources = all, .parent = Key("block-0-lay0")}});
  ASSERT_TRUE(put.ok()) << put.status();
  for (size_t i = 0; i < put->size(); ++i) {
    SCOPED_TRACE(i);
    const PutResult& result = put->at(i);
    EXPECT_EQ(result.outcome, i < 3 ? PutOutcome::kStored : PutOutcome::kInvalid);
    if (i >= 3) {
      EXPECT_THAT(result.message, HasSubstr("parent"));
    }
  }
  EXPECT_FALSE(GetInto("small", {}, all).hit);
}

TEST_P(ObjectsTest, EveryRangeOfAnObjectCanBeRead) {
  const page::ObjectLayout layout{.num_kv_heads = 4, .part_bytes = 96};
  const std::string value = RandomBytes(7, layout.object_bytes());
  ASSERT_EQ(PutValue("ranges", value, layout), PutOutcome::kStored);
  const auto to = Allocate(value.size());
  for (const page::Part part : {page::Part::kKV, page::Part::kK, page::Part::kV}) {
    for (uint32_t begin = 0; begin < 4; ++begin) {
      for (uint32_t count = 0; begin + count <= 4; ++count) {
        SCOPED_TRACE(::testing::Message() << int(part) << " " << begin << " " << count);
        const page::ObjectRange range{part, begin, count};
        std::string expected;
        page::ForEachExtent(layout, range, [&](page::Extent extent) {
          expected += value.substr(extent.offset, extent.bytes);
        });
        const GetResult got = GetInto("ranges", range, {{to.get(), 0, value.size()}});
        ASSERT_TRUE(got.hit) << got.message;
        EXPECT_EQ(got.bytes, expected.size());
        EXPECT_EQ(Bytes(*to, 0, got.bytes), expected);
      }
    }
  }
}

TEST_P(ObjectsTest, RangesOutsideTheObjectAreBadItems) {
  ASSERT_EQ(PutValue("layout", RandomBytes(1, 4 * 2 * 64), {.num_kv_heads = 4, .part_bytes = 64}),
            PutOutcome::kStored);
  ASSERT_EQ(PutValue("opaque", RandomBytes(2, 512)), PutOutcome::kStored);
  const auto to = Allocate(4096);
  const auto bad = [&](const char* key, page::ObjectRange range) {
    const GetResult got = GetInto(key, range, {{to.get(), 0, 4096}});
    EXPECT_FALSE(got.hit);
    EXPECT_EQ(got.reason, MissReason::kNone);
    EXPECT_THAT(got.message, Not(IsEmpty()));
  };
  bad("layout", {.head_begin = 4});
  bad("layout", {.head_begin = 3, .head_count = 2});
  bad("layout", {.head_begin = 1, .head_count = 0xffffffff});
  bad("opaque", {.part = page::Part::kK});
  bad("opaque", {.head_begin = 1});
}

TEST_P(ObjectsTest, TheFirstValueOfAKeyStays) {
  EXPECT_EQ(PutValue("twice", "first value"), PutOutcome::kStored);
  EXPECT_EQ(PutValue("twice", "second"), PutOutcome::kExists);
  EXPECT_EQ(GetValue("twice", 100), "first value");
}

TEST_P(ObjectsTest, OneOfTwoEqualKeysInABatchIsStored) {
  const auto memory = Allocate(10);
  const PutItem item{.key = Key("same"), .sources = {{memory.get(), 0, 10}}};
  const auto results = client().Put(std::vector<PutItem>{item, item});
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ((results->at(0).outcome == PutOutcome::kStored) +
                (results->at(1).outcome == PutOutcome::kStored),
            1);
  EXPECT_EQ((results->at(0).outcome == PutOutcome::kExists) +
                (results->at(1).outcome == PutOutcome::kExists),
            1);
}

TEST_P(ObjectsTest, EmptyBatchesAreAnsweredEmpty) {
  EXPECT_THAT(client().Put({}).value(), IsEmpty());
  EXPECT_THAT(client().Get({}).value(), IsEmpty());
  EXPECT_THAT(client().Exists({}).value(), IsEmpty());
  EXPECT_THAT(client().Remove({}, true).value(), IsEmpty());
  EXPECT_THAT(client().Pin({}, absl::InfiniteDuration()).value(), IsEmpty());
  EXPECT_EQ(client().LongestPrefix({}).value(), 0);
}

TEST_P(ObjectsTest, BatchesAboveTheLimitAreSplit) {
  const size_t limit = client().limits().max_batch_items;
  ASSERT_GT(limit, 0u);
  const size_t count = 2 * limit + 3;
  const auto memory = Allocate(16);
  std::vector<PutItem> puts;
  std::vector<GetItem> gets;
  std::vector<page::ObjectKey> keys;
  for (size_t i = 0; i < count; ++i) {
    keys.push_back(Key("many-" + std::to_string(i)));
    puts.push_back({.key = keys.back(), .sources = {{memory.get(), i % 8, 1 + i % 8}}});
    gets.push_back({.key = keys.back(), .destinations = {{memory.get(), 0, 16}}});
  }
  const auto stored = client().Put(puts);
  ASSERT_TRUE(stored.ok()) << stored.status();
  ASSERT_EQ(stored->size(), count);
  for (const PutResult& result : *stored)
    ASSERT_EQ(result.outcome, PutOutcome::kStored) << result.message;
  const auto got = client().Get(gets);
  ASSERT_TRUE(got.ok()) << got.status();
  ASSERT_EQ(got->size(), count);
  for (size_t i = 0; i < count; ++i) ASSERT_EQ(got->at(i).bytes, 1 + i % 8) << i;
  EXPECT_EQ(client().LongestPrefix(keys).value(), count);
  const auto exists = client().Exists(keys);
  ASSERT_TRUE(exists.ok()) << exists.status();
  EXPECT_EQ(*exists, std::vector<bool>(count, true));
  EXPECT_EQ(client().Remove(keys, false).value(), std::vector<bool>(count, true));
}

TEST_P(ObjectsTest, BadItemsLeaveTheirBatchAlone) {
  const auto memory = Allocate(1000);
  Fill(*memory, 0, RandomBytes(3, 1000));
  const auto puts = client().Put(std::vector<PutItem>{
      {.key = Key("good-1"), .sources = {{memory.get(), 0, 100}}},
      {.key = Key("beyond"), .sources = {{memory.get(), 950, 51}}},
      {.key = Key("wraps"), .sources = {{memory.get(), 10, SIZE_MAX - 5}}},
      {.key = Key("empty-piece"), .sources = {{memory.get(), 0, 0}}},
      {.key = Key("no-pieces")},
      {.key = {}, .sources = {{memory.get(), 0, 100}}},
      {.key = Key("wrong-layout"),
       .sources = {{memory.get(), 0, 100}},
       .layout = {.num_kv_heads = 2, .part_bytes = 64}},
      {.key = Key("unknown-codec"), .sources = {{memory.get(), 0, 100}}, .codec = "zip"},
      {.key = Key("good-2"), .sources = {{memory.get(), 900, 100}}}});
  ASSERT_TRUE(puts.ok()) << puts.status();
  ASSERT_EQ(puts->size(), 9u);
  EXPECT_EQ(puts->front().outcome, PutOutcome::kStored) << puts->front().message;
  EXPECT_EQ(puts->back().outcome, PutOutcome::kStored) << puts->back().message;
  for (size_t i = 1; i < 8; ++i) {
    EXPECT_EQ(puts->at(i).outcome, PutOutcome::kInvalid) << i;
    EXPECT_THAT(puts->at(i).message, Not(IsEmpty())) << i;
  }
  const auto gets = client().Get(
      std::vector<GetItem>{{.key = Key("good-1"), .destinations = {{memory.get(), 0, 99}}},
                           {.key = Key("good-1"), .destinations = {{memory.get(), 990, 100}}},
                           {.key = Key("good-1")},
                           {.key = Key("good-2"), .destinations = {{memory.get(), 0, 100}}}});
  ASSERT_TRUE(gets.ok()) << gets.status();
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_FALSE(gets->at(i).hit) << i;
    EXPECT_EQ(gets->at(i).reason, MissReason::kNone) << i;
    EXPECT_THAT(gets->at(i).message, Not(IsEmpty())) << i;
  }
  EXPECT_TRUE(gets->at(3).hit) << gets->at(3).message;
}

TEST_P(ObjectsTest, MemoryOfAnotherClientIsRefused) {
  Connection other = Connect(GetParam(), Namespace());
  const auto foreign = other->Allocate(100);
  ASSERT_TRUE(foreign.ok()) << foreign.status();
  for (const Memory* memory :
       {static_cast<const Memory*>(foreign->get()), static_cast<const Memory*>(nullptr)}) {
    const auto put =
        client().Put(std::vector<PutItem>{{.key = Key("foreign"), .sources = {{memory, 0, 100}}}});
    EXPECT_EQ(put.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(put.status().message()), HasSubstr("Register"));
    const auto get = client().Get(
        std::vector<GetItem>{{.key = Key("foreign"), .destinations = {{memory, 0, 100}}}});
    EXPECT_EQ(get.status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_FALSE(client().Register({}).ok());
  EXPECT_FALSE(client().Allocate(0).ok());
}

TEST_P(ObjectsTest, AWrongChecksumKeepsTheValueOut) {
  const auto memory = Allocate(100);
  const uint32_t crc = page::Crc32c(memory->bytes().data(), 100);
  const auto put = [&](uint32_t claimed) {
    return client()
        .Put(std::vector<PutItem>{
            {.key = Key("checked"), .sources = {{memory.get(), 0, 100}}, .crc32c = claimed}})
        .value()[0]
        .outcome;
  };
  EXPECT_EQ(put(crc + 1), PutOutcome::kCorrupt);
  EXPECT_THAT(client().Exists(std::vector{Key("checked")}).value(), ElementsAre(false));
  EXPECT_EQ(put(crc), PutOutcome::kStored);
}

TEST_P(ObjectsTest, ExistsPrefixAndRemove) {
  const std::vector<page::ObjectKey> keys = {Key("pre-0"), Key("pre-1"), Key("pre-2"),
                                             Key("pre-3")};
  for (const char* key : {"pre-0", "pre-1", "pre-3"})
    ASSERT_EQ(PutValue(key, key), PutOutcome::kStored);
  EXPECT_THAT(client().Exists(keys).value(), ElementsAre(true, true, false, true));
  EXPECT_EQ(client().LongestPrefix(keys).value(), 2u);
  EXPECT_THAT(client().Remove(std::vector{Key("pre-1"), Key("pre-2")}, false).value(),
              ElementsAre(true, false));
  EXPECT_THAT(client().Exists(keys).value(), ElementsAre(true, false, false, true));
  EXPECT_EQ(client().LongestPrefix(keys).value(), 1u);
  EXPECT_EQ(GetInto("pre-1", {}, {{Allocate(8).get(), 0, 8}}).hit, false);
}

TEST_P(ObjectsTest, PinnedObjectsAreRemovedByForceOnly) {
  const std::vector<page::ObjectKey> key = {Key("pinned")};
  ASSERT_EQ(PutValue("pinned", "value"), PutOutcome::kStored);
  EXPECT_THAT(
      client().Pin(std::vector{Key("pinned"), Key("nothing")}, absl::InfiniteDuration()).value(),
      ElementsAre(true, false));
  EXPECT_THAT(client().Remove(key, false).value(), ElementsAre(false));
  EXPECT_EQ(client().List("pinned", 0, "").value().objects.at(0).pins, 1u);
  EXPECT_THAT(client().Unpin(key).value(), ElementsAre(true));
  EXPECT_THAT(client().Unpin(key).value(), ElementsAre(false));
  EXPECT_THAT(client().Pin(key, absl::Minutes(5)).value(), ElementsAre(true));
  EXPECT_THAT(client().Remove(key, false).value(), ElementsAre(false));
  EXPECT_THAT(client().Remove(key, true).value(), ElementsAre(true));
  EXPECT_FALSE(client().Pin(key, absl::ZeroDuration()).ok());
}

TEST_P(ObjectsTest, PinsEndWithTheirSession) {
  const std::vector<page::ObjectKey> key = {Key("pinned")};
  ASSERT_EQ(PutValue("pinned", "value"), PutOutcome::kStored);
  {
    Connection other = Connect(GetParam(), Namespace());
    ASSERT_THAT(other->Pin(key, absl::InfiniteDuration()).value(), ElementsAre(true));
    EXPECT_THAT(client().Remove(key, false).value(), ElementsAre(false));
  }
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!client().Remove(key, false).value()[0]) {
    ASSERT_LT(absl::Now(), deadline) << "still pinned";
    std::this_thread::yield();
  }
}

TEST_P(ObjectsTest, EvictsByPrefixWhatIsNotPinned) {
  for (int i = 0; i < 600; ++i) {
    const std::string key = (i % 2 == 0 ? "cold-" : "warm-") + std::to_string(i);
    ASSERT_EQ(PutValue(key, std::string(100, 'x')), PutOutcome::kStored);
  }
  ASSERT_TRUE(client().Pin(std::vector{Key("cold-4")}, absl::InfiniteDuration()).ok());
  const auto evicted = client().Evict(Namespace(), "cold-");
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  EXPECT_EQ(evicted->objects, 299u);
  EXPECT_EQ(evicted->bytes, 29900u);
  EXPECT_EQ(evicted->kept, 1u);
  EXPECT_THAT(client().Exists(std::vector{Key("cold-2"), Key("cold-4"), Key("warm-5")}).value(),
              ElementsAre(false, true, true));
  EXPECT_EQ(client().Evict(Namespace(), "cold-2").value().objects, 0u);
  ASSERT_TRUE(client().Unpin(std::vector{Key("cold-4")}).ok());
  EXPECT_EQ(client().Evict(Namespace(), "").value().objects, 301u) << "all that is left";
  EXPECT_EQ(client().Evict("nobody's", "").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(client().Evict(Namespace(), std::string(64, 'x')).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(ObjectsTest, PrefetchSaysOfEachKeyWhatBecomesOfIt) {
  ASSERT_EQ(PutValue("stored", "x"), PutOutcome::kStored);
  std::vector<page::ObjectKey> keys(700, Key("unknown"));  // more than one batch
  keys[3] = keys[650] = Key("stored");
  const auto outcomes = client().Prefetch(keys);
  ASSERT_TRUE(outcomes.ok()) << outcomes.status();
  ASSERT_EQ(outcomes->size(), 700u);
  for (size_t i = 0; i < 700; ++i) {
    EXPECT_EQ(outcomes->at(i),
              i == 3 || i == 650 ? PrefetchOutcome::kInMemory : PrefetchOutcome::kNotStored);
  }
}

TEST_P(ObjectsTest, NamespacesAreListed) {
  const auto names = client().ListNamespaces();
  ASSERT_TRUE(names.ok()) << names.status();
  EXPECT_THAT(*names, ::testing::Contains(Namespace()));
}

TEST_P(ObjectsTest, ListsInPagesByPrefix) {
  std::vector<std::string> expected;
  for (int i = 10; i < 35; ++i) {
    expected.push_back("list-" + std::to_string(i));
    ASSERT_EQ(PutValue(expected.back(), std::string(i, 'x')), PutOutcome::kStored);
  }
  ASSERT_EQ(PutValue("other", "x"), PutOutcome::kStored);
  std::vector<std::string> listed;
  std::string token;
  int pages = 0;
  do {
    const auto page = client().List("list-", 10, token);
    ASSERT_TRUE(page.ok()) << page.status();
    EXPECT_LE(page->objects.size(), 10u);
    for (const ObjectInfo& info : page->objects) {
      listed.emplace_back(info.key.bytes());
      EXPECT_EQ(info.bytes, std::stoul(listed.back().substr(5)));
      EXPECT_EQ(info.tier, Tier::kHost);
      EXPECT_EQ(info.codec, "raw");
    }
    token = page->next_page_token;
    ++pages;
  } while (!token.empty());
  EXPECT_EQ(listed, expected);
  EXPECT_GE(pages, 3);
  EXPECT_EQ(client().List("", 10001, "").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(ObjectsTest, OtherNamespacesMiss) {
  ASSERT_EQ(PutValue("secret", "value"), PutOutcome::kStored);
  Connection other = Connect(GetParam(), "elsewhere");
  EXPECT_THAT(other->Exists(std::vector{Key("secret")}).value(), ElementsAre(false));
  const auto memory = other->Allocate(10);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const auto got = other->Get(
      std::vector<GetItem>{{.key = Key("secret"), .destinations = {{memory->get(), 0, 10}}}});
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_FALSE(got->at(0).hit);
  EXPECT_EQ(got->at(0).reason, MissReason::kNeverStored);
}

TEST_P(ObjectsTest, InlineValuesAndTransferredValuesAreTheSameObjects) {
  const std::string value = RandomBytes(11, (3 << 20) + 17);
  const auto put = client().PutInline(Key("inline"), std::as_bytes(std::span(value)), {});
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_EQ(put->outcome, PutOutcome::kStored) << put->message;
  EXPECT_TRUE(GetValue("inline", value.size()) == value);
  ASSERT_EQ(PutValue("moved", value), PutOutcome::kStored);
  std::string back = "untouched";
  const auto got = client().GetInline(Key("moved"), {}, &back);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_TRUE(got->hit);
  EXPECT_TRUE(back == value);
  back = "untouched";
  EXPECT_FALSE(client().GetInline(Key("nothing"), {}, &back).value().hit);
  EXPECT_EQ(back, "untouched");
}

TEST_P(ObjectsTest, EightThreadsReadWhatTheyWrote) {
  constexpr int kThreads = 8, kRounds = 12;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const size_t room = 200'000;
      const auto from = Allocate(room), to = Allocate(room);
      for (int round = 0; round < kRounds; ++round) {
        const uint64_t seed = 1000 * t + round;
        SCOPED_TRACE(seed);
        const std::string value = RandomBytes(seed, 1 + seed * 7919 % room);
        const std::string key = "thread-" + std::to_string(seed);
        Fill(*from, 0, value);
        const auto put = client().Put(
            std::vector<PutItem>{{.key = Key(key),
                                  .sources = {{from.get(), 0, value.size()}},
                                  .crc32c = page::Crc32c(value.data(), value.size())}});
        ASSERT_TRUE(put.ok()) << put.status();
        ASSERT_EQ(put->at(0).outcome, PutOutcome::kStored) << put->at(0).message;
        const GetResult got = GetInto(key, {}, {{to.get(), 0, value.size()}});
        ASSERT_TRUE(got.hit) << got.message;
        ASSERT_TRUE(Bytes(*to, 0, value.size()) == value);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace varve::client::testing
