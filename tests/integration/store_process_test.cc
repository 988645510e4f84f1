// varve-store as a process: start, settings, health, metrics, drain, and clients that die.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/integration/store_harness.h"

namespace varve::testing {
namespace {

namespace v1 = varve::v1;
using ::testing::HasSubstr;
using ::testing::Not;

// A unary call by name with the request and reply as bytes.
std::string RawCall(const StoreUnderTest& store, const std::string& method,
                    const std::string& request) {
  grpc::GenericStub stub(store.MakeChannel());
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const grpc::Slice slice(request);
  const grpc::ByteBuffer message(&slice, 1);
  auto call = stub.PrepareUnaryCall(&context, method, message, &queue);
  call->StartCall();
  grpc::ByteBuffer reply;
  grpc::Status status;
  call->Finish(&reply, &status, reinterpret_cast<void*>(1));
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok())
    return absl::StrCat("error ", status.error_code(), ": ", status.error_message());
  grpc::Slice whole;
  if (!reply.DumpToSingleSlice(&whole).ok()) return "error";
  return std::string(reinterpret_cast<const char*>(whole.begin()), whole.size());
}

bool Serving(const StoreUnderTest& store, const std::string& service) {
  // HealthCheckRequest{service = 1}; HealthCheckResponse{status = 1: SERVING = 1}.
  const std::string request =
      service.empty()
          ? ""
          : absl::StrCat("\x0a", std::string(1, static_cast<char>(service.size())), service);
  return RawCall(store, "/grpc.health.v1.Health/Check", request) == "\x08\x01";
}

class StoreProcessTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<StoreUnderTest> Start(const std::vector<std::string>& flags = {}) {
    return StoreUnderTest::Start(GetParam(), flags);
  }
  static double Metric(const StoreUnderTest& store, const std::string& series) {
    return MetricValue(store.process()->HttpGet("/metrics"), series);
  }
};

TEST_P(StoreProcessTest, HealthAndReflection) {
  auto store = Start();
  EXPECT_TRUE(Serving(*store, ""));
  EXPECT_TRUE(Serving(*store, "varve.v1.Store"));
  EXPECT_EQ(store->process()->HttpGet("/healthz"), "ok\n");
  EXPECT_EQ(store->process()->HttpGet("/readyz"), "ready\n");
  std::string body;
  EXPECT_EQ(HttpGet(store->process()->http_address(), "/nothing", &body), 404);
  // ServerReflectionRequest{list_services = 7}: the reply names the services.
  EXPECT_THAT(RawCall(*store, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                      std::string("\x3a\x01*")),
              HasSubstr("varve.v1.Store"));
}

TEST_P(StoreProcessTest, SigtermDrainsAndExitsCleanly) {
  auto store = Start();
  RawClient client(*store);
  Buffer buffer = client.Allocate(4096);
  ASSERT_EQ(client.PutOne(Key("a"), buffer, 0, 4096).result(), v1::PUT_RESULT_STORED);
  // Streams that are open and idle must not hold the store up.
  grpc::ClientContext recall_context, digest_context;
  auto recalls = client.stub().RecallStream(&recall_context);
  auto digests = client.stub().StreamDigests(&digest_context);
  v1::RecallReply reply;
  ASSERT_TRUE(recalls->Write(v1::RecallRequest()) &&
              recalls->Read(&reply));  // the store knows of it
  const absl::Time start = absl::Now();
  store->process()->Signal(SIGTERM);
  EXPECT_EQ(client.AwaitEnd().error_code(), grpc::UNAVAILABLE);
  EXPECT_FALSE(recalls->Read(&reply));
  EXPECT_EQ(recalls->Finish().error_code(), grpc::UNAVAILABLE);
  const absl::StatusOr<int> status = store->process()->Wait(absl::Seconds(30));
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(*status, 0);
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));  // the default grace period
}

