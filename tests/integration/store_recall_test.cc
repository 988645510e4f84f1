// Recall through the wire: what is chosen, what is pushed, what is refused.
#include "tests/integration/store_contexts_fixture.h"

namespace varve::testing {
namespace {

class StoreRecallTest : public StoreContextsTest {};

TEST_P(StoreRecallTest, RecallBringsTheMissingPagesIntoTheirSlots) {
  const v1::ContextInfo info = MakeContext("c");
  v1::RecallRequest request = MakeRecall(info, 5);
  request.set_tag(17);
  v1::RecallReply reply;
  grpc::Status status = Do(&v1::Store::Stub::Recall, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.tag(), 17u);
  const auto& timings = reply.timings();
  EXPECT_GT(timings.total_us(), 0u);
  // Each stage is rounded down.
  EXPECT_GE(timings.total_us(), timings.queue_us() + timings.score_us() + timings.select_us() +
                                    timings.locate_us() + timings.transfer_us());
  ASSERT_EQ(reply.layers_size(), static_cast<int>(kLayers));
  for (const v1::LayerRecallResult& layer : reply.layers()) {
    ASSERT_EQ(layer.heads_size(), static_cast<int>(kHeads));
    for (const v1::HeadRecallResult& head : layer.heads()) {
      ASSERT_EQ(head.selected_size(), 5);
      EXPECT_EQ(head.selected(0), 0u);           // sink
      EXPECT_EQ(head.selected(4), kBlocks - 1);  // window
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

TEST_P(StoreRecallTest, PartsGoAloneAndABudgetOfAllPagesSelectsAll) {
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
        EXPECT_EQ(
            std::memcmp(slots_.bytes().data() + slot * g.page_bytes(), stored, g.part_bytes()), 0);
      }
    }
  }
}

TEST_P(StoreRecallTest, PagesThatCannotBeHadAreReported) {
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
    ASSERT_EQ(cramped.size(), 3) << "one row for both pages without a slot";
    EXPECT_TRUE(cramped[0].done() && cramped[1].done());
    EXPECT_FALSE(cramped[2].done());
    EXPECT_THAT(cramped[2].message(), HasSubstr("4 pages are missing, 2 slots"));
  }
}

TEST_P(StoreRecallTest, AnObjectIsCountedAsAHitOrAsAMiss) {
  if (store_->process() == nullptr) return;  // no /metrics to look at
  const v1::ContextInfo info = MakeContext("c");
  // Layer 0, block 0: another layout.
  const std::string key(page::MakeObjectKey(BlockHash(0), 0)->bytes());
  v1::RemoveRequest remove;
  remove.add_keys(key);
  remove.set_force(true);
  v1::RemoveReply removed;
  ASSERT_TRUE(Do(&v1::Store::Stub::Remove, remove, &removed).ok());
  ASSERT_EQ(client_->PutOne(key, objects_, 0, object_bytes_).result(), v1::PUT_RESULT_STORED);
  const auto count = [&](const char* series) {
    return MetricValue(store_->process()->HttpGet("/metrics"), series);
  };
  const char* hits = "varve_get_objects_total{result=\"hit\",tier=\"host\"}";
  const char* misses = "varve_miss_total{reason=\"incompatible\"}";
  const double hits_before = count(hits), misses_before = count(misses);
  v1::RecallReply reply;
  ASSERT_TRUE(Do(&v1::Store::Stub::Recall, MakeRecall(info, kBlocks), &reply).ok());
  EXPECT_EQ(count(hits) - hits_before, kLayers * kBlocks - 1);
  EXPECT_EQ(count(misses) - misses_before, 1);
}

TEST_P(StoreRecallTest, WithoutSlotsTheReplyIsTheSelection) {
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

TEST_P(StoreRecallTest, RecallStreamAnswersManyAndSurvivesBadOnes) {
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
      EXPECT_EQ(answer.error_code(), static_cast<uint32_t>(tag % 3 == 1 ? grpc::FAILED_PRECONDITION
                                                                        : grpc::INVALID_ARGUMENT))
          << answer.error();
      EXPECT_EQ(answer.layers_size(), 0);
    }
  }
  ExpectPages(replies.rbegin()->second);
}

TEST_P(StoreRecallTest, NothingStaleAfterATruncate) {
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

TEST_P(StoreRecallTest, BadRecallsAreRefusedWhole) {
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
      {"layer", [](auto& r) { r.mutable_layers(1)->set_layer(kLayers); }, grpc::INVALID_ARGUMENT,
       "layer"},
      {"short queries", [](auto& r) { r.mutable_layers(1)->mutable_queries()->RemoveLast(); },
       grpc::INVALID_ARGUMENT, "query"},
      {"NaN", [](auto& r) { r.mutable_layers(1)->set_queries(3, std::nanf("")); },
       grpc::INVALID_ARGUMENT, "quer"},
      {"infinity", [](auto& r) { r.mutable_layers(1)->set_queries(3, HUGE_VALF); },
       grpc::INVALID_ARGUMENT, "quer"},
      {"heads", [](auto& r) { r.mutable_layers(1)->mutable_heads()->RemoveLast(); },
       grpc::INVALID_ARGUMENT, "heads"},
      {"merge", [](auto& r) { r.set_merge(static_cast<v1::ScoreMerge>(9)); },
       grpc::INVALID_ARGUMENT, "merge"},
      {"rerank", [](auto& r) { r.set_rerank(static_cast<v1::Rerank>(9)); }, grpc::INVALID_ARGUMENT,
       "RERANK_SKETCH (2)"},
      {"multiplier", [](auto& r) { r.set_multiplier(-1); }, grpc::INVALID_ARGUMENT,
       "allowed: 1..1024"},
      {"budget", [&](auto& r) { head(r)->set_budget_pages(0); }, grpc::INVALID_ARGUMENT, "budget"},
      {"sinks over budget", [](auto& r) { r.set_sinks(9); }, grpc::INVALID_ARGUMENT, "budget"},
      {"part", [&](auto& r) { head(r)->set_part(static_cast<v1::Part>(3)); },
       grpc::INVALID_ARGUMENT, "part"},
      {"resident order",
       [&](auto& r) {
         head(r)->add_resident(3);
         head(r)->add_resident(2);
       },
       grpc::INVALID_ARGUMENT, "resident"},
      {"resident range", [&](auto& r) { head(r)->add_resident(kBlocks); }, grpc::INVALID_ARGUMENT,
       "resident"},
      {"num_blocks", [](auto& r) { r.set_num_blocks(kBlocks + 1); }, grpc::INVALID_ARGUMENT,
       "blocks"},
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

INSTANTIATE_TEST_SUITE_P(Lanes, StoreRecallTest, ::testing::Values("embedded", "shm", "tcp"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace varve::testing
