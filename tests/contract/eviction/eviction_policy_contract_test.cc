// What every eviction policy promises (eviction_policy.h), over every row of the registry.
#include "kvstore/store/eviction_policy.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::store {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class EvictionPolicyContractTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const auto row = EvictionPolicies().Find(GetParam());
    ASSERT_TRUE(row.ok());
    EXPECT_FALSE((*row)->summary.empty());
    policy_ = (*row)->create();
  }
  // They live as long as the policy: a test may leave some inside.
  std::vector<EvictionNode>& Nodes(size_t count) {
    nodes_.push_back(std::vector<EvictionNode>(count));
    std::vector<EvictionNode>& nodes = nodes_.back();
    for (size_t i = 0; i < count; ++i) {
      nodes[i].identity = i + 1;
      nodes[i].bytes = 4096;
    }
    return nodes;
  }

  std::deque<std::vector<EvictionNode>> nodes_;
  std::unique_ptr<EvictionPolicy> policy_;
};

TEST_P(EvictionPolicyContractTest, EmptyHasNoVictim) {
  EXPECT_EQ(policy_->Victim(), nullptr);
  EXPECT_EQ(policy_->size(), 0u);
}

TEST_P(EvictionPolicyContractTest, EveryNodeIsAVictimOnce) {
  std::vector<EvictionNode>& nodes = Nodes(100);
  for (EvictionNode& node : nodes) policy_->Insert(node);
  EXPECT_EQ(policy_->size(), 100u);
  std::set<EvictionNode*> victims;
  while (EvictionNode* victim = policy_->Victim()) {
    EXPECT_TRUE(victims.insert(victim).second);
    EXPECT_EQ(policy_->size(), 100 - victims.size());
  }
  EXPECT_EQ(victims.size(), 100u);
}

TEST_P(EvictionPolicyContractTest, ErasedNodesAreNoVictims) {
  std::vector<EvictionNode>& nodes = Nodes(10);
  for (EvictionNode& node : nodes) policy_->Insert(node);
  for (size_t i : {0u, 9u, 5u}) policy_->Erase(nodes[i]);
  std::set<uint64_t> left;
  while (EvictionNode* victim = policy_->Victim()) left.insert(victim->identity);
  EXPECT_THAT(left, testing::ElementsAre(2, 3, 4, 5, 7, 8, 9));
}

TEST_P(EvictionPolicyContractTest, NodesMayComeBack) {
  std::vector<EvictionNode>& nodes = Nodes(3);
  for (int round = 0; round < 5; ++round) {
    SCOPED_TRACE(round);
    for (EvictionNode& node : nodes) policy_->Insert(node);
    policy_->Touch(nodes[0]);
    policy_->Erase(nodes[1]);
    EXPECT_NE(policy_->Victim(), nullptr);
    EXPECT_NE(policy_->Victim(), nullptr);
    EXPECT_EQ(policy_->Victim(), nullptr);
  }
}

TEST_P(EvictionPolicyContractTest, OneUsedAgainAndAgainOutlivesTheUntouched) {
  std::vector<EvictionNode>& nodes = Nodes(50);
  for (EvictionNode& node : nodes) policy_->Insert(node);
  for (int i = 0; i < 4; ++i) policy_->Touch(nodes[0]);
  for (int i = 0; i < 40; ++i) {
    EXPECT_NE(policy_->Victim(), &nodes[0]) << "after " << i << " victims";
  }
}

// Heads are used after what depends on them, and there is no hole at a prefix' start.
TEST_P(EvictionPolicyContractTest, WhatWasUsedLastOfEqualsGoesLast) {
  std::vector<EvictionNode>& nodes = Nodes(8);
  for (size_t i = nodes.size(); i-- > 0;) policy_->Insert(nodes[i]);
  for (size_t i = nodes.size(); i-- > 0;) policy_->Touch(nodes[i]);
  for (size_t i = nodes.size(); i-- > 0;) EXPECT_EQ(policy_->Victim(), &nodes[i]) << i;
}

