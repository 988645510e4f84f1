#include "gpu_worker/remote_worker.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gpu_worker/sidecar/convert.h"
#include "gpu_worker/sidecar/shared_file.h"
#include "gpu_worker/tensor_arena.h"
#include "kvstore/base/grpc_status.h"
#include "kvstore/base/mutex.h"
#include "kvstore/base/status.h"
#include "varve/v1/worker.grpc.pb.h"

namespace varve::worker {
namespace {

// Where the tensors of a call lie inside its piece of shared memory.
class TensorLayout {
 public:
  size_t Add(size_t bytes) {
    const size_t at = size_;
    size_ +=
        (bytes + TensorArena::kAlignment - 1) / TensorArena::kAlignment * TensorArena::kAlignment;
    return at;
  }
  size_t size() const { return size_; }

 private:
  size_t size_ = 0;
};

void Refer(const TensorArena::Piece& piece, size_t at, size_t bytes, v1::TensorRef* ref) {
  ref->set_offset(piece.offset() + at);
  ref->set_bytes(bytes);
}

// Cancels a stream unless destroyed in time: its calls have no deadline of their own.
class CancelAfter {
 public:
  CancelAfter(grpc::ClientContext* context, absl::Duration timeout)
      : thread_([this, context, timeout] { Watch(context, timeout); }) {}
  ~CancelAfter() {
    {
      base::MutexLock lock(mutex_);
      done_ = true;
      changed_.NotifyAll();
    }
    thread_.join();
  }
  bool cancelled() const {
    base::MutexLock lock(mutex_);
    return cancelled_;
  }

 private:
  void Watch(grpc::ClientContext* context, absl::Duration timeout) {
    const absl::Time deadline = absl::Now() + timeout;
    base::MutexLock lock(mutex_);
    while (!done_ && absl::Now() < deadline) {
      changed_.WaitFor(mutex_, absl::ToChronoNanoseconds(deadline - absl::Now()));
    }
    if (done_) return;
    cancelled_ = true;
    context->TryCancel();
  }

  mutable base::Mutex mutex_;
  base::CondVar changed_;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

class SidecarWorker final : public RemoteWorker {
 public:
  SidecarWorker(const RemoteWorkerOptions& options, std::shared_ptr<grpc::Channel> channel)
      : address_(options.address),
        geometry_(options.geometry),
        call_timeout_(options.call_timeout),
        close_timeout_(options.close_timeout),
        stub_(v1::Worker::NewStub(channel)),
        channel_(channel) {}
  ~SidecarWorker() override;
  absl::Status Start(const RemoteWorkerOptions& options);

  absl::StatusOr<SequenceId> Open(const SequenceOptions& options) override;
  absl::Status Close(SequenceId sequence) override;
  absl::Status Extend(SequenceId sequence, absl::Span<const int32_t> tokens) override;
  absl::Status Append(SequenceId sequence, uint32_t layer, const void* k, const void* v,
                      uint32_t tokens) override;
  absl::Status FinishPrefill(SequenceId sequence) override;
  absl::Status Warm(uint32_t layer, absl::Span<const AttendItem> items) override;
  absl::Status Attend(uint32_t layer, absl::Span<const AttendItem> items) override;
  absl::StatusOr<PageTable> ExportPageTable(uint32_t layer,
                                            absl::Span<const SequenceId> sequences) const override;
  absl::StatusOr<SequenceInfo> Info(SequenceId sequence) const override;
  WorkerStatus Status() const override;
  const WorkerOptions& options() const override { return options_; }
  std::span<const std::byte> pool() const override { return pool_->bytes(); }

