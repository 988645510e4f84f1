// varve-bench: every operation runs and its rows have the promised fields. Speeds are not judged.
#include <gmock/gmock.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "absl/time/clock.h"
#include "client/client.h"
#include "client/process/child_process.h"
#include "tests/integration/tools/run_tool.h"
#include "tests/support/io_kinds.h"
#include "tests/support/store_process.h"

namespace varve::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const char* const kQuick = " --rounds 1 --seconds 0.05 --json ";

void ExpectRow(const nlohmann::json& row, const std::string& op,
               const std::vector<std::string>& ratios) {
  EXPECT_EQ(row["op"].get<std::string>().rfind(op, 0), 0u) << row;
  for (const char* field :
       {"transport", "value_bytes", "batch", "threads", "gb_per_s", "p50_us", "p99_us"}) {
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
  const auto results = Results(RunTool(
      "varve-bench", std::string(op) + kQuick + "--size 64KiB --batch 4 --working-set 4MiB " +
                         "--transport " + transport));
  ASSERT_EQ(results.size(), 1u);
  ExpectRow(results[0], op, {"ratio_memcpy", std::string("ratio_bare_") + transport});
  EXPECT_EQ(results[0]["transport"], transport);
  EXPECT_EQ(results[0]["value_bytes"], 65536);
}

INSTANTIATE_TEST_SUITE_P(All, Objects,
                         ::testing::Combine(::testing::Values("put", "get"),
                                            ::testing::Values("shm", "tcp")));

TEST(Bench, SpeculateComparesThreeKindsOfSteps) {
  for (const char* path : {"store", "worker"}) {
    const auto results = Results(
        RunTool("varve-bench", std::string("speculate") + kQuick +
                                   "--compute-ms 0.5 --layers 2 --pages 32 --kv-heads 2 --group 2 "
                                   "--head-dim 32 --budget 8 --cosine 0.95 --recall-path " +
                                   path));
    ASSERT_EQ(results.size(), 3u) << path;
    ExpectRow(results[0], "no recall", {"ratio_step"});
    ExpectRow(results[1], "on demand", {"ratio_step", "demand_kb_per_step"});
    ExpectRow(results[2], "speculating", {"ratio_step", "ahead_kb_per_step", "hidden_share"});
    EXPECT_EQ(results[1]["hidden_share"], 0);
    // Of a second turn: what is not resident, and the little that turned since the first one's last
    // step.
    EXPECT_GT(results[1]["first_step_kb_cold"], results[1]["first_step_kb_resumed"]) << path;
    EXPECT_GE(results[1]["first_step_kb_cold"], results[1]["first_step_kb_warmed"]) << path;
    for (const char* field :
         {"hot_hit_share", "corrected_share", "wasted_kb_per_step", "waited_us_per_step"}) {
      EXPECT_TRUE(results[2].contains(field)) << field;
    }
  }
}

TEST(Bench, DecodeByStageAgainstDense) {
  const std::string small =
      "--tokens 2048 --batch 1,2 --kv-heads 2 --group 2 --head-dim 32 --budget-tokens 512 "
      "--rank 16 --flush 1MiB ";
  const auto results = Results(RunTool("varve-bench", "decode" + std::string(kQuick) + small));
  ASSERT_EQ(results.size(), 6u);
  for (size_t i = 0; i < results.size(); i += 3) {
    ExpectRow(results[i], "full", {"ratio_dense", "attention_us", "limit_attention_us"});
    EXPECT_EQ(results[i]["attended_tokens"], 2048);
    EXPECT_FALSE(results[i].contains("score_us"));
    for (size_t policy = i + 1; policy < i + 3; ++policy) {
      ExpectRow(results[policy],
                policy == i + 1 ? "arkvale(budget=16p,hot=1" : "shadowkv(budget=64p",
                {"ratio_dense", "ratio_limit", "step_us", "score_us", "select_us", "transfer_us",
                 "install_us", "attention_us", "limit_score_us", "limit_transfer_us"});
      EXPECT_NEAR(results[policy]["hit_share"].get<double>(), 0.6, 0.1);
      EXPECT_EQ(results[policy].contains("rebuild_us"), policy == i + 2);
      EXPECT_EQ(results[policy].contains("limit_rebuild_us"), policy == i + 2);
    }
    EXPECT_EQ(results[i + 1]["attended_tokens"], 512);
    EXPECT_EQ(results[i + 2]["attended_tokens"], 512 + 12 * 8) << "outliers are beside the budget";
    // K and V of 2 KV heads, and a digest of two vectors a page.
    EXPECT_EQ(results[i]["memory"], 256 + 256 / 32);
    const double formula = results[i + 2]["memory_by_formula"];
    EXPECT_LE(results[i + 2]["memory"].get<double>(), formula);
    EXPECT_GE(results[i + 2]["memory"].get<double>(), 0.95 * formula);
  }
  const auto table = RunTool("varve-bench", "decode --rounds 1 --seconds 0.05 " + small +
                                                "--policies 'arkvale(budget=8p,hot=2)'");
  EXPECT_EQ(table.exit_code, 0) << table.errors;
  EXPECT_THAT(table.output, HasSubstr("arkvale(budget=8p,hot=2), batch 2: "));
  const auto refused = RunTool("varve-bench", "decode --policies 'quest(hot=2)'");
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.errors, HasSubstr("--policies"));
}

