// A store with a disk under its memory, from outside: values move, survive orderly ends, and damage
// on disk is found.
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "client/process/child_process.h"
#include "gmock/gmock.h"
#include "tests/support/store_process.h"

namespace varve::client {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using varve::testing::MetricValue;
using varve::testing::StoreProcess;

constexpr page::ObjectLayout kLayout{4, 32 << 10};
constexpr size_t kValueBytes = 256 << 10;
constexpr int kValues = 96;  // three times host memory

page::ObjectKey Key(int i) {
  return page::ObjectKey::FromBytes(absl::StrCat("block-hash-", 100000 + i)).value();
}

std::vector<std::byte> Value(int i) {
  std::mt19937_64 random(static_cast<uint64_t>(i) + 1);
  std::vector<std::byte> value(kValueBytes);
  for (size_t at = 0; at < value.size(); at += 8) {
    const uint64_t word = random();
    std::memcpy(value.data() + at, &word, 8);
  }
  return value;
}

constexpr size_t kLargeBytes = 8 << 20;

// The part of a client that is stopped while the store reads from it: puts a value and removes it,
// for ever.
int PutForEver(const std::string& address) {
  ClientOptions options;
  options.address = address;
  options.lanes = {"tcp"};
  options.transfer_deadline = absl::Minutes(5);
  const auto client = Client::Connect(options);
  if (!client.ok()) return 1;
  const auto memory = (*client)->Allocate(kLargeBytes);
  if (!memory.ok()) return 1;
  const page::ObjectKey key = page::ObjectKey::FromBytes("put for ever").value();
  std::puts("{}");
  std::fflush(stdout);
  for (;;) {
    const auto put = (*client)->Put(
        std::vector<PutItem>{{.key = key, .sources = {{memory->get(), 0, kLargeBytes}}}});
    if (!put.ok() || !(*client)->Remove(std::vector{key}, /*force=*/false).ok()) return 1;
  }
}

class NvmeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/varve_nvme_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    directory_ = folder_ + "/disk";
  }
  void TearDown() override {
    store_.reset();
    // The kernel may let go of io_uring's files a little later.
    if (!mounted_.empty()) umount2(mounted_.c_str(), MNT_DETACH);
    std::filesystem::remove_all(folder_);
  }

  std::vector<std::string> Flags(const std::string& durability,
                                 uint64_t capacity = 64 << 20) const {
    return {"--host_tier.capacity_bytes=8MiB",
            "--sessions.max_object_bytes=512KiB",
            absl::StrCat("--nvme_tier.directories=", directory_, "=", capacity),
            "--nvme_tier.segment_bytes=4MiB",
            "--nvme_tier.staging_bytes=4MiB",
            absl::StrCat("--nvme_tier.durability=", durability)};
  }
  void Start(const std::vector<std::string>& flags) {
    auto store = StoreProcess::Start(flags);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void Connect(const std::string& lane) {
    memory_.reset();
    ClientOptions options;
    options.address = store_->grpc_address();
    options.lanes = {lane};
    auto client = Client::Connect(options);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    auto memory = client_->Allocate(kValueBytes);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
  }
  void PutAll() {
    for (int i = 0; i < kValues; ++i) {
      const std::vector<std::byte> value = Value(i);
      std::copy(value.begin(), value.end(), memory_->bytes().begin());
      const auto put = client_->Put(std::vector<PutItem>{
          {.key = Key(i), .sources = {{memory_.get(), 0, kValueBytes}}, .layout = kLayout}});
      ASSERT_TRUE(put.ok()) << put.status();
      ASSERT_EQ(put->front().outcome, PutOutcome::kStored) << i << ": " << put->front().message;
    }
  }
  GetResult Get(int i, const page::ObjectRange& range = {}) {
    std::fill(memory_->bytes().begin(), memory_->bytes().end(), std::byte{0});
    const auto get = client_->Get(std::vector<GetItem>{
        {.key = Key(i), .range = range, .destinations = {{memory_.get(), 0, kValueBytes}}}});
    EXPECT_TRUE(get.ok()) << get.status();
    return get.ok() ? get->front() : GetResult{};
  }
  // Whether it is a hit, whose bytes are then right.
  bool IsThere(int i) {
    const GetResult result = Get(i);
    const std::vector<std::byte> value = Value(i);
    EXPECT_TRUE(!result.hit || std::equal(value.begin(), value.end(), memory_->bytes().begin()))
        << "wrong bytes of value " << i;
    return result.hit;
  }
  int CountThere() {
    int there = 0;
    for (int i = 0; i < kValues; ++i) there += IsThere(i) ? 1 : 0;
    return there;
  }
  double Metric(const std::string& series) const {
    return MetricValue(store_->HttpGet("/metrics"), series);
  }
  std::vector<std::string> Segments() const {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      if (entry.path().extension() == ".seg") files.push_back(entry.path().string());
    }
    std::sort(files.begin(), files.end());
    return files;
  }
  // What a store that does not start says.
  std::string Refusal(const std::vector<std::string>& flags) const {
    ChildProcess::Options options;
    options.binary = "varve-store";
    options.args = {"--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0"};
    options.args.insert(options.args.end(), flags.begin(), flags.end());
    options.log_path = folder_ + "/log";
    const auto store = ChildProcess::Start(options);
    EXPECT_FALSE(store.ok()) << "it has started";
    std::ifstream log(options.log_path);
    std::stringstream text;
    text << log.rdbuf();
    return text.str();
  }

  std::string folder_, directory_;
  std::string mounted_;  // a file system of the test's own
  std::unique_ptr<StoreProcess> store_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Memory> memory_;
};

