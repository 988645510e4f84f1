#include "tests/support/listening_sockets.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

namespace varve::testing {
namespace {

// Inode numbers of the process's sockets: "socket:[4711]" in its list of descriptors.
std::set<std::string> SocketInodes(const std::string& process) {
  std::set<std::string> inodes;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(process + "/fd", error)) {
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target.starts_with("socket:[")) inodes.insert(target.substr(8, target.size() - 9));
  }
  return inodes;
}

// The kernel's form of an address: 32-bit words of memory in hex.
ListeningSocket Parse(const std::string& hex, uint16_t port) {
  char text[INET6_ADDRSTRLEN] = {};
  uint32_t words[4] = {};
  for (size_t i = 0; i < hex.size() / 8; ++i) {
    words[i] = static_cast<uint32_t>(std::stoul(hex.substr(8 * i, 8), nullptr, 16));
  }
  if (hex.size() == 8) {
    inet_ntop(AF_INET, words, text, sizeof(text));
    return {text, port, (ntohl(words[0]) >> 24) == IN_LOOPBACKNET};
  }
  in6_addr address;
  std::memcpy(&address, words, sizeof(address));
  inet_ntop(AF_INET6, words, text, sizeof(text));
  const bool mapped = IN6_IS_ADDR_V4MAPPED(&address) && (ntohl(words[3]) >> 24) == IN_LOOPBACKNET;
  return {text, port, mapped || IN6_IS_ADDR_LOOPBACK(&address)};
}

}  // namespace

std::vector<ListeningSocket> ListeningSockets(pid_t pid) {
  const std::string process = "/proc/" + std::to_string(pid);
  const std::set<std::string> own = SocketInodes(process);
  std::vector<ListeningSocket> sockets;
  for (const char* table : {"/net/tcp", "/net/tcp6"}) {
    std::ifstream file(process + table);
    std::string line;
    std::getline(file, line);  // heading
    while (std::getline(file, line)) {
      std::istringstream words(line);
      std::string slot, local, remote, state, skip, inode;
      words >> slot >> local >> remote >> state;
      for (int i = 0; i < 5; ++i) words >> skip;  // queues, timer, retransmissions, user, timeout
      words >> inode;
      const size_t colon = local.find(':');
      if (state != "0A" || !own.contains(inode) || colon == std::string::npos) continue;
      const auto port = static_cast<uint16_t>(std::stoul(local.substr(colon + 1), nullptr, 16));
      sockets.push_back(Parse(local.substr(0, colon), port));
    }
  }
  std::sort(sockets.begin(), sockets.end(),
            [](const auto& a, const auto& b) { return a.port < b.port; });
  return sockets;
}

}  // namespace varve::testing
