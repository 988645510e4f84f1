// What costs least to lose goes first: GreedyDual (Cao and Irani, "Cost-aware WWW proxy caching
// algorithms", USITS 1997) with the queues of CAMP (Ghandeharizadeh et al., "CAMP: a cost adaptive
// multi-queue eviction policy for key-value stores", Middleware 2014).
//
// A node is worth the probability that it is used again times the cost of computing it, and its
// priority is that plus the priority of the last victim when it was used last: what is valuable but
// unused ages. Values are rounded to powers of the fourth root of 2; nodes of one rounded value are
// in one queue, the oldest first, and the victim is the least of the queues' heads.
//
// The probability is learned, by how often a node was used (as LHD does: Beckmann, Chen and Cidon,
// NSDI 2018): of the nodes with so many uses (1, 2, 3, 4 to 7 and so on, 64 and more), how many saw
// another, those that came when the node had left counted a quarter. Uses of what has left are
// remembered for four times as many nodes as there are.
//
// The cost is that of a token of its prompt, on average over the prompt. It is the same for all
// blocks of the prompt although the later ones cost more: without a block those behind it are of no
// use. A block that was used with many continuations is worth more by its uses.
//
// All that is for a node's tokens, divided by its bytes, since room is what eviction gives: of two
// values of as many tokens the smaller one (a codec's) is worth more. A token's keys and values in
// one layer count the same whatever the model. A node that does not say how many tokens it has
// counts as if it had as many for its bytes as the others have on average.
//
// A recall that sends pages of a node uses it, each time: how often is what is known here of the
// attention that its tokens get.
#pragma once

#include <cstdint>
#include <memory>

#include "kvstore/store/eviction_policy.h"

namespace varve::store {

std::unique_ptr<EvictionPolicy> MakeCostPolicy();

// The work of prefill for the token at this position, where the first token's is 1: matrix products
// are 2 x parameters, attention 4 x layers x width x position. With 70 billion parameters and 80
// layers of width 8192 attention has as much as the rest at position 53406.
double RecomputeCost(double token_position);

}  // namespace varve::store