TEST_P(StoreProcessTest, DrainRefusesNewSessionsAndSaysSo) {
  auto store = Start();
  RawClient client(*store);
  v1::DrainReply drained;
  ASSERT_TRUE(Call(client.stub(), &v1::Store::Stub::Drain, v1::DrainRequest(), &drained).ok());
  EXPECT_EQ(client.AwaitEnd().error_code(), grpc::UNAVAILABLE);
  RawClient late(*store);
  EXPECT_EQ(late.open_status().error_code(), grpc::FAILED_PRECONDITION);
  EXPECT_THAT(late.open_status().error_message(), HasSubstr("draining"));
  v1::ExistsRequest request;
  request.set_session_id(client.session_id());
  v1::ExistsReply reply;
  EXPECT_EQ(Call(client.stub(), &v1::Store::Stub::Exists, request, &reply).error_code(),
            grpc::FAILED_PRECONDITION);
  EXPECT_TRUE(client.Status().draining());
  EXPECT_FALSE(Serving(*store, ""));
  std::string body;
  EXPECT_EQ(HttpGet(store->process()->http_address(), "/readyz", &body), 503);
  EXPECT_EQ(HttpGet(store->process()->http_address(), "/healthz", &body), 200);
  EXPECT_GE(Metric(*store, "varve_admission_rejects_total{reason=\"draining\"}"), 1);
  EXPECT_EQ(store->process()->Stop().value_or(-1), 0);
}

// A client that gets for ever, until it is killed. own_memory: the client's own, whose bytes travel
// in messages on every lane; else memory of the transport.
[[noreturn]] void GetForEver(const StoreUnderTest& store, bool own_memory, int ready_pipe) {
  RawClient client(store);
  constexpr size_t kBytes = 1 << 20;
  std::vector<std::byte> own(8 * kBytes);
  Buffer buffer;
  if (own_memory) {
    buffer.region_id = 1;
    buffer.region = client.transport().Register(own).value();
    client.Register(1, buffer.region->descriptor());
  } else {
    buffer = client.Allocate(own.size());
  }
  v1::PutRequest put;
  v1::GetRequest get;
  for (int i = 0; i < 8; ++i) {
    const std::string key = absl::StrCat("killed ", i);
    v1::PutItem* item = put.add_items();
    item->set_key(key);
    *item->add_sources() = buffer.Ref(i * kBytes, kBytes);
    v1::GetItem* wanted = get.add_items();
    wanted->set_key(key);
    *wanted->add_destinations() = buffer.Ref(i * kBytes, kBytes);
  }
  client.Put(put);
  v1::PinRequest pin;
  pin.set_session_id(client.session_id());
  pin.add_keys("killed 0");
  v1::PinReply pinned;
  (void)Call(client.stub(), &v1::Store::Stub::Pin, pin, &pinned);
  client.Get(get);
  if (write(ready_pipe, "x", 1) != 1) _exit(1);
  // Several at a time: there is hardly a moment without a transfer.
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (;;) client.Get(get);
    });
  }
  for (;;) pause();
}

// Starts such a client and waits until it gets. gRPC does not survive a fork: the child is this
// program again, in its client role.
pid_t StartGetting(const StoreUnderTest& store, const char* memory) {
  int ready[2];
  if (pipe(ready) != 0) return -1;
  const std::string address = store.process()->grpc_address(), pipe_text = absl::StrCat(ready[1]);
  const pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "client", "--get-for-ever", address.c_str(), store.kind().c_str(),
          memory, pipe_text.c_str(), nullptr);
    _exit(127);
  }
  char byte;
  close(ready[1]);
  EXPECT_EQ(read(ready[0], &byte, 1), 1) << "the client did not start";
  close(ready[0]);
  return child;
}

