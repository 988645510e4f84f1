// The commands that change tiers, on stores with disks.
#include <signal.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "nlohmann/json.hpp"
#include "tests/integration/client/varvectl_runner.h"
#include "tests/support/store_process.h"
#include "varve/v1/store.grpc.pb.h"

namespace varve::client {
namespace {

using nlohmann::json;
namespace v1 = ::varve::v1;

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr size_t kValueBytes = 200 << 10;

class VarvectlTiersTest : public VarvectlRunner {
 protected:
  void Start(std::vector<std::string> flags) {
    flags.insert(flags.end(),
                 {"--host_tier.capacity_bytes=8MiB", "--sessions.max_object_bytes=512KiB"});
    auto store = varve::testing::StoreProcess::Start(flags);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void StartWithDisk(const std::string& directory, const std::string& durability) {
    Start({absl::StrCat("--nvme_tier.directories=", File(directory), "=32MiB"),
           "--nvme_tier.segment_bytes=2MiB", "--nvme_tier.staging_bytes=4MiB",
           "--nvme_tier.durability=" + durability});
  }
  Outcome Run(const std::string& arguments) const {
    return RunAt(store_->grpc_address(), absl::StrCat(arguments, " --namespace ", Namespace()));
  }
  std::unique_ptr<Client> Connect() const {
    ClientOptions options{
        .address = store_->grpc_address(), .key_namespace = Namespace(), .lanes = {}};
    auto client = Client::Connect(options);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  static page::ObjectKey Key(int i) {
    return *page::ObjectKey::FromBytes(absl::StrCat("value-", i));
  }
  static std::string Value(int i) {
    return std::string(kValueBytes, static_cast<char>('a' + i % 26));
  }
  static void PutValues(Client& client, int count, int from = 0) {
    for (int i = from; i < from + count; ++i) {
      const std::string value = Value(i);
      const auto put = client.PutInline(Key(i), std::as_bytes(std::span(value)), {});
      ASSERT_TRUE(put.ok()) << put.status();
      ASSERT_EQ(put->outcome, PutOutcome::kStored) << put->message;
    }
  }
  static void ExpectValues(Client& client, int count) {
    for (int i = 0; i < count; ++i) {
      std::string value;
      const auto get = client.GetInline(Key(i), {}, &value);
      ASSERT_TRUE(get.ok()) << get.status();
      ASSERT_TRUE(get->hit) << i;
      ASSERT_TRUE(value == Value(i)) << i;
    }
  }
  // Of the nvme tier.
  json Nvme() const {
    const json tiers = json::parse(Run("tiers --json").out)["tiers"];
    return tiers.size() < 2 ? json() : tiers[1];
  }

  std::unique_ptr<varve::testing::StoreProcess> store_;
};

TEST_F(VarvectlTiersTest, ADiskIsReplacedWhileTheStoreRuns) {
  StartWithDisk("old", "nvme_sync");
  const auto client = Connect();
  PutValues(*client, 80);
  const Outcome alone = Run("tiers drain " + File("old"));
  EXPECT_EQ(alone.code, 1);
  EXPECT_THAT(alone.err, AllOf(HasSubstr("is the only directory"), HasSubstr("add another one")));
  EXPECT_EQ(Nvme()["directories"][0]["state"], "ok");

  const Outcome added = Run(absl::StrCat("tiers add ", File("new"), "/=32MiB"));
  EXPECT_EQ(added.code, 0) << added.err;
  EXPECT_THAT(added.out, HasSubstr("nvme_tier.directories"));
  EXPECT_EQ(Nvme()["directories"].size(), 2u);
  EXPECT_EQ(Nvme()["capacity_bytes"], 64 << 20);
  std::filesystem::create_directory_symlink(File("new"), File("link"));
  for (const char* name : {"new", "./new//", "link"}) {
    const Outcome twice = Run(absl::StrCat("tiers add ", File(name), "=32MiB"));
    EXPECT_EQ(twice.code, 1);
    ExpectOneLine(twice.err);
    EXPECT_THAT(twice.err, HasSubstr("one of the directories already")) << name;
  }

  const Outcome drained = Run(absl::StrCat("tiers drain ", File("./old"), "//"));
  EXPECT_EQ(drained.code, 0) << drained.err;
  EXPECT_THAT(drained.out, AllOf(HasSubstr("is drained"), HasSubstr("nvme_tier.directories")));
  EXPECT_TRUE(std::filesystem::is_empty(File("old")));
  ASSERT_EQ(Nvme()["directories"].size(), 1u);
  EXPECT_EQ(Nvme()["directories"][0]["path"], File("new"));
  ExpectValues(*client, 80);

  // The next start goes by the settings.
  ASSERT_EQ(*store_->Stop(), 0);
  StartWithDisk("new", "nvme_sync");
  const auto again = Connect();
  ExpectValues(*again, 80);
}

// The prompt was put before everything else, and loses its end first all the same.
TEST_F(VarvectlTiersTest, WhatFollowsAnotherBlockLeavesBeforeIt) {
  Start({});
  Write("page", Value(0));
  const auto name = [](int block) { return absl::StrCat("block-", block, "-0000"); };
  constexpr int kBlocks = 8;
  for (int block = 0; block < kBlocks; ++block) {
    const Outcome put = Run(absl::StrCat("put ", name(block), " ", File("page"),
                                         block == 0 ? "" : " --parent " + name(block - 1)));
    ASSERT_EQ(put.code, 0) << put.err;
  }
  const auto client = Connect();
  const auto prompt = [&] {
    std::vector<std::string> stored;
    const auto listed = client->List("block-", 100, "");
    EXPECT_TRUE(listed.ok()) << listed.status();
    for (const ObjectInfo& object : listed->objects) stored.emplace_back(object.key.bytes());
    return stored;
  };
  for (int i = 0; i < 80 && prompt().size() == kBlocks; ++i) PutValues(*client, 1, i);
  const std::vector<std::string> left = prompt();
  EXPECT_THAT(left, AllOf(::testing::Not(::testing::IsEmpty()), ::testing::Contains(name(0)),
                          Not(::testing::Contains(name(kBlocks - 1)))));
}

TEST_F(VarvectlTiersTest, WhatCannotBeAddedOrDrainedIsSaid) {
  StartWithDisk("disk", "memory");
  struct Case {
    std::string arguments;
    int code;
    const char* text;
  };
  const Case cases[] = {
      {"tiers add here=32MiB", 2, "absolute"},
      {"tiers add /there", 2, "PATH=SIZE"},
      {"tiers add /there=plenty", 2, "plenty"},
      {absl::StrCat("tiers add ", File("small"), "=1MiB"), 2, "4 segments"},
      {absl::StrCat("tiers add ", File("huge"), "=2000TiB"), 2, "1.00 PiB"},
      {absl::StrCat("tiers add ", File("a,b"), "=32MiB"), 2, "without a comma"},
      {absl::StrCat("tiers add ", File("disk"), "=32MiB"), 1, "already"},
      {absl::StrCat("tiers add ", File("no/parent"), "=32MiB"), 1, "no/parent"},
      {"tiers drain " + File("other"), 3, "no directory"},
      {"tiers drain gpu", 2, "drain what?"},
      {"tiers drain nvme", 1, "add another directory and drain the old one"},
      {"tiers resize nvme 1GiB", 2, "varvectl tiers add"},
      {"tiers resize host plenty", 2, "plenty"},
      {"tiers resize host 100KiB", 2, "from 512 KiB, the largest object"},
      {"tiers resize host 1000TiB", 2, "allowed: from 512 KiB"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.arguments);
    const Outcome outcome = Run(c.arguments);
    EXPECT_EQ(outcome.code, c.code);
    ExpectOneLine(outcome.err);
    EXPECT_THAT(outcome.err, HasSubstr(c.text));
  }
  EXPECT_EQ(Nvme()["directories"].size(), 1u);
}

TEST_F(VarvectlTiersTest, AStoreWithoutDisksSaysSo) {
  Start({});
  for (const std::string command : {"tiers drain /somewhere", "tiers drain host",
                                    "tiers drain nvme", "tiers add /somewhere=1GiB"}) {
    SCOPED_TRACE(command);
    const Outcome outcome = Run(command);
    EXPECT_EQ(outcome.code, 1);
    ExpectOneLine(outcome.err);
    EXPECT_THAT(outcome.err, HasSubstr("nvme_tier.directories"));
  }
}

TEST_F(VarvectlTiersTest, DrainingHostMemoryMakesItSafe) {
  StartWithDisk("disk", "memory");
  PutValues(*Connect(), 10);
  EXPECT_EQ(Nvme()["objects"], 0);
  const Outcome drained = Run("tiers drain host");
  EXPECT_EQ(drained.code, 0) << drained.err;
  EXPECT_EQ(drained.out, "everything in host memory is on disk as well\n");
  EXPECT_EQ(Nvme()["objects"], 10);
  EXPECT_EQ(json::parse(Run("tiers --json").out)["tiers"][0]["objects"], 10) << "they stay";
  EXPECT_EQ(json::parse(Run("tiers drain host --json").out)["memory_only_objects"], 0);
  store_->Signal(SIGKILL);
  ASSERT_TRUE(store_->Wait(absl::Seconds(30)).ok());
  StartWithDisk("disk", "memory");
  ExpectValues(*Connect(), 10);
}

TEST_F(VarvectlTiersTest, HostMemoryChangesItsSizeUnderItsValues) {
  StartWithDisk("disk", "memory");
  const auto client = Connect();
  PutValues(*client, 30);
  const auto host = [&] { return json::parse(Run("tiers --json").out)["tiers"][0]; };
  const Outcome smaller = Run("tiers resize host 2MiB");
  EXPECT_EQ(smaller.code, 0) << smaller.err;
  EXPECT_THAT(smaller.out, AllOf(HasSubstr("2.00 MiB"), HasSubstr("host_tier.capacity_bytes")));
  EXPECT_EQ(host()["capacity_bytes"], 2 << 20);
  EXPECT_EQ(host()["beyond_bytes"], 0);
  EXPECT_LE(host()["used_bytes"], 2 << 20);
  EXPECT_GT(Nvme()["objects"], 20);
  ExpectValues(*client, 30);
  EXPECT_EQ(json::parse(Run("tiers resize host 16MiB --json").out)["capacity_bytes"], 16 << 20);
  EXPECT_EQ(host()["capacity_bytes"], 16 << 20);
  PutValues(*client, 40, /*from=*/30);
  ExpectValues(*client, 70);
  EXPECT_GE(host()["objects"], 40) << "8 MiB were not enough for them";
}

// A store whose /disk drains for ever; on_status runs with each question about it.
class EndlessStore final : public v1::Store::CallbackService {
 public:
  explicit EndlessStore(std::function<void()> on_status) : on_status_(std::move(on_status)) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest*,
                                      v1::StoreStatus* reply) override {
    v1::TierStatus* nvme = reply->add_tiers();
    nvme->set_tier(v1::TIER_NVME);
    v1::DirectoryStatus* disk = nvme->add_directories();
    disk->set_path("/disk");
    disk->set_state("draining");
    disk->set_live_bytes(1 << 20);
    on_status_();
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  grpc::ServerUnaryReactor* DrainDirectory(grpc::CallbackServerContext*,
                                           const v1::DrainDirectoryRequest*,
                                           v1::DrainDirectoryReply*) override {
    class UntilGivenUp final : public grpc::ServerUnaryReactor {
      void OnCancel() override { Finish(grpc::Status::CANCELLED); }
      void OnDone() override { delete this; }
    };
    return new UntilGivenUp();
  }

 private:
  const std::function<void()> on_status_;
};

TEST_F(VarvectlTiersTest, CtrlCEndsTheWaitingNotTheDraining) {
  std::atomic<int> asked{0};
  EndlessStore service([&] {
    // It waits by now: Ctrl-C.
    if (++asked == 2) kill(std::stoi(Read(File("pid"))), SIGINT);
  });
  grpc::ServerBuilder builder;
  const std::string address = absl::StrCat("unix:", File("s"));
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  const std::string noted = absl::StrCat("sh -c 'echo $$ >", File("pid"), "; exec \"$@\"' sh");
  const Outcome stopped = RunAt(address, "tiers drain /disk", noted);
  EXPECT_EQ(stopped.code, 130);
  EXPECT_THAT(stopped.err, HasSubstr("varvectl: the store goes on draining /disk"));
  const Outcome begun = RunAt(address, "tiers drain /disk --no-wait", noted);
  EXPECT_EQ(begun.code, 0) << begun.err;
  EXPECT_THAT(begun.out, HasSubstr("/disk is draining"));
}

TEST_F(VarvectlTiersTest, PrefetchBringsValuesIntoMemory) {
  StartWithDisk("disk", "nvme_sync");
  const auto client = Connect();
  PutValues(*client, 80);
  const auto oldest_tier = [&] {
    const auto page = client->List(Key(0).bytes(), 1, "");
    return page.ok() && !page->objects.empty() ? page->objects[0].tier : Tier::kNone;
  };
  ASSERT_EQ(oldest_tier(), Tier::kNvme);
  const Outcome outcome = Run("prefetch value-0");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("1 objects are on their way"));
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (oldest_tier() != Tier::kHost) {
    ASSERT_LT(absl::Now(), deadline) << "it never came";
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_THAT(Run("prefetch value-0").out, HasSubstr("1 were there already"));
  EXPECT_EQ(Run("prefetch value-0 nothing").code, 3);
  EXPECT_EQ(Run("prefetch").code, 2);
  const json all = json::parse(Run("prefetch --prefix value- --json").out);
  EXPECT_EQ(all["begun"].get<int>() + all["in_memory"].get<int>(), 80);
  EXPECT_GT(all["begun"], 30);
  EXPECT_EQ(all["not_stored"], 0);
}

TEST_F(VarvectlTiersTest, ASnapshotListsWhatIsThere) {
  StartWithDisk("disk", "nvme_sync");
  const auto client = Connect();
  PutValues(*client, 60);
  Write("in", "value");
  ASSERT_EQ(RunAt(store_->grpc_address(), "--namespace another put its-key " + File("in")).code, 0);
  const auto lines = [](const std::string& text) {
    std::vector<json> rows;
    for (const auto line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      rows.push_back(json::parse(line.begin(), line.end()));
    }
    return rows;
  };
  Write("out", "of before");
  const Outcome outcome = Run("snapshot " + File("out"));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("60 objects"));
  const std::vector<json> rows = lines(Read(File("out")));
  ASSERT_EQ(rows.size(), 60u);
  int both = 0;
  for (const json& row : rows) {
    EXPECT_EQ(row["namespace"], Namespace());
    EXPECT_EQ(row["bytes"], kValueBytes);
    EXPECT_EQ(row["pins"], 0);
    EXPECT_GE(row["idle_seconds"], 0);
    EXPECT_LT(row["idle_seconds"], 600);
    both += row["tiers"] == json({"host", "nvme"});
    EXPECT_EQ(row["tiers"].back(), "nvme") << "it was promised";
    EXPECT_EQ(row["tiers"].front(), row["tier"]);
  }
  EXPECT_GT(both, 0);
  EXPECT_LT(both, 60);
  const std::vector<json> all = lines(Run("snapshot --all-namespaces -").out);
  ASSERT_EQ(all.size(), 61u);
  EXPECT_EQ(all[60]["key"], "its-key");
  EXPECT_EQ(all[60]["namespace"], "another");
  EXPECT_EQ(lines(Run("snapshot - --prefix value-1").out).size(), 11u);

  EXPECT_EQ(Run("snapshot " + File("no/where")).code, 1);
  const std::string before = Read(File("out"));
  EXPECT_EQ(RunAt("127.0.0.1:1", "snapshot --timeout 200ms " + File("out")).code, 4);
  EXPECT_TRUE(Read(File("out")) == before);
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    EXPECT_THAT(entry.path().string(), Not(HasSubstr(".part")));
  }
}

}  // namespace
}  // namespace varve::client
