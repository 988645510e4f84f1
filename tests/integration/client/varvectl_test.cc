// The command line tool as its users see it: output, errors and exit codes.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/grpcpp.h"
#include "kvstore/page/digest/digest.h"
#include "nlohmann/json.hpp"
#include "tests/integration/client/varvectl_runner.h"
#include "tests/support/store_process.h"

namespace varve::client {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class VarvectlTest : public VarvectlRunner {
 protected:
  static void SetUpTestSuite() {
    auto started = varve::testing::StoreProcess::Start({"--sessions.max_object_bytes=1MiB"});
    ASSERT_TRUE(started.ok()) << started.status();
    store_ = std::move(*started).release();
  }
  static void TearDownTestSuite() { delete store_; }

  // In a namespace of the test, by the environment's address.
  Outcome Run(const std::string& arguments) const {
    return RunAt(store_->grpc_address(), absl::StrCat(arguments, " --namespace ", Namespace()));
  }

  static inline varve::testing::StoreProcess* store_ = nullptr;
};

TEST_F(VarvectlTest, FilesGoInAndOut) {
  const std::string value = std::string("some\0bytes", 10) + std::string(5000, 'v');
  Write("in", value);
  EXPECT_EQ(Run(absl::StrCat("put some-key ", File("in"))).code, 0);
  const Outcome again = Run(absl::StrCat("put some-key ", File("in")));
  EXPECT_EQ(again.code, 0);
  EXPECT_THAT(again.out, HasSubstr("stored already, with the same bytes"));
  Write("other", "other bytes");
  const Outcome other = Run(absl::StrCat("put some-key ", File("other")));
  EXPECT_EQ(other.code, 1);
  ExpectOneLine(other.err);
  EXPECT_THAT(other.err, HasSubstr("stored already with other bytes"));
  EXPECT_EQ(Run(absl::StrCat("get some-key ", File("out"))).code, 0);
  EXPECT_EQ(Read(File("out")), value);
  EXPECT_FALSE(std::filesystem::exists(File("out.part")));
  EXPECT_EQ(Run("get some-key -").out, value);
  EXPECT_EQ(Run("get hex:736f6d652d6b6579 -").out, value);
}

TEST_F(VarvectlTest, GetFollowsLinksAndKeepsTheMode) {
  namespace fs = std::filesystem;
  Write("in", "value");
  ASSERT_EQ(Run(absl::StrCat("put some-key ", File("in"))).code, 0);
  fs::create_directory(File("far"));
  Write("far/old", "old");
  Write("far/old.part", "somebody's");
  fs::permissions(File("far/old"), fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("far/old", File("link"));
  fs::create_symlink("far/new", File("dangling"));
  for (const auto& [link, real] : {std::pair{"link", "far/old"}, {"dangling", "far/new"}}) {
    EXPECT_EQ(Run(absl::StrCat("get some-key ", File(link))).code, 0);
    EXPECT_TRUE(fs::is_symlink(File(link)));
    EXPECT_EQ(Read(File(real)), "value");
  }
  EXPECT_EQ(fs::status(File("far/old")).permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(Read(File("far/old.part")), "somebody's");
  EXPECT_EQ(std::distance(fs::directory_iterator(File("far")), {}), 3);  // old, old.part, new
  EXPECT_EQ(Run(absl::StrCat("get some-key ", File("far"))).code, 1);
  EXPECT_TRUE(fs::is_directory(File("far")));
}

TEST_F(VarvectlTest, GetWritesIntoWhatIsNoRegularFile) {
  Write("in", "value");
  ASSERT_EQ(Run(absl::StrCat("put some-key ", File("in"))).code, 0);
  ASSERT_EQ(mkfifo(File("fifo").c_str(), 0600), 0);
  // Open for both, so that nobody waits for the other end.
  const int fifo = open(File("fifo").c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(fifo, 0);
  EXPECT_EQ(Run(absl::StrCat("get some-key ", File("fifo"))).code, 0);
  char got[16] = {};
  EXPECT_EQ(read(fifo, got, sizeof(got)), 5);
  EXPECT_STREQ(got, "value");
  close(fifo);
  EXPECT_TRUE(std::filesystem::is_fifo(File("fifo")));
}

TEST_F(VarvectlTest, RangesOfPagesCanBeRead) {
  Write("in", std::string(100, 'a') + std::string(100, 'b') + std::string(100, 'c') +
                  std::string(100, 'd'));
  ASSERT_EQ(Run(absl::StrCat("put pages ", File("in"), " --kv-heads 2 --part-bytes 100")).code, 0);
  EXPECT_EQ(Run("get pages - --part v").out, std::string(100, 'b') + std::string(100, 'd'));
  EXPECT_EQ(Run("get pages - --part k --head-begin 1 --head-count 1").out, std::string(100, 'c'));
  EXPECT_EQ(Run("get pages - --head-begin 2").code, 2);
}

TEST_F(VarvectlTest, AMissIsThreeAndLeavesNoFile) {
  const Outcome missed = Run(absl::StrCat("get nothing ", File("out")));
  EXPECT_EQ(missed.code, 3);
  ExpectOneLine(missed.err);
  EXPECT_THAT(missed.err, HasSubstr("never stored"));
  EXPECT_FALSE(std::filesystem::exists(File("out")));
  EXPECT_EQ(Run("rm nothing").code, 3);
  EXPECT_EQ(Run("recall --context nothing").code, 3);
}

TEST_F(VarvectlTest, WrongUsageIsTwoAndSaysWhatIsAllowed) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "subcommand is required"},       {"fly", "no command 'fly'"},
      {"get only-key", "FILE is required"}, {"status --colour", "--colour"},
      {"get abc -", "4 to 63 bytes"},       {"get hex:xyz -", "digits, two a byte"},
      {"status --timeout soon", "soon"},    {"recall --context x --merge median", "softmax_mean"},
      {"status --store foo", "host:port"},  {"status --store ''", "unix:PATH"},
      {"ping --bytes 1GiB", "32.0 MiB"}};
  for (const auto& [arguments, expected] : cases) {
    SCOPED_TRACE(arguments);
    const Outcome outcome = RunAt(store_->grpc_address(), arguments);
    EXPECT_EQ(outcome.code, 2);
    ExpectOneLine(outcome.err);
    EXPECT_THAT(outcome.err, HasSubstr(expected));
    EXPECT_EQ(outcome.out, "");
  }
}

TEST_F(VarvectlTest, AnUnreachableStoreIsFour) {
  for (const char* command : {"status", "ls", "ping", "get some-key -"}) {
    SCOPED_TRACE(command);
    const Outcome outcome = RunAt("127.0.0.1:1", absl::StrCat(command, " --timeout 200ms"));
    EXPECT_EQ(outcome.code, 4);
    ExpectOneLine(outcome.err);
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("127.0.0.1:1"), HasSubstr("--store")));
  }
}

