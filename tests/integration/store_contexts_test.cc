// Contexts, digest streams and recall through gRPC and a transport.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/page/geometry.h"
#include "kvstore/page/object_key.h"
#include "tests/integration/store_harness.h"

namespace varve::testing {
namespace {

namespace v1 = varve::v1;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint32_t kLayers = 2, kHeads = 2, kQueryHeads = 4, kDim = 32, kTokens = 8, kBlocks = 12;

v1::Geometry WireGeometry() {
  v1::Geometry g;
  g.set_num_layers(kLayers);
  g.set_num_kv_heads(kHeads);
  g.set_num_query_heads(kQueryHeads);
  g.set_head_dim(kDim);
  g.set_page_tokens(kTokens);
  g.set_dtype(v1::DTYPE_F32);
  return g;
}
page::Geometry PageGeometry() {
  return {kLayers, kHeads, kQueryHeads, kDim, kTokens, page::DType::kF32};
}
std::string BlockHash(uint32_t block) { return absl::StrCat("block-hash-", 1000 + block); }

// A context whose objects are stored and whose digests have arrived, built from random keys.
class StoreContextsTest : public ::testing::TestWithParam<std::string> {
 protected:
  static void TearDownTestSuite() { Stores().clear(); }
  static std::map<std::string, std::unique_ptr<StoreUnderTest>>& Stores() {
    static std::map<std::string, std::unique_ptr<StoreUnderTest>> stores;
    return stores;
  }
  void SetUp() override {
    auto& store = Stores()[GetParam()];
    if (store == nullptr) store = StoreUnderTest::Start(GetParam());
    store_ = store.get();
    client_ = Open();
    const page::Geometry g = PageGeometry();
    object_bytes_ = g.object_bytes();
    objects_ = client_->Allocate(kLayers * kBlocks * object_bytes_);
    slots_ = client_->Allocate(kLayers * kHeads * kBlocks * g.page_bytes());
    std::mt19937 random(4711);
    std::normal_distribution<float> normal;
    auto* values = reinterpret_cast<float*>(objects_.bytes().data());
    for (size_t i = 0; i < objects_.bytes().size() / 4; ++i) values[i] = normal(random);
  }
  std::unique_ptr<RawClient> Open() {
    RawClient::Options options;
    options.key_namespace = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    return std::make_unique<RawClient>(*store_, options);
  }

  std::span<std::byte> Object(uint32_t layer, uint32_t block) {
    return objects_.bytes().subspan((layer * kBlocks + block) * object_bytes_, object_bytes_);
  }
  std::string Digests(uint32_t layer, uint32_t first, uint32_t count) {
    const page::Geometry g = PageGeometry();
    const size_t one = page::DigestBytes(page::DigestKind::kMinMax, kDim, g.dtype);
    std::string rows(size_t{count} * kHeads * one, '\0');
    for (uint32_t b = 0; b < count; ++b) {
      for (uint32_t h = 0; h < kHeads; ++h) {
        const std::byte* keys = Object(layer, first + b).data() + h * g.page_bytes();
        EXPECT_TRUE(page::BuildDigest(page::DigestKind::kMinMax, keys, kTokens, kDim, g.dtype,
                                      rows.data() + (b * kHeads + h) * one));
      }
    }
    return rows;
  }

