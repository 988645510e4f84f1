#include "gpu_worker/sidecar/service.h"

#include <google/protobuf/descriptor.h>

#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "kvstore/base/grpc_status.h"
#include "kvstore/base/status.h"
#include "kvstore/base/version.h"

namespace varve::worker {
namespace {

absl::Status FillInfo(Worker& worker, SequenceId id, v1::SequenceInfo* reply) {
  VARVE_ASSIGN_OR_RETURN(const SequenceInfo info, worker.Info(id));
  ToProto(info, reply);
  return absl::OkStatus();
}

}  // namespace

template <typename Call>
grpc::Status WorkerService::Counted(const char* method, Call&& call) {
  base::RpcMetrics& metrics = methods_.at(method);
  const absl::Time begin = absl::Now();
  metrics.Started();
  const absl::Status status = call();
  metrics.Handled(status.code(), absl::ToDoubleSeconds(absl::Now() - begin));
  return base::ToGrpc(status);
}

template <typename Call>
grpc::Status WorkerService::With(const char* method, const std::string& engine_id, Call&& call) {
  {
    base::MutexLock lock(mutex_);
    ++under_way_;
  }
  const grpc::Status status = Counted(method, [&]() -> absl::Status {
    const auto session = engines_->Find(engine_id);
    return session.ok() ? call(**session) : session.status();
  });
  base::MutexLock lock(mutex_);
  if (--under_way_ == 0) idle_.NotifyAll();
  return status;
}

void WorkerService::WaitIdle(absl::Duration patience) {
  const absl::Time deadline = absl::Now() + patience;
  base::MutexLock lock(mutex_);
  while (under_way_ > 0) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return;
    idle_.WaitFor(mutex_, absl::ToChronoNanoseconds(left));
  }
}

WorkerService::WorkerService(EngineTable* engines, const StoreWatch* watch, std::string store,
                             base::Metrics* metrics)
    : engines_(engines),
      watch_(watch),
      store_(std::move(store)),
      started_(absl::Now()),
      methods_(*metrics, *v1::StepRequest::descriptor()->file()->FindServiceByName("Worker")) {}

grpc::Status WorkerService::Engine(
    grpc::ServerContext*, grpc::ServerReaderWriter<v1::EngineReply, v1::EngineRequest>* stream) {
  return Counted("Engine", [&] { return ServeEngine(stream); });
}

absl::Status WorkerService::ServeEngine(
    grpc::ServerReaderWriter<v1::EngineReply, v1::EngineRequest>* stream) {
  v1::EngineRequest request;
  if (!stream->Read(&request)) return absl::OkStatus();
  auto session = engines_->Attach(request);
  if (!session.ok()) return session.status();
  const std::string id = (*session)->id();
  v1::EngineReply reply;
  (*session)->Describe(&reply);
  session = absl::CancelledError();  // Detach waits for whoever holds it
  bool alive = stream->Write(reply);
  bool extra = false;
  while (alive && stream->Read(&request)) {
    extra = true;
    alive = false;
  }
  engines_->Detach(id);
  if (extra) {
    return absl::InvalidArgumentError("an Engine stream takes one request: the first");
  }
  return absl::OkStatus();
}

grpc::Status WorkerService::OpenSequence(grpc::ServerContext*,
                                         const v1::OpenSequenceRequest* request,
                                         v1::SequenceInfo* reply) {
  return With("OpenSequence", request->engine_id(), [&](EngineSession& session) -> absl::Status {
    SequenceOptions options;
    VARVE_ASSIGN_OR_RETURN(options.policy, ParsePolicy(request->policy()));
    options.context_id = request->context_id();
    options.resume_context_id = request->resume_context_id();
    VARVE_ASSIGN_OR_RETURN(const SequenceId id, session.worker().Open(options));
    return FillInfo(session.worker(), id, reply);
  });
}

