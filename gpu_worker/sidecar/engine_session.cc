#include "gpu_worker/sidecar/engine_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/call_deadline.h"
#include "kvstore/base/hash.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"

namespace varve::worker {
namespace {

constexpr uint64_t kDefaultTensorBytes = 64ull << 20;
constexpr uint64_t kMaxTensorBytes = 64ull << 30;
constexpr size_t kMaxNameBytes = 128;

absl::Status FillOptions(const v1::EngineRequest& request, const v1::WorkerConfig& config,
                         WorkerOptions* options) {
  VARVE_ASSIGN_OR_RETURN(options->geometry, FromProto(request.geometry()));
  options->digest_kind = *page::DigestKindByName(config.digest());
  if (request.digest_kind() != v1::DIGEST_KIND_UNSPECIFIED) {
    VARVE_ASSIGN_OR_RETURN(options->digest_kind, FromProto(request.digest_kind()));
  }
  const std::string& path =
      request.recall_path().empty() ? config.recall_path() : request.recall_path();
  VARVE_ASSIGN_OR_RETURN(options->recall_path, ParseRecallPath(path));
  options->mass_sample_every =
      request.mass_sample_every() != 0 ? request.mass_sample_every() : config.mass_sample_every();
  options->key_namespace = config.key_namespace();
  options->step_deadline = absl::Milliseconds(config.step_deadline_ms());
  options->transfer_deadline = absl::Milliseconds(config.transport().transfer_deadline_ms());
  options->attend_threads = config.attend_threads();
  options->prefetch_layers = config.prefetch_layers();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<EngineSession>> EngineSession::Create(
    const v1::EngineRequest& request, const v1::WorkerConfig& config, uint64_t pool_bytes,
    client::Client* client, WorkerOptions options) {
  if (request.engine_name().size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("engine_name has ", request.engine_name().size(),
                                                   " bytes, allowed: at most ", kMaxNameBytes));
  }
  const uint64_t tensor_bytes =
      request.tensor_bytes() == 0 ? kDefaultTensorBytes : request.tensor_bytes();
  if (tensor_bytes > kMaxTensorBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor_bytes is ", tensor_bytes, ", allowed: at most ", kMaxTensorBytes));
  }
  VARVE_RETURN_IF_ERROR(FillOptions(request, config, &options));
  std::unique_ptr<EngineSession> session(new EngineSession());
  session->id_ = base::RandomBytes(16);
  session->name_ = request.engine_name();
  VARVE_ASSIGN_OR_RETURN(session->tensors_,
                         SharedFile::Create(config.shared_memory_dir(), "tensors", tensor_bytes));
  VARVE_ASSIGN_OR_RETURN(session->pool_,
                         SharedFile::Create(config.shared_memory_dir(), "pool", pool_bytes));
  options.pool_memory = session->pool_->bytes();
  options.pool_bytes = pool_bytes;
  VARVE_ASSIGN_OR_RETURN(session->worker_, Worker::Create(options, client));
  return session;
}

void EngineSession::Describe(v1::EngineReply* reply) const {
  const WorkerOptions& options = worker_->options();
  reply->set_engine_id(id_);
  reply->set_tensor_path(tensors_->path());
  reply->set_tensor_bytes(tensors_->bytes().size());
  reply->set_pool_path(pool_->path());
  reply->set_pool_bytes(pool_->bytes().size());
  reply->set_page_bytes(options.geometry.page_bytes());
  reply->set_digest_kind(ToProto(options.digest_kind));
  reply->set_recall_path(RecallPathName(options.recall_path));
  reply->set_key_namespace(options.key_namespace);
  reply->set_step_deadline_ms(absl::ToInt64Milliseconds(options.step_deadline));
}

absl::StatusOr<std::byte*> EngineSession::Tensor(const v1::TensorRef& ref, uint64_t bytes,
                                                 size_t element, const char* what) const {
  const uint64_t size = tensors_->bytes().size();
  if (ref.bytes() != bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " has ", ref.bytes(), " bytes, expected ", bytes));
  }
  if (ref.offset() > size || ref.bytes() > size - ref.offset() || ref.offset() % element != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, " at offset ", ref.offset(), "+", ref.bytes(), ", allowed: multiples of ", element,
        " inside the ", size, " bytes of tensor memory"));
  }
  return tensors_->bytes().data() + ref.offset();
}

absl::Status EngineSession::Append(const v1::AppendRequest& request) {
  const page::Geometry& g = worker_->options().geometry;
  const uint64_t bytes = uint64_t{request.tokens()} * g.num_kv_heads * g.row_bytes();
  const size_t element = page::DTypeBytes(g.dtype);
  VARVE_ASSIGN_OR_RETURN(const std::byte* k, Tensor(request.k(), bytes, element, "k"));
  VARVE_ASSIGN_OR_RETURN(const std::byte* v, Tensor(request.v(), bytes, element, "v"));
  return worker_->Append(request.sequence_id(), request.layer(), k, v, request.tokens());
}

