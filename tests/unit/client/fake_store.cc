#include "tests/unit/client/fake_store.h"

#include <thread>

#include "grpcpp/server_builder.h"

namespace varve::client::testing {

FakeStore::FakeStore() {
  grpc::ServerBuilder builder;
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
}

FakeStore::~FakeStore() {
  EndSessions();
  server_->Shutdown(std::chrono::system_clock::now());
}

std::shared_ptr<grpc::Channel> FakeStore::channel() { return server_->InProcessChannel({}); }

int FakeStore::sessions_opened() const {
  base::MutexLock lock(mutex_);
  return opened_;
}
std::set<uint64_t> FakeStore::regions() const {
  base::MutexLock lock(mutex_);
  return regions_;
}
int FakeStore::exists_calls() const {
  base::MutexLock lock(mutex_);
  return exists_calls_;
}
std::vector<int> FakeStore::exists_batches() const {
  base::MutexLock lock(mutex_);
  return batches_;
}
void FakeStore::RefuseSessions(int n, const grpc::Status& status) {
  base::MutexLock lock(mutex_);
  refuse_ = n;
  refusal_ = status;
}
void FakeStore::ForgetSessions() {
  base::MutexLock lock(mutex_);
  known_.clear();
}
void FakeStore::EndSessions() {
  base::MutexLock lock(mutex_);
  known_.clear();
  for (grpc::ServerContext* context : streams_) context->TryCancel();
}
void FakeStore::RefuseRegions(const grpc::Status& status) {
  base::MutexLock lock(mutex_);
  region_status_ = status;
}
void FakeStore::SilenceRegions() {
  base::MutexLock lock(mutex_);
  silent_ = streams_;
}
void FakeStore::HoldDigests(bool hold) {
  base::MutexLock lock(mutex_);
  hold_digests_ = hold;
}
std::vector<uint32_t> FakeStore::digests_read() const {
  base::MutexLock lock(mutex_);
  return digests_read_;
}
int FakeStore::get_calls() const {
  base::MutexLock lock(mutex_);
  return get_calls_;
}
void FakeStore::SetRecallBatch(size_t requests) {
  base::MutexLock lock(mutex_);
  recall_batch_ = requests;
}

size_t FakeStore::recalls_read() const {
  base::MutexLock lock(mutex_);
  return recalls_read_;
}

void FakeStore::SetMaxBatchItems(uint32_t items) {
  base::MutexLock lock(mutex_);
  max_batch_items_ = items;
}

bool FakeStore::Answer(grpc::ServerContext* context, const varve::v1::SessionRequest& request,
                       varve::v1::SessionReply* reply) {
  base::MutexLock lock(mutex_);
  if (request.has_open()) {
    const std::string id = "session-" + std::to_string(++opened_);
    known_.insert(id);
    regions_.clear();
    reply->mutable_opened()->set_session_id(id);
    reply->mutable_opened()->set_lane("loopback");
    reply->mutable_opened()->mutable_limits()->set_max_batch_items(max_batch_items_);
    return true;
  }
  reply->mutable_region()->set_error(region_status_.error_message());
  reply->mutable_region()->set_error_code(region_status_.error_code());
  if (!region_status_.ok()) return true;
  if (request.has_register_region()) regions_.insert(request.register_region().region_id());
  if (request.has_unregister_region()) regions_.erase(request.unregister_region().region_id());
  return !silent_.contains(context);
}

grpc::Status FakeStore::Session(grpc::ServerContext* context, SessionStream* stream) {
  {
    base::MutexLock lock(mutex_);
    if (refuse_ > 0) {
      --refuse_;
      return refusal_;
    }
    streams_.insert(context);
  }
  varve::v1::SessionRequest request;
  while (stream->Read(&request)) {
    varve::v1::SessionReply reply;
    if (Answer(context, request, &reply)) stream->Write(reply);
  }
  base::MutexLock lock(mutex_);
  streams_.erase(context);
  silent_.erase(context);
  return grpc::Status::OK;
}

grpc::Status FakeStore::Exists(grpc::ServerContext*, const varve::v1::ExistsRequest* request,
                               varve::v1::ExistsReply* reply) {
  {
    base::MutexLock lock(mutex_);
    ++exists_calls_;
    if (!known_.contains(request->session_id())) return {grpc::StatusCode::UNAUTHENTICATED, "who?"};
    batches_.push_back(request->keys_size());
  }
  for (int i = 0; i < request->keys_size(); ++i) reply->add_exists(i % 2 == 0);
  return grpc::Status::OK;
}

grpc::Status FakeStore::Get(grpc::ServerContext* context, const varve::v1::GetRequest*,
                            varve::v1::GetReply*) {
  {
    base::MutexLock lock(mutex_);
    ++get_calls_;
  }
  while (!context->IsCancelled()) std::this_thread::yield();
  return grpc::Status::CANCELLED;
}

grpc::Status FakeStore::RecallStream(grpc::ServerContext*, RecallStreamType* stream) {
  std::vector<varve::v1::RecallRequest> batch(1);
  while (stream->Read(&batch.back())) {
    {
      base::MutexLock lock(mutex_);
      ++recalls_read_;
      batch.emplace_back();
      if (batch.size() <= recall_batch_) continue;
    }
    batch.pop_back();
    for (; !batch.empty(); batch.pop_back()) {
      const varve::v1::RecallRequest& request = batch.back();
      varve::v1::RecallReply reply;
      reply.set_tag(request.tag());
      reply.mutable_timings()->set_total_us(request.sinks());
      if (request.sinks() == 13) {
        reply.set_error("thirteen");
        reply.set_error_code(grpc::StatusCode::FAILED_PRECONDITION);
      }
      stream->Write(reply);
    }
    batch.resize(1);
  }
  return grpc::Status::OK;
}

grpc::Status FakeStore::StreamDigests(grpc::ServerContext* context, DigestStream* stream) {
  const auto held = [&] {
    base::MutexLock lock(mutex_);
    return hold_digests_;
  };
  varve::v1::DigestBatch batch;
  for (;;) {
    while (held() && !context->IsCancelled()) std::this_thread::yield();
    if (!stream->Read(&batch)) break;
    {
      base::MutexLock lock(mutex_);
      digests_read_.push_back(batch.first_block());
    }
    varve::v1::DigestAck ack;
    ack.set_layer(batch.layer());
    if (batch.layer() > 0) ack.set_error("no such layer");
    stream->Write(ack);
  }
  return grpc::Status::OK;
}

}  // namespace varve::client::testing
