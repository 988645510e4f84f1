#include "tests/support/store_process.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace varve::testing {

std::vector<std::string> FlagsOver(const std::vector<std::string>& own,
                                   const std::vector<std::string>& flags) {
  const auto name = [](const std::string& flag) { return flag.substr(0, flag.find('=')); };
  std::vector<std::string> all;
  for (const std::string& flag : own) {
    if (std::none_of(flags.begin(), flags.end(),
                     [&](const std::string& over) { return name(over) == name(flag); })) {
      all.push_back(flag);
    }
  }
  all.insert(all.end(), flags.begin(), flags.end());
  return all;
}

absl::StatusOr<std::unique_ptr<StoreProcess>> StoreProcess::Start(
    const std::vector<std::string>& flags) {
  return StartProgram("varve-store",
                      FlagsOver({"--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0",
                                 "--host_tier.capacity_bytes=256MiB", "--log_level=warning"},
                                flags));
}

absl::StatusOr<std::unique_ptr<StoreProcess>> StoreProcess::StartProgram(
    const std::string& program, const std::vector<std::string>& flags, bool wait_ready) {
  auto child =
      client::ChildProcess::Start({.binary = program, .args = flags, .wait_ready = wait_ready});
  if (!child.ok()) return child.status();
  return std::unique_ptr<StoreProcess>(new StoreProcess(std::move(*child)));
}

absl::Status StoreProcess::AwaitReady(absl::Duration timeout) {
  return child_->AwaitReady(timeout);
}

// A test leaves nothing to drain for.
StoreProcess::~StoreProcess() { Signal(SIGKILL); }

absl::StatusOr<int> StoreProcess::Stop(absl::Duration timeout) {
  Signal(SIGTERM);
  return Wait(timeout);
}

std::string StoreProcess::HttpGet(const std::string& path) const {
  std::string body;
  return testing::HttpGet(http_address(), path, &body) == 200 ? body : "";
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
