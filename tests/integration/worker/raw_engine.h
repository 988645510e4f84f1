// An engine of the sidecar by raw messages, for requests that RemoteWorker would never send.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "gpu_worker/sidecar/shared_file.h"
#include "gtest/gtest.h"
#include "varve/v1/worker.grpc.pb.h"

namespace varve::testing {

// Attached, or refused, when made; leaves when it goes. The stub outlives it.
class RawEngine {
 public:
  RawEngine(varve::v1::Worker::Stub* stub, const varve::v1::EngineRequest& request) : stub_(stub) {
    stream_ = stub->Engine(&context_);
    stream_->Write(request);
    if (!stream_->Read(&reply_)) {
      end_ = stream_->Finish();
      return;
    }
    auto file = worker::SharedFile::Open(reply_.tensor_path(), reply_.tensor_bytes(), true);
    EXPECT_TRUE(file.ok()) << file.status();
    if (file.ok()) tensors_ = std::move(*file);
  }
  ~RawEngine() {
    if (reply_.engine_id().empty()) return;
    stream_->WritesDone();
    stream_->Finish();
  }
  const std::string& id() const { return reply_.engine_id(); }
  const std::string& pool_path() const { return reply_.pool_path(); }
  const grpc::Status& end() const { return end_; }  // when it was refused
  float* tensor(uint64_t offset) const {
    return reinterpret_cast<float*>(tensors_->bytes().data() + offset);
  }
  template <typename Request, typename Reply>
  grpc::Status Do(grpc::Status (varve::v1::Worker::Stub::*method)(grpc::ClientContext*,
                                                                  const Request&, Reply*),
                  Request request, Reply* reply = nullptr) const {
    if (request.engine_id().empty()) request.set_engine_id(id());
    grpc::ClientContext context;
    Reply ignored;
    return (stub_->*method)(&context, request, reply == nullptr ? &ignored : reply);
  }

 private:
  varve::v1::Worker::Stub* const stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<varve::v1::EngineRequest, varve::v1::EngineReply>>
      stream_;
  varve::v1::EngineReply reply_;
  grpc::Status end_;
  std::unique_ptr<worker::SharedFile> tensors_;
};

}  // namespace varve::testing