// The shell's settings are for its own store and worker, not for those that are measured.
TEST(Bench, ChildrenDoNotSeeTheShellsSettings) {
  setenv("VARVE_POOL_BYTES", "4GiB", 1);  // a worker's: a store would refuse it
  const auto results = Results(RunTool("varve-bench", std::string("exists") + kQuick));
  unsetenv("VARVE_POOL_BYTES");
  ASSERT_EQ(results.size(), 1u);
}

TEST(Bench, AgainstRedis) {
  const auto results = Results(
      RunTool("varve-bench",
              std::string("get") + kQuick +
                  "--size 64KiB --batch 4 --working-set 4MiB --transport tcp --against redis"));
  ASSERT_EQ(results.size(), 1u);
  ExpectRow(results[0], "get", {"ratio_redis"});
}

TEST(Bench, Recall) {
  const auto results =
      Results(RunTool("varve-bench", std::string("recall") + kQuick +
                                         "--pages 256 --missing 16 --head-dim 64 --kv-heads 2"));
  ASSERT_EQ(results.size(), 1u);
  ExpectRow(results[0], "recall",
            {"ratio_rpc_overhead_to_echo", "score_us", "transfer_us", "limit_score_us",
             "limit_transfer_us", "ratio_limit"});
  EXPECT_FALSE(results[0].contains("limit_rerank_us"));
}

TEST(Bench, RecallWithASecondStage) {
  for (const char* stages :
       {"--rerank exact --multiplier 2", "--digest minmax_sign2 --rerank sketch"}) {
    SCOPED_TRACE(stages);
    const auto results = Results(RunTool(
        "varve-bench", std::string("recall") + kQuick +
                           "--pages 256 --missing 16 --head-dim 64 --kv-heads 2 " + stages));
    ASSERT_EQ(results.size(), 1u);
    ExpectRow(results[0], "recall", {"rerank_us", "limit_rerank_us", "ratio_limit"});
  }
  const auto refused =
      RunTool("varve-bench", std::string("recall") + kQuick + "--pages 64 --rerank sketch");
  EXPECT_NE(refused.exit_code, 0);
  EXPECT_THAT(refused.errors, HasSubstr("allowed: contexts of kind sign1"));
}

TEST(Bench, Score) {
  const auto results = Results(RunTool(
      "varve-bench",
      std::string("score") + kQuick + "--working-set 4MiB --pages 256 --head-dim 64 --kv-heads 2"));
  std::vector<std::string> ops;
  for (const auto& row : results) {
    ExpectRow(row, "score/", {"ratio_read_bandwidth", "ns_per_page"});
    ops.push_back(row["op"]);
    if (ops.back().find("second stage") == std::string::npos) continue;
    ExpectRow(row, "score/", {"ratio_read_same_rows", "read_same_rows_gb_per_s"});
  }
  for (const char* op :
       {"score/portable", "score/sign1/portable", "score/sign2/portable", "score/sign4/portable",
        "score/second stage/keys", "score/second stage/sign1", "score/second stage/sign2"}) {
    EXPECT_NE(std::find(ops.begin(), ops.end(), op), ops.end()) << op;
  }
}

