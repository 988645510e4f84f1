// What each eviction policy does beyond the contract that all keep.
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
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

}  // namespace
}  // namespace varve::store
