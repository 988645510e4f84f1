// The TCP sockets that a process listens on. For tests.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace varve::testing {

struct ListeningSocket {
  std::string host;  // "127.0.0.1", "::"
  uint16_t port = 0;
  bool loopback = false;
};

// By port. Empty for a process that is not there, or not ours to look at.
std::vector<ListeningSocket> ListeningSockets(pid_t pid);

}  // namespace varve::testing
