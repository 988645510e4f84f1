// varve-bench: every operation runs and its rows have the promised fields. Speeds are not judged.
#include <gtest/gtest.h>

#include "tests/integration/tools/run_tool.h"

namespace varve::testing {
namespace {

const char* const kQuick = " --rounds 1 --seconds 0.05 --json ";

void ExpectRow(const nlohmann::json& row, const std::string& op, const std::vector<std::string>& ratios) {
  EXPECT_EQ(row["op"].get<std::string>().rfind(op, 0), 0u) << row;
  for (const char* field : {"transport", "value_bytes", "batch", "threads", "gb_per_s", "p50_us", "p99_us"}) {
    EXPECT_TRUE(row.contains(field)) << field << " is missing in " << row;
  }
  EXPECT_GT(row["ops_per_s"].get<double>(), 0) << row;
  for (const std::string& ratio : ratios) {
    ASSERT_TRUE(row.contains(ratio)) << ratio << " is missing in " << row;
    EXPECT_GT(row[ratio].get<double>(), 0) << ratio;
  }
}

class Objects : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(Objects, RunAgainstLimits) {
  const auto [op, transport] = GetParam();
  const auto results = Results(RunTool("varve-bench", std::string(op) + kQuick + "--size 64KiB --batch 4 --working-set 4MiB " +
                                                          "--transport " + transport));
  ASSERT_EQ(results.size(), 1u);
  ExpectRow(results[0], op, {"ratio_memcpy", std::string("ratio_bare_") + transport});
  EXPECT_EQ(results[0]["transport"], transport);
  EXPECT_EQ(results[0]["value_bytes"], 65536);
}

INSTANTIATE_TEST_SUITE_P(All, Objects,
                         ::testing::Combine(::testing::Values("put", "get"), ::testing::Values("shm", "tcp")));

TEST(Bench, AgainstRedis) {
  const auto results = Results(RunTool(
      "varve-bench", std::string("get") + kQuick + "--size 64KiB --batch 4 --working-set 4MiB --transport tcp --against redis"));
  ASSERT_EQ(results.size(), 1u);
  ExpectRow(results[0], "get", {"ratio_redis"});
}

TEST(Bench, Recall) {
  const auto results =
      Results(RunTool("varve-bench", std::string("recall") + kQuick + "--pages 256 --missing 16 --head-dim 64 --kv-heads 2"));
  ASSERT_EQ(results.size(), 1u);
  ExpectRow(results[0], "recall", {"ratio_rpc_overhead_to_echo", "score_us", "transfer_us"});
}

TEST(Bench, Exists) {
  const auto results = Results(RunTool("varve-bench", std::string("exists") + kQuick + "--batch 128"));
  ASSERT_EQ(results.size(), 1u);
  ExpectRow(results[0], "exists", {"ratio_grpc_echo"});
}

TEST(Bench, WrongUse) {
  for (const char* flags : {"", "nosuch", "get --size 0", "get --transport carrier-pigeon", "put --batch 0"}) {
    const ToolResult result = RunTool("varve-bench", flags);
    EXPECT_EQ(result.exit_code, 2) << flags << ": " << result.errors;
    EXPECT_FALSE(result.errors.empty()) << flags;
  }
}

}  // namespace
}  // namespace varve::testing