TEST_F(VarvectlTest, AClosedTerminalEndsIt) {
  constexpr char kClosed[] = "timeout --preserve-status --signal=HUP --kill-after=30 2";
  EXPECT_EQ(RunAt(store_->grpc_address(), "ping --count 1000000", kClosed).code, 128 + SIGHUP);

  Write("in", "value");
  ASSERT_EQ(Run(absl::StrCat("put some-key ", File("in"))).code, 0);
  const std::string pin = absl::StrCat("pin some-key --namespace ", Namespace(), " --ttl ");
  // It lets go by itself.
  EXPECT_EQ(RunAt(store_->grpc_address(), pin + "infinite", kClosed).code, 0);
  EXPECT_THAT(Read(File("stderr")), HasSubstr("holding; Ctrl-C lets go"));
  const absl::Time begin = absl::Now();
  EXPECT_EQ(RunAt(store_->grpc_address(), pin + "5s", absl::StrCat(kClosed, " nohup")).code, 0);
  EXPECT_GE(absl::Now() - begin, absl::Seconds(5));
}

TEST_F(VarvectlTest, AServerThatIsNoStoreIsToldSo) {
  grpc::CallbackGenericService knows_nothing;
  grpc::ServerBuilder builder;
  const std::string address = absl::StrCat("unix:", File("s"));
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.RegisterCallbackGenericService(&knows_nothing);
  const auto server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  const Outcome outcome = RunAt(address, "status");
  EXPECT_EQ(outcome.code, 1);
  ExpectOneLine(outcome.err);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("UNIMPLEMENTED"), HasSubstr("varve-store")));
}

