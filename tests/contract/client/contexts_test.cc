#include <thread>

#include "gmock/gmock.h"
#include "tests/contract/client/context_fixture.h"

namespace varve::client::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class ContextsTest : public ContextTest {};
VARVE_EACH_LANE(ContextsTest);

TEST_P(ContextsTest, OpensAppendsAndLists) {
  const auto opened = client().OpenContext(Id(), geometry_, page::DigestKind::kBoxMean);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->context_id, Id());
  EXPECT_EQ(opened->geometry, geometry_);
  EXPECT_EQ(opened->digest_kind, page::DigestKind::kBoxMean);
  EXPECT_TRUE(opened->attached);
  EXPECT_EQ(opened->attached_sessions, 1u);
  EXPECT_THAT(opened->digest_blocks, ElementsAre(0u, 0u));
  ASSERT_TRUE(client().AppendContext(Id(), 0, Hashes(0, 5)).ok());
  EXPECT_EQ(client().AppendContext(Id(), 5, Hashes(5, 2))->num_blocks, 7u);
  ASSERT_TRUE(client().OpenContext("another", geometry_, page::DigestKind::kMean).ok());
  const auto listed = client().ListContexts();
  ASSERT_TRUE(listed.ok()) << listed.status();
  ASSERT_THAT(*listed, SizeIs(2));
  EXPECT_EQ(listed->at(0).context_id, "another");
  EXPECT_EQ(listed->at(1).num_blocks, 7u);
}

TEST_P(ContextsTest, RefusesWhatCannotBe) {
  ASSERT_NO_FATAL_FAILURE(OpenAndAppend(4));
  const auto code = [](const auto& answer) { return answer.status().code(); };
  page::Geometry bad = geometry_;
  bad.head_dim = 31;
  EXPECT_EQ(code(client().OpenContext("bad", bad, page::DigestKind::kMinMax)),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(client().OpenContext("bad id!", geometry_, page::DigestKind::kMinMax)),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(client().OpenContext(Id(), geometry_, page::DigestKind::kMinMax)),
            absl::StatusCode::kAlreadyExists);
  EXPECT_FALSE(client().AppendContext(Id(), 3, Hashes(3, 1)).ok()) << "overlaps";
  EXPECT_FALSE(client().AppendContext(Id(), 5, Hashes(5, 1)).ok()) << "leaves a hole";
  EXPECT_EQ(code(client().AttachContext("nobody")), absl::StatusCode::kNotFound);
  EXPECT_EQ(client().DropContext("nobody").code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(client().TruncateContext(Id(), 5).ok());
}

TEST_P(ContextsTest, RopeParametersAreTheContexts) {
  page::Geometry shape = geometry_;
  shape.rope = {.theta = 500000,
                .rotary_dim = 64,
                .pairing = page::RopePairing::kInterleaved,
                .scaling = page::RopeScaling::kLlama3,
                .factor = 8,
                .low_freq_factor = 1,
                .high_freq_factor = 4,
                .original_max_position = 8192,
                .arithmetic = {.angles = page::RopeAngles::kF64,
                               .table = page::DType::kBF16,
                               .rotation = page::RopeRotation::kKeyDType}};
  ASSERT_TRUE(client().OpenContext(Id(), shape, page::DigestKind::kMean).ok());
  ASSERT_TRUE(client().ForkContext(Id(), "fork", 0).ok());
  for (const std::string& id : {Id(), std::string("fork")}) {
    const auto attached = client().AttachContext(id);
    ASSERT_TRUE(attached.ok()) << attached.status();
    EXPECT_EQ(attached->geometry, shape) << id;
  }
  page::Geometry bad = shape;
  bad.rope->rotary_dim = 66;
  const auto refused = client().OpenContext("bad", bad, page::DigestKind::kMean).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("geometry: rope.rotary_dim is 66, allowed: even, 2..64 (head_dim)"));
}