 private:
  // One unary call: method is a member of the stub. piece: where its tensors are, if it has any.
  template <typename Request, typename Reply, typename Method>
  absl::Status Call(Method method, const Request& request, Reply* reply,
                    TensorArena::Piece* piece = nullptr) const {
    grpc::ClientContext context;
    const absl::Time deadline = absl::Now() + call_timeout_;
    context.set_deadline(absl::ToChronoTime(deadline));
    absl::Status status = base::FromGrpc((stub_.get()->*method)(&context, request, reply));
    if (absl::IsUnavailable(status)) {
      return base::Annotate(status, absl::StrCat("varve-worker on ", address_));
    }
    // The sidecar's own deadlines end calls in the same way, but earlier.
    if (!absl::IsDeadlineExceeded(status) || absl::Now() < deadline) return status;
    if (piece != nullptr) piece->Abandon();
    return absl::DeadlineExceededError(
        absl::StrCat("the sidecar did not answer within ", absl::FormatDuration(call_timeout_)));
  }
  v1::SequenceRef Ref(SequenceId sequence) const;
  absl::Status AppendPart(SequenceId sequence, uint32_t layer, const std::byte* k,
                          const std::byte* v, uint32_t tokens);
  // Where an item's tensors lie in the call's piece of shared memory.
  struct ItemPlaces {
    size_t q = 0, out = 0, lse = 0, k = 0, v = 0;
  };
  size_t query_bytes() const {
    return size_t{geometry_.num_query_heads} * geometry_.head_dim * sizeof(float);
  }
  size_t lse_bytes() const { return geometry_.num_query_heads * sizeof(float); }
  size_t token_bytes() const { return size_t{geometry_.num_kv_heads} * geometry_.row_bytes(); }
  void PlanItem(const AttendItem& item, TensorLayout& layout, ItemPlaces& places) const;
  absl::Status AttendPart(uint32_t layer, absl::Span<const AttendItem> items,
                          absl::Span<const ItemPlaces> places, size_t bytes);
  absl::Status Adopt(const v1::EngineReply& reply, const RemoteWorkerOptions& options);

