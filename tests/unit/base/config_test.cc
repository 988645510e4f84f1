#include "kvstore/base/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "varve/v1/config.pb.h"

namespace varve::base {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using varve::v1::StoreConfig;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() {
    config_.set_listen("default:1");
    config_.mutable_host_tier()->set_capacity_bytes(1 << 20);
    config_.set_drain_ms(1000);
  }
  absl::Status LoadFile(const std::string& bytes) {
    const std::string path =
        ::testing::TempDir() + "config_test-" + std::to_string(getpid()) + ".yaml";
    std::ofstream(path, std::ios::binary) << bytes;
    const absl::Status status = loader_.LoadYamlFile(path);
    std::remove(path.c_str());
    return status;
  }
  StoreConfig config_;
  ConfigLoader loader_{&config_, "VARVE_"};
};

TEST_F(ConfigTest, SizesAndDurationsParseInEverySource) {
  ASSERT_TRUE(
      loader_.LoadYamlText("host_tier:\n  capacity_bytes: 1.5GiB\ndrain_ms: 30s\n", "file").ok());
  EXPECT_EQ(config_.host_tier().capacity_bytes(), 3ull << 29);
  EXPECT_EQ(config_.drain_ms(), 30000u);
  ASSERT_TRUE(loader_
                  .LoadEnvironment({{"VARVE_HOST_TIER_CAPACITY_BYTES", "512MiB"},
                                    {"VARVE_DRAIN_MS", "1h30m"},
                                    {"OTHER", "x"}})
                  .ok());
  EXPECT_EQ(config_.host_tier().capacity_bytes(), 512u << 20);
  EXPECT_EQ(config_.drain_ms(), 5400000u);
  ASSERT_TRUE(loader_.LoadFlags({"--host_tier.capacity_bytes=64KB", "--drain_ms", "250ms"}).ok());
  EXPECT_EQ(config_.host_tier().capacity_bytes(), 64000u);
  EXPECT_EQ(config_.drain_ms(), 250u);
}

TEST_F(ConfigTest, LaterSourcesWinAndPrintSaysWhichDid) {
  ASSERT_TRUE(
      loader_
          .LoadYamlText("listen: file:1\nlog_level: warning\nhttp_listen: file:2\n", "store.yaml")
          .ok());
  ASSERT_TRUE(
      loader_.LoadEnvironment({{"VARVE_LISTEN", "env:1"}, {"VARVE_HTTP_LISTEN", "env:2"}}).ok());
  ASSERT_TRUE(loader_.LoadFlags({"--listen=flag:1"}).ok());
  EXPECT_THAT(loader_.Print(),
              AllOf(HasSubstr("listen: \"flag:1\"  # command line\n"),
                    HasSubstr("http_listen: \"env:2\"  # environment VARVE_HTTP_LISTEN\n"),
                    HasSubstr("log_level: \"warning\"  # store.yaml\n"),
                    HasSubstr("drain_ms: 1s  # default\n"),
                    HasSubstr("host_tier.capacity_bytes: 1MiB  # default\n")));
}

TEST_F(ConfigTest, PrintedValuesAreExactAndParseAgain) {
  for (const char* size : {"1", "1023", "1KiB", "100000001", "3GiB", "1536MiB"}) {
    SCOPED_TRACE(size);
    ASSERT_TRUE(loader_.LoadFlags({std::string("--host_tier.capacity_bytes=") + size}).ok());
    const uint64_t before = config_.host_tier().capacity_bytes();
    StoreConfig again;
    ConfigLoader reader(&again, "VARVE_");
    ASSERT_TRUE(reader
                    .LoadFlags({"--host_tier.capacity_bytes",
                                [&] {
                                  const std::string text = loader_.Print();
                                  const size_t at = text.find("capacity_bytes: ") + 16;
                                  return text.substr(at, text.find("  #", at) - at);
                                }()})
                    .ok());
    EXPECT_EQ(again.host_tier().capacity_bytes(), before);
  }
}

TEST_F(ConfigTest, WhatIsPrintedLoadsAgain) {
  config_.set_listen("unix:/tmp/a \"b\" \\c # d");
  config_.mutable_host_tier()->set_high_watermark(0.123456789);
  config_.mutable_transport()->add_lanes("a: ]");
  StoreConfig again;
  ConfigLoader reader(&again, "VARVE_");
  EXPECT_EQ(Message(reader.LoadYamlText(loader_.Print(), "printed")), "");
  EXPECT_EQ(again.SerializeAsString(), config_.SerializeAsString());
}

