#include "kvstore/transport/ucx_lane.h"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"
#include "kvstore/transport/ucx_settings.h"
#include "kvstore/transport/ucx_worker_address.h"

namespace varve::transport {
namespace {

using std::chrono::steady_clock;

// How long the thread goes on looking after the last event before it sleeps. Longer than a batch's
// coordination: a lane that sleeps between two batches wakes late, and next to the lane that sends
// to it, on the same processor.
constexpr auto kSpin = std::chrono::microseconds(500);
// How often a thread that has no time to sleep looks for stations that woke up and processes that
// ended.
constexpr auto kPollInterval = std::chrono::microseconds(20);
constexpr auto kStopGrace = std::chrono::seconds(2);
// A packed message fills one segment, with the header and its pieces and UCX's own headers.
constexpr size_t kTcpPackBytes = kTcpSegmentBytes - (8 << 10);
constexpr size_t kTcpEagerBytes = 32 << 10;
// Above this, cross-memory attach (one copy, one system call) beats the 8 KiB FIFO segments.
constexpr size_t kShmEagerBytes = 4 << 10;
constexpr const char* kVerbsDevices = "/sys/class/infiniband";

bool HasVerbsDevice() {
  std::error_code error;
  return std::filesystem::directory_iterator(kVerbsDevices, error) !=
         std::filesystem::directory_iterator();
}

void OnSent(void* request, ucs_status_t status, void* operation) {
  ucp_request_free(request);
  static_cast<UcxOperation*>(operation)->Complete(status);
}

void OnReceived(void* request, ucs_status_t status, size_t /*bytes*/, void* operation) {
  OnSent(request, status, operation);
}

// Attributes of an operation over one contiguous buffer or several pieces.
ucp_request_param_t Parameters(UcxOperation* operation) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = OnSent;
  param.user_data = operation;
  return param;
}

// An operation that ended in the call reports here; the others through their callback.
void Settle(ucs_status_ptr_t result, UcxOperation* operation) {
  if (result == nullptr) return operation->Complete(UCS_OK);
  if (UCS_PTR_IS_ERR(result)) operation->Complete(UCS_PTR_STATUS(result));
}

void OnEndpointError(void* owner, ucp_ep_h /*endpoint*/, ucs_status_t status) {
  static_cast<UcxEndpointOwner*>(owner)->OnEndpointError(status);
}

bool WaitFor(int event_fd, int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  return epoll_ctl(event_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

// Deletes itself when the close has completed.
class CloseOperation final : public UcxOperation {
 public:
  explicit CloseOperation(Lane::Task closed) : closed_(std::move(closed)) {}
  void Complete(ucs_status_t /*status*/) override {
    std::move(closed_)();
    delete this;
  }

 private:
  Lane::Task closed_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Lane>> Lane::Open(LaneKind kind, const UcxOptions& options) {
  std::unique_ptr<Lane> lane(new Lane(kind));
  const absl::Status status = lane->Init(options);
  if (!status.ok()) return base::Annotate(status, absl::StrCat("lane ", LaneName(kind)));
  return lane;
}

absl::Status Lane::Init(const UcxOptions& options) {
  // UCX would find out by itself, and warn about a machine where nothing is wrong.
  if (kind_ == LaneKind::kRdma && !HasVerbsDevice()) {
    return absl::UnavailableError(absl::StrCat("no RDMA device in ", kVerbsDevices));
  }
  VARVE_ASSIGN_OR_RETURN(context_,
                         MakeUcxContext(LaneSettings(kind_, options), LaneFeatures(kind_)));
  if (kind_ == LaneKind::kTcp) {
    VARVE_ASSIGN_OR_RETURN(ports_, ParsePortRange(options.tcp_port_range));
  }
  VARVE_ASSIGN_OR_RETURN(main_, OpenStation());
  // An address that is none to us would have every peer refused.
  VARVE_RETURN_IF_ERROR(ParseWorkerAddress(main_->address()).status());
  ucp_worker_attr_t attributes{};
  attributes.field_mask = UCP_WORKER_ATTR_FIELD_MAX_AM_HEADER;
  VARVE_RETURN_IF_ERROR(
      FromUcs(ucp_worker_query(main_->worker(), &attributes), "ucp_worker_query"));
  if (attributes.max_am_header < sizeof(MessageHead) + sizeof(Piece)) {
    return absl::UnavailableError("active message headers are too small");
  }
  max_pieces_ =
      std::min(kMaxPieces, (attributes.max_am_header - sizeof(MessageHead)) / sizeof(Piece));
  eager_bytes_ = kind_ == LaneKind::kShm ? kShmEagerBytes : kTcpEagerBytes;
  pack_bytes_ = kind_ == LaneKind::kTcp ? kTcpPackBytes : 0;
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  event_fd_ = epoll_create1(EPOLL_CLOEXEC);
  if (event_fd_ < 0 || !WaitFor(event_fd_, wake_fd_)) {
    return absl::ResourceExhaustedError("no file descriptors for the lane's events");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Station>> Lane::OpenStation() const {
  if (ports_.any()) return Station::Open(context_.get());
  // One at a time: the port that is found free must still be when UCX looks for it.
  static base::Mutex mutex;
  base::MutexLock lock(mutex);
  VARVE_RETURN_IF_ERROR(CheckFreePort(ports_));
  return Station::Open(context_.get());
}

Lane::~Lane() {
  Stop();
  main_.reset();
  if (wake_fd_ >= 0) close(wake_fd_);
  if (event_fd_ >= 0) close(event_fd_);
}

void Lane::Start(MessageHandler handler) {
  handler_ = std::move(handler);
  Attach(*main_);
  {
    base::MutexLock lock(mutex_);
    stopped_ = false;
  }
  thread_ = std::thread([this] { Loop(); });
}

void Lane::Attach(Station& station) {
  auto& mailbox = mailboxes_[&station];
  mailbox = std::make_unique<Mailbox>(Mailbox{this, &station});
  ucp_am_handler_param_t param{};
  param.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                     UCP_AM_HANDLER_PARAM_FIELD_ARG | UCP_AM_HANDLER_PARAM_FIELD_FLAGS;
  param.id = kMessageId;
  param.cb = OnMessage;
  param.arg = mailbox.get();
  param.flags = UCP_AM_FLAG_WHOLE_MSG;
  ucp_worker_set_am_recv_handler(station.worker(), &param);
  stations_[station.event_fd()] = &station;
  station.awake_ = true;
  station.last_event_ = steady_clock::now();
  awake_.push_back(&station);
}

void Lane::Detach(Station& station) {
  if (!station.awake_) epoll_ctl(event_fd_, EPOLL_CTL_DEL, station.event_fd(), nullptr);
  stations_.erase(station.event_fd());
  mailboxes_.erase(&station);
  awake_.erase(std::remove(awake_.begin(), awake_.end(), &station), awake_.end());
}

void Lane::Awaken(Station& station) {
  station.last_event_ = steady_clock::now();
  if (std::exchange(station.awake_, true)) return;
  epoll_ctl(event_fd_, EPOLL_CTL_DEL, station.event_fd(), nullptr);
  awake_.push_back(&station);
}

void Lane::Stop() {
  if (!thread_.joinable()) return;
  Post([this] {
    stopping_ = true;
    stop_by_ = steady_clock::now() + kStopGrace;
  });
  thread_.join();
  thread_id_ = std::thread::id();
}

void Lane::Post(Task task) {
  bool queued = false;
  {
    base::MutexLock lock(mutex_);
    if (!stopped_) {
      commands_.push_back(std::move(task));
      has_commands_.store(true, std::memory_order_seq_cst);
      queued = true;
    }
  }
  if (!queued) return std::move(task)();
  if (asleep_.load(std::memory_order_seq_cst)) Wake();
}

void Lane::RunSync(absl::FunctionRef<void()> function) {
  if (OnThread()) return function();
  struct {
    base::Mutex mutex;
    base::CondVar changed;
    bool done = false;
  } wait;
  Post([&] {
    function();
    base::MutexLock lock(wait.mutex);
    wait.done = true;
    wait.changed.NotifyAll();
  });
  base::MutexLock lock(wait.mutex);
  while (!wait.done) wait.changed.Wait(wait.mutex);
}

void Lane::Wake() {
  const uint64_t one = 1;
  // A full counter already wakes the thread.
  [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof(one));
}

void Lane::Loop() {
  thread_id_ = std::this_thread::get_id();
  base::NameThisThread(absl::StrCat("ucx-", name()));
  while (!Finished()) {
    bool active = RunCommands();
    active |= ProgressStations();
    active |= !later_.empty();
    RunLaterTasks();
    active |= RunTimers();
    if (!active) ArmIdleStations();
    if (awake_.empty() && !active) {
      Sleep();
    } else if (steady_clock::now() - last_poll_ > kPollInterval) {
      PollEvents(0);
    } else if (!active) {
      sched_yield();  // to whoever has work: this loop only keeps watch
    }
  }
  // Later posters run their tasks themselves; what was queued before runs here.
  {
    base::MutexLock lock(mutex_);
    stopped_ = true;
  }
  RunCommands();
  RunLaterTasks();
}

bool Lane::ProgressStations() {
  bool active = false;
  // Callbacks may awaken more stations, but never attach or detach one.
  for (size_t i = 0; i < awake_.size(); ++i) {
    Station& station = *awake_[i];
    bool moved = false;
    while (ucp_worker_progress(station.worker()) != 0) moved = true;
    if (moved) station.last_event_ = steady_clock::now();
    active |= moved;
  }
  return active;
}

void Lane::ArmIdleStations() {
  const auto now = steady_clock::now();
  std::erase_if(awake_, [this, now](Station* station) {
    if (now - station->last_event_ < kSpin) return false;
    // Watched only while it is armed: every segment that arrives would call back through one more
    // epoll, at the expense of its sender.
    station->awake_ = ucp_worker_arm(station->worker()) == UCS_ERR_BUSY ||
                      !WaitFor(event_fd_, station->event_fd());
    return !station->awake_;
  });
}

bool Lane::RunCommands() {
  if (!has_commands_.load(std::memory_order_relaxed)) return false;
  {
    base::MutexLock lock(mutex_);
    running_.swap(commands_);
    has_commands_.store(false, std::memory_order_relaxed);
  }
  for (Task& task : running_) std::move(task)();
  running_.clear();
  return true;
}

void Lane::RunLaterTasks() {
  // Tasks may add more of them.
  for (size_t i = 0; i < later_.size(); ++i) {
    Task task = std::move(later_[i]);
    std::move(task)();
  }
  later_.clear();
}

bool Lane::RunTimers() {
  if (timers_.empty()) return false;
  const auto now = steady_clock::now();
  bool ran = false;
  while (!timers_.empty() && timers_.begin()->first <= now) {
    Task task = std::move(timers_.extract(timers_.begin()).mapped());
    std::move(task)();
    ran = true;
  }
  return ran;
}

void Lane::Sleep() {
  asleep_.store(true, std::memory_order_seq_cst);
  // A poster either sees asleep_ and writes the eventfd, or its command is seen here.
  if (has_commands_.load(std::memory_order_seq_cst)) {
    asleep_.store(false, std::memory_order_relaxed);
    return;
  }
  auto wait = stopping_ ? stop_by_ - steady_clock::now()
                        : steady_clock::duration(std::chrono::seconds(3600));
  if (!timers_.empty()) wait = std::min(wait, timers_.begin()->first - steady_clock::now());
  // Rounded up: a timer must be due when the thread wakes for it.
  const auto wait_ms = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
  PollEvents(static_cast<int>(std::max<int64_t>(0, wait_ms)));
  asleep_.store(false, std::memory_order_relaxed);
}

void Lane::PollEvents(int timeout_ms) {
  epoll_event events[16];
  const int count = epoll_wait(event_fd_, events, 16, timeout_ms);
  last_poll_ = steady_clock::now();
  for (int i = 0; i < count; ++i) {
    const int fd = events[i].data.fd;
    if (fd == wake_fd_) {
      uint64_t drained;
      [[maybe_unused]] const ssize_t got = read(wake_fd_, &drained, sizeof(drained));
    } else if (const auto station = stations_.find(fd); station != stations_.end()) {
      Awaken(*station->second);
    } else if (const auto process = watched_.find(fd); process != watched_.end()) {
      epoll_ctl(event_fd_, EPOLL_CTL_DEL, fd, nullptr);
      process->second->OnEndpointError(UCS_ERR_CONNECTION_RESET);
    }
  }
}

int Lane::WatchProcess(uint32_t pid, UcxEndpointOwner* owner) {
  if (kind_ != LaneKind::kShm) return -1;
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0));
  if (fd < 0 || !WaitFor(event_fd_, fd)) {
    // It has ended already, or there are no descriptors left.
    if (ProcessesCanBeWatched()) owner->OnEndpointError(UCS_ERR_UNREACHABLE);
    if (fd >= 0) close(fd);
    return -1;
  }
  watched_[fd] = owner;
  return fd;
}

void Lane::Unwatch(int handle) {
  if (handle < 0) return;
  watched_.erase(handle);
  close(handle);
}

ucs_status_t Lane::OnMessage(void* arg, const void* header, size_t header_bytes, void* data,
                             size_t bytes, const ucp_am_recv_param_t* param) {
  auto* mailbox = static_cast<Mailbox*>(arg);
  Message message;
  if (!ParseMessage(header, header_bytes, &message)) return UCS_OK;  // no message of ours: dropped
  mailbox->lane->handler_({*mailbox->station, message, data, bytes,
                           (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0});
  return UCS_OK;
}

absl::StatusOr<ucp_ep_h> Lane::CreateEndpoint(Station& station, const std::string& peer,
                                              uint32_t pid, UcxEndpointOwner* owner) {
  VARVE_RETURN_IF_ERROR(CheckWorkerAddress(kind_, station.address(), peer, pid));
  Awaken(station);
  // Slack: UCX takes no length and may read past the end of damaged bytes.
  std::vector<char> address(peer.begin(), peer.end());
  address.resize(address.size() + 4096);
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {.cb = OnEndpointError, .arg = owner};
  ucp_ep_h endpoint = nullptr;
  const ucs_status_t status = ucp_ep_create(station.worker(), &params, &endpoint);
  if (status != UCS_OK) return FromUcs(status, absl::StrCat("connecting over ", name()));
  return endpoint;
}

void Lane::CloseEndpoint(Station& station, ucp_ep_h endpoint, Task closed) {
  Awaken(station);
  ++closing_;
  auto* operation = new CloseOperation([this, closed = std::move(closed)]() mutable {
    --closing_;
    RunLater(std::move(closed));
  });
  ucp_request_param_t param = Parameters(operation);
  param.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  Settle(ucp_ep_close_nbx(endpoint, &param), operation);
}

void Lane::Send(Station& station, ucp_ep_h endpoint, const Message& message,
                const PieceList& pieces, UcxOperation* operation) {
  Awaken(station);
  ucp_request_param_t param = Parameters(operation);
  const PieceList::Buffer buffer = pieces.Describe(&param);
  param.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
  const bool eager = pieces.bytes() <= eager_bytes_ || pieces.count() > 1;
  param.flags = eager ? UCP_AM_SEND_FLAG_EAGER : UCP_AM_SEND_FLAG_RNDV;
  Settle(ucp_am_send_nbx(endpoint, kMessageId, &message, message.bytes(), buffer.address,
                         buffer.count, &param),
         operation);
}

void Lane::Receive(Station& station, void* descriptor, const PieceList& pieces,
                   UcxOperation* operation) {
  ucp_request_param_t param = Parameters(operation);
  param.cb.recv_am = OnReceived;
  const PieceList::Buffer buffer = pieces.Describe(&param);
  Settle(ucp_am_recv_data_nbx(station.worker(), descriptor, buffer.address, buffer.count, &param),
         operation);
}

void Lane::Put(Station& station, ucp_ep_h endpoint, std::span<const std::byte> local,
               uint64_t address, ucp_rkey_h key, UcxOperation* operation) {
  Awaken(station);
  const ucp_request_param_t param = Parameters(operation);
  Settle(ucp_put_nbx(endpoint, local.data(), local.size(), address, key, &param), operation);
}

void Lane::Get(Station& station, ucp_ep_h endpoint, std::span<std::byte> local, uint64_t address,
               ucp_rkey_h key, UcxOperation* operation) {
  Awaken(station);
  const ucp_request_param_t param = Parameters(operation);
  Settle(ucp_get_nbx(endpoint, local.data(), local.size(), address, key, &param), operation);
}

void Lane::Flush(Station& station, ucp_ep_h endpoint, UcxOperation* operation) {
  Awaken(station);
  const ucp_request_param_t param = Parameters(operation);
  Settle(ucp_ep_flush_nbx(endpoint, &param), operation);
}

}  // namespace varve::transport
