#include "gpu_worker/tensor_arena.h"

#include <memory>
#include <thread>

#include "gtest/gtest.h"

namespace varve::worker {
namespace {

TEST(TensorArena, PiecesComeBackAndAbandonedOnesDoNot) {
  alignas(64) std::byte memory[256];
  TensorArena arena(memory);
  {
    const auto first = arena.Take(100, absl::Seconds(10));
    auto second = arena.Take(128, absl::Seconds(10));
    ASSERT_TRUE(first.ok() && second.ok());
    EXPECT_EQ(second->offset(), 128u);
    second->Abandon();
  }
  EXPECT_EQ(arena.Take(128, absl::Seconds(10))->offset(), 0u);
  const absl::Status none = arena.Take(129, absl::Milliseconds(20)).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kResourceExhausted) << none;
}

TEST(TensorArena, TakeWaitsForRoom) {
  alignas(64) std::byte memory[128];
  TensorArena arena(memory);
  auto taken = arena.Take(128, absl::Seconds(10));
  ASSERT_TRUE(taken.ok());
  auto held = std::make_unique<TensorArena::Piece>(std::move(*taken));
  std::thread waiting([&] { EXPECT_TRUE(arena.Take(64, absl::Seconds(30)).ok()); });
  held.reset();
  waiting.join();
}

}  // namespace
}  // namespace varve::worker
