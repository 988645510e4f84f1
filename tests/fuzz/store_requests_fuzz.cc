// Requests to a store: any message of any method is answered with a status and the store stays up
// and sound.
#include <grpcpp/grpcpp.h>

#include <functional>
#include <optional>
#include <thread>

#include "kvstore/server/embedded_store.h"
#include "tests/fuzz/fuzz.h"
#include "varve/v1/store.grpc.pb.h"

namespace varve::fuzz {
namespace {

using namespace varve::v1;

constexpr char kContext[] = "fuzz";
constexpr uint32_t kBlocks = 6;

Geometry SmallGeometry() {
  Geometry g;
  g.set_num_layers(2);
  g.set_num_kv_heads(2);
  g.set_num_query_heads(4);
  g.set_head_dim(32);
  g.set_page_tokens(8);
  g.set_dtype(DTYPE_F32);
  return g;
}

// Digest rows of kBlocks blocks of SmallGeometry(): boxes from 0 to 1.
std::string Rows() {
  std::vector<float> rows;
  for (uint32_t page = 0; page < kBlocks * 2; ++page) {
    rows.insert(rows.end(), 32, 1.f);  // upper corner
    rows.insert(rows.end(), 32, 0.f);
  }
  return {reinterpret_cast<const char*>(rows.data()), rows.size() * sizeof(float)};
}

// A store in this process with one session and one context with digests, which is made anew after
// every request that may have changed it. For the life of the program.
class Target {
 public:
  static Target& Get() {
    static auto* target = new Target();
    return *target;
  }

  // Runs one request; the first byte names the method.
  void Run(uint8_t number, const std::string& bytes) {
    const Method& method = methods_[number % methods_.size()];
    const grpc::Status status = method.run(bytes);
    Require(status.ok() || !status.error_message().empty(), "an error without a message");
    Require(status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED, "no answer");
    if (method.changes_context) RenewContext();
    GetStatusRequest ask;
    StoreStatus answer;
    grpc::ClientContext context;
    Require(stub_->GetStatus(&context, ask, &answer).ok(), "the store does not answer any more");
  }

  std::vector<std::string> Seeds() const { return seeds_; }

 private:
  struct Method {
    std::function<grpc::Status(const std::string&)> run;
    bool changes_context = false;
    grpc::StatusCode seed_answer = grpc::StatusCode::OK;
  };

  Target() {
    StoreConfig config = server::DefaultStoreConfig();
    config.mutable_host_tier()->set_capacity_bytes(64 << 20);
    auto store = server::EmbeddedStore::Start(config);
    Require(store.ok(), "no embedded store");
    store_ = *std::move(store);
    stub_ = Store::NewStub(store_->channel());
    OpenFuzzSession();
    RenewContext();
    AddObjectMethods();
    AddContextMethods();
    AddDigestMethods();
    // What a seed cannot reach, its mutations hardly can.
    for (const std::string& seed : seeds_) {
      const grpc::Status status = methods_[seed[0]].run(seed.substr(1));
      Require(status.error_code() == methods_[seed[0]].seed_answer,
              ("seed " + std::to_string(seed[0]) + ": " + status.error_message()).c_str());
      RenewContext();
    }
  }

  void OpenFuzzSession() {
    session_stream_ = stub_->Session(&session_context_);
    SessionRequest request;
    request.mutable_open()->set_client_name("fuzz");
    request.mutable_open()->set_key_namespace("fuzz");
    SessionReply reply;
    Require(session_stream_->Write(request) && session_stream_->Read(&reply) && reply.has_opened(),
            "no session");
    session_id_ = reply.opened().session_id();
  }

  void RenewContext() {
    ContextRef ref;
    ref.set_session_id(session_id_);
    ref.set_context_id(kContext);
    DropContextReply dropped;
    grpc::ClientContext drop_context, open_context, append_context, stream_context;
    (void)stub_->DropContext(&drop_context, ref, &dropped);

    OpenContextRequest open;
    open.set_session_id(session_id_);
    open.set_context_id(kContext);
    *open.mutable_geometry() = SmallGeometry();
    open.set_digest_kind(DIGEST_KIND_MINMAX);
    ContextInfo info;
    Require(stub_->OpenContext(&open_context, open, &info).ok(), "no context");
    epoch_ = info.epoch();

    AppendContextRequest append;
    append.set_session_id(session_id_);
    append.set_context_id(kContext);
    for (uint32_t b = 0; b < kBlocks; ++b) append.add_block_hashes(std::string(32, 'a' + b));
    Require(stub_->AppendContext(&append_context, append, &info).ok(), "no blocks");

    auto stream = stub_->StreamDigests(&stream_context);
    for (uint32_t layer = 0; layer < 2; ++layer) {
      DigestAck ack;
      Require(stream->Write(Digests(layer)) && stream->Read(&ack) && ack.error().empty(),
              "no digests");
    }
    stream->WritesDone();
    Require(stream->Finish().ok(), "no end of the digests");
  }