// Pages on disk go each their own way, values alone or whole.
TEST_F(NvmeTest, RecallBringsValuesAloneFromDisk) {
  Start(Flags("nvme_sync"));
  Connect("shm");
  const page::Geometry g{1, 4, 4, 128, 32, page::DType::kF32};
  ASSERT_EQ(g.object_bytes(), kValueBytes / 2);
  const page::ObjectLayout layout{4, static_cast<uint32_t>(g.part_bytes())};
  constexpr uint32_t kPages = 2 * kValues, kHead = 2, kOutlier = 5;
  std::vector<std::string> hashes;
  for (uint32_t page = 0; page < kPages; ++page) {
    hashes.push_back(absl::StrCat("block-hash-", 200000 + page));
    const std::vector<std::byte> value = Value(static_cast<int>(page));
    std::copy_n(value.begin(), g.object_bytes(), memory_->bytes().begin());
    const auto put =
        client_->Put(std::vector<PutItem>{{.key = *page::MakeObjectKey(hashes.back(), 0),
                                           .sources = {{memory_.get(), 0, g.object_bytes()}},
                                           .layout = layout}});
    ASSERT_TRUE(put.ok()) << put.status();
  }
  const auto context = client_->OpenContext("c", g, page::DigestKind::kMean);
  ASSERT_TRUE(context.ok()) << context.status();
  ASSERT_TRUE(client_->AppendContext("c", 0, hashes).ok());
  const std::string rows(kPages * page::DigestRowBytes(page::DigestKind::kMean, g), '\0');
  ASSERT_TRUE(client_->SendDigests("c", context->epoch, 0, 0, kPages, rows, absl::Now()).ok());

  const auto slots = client_->Allocate(kPages * g.page_bytes());
  ASSERT_TRUE(slots.ok()) << slots.status();
  const std::vector<float> queries(g.num_query_heads * g.head_dim, 1.0f);
  RecallQuery query{.context_id = "c", .epoch = context->epoch};
  query.layers = {{.layer = 0, .queries = queries}};
  query.layers[0].heads.assign(g.num_kv_heads, {.skip = true});
  RecallHead& head = query.layers[0].heads[kHead];
  head = {.budget_pages = kPages, .outliers = {kOutlier}, .values_begin = 1, .values_end = kPages};
  for (uint32_t page = 0; page < kPages; ++page) {
    head.slots.push_back({slots->get(), page * g.page_bytes(), g.page_bytes()});
  }
  const auto result = client_->Recall(query);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->layers[0][kHead].recalled.size(), kPages);
  const size_t part = g.part_bytes();
  for (const RecalledPage& page : result->layers[0][kHead].recalled) {
    ASSERT_TRUE(page.done) << page.message;
    const std::vector<std::byte> value = Value(static_cast<int>(page.page));
    const std::byte* stored = value.data() + kHead * g.page_bytes();
    const std::byte* slot = (*slots)->bytes().data() + page.page * g.page_bytes();
    const bool whole = page.page == 0 || page.page == kOutlier;
    EXPECT_EQ(std::memcmp(slot, stored, part) == 0, whole) << page.page;
    EXPECT_EQ(std::memcmp(slot + part, stored + part, part), 0) << page.page;
  }
  const double from_disk = Metric("varve_served_bytes_total{tier=\"nvme\"}");
  EXPECT_GT(from_disk, 0);
  EXPECT_EQ(from_disk + Metric("varve_served_bytes_total{tier=\"host\"}"),
            static_cast<double>((kPages + 2) * part));
}

