// A context with digests and stored pages, by bare stubs: what the tests of contexts and of recall
// start from.
#pragma once

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

namespace v1 = varve::v1;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint32_t kLayers = 2, kHeads = 2, kQueryHeads = 4, kDim = 32, kTokens = 8, kBlocks = 12;

inline v1::Geometry WireGeometry() {
  v1::Geometry g;
  g.set_num_layers(kLayers);
  g.set_num_kv_heads(kHeads);
  g.set_num_query_heads(kQueryHeads);
  g.set_head_dim(kDim);
  g.set_page_tokens(kTokens);
  g.set_dtype(v1::DTYPE_F32);
  return g;
}
inline page::Geometry PageGeometry() {
  return {kLayers, kHeads, kQueryHeads, kDim, kTokens, page::DType::kF32};
}
inline std::string BlockHash(uint32_t block) { return absl::StrCat("block-hash-", 1000 + block); }

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
    const size_t one = page::DigestBytes(page::DigestKind::kMinMax, g);
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
  grpc::Status Do(grpc::Status (v1::Store::Stub::*method)(grpc::ClientContext*, const Request&,
                                                          Reply*),
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
  v1::DigestBatch Batch(const v1::ContextInfo& info, uint32_t layer, uint32_t first,
                        uint32_t count) {
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
          *head->add_slots() =
              slots_.Ref(((layer * kHeads + h) * kBlocks + s) * page_bytes, page_bytes);
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

}  // namespace varve::testing
