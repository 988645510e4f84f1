// A store that answers as the test says: only the calls that the client's session logic is made of.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "grpcpp/server.h"
#include "kvstore/base/mutex.h"
#include "varve/v1/store.grpc.pb.h"

namespace varve::client::testing {

class FakeStore final : public varve::v1::Store::Service {
 public:
  FakeStore();
  ~FakeStore() override;

  std::shared_ptr<grpc::Channel> channel();

  // ---- what happened
  int sessions_opened() const;
  // Regions that the newest session knows.
  std::set<uint64_t> regions() const;
  int exists_calls() const;

  // ---- what shall happen
  // The next n sessions are refused with the status.
  void RefuseSessions(int n, const grpc::Status& status);
  // Forgets every session without ending its stream: calls get UNAUTHENTICATED.
  void ForgetSessions();
  // Ends the streams of all sessions.
  void EndSessions();
  // Every later registration is answered with this status.
  void RefuseRegions(const grpc::Status& status);
  // Later registrations and their ends in the sessions that are open now are done, but not
  // answered.
  void SilenceRegions();
  // While held no digests are read, nor acknowledged.
  void HoldDigests(bool hold);
  // First blocks of the batches of digests that were read so far.
  std::vector<uint32_t> digests_read() const;
  // Gets so far; each waits until it is cancelled.
  int get_calls() const;
  void SetMaxBatchItems(uint32_t items);
  // Recalls are answered when so many have come in; 2 unless set.
  void SetRecallBatch(size_t requests);
  size_t recalls_read() const;
  // Sizes of the Exists batches so far.
  std::vector<int> exists_batches() const;

 private:
  using SessionStream =
      grpc::ServerReaderWriter<varve::v1::SessionReply, varve::v1::SessionRequest>;
  using DigestStream = grpc::ServerReaderWriter<varve::v1::DigestAck, varve::v1::DigestBatch>;
  using RecallStreamType =
      grpc::ServerReaderWriter<varve::v1::RecallReply, varve::v1::RecallRequest>;

  grpc::Status Session(grpc::ServerContext* context, SessionStream* stream) override;
  grpc::Status Exists(grpc::ServerContext* context, const varve::v1::ExistsRequest* request,
                      varve::v1::ExistsReply* reply) override;
  grpc::Status Get(grpc::ServerContext* context, const varve::v1::GetRequest* request,
                   varve::v1::GetReply* reply) override;
  // Answers in the reverse order of each recall_batch requests.
  grpc::Status RecallStream(grpc::ServerContext* context, RecallStreamType* stream) override;
  // Refuses layers above 0.
  grpc::Status StreamDigests(grpc::ServerContext* context, DigestStream* stream) override;

  // False: no reply shall be sent.
  bool Answer(grpc::ServerContext* context, const varve::v1::SessionRequest& request,
              varve::v1::SessionReply* reply);

  mutable base::Mutex mutex_;
  int opened_ ABSL_GUARDED_BY(mutex_) = 0;
  int refuse_ ABSL_GUARDED_BY(mutex_) = 0;
  int exists_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t recall_batch_ ABSL_GUARDED_BY(mutex_) = 2;
  size_t recalls_read_ ABSL_GUARDED_BY(mutex_) = 0;
  int get_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  std::set<grpc::ServerContext*> silent_ ABSL_GUARDED_BY(mutex_);  // of streams_
  bool hold_digests_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<uint32_t> digests_read_ ABSL_GUARDED_BY(mutex_);
  uint32_t max_batch_items_ ABSL_GUARDED_BY(mutex_) = 0;
  grpc::Status refusal_ ABSL_GUARDED_BY(mutex_);
  grpc::Status region_status_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> known_ ABSL_GUARDED_BY(mutex_);  // session ids
  std::set<uint64_t> regions_ ABSL_GUARDED_BY(mutex_);
  std::set<grpc::ServerContext*> streams_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> batches_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace varve::client::testing