  template <typename Request, typename Reply>
  grpc::Status Do(grpc::Status (v1::Store::Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
                  Request request, Reply* reply) {
    request.set_session_id(client_->session_id());
    return Call(client_->stub(), method, request, reply);
  }
  v1::ContextInfo OpenContext(const std::string& id) {
    v1::OpenContextRequest request;
    request.set_context_id(id);
    *request.mutable_geometry() = WireGeometry();
    request.set_digest_kind(v1::DIGEST_KIND_MINMAX);
    v1::ContextInfo info;
    const grpc::Status status = Do(&v1::Store::Stub::OpenContext, request, &info);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return info;
  }
  v1::ContextInfo Append(const std::string& id, uint32_t first, uint32_t count) {
    v1::AppendContextRequest request;
    request.set_context_id(id);
    request.set_first_block(first);
    for (uint32_t b = 0; b < count; ++b) request.add_block_hashes(BlockHash(first + b));
    v1::ContextInfo info;
    const grpc::Status status = Do(&v1::Store::Stub::AppendContext, request, &info);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return info;
  }
  void PutObjects() {
    v1::PutRequest request;
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      for (uint32_t block = 0; block < kBlocks; ++block) {
        v1::PutItem* item = request.add_items();
        item->set_key(std::string(page::MakeObjectKey(BlockHash(block), layer)->bytes()));
        *item->add_sources() =
            objects_.Ref((layer * kBlocks + block) * object_bytes_, object_bytes_);
        item->mutable_layout()->set_num_kv_heads(kHeads);
        item->mutable_layout()->set_part_bytes(static_cast<uint32_t>(PageGeometry().part_bytes()));
      }
    }
    const v1::PutReply reply = client_->Put(request);
    for (const auto& result : reply.results()) EXPECT_EQ(result.result(), v1::PUT_RESULT_STORED);
  }
  std::vector<v1::DigestAck> SendDigests(const std::vector<v1::DigestBatch>& batches) {
    grpc::ClientContext context;
    auto stream = client_->stub().StreamDigests(&context);
    std::vector<v1::DigestAck> acks;
    for (size_t i = 0; i < batches.size(); ++i) {
      v1::DigestBatch batch = batches[i];
      if (i == 0) batch.set_session_id(client_->session_id());
      EXPECT_TRUE(stream->Write(batch));
      acks.emplace_back();
      EXPECT_TRUE(stream->Read(&acks.back()));
    }
    stream->WritesDone();
    EXPECT_TRUE(stream->Finish().ok());
    return acks;
  }
  v1::DigestBatch Batch(const v1::ContextInfo& info, uint32_t layer, uint32_t first, uint32_t count) {
    v1::DigestBatch batch;
    batch.set_context_id(info.context_id());
    batch.set_epoch(info.epoch());
    batch.set_layer(layer);
    batch.set_first_block(first);
    batch.set_num_blocks(count);
    batch.set_rows(Digests(layer, first, count));
    batch.set_sealed_unix_us(1);
    return batch;
  }
  v1::ContextInfo MakeContext(const std::string& id) {
    OpenContext(id);
    const v1::ContextInfo info = Append(id, 0, kBlocks);
    PutObjects();
    for (const v1::DigestAck& ack :
         SendDigests({Batch(info, 0, 0, 5), Batch(info, 0, 5, 7), Batch(info, 1, 0, kBlocks)})) {
      EXPECT_EQ(ack.error(), "");
    }
    return info;
  }
  // All layers, budget pages a head, slots for every page.
  v1::RecallRequest MakeRecall(const v1::ContextInfo& info, uint32_t budget) {
    v1::RecallRequest request;
    request.set_context_id(info.context_id());
    request.set_epoch(info.epoch());
    request.set_sinks(1);
    request.set_window(1);
    std::mt19937 random(99);
    std::normal_distribution<float> normal;
    const size_t page_bytes = PageGeometry().page_bytes();
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      v1::LayerRecall* wanted = request.add_layers();
      wanted->set_layer(layer);
      for (uint32_t i = 0; i < kQueryHeads * kDim; ++i) wanted->add_queries(normal(random));
      for (uint32_t h = 0; h < kHeads; ++h) {
        v1::HeadRecall* head = wanted->add_heads();
        head->set_budget_pages(budget);
        for (uint32_t s = 0; s < kBlocks; ++s) {
          *head->add_slots() = slots_.Ref(((layer * kHeads + h) * kBlocks + s) * page_bytes, page_bytes);
        }
      }
    }
    return request;
  }
  // What travelled is what was put.
  void ExpectPages(const v1::RecallReply& reply) {
    const size_t page_bytes = PageGeometry().page_bytes();
    for (const v1::LayerRecallResult& layer : reply.layers()) {
      for (int h = 0; h < layer.heads_size(); ++h) {
        for (const v1::RecalledPage& page : layer.heads(h).recalled()) {
          ASSERT_TRUE(page.done()) << page.message();
          const std::byte* stored = Object(layer.layer(), page.page()).data() + h * page_bytes;
          const size_t slot = (layer.layer() * kHeads + h) * kBlocks + page.slot();
          EXPECT_EQ(std::memcmp(slots_.bytes().data() + slot * page_bytes, stored, page_bytes), 0)
              << "layer " << layer.layer() << " head " << h << " page " << page.page();
        }
      }
    }
  }

