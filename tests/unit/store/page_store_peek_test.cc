// Handles that are no use of their objects.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/unit/store/disk_fixture.h"

namespace varve::store {
namespace {

constexpr int kObjects = 40;

// Host memory for 16 objects, disk for all.
class PageStorePeekTest : public testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < kObjects; ++i) Put(Name(i));
  }
  void Put(const std::string& name) {
    f_.Put(name);
    f_.Settle();
    f_.clock().Advance(absl::Seconds(1));
  }
  static std::string Name(int i) { return absl::StrCat("object", 100 + i); }
  bool InMemory(int i) const {
    const std::vector<ObjectRow> rows = f_.store().List(f_.ns(), Name(i), "", 1);
    return !rows.empty() && rows[0].tier == TierId::kHost;
  }
  static bool Holds(const GetHandle& handle, const std::string& name) {
    return std::ranges::equal(handle.memory(),
                              DiskFixture::Value(DiskFixture::VersionName(name, 0)));
  }

  mutable DiskFixture f_{{}};
};

// More keys than are looked up under one lock, in an order of their own.
TEST_F(PageStorePeekTest, GivesWhatIsInMemoryInTheOrderAsked) {
  std::vector<std::string> names;
  for (int i = 0; i < 400; ++i) names.push_back(Name((i * 7) % (2 * kObjects)));
  std::vector<page::ObjectKey> keys;
  for (const std::string& name : names) keys.push_back(f_.Key(name));
  const auto handles = f_.store().Peek(f_.ns(), keys);
  ASSERT_EQ(handles.size(), keys.size());
  int given = 0;
  for (int i = 0; i < 400; ++i) {
    ASSERT_EQ(handles[i] != nullptr, InMemory((i * 7) % (2 * kObjects))) << names[i];
    if (handles[i] == nullptr) continue;
    ++given;
    EXPECT_TRUE(Holds(*handles[i], names[i]));
  }
  EXPECT_GT(given, 50);
  EXPECT_EQ(f_.Disk().promoting_objects, 0u) << "nobody asked for what is on disk";
}

TEST_F(PageStorePeekTest, IsNoUseToThePolicyAndAPinAsLongAsItIsOpen) {
  int oldest = 0;
  while (!InMemory(oldest)) ++oldest;
  const std::vector<page::ObjectKey> keys = {f_.Key(Name(oldest)), f_.Key(Name(oldest + 1))};
  auto handles = f_.store().Peek(f_.ns(), keys);
  ASSERT_NE(handles[0], nullptr);
  ASSERT_NE(handles[1], nullptr);
  handles[1].reset();
  for (int i = 0; i < 5; ++i) Put(absl::StrCat("newcomer", i));
  EXPECT_TRUE(Holds(*handles[0], Name(oldest)));
  EXPECT_TRUE(InMemory(oldest));
  EXPECT_FALSE(InMemory(oldest + 1)) << "the oldest but one was looked at, not used";
}

TEST_F(PageStorePeekTest, HandlesClosedTogetherGuardNoLonger) {
  std::vector<page::ObjectKey> keys;
  for (int i = 0; i < 2 * kObjects; ++i) keys.push_back(f_.Key(Name(i)));
  std::vector<std::unique_ptr<GetHandle>> handles;
  while (handles.size() <= 300) {  // many handles of an object, and of several locks
    for (auto& handle : f_.store().Peek(f_.ns(), keys)) handles.push_back(std::move(handle));
  }
  const auto open = [](const auto& handle) { return handle != nullptr; };
  const auto given = std::count_if(handles.begin(), handles.end(), open);
  ASSERT_GT(given, 50);
  ASSERT_LT(static_cast<size_t>(given), handles.size()) << "null ones too";
  int removed = -1;
  for (int i = 0; i < 2 * kObjects && removed < 0; ++i) {
    if (InMemory(i)) removed = i;
  }
  ASSERT_TRUE(f_.store().Remove(f_.ns(), f_.Key(Name(removed)), /*force=*/true));
  EXPECT_TRUE(Holds(*handles[removed], Name(removed))) << "removed, and open";
  f_.store().CloseAll(std::move(handles));
  for (int i = 0; i < 2 * kObjects; ++i) Put(absl::StrCat("newcomer", i));
  for (int i = 0; i < 2 * kObjects; ++i) EXPECT_FALSE(InMemory(i)) << i;
}

}  // namespace
}  // namespace varve::store
