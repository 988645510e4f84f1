// Every field of every object and session request out of range: a clear error, and the store goes
// on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "absl/strings/str_cat.h"
#include "tests/integration/store_harness.h"

namespace varve::testing {
namespace {

namespace v1 = varve::v1;
using ::testing::HasSubstr;

constexpr uint64_t kMax = ~uint64_t{0};

class StoreBadInputTest : public ::testing::TestWithParam<std::string> {
 protected:
  static void TearDownTestSuite() { Stores().clear(); }
  static std::map<std::string, std::unique_ptr<StoreUnderTest>>& Stores() {
    static std::map<std::string, std::unique_ptr<StoreUnderTest>> stores;
    return stores;
  }
  void SetUp() override {
    auto& store = Stores()[GetParam()];
    if (store == nullptr) {
      store =
          StoreUnderTest::Start(GetParam(),
                                {"--sessions.max_batch_items=8", "--sessions.max_object_bytes=1MiB",
                                 "--sessions.max_regions=3", "--sessions.max_sessions=4",
                                 "--sessions.max_registered_bytes=8MiB"},
                                [](v1::StoreConfig& config) {
                                  config.mutable_sessions()->set_max_batch_items(8);
                                  config.mutable_sessions()->set_max_object_bytes(1 << 20);
                                  config.mutable_sessions()->set_max_regions(3);
                                  config.mutable_sessions()->set_max_sessions(4);
                                  config.mutable_sessions()->set_max_registered_bytes(8 << 20);
                                });
    }
    store_ = store.get();
    client_ = std::make_unique<RawClient>(*store_);
    buffer_ = client_->Allocate(2 << 20);
  }
  // The store still serves others.
  void TearDown() override {
    EXPECT_EQ(client_->PutOne(Key("alive"), buffer_, 0, 100).result() == v1::PUT_RESULT_FAILED,
              false);
    EXPECT_TRUE(client_->GetOne(Key("alive"), buffer_, 0, 100).hit());
    client_.reset();
    RawClient next(*store_);
    EXPECT_TRUE(Eventually([&] { return next.Status().sessions_size() == 1; }));
  }
  template <typename Request, typename Reply>
  grpc::Status Do(grpc::Status (v1::Store::Stub::*method)(grpc::ClientContext*, const Request&,
                                                          Reply*),
                  Request request) {
    Reply reply;
    return Call(client_->stub(), method, request, &reply);
  }

  StoreUnderTest* store_ = nullptr;
  std::unique_ptr<RawClient> client_;
  Buffer buffer_;
};

TEST_P(StoreBadInputTest, UnknownSessions) {
  for (const std::string& id :
       {std::string(), std::string("short"), std::string(16, 'x'), std::string(10000, 'y')}) {
    v1::ExistsRequest exists;
    exists.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::Exists, exists).error_code(), grpc::UNAUTHENTICATED);
    v1::PutRequest put;
    put.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::Put, put).error_code(), grpc::UNAUTHENTICATED);
    v1::GetRequest get;
    get.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::Get, get).error_code(), grpc::UNAUTHENTICATED);
    v1::ListRequest list;
    list.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::List, list).error_code(), grpc::UNAUTHENTICATED);
    v1::PinRequest pin;
    pin.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::Pin, pin).error_code(), grpc::UNAUTHENTICATED);
    v1::RemoveRequest remove;
    remove.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::Remove, remove).error_code(), grpc::UNAUTHENTICATED);
    v1::LongestPrefixRequest prefix;
    prefix.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::LongestPrefix, prefix).error_code(), grpc::UNAUTHENTICATED);
    v1::RecallRequest recall;
    recall.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::Recall, recall).error_code(), grpc::UNAUTHENTICATED);
    v1::ContextRef ref;
    ref.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::AttachContext, ref).error_code(), grpc::UNAUTHENTICATED);
    EXPECT_EQ(Do(&v1::Store::Stub::DropContext, ref).error_code(), grpc::UNAUTHENTICATED);
    v1::ParkContextRequest park;
    park.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::ParkContext, park).error_code(), grpc::UNAUTHENTICATED);
    v1::OpenContextRequest open;
    open.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::OpenContext, open).error_code(), grpc::UNAUTHENTICATED);
    v1::AppendContextRequest append;
    append.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::AppendContext, append).error_code(), grpc::UNAUTHENTICATED);
    v1::TruncateContextRequest truncate;
    truncate.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::TruncateContext, truncate).error_code(), grpc::UNAUTHENTICATED);
    v1::ForkContextRequest fork;
    fork.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::ForkContext, fork).error_code(), grpc::UNAUTHENTICATED);
    v1::ListContextsRequest contexts;
    contexts.set_session_id(id);
    EXPECT_EQ(Do(&v1::Store::Stub::ListContexts, contexts).error_code(), grpc::UNAUTHENTICATED);
  }
}

