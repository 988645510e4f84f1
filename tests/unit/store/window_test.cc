// Where a hole can be made, and at what cost.
#include "kvstore/store/window.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace varve::store {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// "o" an object, "." free, "#" in the way; one unit each.
std::vector<uint64_t> Window(const std::string& tier, uint64_t bytes) {
  std::vector<Piece> pieces;
  // Backwards: the order given does not matter. Objects are never looked into.
  for (size_t i = tier.size(); i-- > 0;) {
    if (tier[i] == '#') continue;
    pieces.push_back({i, 1, tier[i] == 'o' ? reinterpret_cast<Object*>(1 + i) : nullptr});
  }
  std::vector<uint64_t> offsets;
  for (const Piece& piece : CheapestWindow(pieces, bytes)) offsets.push_back(piece.offset);
  return offsets;
}

TEST(WindowTest, TakesTheStretchWithTheFewestObjects) {
  EXPECT_THAT(Window("ooo#oo.o#..oo", 3), ElementsAre(9, 10, 11));
  EXPECT_THAT(Window("oo.o", 2), ElementsAre(1, 2));
  EXPECT_THAT(Window("oooo", 4), ElementsAre(0, 1, 2, 3));
}

TEST(WindowTest, NothingReachesOverWhatCannotGo) {
  EXPECT_THAT(Window("ooo#ooo", 4), IsEmpty());
  EXPECT_THAT(Window("###", 1), IsEmpty());
  EXPECT_THAT(Window("", 1), IsEmpty());
}

TEST(WindowTest, PiecesCountByTheirSize) {
  std::vector<Piece> pieces = {{0, 10, reinterpret_cast<Object*>(1)},
                               {10, 2, nullptr},
                               {12, 4, reinterpret_cast<Object*>(2)},
                               {20, 8, reinterpret_cast<Object*>(3)}};
  const auto window = CheapestWindow(pieces, 5);
  ASSERT_EQ(window.size(), 2u);
  EXPECT_EQ(window[0].offset, 10u);
  EXPECT_EQ(window[1].offset, 12u);
}

}  // namespace
}  // namespace varve::store