TEST_F(ConfigTest, TyposAreErrorsThatNameTheNearestSetting) {
  EXPECT_THAT(Message(loader_.LoadYamlText("host_tier:\n  evictoin: lru\n", "f.yaml")),
              AllOf(HasSubstr("f.yaml"), HasSubstr("host_tier.evictoin"),
                    HasSubstr("did you mean 'host_tier.eviction'")));
  EXPECT_THAT(Message(loader_.LoadEnvironment({{"VARVE_LISTEM", "x"}})),
              AllOf(HasSubstr("VARVE_LISTEM"), HasSubstr("did you mean 'VARVE_LISTEN'")));
  const auto rest = loader_.LoadFlags({"--drain_sm=1s"});
  ASSERT_TRUE(rest.ok());
  EXPECT_THAT(*rest, ElementsAre("--drain_sm=1s"));
  EXPECT_THAT(loader_.Nearest("--drain_sm=1s"), HasSubstr("--drain_ms"));
  EXPECT_EQ(loader_.Nearest("--something-else"), "");
  EXPECT_EQ(loader_.Nearest("--liar=1"), "");
}

TEST_F(ConfigTest, AllProblemsAreListed) {
  EXPECT_THAT(Message(loader_.LoadYamlText("drain_ms: soon\nhost_tier:\n  capacity_bytes: much\n"
                                           "  low_watermark: half\n  verify_reads: maybe\n"
                                           "sessions:\n  max_sessions: -1\nnonsense: 1\nlisten:\n",
                                           "f")),
              AllOf(HasSubstr("drain_ms"), HasSubstr("capacity_bytes"), HasSubstr("low_watermark"),
                    HasSubstr("verify_reads"), HasSubstr("max_sessions"), HasSubstr("nonsense"),
                    HasSubstr("listen")));
  EXPECT_THAT(Message(loader_
                          .LoadFlags({"--drain_ms=9x", "--what=1", "--recall.threads=99999999999",
                                      "--listen"})
                          .status()),
              AllOf(HasSubstr("'9x'"), HasSubstr("--what=1"), HasSubstr("recall.threads"),
                    HasSubstr("needs a value")));
}

TEST_F(ConfigTest, AFlagThatIsThereTwiceIsRefused) {
  for (const char* flag : {"--transport.lanes=tcp", "--transport.lanes=shm"}) {
    EXPECT_THAT(
        Message(loader_.LoadFlags({"--transport.lanes=shm", "--drain_ms", "1s", flag}).status()),
        HasSubstr("command line: --transport.lanes is there twice"));
  }
  EXPECT_THAT(Message(loader_.LoadFlags({"--drain_ms=1s", "--drain_ms", "2s"}).status()),
              HasSubstr("--drain_ms is there twice"));
}

TEST_F(ConfigTest, WrongValuesAreRefused) {
  for (const char* flag :
       {"--drain_ms=10", "--drain_ms=1us", "--drain_ms=-5s", "--host_tier.capacity_bytes=-1",
        "--host_tier.capacity_bytes=1.5", "--host_tier.capacity_bytes=99999999TiB",
        "--host_tier.low_watermark=nan", "--recall.threads=1.5",
        "--recall.threads=", "--host_tier.verify_reads=2"}) {
    SCOPED_TRACE(flag);
    EXPECT_FALSE(loader_.LoadFlags({flag}).ok());
  }
}

TEST_F(ConfigTest, WholeNumbersSayTheirRange) {
  EXPECT_THAT(Message(loader_.LoadFlags({"--recall.threads=4294967296"}).status()),
              HasSubstr("'4294967296' is no whole number from 0 to 4294967295"));
}

TEST_F(ConfigTest, ListsFromEverySource) {
  ASSERT_TRUE(loader_.LoadYamlText("transport:\n  lanes: [shm, tcp]\n", "f").ok());
  EXPECT_THAT(config_.transport().lanes(), ElementsAre("shm", "tcp"));
  ASSERT_TRUE(loader_.LoadEnvironment({{"VARVE_TRANSPORT_LANES", "rdma, tcp"}}).ok());
  EXPECT_THAT(config_.transport().lanes(), ElementsAre("rdma", "tcp"));
  ASSERT_TRUE(loader_.LoadFlags({"--transport.lanes=shm"}).ok());
  EXPECT_THAT(config_.transport().lanes(), ElementsAre("shm"));
}

