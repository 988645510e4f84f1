#include "tests/support/store_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

extern char** environ;

namespace varve::testing {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(60);

std::string FindBinary(const std::string& program) {
  const char* given = std::getenv("STORE_BINARY");
  if (given != nullptr && program == "varve-store") return given;
  const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  for (const char* relative : {".", "../bin", "../../bin"}) {
    const std::filesystem::path candidate = here / relative / program;
    if (std::filesystem::exists(candidate)) return candidate.lexically_normal().string();
  }
  return (here / program).string();
}

// A line from the descriptor, without its end; empty when it closed or time ran out first.
std::string ReadLine(int descriptor, absl::Time deadline) {
  std::string line;
  for (;;) {
    pollfd waiting{descriptor, POLLIN, 0};
    const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
    if (left <= 0 || poll(&waiting, 1, static_cast<int>(left)) <= 0) return "";
    char byte;
    if (read(descriptor, &byte, 1) != 1) return "";
    if (byte == '\n') return line;
    line.push_back(byte);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<StoreProcess>> StoreProcess::Start(
    const std::vector<std::string>& flags) {
  std::vector<std::string> all = {"--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0",
                                  "--host_tier.capacity_bytes=256MiB", "--log_level=warning"};
  all.insert(all.end(), flags.begin(), flags.end());
  return StartProgram("varve-store", all);
}

absl::StatusOr<std::unique_ptr<StoreProcess>> StoreProcess::StartProgram(
    const std::string& program, const std::vector<std::string>& flags) {
  std::vector<std::string> args = {FindBinary(program)};
  args.insert(args.end(), flags.begin(), flags.end());
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::InternalError("pipe2 failed");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (error != 0) {
    close(ends[0]);
    return absl::NotFoundError(absl::StrCat("cannot start ", args[0], ": error ", error));
  }
  std::unique_ptr<StoreProcess> store(new StoreProcess(pid, ends[0]));
  const absl::Status status = store->ReadReadyLine();
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat(program, ": ", status.message()));
  }
  return store;
}

absl::Status StoreProcess::ReadReadyLine() {
  const std::string line = ReadLine(output_, absl::Now() + kStartTimeout);
  const nlohmann::json ready = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!ready.is_object() || !ready.value("ready", false)) {
    return absl::UnavailableError(absl::StrCat("it did not start, and said: '", line, "'"));
  }
  grpc_address_ = ready.value("grpc", "");
  http_address_ = ready.value("http", "");
  return absl::OkStatus();
}

StoreProcess::~StoreProcess() {
  if (!exited_) {
    Signal(SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(output_);
}

void StoreProcess::Signal(int signal) const { kill(pid_, signal); }

absl::StatusOr<int> StoreProcess::Wait(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!exited_) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      exited_ = true;
      exit_status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    } else if (absl::Now() > deadline) {
      return absl::DeadlineExceededError("it still runs");
    } else {
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
  return exit_status_;
}

absl::StatusOr<int> StoreProcess::Stop(absl::Duration timeout) {
  Signal(SIGTERM);
  return Wait(timeout);
}

std::string StoreProcess::HttpGet(const std::string& path) const {
  std::string body;
  return testing::HttpGet(http_address_, path, &body) == 200 ? body : "";
}

int HttpGet(const std::string& address, const std::string& path, std::string* body) {
  const std::vector<std::string> parts = absl::StrSplit(address, ':');
  uint32_t port = 0;
  sockaddr_in to{};
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[1], &port)) return 0;
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  if (inet_pton(AF_INET, parts[0].c_str(), &to.sin_addr) != 1) return 0;
  const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::string response;
  if (connect(descriptor, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0) {
    const std::string request =
        absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: ", address, "\r\nConnection: close\r\n\r\n");
    if (send(descriptor, request.data(), request.size(), MSG_NOSIGNAL) ==
        static_cast<ssize_t>(request.size())) {
      char buffer[16384];
      for (ssize_t n; (n = recv(descriptor, buffer, sizeof(buffer), 0)) > 0;) {
        response.append(buffer, static_cast<size_t>(n));
      }
    }
  }
  close(descriptor);
  const size_t head_end = response.find("\r\n\r\n");
  int code = 0;
  if (head_end == std::string::npos || response.size() < 12 ||
      !absl::SimpleAtoi(response.substr(9, 3), &code)) {
    return 0;
  }
  *body = response.substr(head_end + 4);
  return code;
}

double MetricValue(const std::string& exposition, const std::string& series) {
  for (const auto& line : absl::StrSplit(exposition, '\n')) {
    const std::string text(line);
    if (!absl::StartsWith(text, absl::StrCat(series, " "))) continue;
    double value = -1;
    if (absl::SimpleAtod(text.substr(series.size() + 1), &value)) return value;
  }
  return -1;
}

}  // namespace varve::testing