  const std::string address_;
  const page::Geometry geometry_;
  const absl::Duration call_timeout_;
  const absl::Duration close_timeout_;
  const std::unique_ptr<v1::Worker::Stub> stub_;
  const std::shared_ptr<grpc::Channel> channel_;
  grpc::ClientContext stream_context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::EngineRequest, v1::EngineReply>> stream_;
  std::string engine_id_;
  WorkerOptions options_;
  std::unique_ptr<SharedFile> tensors_;
  std::unique_ptr<SharedFile> pool_;
  std::unique_ptr<TensorArena> arena_;
};

absl::Status SidecarWorker::Start(const RemoteWorkerOptions& options) {
  v1::EngineRequest request;
  *request.mutable_geometry() = ToProto(options.geometry);
  request.set_tensor_bytes(options.tensor_bytes);
  request.set_engine_name(options.engine_name);
  request.set_pool_bytes(options.pool_bytes);
  if (options.digest_kind) request.set_digest_kind(ToProto(*options.digest_kind));
  if (options.recall_path) request.set_recall_path(RecallPathName(*options.recall_path));
  request.set_mass_sample_every(options.mass_sample_every);
  stream_ = stub_->Engine(&stream_context_);
  v1::EngineReply reply;
  bool answered = false;
  bool late = false;
  {
    const CancelAfter watch(&stream_context_, call_timeout_);
    answered = stream_->Write(request) && stream_->Read(&reply);
    late = watch.cancelled();
  }
  if (!answered || late) {
    absl::Status refused = base::FromGrpc(stream_->Finish());
    stream_.reset();
    if (absl::IsUnimplemented(refused)) {
      return absl::FailedPreconditionError("what listens there is no varve-worker");
    }
    if (late) {
      return absl::DeadlineExceededError(absl::StrCat(
          "the sidecar did not attach the engine within ", absl::FormatDuration(call_timeout_)));
    }
    return refused.ok() ? absl::UnavailableError("the sidecar closed the session") : refused;
  }
  return Adopt(reply, options);
}

absl::Status SidecarWorker::Adopt(const v1::EngineReply& reply,
                                  const RemoteWorkerOptions& options) {
  engine_id_ = reply.engine_id();
  if (reply.page_bytes() != geometry_.page_bytes()) {
    return absl::InternalError(absl::StrCat("the sidecar's pages have ", reply.page_bytes(),
                                            " bytes, expected ", geometry_.page_bytes()));
  }
  VARVE_ASSIGN_OR_RETURN(tensors_,
                         SharedFile::Open(reply.tensor_path(), reply.tensor_bytes(), true));
  VARVE_ASSIGN_OR_RETURN(pool_, SharedFile::Open(reply.pool_path(), reply.pool_bytes(), false));
  arena_ = std::make_unique<TensorArena>(tensors_->bytes());
  options_.geometry = geometry_;
  options_.pool_bytes = reply.pool_bytes();
  VARVE_ASSIGN_OR_RETURN(options_.digest_kind, FromProto(reply.digest_kind()));
  VARVE_ASSIGN_OR_RETURN(options_.recall_path, ParseRecallPath(reply.recall_path()));
  options_.key_namespace = reply.key_namespace();
  options_.step_deadline = absl::Milliseconds(reply.step_deadline_ms());
  options_.mass_sample_every = options.mass_sample_every;
  return absl::OkStatus();
}

SidecarWorker::~SidecarWorker() {
  if (stream_ == nullptr) return;
  // The sidecar answers the half-close when the sequences are closed. When it does not, they are
  // closed without us.
  const CancelAfter watch(&stream_context_, close_timeout_);
  stream_->WritesDone();
  v1::EngineReply ignored;
  while (stream_->Read(&ignored)) {
  }
  stream_->Finish();
}

v1::SequenceRef SidecarWorker::Ref(SequenceId sequence) const {
  v1::SequenceRef ref;
  ref.set_engine_id(engine_id_);
  ref.set_sequence_id(sequence);
  return ref;
}

absl::StatusOr<SequenceId> SidecarWorker::Open(const SequenceOptions& options) {
  v1::OpenSequenceRequest request;
  request.set_engine_id(engine_id_);
  request.set_policy(options.policy.ToString());
  request.set_context_id(options.context_id);
  request.set_resume_context_id(options.resume_context_id);
  v1::SequenceInfo reply;
  VARVE_RETURN_IF_ERROR(Call(&v1::Worker::Stub::OpenSequence, request, &reply));
  return reply.sequence_id();
}

absl::Status SidecarWorker::Close(SequenceId sequence) {
  v1::CloseSequenceReply reply;
  return Call(&v1::Worker::Stub::CloseSequence, Ref(sequence), &reply);
}

absl::Status SidecarWorker::Extend(SequenceId sequence, absl::Span<const int32_t> tokens) {
  v1::ExtendRequest request;
  request.set_engine_id(engine_id_);
  request.set_sequence_id(sequence);
  request.mutable_tokens()->Add(tokens.begin(), tokens.end());
  v1::ExtendReply reply;
  return Call(&v1::Worker::Stub::Extend, request, &reply);
}

absl::Status SidecarWorker::AppendPart(SequenceId sequence, uint32_t layer, const std::byte* k,
                                       const std::byte* v, uint32_t tokens) {
  const size_t bytes = tokens * token_bytes();
  TensorLayout layout;
  const size_t k_at = layout.Add(bytes);
  const size_t v_at = layout.Add(bytes);
  VARVE_ASSIGN_OR_RETURN(TensorArena::Piece piece, arena_->Take(layout.size(), call_timeout_));
  if (tokens > 0) {
    std::memcpy(piece.bytes().data() + k_at, k, bytes);
    std::memcpy(piece.bytes().data() + v_at, v, bytes);
  }
  v1::AppendRequest request;
  request.set_engine_id(engine_id_);
  request.set_sequence_id(sequence);
  request.set_layer(layer);
  request.set_tokens(tokens);
  Refer(piece, k_at, bytes, request.mutable_k());
  Refer(piece, v_at, bytes, request.mutable_v());
  v1::AppendReply reply;
  return Call(&v1::Worker::Stub::Append, request, &reply, &piece);
}

absl::Status SidecarWorker::Append(SequenceId sequence, uint32_t layer, const void* k,
                                   const void* v, uint32_t tokens) {
  if (tokens > 0 && (k == nullptr || v == nullptr)) {
    return absl::InvalidArgumentError("keys or values are null");
  }
  const size_t row = token_bytes();
  const size_t fit = arena_->capacity() / 2 / (row + TensorArena::kAlignment);
  if (fit == 0) {
    return absl::ResourceExhaustedError(absl::StrCat("tensor_bytes is ", arena_->capacity(),
                                                     ", one token's keys and values need ",
                                                     2 * (row + TensorArena::kAlignment)));
  }
  const auto* keys = static_cast<const std::byte*>(k);
  const auto* values = static_cast<const std::byte*>(v);
  uint32_t done = 0;
  do {
    const auto count = static_cast<uint32_t>(std::min<size_t>(fit, tokens - done));
    VARVE_RETURN_IF_ERROR(
        AppendPart(sequence, layer, keys + done * row, values + done * row, count));
    done += count;
  } while (done < tokens);
  return absl::OkStatus();
}

absl::Status SidecarWorker::FinishPrefill(SequenceId sequence) {
  v1::SequenceInfo reply;
  return Call(&v1::Worker::Stub::FinishPrefill, Ref(sequence), &reply);
}

void SidecarWorker::PlanItem(const AttendItem& item, TensorLayout& layout,
                             ItemPlaces& places) const {
  places.q = layout.Add(query_bytes());
  places.out = layout.Add(query_bytes());
  if (item.lse != nullptr) places.lse = layout.Add(lse_bytes());
  if (item.k != nullptr) {
    places.k = layout.Add(token_bytes());
    places.v = layout.Add(token_bytes());
  }
}

absl::Status SidecarWorker::Warm(uint32_t layer, absl::Span<const AttendItem> items) {
  const size_t bytes = items.size() * query_bytes();
  if (bytes > arena_->capacity()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        items.size(), " items in a batch, at most ", arena_->capacity() / query_bytes(),
        " fit into the tensor memory of ", arena_->capacity(), " bytes"));
  }
  VARVE_ASSIGN_OR_RETURN(TensorArena::Piece piece, arena_->Take(bytes, call_timeout_));
  v1::StepRequest request;
  request.set_engine_id(engine_id_);
  request.set_layer(layer);
  request.set_warm(true);
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].q == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("item ", i, ": q is null"));
    }
    std::memcpy(piece.bytes().data() + i * query_bytes(), items[i].q, query_bytes());
    v1::StepItem* item = request.add_items();
    item->set_sequence_id(items[i].sequence);
    Refer(piece, i * query_bytes(), query_bytes(), item->mutable_q());
  }
  v1::StepReply reply;
  return Call(&v1::Worker::Stub::Step, request, &reply, &piece);
}

