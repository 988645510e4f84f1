#include "kvstore/page/lowrank/memory.h"

#include <gtest/gtest.h>

namespace varve::page {
namespace {

// The figures of ShadowKV for Llama-3.1-8B: 8 KV heads, d = 128, r = 160, chunks of 8, bf16.
TEST(LowRankMemoryTest, IsWhatTheMethodTakes) {
  constexpr uint64_t kTokens = 131072;
  LowRankShape shape{.num_kv_heads = 8, .head_dim = 128, .id_bytes = 8};
  const LowRankBytes layer = LowRankMemory(shape, kTokens);
  EXPECT_EQ(layer.rows, 320 * kTokens);
  EXPECT_EQ(layer.landmarks, 256 * kTokens);
  EXPECT_EQ(layer.ids, 8 * kTokens);
  EXPECT_EQ(layer.growing(), 584 * kTokens);
  EXPECT_EQ(layer.basis, 320u << 10);
  EXPECT_EQ(layer.outliers + layer.hot + layer.window, size_t{2592} * 4096);
  EXPECT_NEAR(32.0 * static_cast<double>(layer.total()) / (1 << 30), 2.61, 0.005);
  // Against K and V of all tokens.
  EXPECT_NEAR(4096.0 * kTokens / static_cast<double>(layer.total()), 6.1, 0.05);

  shape.id_bytes = 4;
  EXPECT_EQ(LowRankMemory(shape, kTokens).growing(), 580 * kTokens);
  shape.rows_dtype = shape.basis_dtype = DType::kF32;
  EXPECT_EQ(LowRankMemory(shape, kTokens).rows, 640 * kTokens);
  EXPECT_EQ(LowRankMemory(shape, kTokens).basis, 640u << 10);
  shape.chunk_tokens = 32;
  EXPECT_EQ(LowRankMemory(shape, 63).landmarks, 2048u) << "a chunk that is not full has none";
  EXPECT_EQ(LowRankMemory(shape, 0).growing(), 0u);
}

}  // namespace
}  // namespace varve::page