TEST_F(NvmeTest, AFullMemoryMovesDownAndServesFromThere) {
  Start(Flags("memory"));
  for (const char* lane : {"shm", "tcp"}) {
    SCOPED_TRACE(lane);
    Connect(lane);
    if (lane == std::string("shm")) PutAll();
    EXPECT_EQ(CountThere(), kValues);
    // Parts of heads, from disk too.
    for (int i = 0; i < kValues; i += 7) {
      const GetResult result = Get(i, {page::Part::kV, 2, 1});
      ASSERT_TRUE(result.hit) << i;
      ASSERT_EQ(result.bytes, kLayout.part_bytes);
      const std::vector<std::byte> value = Value(i);
      EXPECT_TRUE(std::equal(value.begin() + 5 * kLayout.part_bytes,
                             value.begin() + 6 * kLayout.part_bytes, memory_->bytes().begin()));
    }
  }
  std::string value;
  const auto inlined = client_->GetInline(Key(0), {}, &value);
  ASSERT_TRUE(inlined.ok() && inlined->hit) << inlined.status();
  EXPECT_EQ(std::memcmp(value.data(), Value(0).data(), kValueBytes), 0);
  const std::string metrics = store_->HttpGet("/metrics");
  const auto metric = [&](const std::string& series) { return MetricValue(metrics, series); };
  EXPECT_EQ(metric("varve_evicted_bytes_total{reason=\"capacity\",tier=\"host\"}"), 0);
  EXPECT_GT(metric("varve_moved_bytes_total{cause=\"demote\",from=\"host\",to=\"nvme\"}"), 0);
  EXPECT_GT(metric("varve_moved_bytes_total{cause=\"promote\",from=\"nvme\",to=\"host\"}"), 0);
  EXPECT_GT(metric("varve_get_objects_total{result=\"hit\",tier=\"nvme\"}"), 0);
  EXPECT_GT(metric("varve_get_duration_seconds_count{tier=\"nvme\"}"), 0);
  EXPECT_GT(metric("varve_nvme_io_bytes_total{op=\"write\"}"), 0);
  EXPECT_GT(metric("varve_nvme_io_duration_seconds_count{op=\"read\"}"), 0);
  EXPECT_EQ(metric("varve_nvme_io_info{engine=\"io_uring\"}") +
                metric("varve_nvme_io_info{engine=\"threads\"}"),
            1);
  EXPECT_EQ(metric("varve_nvme_directories{state=\"ok\"}"), 1);
  EXPECT_GT(metric("varve_nvme_live_bytes"), 0);
}