grpc::Status WorkerService::CloseSequence(grpc::ServerContext*, const v1::SequenceRef* request,
                                          v1::CloseSequenceReply*) {
  return With("CloseSequence", request->engine_id(), [&](EngineSession& session) {
    return session.worker().Close(request->sequence_id());
  });
}

grpc::Status WorkerService::Extend(grpc::ServerContext*, const v1::ExtendRequest* request,
                                   v1::ExtendReply*) {
  return With("Extend", request->engine_id(), [&](EngineSession& session) {
    return session.worker().Extend(request->sequence_id(), request->tokens());
  });
}

grpc::Status WorkerService::Append(grpc::ServerContext*, const v1::AppendRequest* request,
                                   v1::AppendReply*) {
  return With("Append", request->engine_id(),
              [&](EngineSession& session) { return session.Append(*request); });
}

grpc::Status WorkerService::FinishPrefill(grpc::ServerContext*, const v1::SequenceRef* request,
                                          v1::SequenceInfo* reply) {
  return With("FinishPrefill", request->engine_id(), [&](EngineSession& session) -> absl::Status {
    VARVE_RETURN_IF_ERROR(session.worker().FinishPrefill(request->sequence_id()));
    return FillInfo(session.worker(), request->sequence_id(), reply);
  });
}

grpc::Status WorkerService::Step(grpc::ServerContext*, const v1::StepRequest* request,
                                 v1::StepReply*) {
  return With("Step", request->engine_id(),
              [&](EngineSession& session) { return session.Step(*request); });
}

grpc::Status WorkerService::ExportPageTable(grpc::ServerContext*,
                                            const v1::PageTableRequest* request,
                                            v1::PageTableReply* reply) {
  return With("ExportPageTable", request->engine_id(), [&](EngineSession& session) -> absl::Status {
    const std::vector<SequenceId> ids(request->sequence_ids().begin(),
                                      request->sequence_ids().end());
    VARVE_ASSIGN_OR_RETURN(const PageTable table,
                           session.worker().ExportPageTable(request->layer(), ids));
    reply->mutable_indptr()->Add(table.indptr.begin(), table.indptr.end());
    reply->mutable_indices()->Add(table.indices.begin(), table.indices.end());
    reply->mutable_last_page_len()->Add(table.last_page_len.begin(), table.last_page_len.end());
    return absl::OkStatus();
  });
}

grpc::Status WorkerService::GetSequence(grpc::ServerContext*, const v1::SequenceRef* request,
                                        v1::SequenceInfo* reply) {
  return With("GetSequence", request->engine_id(), [&](EngineSession& session) {
    return FillInfo(session.worker(), request->sequence_id(), reply);
  });
}

void WorkerService::FillStatus(v1::WorkerStatus* reply) const {
  const WorkerStatus total = engines_->Total();
  reply->set_version(base::kVersion);
  reply->set_uptime_ms(absl::ToInt64Milliseconds(absl::Now() - started_));
  reply->set_pool_pages(total.pool_pages);
  reply->set_free_pages(total.free_pages);
  reply->set_sequences(total.sequences);
  reply->set_engines(static_cast<uint32_t>(engines_->All().size()));
  reply->set_store(store_);
  reply->set_store_connected(watch_->state().ok());
  reply->set_lane(engines_->lane());
}

grpc::Status WorkerService::GetWorkerStatus(grpc::ServerContext*,
                                            const v1::WorkerStatusRequest* request,
                                            v1::WorkerStatus* reply) {
  FillStatus(reply);
  if (request->engine_id().empty()) {
    return Counted("GetWorkerStatus", [] { return absl::OkStatus(); });
  }
  return With("GetWorkerStatus", request->engine_id(), [&](EngineSession& session) {
    const WorkerStatus status = session.worker().Status();
    reply->set_pool_pages(status.pool_pages);
    reply->set_free_pages(status.free_pages);
    reply->set_sequences(status.sequences);
    return absl::OkStatus();
  });
}

}  // namespace varve::worker
