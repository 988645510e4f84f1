// The one implementation of Client, spread over objects.cc, contexts.cc, recall.cc and admin.cc.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/call_deadline.h"
#include "client/client.h"
#include "client/convert.h"
#include "client/exchange_stream.h"
#include "client/in_flight.h"
#include "client/inline_transfer.h"
#include "client/registered_memory.h"
#include "client/session.h"
#include "grpcpp/channel.h"
#include "kvstore/transport/transport.h"
#include "varve/v1/store.grpc.pb.h"

namespace varve::client {

// A long-lived stream that belongs to one session: opened on first use and again for each new
// session.
template <typename Request, typename Reply>
class SessionStream {
 public:
  using Stream = ExchangeStream<Request, Reply>;
  SessionStream(typename Stream::Bind bind, typename Stream::TagOf tag_of, size_t max_unanswered,
                typename Stream::HasMore has_more = nullptr)
      : bind_(std::move(bind)),
        tag_of_(tag_of),
        has_more_(has_more),
        max_unanswered_(max_unanswered) {}

  std::shared_ptr<Stream> For(uint64_t generation) {
    base::MutexLock lock(mutex_);
    if (stream_ != nullptr && generation_ == generation && stream_->alive()) return stream_;
    if (stream_ != nullptr) Retire();
    stream_ = Stream::Start(
        bind_, tag_of_, [] {}, max_unanswered_, has_more_);
    generation_ = generation;
    return stream_;
  }
  void Close() {
    base::MutexLock lock(mutex_);
    if (stream_ != nullptr) Retire();
    for (const std::shared_ptr<Stream>& old : retired_) old->CancelAndWait();
  }

 private:
  // Kept until it has ended, so that Close leaves nothing behind.
  void Retire() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    stream_->Cancel();
    std::erase_if(retired_, [](const auto& old) { return old->finished(); });
    retired_.push_back(std::move(stream_));
  }

  const typename Stream::Bind bind_;
  const typename Stream::TagOf tag_of_;
  const typename Stream::HasMore has_more_;
  const size_t max_unanswered_;
  base::Mutex mutex_;
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  std::shared_ptr<Stream> stream_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Stream>> retired_ ABSL_GUARDED_BY(mutex_);
};

// The error that a reply on a stream carries.
absl::Status ErrorIn(const v1::DigestAck& ack);
absl::Status ErrorIn(const v1::RecallReply& reply);

class ClientImpl final : public Client {
 public:
  // transport null: inline only. own_transport: the same one when the client owns it.
  ClientImpl(std::shared_ptr<grpc::Channel> channel, transport::Transport* transport,
             std::unique_ptr<transport::Transport> own_transport, const ClientOptions& options);
  ~ClientImpl() override;

  // Opens the session.
  absl::Status Start();

  std::string lane() const override;
  uint64_t session() const override {
    const Session::OpenedPtr opened = session_.current();
    return opened == nullptr ? 0 : opened->generation;
  }
  ClientLimits limits() const override;
  absl::StatusOr<std::unique_ptr<Memory>> Register(std::span<std::byte> memory) override;
  absl::StatusOr<std::unique_ptr<Memory>> Allocate(size_t bytes) override;

  absl::StatusOr<std::vector<bool>> Exists(std::span<const page::ObjectKey> keys) override;
  absl::StatusOr<uint32_t> LongestPrefix(std::span<const page::ObjectKey> keys) override;
  absl::StatusOr<std::vector<PutResult>> Put(std::span<const PutItem> items) override;
  absl::StatusOr<std::vector<GetResult>> Get(std::span<const GetItem> items) override;
  void PutAsync(std::vector<PutItem> items,
                std::function<void(absl::StatusOr<std::vector<PutResult>>)> done) override;
  void GetAsync(std::vector<GetItem> items,
                std::function<void(absl::StatusOr<std::vector<GetResult>>)> done) override;
  absl::StatusOr<std::vector<bool>> Remove(std::span<const page::ObjectKey> keys,
                                           bool force) override;
  absl::StatusOr<std::vector<bool>> Pin(std::span<const page::ObjectKey> keys,
                                        absl::Duration ttl) override;
  absl::StatusOr<std::vector<bool>> Unpin(std::span<const page::ObjectKey> keys) override;
  absl::StatusOr<ObjectPage> List(std::string_view key_prefix, uint32_t page_size,
                                  const std::string& page_token) override;
  absl::StatusOr<std::vector<PrefetchOutcome>> Prefetch(
      std::span<const page::ObjectKey> keys) override;
  absl::StatusOr<PutResult> PutInline(const page::ObjectKey& key, std::span<const std::byte> value,
                                      const ValueInfo& info) override;
  absl::StatusOr<GetResult> GetInline(const page::ObjectKey& key, const page::ObjectRange& range,
                                      std::string* value) override;

