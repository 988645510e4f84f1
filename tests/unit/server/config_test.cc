#include "kvstore/server/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/strings/str_split.h"
#include "kvstore/server/embedded_store.h"

namespace varve::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using varve::v1::StoreConfig;

TEST(StoreConfigTest, DefaultsAreValid) {
  EXPECT_TRUE(ValidateStoreConfig(DefaultStoreConfig()).ok());
}

TEST(StoreConfigTest, ADirectoryHasOneNameHoweverItIsWritten) {
  const auto directory = ParseDirectory("//mnt/./nvme0//varve/=1GiB");
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_EQ(directory->path, "/mnt/nvme0/varve");
  StoreConfig config = DefaultStoreConfig();
  config.mutable_nvme_tier()->add_directories("/mnt/nvme0/varve=10GiB");
  EXPECT_TRUE(ValidateStoreConfig(config).ok());
  config.mutable_nvme_tier()->add_directories("/mnt/nvme0/./varve/=10GiB");
  EXPECT_THAT(std::string(ValidateStoreConfig(config).message()), HasSubstr("each path once"));
}

TEST(StoreConfigTest, EveryBadValueIsNamedWithWhatIsAllowed) {
  struct Case {
    const char* field;
    std::function<void(StoreConfig&)> spoil;
    const char* allowed;
  };
  const Case cases[] = {
      {"listen", [](auto& c) { c.set_listen(""); }, "host:port"},
      {"listen", [](auto& c) { c.set_listen("localhost"); }, "host:port"},
      {"listen", [](auto& c) { c.set_listen("localhost:99999"); }, "host:port"},
      {"listen", [](auto& c) { c.set_listen(":1"); }, "host:port"},
      {"listen", [](auto& c) { c.set_listen("unix:"); }, "unix:/path"},
      {"http_listen", [](auto& c) { c.set_http_listen("7412"); }, "host:port"},
      {"log_level", [](auto& c) { c.set_log_level("loud"); }, "debug, info"},
      {"host_tier.capacity_bytes", [](auto& c) { c.mutable_host_tier()->set_capacity_bytes(0); },
       "1.00 MiB"},
      {"host_tier.eviction", [](auto& c) { c.mutable_host_tier()->set_eviction("fifo"); }, "lru"},
      {"host_tier.low_watermark", [](auto& c) { c.mutable_host_tier()->set_low_watermark(-0.1); },
       "between 0.01 and 1"},
      {"host_tier.high_watermark", [](auto& c) { c.mutable_host_tier()->set_high_watermark(1.01); },
       "between 0 and 1"},
      {"host_tier.low_watermark",
       [](auto& c) {
         c.mutable_host_tier()->set_low_watermark(0.9);
         c.mutable_host_tier()->set_high_watermark(0.8);
       },
       "at most host_tier.high_watermark, which is 0.8"},
      {"transport.lanes", [](auto& c) { c.mutable_transport()->clear_lanes(); }, "at least one"},
      {"transport.lanes", [](auto& c) { c.mutable_transport()->add_lanes("pigeon"); },
       "shm, tcp, rdma"},
      {"transport.lanes", [](auto& c) { c.mutable_transport()->add_lanes("shm"); }, "'shm' twice"},
      {"transport.transfer_deadline_ms",
       [](auto& c) { c.mutable_transport()->set_transfer_deadline_ms(0); }, "10m"},
      {"transport.tcp_port_range",
       [](auto& c) { c.mutable_transport()->set_tcp_port_range("20100-20000"); },
       "two ports within 1-65535"},
      {"transport.segment_bytes", [](auto& c) { c.mutable_transport()->set_segment_bytes(1); },
       "4.00 KiB"},
      {"sessions.max_sessions", [](auto& c) { c.mutable_sessions()->set_max_sessions(0); },
       "between 1 and"},
      {"sessions.max_batch_items", [](auto& c) { c.mutable_sessions()->set_max_batch_items(0); },
       "between 1 and"},
      {"sessions.max_object_bytes", [](auto& c) { c.mutable_sessions()->set_max_object_bytes(0); },
       "between"},
      {"sessions.max_object_bytes",
       [](auto& c) { c.mutable_host_tier()->set_capacity_bytes(32 << 20); },
       "at most host_tier.capacity_bytes"},
      {"sessions.max_regions", [](auto& c) { c.mutable_sessions()->set_max_regions(0); },
       "between 1 and"},
      {"sessions.max_registered_bytes",
       [](auto& c) { c.mutable_sessions()->set_max_registered_bytes((1ull << 44) + 1); },
       "between 1.00 MiB and 16.0 TiB"},
      {"recall.threads", [](auto& c) { c.mutable_recall()->set_threads(0); }, "between 1 and 1024"},
      {"recall.max_digest_bytes", [](auto& c) { c.mutable_recall()->set_max_digest_bytes(0); },
       "between"},
      {"recall.max_contexts", [](auto& c) { c.mutable_recall()->set_max_contexts(0); },
       "between 1 and"},
      {"drain_ms", [](auto& c) { c.set_drain_ms(~uint64_t{0} >> 1); }, "1h"},
  };
  for (const Case& c : cases) {
    StoreConfig config = DefaultStoreConfig();
    c.spoil(config);
    const absl::Status status = ValidateStoreConfig(config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.field;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(c.field), HasSubstr(c.allowed)));
  }
}

TEST(StoreConfigTest, AllProblemsAreListedOnALineEach) {
  StoreConfig config = DefaultStoreConfig();
  config.set_listen("x");
  config.set_log_level("y");
  config.mutable_host_tier()->set_eviction("z");
  config.mutable_recall()->set_threads(0);
  const std::string message(ValidateStoreConfig(config).message());
  const std::vector<std::string> lines = absl::StrSplit(message, '\n');
  EXPECT_THAT(lines, SizeIs(4)) << message;
}

TEST(StoreConfigTest, UnixSocketsAndNoHttpAreFine) {
  StoreConfig config = DefaultStoreConfig();
  config.set_listen("unix:/run/varve.sock");
  config.set_http_listen("");
  EXPECT_TRUE(ValidateStoreConfig(config).ok());
}

}  // namespace
}  // namespace varve::server
