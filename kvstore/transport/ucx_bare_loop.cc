#include "kvstore/transport/ucx_bare_loop.h"

#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/prefault.h"
#include "kvstore/base/status.h"
#include "kvstore/transport/host_memory.h"
#include "kvstore/transport/ucx.h"
#include "kvstore/transport/ucx_handles.h"
#include "kvstore/transport/ucx_settings.h"
#include "kvstore/transport/wire.h"

namespace varve::transport {
namespace {

constexpr unsigned kDataId = 2;
constexpr unsigned kRequestId = 3;

absl::Status SendAll(int socket, const std::string& bytes) {
  const auto size = static_cast<uint32_t>(bytes.size());
  std::string framed(reinterpret_cast<const char*>(&size), sizeof(size));
  framed += bytes;
  for (size_t at = 0; at < framed.size();) {
    const ssize_t n = send(socket, framed.data() + at, framed.size() - at, MSG_NOSIGNAL);
    if (n <= 0) return absl::UnavailableError("the other side of the bare loop is gone");
    at += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReceiveAll(int socket) {
  uint32_t size = 0;
  if (recv(socket, &size, sizeof(size), MSG_WAITALL) != sizeof(size) || size > (1 << 20)) {
    return absl::UnavailableError("the other side of the bare loop is gone");
  }
  std::string bytes(size, '\0');
  if (recv(socket, bytes.data(), size, MSG_WAITALL) != static_cast<ssize_t>(size)) {
    return absl::UnavailableError("the other side of the bare loop is gone");
  }
  return bytes;
}

// One side of the loop.
class Side {
 public:
  explicit Side(const BareLoopOptions& options) : options_(options) {}

  // slots: values of memory, at least a batch.
  absl::Status Open(bool ucx_memory, size_t slots) {
    VARVE_ASSIGN_OR_RETURN(const LaneKind kind, ParseLane(options_.lane));
    if (kind == LaneKind::kRdma)
      return absl::InvalidArgumentError("the bare loop runs over shm or tcp");
    UcxOptions ucx;
    ucx.devices = options_.devices;
    VARVE_ASSIGN_OR_RETURN(
        context_, MakeUcxContext(LaneSettings(kind, ucx), UCP_FEATURE_AM | UCP_FEATURE_RMA));
    VARVE_ASSIGN_OR_RETURN(worker_, MakeUcxWorker(context_.get()));
    slots_ = slots;
    const size_t bytes = options_.bytes * slots;
    if (ucx_memory) {
      VARVE_ASSIGN_OR_RETURN(UcxMemory mapped, UcxMemory::Map(context_.get(), nullptr, bytes));
      mapped_.emplace(std::move(mapped));
      memory_ = {static_cast<std::byte*>(mapped_->address()), bytes};
      VARVE_RETURN_IF_ERROR(base::Prefault(memory_));
    } else {
      VARVE_ASSIGN_OR_RETURN(host_, HostMemory::Allocate(bytes));
      memory_ = host_.span();
    }
    return Listen();
  }

  absl::Status Connect(const std::string& address) {
    ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                        UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.address = reinterpret_cast<const ucp_address_t*>(address.data());
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    // The first side to finish closes; the other need not hear of it.
    params.err_handler = {.cb = [](void*, ucp_ep_h, ucs_status_t) {}, .arg = nullptr};
    return FromUcs(ucp_ep_create(worker_.get(), &params, &endpoint_), "ucp_ep_create");
  }

  // Closes the endpoint by force: the other side may have gone.
  void Disconnect() {
    if (endpoint_ == nullptr) return;
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
    Wait(ucp_ep_close_nbx(std::exchange(endpoint_, nullptr), &param));
  }

  void Progress() { ucp_worker_progress(worker_.get()); }

  ucs_status_t Wait(ucs_status_ptr_t request) {
    if (request == nullptr) return UCS_OK;
    if (UCS_PTR_IS_ERR(request)) return UCS_PTR_STATUS(request);
    ucs_status_t status;
    while ((status = ucp_request_check_status(request)) == UCS_INPROGRESS) Progress();
    ucp_request_free(request);
    return status;
  }

  ucs_status_ptr_t SendSlot(uint32_t slot) {
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = options_.bytes > 8192 ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER;
    headers_[slot] = slot;
    return ucp_am_send_nbx(endpoint_, kDataId, &headers_[slot], sizeof(uint32_t), Slot(slot),
                           options_.bytes, &param);
  }

  ucs_status_ptr_t RequestSlot(uint32_t slot) {
    const ucp_request_param_t param{};
    headers_[slot] = slot;
    return ucp_am_send_nbx(endpoint_, kRequestId, &headers_[slot], sizeof(uint32_t), nullptr, 0,
                           &param);
  }

  // The memory of a batch's slot; each batch takes the next stretch of the memory.
  std::byte* Slot(uint32_t slot) {
    return memory_.data() + (first_ + slot) % slots_ * options_.bytes;
  }
  void NextBatch() { first_ = (first_ + static_cast<size_t>(options_.batch)) % slots_; }
  ucp_worker_h worker() { return worker_.get(); }
  ucp_ep_h endpoint() { return endpoint_; }
  std::span<std::byte> memory() { return memory_; }
  const std::optional<UcxMemory>& mapped() { return mapped_; }
  int received() const { return received_; }

 private:
  absl::Status Listen() {
    headers_.resize(static_cast<size_t>(options_.batch));
    ucp_am_handler_param_t param{};
    param.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                       UCP_AM_HANDLER_PARAM_FIELD_ARG;
    param.arg = this;
    param.id = kDataId;
    param.cb = OnData;
    VARVE_RETURN_IF_ERROR(
        FromUcs(ucp_worker_set_am_recv_handler(worker_.get(), &param), "am handler"));
    param.id = kRequestId;
    param.cb = OnRequest;
    return FromUcs(ucp_worker_set_am_recv_handler(worker_.get(), &param), "am handler");
  }

  // UCX aligns headers to nothing.
  static uint32_t SlotNumber(const void* header) {
    uint32_t number;
    std::memcpy(&number, header, sizeof(number));
    return number;
  }

  static ucs_status_t OnData(void* arg, const void* header, size_t /*header_bytes*/, void* data,
                             size_t bytes, const ucp_am_recv_param_t* param) {
    auto* side = static_cast<Side*>(arg);
    std::byte* slot = side->Slot(SlotNumber(header));
    if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0) {
      std::memcpy(slot, data, bytes);
      ++side->received_;
      return UCS_OK;
    }
    ucp_request_param_t receive{};
    receive.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    receive.cb.recv_am = [](void* request, ucs_status_t, size_t, void* user) {
      ++static_cast<Side*>(user)->received_;
      ucp_request_free(request);
    };
    receive.user_data = side;
    if (ucp_am_recv_data_nbx(side->worker(), data, slot, bytes, &receive) == nullptr)
      ++side->received_;
    return UCS_OK;
  }

  static ucs_status_t OnRequest(void* arg, const void* header, size_t /*header_bytes*/,
                                void* /*data*/, size_t /*bytes*/,
                                const ucp_am_recv_param_t* /*param*/) {
    auto* side = static_cast<Side*>(arg);
    ucs_status_ptr_t request = side->SendSlot(SlotNumber(header));
    if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
    return UCS_OK;
  }

  const BareLoopOptions options_;
  UcxContext context_;
  UcxWorker worker_;
  HostMemory host_;
  std::optional<UcxMemory> mapped_;
  std::span<std::byte> memory_;
  size_t slots_ = 0;
  size_t first_ = 0;
  std::vector<uint32_t> headers_;
  ucp_ep_h endpoint_ = nullptr;
  int received_ = 0;
};

// Posts a batch and waits for all of it to be remotely complete.
class Driver {
 public:
  Driver(const BareLoopOptions& options, Side& side) : options_(options), side_(side) {}

  absl::Status Attach(const std::string& key, uint64_t address) {
    address_ = address;
    return FromUcs(ucp_ep_rkey_unpack(side_.endpoint(), key.data(), &key_), "ucp_ep_rkey_unpack");
  }
  ~Driver() {
    if (key_ != nullptr) ucp_rkey_destroy(key_);
  }
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  absl::Status Batch() {
    std::vector<ucs_status_ptr_t> requests;
    const int before = side_.received();
    for (int i = 0; i < options_.batch; ++i) requests.push_back(Post(static_cast<uint32_t>(i)));
    ucs_status_t status = UCS_OK;
    for (ucs_status_ptr_t request : requests) {
      const ucs_status_t one = side_.Wait(request);
      if (one != UCS_OK) status = one;
    }
    if (status != UCS_OK) return FromUcs(status, "bare loop");
    if (key_ == nullptr) {
      while (options_.get && side_.received() < before + options_.batch) side_.Progress();
      return absl::OkStatus();
    }
    const ucp_request_param_t param{};
    return FromUcs(side_.Wait(ucp_ep_flush_nbx(side_.endpoint(), &param)), "ucp_ep_flush");
  }

 private:
  ucs_status_ptr_t Post(uint32_t slot) {
    if (key_ == nullptr) return options_.get ? side_.RequestSlot(slot) : side_.SendSlot(slot);
    const ucp_request_param_t param{};
    const uint64_t remote = address_ + slot * options_.bytes;
    if (options_.get)
      return ucp_get_nbx(side_.endpoint(), side_.Slot(slot), options_.bytes, remote, key_, &param);
    return ucp_put_nbx(side_.endpoint(), side_.Slot(slot), options_.bytes, remote, key_, &param);
  }

  const BareLoopOptions options_;
  Side& side_;
  ucp_rkey_h key_ = nullptr;
  uint64_t address_ = 0;
};

// What the passive side says first.
std::string MakeCard(Side& side, const std::string& address, const std::string& key) {
  WireWriter writer;
  writer.PutString(address);
  writer.PutString(key);
  writer.Put(reinterpret_cast<uint64_t>(side.memory().data()));
  return std::move(writer).Seal();
}

}  // namespace

absl::Status ServeBareLoop(const BareLoopOptions& options, int socket) {
  const bool one_sided = options.lane == "shm";
  Side side(options);
  VARVE_RETURN_IF_ERROR(side.Open(one_sided, static_cast<size_t>(options.batch)));
  VARVE_ASSIGN_OR_RETURN(const std::string address, UcxWorkerAddress(side.worker()));
  std::string key;
  if (one_sided) {
    VARVE_ASSIGN_OR_RETURN(key, side.mapped()->PackKey());
  }
  VARVE_RETURN_IF_ERROR(SendAll(socket, MakeCard(side, address, key)));
  VARVE_ASSIGN_OR_RETURN(const std::string peer, ReceiveAll(socket));
  VARVE_RETURN_IF_ERROR(side.Connect(peer));
  // Polls until the driving side closes its end, looking at the socket now and then.
  char byte;
  do {
    for (int i = 0; i < 10'000; ++i) side.Progress();
  } while (recv(socket, &byte, 1, MSG_DONTWAIT) < 0);
  side.Disconnect();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<double>> DriveBareLoop(const BareLoopOptions& options, int socket) {
  Side side(options);
  const auto batch = static_cast<size_t>(options.batch);
  VARVE_RETURN_IF_ERROR(
      side.Open(false, std::max(batch, options.working_set_bytes / options.bytes)));
  VARVE_ASSIGN_OR_RETURN(const std::string card, ReceiveAll(socket));
  WireReader reader(card);
  const std::string peer(reader.GetString());
  const std::string key(reader.GetString());
  const auto remote = reader.Get<uint64_t>();
  if (!reader.Finished()) return absl::InternalError("malformed card of the bare loop");
  VARVE_ASSIGN_OR_RETURN(const std::string address, UcxWorkerAddress(side.worker()));
  VARVE_RETURN_IF_ERROR(SendAll(socket, address));
  VARVE_RETURN_IF_ERROR(side.Connect(peer));
  std::vector<double> seconds;
  {
    Driver driver(options, side);
    if (!key.empty()) VARVE_RETURN_IF_ERROR(driver.Attach(key, remote));
    for (int round = -options.warm_up; round < options.rounds; ++round) {
      const auto start = std::chrono::steady_clock::now();
      VARVE_RETURN_IF_ERROR(driver.Batch());
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      if (round >= 0) seconds.push_back(took.count());
      side.NextBatch();
    }
  }
  VARVE_RETURN_IF_ERROR(SendAll(socket, ""));  // done
  side.Disconnect();
  return seconds;
}

}  // namespace varve::transport
