// A varve-store of its own: started with free ports, stopped when it goes out of scope.
//
// The binary is found beside the running program: in its folder, in ../bin or in ../../bin; the
// environment variable STORE_BINARY names another. One thread at a time.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace varve::testing {

class StoreProcess {
 public:
  // flags: as on the command line ("--host_tier.capacity_bytes=64MiB"); they win over the helper's
  // own, which are port 0 for listen and http_listen, and a host tier of 256 MiB. Waits until the
  // store serves.
  static absl::StatusOr<std::unique_ptr<StoreProcess>> Start(
      const std::vector<std::string>& flags = {});
  // Another program of ours with the same kind of ready line ("varve-worker"), with these flags
  // alone.
  static absl::StatusOr<std::unique_ptr<StoreProcess>> StartProgram(
      const std::string& program, const std::vector<std::string>& flags);
  // SIGKILL, when it still runs.
  ~StoreProcess();
  StoreProcess(const StoreProcess&) = delete;
  StoreProcess& operator=(const StoreProcess&) = delete;

  const std::string& grpc_address() const { return grpc_address_; }
  const std::string& http_address() const { return http_address_; }
  pid_t pid() const { return pid_; }

  void Signal(int signal) const;
  // The exit status (128 + signal when killed by one); DEADLINE_EXCEEDED when it does not exit in
  // time.
  absl::StatusOr<int> Wait(absl::Duration timeout);
  // SIGTERM, then Wait.
  absl::StatusOr<int> Stop(absl::Duration timeout = absl::Seconds(30));
  // The body of an HTTP page ("/metrics"); empty when it does not answer 200.
  std::string HttpGet(const std::string& path) const;

 private:
  StoreProcess(pid_t pid, int output) : pid_(pid), output_(output) {}
  absl::Status ReadReadyLine();

  const pid_t pid_;
  const int output_;  // read end of its standard output
  bool exited_ = false;
  int exit_status_ = 0;
  std::string grpc_address_;
  std::string http_address_;
};

// GET over HTTP/1.1 from "host:port"; the status code, and the body through `body`. 0 when nothing
// answers.
int HttpGet(const std::string& address, const std::string& path, std::string* body);
// The value of a metric line ("name{label=\"x\"}") in the text exposition; -1 when there is none.
double MetricValue(const std::string& exposition, const std::string& series);

}  // namespace varve::testing