TEST_P(StoreBadInputTest, UnknownSessionsOnStreams) {
  {
    grpc::ClientContext context;
    auto stream = client_->stub().PutInline(&context);
    v1::PutInlineRequest request;
    request.set_session_id("nobody");
    stream->Write(request);
    v1::PutItemResult result;
    EXPECT_FALSE(stream->Read(&result));
    EXPECT_EQ(stream->Finish().error_code(), grpc::UNAUTHENTICATED);
  }
  {
    grpc::ClientContext context;
    auto stream = client_->stub().StreamDigests(&context);
    stream->Write(v1::DigestBatch());
    v1::DigestAck ack;
    EXPECT_FALSE(stream->Read(&ack));
    EXPECT_EQ(stream->Finish().error_code(), grpc::UNAUTHENTICATED);
  }
  {
    grpc::ClientContext context;
    auto stream = client_->stub().RecallStream(&context);
    stream->Write(v1::RecallRequest());
    v1::RecallReply reply;
    ASSERT_TRUE(stream->Read(&reply));
    EXPECT_EQ(reply.error_code(), static_cast<uint32_t>(grpc::UNAUTHENTICATED));
    stream->WritesDone();
    EXPECT_TRUE(stream->Finish().ok());
  }
  for (bool digests : {false, true}) {
    grpc::ClientContext context;
    if (digests) {
      v1::DigestBatch batch;
      auto stream = client_->stub().ReadDigests(&context, v1::ReadDigestsRequest());
      EXPECT_FALSE(stream->Read(&batch));
      EXPECT_EQ(stream->Finish().error_code(), grpc::UNAUTHENTICATED);
    } else {
      v1::GetInlineReply reply;
      auto stream = client_->stub().GetInline(&context, v1::GetInlineRequest());
      EXPECT_FALSE(stream->Read(&reply));
      EXPECT_EQ(stream->Finish().error_code(), grpc::UNAUTHENTICATED);
    }
  }
}

