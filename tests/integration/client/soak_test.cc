// A store that has seen 1000 sessions die and 64 clients at once (fewer under sanitizers, which are
// slow) is where it was: memory, threads, file descriptors, slots.
#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "client/process/child_process.h"
#include "gmock/gmock.h"
#include "kvstore/transport/ucx.h"
#include "tests/support/store_process.h"

namespace varve::client {
namespace {

using varve::testing::StoreProcess;

constexpr int kSessionsPerChild = 20;
constexpr size_t kBytes = 64 << 10;
// What glibc and UCX keep for the next one comes in steps. A leak comes with every session: of 16
// KiB it would be kStep in each of the quarters of a thousand.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kMemoryMargin = 1 << 30;  // sanitizers keep what was freed for a while
constexpr int64_t kStep = 1 << 28;
constexpr int kSessions = 200;
constexpr int kClientsAtOnce = 16;
constexpr absl::Duration kPatience = absl::Minutes(2);
#else
constexpr int64_t kMemoryMargin = 24 << 20;
constexpr int64_t kStep = 4 << 20;
constexpr int kSessions = 1000;
constexpr int kClientsAtOnce = 64;
constexpr absl::Duration kPatience = absl::Seconds(30);
#endif

absl::StatusOr<std::unique_ptr<Client>> Connect(const std::string& address, int number) {
  ClientOptions options;
  options.address = address;
  options.lanes = {number % 2 == 0 ? "shm" : "tcp"};
  options.connect_timeout = absl::Seconds(60);
  return Client::Connect(options);
}

page::ObjectKey Key(const std::string& text) { return page::ObjectKey::FromBytes(text).value(); }

// The child's part: sessions with memory, values put and pinned, some of them getting for ever.
// Then it is killed.
int HoldSessions(const std::string& address) {
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<std::unique_ptr<Memory>> memories;
  std::vector<std::thread> getters;
  for (int i = 0; i < kSessionsPerChild; ++i) {
    auto client = Connect(address, i);
    if (!client.ok()) return 1;
    auto memory = (*client)->Allocate(kBytes);
    if (!memory.ok()) return 1;
    const auto key = Key(absl::StrCat("held by child ", i));
    const auto put =
        (*client)->Put(std::vector<PutItem>{{.key = key, .sources = {{memory->get(), 0, kBytes}}}});
    if (!put.ok() || !(*client)->Pin(std::vector{key}, absl::InfiniteDuration()).ok()) return 1;
    if (i % 4 < 2) {
      getters.emplace_back([client = client->get(), memory = memory->get(), key] {
        for (;;) {
          (void)client->Get(std::vector<GetItem>{
              {.key = key, .range = {}, .destinations = {{memory, 0, kBytes}}}});
        }
      });
    }
    clients.push_back(*std::move(client));
    memories.push_back(*std::move(memory));
  }
  std::puts("{}");
  std::fflush(stdout);
  for (;;) pause();
}

// gRPC's thread pool and its sockets move by one or two; a leak would show many times over.
constexpr int kPoolMargin = 4;

struct Usage {
  int64_t memory = 0;
  int threads = 0;
  int files = 0;
};

Usage UsageOf(pid_t pid) {
  Usage usage;
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string name; status >> name; status.ignore(1 << 20, '\n')) {
    if (name == "VmRSS:" && status >> usage.memory) usage.memory <<= 10;
    if (name == "Threads:") status >> usage.threads;
  }
  DIR* fds = opendir(absl::StrCat("/proc/", pid, "/fd").c_str());
  while (readdir(fds) != nullptr) ++usage.files;
  closedir(fds);
  return usage;
}

class SoakTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto store = StoreProcess::Start({"--host_tier.capacity_bytes=64MiB"});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  double Metric(const std::string& series) const {
    return varve::testing::MetricValue(store_->HttpGet("/metrics"), series);
  }

  template <typename Condition>
  static bool Eventually(Condition condition) {
    for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end;) {
      if (condition()) return true;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return condition();
  }

  void KillAChild() const {
    ChildProcess::Options options;
    options.binary = "/proc/self/exe";
    options.args = {"--hold-sessions", store_->grpc_address()};
    auto child = ChildProcess::Start(options);
    ASSERT_TRUE(child.ok()) << child.status();
    EXPECT_GE(Metric("varve_sessions"), kSessionsPerChild);
    (*child)->Signal(SIGKILL);
    ASSERT_TRUE((*child)->Wait(absl::Seconds(20)).ok());
    EXPECT_TRUE(Eventually([this] { return Metric("varve_sessions") == 0; }))
        << "sessions outlive their client";
  }