TEST(Bench, Exists) {
  const auto results =
      Results(RunTool("varve-bench", std::string("exists") + kQuick + "--batch 128"));
  ASSERT_EQ(results.size(), 1u);
  ExpectRow(results[0], "exists", {"ratio_grpc_echo"});
}

// A folder of its own, empty again at the end.
class Nvme : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "varve-bench-" + std::to_string(getpid());
    ASSERT_TRUE(std::filesystem::create_directory(folder_));
  }
  void TearDown() override {
    EXPECT_TRUE(std::filesystem::is_empty(folder_));
    std::filesystem::remove_all(folder_);
  }
  ToolResult Run(const std::string& flags) const {
    return RunTool("varve-bench", "nvme --dir " + folder_ + kQuick + "--size 64MiB " + flags);
  }

  std::string folder_;
};

class NvmeIo : public Nvme, public ::testing::WithParamInterface<std::string> {};

TEST_P(NvmeIo, WritesReadsAndAppends) {
  const auto results = Results(Run("--depth 4 --io " + GetParam()));
  const std::vector<std::pair<std::string, uint64_t>> rows = {{"nvme/write/small", 1 << 20},
                                                              {"nvme/read/small", 128 << 10},
                                                              {"nvme/write/huge", 1 << 20},
                                                              {"nvme/read/huge", 128 << 10},
                                                              {"nvme/append", 128 << 10}};
  ASSERT_EQ(results.size(), rows.size());
  for (size_t i = 0; i < results.size(); ++i) {
    const auto& [op, value_bytes] = rows[i];
    ExpectRow(results[i], op, {});
    EXPECT_EQ(results[i]["op"], op);
    EXPECT_EQ(results[i]["transport"], GetParam());
    EXPECT_EQ(results[i]["value_bytes"], value_bytes);
    EXPECT_EQ(results[i]["batch"], 4);
    EXPECT_GT(results[i]["p50_us"].get<double>(), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(All, NvmeIo, ::testing::ValuesIn(IoKinds()));

TEST_F(Nvme, AgainstFio) {
  const ToolResult result = Run("--depth 2 --memory small --against fio");
  if (access("/usr/bin/fio", X_OK) != 0) {
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.errors, HasSubstr("apt-get install fio"));
    return;
  }
  if (RefusesIoUring()) {
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.errors, HasSubstr("--io threads"));
    return;
  }
  const auto results = Results(result);
  ASSERT_EQ(results.size(), 3u);
  for (const auto& row : results)
    ExpectRow(row, "nvme/", {"ratio_fio", "fio_gb_per_s", "fio_p50_us", "fio_p99_us"});
}

TEST(Bench, NvmeNamesADirectoryThatTakesNoFiles) {
  const ToolResult result = RunTool("varve-bench", "nvme --io threads --dir /proc");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.errors, HasSubstr("/proc/varve-bench-"));
}

TEST(Bench, WrongUse) {
  for (const char* flags : {"",
                            "nosuch",
                            "get --size 0",
                            "get --size 65MiB",
                            "get --transport carrier-pigeon",
                            "put --batch 0",
                            "get --batch 4097",
                            "get --threads 0",
                            "get --threads 257",
                            "get --working-set 1",
                            "get --working-set 1EiB",
                            "get --rounds 0",
                            "get --seconds 0",
                            "nvme",
                            "nvme --dir /nosuch",
                            "nvme --dir /tmp --size 63MiB",
                            "nvme --dir /tmp --size 100MiB --depth 1,13",
                            "nvme --dir /tmp --depth 0",
                            "nvme --dir /tmp --io sync",
                            "nvme --dir /tmp --memory gpu",
                            "nvme --dir /tmp --against redis",
                            "recall --pages 0",
                            "recall --missing 0",
                            "recall --missing 99999999",
                            "recall --kv-heads 0",
                            "recall --group 0",
                            "score --head-dim 7",
                            "score --working-set 1EiB",
                            "score --pages 1048576 --kv-heads 256 --head-dim 256"}) {
    const ToolResult result = RunTool("varve-bench", flags);
    EXPECT_EQ(result.exit_code, 2) << flags << ": " << result.errors;
    EXPECT_FALSE(result.errors.empty()) << flags;
  }
}

