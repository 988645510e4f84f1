// One connection per test, in a namespace of its own.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/contract/client/backend.h"

namespace varve::client::testing {

class ClientTest : public ::testing::TestWithParam<Lane> {
 protected:
  ClientTest() : connection_(Connect(GetParam(), Namespace())) {}

  static std::string Namespace() {
    const ::testing::TestInfo& test = *::testing::UnitTest::GetInstance()->current_test_info();
    return std::string(test.test_suite_name()) + "." + test.name();
  }
  Client& client() { return *connection_; }

  std::unique_ptr<Memory> Allocate(size_t bytes) {
    absl::StatusOr<std::unique_ptr<Memory>> memory = client().Allocate(bytes);
    EXPECT_TRUE(memory.ok()) << memory.status();
    return *std::move(memory);
  }
  // Puts through memory of its own; the outcome.
  PutOutcome PutValue(std::string_view key, std::string_view value,
                      const page::ObjectLayout& layout = {}) {
    const auto memory = Allocate(value.size());
    Fill(*memory, 0, value);
    const auto results = client().Put(std::vector<PutItem>{
        {.key = Key(key), .sources = {{memory.get(), 0, value.size()}}, .layout = layout}});
    EXPECT_TRUE(results.ok()) << results.status();
    return results.ok() ? results->at(0).outcome : PutOutcome::kFailed;
  }
  GetResult GetInto(std::string_view key, const page::ObjectRange& range,
                    std::vector<Piece> destinations) {
    const auto results = client().Get(std::vector<GetItem>{
        {.key = Key(key), .range = range, .destinations = std::move(destinations)}});
    EXPECT_TRUE(results.ok()) << results.status();
    return results.ok() ? results->at(0) : GetResult();
  }
  // The whole value, "<miss>" when it is not there.
  std::string GetValue(std::string_view key, size_t room) {
    const auto memory = Allocate(room);
    const GetResult result = GetInto(key, {}, {{memory.get(), 0, room}});
    return result.hit ? Bytes(*memory, 0, result.bytes) : "<miss>";
  }

  Connection connection_;
};

#define VARVE_EACH_LANE(Suite)                      \
  INSTANTIATE_TEST_SUITE_P(                         \
      Lanes, Suite, ::testing::ValuesIn(kAllLanes), \
      [](const ::testing::TestParamInfo<Lane>& info) { return LaneName(info.param); })

}  // namespace varve::client::testing
