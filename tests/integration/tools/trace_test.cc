// varve-bench trace: policies alone, and a real store.
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "client/client.h"
#include "tests/integration/tools/run_tool.h"
#include "tests/support/store_process.h"

namespace varve::testing {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr int kRequests = 300;
// Block 0 is in every request, one of seven others too, and one that never comes back.
constexpr double kMostHits = (kRequests - 1.0 + kRequests - 7) / (3 * kRequests);

class TraceTest : public ::testing::Test {
 protected:
  TraceTest() {
    std::ofstream trace(path_);
    for (int i = 0; i < kRequests; ++i) {
      trace << R"({"timestamp": )" << i * 10 << R"(, "input_length": 1536, "output_length": 5, )"
            << R"("hash_ids": [0, )" << i % 7 + 1 << ", " << i + 100 << "]}\n";
    }
  }
  ~TraceTest() override {
    std::filesystem::remove(path_);
    std::filesystem::remove_all(nvme_);
  }

  ToolResult Trace(const std::string& flags) const {
    return RunTool("varve-bench", "trace " + path_ + " " + flags);
  }

  // The flag with a directory that exists.
  std::string NvmeDir() const {
    std::filesystem::create_directories(nvme_);
    return " --nvme-dir " + nvme_;
  }

  const std::string path_ =
      ::testing::TempDir() + "varve-trace-" + std::to_string(getpid()) + ".jsonl";
  const std::string nvme_ = path_ + ".nvme";
};

TEST_F(TraceTest, SimulatesPolicies) {
  const auto results = Results(Trace("--simulate --capacity-blocks 4,20 --json"));
  ASSERT_EQ(results.size(), 8u);
  for (const auto& row : results) {
    EXPECT_THAT(row["policy"], AnyOf("lru", "s3fifo", "cost", "belady"));
    EXPECT_THAT(row["capacity_blocks"], AnyOf(4, 20));
    const double ratio = row["hit_ratio"];
    EXPECT_GT(ratio, 0.3) << row << ": block 0 is in every request";
    EXPECT_LE(ratio, kMostHits) << row;
    EXPECT_LE(row["ratio_belady"].get<double>(), 1) << row;
    EXPECT_LE(row["prefix_hit_ratio"].get<double>(), ratio) << row;
    EXPECT_GT(row["cost_saved_ratio"].get<double>(), 0.3) << row;
    EXPECT_GT(row["accesses_per_s"].get<double>(), 0);
  }
  EXPECT_THAT(Trace("--simulate").output, HasSubstr("of belady"));
}

TEST_F(TraceTest, ReplaysAgainstAStoreThatHasRoomForAll) {
  const std::string plot = path_ + ".svg";
  const auto results = Results(Trace("--engines 1 --host-capacity 256MiB --json --plot " + plot));
  ASSERT_EQ(results.size(), 1u);
  const auto& row = results[0];
  EXPECT_EQ(row["policy"], "lru");
  EXPECT_EQ(row["requests"], kRequests);
  EXPECT_EQ(row["references"], 3 * kRequests);
  EXPECT_DOUBLE_EQ(row["hit_ratio"], kMostHits);
  EXPECT_EQ(row["bytes_put"], (1 + 7 + kRequests) * 65536);
  EXPECT_EQ(row["bytes_evicted_host"], 0);
  EXPECT_EQ(row["late_misses"], 0);
  uint64_t requests = 0, hits = 0;
  for (const auto& slice : row["over_time"]) {
    requests += slice["requests"].get<uint64_t>();
    hits += slice["hits_host"].get<uint64_t>();
  }
  EXPECT_EQ(requests, kRequests);
  EXPECT_EQ(hits, kRequests - 1 + kRequests - 7);
  for (const char* field : {"lookup_p50_us", "get_p99_us", "put_p90_us", "seconds"}) {
    EXPECT_GT(row[field].get<double>(), 0) << field;
  }
  std::stringstream drawn;
  drawn << std::ifstream(plot).rdbuf();
  EXPECT_THAT(drawn.str(), AllOf(HasSubstr("<svg"), HasSubstr("polyline"), HasSubstr("</svg>")));
  std::filesystem::remove(plot);
}

TEST_F(TraceTest, APlotThatCannotBeWrittenIsKnownBeforeTheReplay) {
  const ToolResult refused = Trace("--speed-up 0.01 --plot /nosuch/hits.svg");  // minutes
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.errors, HasSubstr("/nosuch/hits.svg: cannot be written"));
  EXPECT_EQ(refused.output, "");
}

TEST_F(TraceTest, APlotIsSvg) {
  const ToolResult refused = Trace("--speed-up 0.01 --plot " + path_ + ".bmp");
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.errors, AllOf(HasSubstr(".bmp"), HasSubstr(".svg")));
}

