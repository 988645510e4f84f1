#include "client/process/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/status.h"
#include "nlohmann/json.hpp"

namespace varve::client {
namespace {

// How often who waits for a line looks whether it shall go on.
constexpr absl::Duration kLook = absl::Milliseconds(100);

// Between fork and exec only async-signal-safe calls are allowed: everything is prepared before.
[[noreturn]] void Exec(const char* binary, char* const* argv, char* const* environment, int out,
                       int err, int inherit_fd, int inherit_as) {
  // A child outlives its parent by as long as it takes to clean up after itself. Ctrl-C in the
  // terminal is for the parent.
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  setpgid(0, 0);
  dup2(out, STDOUT_FILENO);
  if (err >= 0) dup2(err, STDERR_FILENO);
  // dup2 onto itself would leave close-on-exec set.
  if (inherit_fd == inherit_as && inherit_fd >= 0) fcntl(inherit_fd, F_SETFD, 0);
  if (inherit_fd >= 0) dup2(inherit_fd, inherit_as);
  execve(binary, argv, environment);
  _exit(127);
}

}  // namespace

absl::StatusOr<std::string> FindProgram(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  for (const auto& folder : {self.parent_path(), self.parent_path().parent_path() / "bin"}) {
    if (access((folder / name).c_str(), X_OK) == 0) return (folder / name).string();
  }
  return absl::NotFoundError(
      absl::StrCat("no program ", name, " beside ", self.string(), " or in ../bin"));
}

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(const Options& options) {
  VARVE_ASSIGN_OR_RETURN(const std::string binary, FindProgram(options.binary));
  std::vector<std::string> args = {binary};
  args.insert(args.end(), options.args.begin(), options.args.end());
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  std::vector<char*> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!absl::StartsWith(*entry, "VARVE_")) environment.push_back(*entry);
  }
  environment.push_back(nullptr);

  int err = -1;
  if (!options.log_path.empty()) {
    err = open(options.log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (err < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", options.log_path));
  }
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) {
    const absl::Status status = absl::ErrnoToStatus(errno, "pipe");
    if (err >= 0) close(err);
    return status;
  }
  const pid_t pid = fork();
  if (pid == 0)
    Exec(binary.c_str(), argv.data(), environment.data(), pipe_fds[1], err, options.inherit_fd,
         options.inherit_as);
  close(pipe_fds[1]);
  if (err >= 0) close(err);
  if (pid < 0) {
    close(pipe_fds[0]);
    return absl::ErrnoToStatus(errno, "fork");
  }
  std::unique_ptr<ChildProcess> child(
      new ChildProcess(options.binary, pid, pipe_fds[0], options.stopped));
  if (!options.wait_ready) return child;
  const absl::Status ready = child->AwaitReady(options.ready_timeout);
  if (ready.ok()) return child;
  return options.log_path.empty() ? ready
                                  : base::Annotate(ready, absl::StrCat("see ", options.log_path));
}

absl::Status ChildProcess::AwaitReady(absl::Duration timeout) {
  const auto line = ReadLine(timeout);
  if (!line.ok())
    return base::Annotate(line.status(), absl::StrCat(name_, " did not become ready"));
  const auto json = nlohmann::json::parse(*line, nullptr, false);
  if (!json.is_object()) return absl::InternalError(absl::StrCat(name_, " said: ", *line));
  for (const auto& [field, value] : json.items()) {
    ready_[field] = value.is_string() ? value.get<std::string>() : value.dump();
  }
  return absl::OkStatus();
}

ChildProcess::~ChildProcess() {
  if (!reaped_) {
    Signal(SIGTERM);
    if (!Wait(absl::Seconds(10)).ok()) {
      Signal(SIGKILL);
      (void)Wait(absl::Seconds(10));
    }
  }
  close(stdout_fd_);
}

std::string ChildProcess::ready(const std::string& field) const {
  const auto found = ready_.find(field);
  return found == ready_.end() ? "" : found->second;
}

void ChildProcess::Signal(int signal) {
  if (!reaped_) kill(pid_, signal);
}

absl::StatusOr<int> ChildProcess::Wait(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!reaped_) {
    int status = 0;
    const pid_t got = waitpid(pid_, &status, WNOHANG);
    if (got == pid_) {
      reaped_ = true;
      exit_code_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      break;
    }
    if (absl::Now() > deadline)
      return absl::DeadlineExceededError(absl::StrCat("process ", pid_, " still runs"));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return exit_code_;
}

absl::StatusOr<std::string> ChildProcess::ReadLine(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  for (;;) {
    const size_t newline = buffered_.find('\n');
    if (newline != std::string::npos) {
      std::string line = buffered_.substr(0, newline);
      buffered_.erase(0, newline + 1);
      return line;
    }
    if (stopped_ != nullptr) VARVE_RETURN_IF_ERROR(stopped_());
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration())
      return absl::DeadlineExceededError("no line of output in time");
    pollfd fd{stdout_fd_, POLLIN, 0};
    const int64_t wait_ms =
        absl::ToInt64Milliseconds(absl::Ceil(std::min(left, kLook), absl::Milliseconds(1)));
    if (poll(&fd, 1, static_cast<int>(wait_ms)) <= 0) continue;
    char chunk[4096];
    const ssize_t got = read(stdout_fd_, chunk, sizeof(chunk));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return absl::UnavailableError("the process ended");
    buffered_.append(chunk, static_cast<size_t>(got));
  }
}

}  // namespace varve::client