TEST_F(VarvectlTest, FilesThatDoNotFitAreRefusedBeforeTheyTravel) {
  Write("large", std::string((1 << 20) + 1, 'x'));
  Write("empty", "");
  const Outcome large = Run(absl::StrCat("put some-key ", File("large")));
  EXPECT_EQ(large.code, 1);
  EXPECT_THAT(large.err, AllOf(HasSubstr("1.00 MiB"), HasSubstr("sessions.max_object_bytes")));
  EXPECT_EQ(Run(absl::StrCat("put some-key ", File("empty"))).code, 1);
  EXPECT_EQ(Run(absl::StrCat("put some-key ", File("absent"))).code, 1);
  EXPECT_EQ(Run("ls").out, "");
}

TEST_F(VarvectlTest, ListsRemovesAndPins) {
  Write("in", "value");
  for (const char* key : {"aa-1", "aa-2", "bb-1", "hex:00010203"}) {
    ASSERT_EQ(Run(absl::StrCat("put ", key, " ", File("in"))).code, 0);
  }
  EXPECT_EQ(Run("ls").out, "hex:00010203\naa-1\naa-2\nbb-1\n");
  EXPECT_EQ(Run("ls --prefix aa").out, "aa-1\naa-2\n");
  EXPECT_EQ(Run("ls --prefix hex:0001").out, "hex:00010203\n");
  const Outcome limited = Run("ls --limit 2");
  EXPECT_EQ(limited.out, "hex:00010203\naa-1\n");
  EXPECT_THAT(limited.err, HasSubstr("--limit"));
  EXPECT_THAT(Run("ls --long").out,
              AllOf(HasSubstr("crc32c"), HasSubstr("opaque"), HasSubstr("5 B")));
  const json listed = json::parse(Run("ls --json").out);
  ASSERT_EQ(listed["objects"].size(), 4u);
  EXPECT_EQ(listed["objects"][1]["key"], "aa-1");
  EXPECT_EQ(listed["objects"][1]["bytes"], 5);
  EXPECT_THAT(Run("pin aa-1 --ttl 10ms").out, HasSubstr("pinned aa-1"));
  EXPECT_EQ(Run("pin nothing --ttl 10m").code, 3);
  EXPECT_EQ(Run("rm aa-1 aa-2").out, "removed aa-1\nremoved aa-2\n");
  EXPECT_EQ(Run("rm bb-1 nothing").code, 3);
  EXPECT_EQ(Run("ls").out, "hex:00010203\n");
}

TEST_F(VarvectlTest, ValuesSayWhatTheyCostAndHowLongTheyStay) {
  Write("in", "value");
  EXPECT_EQ(
      Run(absl::StrCat("put told ", File("in"), " --ttl 1h --prompt-tokens 4096 --tokens 32")).code,
      0);
  EXPECT_EQ(Run(absl::StrCat("put untold ", File("in"))).code, 0);
  EXPECT_EQ(Run(absl::StrCat("put short ", File("in"), " --ttl 1ms")).code, 0);
  Outcome gone;
  for (const absl::Time end = absl::Now() + absl::Seconds(20);
       gone.code != 3 && absl::Now() < end;) {
    gone = Run("get short -");
  }
  EXPECT_EQ(gone.code, 3);
  EXPECT_THAT(gone.err, HasSubstr("expired"));
  const json told = json::parse(Run("ls --json --prefix told").out)["objects"].at(0);
  EXPECT_EQ(told["prompt_tokens"], 4096);
  EXPECT_EQ(told["tokens"], 32);
  EXPECT_GT(told["ttl_seconds"], 1000);
  const json untold = json::parse(Run("ls --json --prefix untold").out)["objects"].at(0);
  EXPECT_FALSE(untold.contains("prompt_tokens"));
  EXPECT_FALSE(untold.contains("tokens"));
  EXPECT_FALSE(untold.contains("ttl_seconds"));
  for (const char* bad : {"--ttl 0s", "--ttl 50000h", "--ttl soon", "--ttl inf",
                          "--prompt-tokens -1", "--prompt-tokens 4294967296", "--tokens -1"}) {
    const Outcome refused = Run(absl::StrCat("put bad-key ", File("in"), " ", bad));
    EXPECT_NE(refused.code, 0) << bad;
    EXPECT_THAT(refused.err, Not(::testing::IsEmpty())) << bad;
  }
  for (const char* option : {"--ttl", "--prompt-tokens", "--tokens", "--parent"}) {
    const Outcome empty = Run(absl::StrCat("put bad-key ", File("in"), " ", option, " ''"));
    EXPECT_EQ(empty.code, 2) << option;
    ExpectOneLine(empty.err);
    EXPECT_THAT(empty.err, AllOf(HasSubstr(option), HasSubstr("is empty"))) << option;
  }
  for (const char* parent : {"abc", "bad-key", "bad-kez"}) {
    const Outcome refused = Run(absl::StrCat("put bad-key ", File("in"), " --parent ", parent));
    EXPECT_EQ(refused.code, 2) << parent;
    ExpectOneLine(refused.err);
  }
  EXPECT_EQ(Run("get bad-key -").code, 3);
}