  DigestBatch Digests(uint32_t layer) const {
    DigestBatch batch;
    batch.set_session_id(session_id_);
    batch.set_context_id(kContext);
    batch.set_epoch(epoch_);
    batch.set_layer(layer);
    batch.set_num_blocks(kBlocks);
    batch.set_rows(Rows());
    return batch;
  }

  // What mutation would hardly ever guess.
  template <typename Request>
  void FillIn(Request& request) const {
    if constexpr (requires { request.set_session_id(""); }) {
      if (!request.session_id().empty()) request.set_session_id(session_id_);
    }
    if constexpr (requires { request.set_epoch(1); }) {
      if (request.epoch() != 0) request.set_epoch(epoch_);
    }
  }

  // call(context, request) runs one request to its end.
  template <typename Request, typename Call>
  Method& Add(const Request& seed, Call call) {
    seeds_.push_back(static_cast<char>(methods_.size()) + seed.SerializeAsString());
    methods_.push_back({[this, call](const std::string& bytes) {
      Request request;
      if (!request.ParseFromString(bytes)) return grpc::Status::OK;
      FillIn(request);
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
      return call(context, request);
    }});
    return methods_.back();
  }

  template <typename Request, typename Reply>
  Method& Unary(grpc::Status (Store::Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
                const Request& seed) {
    return Add(seed, [this, method](grpc::ClientContext& context, const Request& request) {
      Reply reply;
      return (stub_.get()->*method)(&context, request, &reply);
    });
  }

  template <typename Request, typename Reply>
  Method& ServerStream(std::unique_ptr<grpc::ClientReader<Reply>> (Store::Stub::*method)(
                           grpc::ClientContext*, const Request&),
                       const Request& seed) {
    return Add(seed, [this, method](grpc::ClientContext& context, const Request& request) {
      const auto stream = (stub_.get()->*method)(&context, request);
      Reply reply;
      while (stream->Read(&reply)) {
      }
      return stream->Finish();
    });
  }

  // The request comes `times` times, after `first` if there is one: the store keeps something
  // between them.
  template <typename Request, typename Reply>
  Method& Stream(std::unique_ptr<grpc::ClientReaderWriter<Request, Reply>> (Store::Stub::*method)(
                     grpc::ClientContext*),
                 const Request& seed, const std::optional<Request>& first = std::nullopt,
                 int times = 2) {
    return Add(seed,
               [this, method, first, times](grpc::ClientContext& context, const Request& request) {
                 const auto stream = (stub_.get()->*method)(&context);
                 // Beside the writing: who does not read is not read from.
                 std::thread reader([&stream] {
                   Reply reply;
                   while (stream->Read(&reply)) {
                   }
                 });
                 if (first.has_value()) stream->Write(*first);
                 for (int i = 0; i < times; ++i) stream->Write(request);
                 stream->WritesDone();
                 reader.join();
                 return stream->Finish();
               });
  }

  void AddObjectMethods() {
    const std::string key(36, 'k');
    ExistsRequest exists;
    exists.set_session_id("s");
    exists.add_keys(key);
    Unary(&Store::Stub::Exists, exists);

    LongestPrefixRequest prefix;
    prefix.set_session_id("s");
    prefix.add_keys(key);
    Unary(&Store::Stub::LongestPrefix, prefix);

    PutRequest put;
    put.set_session_id("s");
    PutItem* item = put.add_items();
    item->set_key(key);
    item->add_sources()->set_region_id(1);
    item->mutable_sources(0)->set_bytes(4096);
    item->mutable_layout()->set_num_kv_heads(2);
    item->mutable_layout()->set_part_bytes(1024);
    Unary(&Store::Stub::Put, put);

    GetRequest get;
    get.set_session_id("s");
    get.add_items()->set_key(key);
    get.mutable_items(0)->mutable_range()->set_head_count(1);
    get.mutable_items(0)->add_destinations()->set_bytes(2048);
    Unary(&Store::Stub::Get, get);

    RemoveRequest remove;
    remove.set_session_id("s");
    remove.add_keys(key);
    Unary(&Store::Stub::Remove, remove);

    PinRequest pin;
    pin.set_session_id("s");
    pin.add_keys(key);
    pin.set_ttl_ms(10);
    Unary(&Store::Stub::Pin, pin);

    ListRequest list;
    list.set_session_id("s");
    list.set_page_size(10);
    Unary(&Store::Stub::List, list);

    PutInlineRequest put_inline;
    put_inline.set_session_id("s");
    put_inline.set_key(key);
    put_inline.set_total_bytes(4096);
    put_inline.mutable_layout()->set_num_kv_heads(2);
    put_inline.mutable_layout()->set_part_bytes(1024);
    put_inline.set_data(std::string(4096, 'd'));
    put_inline.set_last(true);
    Stream(&Store::Stub::PutInline, put_inline);

    GetInlineRequest get_inline;
    get_inline.set_session_id("s");
    get_inline.add_items()->set_key(key);
    get_inline.mutable_items(0)->mutable_range()->set_head_count(1);
    ServerStream(&Store::Stub::GetInline, get_inline);

    EchoMessage echo;
    echo.set_payload("abc");
    Unary(&Store::Stub::Echo, echo);
    Unary(&Store::Stub::GetConfig, GetConfigRequest());
    EvictRequest evict;
    evict.set_key_namespace("fuzz");
    evict.set_key_prefix("ab");
    Unary(&Store::Stub::Evict, evict);
    ListNamespacesRequest namespaces;
    namespaces.set_page_token("1");
    Unary(&Store::Stub::ListNamespaces, namespaces);
    // This store has no disks: nothing comes of these.
    AddDirectoryRequest add;
    add.set_path("/directory");
    add.set_capacity_bytes(1 << 30);
    Unary(&Store::Stub::AddDirectory, add).seed_answer = grpc::StatusCode::FAILED_PRECONDITION;
    DrainDirectoryRequest drain;
    drain.set_path("/directory");
    Unary(&Store::Stub::DrainDirectory, drain).seed_answer = grpc::StatusCode::FAILED_PRECONDITION;
    DrainTierRequest drain_tier;
    drain_tier.set_tier(TIER_HOST);
    Unary(&Store::Stub::DrainTier, drain_tier).seed_answer = grpc::StatusCode::FAILED_PRECONDITION;
    PrefetchRequest prefetch;
    prefetch.set_session_id("s");
    prefetch.add_keys("key-of-object");
    Unary(&Store::Stub::Prefetch, prefetch);

    SessionRequest open_session, region;
    open_session.mutable_open()->set_client_name("other");
    region.mutable_register_region()->set_region_id(1);
    region.mutable_register_region()->set_descriptor_bytes(std::string(40, 'r'));
    Stream(&Store::Stub::Session, open_session, {}, 1);
    Stream(&Store::Stub::Session, region, std::optional(open_session));
  }

  void AddContextMethods() {
    OpenContextRequest open;
    open.set_session_id("s");
    open.set_context_id("other");
    *open.mutable_geometry() = SmallGeometry();
    open.set_digest_kind(DIGEST_KIND_MEAN);
    Unary(&Store::Stub::OpenContext, open);

    AppendContextRequest append;
    append.set_session_id("s");
    append.set_context_id(kContext);
    append.set_first_block(kBlocks);
    append.add_block_hashes(std::string(32, 'h'));
    Unary(&Store::Stub::AppendContext, append).changes_context = true;

    TruncateContextRequest truncate;
    truncate.set_session_id("s");
    truncate.set_context_id(kContext);
    truncate.set_num_blocks(1);
    Unary(&Store::Stub::TruncateContext, truncate).changes_context = true;

    ForkContextRequest fork;
    fork.set_session_id("s");
    fork.set_context_id(kContext);
    fork.set_new_context_id("fork");
    Unary(&Store::Stub::ForkContext, fork);

    ContextRef ref;
    ref.set_session_id("s");
    ref.set_context_id(kContext);
    Unary(&Store::Stub::AttachContext, ref);
    Unary(&Store::Stub::DropContext, ref).changes_context = true;

    ParkContextRequest park;
    park.set_session_id("s");
    park.set_context_id(kContext);
    HotPages* hot = park.add_hot();
    hot->add_attended(0);
    hot->add_others(1);
    Unary(&Store::Stub::ParkContext, park).changes_context = true;

    ListContextsRequest contexts;
    contexts.set_session_id("s");
    Unary(&Store::Stub::ListContexts, contexts);
  }

  void AddDigestMethods() {
    DigestBatch digests = Digests(1);
    Stream(&Store::Stub::StreamDigests, digests).changes_context = true;

    ReadDigestsRequest read;
    read.set_session_id("s");
    read.set_context_id(kContext);
    read.set_epoch(epoch_);
    read.set_layer_begin(1);
    read.set_layer_count(1);
    ServerStream(&Store::Stub::ReadDigests, read);

    RecallRequest recall;
    recall.set_session_id("s");
    recall.set_context_id(kContext);
    recall.set_epoch(epoch_);
    recall.set_sinks(1);
    recall.set_num_blocks(5);
    recall.set_explain(true);
    LayerRecall* layer = recall.add_layers();
    for (int i = 0; i < 4 * 32; ++i) layer->add_queries(0.5f);
    for (int h = 0; h < 2; ++h) layer->add_heads()->set_budget_pages(2);
    for (int h = 0; h < 2; ++h) layer->mutable_heads(h)->add_resident(0);
    Unary(&Store::Stub::Recall, recall);
    Stream(&Store::Stub::RecallStream, recall);
  }

  std::unique_ptr<server::EmbeddedStore> store_;
  std::unique_ptr<Store::Stub> stub_;
  grpc::ClientContext session_context_;
  std::unique_ptr<grpc::ClientReaderWriter<SessionRequest, SessionReply>> session_stream_;
  std::string session_id_;
  uint32_t epoch_ = 0;  // of the context
  std::vector<Method> methods_;
  std::vector<std::string> seeds_;
};

}  // namespace

std::vector<std::string> Seeds() { return Target::Get().Seeds(); }

}  // namespace varve::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  varve::fuzz::Target::Get().Run(data[0],
                                 std::string(reinterpret_cast<const char*>(data) + 1, size - 1));
  return 0;
}
