// A child process with its standard input and output on pipes. Killed by the destructor when it still runs.
#pragma once

#include <sys/types.h>

#include <cstdio>
#include <string>
#include <vector>

namespace varve::transport {

class Child {
 public:
  explicit Child(const std::vector<std::string>& command);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  // One line of its standard output, without the end of line; empty when it said nothing more.
  std::string ReadLine();
  void Signal(int signal);
  // SIGSTOP, and waits until it has stopped.
  void Stop();
  void CloseInput();
  // The exit status, or minus the signal that ended it; -1000 when it has not ended within the limit.
  int Wait(int limit_ms);

 private:
  pid_t pid_;
  int input_ = -1;
  FILE* output_ = nullptr;
  bool ended_ = false;
};

// Entries of /proc/PID/fd and /proc/PID/task, and its resident memory.
size_t CountFds(pid_t pid);
size_t CountThreads(pid_t pid);
size_t ResidentBytes(pid_t pid);

}  // namespace varve::transport
