// Recall of pages whose keys the caller makes: values alone, beside pages that come whole.
#include <cstring>

#include "gmock/gmock.h"
#include "tests/contract/client/context_fixture.h"

namespace varve::client::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class RecallHalvesTest : public ContextTest {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(OpenAndAppend());
    ASSERT_NO_FATAL_FAILURE(PutObjects());
    ASSERT_NO_FATAL_FAILURE(SendAllDigests());
  }
};
VARVE_EACH_LANE(RecallHalvesTest);

TEST_P(RecallHalvesTest, OutliersComeWholeAndOtherPagesWithoutTheirKeys) {
  const auto memory = Allocate(6 * geometry_.page_bytes());
  const std::vector<float> queries = Queries(11);
  RecallQuery query{.context_id = Id(), .epoch = epoch_, .sinks = 1};
  query.layers = {{.layer = 1, .queries = queries}};
  query.layers[0].heads.assign(geometry_.num_kv_heads, {.budget_pages = 4});
  const size_t part = geometry_.part_bytes();
  RecallHead& asked = query.layers[0].heads[0];
  for (size_t s = 0; s < 6; ++s) {
    asked.slots.push_back({memory.get(), s * geometry_.page_bytes(), geometry_.page_bytes()});
  }
  asked.outliers = {2, 5};
  asked.values_begin = 1;
  asked.values_end = kBlocks;
  std::memset(memory->bytes().data(), 0x5A, memory->bytes().size());
  const auto result = client().Recall(query);
  ASSERT_TRUE(result.ok()) << result.status();
  const RecallHeadResult& head = result->layers[0][0];
  ASSERT_THAT(head.selected, SizeIs(6));
  ASSERT_THAT(head.recalled, SizeIs(6));
  uint32_t halves = 0;
  for (const RecalledPage& page : head.recalled) {
    ASSERT_TRUE(page.done) << page.message;
    const size_t at = asked.slots.at(page.slot).offset;
    const bool exact = page.page == 0 || page.page == 2 || page.page == 5;
    EXPECT_TRUE(Bytes(*memory, at, part) ==
                (exact ? Page(page.page, 1, 0, page::Part::kK) : std::string(part, 0x5A)));
    EXPECT_TRUE(Bytes(*memory, at + part, part) == Page(page.page, 1, 0, page::Part::kV));
    halves += exact ? 0 : 1;
  }
  EXPECT_EQ(halves, 3u);
  EXPECT_THAT(result->layers[0][1].selected, SizeIs(4));

  const auto message = [&](const auto& change) {
    RecallQuery bad = query;
    change(bad.layers[0].heads[0]);
    const auto refused = client().Recall(bad);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(refused.status().message());
  };
  EXPECT_THAT(message([](RecallHead& h) { h.outliers = {5, 2}; }), HasSubstr("outliers[1]"));
  EXPECT_THAT(message([](RecallHead& h) { h.outliers = {kBlocks}; }), HasSubstr("outliers[0]"));
  EXPECT_THAT(message([](RecallHead& h) { h.values_end = kBlocks + 1; }),
              HasSubstr("allowed: a range within"));
  EXPECT_THAT(message([](RecallHead& h) { h.values_begin = h.values_end + 1; }),
              HasSubstr("allowed: a range within"));
  EXPECT_THAT(message([](RecallHead& h) { h.part = page::Part::kV; }),
              HasSubstr("allowed: with PART_KV"));
}

}  // namespace
}  // namespace varve::client::testing