TEST_P(ContextsTest, TruncatingRaisesTheEpoch) {
  ASSERT_NO_FATAL_FAILURE(OpenAndAppend(10));
  const auto truncated = client().TruncateContext(Id(), 6);
  ASSERT_TRUE(truncated.ok()) << truncated.status();
  EXPECT_EQ(truncated->num_blocks, 6u);
  EXPECT_GT(truncated->epoch, epoch_);
  EXPECT_FALSE(client().SendDigests(Id(), epoch_, 0, 0, 6, Digests(0, 0, 6), absl::Now()).ok());
  EXPECT_TRUE(
      client().SendDigests(Id(), truncated->epoch, 0, 0, 6, Digests(0, 0, 6), absl::Now()).ok());
}

TEST_P(ContextsTest, ForksShareBlocksAndGoTheirOwnWay) {
  ASSERT_NO_FATAL_FAILURE(OpenAndAppend());
  ASSERT_NO_FATAL_FAILURE(SendAllDigests());
  const auto fork = client().ForkContext(Id(), "fork", 9);
  ASSERT_TRUE(fork.ok()) << fork.status();
  EXPECT_EQ(fork->num_blocks, 9u);
  EXPECT_THAT(fork->digest_blocks, Each(9u));
  EXPECT_EQ(client().AppendContext("fork", 9, std::vector{Hash(9, 1)})->num_blocks, 10u);
  EXPECT_EQ(client().AttachContext(Id())->num_blocks, kBlocks);
  EXPECT_EQ(client().AttachContext("fork")->block_hashes.back(), Hash(9, 1));
  EXPECT_TRUE(client().DropContext(Id()).ok());
  EXPECT_THAT(client().AttachContext("fork")->digest_blocks, Each(9u));
}

TEST_P(ContextsTest, AttachingAndParkingAreCountedBySession) {
  ASSERT_NO_FATAL_FAILURE(OpenAndAppend(3));
  {
    Connection other = Connect(GetParam(), Namespace());
    const auto attached = other->AttachContext(Id());
    ASSERT_TRUE(attached.ok()) << attached.status();
    EXPECT_EQ(attached->attached_sessions, 2u);
    EXPECT_EQ(attached->block_hashes, Hashes(0, 3));
    EXPECT_EQ(client().ParkContext(Id())->attached_sessions, 1u);
  }
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (client().ListContexts().value().at(0).attached) {
    ASSERT_LT(absl::Now(), deadline) << "still attached by a session that ended";
    std::this_thread::yield();
  }
  EXPECT_TRUE(client().DropContext(Id()).ok());
  EXPECT_THAT(client().ListContexts().value(), SizeIs(0));
}

TEST_P(ContextsTest, HotPagesAreLeftForWhoAttachesNext) {
  ASSERT_NO_FATAL_FAILURE(OpenAndAppend(10));
  const std::vector<HotPages> hot = {{0, 1, {0, 7, 9}, {3}}, {1, 0, {5}, {}}};
  const auto parked = client().ParkContext(Id(), hot);
  ASSERT_TRUE(parked.ok()) << parked.status();
  EXPECT_THAT(parked->hot, SizeIs(0));
  EXPECT_EQ(client().AttachContext(Id())->hot, hot);
  const auto refused = client().ParkContext(Id(), std::vector<HotPages>{{0, 1, {10}, {}}});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("hot[0].attended[0] is 10"));
  ASSERT_TRUE(client().ParkContext(Id()).ok());
  Connection other = Connect(GetParam(), Namespace());
  EXPECT_EQ(other->AttachContext(Id())->hot, hot);
}