  StoreUnderTest* store_ = nullptr;
  std::unique_ptr<RawClient> client_;
  size_t object_bytes_ = 0;
  Buffer objects_, slots_;
};

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
  ASSERT_TRUE(Do(&v1::Store::Stub::ParkContext, ref, &info).ok());
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

TEST_P(StoreContextsTest, RecallBringsTheMissingPagesIntoTheirSlots) {
  const v1::ContextInfo info = MakeContext("c");
  v1::RecallRequest request = MakeRecall(info, 5);
  request.set_tag(17);
  v1::RecallReply reply;
  grpc::Status status = Do(&v1::Store::Stub::Recall, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.tag(), 17u);
  EXPECT_GT(reply.timings().total_us(), 0u);
  ASSERT_EQ(reply.layers_size(), static_cast<int>(kLayers));
  for (const v1::LayerRecallResult& layer : reply.layers()) {
    ASSERT_EQ(layer.heads_size(), static_cast<int>(kHeads));
    for (const v1::HeadRecallResult& head : layer.heads()) {
      ASSERT_EQ(head.selected_size(), 5);
      EXPECT_EQ(head.selected(0), 0u);            // sink
      EXPECT_EQ(head.selected(4), kBlocks - 1);   // window
      EXPECT_TRUE(std::is_sorted(head.selected().begin(), head.selected().end()));
      ASSERT_EQ(head.recalled_size(), 5);
      for (int i = 0; i < 5; ++i) {
        EXPECT_EQ(head.recalled(i).page(), head.selected(i));
        EXPECT_EQ(head.recalled(i).slot(), static_cast<uint32_t>(i));
      }
      EXPECT_EQ(head.scores_size(), 0);
    }
  }
  ExpectPages(reply);

  // What the worker has is not sent again.
  for (int l = 0; l < request.layers_size(); ++l) {
    for (int h = 0; h < request.layers(l).heads_size(); ++h) {
      v1::HeadRecall* head = request.mutable_layers(l)->mutable_heads(h);
      const auto& selected = reply.layers(l).heads(h).selected();
      for (int i : {0, 2, 4}) head->add_resident(selected[i]);
    }
  }
  request.set_explain(true);
  v1::RecallReply again;
  status = Do(&v1::Store::Stub::Recall, request, &again);
  ASSERT_TRUE(status.ok()) << status.error_message();
  for (int l = 0; l < again.layers_size(); ++l) {
    for (int h = 0; h < again.layers(l).heads_size(); ++h) {
      const v1::HeadRecallResult& head = again.layers(l).heads(h);
      EXPECT_EQ(head.recalled_size(), 2);
      EXPECT_EQ(head.scores_size(), static_cast<int>(kBlocks));
    }
  }
  ExpectPages(again);
}

TEST_P(StoreContextsTest, PartsGoAloneAndABudgetOfAllPagesSelectsAll) {
  const v1::ContextInfo info = MakeContext("c");
  v1::RecallRequest request = MakeRecall(info, kBlocks);
  for (int l = 0; l < request.layers_size(); ++l) {
    for (int h = 0; h < request.layers(l).heads_size(); ++h) {
      request.mutable_layers(l)->mutable_heads(h)->set_part(v1::PART_V);
    }
  }
  v1::RecallReply reply;
  ASSERT_TRUE(Do(&v1::Store::Stub::Recall, request, &reply).ok());
  const page::Geometry g = PageGeometry();
  for (const v1::LayerRecallResult& layer : reply.layers()) {
    for (int h = 0; h < layer.heads_size(); ++h) {
      ASSERT_EQ(layer.heads(h).recalled_size(), static_cast<int>(kBlocks));
      for (const v1::RecalledPage& page : layer.heads(h).recalled()) {
        ASSERT_TRUE(page.done());
        const std::byte* stored =
            Object(layer.layer(), page.page()).data() + h * g.page_bytes() + g.part_bytes();
        const size_t slot = (layer.layer() * kHeads + h) * kBlocks + page.slot();
        EXPECT_EQ(std::memcmp(slots_.bytes().data() + slot * g.page_bytes(), stored, g.part_bytes()), 0);
      }
    }
  }
}

TEST_P(StoreContextsTest, PagesThatCannotBeHadAreReported) {
  const v1::ContextInfo info = MakeContext("c");
  v1::RemoveRequest remove;
  remove.add_keys(std::string(page::MakeObjectKey(BlockHash(0), 0)->bytes()));
  remove.set_force(true);
  v1::RemoveReply removed;
  ASSERT_TRUE(Do(&v1::Store::Stub::Remove, remove, &removed).ok());
  ASSERT_TRUE(removed.removed(0));
  v1::RecallRequest request = MakeRecall(info, 4);
  // Layer 1: slots for two of four pages.
  for (uint32_t h = 0; h < kHeads; ++h) {
    auto* slots = request.mutable_layers(1)->mutable_heads(h)->mutable_slots();
    slots->DeleteSubrange(2, slots->size() - 2);
  }
  v1::RecallReply reply;
  ASSERT_TRUE(Do(&v1::Store::Stub::Recall, request, &reply).ok());
  for (uint32_t h = 0; h < kHeads; ++h) {
    const auto& lost = reply.layers(0).heads(h).recalled();
    ASSERT_EQ(lost.size(), 4);
    EXPECT_FALSE(lost[0].done());
    EXPECT_EQ(lost[0].page(), 0u);
    EXPECT_NE(lost[0].miss_reason(), v1::MISS_REASON_UNSPECIFIED);
    for (int i : {1, 2, 3}) EXPECT_TRUE(lost[i].done());
    const auto& cramped = reply.layers(1).heads(h).recalled();
    ASSERT_EQ(cramped.size(), 4);
    EXPECT_TRUE(cramped[0].done() && cramped[1].done());
    EXPECT_FALSE(cramped[2].done() || cramped[3].done());
    EXPECT_THAT(cramped[2].message(), HasSubstr("2 slots"));
  }
}

TEST_P(StoreContextsTest, WithoutSlotsTheReplyIsTheSelection) {
  const v1::ContextInfo info = MakeContext("c");
  v1::RecallRequest request = MakeRecall(info, 3);
  for (int l = 0; l < request.layers_size(); ++l) {
    for (int h = 0; h < request.layers(l).heads_size(); ++h) {
      request.mutable_layers(l)->mutable_heads(h)->clear_slots();
    }
  }
  v1::RecallReply reply;
  ASSERT_TRUE(Do(&v1::Store::Stub::Recall, request, &reply).ok());
  EXPECT_EQ(reply.layers(1).heads(1).selected_size(), 3);
  EXPECT_EQ(reply.layers(1).heads(1).recalled_size(), 0);
}

TEST_P(StoreContextsTest, RecallStreamAnswersManyAndSurvivesBadOnes) {
  const v1::ContextInfo info = MakeContext("c");
  grpc::ClientContext context;
  auto stream = client_->stub().RecallStream(&context);
  constexpr uint64_t kRequests = 150;  // more than the store works on at once
  std::thread writer([&] {
    for (uint64_t tag = 0; tag < kRequests; ++tag) {
      v1::RecallRequest request = MakeRecall(info, 4);
      request.set_session_id(client_->session_id());
      request.set_tag(tag);
      if (tag % 3 == 1) request.set_epoch(info.epoch() + 1000);
      if (tag % 3 == 2) request.mutable_layers(0)->set_queries(5, std::nanf(""));
      stream->Write(request);
    }
    stream->WritesDone();
  });
  std::map<uint64_t, v1::RecallReply> replies;
  v1::RecallReply reply;
  while (stream->Read(&reply)) replies[reply.tag()] = reply;
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_EQ(replies.size(), kRequests);
  for (const auto& [tag, answer] : replies) {
    if (tag % 3 == 0) {
      EXPECT_EQ(answer.error(), "") << tag;
      EXPECT_EQ(answer.layers_size(), static_cast<int>(kLayers));
    } else {
      EXPECT_EQ(answer.error_code(),
                static_cast<uint32_t>(tag % 3 == 1 ? grpc::FAILED_PRECONDITION : grpc::INVALID_ARGUMENT))
          << answer.error();
      EXPECT_EQ(answer.layers_size(), 0);
    }
  }
  ExpectPages(replies.rbegin()->second);
}

TEST_P(StoreContextsTest, NothingStaleAfterATruncate) {
  const v1::ContextInfo info = MakeContext("c");
  v1::TruncateContextRequest truncate;
  truncate.set_context_id("c");
  truncate.set_num_blocks(6);
  v1::ContextInfo after;
  ASSERT_TRUE(Do(&v1::Store::Stub::TruncateContext, truncate, &after).ok());
  v1::RecallReply reply;
  EXPECT_EQ(Do(&v1::Store::Stub::Recall, MakeRecall(info, 4), &reply).error_code(),
            grpc::FAILED_PRECONDITION);
  ASSERT_TRUE(Do(&v1::Store::Stub::Recall, MakeRecall(after, 4), &reply).ok());
  for (uint32_t page : reply.layers(0).heads(0).selected()) EXPECT_LT(page, 6u);
  const v1::DigestAck stale = SendDigests({Batch(info, 0, 6, 1)}).front();
  EXPECT_THAT(stale.error(), HasSubstr("epoch"));
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

TEST_P(StoreContextsTest, BadRecallsAreRefusedWhole) {
  const v1::ContextInfo info = MakeContext("c");
  const v1::RecallRequest good = MakeRecall(info, 4);
  const size_t page_bytes = PageGeometry().page_bytes();
  struct Case {
    const char* name;
    std::function<void(v1::RecallRequest&)> spoil;
    grpc::StatusCode code;
    const char* says;
  };
  const auto head = [](v1::RecallRequest& r) { return r.mutable_layers(1)->mutable_heads(1); };
  const Case cases[] = {
      {"context", [](auto& r) { r.set_context_id("nobody"); }, grpc::NOT_FOUND, "nobody"},
      {"epoch", [](auto& r) { r.set_epoch(0); }, grpc::FAILED_PRECONDITION, "epoch"},
      {"no layers", [](auto& r) { r.clear_layers(); }, grpc::INVALID_ARGUMENT, "layers"},
      {"layer", [](auto& r) { r.mutable_layers(1)->set_layer(kLayers); }, grpc::INVALID_ARGUMENT, "layer"},
      {"short queries", [](auto& r) { r.mutable_layers(1)->mutable_queries()->RemoveLast(); },
       grpc::INVALID_ARGUMENT, "query"},
      {"NaN", [](auto& r) { r.mutable_layers(1)->set_queries(3, std::nanf("")); },
       grpc::INVALID_ARGUMENT, "quer"},
      {"infinity", [](auto& r) { r.mutable_layers(1)->set_queries(3, HUGE_VALF); },
       grpc::INVALID_ARGUMENT, "quer"},
      {"heads", [](auto& r) { r.mutable_layers(1)->mutable_heads()->RemoveLast(); },
       grpc::INVALID_ARGUMENT, "heads"},
      {"merge", [](auto& r) { r.set_merge(static_cast<v1::ScoreMerge>(9)); }, grpc::INVALID_ARGUMENT, "merge"},
      {"budget", [&](auto& r) { head(r)->set_budget_pages(0); }, grpc::INVALID_ARGUMENT, "budget"},
      {"sinks over budget", [](auto& r) { r.set_sinks(9); }, grpc::INVALID_ARGUMENT, "budget"},
      {"part", [&](auto& r) { head(r)->set_part(static_cast<v1::Part>(3)); }, grpc::INVALID_ARGUMENT, "part"},
      {"resident order", [&](auto& r) { head(r)->add_resident(3); head(r)->add_resident(2); },
       grpc::INVALID_ARGUMENT, "resident"},
      {"resident range", [&](auto& r) { head(r)->add_resident(kBlocks); }, grpc::INVALID_ARGUMENT, "resident"},
      {"num_blocks", [](auto& r) { r.set_num_blocks(kBlocks + 1); }, grpc::INVALID_ARGUMENT, "blocks"},
      {"slot region", [&](auto& r) { head(r)->mutable_slots(2)->set_region_id(77); },
       grpc::INVALID_ARGUMENT, "region_id 77"},
      {"slot bytes", [&](auto& r) { head(r)->mutable_slots(2)->set_bytes(page_bytes - 1); },
       grpc::INVALID_ARGUMENT, "slots[2]"},
      {"slot offset", [&](auto& r) { head(r)->mutable_slots(2)->set_offset(~uint64_t{0} - 5); },
       grpc::INVALID_ARGUMENT, "slots[2]"},
      {"deadline", [](auto& r) { r.set_deadline_ms(~0u); }, grpc::INVALID_ARGUMENT, "deadline_ms"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    v1::RecallRequest request = good;
    c.spoil(request);
    v1::RecallReply reply;
    const grpc::Status status = Do(&v1::Store::Stub::Recall, request, &reply);
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(status.error_code(), c.code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(c.says));
  }
  v1::RecallReply reply;
  EXPECT_TRUE(Do(&v1::Store::Stub::Recall, good, &reply).ok());
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
      {[](auto& r) { r.mutable_geometry()->set_num_layers(5000); }, grpc::INVALID_ARGUMENT, "layers"},
      {[](auto& r) { r.mutable_geometry()->set_num_kv_heads(0); }, grpc::INVALID_ARGUMENT, "heads"},
      {[](auto& r) { r.mutable_geometry()->set_num_query_heads(3); }, grpc::INVALID_ARGUMENT, "multiple"},
      {[](auto& r) { r.mutable_geometry()->set_head_dim(33); }, grpc::INVALID_ARGUMENT, "head_dim"},
      {[](auto& r) { r.mutable_geometry()->set_page_tokens(7); }, grpc::INVALID_ARGUMENT, "page_tokens"},
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
  EXPECT_EQ(Do(&v1::Store::Stub::AppendContext, append, &info).error_code(), grpc::INVALID_ARGUMENT);
  v1::TruncateContextRequest truncate;
  truncate.set_context_id("c");
  truncate.set_num_blocks(1);
  EXPECT_EQ(Do(&v1::Store::Stub::TruncateContext, truncate, &info).error_code(), grpc::INVALID_ARGUMENT);
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

INSTANTIATE_TEST_SUITE_P(Lanes, StoreContextsTest, ::testing::Values("embedded", "shm", "tcp"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace varve::testing