  absl::StatusOr<ContextInfo> OpenContext(const std::string& id, const page::Geometry& geometry,
                                          page::DigestKind kind) override;
  absl::StatusOr<ContextInfo> AppendContext(const std::string& id, uint32_t first_block,
                                            std::span<const std::string> block_hashes) override;
  absl::StatusOr<ContextInfo> TruncateContext(const std::string& id, uint32_t num_blocks) override;
  absl::StatusOr<ContextInfo> ForkContext(const std::string& id, const std::string& new_id,
                                          uint32_t num_blocks) override;
  absl::StatusOr<ContextInfo> AttachContext(const std::string& id) override;
  absl::StatusOr<ContextInfo> ParkContext(const std::string& id,
                                          std::span<const HotPages> hot) override;
  absl::Status DropContext(const std::string& id) override;
  absl::StatusOr<std::vector<ContextInfo>> ListContexts() override;
  absl::Status SendDigests(const std::string& id, uint32_t epoch, uint32_t layer,
                           uint32_t first_block, uint32_t num_blocks, std::string rows,
                           absl::Time sealed) override;
  absl::Status ReadDigests(
      const std::string& id, uint32_t epoch, uint32_t layer_begin, uint32_t layer_count,
      const std::function<absl::Status(uint32_t, uint32_t, uint32_t, std::string_view)>& sink)
      override;
  absl::StatusOr<RecallResult> Recall(const RecallQuery& query,
                                      const OnRecalledLayer& on_layer) override;

  absl::StatusOr<StoreStatus> Status() override;
  absl::StatusOr<std::string> Config() override;
  absl::Status Drain() override;
  absl::StatusOr<EvictOutcome> Evict(const std::string& key_namespace,
                                     std::string_view key_prefix) override;
  absl::StatusOr<std::vector<std::string>> ListNamespaces() override;
  absl::Status AddDirectory(const std::string& path, uint64_t capacity_bytes) override;
  void DrainDirectoryAsync(const std::string& path,
                           std::function<void(absl::Status)> done) override;
  void DrainTierAsync(Tier tier, std::function<void(absl::StatusOr<uint64_t>)> done) override;
  void ResizeTierAsync(Tier tier, uint64_t capacity_bytes,
                       std::function<void(absl::Status)> done) override;
  absl::Status Echo(size_t bytes) override;

 private:
  template <typename Request, typename Reply>
  using Method = grpc::Status (v1::Store::StubInterface::*)(grpc::ClientContext*, const Request&,
                                                            Reply*);

  // One blocking call without a session.
  template <typename Request, typename Reply>
  absl::Status CallBare(Method<Request, Reply> method, const Request& request, Reply* reply,
                        absl::Duration deadline);
  // One blocking call within the session; once more in a new session when the store had forgotten
  // this one (it has then not looked at the request).
  template <typename Request, typename Reply>
  absl::Status Call(Method<Request, Reply> method, Request& request, Reply* reply,
                    absl::Duration deadline);

  bool inline_only() const { return transport_ == nullptr; }
  // UNAUTHENTICATED and CANCELLED, the store's words for a session that it lost and a call that it
  // gave up, are UNAVAILABLE to callers; other errors of the connection name the store.
  absl::Status Explain(const absl::Status& status) const;
  absl::Duration transfer_call_deadline() const;
  uint32_t transfer_deadline_ms() const;