TEST(Bench, TellsItsVersion) {
  EXPECT_THAT(RunTool("varve-bench", "--version").output,
              ::testing::MatchesRegex("varve-bench [0-9.]+ \\([0-9a-z]+\\)\n"));
}

// Somebody else's store.
TEST(TiersBench, LatenciesThatWereNotMeasuredAreLeftOut) {
  const std::string parent = ::testing::TempDir();
  const std::string arguments = "tiers --objects 256 --size 4KiB --dir " + parent;
  const auto results = Results(RunTool("varve-bench", arguments + kQuick));
  ASSERT_GT(results.size(), 4u);
  for (const auto& row : results) {
    const bool timed = row["op"].get<std::string>().starts_with("get_");
    EXPECT_EQ(row.contains("p50_us"), timed) << row;
    EXPECT_EQ(row.contains("p99_us"), timed) << row;
  }
  const ToolResult table = RunTool("varve-bench", arguments + " --rounds 1 --seconds 0.05");
  EXPECT_THAT(table.output, ::testing::ContainsRegex("fill .* -  +-  "));
}

class SharedStore : public ::testing::Test {
 protected:
  void SetUp() override {
    auto store = StoreProcess::Start(
        {"--host_tier.capacity_bytes=32MiB", "--sessions.max_object_bytes=1MiB"});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    auto client = client::Client::Connect(
        {.address = store_->grpc_address(), .lanes = {}, .lazy_session = true});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  std::string Flags() const {
    return kQuick + ("--transport inline --batch 4 --store " + store_->grpc_address() + " ");
  }
  client::StoreStatus Status() const {
    const auto status = client_->Status();
    EXPECT_TRUE(status.ok()) << status.status();
    return status.ok() ? *status : client::StoreStatus{};
  }
  void ExpectNothingLeft() const {
    EXPECT_EQ(Status().objects, 0u);
    EXPECT_EQ(Status().contexts, 0u);
  }

  std::unique_ptr<StoreProcess> store_;
  std::unique_ptr<client::Client> client_;
};

TEST_F(SharedStore, IsLeftAsItWas) {
  for (const char* bench :
       {"get --size 16KiB --working-set 2MiB", "put --size 16KiB --working-set 2MiB --threads 2",
        "recall --pages 64 --missing 16 --head-dim 64 --kv-heads 2"}) {
    SCOPED_TRACE(bench);
    EXPECT_EQ(Results(RunTool("varve-bench", bench + Flags())).size(), 1u);
    ExpectNothingLeft();
  }
}

TEST_F(SharedStore, IsNotFilledBeyondWhatIsFree) {
  const std::string get = "get --size 1MiB --working-set 64MiB" + Flags();
  const ToolResult refused = RunTool("varve-bench", get);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.errors, AllOf(HasSubstr("64.0 MiB"), HasSubstr("--force")));
  ExpectNothingLeft();
  const ToolResult forced = RunTool("varve-bench", get + "--force");
  EXPECT_EQ(forced.exit_code, 1);
  EXPECT_THAT(forced.errors, AllOf(HasSubstr("warning"), HasSubstr("a value is missing: evicted")));
  ExpectNothingLeft();
}

TEST_F(SharedStore, IsLeftAsItWasAfterASignal) {
  for (const int signal : {SIGINT, SIGHUP}) {
    SCOPED_TRACE(signal);
    client::ChildProcess::Options options;
    options.binary = "varve-bench";
    options.args = {"get",          "--transport=inline",
                    "--size=16KiB", "--working-set=2MiB",
                    "--seconds=60", "--store=" + store_->grpc_address()};
    options.wait_ready = false;
    const auto bench = client::ChildProcess::Start(options);
    ASSERT_TRUE(bench.ok()) << bench.status();
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    while (Status().objects < 128 && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(20));
    EXPECT_EQ(Status().objects, 128u);
    (*bench)->Signal(signal);
    const auto code = (*bench)->Wait(absl::Seconds(60));
    ASSERT_TRUE(code.ok()) << code.status();
    EXPECT_EQ(*code, 130);
    ExpectNothingLeft();
  }
}

}  // namespace
}  // namespace varve::testing