absl::Status SidecarWorker::AttendPart(uint32_t layer, absl::Span<const AttendItem> items,
                                       absl::Span<const ItemPlaces> places, size_t bytes) {
  VARVE_ASSIGN_OR_RETURN(TensorArena::Piece piece, arena_->Take(bytes, call_timeout_));
  std::byte* base = piece.bytes().data();
  v1::StepRequest request;
  request.set_engine_id(engine_id_);
  request.set_layer(layer);
  for (size_t i = 0; i < items.size(); ++i) {
    const AttendItem& from = items[i];
    v1::StepItem* item = request.add_items();
    item->set_sequence_id(from.sequence);
    std::memcpy(base + places[i].q, from.q, query_bytes());
    Refer(piece, places[i].q, query_bytes(), item->mutable_q());
    Refer(piece, places[i].out, query_bytes(), item->mutable_out());
    if (from.lse != nullptr) Refer(piece, places[i].lse, lse_bytes(), item->mutable_lse());
    if (from.k == nullptr) continue;
    std::memcpy(base + places[i].k, from.k, token_bytes());
    std::memcpy(base + places[i].v, from.v, token_bytes());
    Refer(piece, places[i].k, token_bytes(), item->mutable_k());
    Refer(piece, places[i].v, token_bytes(), item->mutable_v());
  }
  v1::StepReply reply;
  VARVE_RETURN_IF_ERROR(Call(&v1::Worker::Stub::Step, request, &reply, &piece));
  for (size_t i = 0; i < items.size(); ++i) {
    std::memcpy(items[i].out, base + places[i].out, query_bytes());
    if (items[i].lse != nullptr) std::memcpy(items[i].lse, base + places[i].lse, lse_bytes());
  }
  return absl::OkStatus();
}