  // Items of one request; everything before the first session.
  size_t batch_limit() const;
  template <typename Request, typename Reply>
  absl::StatusOr<std::vector<bool>> CallForKeys(
      Method<Request, Reply> method, std::span<const page::ObjectKey> keys, Request request,
      const google::protobuf::RepeatedField<bool>& (Reply::*results)() const);
  absl::Status FillRequest(std::span<const PutItem> items, v1::PutRequest& request) const;
  absl::Status FillRequest(std::span<const GetItem> items, v1::GetRequest& request) const;
  template <typename Result>
  using InlineStart = std::function<void(const InlineChannel&, InlineDone<Result>)>;
  // Of a batch the good items, ready to be sent; `bad` has the results of the others, in order.
  template <typename Result>
  struct InlineBatch {
    InlineStart<Result> start;
    std::vector<std::optional<Result>> bad;
  };
  absl::StatusOr<InlineBatch<PutResult>> BatchInline(std::span<const PutItem> items) const;
  absl::StatusOr<InlineBatch<GetResult>> BatchInline(std::span<const GetItem> items) const;
  template <typename Result, typename Item>
  void InlineAsync(std::span<const Item> items, InlineDone<Result> done);
  template <typename Result, typename Item>
  absl::StatusOr<std::vector<Result>> Inline(std::span<const Item> items);
  // Runs start within the session, retried like Call.
  template <typename Result>
  void InSession(InlineStart<Result> start, InlineDone<Result> done, bool retried);
  // The same, waiting.
  template <typename Result>
  absl::StatusOr<std::vector<Result>> InSession(const InlineStart<Result>& start);
  absl::StatusOr<std::vector<PutResult>> PutBatch(std::span<const PutItem> items);
  absl::StatusOr<std::vector<GetResult>> GetBatch(std::span<const GetItem> items);
  // One asynchronous call without a session or a deadline.
  template <typename Request, typename Reply>
  using AsyncMethod = void (v1::Store::StubInterface::async_interface::*)(
      grpc::ClientContext*, const Request*, Reply*, std::function<void(grpc::Status)>);
  template <typename Request, typename Reply>
  void CallBareAsync(AsyncMethod<Request, Reply> method, const Request& request,
                     std::function<void(absl::Status, const Reply&)> done);
  // One asynchronous call within the session, retried like Call.
  template <typename Request, typename Reply>
  using AsyncStart = void (*)(v1::Store::Stub*, grpc::ClientContext*, const Request*, Reply*,
                              std::function<void(grpc::Status)>);
  template <typename Request, typename Reply>
  void CallAsync(std::shared_ptr<Request> request, AsyncStart<Request, Reply> start,
                 std::function<void(absl::Status, const Reply&)> done, bool retried);

  absl::StatusOr<v1::RecallRequest> RecallRequestFor(const RecallQuery& query) const;
  absl::StatusOr<RecallResult> RecallByLayer(const RecallQuery& query, v1::RecallRequest request,
                                             const OnRecalledLayer& on_layer);
  absl::Status FetchRecalled(const RecallQuery& query, RecallResult* selection);
  // One exchange on a stream of the session, retried like Call.
  template <typename Request, typename Reply>
  absl::StatusOr<Reply> ExchangeInSession(SessionStream<Request, Reply>& streams, Request request,
                                          uint64_t tag,
                                          const std::function<void(Reply)>& on_part = nullptr);

  const ClientOptions options_;
  const std::unique_ptr<transport::Transport> own_transport_;
  transport::Transport* const transport_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Store::Stub> stub_;
  InFlight in_flight_;
  std::atomic<uint64_t> next_region_id_{1};
  std::atomic<uint64_t> next_recall_tag_{1};
  SessionStream<v1::DigestBatch, v1::DigestAck> digests_;
  SessionStream<v1::RecallRequest, v1::RecallReply> recalls_;
  Session session_;
};

// ---- templates

template <typename Request, typename Reply>
absl::StatusOr<Reply> ClientImpl::ExchangeInSession(SessionStream<Request, Reply>& streams,
                                                    Request request, uint64_t tag,
                                                    const std::function<void(Reply)>& on_part) {
  for (bool retried = false;; retried = true) {
    absl::StatusOr<Session::OpenedPtr> session = session_.Acquire();
    if (!session.ok()) return Explain(session.status());
    request.set_session_id((*session)->session_id);
    absl::StatusOr<Reply> reply = streams.For((*session)->generation)
                                      ->Exchange(request, tag, transfer_call_deadline(), on_part);
    const absl::Status status = reply.ok() ? ErrorIn(*reply) : reply.status();
    if (status.ok()) return reply;
    if (status.code() != absl::StatusCode::kUnauthenticated) return Explain(status);
    session_.Lost((*session)->generation);
    if (retried) return Explain(status);
  }
}

template <typename Request, typename Reply>
absl::Status ClientImpl::CallBare(Method<Request, Reply> method, const Request& request,
                                  Reply* reply, absl::Duration deadline) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + CallDeadline::Shorten(deadline)));
  const InFlight::Call call = in_flight_.Add(&context);
  if (call == 0) return ClosingError();
  const absl::Status status = FromGrpc((stub_.get()->*method)(&context, request, reply));
  in_flight_.Remove(call);
  return status;
}

template <typename Request, typename Reply>
absl::Status ClientImpl::Call(Method<Request, Reply> method, Request& request, Reply* reply,
                              absl::Duration deadline) {
  for (bool retried = false;; retried = true) {
    absl::StatusOr<Session::OpenedPtr> session = session_.Acquire();
    if (!session.ok()) return Explain(session.status());
    request.set_session_id((*session)->session_id);
    const absl::Status status = CallBare(method, request, reply, deadline);
    if (status.code() != absl::StatusCode::kUnauthenticated) return Explain(status);
    session_.Lost((*session)->generation);
    if (retried) return Explain(status);
  }
}

}  // namespace varve::client