absl::Status EngineSession::Step(const v1::StepRequest& request) {
  const page::Geometry& g = worker_->options().geometry;
  const uint64_t row = uint64_t{g.num_kv_heads} * g.row_bytes();
  const size_t element = page::DTypeBytes(g.dtype);
  const uint64_t query = uint64_t{g.num_query_heads} * g.head_dim * sizeof(float);
  std::vector<AttendItem> items;
  for (const v1::StepItem& item : request.items()) {
    VARVE_ASSIGN_OR_RETURN(std::byte * q, Tensor(item.q(), query, sizeof(float), "q"));
    if (request.warm()) {
      items.push_back({item.sequence_id(), reinterpret_cast<const float*>(q)});
      continue;
    }
    VARVE_ASSIGN_OR_RETURN(std::byte * out, Tensor(item.out(), query, sizeof(float), "out"));
    std::byte* lse = nullptr;
    if (item.has_lse()) {
      VARVE_ASSIGN_OR_RETURN(
          lse, Tensor(item.lse(), g.num_query_heads * sizeof(float), sizeof(float), "lse"));
    }
    AttendItem& taken = items.emplace_back();
    taken.sequence = item.sequence_id();
    taken.q = reinterpret_cast<const float*>(q);
    taken.out = reinterpret_cast<float*>(out);
    taken.lse = reinterpret_cast<float*>(lse);
    if (item.has_k() || item.has_v()) {
      VARVE_ASSIGN_OR_RETURN(taken.k, Tensor(item.k(), row, element, "k"));
      VARVE_ASSIGN_OR_RETURN(taken.v, Tensor(item.v(), row, element, "v"));
    }
  }
  return request.warm() ? worker_->Warm(request.layer(), items)
                        : worker_->Attend(request.layer(), items);
}

// ---- EngineTable

void EngineTable::Open(client::Client* client) {
  base::MutexLock lock(mutex_);
  client_ = client;
}

std::string EngineTable::lane() const {
  client::Client* client = nullptr;
  {
    base::MutexLock lock(mutex_);
    client = client_;
  }
  return client == nullptr ? "" : client->lane();
}

absl::StatusOr<std::shared_ptr<EngineSession>> EngineTable::Attach(
    const v1::EngineRequest& request) {
  uint64_t pool_bytes = request.pool_bytes();
  client::Client* client = nullptr;
  {
    base::MutexLock lock(mutex_);
    if (closed_) return absl::UnavailableError("the worker is shutting down");
    if (client_ == nullptr) return absl::UnavailableError("the worker waits for its store");
    client = client_;
    const uint64_t left = config_.pool_bytes() - std::min(config_.pool_bytes(), pool_in_use_);
    if (pool_bytes == 0 && left == 0) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the page pool of ", config_.pool_bytes(), " bytes is taken: ", engines_.size(),
          " engines are attached; give each a share (pool_bytes)"));
    }
    if (pool_bytes == 0) pool_bytes = left;
    if (pool_bytes > left) {
      return absl::ResourceExhaustedError(
          absl::StrCat("pool_bytes is ", pool_bytes, ", available: ", left, " of ",
                       config_.pool_bytes(), ", ", engines_.size(), " engines are attached"));
    }
    pool_in_use_ += pool_bytes;
  }
  auto session = EngineSession::Create(request, config_, pool_bytes, client, common_);
  if (!session.ok()) {
    base::MutexLock lock(mutex_);
    pool_in_use_ -= pool_bytes;
    return session.status();
  }
  base::LogInfo("engine '", (*session)->name(),
                "' attached: ", (*session)->worker().options().geometry.ToString());
  std::promise<void> let_go;
  std::future<void> unused = let_go.get_future();
  std::shared_ptr<EngineSession> shared(
      session->get(), [let_go = std::move(let_go)](EngineSession*) mutable { let_go.set_value(); });
  const std::string id = shared->id();
  base::MutexLock lock(mutex_);
  engines_.emplace(id, Attached{*std::move(session), shared, std::move(unused)});
  return shared;
}

void EngineTable::Detach(const std::string& id) {
  Attached leaving;
  {
    base::MutexLock lock(mutex_);
    const auto it = engines_.find(id);
    if (it == engines_.end()) return;
    leaving = std::move(it->second);
    engines_.erase(it);
  }
  base::LogInfo("engine '", leaving.session->name(), "' left, ",
                leaving.session->worker().Status().sequences, " sequences closed with it");
  // Calls under way end by deadlines of their own.
  leaving.shared.reset();
  leaving.unused.wait();
  const uint64_t pool_bytes = leaving.session->pool_bytes();
  absl::Time until;
  {
    base::MutexLock lock(mutex_);
    until = until_;
  }
  {
    const client::CallDeadline deadline(until);
    leaving.session.reset();
  }
  // Not before the memory is free: the next engine's must fit in.
  base::MutexLock lock(mutex_);
  pool_in_use_ -= pool_bytes;
}

absl::StatusOr<std::shared_ptr<EngineSession>> EngineTable::Find(const std::string& id) const {
  base::MutexLock lock(mutex_);
  if (closed_) return absl::UnavailableError("the worker is shutting down");
  const auto it = engines_.find(id);
  if (it == engines_.end()) {
    return absl::UnauthenticatedError(
        "no engine with this engine_id is attached: open an Engine stream");
  }
  return it->second.shared;
}

std::vector<std::shared_ptr<EngineSession>> EngineTable::All() const {
  base::MutexLock lock(mutex_);
  std::vector<std::shared_ptr<EngineSession>> all;
  for (const auto& [id, attached] : engines_) all.push_back(attached.shared);
  return all;
}

WorkerStatus EngineTable::Total() const {
  WorkerStatus total;
  for (const auto& session : All()) {
    const WorkerStatus status = session->worker().Status();
    total.pool_pages += status.pool_pages;
    total.free_pages += status.free_pages;
    total.sequences += status.sequences;
  }
  return total;
}

void EngineTable::Close(absl::Time until) {
  base::MutexLock lock(mutex_);
  closed_ = true;
  until_ = until;
}

}  // namespace varve::worker