absl::Status SidecarWorker::Attend(uint32_t layer, absl::Span<const AttendItem> items) {
  TensorLayout layout;
  std::vector<ItemPlaces> places(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].q == nullptr || items[i].out == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("item ", i, ": q or out is null"));
    }
    if ((items[i].k == nullptr) != (items[i].v == nullptr)) {
      return absl::InvalidArgumentError(
          absl::StrCat("item ", i, ": a key without its value, or a value without its key"));
    }
    PlanItem(items[i], layout, places[i]);
    if (layout.size() > arena_->capacity()) {
      return absl::ResourceExhaustedError(absl::StrCat(items.size(), " items in a batch, at most ",
                                                       i, " fit into the tensor memory of ",
                                                       arena_->capacity(), " bytes"));
    }
  }
  return AttendPart(layer, items, places, layout.size());
}

absl::StatusOr<PageTable> SidecarWorker::ExportPageTable(
    uint32_t layer, absl::Span<const SequenceId> sequences) const {
  v1::PageTableRequest request;
  request.set_engine_id(engine_id_);
  request.set_layer(layer);
  request.mutable_sequence_ids()->Add(sequences.begin(), sequences.end());
  v1::PageTableReply reply;
  VARVE_RETURN_IF_ERROR(Call(&v1::Worker::Stub::ExportPageTable, request, &reply));
  return PageTable{{reply.indptr().begin(), reply.indptr().end()},
                   {reply.indices().begin(), reply.indices().end()},
                   {reply.last_page_len().begin(), reply.last_page_len().end()}};
}

absl::StatusOr<SequenceInfo> SidecarWorker::Info(SequenceId sequence) const {
  v1::SequenceInfo reply;
  VARVE_RETURN_IF_ERROR(Call(&v1::Worker::Stub::GetSequence, Ref(sequence), &reply));
  return FromProto(reply);
}

WorkerStatus SidecarWorker::Status() const {
  v1::WorkerStatusRequest request;
  request.set_engine_id(engine_id_);
  v1::WorkerStatus reply;
  if (!Call(&v1::Worker::Stub::GetWorkerStatus, request, &reply).ok()) return {};
  return {reply.pool_pages(), reply.free_pages(), reply.sequences()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<RemoteWorker>> RemoteWorker::Attach(
    const RemoteWorkerOptions& options) {
  if (const auto wrong = options.geometry.Invalid()) {
    return absl::InvalidArgumentError(absl::StrCat("geometry: ", *wrong));
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // A channel of its own: a dead sidecar must not be remembered by the next attachment.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  auto channel =
      grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() +
                                 absl::ToChronoMilliseconds(options.connect_timeout))) {
    return absl::UnavailableError(absl::StrCat("no sidecar answers on ", options.address));
  }
  auto worker = std::make_unique<SidecarWorker>(options, std::move(channel));
  VARVE_RETURN_IF_ERROR(
      base::Annotate(worker->Start(options), absl::StrCat("attaching to ", options.address)));
  return worker;
}

}  // namespace varve::worker