TEST_F(ConfigTest, ServiceLinksOfKubernetesAreNoSettings) {
  EXPECT_TRUE(loader_
                  .LoadEnvironment({{"VARVE_STORE_SERVICE_HOST", "10.0.0.7"},
                                    {"VARVE_STORE_SERVICE_PORT", "7411"},
                                    {"VARVE_STORE_SERVICE_PORT_GRPC", "7411"},
                                    {"VARVE_STORE_PORT", "tcp://10.0.0.7:7411"},
                                    {"VARVE_STORE_PORT_7411_TCP", "tcp://10.0.0.7:7411"},
                                    {"VARVE_STORE_PORT_7411_TCP_ADDR", "10.0.0.7"},
                                    {"VARVE_CONFIG", "/etc/varve.yaml"}})
                  .ok());
  EXPECT_FALSE(loader_.LoadEnvironment({{"VARVE_LISTEN_PORT", "7411"}}).ok());
}

TEST_F(ConfigTest, FilesThatCannotBeRead) {
  EXPECT_THAT(Message(loader_.LoadYamlFile("/no/such/file.yaml")),
              AllOf(HasSubstr("/no/such/file.yaml"), HasSubstr("No such file")));
  EXPECT_THAT(Message(loader_.LoadYamlFile(::testing::TempDir())), HasSubstr("Is a directory"));
  EXPECT_THAT(Message(LoadFile(" \n")), HasSubstr("is empty"));
  EXPECT_THAT(Message(LoadFile({"a: \0b\n", 7})), HasSubstr("no text file"));
  EXPECT_THAT(Message(LoadFile(std::string((1 << 20) + 1, '#'))), HasSubstr("more than 1MiB"));
  EXPECT_TRUE(LoadFile("# nothing but this\n").ok());
  for (const char* text : {"listen: a\n---\nlisten: b\n", ",", ",listen: a"}) {
    SCOPED_TRACE(text);
    EXPECT_THAT(Message(LoadFile(text)), HasSubstr("one YAML document"));
  }
  EXPECT_THAT(Message(LoadFile("host_tier: &a {more: *a}\n")),
              HasSubstr("line 1, column 22: aliases"));
  EXPECT_FALSE(loader_.LoadYamlText("listen: [unclosed", "f").ok());
  EXPECT_FALSE(loader_.LoadYamlText("just text", "f").ok());
  EXPECT_FALSE(loader_.LoadYamlText("listen:\n  deeper: 1\n", "f").ok());
  EXPECT_FALSE(loader_.LoadYamlText("transport:\n  lanes: [[a], b]\n", "f").ok());
  EXPECT_TRUE(loader_.LoadYamlText("", "f").ok());
  EXPECT_TRUE(LoadFile("drain_ms: 7s\n").ok());
  EXPECT_EQ(config_.drain_ms(), 7000u);
}

TEST_F(ConfigTest, ANameTwiceIsRefused) {
  for (const char* text : {"drain_ms: 1s\ndrain_ms: 2s\n",
                           "host_tier: {eviction: lru}\nhost_tier: {huge_pages: true}\n",
                           "host_tier:\n  eviction: lru\n  eviction: lru\n",
                           "host_tier.eviction: lru\nhost_tier: {eviction: lru}\n"}) {
    SCOPED_TRACE(text);
    EXPECT_THAT(Message(loader_.LoadYamlText(text, "f.yaml")),
                AllOf(HasSubstr("f.yaml: "), HasSubstr("is there twice")));
  }
}

TEST_F(ConfigTest, AGroupIsNoSetting) {
  EXPECT_THAT(Message(loader_.LoadYamlText("transport: 7\n", "f")),
              AllOf(HasSubstr("'transport' is a group of settings"), HasSubstr("transport.lanes")));
  EXPECT_THAT(loader_.Nearest("--transport=7"), HasSubstr("group of settings: --transport."));
}

TEST_F(ConfigTest, EverySettingIsExplained) {
  varve::v1::WorkerConfig worker;
  const std::string all = loader_.Describe() + ConfigLoader(&worker, "VARVE_").Describe();
  const std::vector<std::string> lines = absl::StrSplit(all, '\n', absl::SkipEmpty());
  for (size_t i = 0; i < lines.size(); ++i) {
    const bool names_a_setting = absl::StartsWith(lines[i], "  --");
    EXPECT_EQ(names_a_setting, i % 2 == 0) << lines[i] << " has no help in config.proto";
  }
  EXPECT_THAT(all, HasSubstr("\n      debug, info, warning, error or off\n"));
}

TEST_F(ConfigTest, DescribeListsEveryField) {
  EXPECT_THAT(
      loader_.Describe(),
      AllOf(HasSubstr("--host_tier.capacity_bytes=<size>  (default 1MiB)"),
            HasSubstr("--drain_ms=<duration>"), HasSubstr("--transport.lanes=<list of text>"),
            HasSubstr("--host_tier.verify_reads=<true|false>")));
}

}  // namespace
}  // namespace varve::base
