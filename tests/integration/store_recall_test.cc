// Recall through the wire: what is chosen, what is pushed, what is refused.
#include <set>

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

// Of pages whose keys the worker makes the values alone, half of the bytes; outliers whole, and
// beside the budget.
TEST_P(StoreRecallTest, ValuesTravelAloneIntoTheSecondHalfOfTheirSlots) {
  const v1::ContextInfo info = MakeContext("c");
  const page::Geometry g = PageGeometry();
  const std::set<uint32_t> outliers = {3, 7};
  v1::RecallRequest request = MakeRecall(info, 5);
  for (uint32_t l = 0; l < kLayers; ++l) {
    for (uint32_t h = 0; h < kHeads; ++h) {
      v1::HeadRecall* head = request.mutable_layers(l)->mutable_heads(h);
      for (const uint32_t page : outliers) head->add_outliers(page);
    }
  }
  const auto served = [&] {
    return store_->process() == nullptr ? 0
                                        : MetricValue(store_->process()->HttpGet("/metrics"),
                                                      "varve_served_bytes_total{tier=\"host\"}");
  };
  const double before = served();
  v1::RecallReply reply;
  grpc::Status status = Do(&v1::Store::Stub::Recall, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ExpectPages(reply);
  const double whole = served() - before;
  for (uint32_t l = 0; l < kLayers; ++l) {
    for (uint32_t h = 0; h < kHeads; ++h) {
      v1::HeadRecall* head = request.mutable_layers(l)->mutable_heads(h);
      head->set_values_begin(1);
      head->set_values_end(kBlocks - 1);
    }
  }
  const std::byte untouched{0x5A};
  std::fill(slots_.bytes().begin(), slots_.bytes().end(), untouched);
  v1::RecallReply halves;
  status = Do(&v1::Store::Stub::Recall, request, &halves);
  ASSERT_TRUE(status.ok()) << status.error_message();
  for (uint32_t l = 0; l < kLayers; ++l) {
    for (uint32_t h = 0; h < kHeads; ++h) {
      const v1::HeadRecallResult& head = halves.layers(l).heads(h);
      EXPECT_THAT(head.selected(),
                  ::testing::ElementsAreArray(reply.layers(l).heads(h).selected()));
      ASSERT_EQ(head.selected_size(), 7);
      ASSERT_EQ(head.recalled_size(), 7);
      for (const v1::RecalledPage& page : head.recalled()) {
        ASSERT_TRUE(page.done()) << page.message();
        const std::byte* stored = Object(l, page.page()).data() + h * g.page_bytes();
        const std::byte* slot =
            slots_.bytes().data() + ((l * kHeads + h) * kBlocks + page.slot()) * g.page_bytes();
        EXPECT_EQ(std::memcmp(slot + g.part_bytes(), stored + g.part_bytes(), g.part_bytes()), 0);
        const bool exact =
            page.page() == 0 || page.page() == kBlocks - 1 || outliers.contains(page.page());
        if (exact) {
          EXPECT_EQ(std::memcmp(slot, stored, g.part_bytes()), 0) << page.page();
        } else {
          EXPECT_TRUE(std::all_of(slot, slot + g.part_bytes(), [&](std::byte b) {
            return b == untouched;
          })) << page.page();
        }
      }
    }
  }
  if (store_->process() == nullptr) return;  // no /metrics to look at
  EXPECT_EQ(whole, 7.0 * kLayers * kHeads * static_cast<double>(g.page_bytes()));
  // Sink, window and outliers whole, three pages by half.
  EXPECT_EQ(served() - before - whole,
            5.5 * kLayers * kHeads * static_cast<double>(g.page_bytes()));
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
      {"outlier order",
       [&](auto& r) {
         head(r)->add_outliers(3);
         head(r)->add_outliers(3);
       },
       grpc::INVALID_ARGUMENT, "outliers[1] of layer 1, KV head 1 is 3"},
      {"outlier range", [&](auto& r) { head(r)->add_outliers(kBlocks); }, grpc::INVALID_ARGUMENT,
       "ascending page ids below 12"},
      {"outliers without end",
       [&](auto& r) {
         for (int i = 0; i < 100000; ++i) head(r)->add_outliers(i);
       },
       grpc::INVALID_ARGUMENT, "outliers[12]"},
      {"outliers with a target",
       [&](auto& r) {
         r.set_target(0.9);
         head(r)->add_outliers(3);
       },
       grpc::INVALID_ARGUMENT, "with a target"},
      {"values backwards",
       [&](auto& r) {
         head(r)->set_values_begin(3);
         head(r)->set_values_end(2);
       },
       grpc::INVALID_ARGUMENT, "heads[1]: values_begin 3 and values_end 2"},
      {"values range", [&](auto& r) { head(r)->set_values_end(kBlocks + 1); },
       grpc::INVALID_ARGUMENT, "a range within [0, 12)"},
      {"values of a part",
       [&](auto& r) {
         head(r)->set_values_end(2);
         head(r)->set_part(v1::PART_V);
       },
       grpc::INVALID_ARGUMENT, "values_end with a part; allowed: with PART_KV"},
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
