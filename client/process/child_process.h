// A program of Varve's run as a child: started, waited for until it says it is ready, and surely
// ended.
//
// Its settings are its arguments: the VARVE_ variables of this process's environment are not passed
// on. Not thread-safe. The child dies with the thread that started it (PR_SET_PDEATHSIG), so also
// when the parent is killed: start it from a thread that lives as long as the child is needed.
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace varve::client {

class ChildProcess {
 public:
  struct Options {
    std::string binary;  // a path, or a name looked up beside this program and in ../bin
    std::vector<std::string> args;
    std::string log_path;  // standard error goes there; empty: this program's
    absl::Duration ready_timeout = absl::Seconds(60);
    bool wait_ready = true;  // AwaitReady before Start returns
    int inherit_fd = -1;     // this descriptor is the child's inherit_as; -1: none
    int inherit_as = 3;
    // Asked while a line of the child's is waited for, several times a second: an error ends the
    // wait. Null: nobody is asked.
    absl::Status (*stopped)() = nullptr;
  };
  // NOT_FOUND no such binary; UNAVAILABLE it ended before it was ready; DEADLINE_EXCEEDED; what
  // `stopped` says.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(const Options& options);
  // SIGTERM, then SIGKILL after 10 s.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  // Waits for the ready line, one line of JSON on standard output; again after
  // DEADLINE_EXCEEDED.
  absl::Status AwaitReady(absl::Duration timeout);
  // Text fields of the ready line, such as "grpc" -> "127.0.0.1:7411"; empty when absent.
  std::string ready(const std::string& field) const;
  // Sends a signal; nothing happens once the child has been reaped.
  void Signal(int signal);
  // Waits for the end and answers the exit code (128 + signal when killed).
  absl::StatusOr<int> Wait(absl::Duration timeout);
  // Next line of the child's standard output.
  absl::StatusOr<std::string> ReadLine(absl::Duration timeout);

 private:
  ChildProcess(std::string name, pid_t pid, int stdout_fd, absl::Status (*stopped)())
      : name_(std::move(name)), pid_(pid), stdout_fd_(stdout_fd), stopped_(stopped) {}

  const std::string name_;
  const pid_t pid_;
  const int stdout_fd_;
  absl::Status (*const stopped_)();
  bool reaped_ = false;
  int exit_code_ = 0;
  std::string buffered_;
  std::map<std::string, std::string> ready_;
};

// Where a program of this build lies: beside this one or in ../bin of it.
absl::StatusOr<std::string> FindProgram(const std::string& name);

}  // namespace varve::client
