#include "client/bench/scrape.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kvstore/base/descriptor.h"
#include "kvstore/base/status.h"

namespace varve::client {
namespace {

constexpr timeval kTimeout = {.tv_sec = 10, .tv_usec = 0};

absl::StatusOr<std::string> Exchange(const std::string& address, const std::string& request) {
  const std::vector<std::string> parts = absl::StrSplit(address, ':');
  uint32_t port = 0;
  sockaddr_in to{};
  to.sin_family = AF_INET;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[1], &port) || port > UINT16_MAX ||
      inet_pton(AF_INET, parts[0].c_str(), &to.sin_addr) != 1) {
    return absl::InvalidArgumentError(absl::StrCat(address, ": allowed: an IPv4 address and port"));
  }
  to.sin_port = htons(static_cast<uint16_t>(port));
  const base::Descriptor fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) return absl::ErrnoToStatus(errno, "socket");
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kTimeout, sizeof(kTimeout));
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &kTimeout, sizeof(kTimeout));
  const auto failed = [&] {
    return absl::UnavailableError(
        absl::StrCat(address, ": ", std::string(absl::ErrnoToStatus(errno, "").message())));
  };
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0) return failed();
  if (send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return failed();
  }
  std::string response;
  char buffer[16384];
  for (;;) {
    const ssize_t got = recv(fd.get(), buffer, sizeof(buffer), 0);
    if (got < 0) return failed();
    if (got == 0) return response;
    response.append(buffer, static_cast<size_t>(got));
  }
}

}  // namespace

std::map<std::string, double> ParseMetrics(const std::string& text) {
  std::map<std::string, double> values;
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  for (const std::string& line : lines) {
    const size_t space = line.rfind(' ');
    double value = 0;
    if (absl::StartsWith(line, "#") || space == std::string::npos) continue;
    if (absl::SimpleAtod(line.substr(space + 1), &value)) {
      values[line.substr(0, space)] = value;
    }
  }
  return values;
}

absl::StatusOr<std::map<std::string, double>> ScrapeMetrics(const std::string& address) {
  VARVE_ASSIGN_OR_RETURN(const std::string response,
                         Exchange(address, absl::StrCat("GET /metrics HTTP/1.1\r\nHost: ", address,
                                                        "\r\nConnection: close\r\n\r\n")));
  const size_t head_end = response.find("\r\n\r\n");
  if (!absl::StartsWith(response, "HTTP/1.1 200") || head_end == std::string::npos) {
    return absl::UnavailableError(absl::StrCat(address, ": no metrics there"));
  }
  return ParseMetrics(response.substr(head_end + 4));
}

}  // namespace varve::client
