// What each eviction policy does beyond the contract that all keep.
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/store/cost_policy.h"
#include "kvstore/store/lru_policy.h"
#include "kvstore/store/s3_fifo_policy.h"

namespace varve::store {
namespace {

std::vector<EvictionNode> Nodes(size_t count) {
  std::vector<EvictionNode> nodes(count);
  for (size_t i = 0; i < count; ++i) {
    nodes[i].identity = i + 1;
    nodes[i].bytes = 4096;
  }
  return nodes;
}

TEST(LruPolicyTest, VictimsComeInOrderOfLastUse) {
  const auto policy = MakeLruPolicy();
  std::vector<EvictionNode> nodes(4);
  for (EvictionNode& node : nodes) policy->Insert(node);
  policy->Touch(nodes[1]);
  policy->Touch(nodes[0]);
  EXPECT_EQ(policy->Victim(), &nodes[2]);
  EXPECT_EQ(policy->Victim(), &nodes[3]);
  EXPECT_EQ(policy->Victim(), &nodes[1]);
  EXPECT_EQ(policy->Victim(), &nodes[0]);
}

TEST(S3FifoPolicyTest, WhatWasUsedMovesOnAndTheRestLeavesFirst) {
  const auto policy = MakeS3FifoPolicy();
  std::vector<EvictionNode> nodes = Nodes(6);
  for (EvictionNode& node : nodes) policy->Insert(node);
  for (int i : {0, 2}) policy->Touch(nodes[i]);
  // The main queue gives when it has more than half.
  for (int i : {1, 3, 4, 0, 5, 2}) EXPECT_EQ(policy->Victim(), &nodes[i]) << i;
}

TEST(S3FifoPolicyTest, WhatComesBackSoonGoesToTheMainQueue) {
  const auto policy = MakeS3FifoPolicy();
  std::vector<EvictionNode> nodes = Nodes(6);
  for (int i : {0, 1, 2, 3}) policy->Insert(nodes[i]);
  EXPECT_EQ(policy->Victim(), &nodes[0]);
  policy->Insert(nodes[0]);  // its name was remembered
  for (int i : {4, 5}) policy->Insert(nodes[i]);
  for (int i : {1, 2, 3, 4}) EXPECT_EQ(policy->Victim(), &nodes[i]);
}

TEST(S3FifoPolicyTest, UsesInTheMainQueueAreSecondChances) {
  const auto policy = MakeS3FifoPolicy();
  std::vector<EvictionNode> nodes = Nodes(3);
  for (EvictionNode& node : nodes) {
    policy->Insert(node);
    policy->Touch(node);
  }
  EXPECT_EQ(policy->Victim(), &nodes[0]) << "all moved to the main queue";
  policy->Touch(nodes[1]);
  EXPECT_EQ(policy->Victim(), &nodes[2]);
  EXPECT_EQ(policy->Victim(), &nodes[1]);
}

// Names of what left are remembered for as many objects as there are, and no more.
TEST(S3FifoPolicyTest, WhatLeftLongAgoIsForgotten) {
  const auto policy = MakeS3FifoPolicy();
  std::vector<EvictionNode> nodes = Nodes(100);
  for (int i = 0; i < 10; ++i) policy->Insert(nodes[i]);
  for (int i = 10; i < 90; ++i) {
    EXPECT_EQ(policy->Victim(), &nodes[i - 10]);
    policy->Insert(nodes[i]);
  }
  policy->Insert(nodes[0]);   // left 80 victims ago: as if new
  policy->Insert(nodes[79]);  // the last to leave: to the main queue
  for (int i = 80; i < 90; ++i) EXPECT_EQ(policy->Victim(), &nodes[i]);
  EXPECT_EQ(policy->Victim(), &nodes[0]);
  EXPECT_EQ(policy->Victim(), &nodes[79]);
}

// With lru what comes back is the newest anyway.
TEST(PoliciesTest, UsesOutsideCount) {
  for (const auto& make : {MakeS3FifoPolicy, MakeCostPolicy}) {
    const auto policy = make();
    std::vector<EvictionNode> nodes = Nodes(3);
    for (EvictionNode& node : nodes) policy->Insert(node);
    EXPECT_EQ(policy->Victim(), &nodes[0]);
    policy->TouchOutside(nodes[0]);
    EXPECT_EQ(policy->Victim(), &nodes[1]);
    policy->Return(nodes[0]);
    policy->Return(nodes[1]);
    for (int i : {2, 1, 0}) EXPECT_EQ(policy->Victim(), &nodes[i]) << i;
  }
}

TEST(CostPolicyTest, BlocksOfShortPromptsGoFirstAndAmongEqualsTheOldest) {
  const auto policy = MakeCostPolicy();
  std::vector<EvictionNode> nodes = Nodes(5);
  const uint32_t prompts[] = {200'000, 0, 800'000, 0, 100'000};
  for (int i = 0; i < 5; ++i) {
    nodes[i].prompt_tokens = prompts[i];
    policy->Insert(nodes[i]);
  }
  for (int i : {1, 3, 4, 0, 2}) EXPECT_EQ(policy->Victim(), &nodes[i]) << i;
}

TEST(CostPolicyTest, UsesCountAsCostDoes) {
  const auto policy = MakeCostPolicy();
  std::vector<EvictionNode> nodes = Nodes(3);
  nodes[1].prompt_tokens = 30'000;
  for (EvictionNode& node : nodes) policy->Insert(node);
  for (int i = 0; i < 3; ++i) policy->Touch(nodes[0]);
  for (int i : {2, 1, 0}) EXPECT_EQ(policy->Victim(), &nodes[i]) << i;
}

// A context's recalls: the page that every step asks for, and the one that some do.
TEST(CostPolicyTest, ManyUsesAreMoreThanSome) {
  const auto policy = MakeCostPolicy();
  std::vector<EvictionNode> nodes = Nodes(3);
  for (EvictionNode& node : nodes) policy->Insert(node);
  for (int i = 0; i < 60; ++i) policy->Touch(nodes[0]);
  for (int i = 0; i < 6; ++i) policy->Touch(nodes[1]);
  for (int i = 0; i < 6; ++i) policy->Touch(nodes[2]);
  for (int i : {1, 2, 0}) EXPECT_EQ(policy->Victim(), &nodes[i]) << i;
}

TEST(CostPolicyTest, OfAsManyTokensTheLargestGoesFirst) {
  const auto policy = MakeCostPolicy();
  std::vector<EvictionNode> nodes = Nodes(5);
  const uint64_t bytes[] = {2 << 20, 1 << 20, 8 << 20, 3 << 20, 0};
  for (int i = 0; i < 4; ++i) {
    nodes[i].bytes = bytes[i];
    nodes[i].tokens = 32;
  }
  nodes[4].bytes = 3 << 20;  // does not say: as the average, 3.5 MiB for 32 tokens
  for (EvictionNode& node : nodes) policy->Insert(node);
  for (EvictionNode& node : nodes) policy->Touch(node);  // all with the average known
  for (int i : {2, 4, 3, 0, 1}) EXPECT_EQ(policy->Victim(), &nodes[i]) << i;
}

// However valuable: what nobody uses is older than everything one day.
TEST(CostPolicyTest, TheUnusedAge) {
  const auto policy = MakeCostPolicy();
  std::vector<EvictionNode> nodes = Nodes(200);
  nodes[0].prompt_tokens = 2'000'000;
  for (int i = 0; i < 4; ++i) policy->Insert(nodes[i]);
  int rounds = 0;
  for (int next = 4; policy->Victim() != &nodes[0]; ++next, ++rounds) {
    ASSERT_LT(next, 200) << "it never goes";
    policy->Insert(nodes[next]);
  }
  EXPECT_GT(rounds, 20) << "it went too early";
}

TEST(CostPolicyTest, UsesAreRememberedWhenANodeComesBack) {
  const auto policy = MakeCostPolicy();
  std::vector<EvictionNode> nodes = Nodes(3);
  policy->Insert(nodes[0]);
  EXPECT_EQ(policy->Victim(), &nodes[0]);
  for (int i : {0, 1, 2}) policy->Insert(nodes[i]);
  for (int i : {1, 2, 0}) EXPECT_EQ(policy->Victim(), &nodes[i]) << i;
}

// Uses that never come make a second use worth less than it seemed at first.
TEST(CostPolicyTest, HowMuchUsesSayIsLearned) {
  const auto policy = MakeCostPolicy();
  std::vector<EvictionNode> nodes = Nodes(4000);
  for (EvictionNode& node : nodes) {
    policy->Insert(node);
    policy->Touch(node);  // each twice, and never again
  }
  while (policy->Victim() != nullptr) {
  }
  std::vector<EvictionNode> last = Nodes(2);
  for (EvictionNode& node : last) node.identity += 10'000;
  last[1].prompt_tokens = 1000;
  policy->Insert(last[0]);
  policy->Touch(last[0]);
  policy->Insert(last[1]);
  EXPECT_EQ(policy->Victim(), &last[0]) << "the dearer of two that are as likely to be used stays";
}

TEST(CostPolicyTest, LaterTokensCostMore) {
  EXPECT_DOUBLE_EQ(RecomputeCost(0), 1);
  EXPECT_DOUBLE_EQ(RecomputeCost(53406), 2);
  EXPECT_GT(RecomputeCost(1 << 20), RecomputeCost(1 << 19));
}

}  // namespace
}  // namespace varve::store
