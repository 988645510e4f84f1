#include "kvstore/transport/port_range.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "absl/strings/str_cat.h"
#include "kvstore/base/descriptor.h"
#include "kvstore/base/status.h"

namespace varve::transport {
namespace {

// Digits alone, 1 to 65535; else 0.
uint16_t ParsePort(std::string_view text) {
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  return error == std::errc() && end == text.data() + text.size() ? port : 0;
}

absl::StatusOr<bool> IsFree(uint16_t port) {
  const base::Descriptor listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (listener.get() < 0)
    return absl::ErrnoToStatus(errno, "no socket to look for a free port with");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  return bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

}  // namespace

absl::StatusOr<PortRange> ParsePortRange(std::string_view text) {
  if (text.empty()) return PortRange{};
  const size_t dash = std::min(text.find('-'), text.size() - 1);
  const PortRange range{ParsePort(text.substr(0, dash)), ParsePort(text.substr(dash + 1))};
  if (range.first > 0 && range.first <= range.last) return range;
  return absl::InvalidArgumentError(
      absl::StrCat("tcp port range ", base::Quoted(text), " is not allowed; ", kPortRangeForm));
}

absl::Status CheckFreePort(const PortRange& range) {
  for (uint32_t port = range.first; port <= range.last; ++port) {
    VARVE_ASSIGN_OR_RETURN(const bool is_free, IsFree(static_cast<uint16_t>(port)));
    if (is_free) return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("no free port in transport.tcp_port_range ", range.first, "-", range.last,
                   "; a store needs one for each session over tcp"));
}

}  // namespace varve::transport