  // Each writes its own values and reads them back. Answers what went wrong.
  std::string UseAndLeave(int number) const {
    const auto client = Connect(store_->grpc_address(), number);
    if (!client.ok()) return client.status().ToString();
    const auto memory = (*client)->Allocate(2 * kBytes);
    if (!memory.ok()) return memory.status().ToString();
    const std::span<std::byte> out = (*memory)->bytes().first(kBytes);
    const std::span<std::byte> in = (*memory)->bytes().last(kBytes);
    for (int i = 0; i < 4; ++i) {
      const auto key = Key(absl::StrCat("value ", i, " of client ", number));
      std::memset(out.data(), number * 4 + i, kBytes);
      std::memset(in.data(), 0, kBytes);
      const auto put = (*client)->Put(
          std::vector<PutItem>{{.key = key, .sources = {{memory->get(), 0, kBytes}}}});
      if (!put.ok()) return put.status().ToString();
      const auto got = (*client)->Get(std::vector<GetItem>{
          {.key = key, .range = {}, .destinations = {{memory->get(), kBytes, kBytes}}}});
      if (!got.ok()) return got.status().ToString();
      if (!got->at(0).hit) return "missed: " + got->at(0).message;
      if (std::memcmp(out.data(), in.data(), kBytes) != 0) return "other bytes came back";
      if (!(*client)->Remove(std::vector{key}, false).ok()) return "not removed";
    }
    // Long enough for UCX to look whether the peer is there.
    absl::SleepFor(transport::UcxOptions().keepalive * 1.2);
    return "";
  }

  void ManyAtOnce() const {
    std::vector<std::string> problems(kClientsAtOnce);
    std::vector<std::thread> threads;
    for (int i = 0; i < kClientsAtOnce; ++i) {
      threads.emplace_back([&, i] { problems[i] = UseAndLeave(i); });
    }
    ::testing::internal::CaptureStderr();
    for (std::thread& thread : threads) thread.join();
    // A client that answers a session which has gone writes into what is another's by now.
    EXPECT_THAT(::testing::internal::GetCapturedStderr(),
                ::testing::Not(::testing::HasSubstr("failed to connect to remote FIFO")));
    EXPECT_THAT(problems, ::testing::Each(""));
  }

  // gRPC's and UCX's own threads and sockets end a while after their last use.
  void ExpectBackTo(const Usage& before) const {
    Usage now;
    EXPECT_TRUE(Eventually([&] {
      now = UsageOf(store_->pid());
      return Metric("varve_sessions") == 0 && now.threads <= before.threads + kPoolMargin &&
             now.files <= before.files + kPoolMargin && now.memory <= before.memory + kMemoryMargin;
    })) << "sessions "
        << Metric("varve_sessions") << ", threads " << before.threads << " -> " << now.threads
        << ", files " << before.files << " -> " << now.files << ", memory " << before.memory
        << " -> " << now.memory;
    EXPECT_EQ(Metric("varve_tier_pinned_bytes{tier=\"host\"}"), 0);
    EXPECT_EQ(Metric("varve_tier_used_bytes{tier=\"host\"}"),
              Metric("varve_objects{tier=\"host\"}") * static_cast<double>(kBytes))
        << "a slot without an object";
  }

  std::unique_ptr<StoreProcess> store_;
};

TEST_F(SoakTest, KilledSessionsLeaveNothing) {
  for (int i = 0; i < 10; ++i) ASSERT_NO_FATAL_FAILURE(KillAChild());
  const Usage before = UsageOf(store_->pid());
  constexpr int kQuarters = 4;
  std::vector<int64_t> growths;
  int64_t last = before.memory;
  for (int quarter = 0; quarter < kQuarters; ++quarter) {
    for (int i = 0; i < kSessions / kQuarters; i += kSessionsPerChild) {
      SCOPED_TRACE(absl::StrCat("quarter ", quarter, ", session ", i));
      ASSERT_NO_FATAL_FAILURE(KillAChild());
    }
    const int64_t now = UsageOf(store_->pid()).memory;
    growths.push_back(now - std::exchange(last, now));
  }
  EXPECT_THAT(growths, ::testing::Contains(::testing::Lt(kStep))) << "bytes by quarter";
  ExpectBackTo(before);
  EXPECT_EQ(UseAndLeave(0), "");
  EXPECT_EQ(UseAndLeave(1), "");
}

TEST_F(SoakTest, ManyClientsAtOnceLeaveNothing) {
  for (int i = 0; i < 8; ++i) ManyAtOnce();
  const Usage before = UsageOf(store_->pid());
  for (int i = 0; i < 4; ++i) ManyAtOnce();
  ExpectBackTo(before);
}

}  // namespace
}  // namespace varve::client

int main(int argc, char** argv) {
  if (argc == 3 && std::string_view(argv[1]) == "--hold-sessions") {
    return varve::client::HoldSessions(argv[2]);
  }
  // The store's memory then is what it uses, and not also what each of its many threads once did.
  setenv("MALLOC_ARENA_MAX", "1", 1);
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
