// Contexts and digests through the wire.
#include "tests/integration/store_contexts_fixture.h"

namespace varve::testing {
namespace {

TEST_P(StoreContextsTest, OpenAppendTruncateForkParkAttachListDrop) {
  const v1::ContextInfo opened = OpenContext("c1");
  EXPECT_EQ(opened.state(), v1::CONTEXT_STATE_ATTACHED);
  EXPECT_EQ(opened.geometry().head_dim(), kDim);
  EXPECT_EQ(opened.num_blocks(), 0u);
  EXPECT_EQ(Append("c1", 0, 10).num_blocks(), 10u);
  v1::TruncateContextRequest truncate;
  truncate.set_context_id("c1");
  truncate.set_num_blocks(6);
  v1::ContextInfo info;
  ASSERT_TRUE(Do(&v1::Store::Stub::TruncateContext, truncate, &info).ok());
  EXPECT_EQ(info.num_blocks(), 6u);
  EXPECT_NE(info.epoch(), opened.epoch());
  v1::ForkContextRequest fork;
  fork.set_context_id("c1");
  fork.set_new_context_id("c2");
  fork.set_num_blocks(4);
  ASSERT_TRUE(Do(&v1::Store::Stub::ForkContext, fork, &info).ok());
  EXPECT_EQ(info.context_id(), "c2");
  EXPECT_EQ(info.num_blocks(), 4u);

  v1::ContextRef ref;
  ref.set_context_id("c1");
  v1::ParkContextRequest park;
  park.set_context_id("c1");
  ASSERT_TRUE(Do(&v1::Store::Stub::ParkContext, park, &info).ok());
  EXPECT_EQ(info.state(), v1::CONTEXT_STATE_PARKED);
  ASSERT_TRUE(Do(&v1::Store::Stub::AttachContext, ref, &info).ok());
  EXPECT_EQ(info.state(), v1::CONTEXT_STATE_ATTACHED);
  ASSERT_EQ(info.block_hashes_size(), 6);
  EXPECT_EQ(info.block_hashes(5), BlockHash(5));

  v1::ListContextsRequest list;
  list.set_page_size(1);
  std::vector<std::string> ids;
  for (;;) {
    v1::ListContextsReply reply;
    ASSERT_TRUE(Do(&v1::Store::Stub::ListContexts, list, &reply).ok());
    for (const v1::ContextInfo& context : reply.contexts()) ids.push_back(context.context_id());
    if (reply.next_page_token().empty()) break;
    list.set_page_token(reply.next_page_token());
  }
  EXPECT_THAT(ids, ElementsAre("c1", "c2"));
  v1::DropContextReply dropped;
  ASSERT_TRUE(Do(&v1::Store::Stub::DropContext, ref, &dropped).ok());
  EXPECT_EQ(Do(&v1::Store::Stub::AttachContext, ref, &info).error_code(), grpc::NOT_FOUND);
}

TEST_P(StoreContextsTest, ContextsAreParkedWhenTheSessionEnds) {
  OpenContext("c");
  auto other = Open();
  client_->EndSession();
  v1::ListContextsRequest list;
  list.set_session_id(other->session_id());
  EXPECT_TRUE(Eventually([&] {
    v1::ListContextsReply reply;
    return Call(other->stub(), &v1::Store::Stub::ListContexts, list, &reply).ok() &&
           reply.contexts_size() == 1 && reply.contexts(0).state() == v1::CONTEXT_STATE_PARKED;
  }));
}

TEST_P(StoreContextsTest, DigestsComeBackAsTheyWent) {
  const v1::ContextInfo info = MakeContext("c");
  v1::ReadDigestsRequest request;
  request.set_session_id(client_->session_id());
  request.set_context_id("c");
  request.set_epoch(info.epoch());
  for (uint32_t begin : {0u, 1u}) {
    request.set_layer_begin(begin);
    request.set_layer_count(begin);  // 0: all
    grpc::ClientContext context;
    auto stream = client_->stub().ReadDigests(&context, request);
    std::map<uint32_t, std::string> rows;
    v1::DigestBatch batch;
    while (stream->Read(&batch)) {
      EXPECT_EQ(batch.epoch(), info.epoch());
      EXPECT_LE(batch.rows().size(), size_t{1} << 20);
      rows[batch.layer()] += batch.rows();
    }
    ASSERT_TRUE(stream->Finish().ok());
    EXPECT_EQ(rows.size(), begin == 0 ? 2u : 1u);
    for (const auto& [layer, bytes] : rows) EXPECT_EQ(bytes, Digests(layer, 0, kBlocks));
  }
}

TEST_P(StoreContextsTest, BadDigestsAreRefusedAndTheStreamGoesOn) {
  OpenContext("c");
  const v1::ContextInfo info = Append("c", 0, kBlocks);
  v1::DigestBatch good = Batch(info, 0, 0, 4);
  std::vector<v1::DigestBatch> bad(9, good);
  bad[0].mutable_rows()->pop_back();  // truncated
  const float nan = std::nanf("");
  std::memcpy(bad[1].mutable_rows()->data() + 16, &nan, sizeof(nan));
  bad[2].set_layer(kLayers);
  bad[3].set_first_block(3);  // a hole
  bad[4].set_num_blocks(5);
  bad[5].set_context_id("nobody");
  bad[6].set_epoch(info.epoch() + 9);
  bad[7].set_num_blocks(0);
  bad[7].clear_rows();
  bad[8].set_num_blocks(0xffffffff);
  bad.push_back(good);
  const std::vector<v1::DigestAck> acks = SendDigests(bad);
  ASSERT_EQ(acks.size(), 10u);
  for (int i = 0; i < 9; ++i) EXPECT_NE(acks[i].error(), "") << i;
  EXPECT_EQ(acks[9].error(), "");
  EXPECT_EQ(acks[9].digest_blocks(), 4u);
}

TEST_P(StoreContextsTest, BadContextRequestsSayWhatIsAllowed) {
  OpenContext("c");
  v1::OpenContextRequest good;
  good.set_context_id("new");
  *good.mutable_geometry() = WireGeometry();
  good.set_digest_kind(v1::DIGEST_KIND_MINMAX);
  struct Case {
    std::function<void(v1::OpenContextRequest&)> spoil;
    grpc::StatusCode code;
    const char* says;
  };
  const Case cases[] = {
      {[](auto& r) { r.set_context_id(""); }, grpc::INVALID_ARGUMENT, "context"},
      {[](auto& r) { r.set_context_id("sp ace"); }, grpc::INVALID_ARGUMENT, "A-Z a-z 0-9"},
      {[](auto& r) { r.set_context_id(std::string(129, 'x')); }, grpc::INVALID_ARGUMENT, "128"},
      {[](auto& r) { r.set_context_id("c"); }, grpc::ALREADY_EXISTS, "c"},
      {[](auto& r) { r.clear_geometry(); }, grpc::INVALID_ARGUMENT, "geometry"},
      {[](auto& r) { r.mutable_geometry()->set_num_layers(0); }, grpc::INVALID_ARGUMENT, "layers"},
      {[](auto& r) { r.mutable_geometry()->set_num_layers(5000); }, grpc::INVALID_ARGUMENT,
       "layers"},
      {[](auto& r) { r.mutable_geometry()->set_num_kv_heads(0); }, grpc::INVALID_ARGUMENT, "heads"},
      {[](auto& r) { r.mutable_geometry()->set_num_query_heads(3); }, grpc::INVALID_ARGUMENT,
       "multiple"},
      {[](auto& r) { r.mutable_geometry()->set_head_dim(33); }, grpc::INVALID_ARGUMENT, "head_dim"},
      {[](auto& r) { r.mutable_geometry()->set_page_tokens(7); }, grpc::INVALID_ARGUMENT,
       "page_tokens"},
      {[](auto& r) { r.mutable_geometry()->set_dtype(static_cast<v1::DType>(4)); },
       grpc::INVALID_ARGUMENT, "DTYPE_BF16"},
      {[](auto& r) { r.set_digest_kind(static_cast<v1::DigestKind>(0)); }, grpc::INVALID_ARGUMENT,
       "DIGEST_KIND_MINMAX"},
  };
  for (const Case& c : cases) {
    v1::OpenContextRequest request = good;
    c.spoil(request);
    SCOPED_TRACE(request.ShortDebugString());
    v1::ContextInfo info;
    const grpc::Status status = Do(&v1::Store::Stub::OpenContext, request, &info);
    EXPECT_EQ(status.error_code(), c.code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(c.says));
  }
  v1::ContextInfo info;
  v1::AppendContextRequest append;
  append.set_context_id("c");
  append.set_first_block(1);
  append.add_block_hashes(BlockHash(0));
  EXPECT_FALSE(Do(&v1::Store::Stub::AppendContext, append, &info).ok());
  append.set_first_block(0);
  append.set_block_hashes(0, "abc");
  EXPECT_EQ(Do(&v1::Store::Stub::AppendContext, append, &info).error_code(),
            grpc::INVALID_ARGUMENT);
  v1::TruncateContextRequest truncate;
  truncate.set_context_id("c");
  truncate.set_num_blocks(1);
  EXPECT_EQ(Do(&v1::Store::Stub::TruncateContext, truncate, &info).error_code(),
            grpc::INVALID_ARGUMENT);
  v1::ReadDigestsRequest read;
  read.set_session_id(client_->session_id());
  read.set_context_id("c");
  read.set_layer_begin(kLayers);
  grpc::ClientContext context;
  auto stream = client_->stub().ReadDigests(&context, read);
  v1::DigestBatch batch;
  EXPECT_FALSE(stream->Read(&batch));
  EXPECT_EQ(stream->Finish().error_code(), grpc::INVALID_ARGUMENT);
}

TEST_P(StoreContextsTest, WhatIsTooMuchForContextsIsRefused) {
  OpenContext("c");
  v1::AppendContextRequest append;
  append.set_context_id("c");
  const uint32_t limit = client_->opened().limits().max_batch_items();
  for (uint32_t b = 0; b <= limit; ++b) append.add_block_hashes(BlockHash(b));
  v1::ContextInfo info;
  grpc::Status status = Do(&v1::Store::Stub::AppendContext, append, &info);
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("sessions.max_batch_items"));
  append.mutable_block_hashes()->RemoveLast();
  EXPECT_TRUE(Do(&v1::Store::Stub::AppendContext, append, &info).ok());