TEST_F(NvmeTest, ADiskTooSmallLosesTheOldestAndSaysSo) {
  Start(Flags("nvme_async", 20 << 20));
  Connect("shm");
  PutAll();
  EXPECT_TRUE(IsThere(kValues - 1));
  EXPECT_EQ(Get(0).reason, MissReason::kEvicted);
  EXPECT_GT(Metric("varve_evicted_bytes_total{reason=\"capacity\",tier=\"nvme\"}"), 0);
  EXPECT_GT(Metric("varve_nvme_reclaimed_segments_total"), 0);
  EXPECT_LE(Segments().size(), 5u);
}

TEST_F(NvmeTest, AnOrderlyEndWritesMemoryToDisk) {
  Start(Flags("memory"));
  Connect("shm");
  PutAll();
  ASSERT_EQ(*store_->Stop(), 0);
  Start(Flags("memory"));
  Connect("shm");
  EXPECT_EQ(CountThere(), kValues);
}

// Within drain_ms, whatever clients do.
TEST_F(NvmeTest, AStalledClientDoesNotKeepMemoryFromTheDisk) {
  const std::vector<std::string> flags = {
      "--host_tier.capacity_bytes=64MiB",
      "--sessions.max_object_bytes=8MiB",
      absl::StrCat("--nvme_tier.directories=", directory_, "=256MiB"),
      "--nvme_tier.segment_bytes=16MiB",
      "--nvme_tier.staging_bytes=16MiB",
      "--nvme_tier.durability=memory",
      "--drain_ms=4s"};
  Start(flags);
  Connect("shm");
  PutAll();
  EXPECT_EQ(Metric("varve_objects{tier=\"nvme\"}"), 0);
  ChildProcess::Options role;
  role.binary = "/proc/self/exe";
  role.args = {"--put-for-ever", store_->grpc_address()};
  const auto client = ChildProcess::Start(role);
  ASSERT_TRUE(client.ok()) << client.status();
  // Stopped with its value reserved and not there; still so a while later, or it was about to be.
  const auto reading = [this] {
    const std::string metrics = store_->HttpGet("/metrics");
    return MetricValue(metrics, "varve_objects{tier=\"host\"}") == kValues &&
           MetricValue(metrics, "varve_tier_used_bytes{tier=\"host\"}") >=
               static_cast<double>(kValues * kValueBytes + kLargeBytes);
  };
  bool stalled = false;
  for (int tries = 0; tries < 500 && !stalled; ++tries) {
    absl::SleepFor(absl::Milliseconds(1 + tries % 7));
    (*client)->Signal(SIGSTOP);
    stalled = reading();
    if (stalled) absl::SleepFor(absl::Milliseconds(500));
    stalled = stalled && reading();
    if (!stalled) (*client)->Signal(SIGCONT);
  }
  ASSERT_TRUE(stalled) << "it never was in the middle of a transfer";
  const absl::Time began = absl::Now();
  const auto exit = store_->Stop(absl::Seconds(60));
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_LT(absl::Now() - began, absl::Seconds(30));
  (*client)->Signal(SIGKILL);
  Start(flags);
  Connect("shm");
  EXPECT_EQ(CountThere(), kValues);
}

TEST_F(NvmeTest, ChangedBytesAreMissesAndNeverServed) {
  Start(Flags("nvme_async"));
  Connect("shm");
  PutAll();
  ASSERT_EQ(*store_->Stop(), 0);
  std::mt19937_64 random(20261121);
  for (const std::string& file : Segments()) {
    std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
    for (int flips = 0; flips < 5; ++flips) {
      const auto at = static_cast<std::streamoff>(random() % (4 << 20));
      bytes.seekg(at);
      const char byte = static_cast<char>(bytes.get());
      bytes.seekp(at);
      bytes.put(static_cast<char>(byte ^ 16));
    }
  }
  Start(Flags("nvme_async"));
  Connect("shm");
  const int there = CountThere();
  EXPECT_LT(there, kValues);
  EXPECT_GT(there, kValues / 4);
  EXPECT_GT(Metric("varve_checksum_failures_total{tier=\"nvme\"}") +
                Metric("varve_nvme_damaged_records_total"),
            0);
}

