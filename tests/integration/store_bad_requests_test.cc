// What requests may not say about contexts, batches and times: a clear error each, and the store
// goes on. Beside store_bad_input_test, which goes through the items of puts and gets.
#include <limits>

#include "tests/integration/store_contexts_fixture.h"

namespace varve::testing {
namespace {

constexpr uint32_t kMax = std::numeric_limits<uint32_t>::max();

class StoreBadRequestsTest : public StoreContextsTest {
 protected:
  void ExpectRefused(const grpc::Status& status, grpc::StatusCode code, const char* says) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(says));
  }
};

TEST_P(StoreBadRequestsTest, BadInlineGetsDoNotEndTheirStream) {
  MakeContext("c");
  const std::string key(page::MakeObjectKey(BlockHash(0), 0)->bytes());
  struct Case {
    std::function<void(v1::GetInlineItem&)> spoil;
    const char* says;
  };
  const auto range = [](v1::GetInlineItem& item, int part, uint32_t begin, uint32_t count) {
    item.mutable_range()->set_part(static_cast<v1::Part>(part));
    item.mutable_range()->set_head_begin(begin);
    item.mutable_range()->set_head_count(count);
  };
  const Case cases[] = {
      {[](auto& i) { i.set_key(""); }, "4 to 63"},
      {[](auto& i) { i.set_key(std::string(64, 'k')); }, "4 to 63"},
      {[&](auto& i) { range(i, 3, 0, 0); }, "PART_K"},
      {[&](auto& i) { range(i, 0, kHeads, 0); }, "within [0, 2)"},
      {[&](auto& i) { range(i, 1, 1, 2); }, "within [0, 2)"},
      {[&](auto& i) { range(i, 2, kMax, kMax); }, "within [0, 2)"},
  };
  v1::GetInlineRequest request;
  request.set_session_id(client_->session_id());
  for (const Case& c : cases) {
    request.add_items()->set_key(key);
    c.spoil(*request.mutable_items(request.items_size() - 1));
  }
  request.add_items()->set_key(key);
  grpc::ClientContext context;
  const auto stream = client_->stub().GetInline(&context, request);
  std::vector<v1::GetItemResult> results;
  std::string data;
  for (v1::GetInlineReply reply; stream->Read(&reply);) {
    data += reply.data();
    if (reply.last()) results.push_back(reply.result());
  }
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_EQ(results.size(), std::size(cases) + 1);
  for (size_t i = 0; i < std::size(cases); ++i) {
    EXPECT_FALSE(results[i].hit()) << i;
    EXPECT_EQ(results[i].miss_reason(), v1::MISS_REASON_UNSPECIFIED) << i;
    EXPECT_THAT(results[i].message(), HasSubstr(cases[i].says)) << i;
  }
  EXPECT_TRUE(results.back().hit());
  EXPECT_EQ(data.size(), object_bytes_);
}

TEST_P(StoreBadRequestsTest, OversizeBatchesAndBadKeys) {
  const uint32_t limit = client_->opened().limits().max_batch_items();
  const auto check = [&](auto method, auto request, auto reply) {
    for (uint32_t i = 0; i <= limit; ++i) request.add_keys("some key");
    ExpectRefused(Do(method, request, &reply), grpc::RESOURCE_EXHAUSTED,
                  "sessions.max_batch_items");
    request.clear_keys();
    request.add_keys("some key");
    request.add_keys("abc");
    ExpectRefused(Do(method, request, &reply), grpc::INVALID_ARGUMENT, "keys[1]");
  };
  check(&v1::Store::Stub::LongestPrefix, v1::LongestPrefixRequest(), v1::LongestPrefixReply());
  check(&v1::Store::Stub::Remove, v1::RemoveRequest(), v1::RemoveReply());
  check(&v1::Store::Stub::Pin, v1::PinRequest(), v1::PinReply());

  v1::GetInlineRequest get;
  get.set_session_id(client_->session_id());
  for (uint32_t i = 0; i <= limit; ++i) get.add_items()->set_key("some key");
  grpc::ClientContext context;
  v1::GetInlineReply reply;
  const auto stream = client_->stub().GetInline(&context, get);
  EXPECT_FALSE(stream->Read(&reply));
  ExpectRefused(stream->Finish(), grpc::RESOURCE_EXHAUSTED, "sessions.max_batch_items");
}