  v1::ParkContextRequest park;
  park.set_context_id(std::string(90000, 'x'));
  status = Do(&v1::Store::Stub::ParkContext, park, &info);
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT) << status.error_message();
  v1::ListContextsRequest list;
  list.set_page_token("%%%");
  v1::ListContextsReply listed;
  status = Do(&v1::Store::Stub::ListContexts, list, &listed);
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("page_token"));
}

TEST_P(StoreContextsTest, AcknowledgementsSayWhatKindOfErrorItWas) {
  OpenContext("c");
  const v1::ContextInfo info = Append("c", 0, kBlocks);
  v1::DigestBatch torn = Batch(info, 0, 0, 2), stale = torn, unknown = torn, good = torn;
  torn.mutable_rows()->pop_back();
  stale.set_epoch(info.epoch() + 1);
  unknown.set_context_id("nobody");
  std::vector<uint32_t> codes;
  for (const v1::DigestAck& ack : SendDigests({torn, stale, unknown, good})) {
    codes.push_back(ack.error_code());
  }
  EXPECT_THAT(codes, ElementsAre(grpc::INVALID_ARGUMENT, grpc::FAILED_PRECONDITION, grpc::NOT_FOUND,
                                 grpc::OK));
}

TEST_P(StoreContextsTest, TimesThatNobodyMeantAreNoLag) {
  if (store_->process() == nullptr) return;  // no /metrics to look at
  OpenContext("c");
  const v1::ContextInfo info = Append("c", 0, kBlocks);
  std::vector<v1::DigestBatch> batches(3, Batch(info, 0, 0, 2));
  batches[0].set_sealed_unix_us(~uint64_t{0});
  batches[1].set_sealed_unix_us(1);
  batches[2].set_sealed_unix_us(0);
  for (const v1::DigestAck& ack : SendDigests(batches)) EXPECT_EQ(ack.error(), "");
  const double sum =
      MetricValue(store_->process()->HttpGet("/metrics"), "varve_digest_stream_lag_seconds_sum");
  EXPECT_GE(sum, 0);
  EXPECT_LT(sum, 3600);
}

INSTANTIATE_TEST_SUITE_P(Lanes, StoreContextsTest, ::testing::Values("embedded", "shm", "tcp"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace varve::testing