TEST_F(NvmeTest, ATruncatedFileCostsWhatIsMissing) {
  Start(Flags("nvme_async"));
  Connect("shm");
  PutAll();
  ASSERT_EQ(*store_->Stop(), 0);
  ASSERT_EQ(truncate(Segments().front().c_str(), 2 << 20), 0);
  Start(Flags("nvme_async"));
  Connect("shm");
  const int there = CountThere();
  EXPECT_LT(there, kValues);
  EXPECT_GT(there, kValues / 2);
}

TEST_F(NvmeTest, WhatCannotBeUsedIsRefusedAtStart) {
  Start(Flags("memory"));
  EXPECT_THAT(Refusal(Flags("memory")), HasSubstr("/disk is in use by another process"));
  ASSERT_EQ(*store_->Stop(), 0);
  std::vector<std::string> flags = Flags("memory");
  flags[2] = "--nvme_tier.directories=/proc/varve=64MiB";
  EXPECT_THAT(Refusal(flags), HasSubstr("/proc/varve"));
  flags[2] = absl::StrCat("--nvme_tier.directories=", folder_, "/no/such/parent=64MiB");
  EXPECT_THAT(Refusal(flags), HasSubstr("/no/such/parent"));
  flags[2] = "--nvme_tier.directories=some/where=64MiB";
  EXPECT_THAT(Refusal(flags), AllOf(HasSubstr("some/where"), HasSubstr("absolute path")));
  flags[2] = absl::StrCat("--nvme_tier.directories=", directory_, "=64MiB");
  flags.push_back(absl::StrCat("--nvme_tier.directories=", folder_, "/other=64MiB"));
  EXPECT_THAT(Refusal(flags), HasSubstr("--nvme_tier.directories is there twice"));
  flags.pop_back();
  flags[2] = "--nvme_tier.directories=somewhere";
  EXPECT_THAT(Refusal(flags), HasSubstr("PATH=SIZE"));
  flags[2] = absl::StrCat("--nvme_tier.directories=", directory_, "=8MiB");
  EXPECT_THAT(Refusal(flags), HasSubstr("at least 4 segments"));
  flags.erase(flags.begin() + 2);
  flags.back() = "--nvme_tier.durability=nvme_sync";
  EXPECT_THAT(Refusal(flags), HasSubstr("memory without nvme_tier.directories"));
}

TEST_F(NvmeTest, AFullFileSystemIsADirectoryThatIsFull) {
  ASSERT_TRUE(std::filesystem::create_directory(directory_));
  if (mount("tmpfs", directory_.c_str(), "tmpfs", 0, "size=18m") != 0) {
    std::fprintf(stderr, "no file system can be mounted here: not tried\n");
    return;
  }
  mounted_ = directory_;
  directory_ += "/disk";
  Start(Flags("memory"));
  Connect("shm");
  for (int i = 0; i < kValues; ++i) {
    const std::vector<std::byte> value = Value(i);
    std::copy(value.begin(), value.end(), memory_->bytes().begin());
    const auto put = client_->Put(std::vector<PutItem>{
        {.key = Key(i), .sources = {{memory_.get(), 0, kValueBytes}}, .layout = kLayout}});
    ASSERT_TRUE(put.ok() && put->front().outcome == PutOutcome::kStored)
        << i << ": " << put.status() << put->front().message;
  }
  EXPECT_TRUE(IsThere(kValues - 1));
  EXPECT_GT(CountThere(), 35) << "more than memory alone holds";
  EXPECT_EQ(Metric("varve_nvme_directories{state=\"full\"}"), 1);
}

}  // namespace
}  // namespace varve::client

int main(int argc, char** argv) {
  if (argc == 3 && std::string_view(argv[1]) == "--put-for-ever") {
    return varve::client::PutForEver(argv[2]);
  }
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