TEST_P(StoreBadRequestsTest, BadForks) {
  MakeContext("c");
  v1::ForkContextRequest fork;
  fork.set_context_id("c");
  v1::ContextInfo info;
  const auto refused = [&](const std::string& new_id, uint32_t blocks, grpc::StatusCode code,
                           const char* says) {
    SCOPED_TRACE(new_id);
    fork.set_new_context_id(new_id);
    fork.set_num_blocks(blocks);
    ExpectRefused(Do(&v1::Store::Stub::ForkContext, fork, &info), code, says);
  };
  refused("", 1, grpc::INVALID_ARGUMENT, "A-Z a-z 0-9");
  refused("sp ace", 1, grpc::INVALID_ARGUMENT, "A-Z a-z 0-9");
  refused(std::string(129, 'x'), 1, grpc::INVALID_ARGUMENT, "128");
  refused("c", 1, grpc::ALREADY_EXISTS, "c");
  refused("new", kBlocks + 1, grpc::INVALID_ARGUMENT, "blocks");
  refused("new", kMax, grpc::INVALID_ARGUMENT, "blocks");
  fork.set_context_id("nobody");
  refused("new", 1, grpc::NOT_FOUND, "nobody");
  fork.set_context_id("c");
  fork.set_num_blocks(kBlocks);
  EXPECT_TRUE(Do(&v1::Store::Stub::ForkContext, fork, &info).ok());
}

TEST_P(StoreBadRequestsTest, BadHotPages) {
  MakeContext("c");
  struct Case {
    std::function<void(v1::ParkContextRequest&)> spoil;
    const char* says;
  };
  const auto add = [](v1::ParkContextRequest& park, uint32_t layer, uint32_t head) {
    v1::HotPages* hot = park.add_hot();
    hot->set_layer(layer);
    hot->set_kv_head(head);
    return hot;
  };
  const Case cases[] = {
      {[&](auto& p) { add(p, kLayers, 0); }, "hot[2].layer is 2, allowed: 0..1"},
      {[&](auto& p) { add(p, kMax, kMax); }, "allowed: 0..1"},
      {[&](auto& p) {
         for (int i = 0; i < 3; ++i) add(p, 1, 1);
       },
       "hot has 5 entries, allowed: at most 4"},
      {[&](auto& p) { add(p, 1, kHeads); }, "hot[2].kv_head is 2, allowed: 0..1"},
      {[&](auto& p) { add(p, 0, 1); }, "hot[2] is of layer 0, KV head 1, allowed: ascending"},
      {[&](auto& p) { add(p, 0, 0); }, "each once"},
      {[&](auto& p) { add(p, 1, 1)->add_attended(kBlocks); }, "hot[2].attended[0] is"},
      {[&](auto& p) { add(p, 1, 1)->add_others(kMax); }, "allowed: ascending page ids below"},
      {[&](auto& p) { p.mutable_hot(0)->add_attended(3); }, "hot[0].attended[2] is 3"},
      {[&](auto& p) { p.mutable_hot(0)->add_others(1); }, "hot[0].others[1] is 1"},
      {[&](auto& p) { p.mutable_hot(0)->add_others(3); }, "hot[0].others has page 3"},
      {[&](auto& p) {
         // Refused for their number alone, before anything else.
         add(p, 1, 1)->mutable_attended()->Resize(4 << 20, 0);
       },
       "hot has 4194307 pages, allowed: 4194304"},
  };
  v1::ContextInfo info;
  const auto good = [&] {
    v1::ParkContextRequest park;
    park.set_context_id("c");
    v1::HotPages* hot = add(park, 0, 1);
    hot->add_attended(1);
    hot->add_attended(3);
    hot->add_others(2);
    add(park, 1, 0);  // nothing of it
    return park;
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.says);
    v1::ParkContextRequest park = good();
    c.spoil(park);
    ExpectRefused(Do(&v1::Store::Stub::ParkContext, park, &info), grpc::INVALID_ARGUMENT, c.says);
  }
  v1::ContextRef ref;
  ref.set_context_id("c");
  ASSERT_TRUE(Do(&v1::Store::Stub::AttachContext, ref, &info).ok());
  EXPECT_EQ(info.hot_size(), 0);  // of what was refused nothing is kept
  ASSERT_TRUE(Do(&v1::Store::Stub::ParkContext, good(), &info).ok());
  EXPECT_EQ(info.state(), v1::CONTEXT_STATE_PARKED);
  EXPECT_EQ(info.hot_size(), 0);
  ASSERT_TRUE(Do(&v1::Store::Stub::AttachContext, ref, &info).ok());
  ASSERT_EQ(info.hot_size(), 1);
  EXPECT_EQ(info.hot(0).SerializeAsString(), good().hot(0).SerializeAsString());
}

