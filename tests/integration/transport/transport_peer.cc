// The other process of transport_death_test.
//   transport_peer serve LANE             a client: prints its address and two descriptors
//   (registered, allocated) in
//                                         hex, one a line, and answers until SIGTERM
//   transport_peer drive LANE ADDR DESC   a store: reads and writes the region until it is killed;
//   prints "go" first
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "kvstore/base/mutex.h"
#include "kvstore/transport/ucx.h"

namespace {

using varve::transport::Endpoint;
using varve::transport::RemoteRegion;
using varve::transport::Transport;

constexpr size_t kBytes = 8 << 20;

std::unique_ptr<Transport> Make(const std::string& lane) {
  varve::transport::UcxOptions options;
  options.lanes = {lane};
  if (lane == "tcp") options.devices = {"lo"};
  auto transport = MakeUcxTransport(options);
  if (!transport.ok()) {
    fprintf(stderr, "%s\n", transport.status().ToString().c_str());
    _exit(2);
  }
  return *std::move(transport);
}

void Print(const std::string& bytes) {
  printf("%s\n", absl::BytesToHexString(bytes).c_str());
  fflush(stdout);
}

int Serve(const std::string& lane) {
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  sigprocmask(SIG_BLOCK, &term, nullptr);
  const auto transport = Make(lane);
  std::vector<std::byte> memory(kBytes);
  const auto registered = transport->Register(memory);
  const auto allocated = transport->Allocate(kBytes);
  if (!registered.ok() || !allocated.ok()) return 2;
  Print(transport->Address());
  Print((*registered)->descriptor());
  Print((*allocated)->descriptor());
  int signal = 0;
  sigwait(&term, &signal);
  return 0;
}

// Keeps 8 transfers under way for ever.
class Driver {
 public:
  Driver(Endpoint& endpoint, const RemoteRegion& remote) : endpoint_(endpoint), remote_(remote) {}

  void Post(bool read) {
    auto done = [this, read](absl::Status status) {
      if (!status.ok()) _exit(3);
      if (!said_go_) puts("go"), fflush(stdout), said_go_ = true;
      Post(!read);
    };
    if (read) {
      endpoint_.Read({{local_, &remote_, 0}}, absl::InfiniteFuture(), done);
    } else {
      endpoint_.Write({{local_, &remote_, 0}}, absl::InfiniteFuture(), done);
    }
  }

 private:
  Endpoint& endpoint_;
  const RemoteRegion& remote_;
  std::vector<std::byte> local_ = std::vector<std::byte>(kBytes);
  bool said_go_ = false;
};

int Drive(const std::string& lane, const std::string& address, const std::string& descriptor) {
  const auto transport = Make(lane);
  const auto endpoint = transport->Connect(absl::HexStringToBytes(address));
  if (!endpoint.ok()) return 2;
  const auto remote = (*endpoint)->Import(absl::HexStringToBytes(descriptor));
  if (!remote.ok()) return 2;
  Driver driver(**endpoint, **remote);
  for (int i = 0; i < 8; ++i) driver.Post(i % 2 == 0);
  for (;;) pause();
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.size() == 2 && args[0] == "serve") return Serve(args[1]);
  if (args.size() == 4 && args[0] == "drive") return Drive(args[1], args[2], args[3]);
  fprintf(stderr, "usage: transport_peer serve LANE | drive LANE ADDRESS DESCRIPTOR\n");
  return 64;
}