TEST_F(TraceTest, EachPolicyHasAPlot) {
  Results(Trace("--engines 1 --host-capacity 256MiB --json --policies lru,s3fifo --plot " + path_ +
                ".svg"));
  for (const char* policy : {"lru", "s3fifo"}) {
    const std::string plot = path_ + "-" + policy + ".svg";
    EXPECT_GT(std::filesystem::file_size(plot), 1000u) << plot;
    std::filesystem::remove(plot);
  }
  EXPECT_FALSE(std::filesystem::exists(path_ + ".svg"));
}

TEST_F(TraceTest, WhatWasMeasuredIsPrintedWhenThePlotFails) {
  const ToolResult full = Trace("--host-capacity 64MiB --json --plot /dev/full");
  EXPECT_EQ(full.exit_code, 1);
  EXPECT_THAT(full.errors, HasSubstr("/dev/full: cannot be written"));
  EXPECT_EQ(nlohmann::json::parse(full.output)["results"].size(), 1u);
}

TEST_F(TraceTest, ADirectoryMayBeRelative) {
  NvmeDir();
  const std::string relative = std::filesystem::relative(nvme_);
  ASSERT_NE(relative.front(), '/');
  const auto results = Results(Trace(
      "--engines 1 --host-capacity 64MiB --json --nvme-capacity 128MiB --nvme-dir " + relative));
  ASSERT_EQ(results.size(), 1u);
  EXPECT_DOUBLE_EQ(results[0]["hit_ratio"], kMostHits);
}

TEST_F(TraceTest, ReplaysWithPoliciesThatEvict) {
  const auto results = Results(
      Trace("--engines 3 --host-capacity 1MiB --policies lru,s3fifo,cost --speed-up 20 --json"));
  ASSERT_EQ(results.size(), 3u);
  for (const auto& row : results) {
    EXPECT_GT(row["hit_ratio"].get<double>(), 0.2) << row;
    EXPECT_LE(row["hit_ratio"].get<double>(), kMostHits) << row;
    EXPECT_GT(row["bytes_evicted_host"].get<uint64_t>(), 0u) << row;
    EXPECT_GT(row["seconds"].get<double>(), 0.149) << "2.99 s, 20 times faster";
  }
  EXPECT_THAT(
      Trace("--host-capacity 64MiB").output,
      AllOf(HasSubstr("host hits"), HasSubstr("evicted from host memory"), HasSubstr("p99 us")));
}

TEST_F(TraceTest, TellsHitsInMemoryFromThoseOnDisk) {
  constexpr uint64_t kBytes = 512 * 256;  // of a block
  const std::string plot = path_ + ".svg";
  const auto results = Results(Trace(
      "--engines 1 --bytes-per-token 256 --host-capacity 1MiB --promote-uses 0 --json --plot " +
      plot + " --nvme-capacity 128MiB" + NvmeDir()));
  ASSERT_EQ(results.size(), 1u);
  const auto& row = results[0];
  EXPECT_EQ(row["nvme_policy"], "lru");
  EXPECT_EQ(row["nvme_capacity_bytes"], 128 << 20);
  EXPECT_DOUBLE_EQ(row["hit_ratio"], kMostHits) << row;
  // Memory has room for 7 blocks, and 8 others come before one of the seven comes back. What is on
  // its way to disk is still in memory.
  const uint64_t nvme = row["bytes_got_nvme"].get<uint64_t>() / kBytes;
  EXPECT_GT(nvme, kRequests / 3) << row;
  EXPECT_LE(nvme, kRequests - 7) << row;
  EXPECT_EQ(row["bytes_got_host"], (kRequests - 1 + kRequests - 7 - nvme) * kBytes);
  uint64_t hits = 0;
  for (const auto& slice : row["over_time"]) hits += slice["hits_nvme"].get<uint64_t>();
  EXPECT_EQ(hits, nvme);
  EXPECT_EQ(row["late_misses"], 0);
  EXPECT_EQ(row["refused_puts"], 0);
  EXPECT_GT(row["bytes_moved_demote"].get<uint64_t>(), 250 * kBytes) << row;
  for (const char* field : {"bytes_moved_put", "bytes_moved_promote", "bytes_moved_reclaim",
                            "bytes_evicted_host", "bytes_evicted_nvme"}) {
    EXPECT_EQ(row[field], 0) << field;
  }
  EXPECT_GT(row["get_nvme_p50_us"].get<double>(), 0);
  EXPECT_DOUBLE_EQ(row["ratio_nvme_prefill"], row["nvme_tokens_per_s"].get<double>() / 10000);
  // Whatever the times are, no get took longer than the replay did.
  EXPECT_GT(row["nvme_tokens_per_s"].get<double>(),
            static_cast<double>(nvme * 512) / row["seconds"].get<double>());
  EXPECT_TRUE(std::filesystem::is_empty(nvme_)) << "the store's directory is removed";
  std::stringstream drawn;
  drawn << std::ifstream(plot).rdbuf();
  EXPECT_THAT(drawn.str(), HasSubstr("in host memory or nvme"));
  std::filesystem::remove(plot);
}