TEST_P(StoreBadRequestsTest, LayersOfDigestsOutOfRange) {
  MakeContext("c");
  const std::pair<uint32_t, uint32_t> wrong[] = {
      {0, kLayers + 1}, {1, kLayers}, {kLayers, 0}, {1, kMax}, {kMax, kMax}};
  for (const auto& [begin, count] : wrong) {
    SCOPED_TRACE(absl::StrCat(begin, "+", count));
    v1::ReadDigestsRequest read;
    read.set_session_id(client_->session_id());
    read.set_context_id("c");
    read.set_layer_begin(begin);
    read.set_layer_count(count);
    grpc::ClientContext context;
    const auto stream = client_->stub().ReadDigests(&context, read);
    v1::DigestBatch batch;
    EXPECT_FALSE(stream->Read(&batch));
    ExpectRefused(stream->Finish(), grpc::INVALID_ARGUMENT, "within [0, 2)");
  }
}

TEST_P(StoreBadRequestsTest, TooManyLayersOfARecall) {
  const v1::ContextInfo info = MakeContext("c");
  v1::RecallRequest recall = MakeRecall(info, 4);
  const uint32_t limit = client_->opened().limits().max_batch_items();
  while (recall.layers_size() <= static_cast<int>(limit)) recall.add_layers();
  v1::RecallReply reply;
  ExpectRefused(Do(&v1::Store::Stub::Recall, recall, &reply), grpc::RESOURCE_EXHAUSTED,
                "sessions.max_batch_items");
}

// Any time-out is allowed: 1 ms may be too short to connect in, and the longest is no overflow.
TEST_P(StoreBadRequestsTest, ExtremeTimesToOpenASession) {
  for (const uint32_t timeout_ms : {1u, kMax}) {
    // A store that gives up in the middle of UCX's handshake: an assertion of UCX 1.13 ends the
    // client.
    if (timeout_ms == 1 && GetParam() != "embedded") continue;
    SCOPED_TRACE(timeout_ms);
    const auto transport = store_->MakeTransport();
    const auto stub = v1::Store::NewStub(store_->MakeChannel());
    grpc::ClientContext context;
    const auto stream = stub->Session(&context);
    v1::SessionRequest request;
    request.mutable_open()->set_transport_address(transport->Address());
    request.mutable_open()->set_timeout_ms(timeout_ms);
    EXPECT_TRUE(stream->Write(request));
    v1::SessionReply reply;
    const bool opened = stream->Read(&reply);
    stream->WritesDone();
    const grpc::Status status = stream->Finish();
    EXPECT_TRUE(opened || timeout_ms == 1) << status.error_message();
    EXPECT_TRUE(opened || status.error_code() == grpc::UNAVAILABLE) << status.error_message();
  }
  EXPECT_TRUE(Open()->open_status().ok());
}

INSTANTIATE_TEST_SUITE_P(Lanes, StoreBadRequestsTest, ::testing::Values("embedded", "tcp"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace varve::testing
