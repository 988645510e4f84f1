// What MakeUcxTransport refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "kvstore/transport/ucx.h"

namespace varve::transport {
namespace {

using ::testing::HasSubstr;

absl::Status Make(const std::function<void(UcxOptions&)>& change) {
  UcxOptions options;
  options.lanes = {"shm"};
  change(options);
  return MakeUcxTransport(options).status();
}

TEST(UcxOptionsTest, RefusesWhatItDoesNotKnow) {
  const absl::Status lane = Make([](UcxOptions& o) { o.lanes = {"shm", "avian"}; });
  EXPECT_EQ(lane.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(lane.message()), HasSubstr("'avian', known: shm, tcp, rdma"));
  EXPECT_EQ(Make([](UcxOptions& o) { o.lanes = {}; }).code(), absl::StatusCode::kInvalidArgument);
  const absl::Status device = Make([](UcxOptions& o) { o.devices = {"nosuch0"}; });
  EXPECT_EQ(device.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(device.message()), HasSubstr("nosuch0"));
  EXPECT_EQ(Make([](UcxOptions& o) { o.segment_bytes = 4095; }).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Make([](UcxOptions& o) { o.segment_bytes = (64 << 20) + 1; }).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Make([](UcxOptions& o) { o.keepalive = absl::ZeroDuration(); }).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Make([](UcxOptions& o) { o.connect_timeout = -absl::Seconds(1); }).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Make([](UcxOptions&) {}).ok());
}

TEST(UcxOptionsTest, LeavesOutLanesWithoutADevice) {
  UcxOptions options;
  options.lanes = {"rdma", "tcp"};
  options.devices = {"lo"};
  ::testing::internal::CaptureStderr();
  const auto transport = MakeUcxTransport(options);
  // A machine without RDMA is nothing to warn about.
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  ASSERT_TRUE(transport.ok()) << transport.status();
  const auto endpoint = (*transport)->Connect((*transport)->Address());
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  EXPECT_STREQ((*endpoint)->lane(), "tcp");
}

TEST(UcxOptionsTest, PrefersItsOwnFirstLaneThatThePeerOffers) {
  UcxOptions both, tcp, shm;
  both.lanes = {"shm", "tcp"};
  tcp.lanes = {"tcp"};
  shm.lanes = {"shm"};
  both.devices = tcp.devices = {"lo"};
  const auto a = MakeUcxTransport(both), b = MakeUcxTransport(both), c = MakeUcxTransport(tcp),
             d = MakeUcxTransport(shm);
  EXPECT_STREQ((*(*a)->Connect((*b)->Address()))->lane(), "shm");
  EXPECT_STREQ((*(*a)->Connect((*c)->Address()))->lane(), "tcp");
  EXPECT_EQ((*c)->Connect((*d)->Address()).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace varve::transport