TEST_P(StoreProcessTest, AKilledClientCostsItsSessionAndNothingElse) {
  auto store = Start();
  RawClient survivor(*store);
  Buffer buffer = survivor.Allocate(4096);
  for (int round = 0; round < 5; ++round) {
    SCOPED_TRACE(round);
    const pid_t child = StartGetting(*store, "allocated");
    ASSERT_FALSE(HasFailure());
    EXPECT_EQ(survivor.Status().sessions_size(), 2);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    EXPECT_TRUE(Eventually([&] { return survivor.Status().sessions_size() == 1; }));
    EXPECT_TRUE(Eventually([&] { return survivor.Status().tiers(0).pinned_bytes() == 0; }));
    EXPECT_EQ(survivor.PutOne(Key(absl::StrCat(round)), buffer, 0, 4096).result(),
              v1::PUT_RESULT_STORED);
    EXPECT_TRUE(survivor.GetOne(Key(absl::StrCat(round)), buffer, 0, 4096).hit());
  }
  EXPECT_EQ(Metric(*store, "varve_sessions"), 1);
  EXPECT_EQ(Metric(*store, "varve_tier_pinned_bytes{tier=\"host\"}"), 0);
  EXPECT_EQ(store->process()->Stop().value_or(-1), 0);
}

TEST_P(StoreProcessTest, AStoppedClientLosesItsSessionAtTheDeadline) {
  auto store = Start({"--transport.transfer_deadline_ms=300ms"});
  RawClient survivor(*store);
  const pid_t child = StartGetting(*store, "own");
  ASSERT_FALSE(HasFailure());
  EXPECT_EQ(survivor.Status().sessions_size(), 2);
  // Nothing else tells the store: the process is there, and its sockets answer. Between two gets
  // there is no transfer to run out of time, so it may have to be stopped again.
  bool ended = false;
  for (int i = 0; i < 10 && !ended; ++i) {
    kill(child, SIGCONT);
    absl::SleepFor(absl::Milliseconds(10 * i));
    kill(child, SIGSTOP);
    ended = Eventually([&] { return survivor.Status().sessions_size() == 1; }, absl::Seconds(3));
  }
  EXPECT_TRUE(ended);
  EXPECT_TRUE(Eventually([&] { return survivor.Status().tiers(0).pinned_bytes() == 0; }));
  EXPECT_GE(
      Metric(*store, absl::StrCat("varve_transfer_errors_total{reason=\"deadline\",transport=\"",
                                  GetParam(), "\"}")),
      1);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  Buffer buffer = survivor.Allocate(4096);
  EXPECT_EQ(survivor.PutOne(Key("a"), buffer, 0, 4096).result(), v1::PUT_RESULT_STORED);
}

TEST_P(StoreProcessTest, SessionsComeAndGoWithoutATrace) {
  auto store = Start();
  const auto round = [&](int clients) {
    std::vector<std::unique_ptr<RawClient>> open;
    for (int i = 0; i < clients; ++i) {
      open.push_back(std::make_unique<RawClient>(*store));
      Buffer buffer = open.back()->Allocate(4096);
      const std::string key = Key(absl::StrCat(i));
      EXPECT_NE(open.back()->PutOne(key, buffer, 0, 4096).result(), v1::PUT_RESULT_FAILED);
      EXPECT_TRUE(open.back()->GetOne(key, buffer, 0, 4096).hit());
      if (i % 2 == 0) open.back()->CancelSession();
    }
    open.clear();
    EXPECT_TRUE(Eventually([&] { return Metric(*store, "varve_sessions") == 0; }));
  };
  round(10);  // what is made once, is made now
  const double descriptors = Metric(*store, "process_open_fds");
  // gRPC keeps a few more threads or less, by load; one lost a session would be sixty.
  const double threads = Metric(*store, "process_threads");
  for (int i = 0; i < 6; ++i) round(10);
  EXPECT_TRUE(Eventually([&] { return Metric(*store, "process_open_fds") <= descriptors; }))
      << Metric(*store, "process_open_fds") << " descriptors, before: " << descriptors;
  EXPECT_TRUE(Eventually([&] { return Metric(*store, "process_threads") <= threads + 10; }))
      << Metric(*store, "process_threads") << " threads, before: " << threads;
  EXPECT_EQ(Metric(*store, "varve_tier_pinned_bytes{tier=\"host\"}"), 0);
  EXPECT_EQ(Metric(*store, "varve_registered_memory_bytes"), 0);
}

