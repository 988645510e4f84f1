// Clients that are alive and do nothing: they cost the store a bounded amount, for a bounded time.
#include <atomic>
#include <optional>
#include <set>

#include "tests/integration/store_contexts_fixture.h"

namespace varve::testing {
namespace {

constexpr uint64_t kValueBytes = 48 << 20;  // more than anything on the way buffers

// Recalls over a transport without buffers: a reply is taken when the client reads it.
class StalledRecallTest : public StoreContextsTest {};

TEST_P(StalledRecallTest, AClientThatDoesNotReadIsNotReadFrom) {
  constexpr int kRequests = 500;
  v1::RecallRequest request = MakeRecall(MakeContext("c"), 3);
  request.set_session_id(client_->session_id());
  request.set_explain(true);
  for (v1::LayerRecall& layer : *request.mutable_layers()) {
    for (v1::HeadRecall& head : *layer.mutable_heads()) head.clear_slots();
  }
  grpc::ClientContext context;
  auto stream = client_->stub().RecallStream(&context);
  std::atomic<int> written{0};
  std::thread writer([&] {
    for (int i = 0; i < kRequests; ++i) {
      request.set_tag(i);
      if (!stream->Write(request)) return;
      ++written;
    }
    stream->WritesDone();
  });
  for (int before = -1; written != before;) {
    before = written;
    absl::SleepFor(absl::Seconds(1));
  }
  EXPECT_GT(written, 0);
  EXPECT_LT(written, kRequests / 2) << "the store piles up replies that nobody reads";
  EXPECT_FALSE(Open()->Exists(Key("nothing"))) << "others are served meanwhile";

  std::set<uint64_t> tags;
  v1::RecallReply reply;
  while (stream->Read(&reply)) {
    EXPECT_EQ(reply.error(), "");
    tags.insert(reply.tag());
  }
  writer.join();
  EXPECT_EQ(tags.size(), size_t{kRequests});
  EXPECT_TRUE(stream->Finish().ok());
}

INSTANTIATE_TEST_SUITE_P(Stores, StalledRecallTest, ::testing::Values("embedded"));

class StalledInlineTest : public ::testing::TestWithParam<std::string> {
 protected:
  void Start(int idle_ms) {
    store_ = StoreUnderTest::Start(
        GetParam(), {absl::StrCat("--sessions.inline_idle_ms=", idle_ms, "ms")},
        [&](v1::StoreConfig& config) { config.mutable_sessions()->set_inline_idle_ms(idle_ms); });
    client_ = std::make_unique<RawClient>(*store_);
    watcher_ = std::make_unique<RawClient>(*store_);
  }
  uint64_t UsedBytes() { return watcher_->Status().tiers(0).used_bytes(); }
  uint64_t PinnedBytes() { return watcher_->Status().tiers(0).pinned_bytes(); }

  v1::PutInlineRequest FirstMessage(const std::string& key) {
    v1::PutInlineRequest message;
    message.set_session_id(client_->session_id());
    message.set_key(Key(key));
    message.set_total_bytes(kValueBytes);
    message.set_data("x");
    return message;
  }
  // A stream that has begun an object and reserved its space.
  void BeginPut() {
    put_ = client_->stub().PutInline(&context_);
    ASSERT_TRUE(put_->Write(FirstMessage("half")));
    ASSERT_TRUE(Eventually([&] { return UsedBytes() >= kValueBytes; }));
  }
  // A stream that has sent the beginning of an object and keeps it pinned.
  void BeginGet() {
    const Buffer buffer = client_->Allocate(kValueBytes);
    ASSERT_EQ(client_->PutOne(Key("whole"), buffer, 0, kValueBytes).result(),
              v1::PUT_RESULT_STORED);
    ASSERT_EQ(PinnedBytes(), 0u);
    request_.set_session_id(client_->session_id());
    request_.add_items()->set_key(Key("whole"));
    get_ = client_->stub().GetInline(&context_, request_);
    v1::GetInlineReply reply;
    ASSERT_TRUE(get_->Read(&reply));
    ASSERT_FALSE(reply.last()) << reply.result().ShortDebugString();
    ASSERT_TRUE(Eventually([&] { return PinnedBytes() >= kValueBytes; }));
  }
  grpc::Status RestOfGet() {
    v1::GetInlineReply reply;
    while (get_->Read(&reply)) {
    }
    return get_->Finish();
  }

