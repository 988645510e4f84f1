#include "client/bench/bare_peer.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <iostream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/console/stop.h"
#include "client/process/child_process.h"
#include "kvstore/base/status.h"
#include "kvstore/transport/ucx_bare_loop.h"

namespace varve::client {
namespace {

constexpr char kSubcommand[] = "bare-peer";
// The number under which the child finds its end of the socketpair.
constexpr int kChildSocket = 3;

std::vector<std::string> ToArgs(const transport::BareLoopOptions& o) {
  return {kSubcommand,
          o.lane,
          absl::StrCat(o.bytes),
          absl::StrCat(o.batch),
          absl::StrCat(o.get ? 1 : 0),
          absl::StrCat(o.rounds),
          absl::StrCat(o.warm_up),
          absl::StrCat(o.working_set_bytes)};
}

bool FromArgs(int argc, char** argv, transport::BareLoopOptions& o) {
  int get = 0;
  if (argc != 9 || !absl::SimpleAtoi(argv[3], &o.bytes) || !absl::SimpleAtoi(argv[4], &o.batch) ||
      !absl::SimpleAtoi(argv[5], &get) || !absl::SimpleAtoi(argv[6], &o.rounds) ||
      !absl::SimpleAtoi(argv[7], &o.warm_up) || !absl::SimpleAtoi(argv[8], &o.working_set_bytes)) {
    return false;
  }
  o.lane = argv[2];
  o.get = get != 0;
  return true;
}

class BarePeerImpl final : public BarePeer {
 public:
  explicit BarePeerImpl(transport::BareLoopOptions loop) : loop_(std::move(loop)) {}

  absl::Status Round(double seconds, Series& series) override {
    ChildProcess::Options child;
    child.stopped = &console::CheckStopped;
    child.binary = "varve-bench";
    child.args = ToArgs(loop_);
    child.wait_ready = false;
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0)
      return absl::ErrnoToStatus(errno, "socketpair");
    child.inherit_fd = sockets[1];
    child.inherit_as = kChildSocket;
    auto process = ChildProcess::Start(child);
    close(sockets[1]);
    auto times = process.ok() ? transport::DriveBareLoop(loop_, sockets[0])
                              : absl::StatusOr<std::vector<double>>(process.status());
    close(sockets[0]);
    VARVE_RETURN_IF_ERROR(times.status());
    double total = 0;
    for (double t : *times) total += t;
    const double bytes = static_cast<double>(loop_.bytes) * loop_.batch;
    series.rate_per_round.push_back(bytes * static_cast<double>(times->size()) / total);
    series.batch_seconds.insert(series.batch_seconds.end(), times->begin(), times->end());
    // The next round lasts as long as was asked for.
    const double per_batch = total / static_cast<double>(times->size());
    loop_.rounds = static_cast<int>(std::clamp(seconds / per_batch, 3.0, 1e6));
    return absl::OkStatus();
  }

 private:
  transport::BareLoopOptions loop_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BarePeer>> BarePeer::Start(const std::string& transport, bool put,
                                                          uint64_t value_bytes, uint32_t batch,
                                                          uint64_t working_set_bytes) {
  transport::BareLoopOptions loop;
  loop.lane = transport;
  loop.bytes = value_bytes;
  loop.batch = static_cast<int>(batch);
  loop.get = put;  // a store reads a client's values
  loop.rounds = 10;
  loop.warm_up = 3;
  loop.working_set_bytes = working_set_bytes;
  return std::make_unique<BarePeerImpl>(std::move(loop));
}

int MaybeRunBarePeer(int argc, char** argv) {
  if (argc < 2 || std::string_view(argv[1]) != kSubcommand) return -1;
  transport::BareLoopOptions loop;
  if (!FromArgs(argc, argv, loop)) return 2;
  const absl::Status status = transport::ServeBareLoop(loop, kChildSocket);
  if (!status.ok()) std::cerr << "bare peer: " << status.message() << '\n';
  return status.ok() ? 0 : 1;
}

}  // namespace varve::client