TEST_P(ContextsTest, DigestsComeBackAsSent) {
  ASSERT_NO_FATAL_FAILURE(OpenAndAppend());
  ASSERT_NO_FATAL_FAILURE(SendAllDigests());
  EXPECT_THAT(client().AttachContext(Id())->digest_blocks, Each(kBlocks));
  std::vector<std::string> layers(geometry_.num_layers);
  std::vector<uint32_t> next(geometry_.num_layers, 0);
  const absl::Status read = client().ReadDigests(
      Id(), epoch_, 0, 0,
      [&](uint32_t layer, uint32_t first, uint32_t count, std::string_view rows) {
        EXPECT_EQ(first, next.at(layer));
        next[layer] += count;
        layers[layer] += rows;
        return absl::OkStatus();
      });
  ASSERT_TRUE(read.ok()) << read;
  for (uint32_t l = 0; l < geometry_.num_layers; ++l) {
    EXPECT_TRUE(layers[l] == Digests(l, 0, kBlocks)) << l;
  }
  EXPECT_EQ(client()
                .ReadDigests(Id(), epoch_, 0, 1,
                             [](uint32_t, uint32_t, uint32_t, std::string_view) {
                               return absl::AbortedError("enough");
                             })
                .code(),
            absl::StatusCode::kAborted);
  EXPECT_EQ(client()
                .ReadDigests(
                    Id(), epoch_, 9, 1,
                    [](uint32_t, uint32_t, uint32_t, std::string_view) { return absl::OkStatus(); })
                .code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client()
                .ReadDigests(Id(), epoch_ + 1, 0, 1,
                             [](uint32_t, uint32_t, uint32_t, std::string_view) {
                               ADD_FAILURE() << "rows of another epoch";
                               return absl::OkStatus();
                             })
                .code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_P(ContextsTest, BadDigestsAreRefusedAndTheStreamGoesOn) {
  ASSERT_NO_FATAL_FAILURE(OpenAndAppend());
  const auto send = [&](uint32_t layer, uint32_t first, uint32_t count, std::string rows) {
    return client().SendDigests(Id(), epoch_, layer, first, count, std::move(rows), absl::Now());
  };
  std::string truncated = Digests(0, 0, 4);
  truncated.pop_back();
  std::string nan = Digests(0, 0, 4);
  nan[0] = nan[1] = '\x7f';
  nan[0] = '\xff';
  EXPECT_FALSE(send(0, 0, 4, truncated).ok());
  EXPECT_FALSE(send(0, 0, 4, nan).ok());
  EXPECT_FALSE(send(0, 1, 4, Digests(0, 1, 4)).ok()) << "leaves a hole";
  EXPECT_FALSE(send(2, 0, 4, Digests(0, 0, 4)).ok()) << "no such layer";
  EXPECT_FALSE(send(0, 0, kBlocks + 1, Digests(0, 0, kBlocks + 1)).ok()) << "no such block";
  EXPECT_THAT(
      std::string(
          client().SendDigests("nobody", 0, 0, 0, 4, Digests(0, 0, 4), absl::Now()).message()),
      HasSubstr("nobody"));
  EXPECT_TRUE(send(0, 0, 4, Digests(0, 0, 4)).ok());
}

TEST_P(ContextsTest, ManyThreadsSendDigestsOnOneStream) {
  constexpr int kContexts = 6;
  std::vector<uint32_t> epochs;
  for (int c = 0; c < kContexts; ++c) {
    const std::string id = "ctx-" + std::to_string(c);
    epochs.push_back(client().OpenContext(id, geometry_, page::DigestKind::kMinMax).value().epoch);
    ASSERT_TRUE(client().AppendContext(id, 0, Hashes(0, kBlocks)).ok());
  }
  std::vector<std::thread> threads;
  for (int c = 0; c < kContexts; ++c) {
    threads.emplace_back([&, epoch = epochs[c], id = "ctx-" + std::to_string(c)] {
      for (uint32_t block = 0; block < kBlocks; ++block) {
        const absl::Status sent =
            client().SendDigests(id, epoch, 1, block, 1, Digests(1, block, 1), absl::Now());
        ASSERT_TRUE(sent.ok()) << sent;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const auto contexts = client().ListContexts();
  ASSERT_TRUE(contexts.ok()) << contexts.status();
  for (const ContextInfo& info : *contexts) {
    EXPECT_THAT(info.digest_blocks, ElementsAre(0u, kBlocks));
  }
}

}  // namespace
}  // namespace varve::client::testing