TEST_F(TraceTest, CountsWhatMovesBetweenMemoryAndDisk) {
  const auto results = Results(
      Trace("--engines 3 --host-capacity 2MiB --nvme-capacity 16MiB --durability nvme_async "
            "--policies s3fifo --nvme-policy lru --prefill-tokens-per-second 100 --json" +
            NvmeDir()));
  ASSERT_EQ(results.size(), 1u);
  const auto& row = results[0];
  EXPECT_EQ(row["policy"], "s3fifo");
  EXPECT_EQ(row["nvme_policy"], "lru");
  EXPECT_EQ(row["durability"], "nvme_async");
  EXPECT_GT(row["bytes_moved_put"].get<uint64_t>(), 100u * 65536) << row;
  EXPECT_GT(row["bytes_evicted_nvme"].get<uint64_t>(), 0u) << "it has room for two thirds";
  EXPECT_DOUBLE_EQ(row["ratio_nvme_prefill"], row["nvme_tokens_per_s"].get<double>() / 100);
  const std::string tables =
      Trace("--bytes-per-token 256 --host-capacity 1MiB --promote-uses 0 --nvme-capacity 128MiB" +
            NvmeDir())
          .output;
  for (const char* part :
       {"128 MiB of nvme (lru, durability memory, promoted after 0 uses)", "nvme hits", "all hits",
        "to nvme, to make room in memory", "evicted from nvme", "get with blocks from nvme",
        "times as fast as recomputing 10000 tokens/s"}) {
    EXPECT_THAT(tables, HasSubstr(part));
  }
}

TEST_F(TraceTest, LeavesNothingInAStoreOfOthers) {
  const auto store = StoreProcess::Start({"--host_tier.capacity_bytes=256MiB"});
  ASSERT_TRUE(store.ok()) << store.status();
  const std::string flags = "--store " + (*store)->grpc_address();
  EXPECT_EQ(Results(Trace(flags + " --json")).size(), 1u);
  const auto client = client::Client::Connect({.address = (*store)->grpc_address()});
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ((*client)->Status()->objects, 0u);
  EXPECT_THAT(Trace(flags + " --policies lru").errors, HasSubstr("has its own"));
  const ToolResult large = Trace(flags + " --bytes-per-token 4096");
  EXPECT_EQ(large.exit_code, 1);
  EXPECT_THAT(large.errors, HasSubstr("others' values would be evicted"));
}

TEST_F(TraceTest, SaysWhatIsWrong) {
  EXPECT_THAT(Trace("--policies fifo").errors, HasSubstr("belady"));
  EXPECT_THAT(Trace("--policies belady").errors, HasSubstr("only --simulate"));
  EXPECT_THAT(Trace("--capacity-blocks 5").errors, HasSubstr("--simulate"));
  for (const std::string& only_replayed :
       {"--plot " + path_ + ".svg", std::string("--store 127.0.0.1:1"), std::string("--engines 2"),
        std::string("--host-capacity 1GiB"), std::string("--seconds 1")}) {
    const ToolResult refused = Trace("--simulate " + only_replayed);
    EXPECT_EQ(refused.exit_code, 2) << only_replayed;
    EXPECT_THAT(refused.errors, AllOf(HasSubstr("--simulate"), HasSubstr("excludes"),
                                      HasSubstr(only_replayed.substr(0, only_replayed.find(' ')))));
  }
  EXPECT_THAT(Trace("--host-capacity much").errors, HasSubstr("--host-capacity"));
  EXPECT_THAT(Trace("--nvme-capacity 1GiB").errors, HasSubstr("--nvme-dir"));
  EXPECT_THAT(Trace("--nvme-dir /").errors, HasSubstr("--nvme-capacity"));
  EXPECT_THAT(Trace("--durability nvme_sync").errors, HasSubstr("--nvme-dir"));
  EXPECT_THAT(Trace("--nvme-capacity 1MiB" + NvmeDir()).errors,
              HasSubstr("blocks of 64.0 KiB take at least 8.00 MiB"));
  EXPECT_THAT(Trace("--store 127.0.0.1:1 --nvme-capacity 1GiB" + NvmeDir()).errors,
              HasSubstr("has its own tiers"));
  EXPECT_THAT(Trace("--plot /no/such/place.svg").errors, HasSubstr("/no/such/place.svg"));
  std::ofstream(path_, std::ios::app) << "{]\n";
  const ToolResult wrong = Trace("--simulate");
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_THAT(wrong.errors, HasSubstr("line 301: not a JSON object"));
}

}  // namespace
}  // namespace varve::testing