TEST_F(VarvectlTest, EvictsByPrefixOrNamespace) {
  Write("page", "0123456789");
  for (const char* key : {"aa-1", "aa-2", "bb-1"}) {
    ASSERT_EQ(Run(std::string("put ") + key + " " + File("page")).code, 0);
  }
  EXPECT_EQ(Run("evict").code, 2);
  EXPECT_EQ(Run("evict --all --prefix aa").code, 2);
  EXPECT_EQ(Run("evict --prefix aa-").out, "evicted 2 objects of 20 B\n");
  EXPECT_EQ(Run("ls").out, "bb-1\n");
  const auto all = json::parse(Run("evict --all --json").out);
  EXPECT_EQ(all["objects"], 1);
  EXPECT_EQ(all["kept"], 0);
  EXPECT_EQ(RunAt(store_->grpc_address(), "--namespace nobody evict --all").code, 3);
  EXPECT_EQ(
      varve::testing::MetricValue(store_->HttpGet("/metrics"),
                                  "varve_evicted_bytes_total{reason=\"request\",tier=\"host\"}"),
      30);
}

TEST_F(VarvectlTest, TellsAboutTheStore) {
  EXPECT_THAT(Run("status").out,
              AllOf(HasSubstr("serving"), HasSubstr("host"), HasSubstr("256 MiB")));
  const json status = json::parse(Run("status --json").out);
  EXPECT_EQ(status["draining"], false);
  EXPECT_EQ(status["tiers"][0]["tier"], "host");
  EXPECT_EQ(status["tiers"][0]["capacity_bytes"], 256 << 20);
  EXPECT_EQ(json::parse(Run("tiers --json").out)["tiers"][0]["objects"], status["objects"]);
  EXPECT_THAT(Run("plugins").out, HasSubstr("eviction: lru"));
  EXPECT_THAT(Run("plugins").out, HasSubstr("digest: sign2          1152 bytes per page and KV head, "
                                            "36.0 per token (d 128, p 32, bf16)"));
  const json plugins = json::parse(Run("plugins --json").out);
  EXPECT_FALSE(plugins["plugins"].empty());
  ASSERT_EQ(plugins["digests"].size(), 10u);
  EXPECT_EQ(plugins["digests"][0]["name"], "minmax");
  EXPECT_EQ(plugins["digests"][0]["bytes_per_page_and_kv_head"], 512);
  EXPECT_EQ(plugins["digests"][4]["name"], "sign1");
  EXPECT_EQ(plugins["digests"][4]["bytes_per_token"], 20);
  EXPECT_THAT(Run("config").out, HasSubstr("host_tier.capacity_bytes"));
  EXPECT_TRUE(json::parse(Run("config --json").out)["config"].is_string());
  EXPECT_THAT(Run("ping --count 3 --bytes 1KiB").out, HasSubstr("3 round trips"));
  EXPECT_EQ(json::parse(Run("ping --count 3 --json").out)["round_trips"], 3);
  ClientOptions options{.address = store_->grpc_address(), .client_name = "somebody", .lanes = {}};
  const auto client = Client::Connect(options);
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_THAT(Run("sessions").out, HasSubstr("somebody"));
  EXPECT_THAT(Run("sessions --json").out, HasSubstr("somebody"));
}

TEST_F(VarvectlTest, TellsItsVersionAndTheKeysItTakes) {
  EXPECT_THAT(Run("--version").out, ::testing::MatchesRegex("varvectl [0-9.]+ \\([0-9a-z]+\\)\n"));
  EXPECT_THAT(Run("put --help").out, HasSubstr("4 to 63 bytes"));
}

TEST_F(VarvectlTest, EveryCommandTeachesByExample) {
  for (const char* command :
       {"status", "tiers", "sessions", "plugins", "config", "drain", "ping", "ls", "rm", "evict",
        "prefetch", "snapshot", "pin", "put", "get", "contexts", "recall"}) {
    SCOPED_TRACE(command);
    const Outcome help = Run(absl::StrCat(command, " --help"));
    EXPECT_EQ(help.code, 0);
    EXPECT_THAT(help.out,
                AllOf(HasSubstr("Examples:"), HasSubstr(absl::StrCat("varvectl ", command))));
  }
}