TEST_P(StoreProcessTest, EveryObjectMetricMoves) {
  auto store = Start();
  const std::string before = store->process()->HttpGet("/metrics");
  RawClient client(*store);
  Buffer buffer = client.Allocate(1 << 20);
  client.PutOne(Key("m"), buffer, 0, 1 << 20);
  client.PutOne(Key("m"), buffer, 0, 1 << 20);
  client.PutOne("bad", buffer, 0, 1 << 20);
  client.GetOne(Key("m"), buffer, 0, 1 << 20);
  client.GetOne(Key("absent"), buffer, 0, 1 << 20);
  const std::string lane = GetParam();
  const std::string after = store->process()->HttpGet("/metrics");
  const auto moved = [&](const std::string& series, double by) {
    EXPECT_GE(MetricValue(before, series), 0) << series << " is not there from the start";
    EXPECT_EQ(MetricValue(after, series) - MetricValue(before, series), by) << series;
  };
  moved("varve_sessions", 1);
  moved("varve_registered_memory_bytes", 1 << 20);
  moved("varve_objects{tier=\"host\"}", 1);
  moved("varve_tier_used_bytes{tier=\"host\"}", 1 << 20);
  moved("varve_get_objects_total{result=\"hit\",tier=\"host\"}", 1);
  moved("varve_get_objects_total{result=\"miss\",tier=\"none\"}", 1);
  moved("varve_miss_total{reason=\"never_stored\"}", 1);
  moved("varve_served_bytes_total{tier=\"host\"}", 1 << 20);
  moved("varve_put_objects_total{result=\"stored\"}", 1);
  moved("varve_put_objects_total{result=\"exists\"}", 1);
  moved("varve_put_objects_total{result=\"rejected\"}", 1);
  moved("varve_put_duration_seconds_count", 3);
  moved("varve_get_duration_seconds_count{tier=\"host\"}", 1);
  moved(absl::StrCat("varve_transfer_bytes_total{op=\"read\",transport=\"", lane, "\"}"), 1 << 20);
  moved(absl::StrCat("varve_transfer_bytes_total{op=\"write\",transport=\"", lane, "\"}"), 1 << 20);
  moved(
      absl::StrCat("varve_transfer_duration_seconds_count{op=\"write\",transport=\"", lane, "\"}"),
      1);
  const std::string put =
      "grpc_method=\"Put\",grpc_service=\"varve.v1.Store\",grpc_type=\"unary\"}";
  moved(absl::StrCat("grpc_server_started_total{", put), 3);
  moved(absl::StrCat("grpc_server_handled_total{grpc_code=\"OK\",", put), 3);
  moved(absl::StrCat("grpc_server_handling_seconds_count{", put), 3);
  EXPECT_EQ(MetricValue(after, "varve_tier_capacity_bytes{tier=\"host\"}"), 64 << 20);
  EXPECT_GT(MetricValue(after, "process_resident_memory_bytes"), 64 << 20);
  EXPECT_THAT(after, HasSubstr("varve_build_info{commit="));
}

