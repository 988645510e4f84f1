// Addresses as people write them: "host:port" or "unix:PATH".
#pragma once

#include <string>

namespace varve::base {

inline constexpr const char* kAddressForm = "host:port or unix:PATH";

// Whether it has that form; host and path are not looked for.
bool IsAddress(const std::string& address);
bool IsHostPort(const std::string& address);
// Whether only this host can reach it: a Unix socket, localhost, or a loopback address. Other names
// are not looked up.
bool IsOfThisHost(const std::string& address);

// Why a server could not listen on an address, in words, for an error message: found by trying
// again, since gRPC and civetweb do not tell. Blocks while a host name is resolved. Thread-safe.
std::string WhyNotBound(const std::string& address);

}  // namespace varve::base
