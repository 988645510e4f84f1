// The transport alone against the bare UCX loop, two processes, same run. Prints for each lane and
// direction the median of each, the spread (p10 to p90) and the ratio of the medians.
//   transport_bench [--bytes=1048576] [--batch=16] [--rounds=100] [--repeats=5] [--segment=1048576]
//   [--register]
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/mutex.h"
#include "kvstore/transport/ucx.h"
#include "kvstore/transport/ucx_bare_loop.h"

namespace {

using varve::transport::BareLoopOptions;
using varve::transport::Endpoint;
using varve::transport::Segment;
using varve::transport::UcxOptions;

struct Setting {
  std::string lane = "shm";
  size_t bytes = 1 << 20;
  int batch = 16;
  int rounds = 100;
  int repeats = 5;
  size_t segment = 1 << 20;
  bool register_memory = false;
  bool get = false;
  bool bare = false;
};

std::vector<std::string> Devices(const std::string& lane) {
  return lane == "tcp" ? std::vector<std::string>{"lo"} : std::vector<std::string>{};
}

BareLoopOptions BareOptions(const Setting& s) {
  return {s.lane, Devices(s.lane), s.bytes, s.batch, s.get, s.rounds, 10};
}

UcxOptions Options(const Setting& s) {
  UcxOptions options;
  options.lanes = {s.lane};
  options.devices = Devices(s.lane);
  options.segment_bytes = s.segment;
  return options;
}

void Pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof(set), &set);
}

[[noreturn]] void Die(const absl::Status& status) {
  fprintf(stderr, "%s\n", status.ToString().c_str());
  exit(1);
}

void SendString(int fd, const std::string& s) {
  const uint64_t n = s.size();
  if (write(fd, &n, 8) != 8 || write(fd, s.data(), n) != static_cast<ssize_t>(n)) exit(1);
}

std::string ReceiveString(int fd) {
  uint64_t n = 0;
  if (recv(fd, &n, 8, MSG_WAITALL) != 8) exit(1);
  std::string s(n, '\0');
  if (recv(fd, s.data(), n, MSG_WAITALL) != static_cast<ssize_t>(n)) exit(1);
  return s;
}

// The client: owns the memory and answers.
int Child(const Setting& s, int fd) {
  Pin(1);
  if (s.bare) return ServeBareLoop(BareOptions(s), fd).ok() ? 0 : 1;
  auto transport = MakeUcxTransport(Options(s));
  if (!transport.ok()) Die(transport.status());
  const size_t bytes = s.bytes * static_cast<size_t>(s.batch);
  std::vector<std::byte> memory(s.register_memory ? bytes : 1, std::byte{1});
  auto region = s.register_memory ? (*transport)->Register(memory) : (*transport)->Allocate(bytes);
  if (!region.ok()) Die(region.status());
  SendString(fd, (*transport)->Address());
  SendString(fd, (*region)->descriptor());
  char byte;
  return recv(fd, &byte, 1, MSG_WAITALL) == 0 ? 0 : 1;
}

void Run(Endpoint& endpoint, bool get, std::vector<Segment> segments) {
  varve::base::Mutex mutex;
  varve::base::CondVar changed;
  bool ran = false;
  absl::Status status;
  auto done = [&](absl::Status result) {
    varve::base::MutexLock lock(mutex);
    status = std::move(result);
    ran = true;
    changed.NotifyAll();
  };
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  get ? endpoint.Read(std::move(segments), deadline, done)
      : endpoint.Write(std::move(segments), deadline, done);
  varve::base::MutexLock lock(mutex);
  while (!ran) changed.Wait(mutex);
  if (!status.ok()) Die(status);
}

std::vector<double> DriveTransport(const Setting& s, int fd) {
  auto transport = MakeUcxTransport(Options(s));
  if (!transport.ok()) Die(transport.status());
  auto endpoint = (*transport)->Connect(ReceiveString(fd));
  if (!endpoint.ok()) Die(endpoint.status());
  auto remote = (*endpoint)->Import(ReceiveString(fd));
  if (!remote.ok()) Die(remote.status());
  std::vector<std::byte> local(s.bytes * static_cast<size_t>(s.batch), std::byte{2});
  std::vector<Segment> segments;
  for (int i = 0; i < s.batch; ++i) {
    const size_t at = s.bytes * static_cast<size_t>(i);
    segments.push_back({std::span(local).subspan(at, s.bytes), remote->get(), at});
  }
  std::vector<double> seconds;
  for (int round = -10; round < s.rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    Run(**endpoint, s.get, segments);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (round >= 0) seconds.push_back(took.count());
  }
  return seconds;
}