TEST_P(StoreProcessTest, LimitsEvictionsAndContextsAreCounted) {
  auto store =
      Start({"--sessions.max_batch_items=30", "--sessions.max_object_bytes=8MiB",
             "--sessions.max_regions=1", "--sessions.max_sessions=1", "--recall.max_contexts=1"});
  RawClient client(*store);
  Buffer buffer = client.Allocate(9 << 20);
  for (int i = 0; i < 20; ++i) client.PutOne(Key(absl::StrCat(i)), buffer, 0, 4 << 20);
  client.PutOne(Key("large"), buffer, 0, 9 << 20);
  client.Register(2, buffer.region->descriptor());
  RawClient second(*store);
  v1::ExistsRequest exists;
  exists.set_session_id(client.session_id());
  for (int i = 0; i < 31; ++i) exists.add_keys(Key("k"));
  v1::ExistsReply existing;
  EXPECT_FALSE(Call(client.stub(), &v1::Store::Stub::Exists, exists, &existing).ok());
  for (const char* id : {"c1", "c2"}) {
    v1::OpenContextRequest open;
    open.set_session_id(client.session_id());
    open.set_context_id(id);
    v1::Geometry* g = open.mutable_geometry();
    g->set_num_layers(1);
    g->set_num_kv_heads(1);
    g->set_num_query_heads(1);
    g->set_head_dim(32);
    g->set_page_tokens(8);
    g->set_dtype(v1::DTYPE_F32);
    open.set_digest_kind(v1::DIGEST_KIND_MEAN);
    v1::ContextInfo info;
    (void)Call(client.stub(), &v1::Store::Stub::OpenContext, open, &info);
  }
  // One context's digests, and a recall over them.
  v1::AppendContextRequest append;
  append.set_session_id(client.session_id());
  append.set_context_id("c1");
  append.add_block_hashes("hash");
  v1::ContextInfo info;
  ASSERT_TRUE(Call(client.stub(), &v1::Store::Stub::AppendContext, append, &info).ok());
  grpc::ClientContext context;
  auto stream = client.stub().StreamDigests(&context);
  v1::DigestBatch batch;
  batch.set_session_id(client.session_id());
  batch.set_context_id("c1");
  batch.set_epoch(info.epoch());
  batch.set_num_blocks(1);
  batch.set_rows(std::string(32 * 4, '\0'));
  batch.set_sealed_unix_us(static_cast<uint64_t>(absl::ToUnixMicros(absl::Now())));
  stream->Write(batch);
  v1::DigestAck ack;
  ASSERT_TRUE(stream->Read(&ack));
  EXPECT_EQ(ack.error(), "");
  // The page as an object, so that the recall has something to bring.
  v1::ObjectLayout layout;
  layout.set_num_kv_heads(1);
  layout.set_part_bytes(8 * 32 * 4);
  client.PutOne(std::string("hash\0\0\0\0", 8), buffer, 0, 2048, layout);
  v1::RecallRequest recall;
  recall.set_session_id(client.session_id());
  recall.set_context_id("c1");
  recall.set_epoch(info.epoch());
  v1::LayerRecall* layer = recall.add_layers();
  for (int i = 0; i < 32; ++i) layer->add_queries(1);
  v1::HeadRecall* head = layer->add_heads();
  head->set_budget_pages(1);
  *head->add_slots() = buffer.Ref(0, 2048);
  v1::RecallReply reply;
  const grpc::Status status = Call(client.stub(), &v1::Store::Stub::Recall, recall, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(reply.layers(0).heads(0).recalled(0).done());
  head->clear_slots();
  head->add_resident(0);
  ASSERT_TRUE(Call(client.stub(), &v1::Store::Stub::Recall, recall, &reply).ok());

  const std::string text = store->process()->HttpGet("/metrics");
  for (const char* reason : {"batch_items", "object_bytes", "regions", "sessions", "contexts"}) {
    EXPECT_GE(
        MetricValue(text, absl::StrCat("varve_admission_rejects_total{reason=\"", reason, "\"}")),
        1)
        << reason;
  }
  EXPECT_GE(MetricValue(text, "varve_evicted_bytes_total{reason=\"capacity\",tier=\"host\"}"),
            16 << 20);
  EXPECT_GE(MetricValue(text, "varve_evicted_idle_seconds_count{tier=\"host\"}"), 4);
  EXPECT_EQ(MetricValue(text, "varve_contexts"), 1);
  EXPECT_EQ(MetricValue(text, "varve_digest_stream_lag_seconds_count"), 1);
  EXPECT_EQ(MetricValue(text, "varve_recall_duration_seconds_count{path=\"store\"}"), 2);
  for (const char* stage : {"score", "select", "locate"}) {
    EXPECT_EQ(MetricValue(text, absl::StrCat("varve_recall_stage_duration_seconds_count{stage=\"",
                                             stage, "\"}")),
              2);
  }
  EXPECT_EQ(MetricValue(text, "varve_recall_stage_duration_seconds_count{stage=\"transfer\"}"), 1);
  EXPECT_EQ(MetricValue(text, "varve_recall_pages_total{outcome=\"fetched\"}"), 1);
  EXPECT_EQ(MetricValue(text, "varve_recall_pages_total{outcome=\"hot\"}"), 1);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_P(StoreProcessTest, StatusPageAndConfig) {
  auto store = Start();
  RawClient::Options options;
  options.name = "<script>alert(1)</script>";
  RawClient client(*store, options);
  client.Allocate(4096);
  const std::string page = store->process()->HttpGet("/");
  EXPECT_THAT(page, HasSubstr("<!doctype html>"));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;"));
  EXPECT_THAT(page, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(page, HasSubstr("64.0 MiB"));
  const v1::StoreStatus status = client.Status();
  ASSERT_EQ(status.sessions_size(), 1);
  EXPECT_EQ(status.sessions(0).client_name(), options.name);
  EXPECT_EQ(status.sessions(0).lane(), GetParam());
  EXPECT_EQ(status.sessions(0).registered_bytes(), 4096u);
  EXPECT_FALSE(status.plugins().empty());
  v1::GetConfigReply config;
  ASSERT_TRUE(
      Call(client.stub(), &v1::Store::Stub::GetConfig, v1::GetConfigRequest(), &config).ok());
  EXPECT_THAT(config.text(), HasSubstr("host_tier.capacity_bytes: 64MiB  # command line"));
  v1::EchoMessage echo, answer;
  echo.set_payload(std::string(100000, 'e'));
  ASSERT_TRUE(Call(client.stub(), &v1::Store::Stub::Echo, echo, &answer).ok());
  EXPECT_EQ(answer.payload(), echo.payload());
}

INSTANTIATE_TEST_SUITE_P(Lanes, StoreProcessTest, ::testing::Values("shm", "tcp"),
                         [](const auto& param) { return param.param; });

TEST(StoreSettingsTest, BadSettingsStopTheStart) {
  EXPECT_FALSE(StoreProcess::Start({"--host_tier.evictoin=lru"}).ok());
  EXPECT_FALSE(StoreProcess::Start({"--listen=256.0.0.1:0"}).ok());
  EXPECT_FALSE(StoreProcess::Start({"stray"}).ok());
  auto store = StoreProcess::Start();
  ASSERT_TRUE(store.ok());
  // The port is taken: two stores must not share it silently.
  EXPECT_FALSE(StoreProcess::Start({absl::StrCat("--listen=", (*store)->grpc_address())}).ok());
  EXPECT_FALSE(
      StoreProcess::Start({absl::StrCat("--http_listen=", (*store)->http_address())}).ok());
}

TEST(StoreSettingsTest, ASecondSignalExitsAtOnce) {
  auto store = StoreUnderTest::Start("tcp", {"--drain_ms=1h"});
  // A transfer that cannot finish holds the drain up: the client is stopped.
  const pid_t child = StartGetting(*store, "allocated");
  ASSERT_FALSE(HasFailure());
  kill(child, SIGSTOP);
  store->process()->Signal(SIGTERM);
  EXPECT_TRUE(Eventually([&] { return store->process()->HttpGet("/readyz").empty(); }));
  store->process()->Signal(SIGTERM);
  const absl::StatusOr<int> status = store->process()->Wait(absl::Seconds(20));
  EXPECT_TRUE(status.ok());
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

}  // namespace

int ClientRole(const std::string& address, const std::string& lane, const std::string& memory,
               int ready_pipe) {
  GetForEver(*StoreUnderTest::Attach(address, lane), memory == "own", ready_pipe);
}

}  // namespace varve::testing

int main(int argc, char** argv) {
  if (argc == 6 && std::string(argv[1]) == "--get-for-ever") {
    return varve::testing::ClientRole(argv[2], argv[3], argv[4], std::atoi(argv[5]));
  }
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
