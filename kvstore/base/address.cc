#include "kvstore/base/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace varve::base {
namespace {

constexpr const char* kUnix = "unix:";

// Of "host:port", without the brackets of an IPv6 address.
std::string HostOf(const std::string& address) {
  const std::string host = address.substr(0, address.rfind(':'));
  return host.starts_with('[') && host.ends_with(']') ? host.substr(1, host.size() - 2) : host;
}

// What the system says to the same address.
std::string BindError(const sockaddr* address, socklen_t bytes) {
  const int descriptor = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return std::strerror(errno);
  const int on = 1;  // as servers do, so that what lingers of old connections is no reason
  setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const bool good = bind(descriptor, address, bytes) == 0 && listen(descriptor, 1) == 0;
  const int error = good ? 0 : errno;
  close(descriptor);
  switch (error) {
    case 0:
      return "it was in use a moment ago, or is no place to listen on";
    case EADDRINUSE:
      return "the address is in use";
    case EADDRNOTAVAIL:
      return "the address is not one of this machine";
    case EACCES:
      return "no permission (ports below 1024 need a privilege)";
    default:
      return std::strerror(error);
  }
}

std::string WhyNotUnix(const std::string& path) {
  const size_t longest = sizeof(sockaddr_un{}.sun_path) - 1;
  if (path.size() > longest)
    return absl::StrCat("the path has ", path.size(), " bytes, a socket's has at most ", longest);
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  const std::string directory = parent.empty() ? "." : parent.string();
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error))
    return absl::StrCat("there is no directory ", directory);
  if (access(directory.c_str(), W_OK | X_OK) != 0)
    return absl::StrCat(directory, ": ", std::strerror(errno));
  return "a server listens there, or something that is no socket is in the way";
}

}  // namespace

bool IsHostPort(const std::string& address) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  return !absl::StartsWith(address, kUnix) && colon != std::string::npos && colon > 0 &&
         absl::SimpleAtoi(address.substr(colon + 1), &port) && port <= 65535;
}

bool IsAddress(const std::string& address) {
  return (absl::StartsWith(address, kUnix) && address.size() > std::strlen(kUnix)) ||
         IsHostPort(address);
}

bool IsOfThisHost(const std::string& address) {
  if (absl::StartsWith(address, kUnix)) return true;
  const std::string host = HostOf(address);
  in_addr v4{};
  in6_addr v6{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET;
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6) != 0;
  return host == "localhost";
}

std::string WhyNotBound(const std::string& address) {
  if (!IsAddress(address)) return absl::StrCat(kAddressForm, " is expected");
  if (absl::StartsWith(address, kUnix)) return WhyNotUnix(address.substr(std::strlen(kUnix)));
  const std::string host = HostOf(address);
  const std::string port = address.substr(address.rfind(':') + 1);
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (code != 0) return absl::StrCat("host '", host, "': ", gai_strerror(code));
  std::string why = BindError(found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  return why;
}

}  // namespace varve::base
