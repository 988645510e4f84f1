#include "kvstore/base/rpc_metrics.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/base/process_metrics.h"
#include "varve/v1/worker.pb.h"

namespace varve::base {
namespace {

using ::testing::HasSubstr;

constexpr const char* kStep =
    "grpc_method=\"Step\",grpc_service=\"varve.v1.Worker\",grpc_type=\"unary\"}";

class RpcMetricsTest : public ::testing::Test {
 protected:
  Metrics metrics_;
  ServiceMetrics service_{metrics_,
                          *v1::StepRequest::descriptor()->file()->FindServiceByName("Worker")};
};

TEST_F(RpcMetricsTest, EveryMethodHasItsSeriesFromTheStart) {
  const std::string text = metrics_.Render();
  EXPECT_THAT(text, HasSubstr(std::string("grpc_server_started_total{") + kStep + " 0\n"));
  EXPECT_THAT(text, HasSubstr("grpc_server_started_total{grpc_method=\"Engine\",grpc_service="
                              "\"varve.v1.Worker\",grpc_type=\"bidi_stream\"} 0\n"));
}

TEST_F(RpcMetricsTest, CallsCountByCode) {
  RpcMetrics& step = service_.at("Step");
  step.Started();
  step.Started();
  step.Handled(absl::StatusCode::kOk, 0.001);
  step.Handled(absl::StatusCode::kNotFound, 0.001);
  const std::string text = metrics_.Render();
  const auto handled = [](const char* code) {
    return std::string("grpc_server_handled_total{grpc_code=\"") + code + "\"," + kStep;
  };
  EXPECT_THAT(text, HasSubstr(std::string("grpc_server_started_total{") + kStep + " 2\n"));
  EXPECT_THAT(text, HasSubstr(handled("OK") + " 1\n"));
  EXPECT_THAT(text, HasSubstr(handled("NotFound") + " 1\n"));
  EXPECT_THAT(text, HasSubstr(handled("Internal") + " 0\n"));
  EXPECT_THAT(text, HasSubstr(std::string("grpc_server_handling_seconds_count{") + kStep + " 2\n"));
}

TEST_F(RpcMetricsTest, AnUnknownCodeIsUnknown) {
  service_.at("Step").Handled(static_cast<absl::StatusCode>(99), 0.001);
  EXPECT_THAT(metrics_.Render(),
              HasSubstr(std::string("{grpc_code=\"Unknown\",") + kStep + " 1\n"));
}

TEST(ProcessMetrics, AreThoseOfThisProcess) {
  Metrics metrics;
  DeclareProcessMetrics(metrics);
  metrics.Render();
  EXPECT_GT(metrics.Gauge("process_resident_memory_bytes", "").Value(), 1 << 20);
  EXPECT_GE(metrics.Gauge("process_open_fds", "").Value(), 3);
  EXPECT_GE(metrics.Gauge("process_threads", "").Value(), 1);
  EXPECT_GT(metrics.Gauge("process_start_time_seconds", "").Value(), 1e9);
  const double before = metrics.Counter("process_cpu_seconds_total", "").Value();
  while (metrics.Counter("process_cpu_seconds_total", "").Value() <= before) metrics.Render();
}

}  // namespace
}  // namespace varve::base