// A context of mean digests where page 5 answers a query of ones best.
TEST_F(VarvectlTest, RecallExplainsItsChoice) {
  constexpr uint32_t kBlocks = 8;
  const page::Geometry geometry{.num_layers = 1,
                                .num_kv_heads = 2,
                                .num_query_heads = 2,
                                .head_dim = 32,
                                .page_tokens = 8,
                                .dtype = page::DType::kF32};
  ClientOptions options{
      .address = store_->grpc_address(), .key_namespace = Namespace(), .lanes = {}};
  const auto client = Client::Connect(options);
  ASSERT_TRUE(client.ok()) << client.status();
  const auto context = (*client)->OpenContext("chat", geometry, page::DigestKind::kMean);
  ASSERT_TRUE(context.ok()) << context.status();
  std::vector<std::string> hashes;
  std::vector<float> rows;
  for (uint32_t block = 0; block < kBlocks; ++block) {
    hashes.push_back(absl::StrCat("block-", block));
    rows.insert(rows.end(), size_t{2} * 32, block == 5 ? 1.0f : 0.01f * static_cast<float>(block));
  }
  ASSERT_TRUE((*client)->AppendContext("chat", 0, hashes).ok());
  const std::string bytes(reinterpret_cast<const char*>(rows.data()), rows.size() * sizeof(float));
  ASSERT_TRUE(
      (*client)->SendDigests("chat", context->epoch, 0, 0, kBlocks, bytes, absl::Now()).ok());
  const std::vector<float> ones(64, 1.0f);
  Write("query",
        std::string(reinterpret_cast<const char*>(ones.data()), ones.size() * sizeof(float)));

  EXPECT_THAT(Run("contexts").out, AllOf(HasSubstr("chat"), HasSubstr("mean"), HasSubstr("64")));
  EXPECT_EQ(json::parse(Run("contexts --json").out)["contexts"][0]["num_blocks"], kBlocks);
  const std::string recall =
      absl::StrCat("recall --context chat --budget 3 --query ", File("query"));
  EXPECT_THAT(Run(recall).out, AllOf(HasSubstr("head 0: 0 5 7\n"), HasSubstr("head 1: 0 5 7\n")));
  const Outcome explained = Run(recall + " --explain --head 1");
  EXPECT_EQ(explained.code, 0) << explained.err;
  EXPECT_THAT(explained.out,
              AllOf(HasSubstr("3 of 8 pages"), HasSubstr("40-47"), HasSubstr("sink"),
                    HasSubstr("window"), HasSubstr("█"), Not(HasSubstr("KV head 0"))));
  const json document = json::parse(Run(recall + " --explain --json").out);
  EXPECT_EQ(document["heads"][0]["selected"], json({0, 5, 7}));
  EXPECT_EQ(document["heads"][0]["scores"].size(), kBlocks);
  EXPECT_EQ(Run("recall --context chat --head 2").code, 2);
  EXPECT_EQ(Run("recall --context chat --layer 1").code, 2);
  EXPECT_EQ(Run(absl::StrCat("recall --context chat --query ", File("absent"))).code, 1);
  Write("short", "123");
  EXPECT_THAT(Run(absl::StrCat("recall --context chat --query ", File("short"))).err,
              HasSubstr("256 bytes"));

  EXPECT_EQ(Run("contexts drop chat nobody").code, 3);
  EXPECT_THAT(Run("contexts").out, Not(HasSubstr("chat")));
  ASSERT_TRUE((*client)->OpenContext("chat", geometry, page::DigestKind::kMean).ok());
  EXPECT_EQ(Run("contexts drop chat").out, "dropped chat\n");
}

TEST_F(VarvectlTest, DrainingIsSeenAndStopsNewSessions) {
  const auto store = varve::testing::StoreProcess::Start();
  ASSERT_TRUE(store.ok()) << store.status();
  const std::string address = (*store)->grpc_address();
  EXPECT_EQ(RunAt(address, "drain").code, 0);
  EXPECT_THAT(RunAt(address, "status").out, HasSubstr("draining"));
  EXPECT_NE(RunAt(address, "ls --timeout 200ms").code, 0);
}

}  // namespace
}  // namespace varve::client