TEST_P(EvictionPolicyContractTest, WhatIsReturnedIsTheYoungestOfItsLike) {
  std::vector<EvictionNode>& nodes = Nodes(3);
  for (EvictionNode& node : nodes) policy_->Insert(node);
  EvictionNode* kept = policy_->Victim();
  EXPECT_EQ(kept, &nodes[0]);
  policy_->Return(*kept);
  EXPECT_EQ(policy_->size(), 3u);
  for (size_t i : {1u, 2u, 0u}) EXPECT_EQ(policy_->Victim(), &nodes[i]) << i;
}

TEST_P(EvictionPolicyContractTest, WhatWaitedForOthersIsTheNext) {
  std::vector<EvictionNode>& nodes = Nodes(4);
  for (EvictionNode& node : nodes) policy_->Insert(node);
  EvictionNode* waiting = policy_->Victim();
  EXPECT_EQ(waiting, &nodes[0]);
  policy_->Defer(*waiting);
  EXPECT_EQ(policy_->Victim(), &nodes[1]);
  EXPECT_EQ(policy_->size(), 2u);
  policy_->ReturnOldest(*waiting);
  EXPECT_EQ(policy_->size(), 3u);
  for (size_t i : {0u, 2u, 3u}) EXPECT_EQ(policy_->Victim(), &nodes[i]) << i;
}

// Prompts of any length, and any number of tokens, as clients say them.
TEST_P(EvictionPolicyContractTest, TakesAnyNumberOfTokens) {
  std::vector<EvictionNode>& nodes = Nodes(4);
  const uint32_t numbers[] = {0, 1, 1 << 20, UINT32_MAX};
  for (size_t i = 0; i < nodes.size(); ++i) {
    nodes[i].prompt_tokens = numbers[i];
    nodes[i].tokens = numbers[nodes.size() - 1 - i];
    policy_->Insert(nodes[i]);
    for (size_t uses = 0; uses < 300 * i; ++uses) policy_->Touch(nodes[i]);
  }
  for (size_t i = 0; i < nodes.size(); ++i) EXPECT_NE(policy_->Victim(), nullptr);
  EXPECT_EQ(policy_->Victim(), nullptr);
}

// Membership against a plain set, under random operations.
TEST_P(EvictionPolicyContractTest, KeepsItsBooksUnderRandomUse) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    std::vector<EvictionNode>& nodes = Nodes(64);
    std::set<EvictionNode*> members;
    for (int step = 0; step < 5000; ++step) {
      EvictionNode* node = &nodes[random() % nodes.size()];
      const bool member = members.contains(node);
      switch (random() % 4) {
        case 0:
        case 1:
          if (member) {
            policy_->Touch(*node);
          } else {
            policy_->Insert(*node);
            members.insert(node);
          }
          break;
        case 2:
          if (member) policy_->Erase(*node);
          members.erase(node);
          break;
        default:
          if (random() % 4 != 0) break;
          EvictionNode* victim = policy_->Victim();
          ASSERT_EQ(victim == nullptr, members.empty());
          if (victim != nullptr && random() % 4 == 0) {
            if (random() % 2 == 0) policy_->TouchOutside(*victim);
            policy_->Return(*victim);
            break;
          }
          if (victim != nullptr && random() % 4 == 0) {
            policy_->Defer(*victim);
            policy_->ReturnOldest(*victim);
            break;
          }
          ASSERT_EQ(members.erase(victim), victim == nullptr ? 0u : 1u);
      }
      ASSERT_EQ(policy_->size(), members.size());
    }
    while (EvictionNode* victim = policy_->Victim()) ASSERT_EQ(members.erase(victim), 1u);
    EXPECT_TRUE(members.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, EvictionPolicyContractTest,
                         testing::ValuesIn(EvictionPolicies().NameList()),
                         [](const auto& info) { return info.param; });

TEST(EvictionPoliciesTest, UnknownNameListsTheKnown) {
  EXPECT_THAT(EvictionPolicies().Find("fifo2").status().ToString(),
              AllOf(HasSubstr("unknown eviction policy 'fifo2'"), HasSubstr("lru")));
}

}  // namespace
}  // namespace varve::store
