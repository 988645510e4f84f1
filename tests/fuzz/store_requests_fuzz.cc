// Requests to a store: any message of any method is answered with a status and the store stays up and sound.
#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>

#include "kvstore/server/embedded_store.h"
#include "tests/fuzz/fuzz.h"
#include "varve/v1/store.grpc.pb.h"

namespace varve::fuzz {
namespace {

using namespace varve::v1;

constexpr char kContext[] = "fuzz";

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

// A store in this process with one session and one context with digests, kept for the life of the program.
class Target {
 public:
  static Target& Get() {
    static auto* target = new Target();
    return *target;
  }

  // Runs one request; the first byte names the method.
  void Run(uint8_t method, const std::string& bytes) {
    const auto& [name, run] = methods_[method % methods_.size()];
    run(bytes);
    GetStatusRequest ask;
    StoreStatus answer;
    grpc::ClientContext context;
    Require(stub_->GetStatus(&context, ask, &answer).ok(), "the store does not answer any more");
  }

  std::vector<std::string> Seeds() const { return seeds_; }

 private:
  Target() {
    StoreConfig config = server::DefaultStoreConfig();
    config.mutable_host_tier()->set_capacity_bytes(64 << 20);
    auto store = server::EmbeddedStore::Start(config);
    Require(store.ok(), "no embedded store");
    store_ = *std::move(store);
    stub_ = Store::NewStub(store_->channel());
    OpenFuzzSession();
    OpenFuzzContext();
    AddMethods();
  }

  void OpenFuzzSession() {
    session_stream_ = stub_->Session(&session_context_);
    SessionRequest request;
    request.mutable_open()->set_client_name("fuzz");
    request.mutable_open()->set_key_namespace("fuzz");
    SessionReply reply;
    Require(session_stream_->Write(request) && session_stream_->Read(&reply) && reply.has_opened(), "no session");
    session_id_ = reply.opened().session_id();
  }

  void OpenFuzzContext() {
    OpenContextRequest open;
    open.set_session_id(session_id_);
    open.set_context_id(kContext);
    *open.mutable_geometry() = SmallGeometry();
    open.set_digest_kind(DIGEST_KIND_MINMAX);
    ContextInfo info;
    grpc::ClientContext context;
    Require(stub_->OpenContext(&context, open, &info).ok(), "no context");
  }

  template <typename Request, typename Reply>
  void Unary(const char* name, grpc::Status (Store::Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
             const Request& seed) {
    seeds_.push_back(static_cast<char>(methods_.size()) + seed.SerializeAsString());
    methods_.emplace_back(name, [this, method](const std::string& bytes) {
      Request request;
      if (!request.ParseFromString(bytes)) return;
      if constexpr (requires { request.set_session_id(""); }) {
        // Mutation would hardly ever guess the session.
        if (!request.session_id().empty()) request.set_session_id(session_id_);
      }
      Reply reply;
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
      const grpc::Status status = (stub_.get()->*method)(&context, request, &reply);
      Require(status.ok() || !status.error_message().empty(), "an error without a message");
      Require(status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED, "a request without an answer");
    });
  }

  void AddMethods() {
    const std::string key(36, 'k');
    ExistsRequest exists;
    exists.set_session_id("s");
    exists.add_keys(key);
    Unary("Exists", &Store::Stub::Exists, exists);

    LongestPrefixRequest prefix;
    prefix.set_session_id("s");
    prefix.add_keys(key);
    Unary("LongestPrefix", &Store::Stub::LongestPrefix, prefix);

    PutRequest put;
    put.set_session_id("s");
    PutItem* item = put.add_items();
    item->set_key(key);
    item->add_sources()->set_region_id(1);
    item->mutable_sources(0)->set_bytes(4096);
    item->mutable_layout()->set_num_kv_heads(2);
    item->mutable_layout()->set_part_bytes(1024);
    Unary("Put", &Store::Stub::Put, put);

    GetRequest get;
    get.set_session_id("s");
    get.add_items()->set_key(key);
    get.mutable_items(0)->mutable_range()->set_head_count(1);
    get.mutable_items(0)->add_destinations()->set_bytes(2048);
    Unary("Get", &Store::Stub::Get, get);

    RemoveRequest remove;
    remove.set_session_id("s");
    remove.add_keys(key);
    Unary("Remove", &Store::Stub::Remove, remove);

    PinRequest pin;
    pin.set_session_id("s");
    pin.add_keys(key);
    pin.set_ttl_ms(10);
    Unary("Pin", &Store::Stub::Pin, pin);

    ListRequest list;
    list.set_session_id("s");
    list.set_page_size(10);
    Unary("List", &Store::Stub::List, list);

    OpenContextRequest open;
    open.set_session_id("s");
    open.set_context_id("other");
    *open.mutable_geometry() = SmallGeometry();
    open.set_digest_kind(DIGEST_KIND_MEAN);
    Unary("OpenContext", &Store::Stub::OpenContext, open);

    AppendContextRequest append;
    append.set_session_id("s");
    append.set_context_id(kContext);
    append.add_block_hashes(std::string(32, 'h'));
    Unary("AppendContext", &Store::Stub::AppendContext, append);

    TruncateContextRequest truncate;
    truncate.set_session_id("s");
    truncate.set_context_id(kContext);
    truncate.set_num_blocks(1);
    Unary("TruncateContext", &Store::Stub::TruncateContext, truncate);

    ForkContextRequest fork;
    fork.set_session_id("s");
    fork.set_context_id(kContext);
    fork.set_new_context_id("fork");
    Unary("ForkContext", &Store::Stub::ForkContext, fork);

    ContextRef ref;
    ref.set_session_id("s");
    ref.set_context_id(kContext);
    Unary("AttachContext", &Store::Stub::AttachContext, ref);
    Unary("ParkContext", &Store::Stub::ParkContext, ref);

    RecallRequest recall;
    recall.set_session_id("s");
    recall.set_context_id(kContext);
    LayerRecall* layer = recall.add_layers();
    for (int i = 0; i < 4 * 32; ++i) layer->add_queries(0.5f);
    for (int h = 0; h < 2; ++h) layer->add_heads()->set_budget_pages(1);
    Unary("Recall", &Store::Stub::Recall, recall);

    ListContextsRequest contexts;
    contexts.set_session_id("s");
    Unary("ListContexts", &Store::Stub::ListContexts, contexts);
  }

  std::unique_ptr<server::EmbeddedStore> store_;
  std::unique_ptr<Store::Stub> stub_;
  grpc::ClientContext session_context_;
  std::unique_ptr<grpc::ClientReaderWriter<SessionRequest, SessionReply>> session_stream_;
  std::string session_id_;
  std::vector<std::pair<std::string, std::function<void(const std::string&)>>> methods_;
  std::vector<std::string> seeds_;
};

}  // namespace

std::vector<std::string> Seeds() { return Target::Get().Seeds(); }

}  // namespace varve::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  varve::fuzz::Target::Get().Run(data[0], std::string(reinterpret_cast<const char*>(data) + 1, size - 1));
  return 0;
}