  std::unique_ptr<StoreUnderTest> store_;
  std::unique_ptr<RawClient> client_, watcher_;
  grpc::ClientContext context_;
  v1::GetInlineRequest request_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::PutInlineRequest, v1::PutItemResult>> put_;
  std::unique_ptr<grpc::ClientReader<v1::GetInlineReply>> get_;
};

TEST_P(StalledInlineTest, APutThatStopsGivesItsSpaceBack) {
  Start(/*idle_ms=*/300);
  BeginPut();
  EXPECT_TRUE(Eventually([&] { return UsedBytes() == 0; }));
  v1::PutItemResult result;
  EXPECT_FALSE(put_->Read(&result));
  const grpc::Status status = put_->Finish();
  EXPECT_EQ(status.error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_THAT(status.error_message(), HasSubstr("sessions.inline_idle_ms"));
  EXPECT_FALSE(client_->Exists(Key("half"))) << "the session goes on";
}

TEST_P(StalledInlineTest, AGetThatIsNotReadGivesItsPinBack) {
  Start(/*idle_ms=*/300);
  BeginGet();
  EXPECT_TRUE(Eventually([&] { return PinnedBytes() == 0; }));
  const grpc::Status status = RestOfGet();
  EXPECT_EQ(status.error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_THAT(status.error_message(), HasSubstr("sessions.inline_idle_ms"));
  EXPECT_TRUE(client_->Exists(Key("whole")));
}

TEST_P(StalledInlineTest, APutEndsWithItsSession) {
  Start(/*idle_ms=*/600000);
  BeginPut();
  client_->EndSession();
  EXPECT_TRUE(Eventually([&] { return UsedBytes() == 0; }));
  v1::PutItemResult result;
  EXPECT_FALSE(put_->Read(&result));
  const grpc::Status status = put_->Finish();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("session has ended"));
}

TEST_P(StalledInlineTest, AGetEndsWithItsSession) {
  Start(/*idle_ms=*/600000);
  BeginGet();
  client_->EndSession();
  EXPECT_TRUE(Eventually([&] { return PinnedBytes() == 0; }));
  EXPECT_EQ(RestOfGet().error_code(), grpc::UNAVAILABLE);
}

TEST_P(StalledInlineTest, AnObjectWithoutItsLastMessageIsAnError) {
  Start(/*idle_ms=*/600000);
  BeginPut();
  put_->WritesDone();
  const grpc::Status status = put_->Finish();
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("after 1 bytes of an object"));
  EXPECT_TRUE(Eventually([&] { return UsedBytes() == 0; }));
}

TEST_P(StalledInlineTest, AnObjectKeepsItsKey) {
  Start(/*idle_ms=*/600000);
  BeginPut();
  v1::PutInlineRequest other;
  other.set_key(Key("another"));
  other.set_data("y");
  ASSERT_TRUE(put_->Write(other));
  EXPECT_TRUE(Eventually([&] { return UsedBytes() == 0; })) << "it can't be stored any more";
  other.clear_key();
  other.set_last(true);
  ASSERT_TRUE(put_->Write(other));
  v1::PutItemResult result;
  ASSERT_TRUE(put_->Read(&result));
  EXPECT_EQ(result.result(), v1::PUT_RESULT_INVALID);
  EXPECT_THAT(result.message(), HasSubstr("key differs"));
  put_->WritesDone();
  EXPECT_TRUE(put_->Finish().ok());
}

INSTANTIATE_TEST_SUITE_P(Stores, StalledInlineTest, ::testing::Values("embedded", "tcp"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace varve::testing
