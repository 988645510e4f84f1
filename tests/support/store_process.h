// A varve-store of its own: started with free ports, killed when it goes out of scope.
//
// The programs are found in the folder of the running one or in ../bin. One thread at a time; a
// child lives no longer than the thread that started it.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/process/child_process.h"

namespace varve::testing {

// Those of `own` that are not in `flags` under the same name, and these.
std::vector<std::string> FlagsOver(const std::vector<std::string>& own,
                                   const std::vector<std::string>& flags);

class StoreProcess {
 public:
  // flags: as on the command line ("--host_tier.capacity_bytes=64MiB"); they win over the helper's
  // own, which are port 0 for listen and http_listen, and a host tier of 256 MiB. Waits until the
  // store serves.
  static absl::StatusOr<std::unique_ptr<StoreProcess>> Start(
      const std::vector<std::string>& flags = {});
  // Another program of ours with the same kind of ready line ("varve-worker"), with these flags
  // alone. Waits until it serves, or not: then AwaitReady comes before anything else.
  static absl::StatusOr<std::unique_ptr<StoreProcess>> StartProgram(
      const std::string& program, const std::vector<std::string>& flags, bool wait_ready = true);
  absl::Status AwaitReady(absl::Duration timeout = absl::Seconds(60));
  // SIGKILL, when it still runs.
  ~StoreProcess();
  StoreProcess(const StoreProcess&) = delete;
  StoreProcess& operator=(const StoreProcess&) = delete;

  std::string grpc_address() const { return child_->ready("grpc"); }
  std::string http_address() const { return child_->ready("http"); }
  pid_t pid() const { return child_->pid(); }

  void Signal(int signal) const { child_->Signal(signal); }
  // The exit status (128 + signal when killed by one); DEADLINE_EXCEEDED when it does not exit in
  // time.
  absl::StatusOr<int> Wait(absl::Duration timeout) { return child_->Wait(timeout); }
  // SIGTERM, then Wait.
  absl::StatusOr<int> Stop(absl::Duration timeout = absl::Seconds(30));
  // The body of an HTTP page ("/metrics"); empty when it does not answer 200.
  std::string HttpGet(const std::string& path) const;

 private:
  explicit StoreProcess(std::unique_ptr<client::ChildProcess> child) : child_(std::move(child)) {}

  const std::unique_ptr<client::ChildProcess> child_;
};

// GET over HTTP/1.1 from "host:port"; the status code, and the body through `body`. 0 when nothing
// answers.
int HttpGet(const std::string& address, const std::string& path, std::string* body);
// The value of a metric line ("name{label=\"x\"}") in the text exposition; -1 when there is none.
double MetricValue(const std::string& exposition, const std::string& series);

}  // namespace varve::testing