TEST_P(StoreBadInputTest, BadPutItems) {
  struct Case {
    const char* name;
    std::function<void(v1::PutItem&)> spoil;
    const char* says;
  };
  const auto source = [](v1::PutItem& item) { return item.mutable_sources(0); };
  const Case cases[] = {
      {"no key", [](auto& i) { i.clear_key(); }, "4 to 63"},
      {"short key", [](auto& i) { i.set_key("abc"); }, "4 to 63"},
      {"long key", [](auto& i) { i.set_key(std::string(64, 'k')); }, "4 to 63"},
      {"no sources", [](auto& i) { i.clear_sources(); }, "0 sources"},
      {"too many sources",
       [](auto& i) {
         for (int n = 0; n < 5000; ++n) *i.add_sources() = i.sources(0);
       },
       "1 to 4096"},
      {"unknown region", [&](auto& i) { source(i)->set_region_id(42); }, "region_id 42"},
      {"no bytes", [&](auto& i) { source(i)->set_bytes(0); }, "at least 1"},
      {"past the end", [&](auto& i) { source(i)->set_bytes((2 << 20) + 1); }, "leave region"},
      {"offset past the end", [&](auto& i) { source(i)->set_offset((2 << 20) + 1); },
       "leave region"},
      {"overflow", [&](auto& i) { source(i)->set_offset(kMax - 10); }, "leave region"},
      {"overflow of bytes", [&](auto& i) { source(i)->set_bytes(kMax); }, "leave region"},
      {"too large", [&](auto& i) { source(i)->set_bytes((1 << 20) + 1); }, "max_object_bytes"},
      {"layout size",
       [](auto& i) {
         i.mutable_layout()->set_num_kv_heads(2);
         i.mutable_layout()->set_part_bytes(999);
       },
       "layout"},
      {"layout heads",
       [](auto& i) {
         i.mutable_layout()->set_num_kv_heads(257);
         i.mutable_layout()->set_part_bytes(1);
       },
       "1 to 256"},
      {"layout parts", [](auto& i) { i.mutable_layout()->set_num_kv_heads(2); }, "at least 1 byte"},
      {"layout overflow",
       [](auto& i) {
         i.mutable_layout()->set_num_kv_heads(256);
         i.mutable_layout()->set_part_bytes(~0u);
       },
       "layout"},
      {"codec", [](auto& i) { i.set_codec("zip9"); }, "zip9"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    v1::PutRequest request;
    // A good neighbour is not affected.
    for (int n = 0; n < 2; ++n) {
      v1::PutItem* item = request.add_items();
      item->set_key(Key(absl::StrCat(c.name, n)));
      *item->add_sources() = buffer_.Ref(0, 4096);
    }
    c.spoil(*request.mutable_items(0));
    const v1::PutReply reply = client_->Put(request);
    EXPECT_EQ(reply.results(0).result(), v1::PUT_RESULT_INVALID);
    EXPECT_THAT(reply.results(0).message(), HasSubstr(c.says));
    EXPECT_EQ(reply.results(1).result(), v1::PUT_RESULT_STORED) << reply.results(1).message();
  }
}

TEST_P(StoreBadInputTest, BadGetItems) {
  v1::ObjectLayout layout;
  layout.set_num_kv_heads(4);
  layout.set_part_bytes(512);
  client_->PutOne(Key("paged"), buffer_, 0, 4096, layout);
  client_->PutOne(Key("opaque"), buffer_, 0, 4096);
  struct Case {
    const char* name;
    std::function<void(v1::GetItem&)> spoil;
    const char* says;
  };
  const auto range = [](v1::GetItem& item, int part, uint32_t begin, uint32_t count) {
    item.mutable_range()->set_part(static_cast<v1::Part>(part));
    item.mutable_range()->set_head_begin(begin);
    item.mutable_range()->set_head_count(count);
  };
  const Case cases[] = {
      {"key", [](auto& i) { i.set_key("k"); }, "4 to 63"},
      {"no destinations", [](auto& i) { i.clear_destinations(); }, "0 destinations"},
      {"too small", [](auto& i) { i.mutable_destinations(0)->set_bytes(4095); }, "4095"},
      {"unknown region", [](auto& i) { i.mutable_destinations(0)->set_region_id(0); },
       "not registered"},
      {"overflow", [](auto& i) { i.mutable_destinations(0)->set_offset(kMax); }, "leave region"},
      {"part", [&](auto& i) { range(i, 3, 0, 0); }, "PART_K"},
      {"heads", [&](auto& i) { range(i, 0, 2, 3); }, "within [0, 4)"},
      {"head begin", [&](auto& i) { range(i, 1, 4, 0); }, "within [0, 4)"},
      {"head overflow", [&](auto& i) { range(i, 2, ~0u, ~0u); }, "within [0, 4)"},
      {"range of opaque",
       [&](auto& i) {
         i.set_key(Key("opaque"));
         range(i, 1, 0, 0);
       },
       "opaque"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    v1::GetRequest request;
    for (int n = 0; n < 2; ++n) {
      v1::GetItem* item = request.add_items();
      item->set_key(Key("paged"));
      *item->add_destinations() = buffer_.Ref(8192, 4096);
    }
    c.spoil(*request.mutable_items(0));
    const v1::GetReply reply = client_->Get(request);
    EXPECT_FALSE(reply.results(0).hit());
    EXPECT_EQ(reply.results(0).miss_reason(), v1::MISS_REASON_UNSPECIFIED);
    EXPECT_THAT(reply.results(0).message(), HasSubstr(c.says));
    EXPECT_TRUE(reply.results(1).hit()) << reply.results(1).message();
  }
}

TEST_P(StoreBadInputTest, ForeignMemoryIsOutOfReach) {
  RawClient stranger(*store_);
  Buffer theirs;
  theirs.region_id = 4711;
  auto region = stranger.transport().Allocate(4096);
  ASSERT_TRUE(region.ok());
  theirs.region = *std::move(region);
  ASSERT_EQ(stranger.Register(4711, theirs.region->descriptor()).error(), "");
  // Another session's region number means nothing here.
  EXPECT_THAT(client_->PutOne(Key("foreign"), theirs, 0, 4096).message(),
              HasSubstr("not registered"));
  EXPECT_THAT(client_->GetOne(Key("alive"), theirs, 0, 4096).message(),
              HasSubstr("not registered"));
  // Nor does another client's descriptor.
  const v1::RegionReply reply = client_->Register(4711, theirs.region->descriptor());
  EXPECT_NE(reply.error(), "");
}

TEST_P(StoreBadInputTest, OversizeBatchesAndBadPages) {
  v1::ExistsRequest exists;
  exists.set_session_id(client_->session_id());
  for (int i = 0; i < 9; ++i) exists.add_keys(Key("k"));
  grpc::Status status = Do(&v1::Store::Stub::Exists, exists);
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("max_batch_items allows 8"));
  exists.clear_keys();
  exists.add_keys(Key("k"));
  exists.add_keys("x");
  status = Do(&v1::Store::Stub::Exists, exists);
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("keys[1]"));
  v1::PutRequest put;
  v1::GetRequest get;
  put.set_session_id(client_->session_id());
  get.set_session_id(client_->session_id());
  for (int i = 0; i < 9; ++i) {
    put.add_items();
    get.add_items();
  }
  EXPECT_EQ(Do(&v1::Store::Stub::Put, put).error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Do(&v1::Store::Stub::Get, get).error_code(), grpc::RESOURCE_EXHAUSTED);
  put.clear_items();
  put.set_deadline_ms(600001);
  get.clear_items();
  get.set_deadline_ms(~0u);
  EXPECT_EQ(Do(&v1::Store::Stub::Put, put).error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(Do(&v1::Store::Stub::Get, get).error_code(), grpc::INVALID_ARGUMENT);
  v1::ListRequest list;
  list.set_session_id(client_->session_id());
  list.set_page_size(10001);
  EXPECT_EQ(Do(&v1::Store::Stub::List, list).error_code(), grpc::INVALID_ARGUMENT);
  list.set_page_size(0);
  list.set_page_token("not hex");
  EXPECT_EQ(Do(&v1::Store::Stub::List, list).error_code(), grpc::INVALID_ARGUMENT);
  list.clear_page_token();
  list.set_key_prefix(std::string(64, 'p'));
  EXPECT_EQ(Do(&v1::Store::Stub::List, list).error_code(), grpc::INVALID_ARGUMENT);
  v1::ListContextsRequest contexts;
  contexts.set_session_id(client_->session_id());
  contexts.set_page_size(~0u);
  EXPECT_EQ(Do(&v1::Store::Stub::ListContexts, contexts).error_code(), grpc::INVALID_ARGUMENT);
}

TEST_P(StoreBadInputTest, BadInlineValuesDoNotEndTheirStream) {
  struct Case {
    const char* name;
    std::function<void(std::vector<v1::PutInlineRequest>&)> spoil;
    v1::PutResult result;
  };
  const Case cases[] = {
      {"key", [](auto& m) { m[0].set_key("x"); }, v1::PUT_RESULT_INVALID},
      {"no size", [](auto& m) { m[0].set_total_bytes(0); }, v1::PUT_RESULT_INVALID},
      {"large", [](auto& m) { m[0].set_total_bytes(kMax); }, v1::PUT_RESULT_INVALID},
      {"short", [](auto& m) { m[0].set_total_bytes(30); }, v1::PUT_RESULT_INVALID},
      {"long", [](auto& m) { m[0].set_total_bytes(10); }, v1::PUT_RESULT_INVALID},
      {"chunk",
       [](auto& m) {
         m[0].set_total_bytes(1 << 20);
         m[1].set_data(std::string((1 << 20) + 1, 'c'));
       },
       v1::PUT_RESULT_INVALID},
      {"codec", [](auto& m) { m[0].set_codec("?"); }, v1::PUT_RESULT_INVALID},
      {"layout", [](auto& m) { m[0].mutable_layout()->set_num_kv_heads(3); },
       v1::PUT_RESULT_INVALID},
      {"crc", [](auto& m) { m[0].set_crc32c(1); }, v1::PUT_RESULT_CORRUPT},
      {"good", [](auto&) {}, v1::PUT_RESULT_STORED},
      {"again", [](auto& m) { m[0].set_key(Key("good")); }, v1::PUT_RESULT_EXISTS},
  };
  grpc::ClientContext context;
  auto stream = client_->stub().PutInline(&context);
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    std::vector<v1::PutInlineRequest> messages(2);
    messages[0].set_session_id(client_->session_id());
    messages[0].set_key(Key(c.name));
    messages[0].set_total_bytes(20);
    messages[0].set_data("0123456789");
    messages[1].set_data("abcdefghij");
    messages[1].set_last(true);
    c.spoil(messages);
    for (const auto& message : messages) ASSERT_TRUE(stream->Write(message));
    v1::PutItemResult result;
    ASSERT_TRUE(stream->Read(&result));
    EXPECT_EQ(result.result(), c.result) << result.message();
    EXPECT_EQ(result.key(), messages[0].key());
    EXPECT_EQ(result.message().empty(), c.result == v1::PUT_RESULT_STORED);
  }
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_P(StoreBadInputTest, BadSessions) {
  const auto refused = [&](const std::function<void(v1::SessionRequest&)>& spoil) {
    auto stub = v1::Store::NewStub(store_->MakeChannel());
    grpc::ClientContext context;
    auto stream = stub->Session(&context);
    v1::SessionRequest request;
    request.mutable_open()->set_client_name("bad");
    spoil(request);
    stream->Write(request);
    v1::SessionReply reply;
    EXPECT_FALSE(stream->Read(&reply));
    return stream->Finish();
  };
  const auto check = [&](const char* name, grpc::StatusCode code, const char* says,
                         const std::function<void(v1::SessionRequest&)>& spoil) {
    SCOPED_TRACE(name);
    const grpc::Status status = refused(spoil);
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(says));
  };
  check("empty", grpc::INVALID_ARGUMENT, "open", [](auto& r) { r.Clear(); });
  check("register first", grpc::INVALID_ARGUMENT, "before open",
        [](auto& r) { r.mutable_register_region(); });
  check("unregister first", grpc::INVALID_ARGUMENT, "before open",
        [](auto& r) { r.mutable_unregister_region(); });
  check("name", grpc::INVALID_ARGUMENT, "128",
        [](auto& r) { r.mutable_open()->set_client_name(std::string(129, 'n')); });
  check("namespace", grpc::INVALID_ARGUMENT, "512",
        [](auto& r) { r.mutable_open()->set_key_namespace(std::string(513, 'n')); });
  check("address", grpc::INVALID_ARGUMENT, "transport_address",
        [](auto& r) { r.mutable_open()->set_transport_address("no address at all"); });
  std::string cut = client_->transport().Address();
  cut.resize(cut.size() / 2);
  check("cut address", grpc::INVALID_ARGUMENT, "transport_address",
        [&](auto& r) { r.mutable_open()->set_transport_address(cut); });

  RawClient twice(*store_);
  v1::SessionRequest open;
  open.mutable_open()->set_client_name("again");
  v1::SessionReply reply;
  EXPECT_FALSE(twice.Exchange(open, &reply));
  EXPECT_EQ(twice.AwaitEnd().error_code(), grpc::FAILED_PRECONDITION);
}

