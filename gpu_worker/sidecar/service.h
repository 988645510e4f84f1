// The sidecar's gRPC service: checks, finds the engine, calls its worker. No payload passes through
// here.
//
// Thread-safe. Calls are synchronous: an engine has few in flight, and each may wait for the store.
#pragma once

#include <grpcpp/server_context.h>

#include <string>

#include "absl/time/time.h"
#include "gpu_worker/sidecar/engine_session.h"
#include "gpu_worker/sidecar/store_watch.h"
#include "kvstore/base/mutex.h"
#include "kvstore/base/rpc_metrics.h"
#include "varve/v1/worker.grpc.pb.h"

namespace varve::worker {

class WorkerService final : public v1::Worker::Service {
 public:
  // All outlive the service. store: its address, shown in status.
  WorkerService(EngineTable* engines, const StoreWatch* watch, std::string store,
                base::Metrics* metrics);

  grpc::Status Engine(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::EngineReply, v1::EngineRequest>* stream) override;
  grpc::Status OpenSequence(grpc::ServerContext*, const v1::OpenSequenceRequest* request,
                            v1::SequenceInfo* reply) override;
  grpc::Status CloseSequence(grpc::ServerContext*, const v1::SequenceRef* request,
                             v1::CloseSequenceReply* reply) override;
  grpc::Status Extend(grpc::ServerContext*, const v1::ExtendRequest* request,
                      v1::ExtendReply* reply) override;
  grpc::Status Append(grpc::ServerContext*, const v1::AppendRequest* request,
                      v1::AppendReply* reply) override;
  grpc::Status FinishPrefill(grpc::ServerContext*, const v1::SequenceRef* request,
                             v1::SequenceInfo* reply) override;
  grpc::Status Step(grpc::ServerContext*, const v1::StepRequest* request,
                    v1::StepReply* reply) override;
  grpc::Status ExportPageTable(grpc::ServerContext*, const v1::PageTableRequest* request,
                               v1::PageTableReply* reply) override;
  grpc::Status GetSequence(grpc::ServerContext*, const v1::SequenceRef* request,
                           v1::SequenceInfo* reply) override;
  grpc::Status GetWorkerStatus(grpc::ServerContext*, const v1::WorkerStatusRequest* request,
                               v1::WorkerStatus* reply) override;

  // Until no call but Engine streams is under way, or the time is over.
  void WaitIdle(absl::Duration patience);
  // What GetWorkerStatus answers without an engine.
  void FillStatus(v1::WorkerStatus* reply) const;

 private:
  // Runs call() and counts it under the method's name; its errors become gRPC's.
  template <typename Call>
  grpc::Status Counted(const char* method, Call&& call);
  // The same with the session of an attached engine.
  template <typename Call>
  grpc::Status With(const char* method, const std::string& engine_id, Call&& call);
  absl::Status ServeEngine(grpc::ServerReaderWriter<v1::EngineReply, v1::EngineRequest>* stream);

  EngineTable* const engines_;
  const StoreWatch* const watch_;
  const std::string store_;
  const absl::Time started_;
  base::ServiceMetrics methods_;

  base::Mutex mutex_;
  base::CondVar idle_;
  int under_way_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace varve::worker