std::vector<double> Drive(const Setting& s, const std::vector<std::string>& child_args) {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) exit(1);
  const pid_t child = fork();
  if (child == 0) {
    close(fds[0]);
    std::vector<std::string> args = {"transport_bench", absl::StrCat("--child=", fds[1])};
    args.insert(args.end(), child_args.begin(), child_args.end());
    std::vector<char*> argv;
    for (auto& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    execv("/proc/self/exe", argv.data());
    _exit(127);
  }
  close(fds[1]);
  std::vector<double> seconds;
  if (s.bare) {
    auto driven = DriveBareLoop(BareOptions(s), fds[0]);
    if (!driven.ok()) Die(driven.status());
    seconds = *std::move(driven);
  } else {
    seconds = DriveTransport(s, fds[0]);
  }
  close(fds[0]);
  waitpid(child, nullptr, 0);
  return seconds;
}

double Quantile(std::vector<double> v, double q) {
  std::sort(v.begin(), v.end());
  return v[static_cast<size_t>(q * static_cast<double>(v.size() - 1))];
}

std::vector<std::string> Args(const Setting& s) {
  std::vector<std::string> args = {
      "--lane=" + s.lane, absl::StrCat("--bytes=", s.bytes), absl::StrCat("--batch=", s.batch),
      absl::StrCat("--rounds=", s.rounds), absl::StrCat("--segment=", s.segment)};
  if (s.register_memory) args.push_back("--register");
  if (s.get) args.push_back("--get");
  if (s.bare) args.push_back("--bare");
  return args;
}

void Compare(Setting s) {
  std::vector<double> bare, ours;
  for (int i = 0; i < s.repeats; ++i) {
    for (bool which : {true, false}) {
      s.bare = which;
      const std::vector<double> seconds = Drive(s, Args(s));
      auto& all = which ? bare : ours;
      all.insert(all.end(), seconds.begin(), seconds.end());
    }
  }
  const double bytes = static_cast<double>(s.bytes) * s.batch;
  const auto line = [&](const std::vector<double>& v) {
    char text[128];
    snprintf(text, sizeof(text), "%8.1f us (%8.1f-%8.1f) %6.2f GB/s", 1e6 * Quantile(v, 0.5),
             1e6 * Quantile(v, 0.1), 1e6 * Quantile(v, 0.9), bytes / Quantile(v, 0.5) / 1e9);
    return std::string(text);
  };
  printf("%s %-5s %8zu x %-3d %s: bare %s | transport %s | ratio %.3f\n", s.lane.c_str(),
         s.get ? "read" : "write", s.bytes, s.batch,
         s.register_memory ? "registered" : "allocated ", line(bare).c_str(), line(ours).c_str(),
         Quantile(bare, 0.5) / Quantile(ours, 0.5));
  fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  Setting s;
  int child = -1;
  bool one_lane = false;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const std::string value = arg.substr(std::min(arg.size(), arg.find('=') + 1));
    if (arg.starts_with("--lane=")) s.lane = value, one_lane = true;
    if (arg.starts_with("--bytes=")) s.bytes = strtoull(value.c_str(), nullptr, 10);
    if (arg.starts_with("--batch=")) s.batch = atoi(value.c_str());
    if (arg.starts_with("--rounds=")) s.rounds = atoi(value.c_str());
    if (arg.starts_with("--repeats=")) s.repeats = atoi(value.c_str());
    if (arg.starts_with("--segment=")) s.segment = strtoull(value.c_str(), nullptr, 10);
    if (arg.starts_with("--child=")) child = atoi(value.c_str());
    if (arg == "--register") s.register_memory = true;
    if (arg == "--get") s.get = true;
    if (arg == "--bare") s.bare = true;
  }
  if (child >= 0) return Child(s, child);
  Pin(0);
  for (const char* lane : {"shm", "tcp"}) {
    if (one_lane && s.lane != lane) continue;
    for (bool get : {false, true}) {
      Setting one = s;
      one.lane = lane;
      one.get = get;
      Compare(one);
    }
  }
  return 0;
}
