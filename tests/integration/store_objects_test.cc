// Objects through gRPC and a transport: put, get, ranges, exists, prefixes, remove, pin, list,
// inline values.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "absl/strings/str_cat.h"
#include "kvstore/page/checksum.h"
#include "tests/integration/store_harness.h"

namespace varve::testing {
namespace {

namespace v1 = varve::v1;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One store for the whole suite of a kind; every test has a namespace of its own.
class StoreObjectsTest : public ::testing::TestWithParam<std::string> {
 protected:
  static void TearDownTestSuite() { Stores().clear(); }
  static std::map<std::string, std::unique_ptr<StoreUnderTest>>& Stores() {
    static std::map<std::string, std::unique_ptr<StoreUnderTest>> stores;
    return stores;
  }
  StoreUnderTest& store() {
    auto& store = Stores()[GetParam()];
    if (store == nullptr) store = StoreUnderTest::Start(GetParam());
    return *store;
  }
  std::unique_ptr<RawClient> Open(bool inline_only = false) {
    RawClient::Options options;
    options.key_namespace = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    options.inline_only = inline_only;
    return std::make_unique<RawClient>(store(), options);
  }
};

bool Same(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

TEST_P(StoreObjectsTest, PutThenGetGivesTheBytesBack) {
  auto client = Open();
  EXPECT_EQ(client->opened().lane(), store().lane());
  EXPECT_EQ(client->session_id().size(), 16u);
  for (size_t size : {size_t{1}, size_t{4096}, size_t{100001}, size_t{3} << 20}) {
    SCOPED_TRACE(size);
    Buffer source = client->Allocate(size), target = client->Allocate(size);
    FillPattern(source.bytes(), size);
    const std::string key = Key(absl::StrCat(size));
    EXPECT_FALSE(client->Exists(key));
    const v1::PutItemResult put = client->PutOne(key, source, 0, size);
    EXPECT_EQ(put.result(), v1::PUT_RESULT_STORED) << put.message();
    EXPECT_TRUE(client->Exists(key));
    const v1::GetItemResult got = client->GetOne(key, target, 0, size);
    EXPECT_TRUE(got.hit()) << got.message();
    EXPECT_EQ(got.tier(), v1::TIER_HOST);
    EXPECT_EQ(got.value_bytes(), size);
    EXPECT_EQ(got.codec(), "raw");
    EXPECT_TRUE(Same(source.bytes(), target.bytes()));
  }
}

TEST_P(StoreObjectsTest, ScatteredPiecesAndBatches) {
  auto client = Open();
  constexpr int kItems = 40;
  constexpr size_t kBytes = 50000;
  Buffer source = client->Allocate(kItems * kBytes), target = client->Allocate(kItems * kBytes);
  FillPattern(source.bytes(), 7);
  v1::PutRequest put;
  v1::GetRequest get;
  for (int i = 0; i < kItems; ++i) {
    v1::PutItem* item = put.add_items();
    item->set_key(Key(absl::StrCat(i)));
    // Back to front: the value is the pieces in their own order.
    *item->add_sources() = source.Ref(i * kBytes + 20000, 30000);
    *item->add_sources() = source.Ref(i * kBytes, 20000);
    v1::GetItem* wanted = get.add_items();
    wanted->set_key(Key(absl::StrCat(i)));
    *wanted->add_destinations() = target.Ref(i * kBytes + 20000, 7);
    *wanted->add_destinations() = target.Ref(i * kBytes + 20007, 29993);
    *wanted->add_destinations() = target.Ref(i * kBytes, 20000);
  }
  const v1::PutReply stored = client->Put(put);
  for (const v1::PutItemResult& result : stored.results()) {
    EXPECT_EQ(result.result(), v1::PUT_RESULT_STORED) << result.message();
  }
  const v1::GetReply found = client->Get(get);
  for (const v1::GetItemResult& result : found.results()) {
    EXPECT_TRUE(result.hit()) << result.message();
  }
  EXPECT_TRUE(Same(source.bytes(), target.bytes()));
}

TEST_P(StoreObjectsTest, RangesSelectPartsAndHeads) {
  auto client = Open();
  constexpr uint32_t kHeads = 5, kPart = 1000;
  v1::ObjectLayout layout;
  layout.set_num_kv_heads(kHeads);
  layout.set_part_bytes(kPart);
  Buffer source = client->Allocate(kHeads * 2 * kPart),
         target = client->Allocate(kHeads * 2 * kPart);
  FillPattern(source.bytes(), 11);
  ASSERT_EQ(client->PutOne(Key("r"), source, 0, source.bytes().size(), layout).result(),
            v1::PUT_RESULT_STORED);
  for (int part : {0, 1, 2}) {
    for (uint32_t begin = 0; begin < kHeads; ++begin) {
      for (uint32_t count = 0; count <= kHeads - begin; ++count) {
        SCOPED_TRACE(absl::StrCat("part ", part, " heads ", begin, "+", count));
        v1::ObjectRange range;
        range.set_part(static_cast<v1::Part>(part));
        range.set_head_begin(begin);
        range.set_head_count(count);
        std::vector<std::byte> expected;
        const uint32_t end = count == 0 ? kHeads : begin + count;
        for (uint32_t h = begin; h < end; ++h) {
          for (uint32_t p = 0; p < 2; ++p) {
            if (part == 1 + static_cast<int>(p) || part == 0) {
              const auto bytes = source.bytes().subspan((2 * h + p) * kPart, kPart);
              expected.insert(expected.end(), bytes.begin(), bytes.end());
            }
          }
        }
        const v1::GetItemResult got =
            client->GetOne(Key("r"), target, 0, target.bytes().size(), range);
        ASSERT_TRUE(got.hit()) << got.message();
        ASSERT_EQ(got.value_bytes(), expected.size());
        EXPECT_TRUE(Same(target.bytes().first(expected.size()), expected));
      }
    }
  }
}

TEST_P(StoreObjectsTest, FirstWriterWinsAlsoWithinABatch) {
  auto client = Open();
  Buffer buffer = client->Allocate(8192);
  FillPattern(buffer.bytes(), 3);
  ASSERT_EQ(client->PutOne(Key("a"), buffer, 0, 4096).result(), v1::PUT_RESULT_STORED);
  EXPECT_EQ(client->PutOne(Key("a"), buffer, 4096, 4096).result(), v1::PUT_RESULT_EXISTS);
  v1::PutRequest twice;
  for (int i = 0; i < 2; ++i) {
    v1::PutItem* item = twice.add_items();
    item->set_key(Key("twice"));
    *item->add_sources() = buffer.Ref(0, 4096);
  }
  const v1::PutReply reply = client->Put(twice);
  const int stored = (reply.results(0).result() == v1::PUT_RESULT_STORED) +
                     (reply.results(1).result() == v1::PUT_RESULT_STORED);
  const int exists = (reply.results(0).result() == v1::PUT_RESULT_EXISTS) +
                     (reply.results(1).result() == v1::PUT_RESULT_EXISTS);
  EXPECT_EQ(stored, 1);
  EXPECT_EQ(exists, 1);
  v1::GetRequest both;
  for (int i = 0; i < 2; ++i) {
    v1::GetItem* item = both.add_items();
    item->set_key(Key("twice"));
    *item->add_destinations() = buffer.Ref(4096 * i, 4096);
  }
  const v1::GetReply found = client->Get(both);
  for (const v1::GetItemResult& result : found.results()) EXPECT_TRUE(result.hit());
}

TEST_P(StoreObjectsTest, ChecksumOfTheSenderIsChecked) {
  auto client = Open();
  Buffer buffer = client->Allocate(5000);
  FillPattern(buffer.bytes(), 5);
  const uint32_t crc = page::Crc32c(buffer.bytes().data(), 5000);
  v1::PutRequest request;
  for (uint32_t wrong : {1u, 0u}) {
    v1::PutItem* item = request.add_items();
    item->set_key(Key(absl::StrCat("crc", wrong)));
    *item->add_sources() = buffer.Ref(0, 5000);
    item->set_crc32c(crc + wrong);
  }
  const v1::PutReply reply = client->Put(request);
  EXPECT_EQ(reply.results(0).result(), v1::PUT_RESULT_CORRUPT);
  EXPECT_EQ(reply.results(1).result(), v1::PUT_RESULT_STORED) << reply.results(1).message();
  EXPECT_FALSE(client->Exists(Key("crc1")));
}

TEST_P(StoreObjectsTest, NamespacesDoNotSeeEachOther) {
  auto client = Open();
  RawClient::Options other;
  other.key_namespace = "somebody else's";
  RawClient stranger(store(), other);
  Buffer mine = client->Allocate(100), theirs = stranger.Allocate(100);
  ASSERT_EQ(client->PutOne(Key("private"), mine, 0, 100).result(), v1::PUT_RESULT_STORED);
  EXPECT_FALSE(stranger.Exists(Key("private")));
  const v1::GetItemResult got = stranger.GetOne(Key("private"), theirs, 0, 100);
  EXPECT_FALSE(got.hit());
  EXPECT_EQ(got.miss_reason(), v1::MISS_REASON_NEVER_STORED);
}

TEST_P(StoreObjectsTest, LongestPrefixStopsAtTheFirstHole) {
  auto client = Open();
  Buffer buffer = client->Allocate(64);
  for (int i : {0, 1, 2, 4}) client->PutOne(Key(absl::StrCat(i)), buffer, 0, 64);
  v1::LongestPrefixRequest request;
  request.set_session_id(client->session_id());
  for (int i = 0; i < 6; ++i) request.add_keys(Key(absl::StrCat(i)));
  v1::LongestPrefixReply reply;
  ASSERT_TRUE(Call(client->stub(), &v1::Store::Stub::LongestPrefix, request, &reply).ok());
  EXPECT_EQ(reply.present(), 3u);
}

TEST_P(StoreObjectsTest, PinnedObjectsAreRemovedOnlyByForce) {
  auto client = Open();
  Buffer buffer = client->Allocate(64);
  client->PutOne(Key("p"), buffer, 0, 64);
  v1::PinRequest pin;
  pin.set_session_id(client->session_id());
  pin.add_keys(Key("p"));
  pin.add_keys(Key("absent"));
  v1::PinReply pinned;
  ASSERT_TRUE(Call(client->stub(), &v1::Store::Stub::Pin, pin, &pinned).ok());
  EXPECT_THAT(pinned.done(), ElementsAre(true, false));
  v1::RemoveRequest remove;
  remove.set_session_id(client->session_id());
  remove.add_keys(Key("p"));
  v1::RemoveReply removed;
  ASSERT_TRUE(Call(client->stub(), &v1::Store::Stub::Remove, remove, &removed).ok());
  EXPECT_THAT(removed.removed(), ElementsAre(false));
  pin.set_unpin(true);
  ASSERT_TRUE(Call(client->stub(), &v1::Store::Stub::Pin, pin, &pinned).ok());
  ASSERT_TRUE(Call(client->stub(), &v1::Store::Stub::Remove, remove, &removed).ok());
  EXPECT_THAT(removed.removed(), ElementsAre(true));
  EXPECT_FALSE(client->Exists(Key("p")));
}

TEST_P(StoreObjectsTest, PinsEndWithTheirSession) {
  auto owner = Open(), other = Open();
  Buffer buffer = owner->Allocate(64);
  owner->PutOne(Key("p"), buffer, 0, 64);
  v1::PinRequest pin;
  pin.set_session_id(owner->session_id());
  pin.add_keys(Key("p"));
  v1::PinReply pinned;
  ASSERT_TRUE(Call(owner->stub(), &v1::Store::Stub::Pin, pin, &pinned).ok());
  owner->EndSession();
  v1::RemoveRequest remove;
  remove.set_session_id(other->session_id());
  remove.add_keys(Key("p"));
  EXPECT_TRUE(Eventually([&] {
    v1::RemoveReply removed;
    return Call(other->stub(), &v1::Store::Stub::Remove, remove, &removed).ok() &&
           removed.removed(0);
  }));
}

TEST_P(StoreObjectsTest, ListPagesThroughAPrefix) {
  auto client = Open();
  Buffer buffer = client->Allocate(64);
  for (int i = 0; i < 25; ++i) {
    client->PutOne(Key(absl::StrCat("l", 10 + i)), buffer, 0, 64);
    client->PutOne(Key(absl::StrCat("other", i)), buffer, 0, 64);
  }
  v1::ListRequest request;
  request.set_session_id(client->session_id());
  request.set_key_prefix(Key("l"));
  request.set_page_size(10);
  std::vector<std::string> keys;
  std::vector<int> pages;
  for (;;) {
    v1::ListReply reply;
    ASSERT_TRUE(Call(client->stub(), &v1::Store::Stub::List, request, &reply).ok());
    pages.push_back(reply.objects_size());
    for (const v1::ObjectInfo& object : reply.objects()) {
      keys.push_back(object.key());
      EXPECT_EQ(object.value_bytes(), 64u);
      EXPECT_EQ(object.tier(), v1::TIER_HOST);
      EXPECT_EQ(object.crc32c(), page::Crc32c(buffer.bytes().data(), 64));
    }
    if (reply.next_page_token().empty()) break;
    request.set_page_token(reply.next_page_token());
  }
  EXPECT_THAT(pages, ElementsAre(10, 10, 5));
  ASSERT_EQ(keys.size(), 25u);
  for (int i = 0; i < 25; ++i) EXPECT_EQ(keys[i], Key(absl::StrCat("l", 10 + i)));
}

TEST_P(StoreObjectsTest, InlineValuesAndTransportSeeTheSameObjects) {
  auto inliner = Open(true), client = Open();
  EXPECT_EQ(inliner->opened().lane(), "inline");
  const size_t size = (5 << 19) + 3;
  std::vector<std::byte> value(size);
  FillPattern(value, 99);
  grpc::ClientContext put_context;
  auto put = inliner->stub().PutInline(&put_context);
  for (size_t offset = 0; offset < size; offset += 1 << 20) {
    v1::PutInlineRequest request;
    if (offset == 0) {
      request.set_session_id(inliner->session_id());
      request.set_key(Key("i"));
      request.set_total_bytes(size);
    }
    const size_t n = std::min<size_t>(1 << 20, size - offset);
    request.set_data(value.data() + offset, n);
    request.set_last(offset + n == size);
    ASSERT_TRUE(put->Write(request));
  }
  v1::PutItemResult result;
  ASSERT_TRUE(put->Read(&result));
  EXPECT_EQ(result.result(), v1::PUT_RESULT_STORED) << result.message();
  EXPECT_EQ(result.key(), Key("i"));
  put->WritesDone();
  EXPECT_TRUE(put->Finish().ok());

  Buffer target = client->Allocate(size);
  EXPECT_TRUE(client->GetOne(Key("i"), target, 0, size).hit());
  EXPECT_TRUE(Same(target.bytes(), value));

  v1::GetInlineRequest request;
  request.set_session_id(inliner->session_id());
  for (const char* name : {"i", "absent", "i"}) request.add_items()->set_key(Key(name));
  grpc::ClientContext get_context;
  auto get = inliner->stub().GetInline(&get_context, request);
  std::vector<std::string> values(3);
  std::vector<v1::GetItemResult> results(3);
  v1::GetInlineReply reply;
  while (get->Read(&reply)) {
    EXPECT_LE(reply.data().size(), size_t{1} << 20);
    values.at(reply.item()) += reply.data();
    if (reply.last()) results.at(reply.item()) = reply.result();
  }
  EXPECT_TRUE(get->Finish().ok());
  EXPECT_TRUE(results[0].hit() && results[2].hit());
  EXPECT_EQ(results[0].value_bytes(), size);
  EXPECT_EQ(results[1].miss_reason(), v1::MISS_REASON_NEVER_STORED);
  for (int i : {0, 2})
    EXPECT_EQ(values[i], std::string(reinterpret_cast<char*>(value.data()), size));
}

TEST_P(StoreObjectsTest, FullOfPinnedObjectsMeansNoSpaceAndOthersAreEvicted) {
  auto client = Open();
  constexpr size_t kBytes = 4 << 20;
  Buffer buffer = client->Allocate(kBytes);
  std::vector<std::string> stored;
  // More than the 64 MiB tier holds: the oldest make room.
  for (int i = 0; i < 24; ++i) {
    ASSERT_EQ(client->PutOne(Key(absl::StrCat("e", i)), buffer, 0, kBytes).result(),
              v1::PUT_RESULT_STORED);
  }
  EXPECT_FALSE(client->Exists(Key("e0")));
  const v1::GetItemResult gone = client->GetOne(Key("e0"), buffer, 0, kBytes);
  EXPECT_EQ(gone.miss_reason(), v1::MISS_REASON_EVICTED);
  v1::PinRequest pin;
  pin.set_session_id(client->session_id());
  for (int i = 0; i < 24; ++i) pin.add_keys(Key(absl::StrCat("e", i)));
  v1::PinReply pinned;
  ASSERT_TRUE(Call(client->stub(), &v1::Store::Stub::Pin, pin, &pinned).ok());
  v1::PutResult last = v1::PUT_RESULT_STORED;
  std::string message;
  for (int i = 0; i < 24 && last == v1::PUT_RESULT_STORED; ++i) {
    const std::string key = Key(absl::StrCat("f", i));
    const v1::PutItemResult result = client->PutOne(key, buffer, 0, kBytes);
    last = result.result();
    message = result.message();
    v1::PinRequest more;
    more.set_session_id(client->session_id());
    more.add_keys(key);
    ASSERT_TRUE(Call(client->stub(), &v1::Store::Stub::Pin, more, &pinned).ok());
  }
  EXPECT_EQ(last, v1::PUT_RESULT_NO_SPACE);
  EXPECT_THAT(message, HasSubstr("pinned"));
}

TEST_P(StoreObjectsTest, APinWithATtlLapsesByItself) {
  auto client = Open();
  Buffer buffer = client->Allocate(4096);
  ASSERT_EQ(client->PutOne(Key("soft"), buffer, 0, 4096).result(), v1::PUT_RESULT_STORED);
  v1::PinRequest pin;
  pin.set_session_id(client->session_id());
  pin.add_keys(Key("soft"));
  pin.set_ttl_ms(1000);
  v1::PinReply pinned;
  const absl::Time start = absl::Now();
  ASSERT_TRUE(Call(client->stub(), &v1::Store::Stub::Pin, pin, &pinned).ok());
  ASSERT_THAT(pinned.done(), ElementsAre(true));
  EXPECT_EQ(client->Status().tiers(0).pinned_bytes(), 4096u);
  v1::RemoveRequest remove;
  remove.set_session_id(client->session_id());
  remove.add_keys(Key("soft"));
  EXPECT_TRUE(Eventually([&] {
    v1::RemoveReply removed;
    return Call(client->stub(), &v1::Store::Stub::Remove, remove, &removed).ok() &&
           removed.removed(0);
  }));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(1000));
  EXPECT_EQ(client->Status().tiers(0).pinned_bytes(), 0u);
}

TEST_P(StoreObjectsTest, UnregisteredMemoryIsOutOfReach) {
  auto client = Open();
  Buffer buffer = client->Allocate(4096);
  EXPECT_EQ(client->PutOne(Key("u"), buffer, 0, 4096).result(), v1::PUT_RESULT_STORED);
  EXPECT_EQ(client->Unregister(buffer.region_id).error(), "");
  EXPECT_THAT(client->Unregister(buffer.region_id).error(), HasSubstr("not registered"));
  const v1::GetItemResult got = client->GetOne(Key("u"), buffer, 0, 4096);
  EXPECT_FALSE(got.hit());
  EXPECT_EQ(got.miss_reason(), v1::MISS_REASON_UNSPECIFIED);
  EXPECT_THAT(got.message(), HasSubstr("not registered"));
  const v1::RegionReply again = client->Register(buffer.region_id, buffer.region->descriptor());
  EXPECT_EQ(again.error(), "");
  EXPECT_EQ(again.region_bytes(), 4096u);
  EXPECT_TRUE(client->GetOne(Key("u"), buffer, 0, 4096).hit());
}

// A batch is mostly the blocks of a prefix: without its head the rest is of no use.
TEST(StoreEvictionOrderTest, ABatchLosesItsEndFirst) {
  constexpr size_t kBytes = 8 << 10;
  constexpr int kItems = 16;
  const auto store = StoreUnderTest::Start("embedded", {}, [](v1::StoreConfig& config) {
    config.mutable_host_tier()->set_capacity_bytes(1 << 20);
    config.mutable_host_tier()->set_high_watermark(1);
    config.mutable_host_tier()->set_low_watermark(0.99);
    config.mutable_sessions()->set_max_object_bytes(kBytes);
  });
  RawClient client(*store);
  Buffer buffer = client.Allocate(kItems * kBytes);
  for (const bool used : {false, true}) {
    SCOPED_TRACE(used ? "put and got" : "put");
    v1::PutRequest put;
    v1::GetRequest get;
    std::vector<std::string> keys;
    for (int i = 0; i < kItems; ++i) {
      keys.push_back(Key(absl::StrCat(used, "/", i)));
      v1::PutItem* item = put.add_items();
      item->set_key(keys.back());
      *item->add_sources() = buffer.Ref(i * kBytes, kBytes);
      v1::GetItem* wanted = get.add_items();
      wanted->set_key(keys.back());
      *wanted->add_destinations() = buffer.Ref(i * kBytes, kBytes);
    }
    const v1::PutReply stored = client.Put(put);
    for (const v1::PutItemResult& result : stored.results()) {
      ASSERT_EQ(result.result(), v1::PUT_RESULT_STORED) << result.message();
    }
    if (used) {
      const v1::GetReply got = client.Get(get);
      for (const v1::GetItemResult& result : got.results()) ASSERT_TRUE(result.hit());
    }
    int left = kItems;
    for (int i = 0; i < 1000 && left > 0; ++i) {
      ASSERT_EQ(client.PutOne(Key(absl::StrCat("other/", used, i)), buffer, 0, kBytes).result(),
                v1::PUT_RESULT_STORED);
      const auto there = std::count_if(keys.begin(), keys.end(),
                                       [&](const std::string& key) { return client.Exists(key); });
      left = 0;
      while (left < kItems && client.Exists(keys[left])) ++left;
      ASSERT_EQ(left, there) << "there is a hole after " << i << " others";
    }
    EXPECT_EQ(left, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Lanes, StoreObjectsTest, ::testing::Values("embedded", "shm", "tcp"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace varve::testing
