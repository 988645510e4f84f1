// One way to travel (shm, tcp or rdma): a UCX context, its workers, and the one thread that calls
// them.
//
// Threads: every UCX call on a worker happens on the lane's thread, apart from Import's. Post,
// RunSync and the constant accessors may be called from any thread; the rest on the lane's thread
// only. The thread looks at a station for half a millisecond after its last event, then arms it;
// when all are armed it sleeps until UCX, a command, the end of a watched process or a
// timer wakes it.
#pragma once

#include <ucp/api/ucp.h>

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/mutex.h"
#include "kvstore/transport/port_range.h"
#include "kvstore/transport/ucx.h"
#include "kvstore/transport/ucx_handles.h"
#include "kvstore/transport/ucx_pieces.h"
#include "kvstore/transport/ucx_protocol.h"
#include "kvstore/transport/ucx_station.h"

namespace varve::transport {

// Something that waits for UCX operations. Complete runs on the lane's thread, once for each
// operation.
class UcxOperation {
 public:
  virtual void Complete(ucs_status_t status) = 0;

 protected:
  ~UcxOperation() = default;
};

// Owner of a UCX endpoint. Called on the lane's thread inside UCX progress: note it and act later.
class UcxEndpointOwner {
 public:
  virtual void OnEndpointError(ucs_status_t status) = 0;

 protected:
  ~UcxEndpointOwner() = default;
};

// A received active message. rendezvous: data is UCX's descriptor, to be taken by Lane::Receive
// inside the call.
struct Incoming {
  Station& station;
  const Message& message;
  void* data;
  size_t bytes;
  bool rendezvous;
};

class Lane {
 public:
  using Task = base::Task;
  using SteadyTime = std::chrono::steady_clock::time_point;
  using Timers = std::multimap<SteadyTime, Task>;
  using MessageHandler = absl::AnyInvocable<void(const Incoming&)>;

  // UNAVAILABLE when the machine has no device for this kind.
  static absl::StatusOr<std::unique_ptr<Lane>> Open(LaneKind kind, const UcxOptions& options);
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // handler: gets every message, inside UCX progress.
  void Start(MessageHandler handler);
  // Waits until all endpoints in CloseEndpoint are closed (2 s at most) and ends the thread. Posted
  // tasks then run on their caller's thread.
  void Stop();

  void Post(Task task);
  // Runs on the lane's thread and waits; at once when called on it.
  void RunSync(absl::FunctionRef<void()> function);
  bool OnThread() const { return std::this_thread::get_id() == thread_id_; }

  LaneKind kind() const { return kind_; }
  const char* name() const { return LaneName(kind_); }
  ucp_context_h context() const { return context_.get(); }
  // A station for one connection. Any thread. RESOURCE_EXHAUSTED when tcp has no port left.
  absl::StatusOr<std::unique_ptr<Station>> OpenStation() const;
  // The station that peers greet; its address is the lane's.
  Station& station() { return *main_; }
  // Largest message packed from several small pieces (0: never packed).
  size_t pack_bytes() const { return pack_bytes_; }
  size_t max_pieces() const { return max_pieces_; }

  // ---- lane's thread only ----
  // Runs after the current UCX progress call, in order.
  void RunLater(Task task) { later_.push_back(std::move(task)); }
  Timers::iterator At(SteadyTime when, Task task) { return timers_.emplace(when, std::move(task)); }
  void Cancel(Timers::iterator timer) { timers_.erase(timer); }

  // Begins and ends the care for a station.
  void Attach(Station& station);
  void Detach(Station& station);

  // pid: of the peer, as it says. INVALID_ARGUMENT for an address that UCX must not see.
  absl::StatusOr<ucp_ep_h> CreateEndpoint(Station& station, const std::string& peer, uint32_t pid,
                                          UcxEndpointOwner* owner);
  // Tells the owner when a process of this machine has ended, at once and even while nobody reaps
  // it: over shared memory UCX itself looks only now and then, and takes an unreaped process for a
  // living one. Returns a handle for Unwatch, or -1 when the process cannot be watched. Does
  // nothing over other lanes.
  int WatchProcess(uint32_t pid, UcxEndpointOwner* owner);
  void Unwatch(int handle);
  // Force-closes; closed runs when UCX touches neither the endpoint nor its owner any more.
  void CloseEndpoint(Station& station, ucp_ep_h endpoint, Task closed);

  // Operations. They may Complete in the call.
  // Operations last until they Complete: so long the message and a list of several pieces, or with
  // copiers, must live.
  void Send(Station& station, ucp_ep_h endpoint, const Message& message, const PieceList& pieces,
            UcxOperation* operation);
  void Receive(Station& station, void* descriptor, const PieceList& pieces,
               UcxOperation* operation);
  void Put(Station& station, ucp_ep_h endpoint, std::span<const std::byte> local, uint64_t address,
           ucp_rkey_h key, UcxOperation* operation);
  void Get(Station& station, ucp_ep_h endpoint, std::span<std::byte> local, uint64_t address,
           ucp_rkey_h key, UcxOperation* operation);
  void Flush(Station& station, ucp_ep_h endpoint, UcxOperation* operation);

 private:
  explicit Lane(LaneKind kind) : kind_(kind) {}
  absl::Status Init(const UcxOptions& options);
  // What UCX hands back with a message.
  struct Mailbox {
    Lane* lane;
    Station* station;
  };
  static ucs_status_t OnMessage(void* mailbox, const void* header, size_t header_bytes, void* data,
                                size_t bytes, const ucp_am_recv_param_t* param);
  void Awaken(Station& station);
  bool ProgressStations();
  void ArmIdleStations();
  void Loop();
  bool RunCommands();
  bool RunTimers();
  void RunLaterTasks();
  void Sleep();
  void PollEvents(int timeout_ms);
  void Wake();
  bool Finished() const {
    return stopping_ && (closing_ == 0 || std::chrono::steady_clock::now() > stop_by_);
  }

  const LaneKind kind_;
  UcxContext context_;
  PortRange ports_;  // any, apart from tcp
  std::unique_ptr<Station> main_;
  size_t eager_bytes_ = 0;  // of one piece; larger ones go by rendezvous
  size_t pack_bytes_ = 0;
  size_t max_pieces_ = 1;
  int wake_fd_ = -1;   // eventfd
  int event_fd_ = -1;  // epoll: the stations' events, wake_fd_, processes

  base::Mutex mutex_;
  std::vector<Task> commands_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = true;
  std::atomic<bool> asleep_{false};
  std::atomic<bool> has_commands_{false};

  std::thread thread_;
  std::atomic<std::thread::id> thread_id_;

  // Lane's thread only.
  MessageHandler handler_;
  std::vector<Task> running_;
  std::vector<Task> later_;
  Timers timers_;
  absl::flat_hash_map<int, Station*> stations_;  // by event fd
  absl::flat_hash_map<Station*, std::unique_ptr<Mailbox>> mailboxes_;
  std::vector<Station*> awake_;
  absl::flat_hash_map<int, UcxEndpointOwner*> watched_;  // by pidfd
  SteadyTime last_poll_;
  int closing_ = 0;
  bool stopping_ = false;
  SteadyTime stop_by_;
};

}  // namespace varve::transport