TEST_P(StoreBadInputTest, BadRegionsDoNotEndTheSession) {
  EXPECT_THAT(client_->Register(1, buffer_.region->descriptor()).error(),
              HasSubstr("registered already"));
  EXPECT_NE(client_->Register(2, "").error(), "");
  EXPECT_NE(client_->Register(2, "garbage of some length that is no descriptor").error(), "");
  std::string cut = buffer_.region->descriptor();
  cut.pop_back();
  EXPECT_NE(client_->Register(2, cut).error(), "");
  client_->Allocate(64);
  client_->Allocate(64);
  EXPECT_THAT(client_->Register(9, buffer_.region->descriptor()).error(),
              HasSubstr("max_regions allows 3"));
  RawClient::Options options;
  options.inline_only = true;
  RawClient inliner(*store_, options);
  EXPECT_THAT(inliner.Register(1, buffer_.region->descriptor()).error(), HasSubstr("inline"));
  const v1::PutItemResult put = inliner.PutOne(Key("inline"), buffer_, 0, 10);
  EXPECT_EQ(put.result(), v1::PUT_RESULT_INVALID);
  EXPECT_THAT(put.message(), HasSubstr("PutInline"));
}

TEST_P(StoreBadInputTest, RegisteredBytesAreLimited) {
  EXPECT_EQ(client_->opened().limits().max_registered_bytes(), 8u << 20);
  const auto large = client_->transport().Allocate((6 << 20) + 1);
  const auto rest = client_->transport().Allocate(6 << 20);
  ASSERT_TRUE(large.ok() && rest.ok());
  const v1::RegionReply refused = client_->Register(20, (*large)->descriptor());
  EXPECT_EQ(refused.error_code(), static_cast<uint32_t>(grpc::RESOURCE_EXHAUSTED));
  EXPECT_THAT(refused.error(),
              HasSubstr("6291457 bytes, where the session has registered 2097152"));
  EXPECT_THAT(refused.error(), HasSubstr("sessions.max_registered_bytes allows 8388608"));
  for (uint64_t id : {20, 21}) {
    EXPECT_EQ(client_->Register(id, (*rest)->descriptor()).error(), "");
    EXPECT_EQ(client_->Status().sessions(0).registered_bytes(), 8u << 20);
    EXPECT_EQ(client_->Unregister(id).error(), "");  // gives it back
  }
}

TEST_P(StoreBadInputTest, SessionsAreLimited) {
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(std::make_unique<RawClient>(*store_));
  for (const auto& client : clients) EXPECT_TRUE(client->open_status().ok());
  RawClient one_more(*store_);
  EXPECT_EQ(one_more.open_status().error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(one_more.open_status().error_message(), HasSubstr("max_sessions allows 4"));
  clients.clear();
  EXPECT_TRUE(Eventually([&] { return RawClient(*store_).open_status().ok(); }));
}

INSTANTIATE_TEST_SUITE_P(Lanes, StoreBadInputTest, ::testing::Values("embedded", "shm", "tcp"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace varve::testing
