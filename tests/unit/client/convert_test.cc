#include "client/convert.h"

#include "gmock/gmock.h"

namespace varve::client {
namespace {

TEST(ConvertTest, TtlsAreTakenToWhatTheWireCanSay) {
  EXPECT_EQ(TtlMilliseconds(absl::InfiniteDuration()), 0u);
  EXPECT_EQ(TtlMilliseconds(absl::Seconds(1.5)), 1500u);
  EXPECT_EQ(TtlMilliseconds(absl::Nanoseconds(1)), 1u) << "0 would be no limit";
  EXPECT_EQ(TtlMilliseconds(-absl::Seconds(1)), 1u);
  EXPECT_EQ(TtlMilliseconds(absl::Hours(24 * 365)), UINT32_MAX);
}

TEST(ConvertTest, ResultsOfANewerStoreAreNoSuccess) {
  v1::PutItemResult put;
  put.set_result(static_cast<v1::PutResult>(99));
  EXPECT_EQ(FromProto(put).outcome, PutOutcome::kFailed);
  EXPECT_EQ(FromProto(v1::PutItemResult()).outcome, PutOutcome::kFailed);
  v1::GetItemResult get;
  get.set_miss_reason(static_cast<v1::MissReason>(99));
  EXPECT_EQ(FromProto(get).reason, MissReason::kFailed);
  EXPECT_FALSE(FromProto(get).hit);
}

TEST(ConvertTest, EveryOutcomeAndReasonHasItsName) {
  const std::pair<v1::PutResult, PutOutcome> outcomes[] = {
      {v1::PUT_RESULT_STORED, PutOutcome::kStored},
      {v1::PUT_RESULT_EXISTS, PutOutcome::kExists},
      {v1::PUT_RESULT_NO_SPACE, PutOutcome::kNoSpace},
      {v1::PUT_RESULT_CORRUPT, PutOutcome::kCorrupt},
      {v1::PUT_RESULT_FAILED, PutOutcome::kFailed},
      {v1::PUT_RESULT_INVALID, PutOutcome::kInvalid}};
  for (const auto& [wire, own] : outcomes) {
    v1::PutItemResult result;
    result.set_result(wire);
    EXPECT_EQ(FromProto(result).outcome, own);
  }
  const std::pair<v1::MissReason, MissReason> reasons[] = {
      {v1::MISS_REASON_UNSPECIFIED, MissReason::kNone},
      {v1::MISS_REASON_NEVER_STORED, MissReason::kNeverStored},
      {v1::MISS_REASON_EVICTED, MissReason::kEvicted},
      {v1::MISS_REASON_EXPIRED, MissReason::kExpired},
      {v1::MISS_REASON_INCOMPATIBLE, MissReason::kIncompatible},
      {v1::MISS_REASON_CORRUPT, MissReason::kCorrupt},
      {v1::MISS_REASON_FAILED, MissReason::kFailed}};
  for (const auto& [wire, own] : reasons) {
    v1::GetItemResult result;
    result.set_miss_reason(wire);
    EXPECT_EQ(FromProto(result).reason, own);
  }
}

TEST(ConvertTest, GeometrySurvivesTheWire) {
  const page::Geometry geometry{.num_layers = 3,
                                .num_kv_heads = 5,
                                .num_query_heads = 10,
                                .head_dim = 64,
                                .page_tokens = 16,
                                .dtype = page::DType::kF16};
  v1::ContextInfo wire;
  *wire.mutable_geometry() = ToProto(geometry);
  wire.set_state(v1::CONTEXT_STATE_PARKED);
  wire.set_digest_kind(ToProto(page::DigestKind::kMean));
  const ContextInfo info = FromProto(wire);
  EXPECT_EQ(info.geometry, geometry);
  EXPECT_EQ(info.digest_kind, page::DigestKind::kMean);
  EXPECT_FALSE(info.attached);
}

TEST(ConvertTest, RopeParametersSurviveTheWire) {
  page::Geometry geometry{.num_layers = 3,
                          .num_kv_heads = 5,
                          .num_query_heads = 10,
                          .head_dim = 64,
                          .page_tokens = 16,
                          .dtype = page::DType::kF16};
  EXPECT_FALSE(ToProto(geometry).has_rope()) << "who does not know them sends what was sent before";
  geometry.rope = {.theta = 500000,
                   .rotary_dim = 48,
                   .pairing = page::RopePairing::kInterleaved,
                   .scaling = page::RopeScaling::kLlama3,
                   .factor = 8,
                   .low_freq_factor = 1.5,
                   .high_freq_factor = 4,
                   .original_max_position = 8192,
                   .arithmetic = {.angles = page::RopeAngles::kF64,
                                  .table = page::DType::kBF16,
                                  .rotation = page::RopeRotation::kKeyDType}};
  EXPECT_EQ(FromProto(ToProto(geometry)), geometry);
  // Numbers that the enumerations cannot hold do not become others that they can.
  v1::Geometry wire = ToProto(geometry);
  wire.mutable_rope()->set_table(static_cast<v1::DType>(256 + v1::DTYPE_F32));
  EXPECT_EQ(FromProto(wire).Invalid(), "rope.arithmetic.table is 0, allowed: f32, f16 or bf16");
  wire = ToProto(geometry);
  wire.set_dtype(static_cast<v1::DType>(256 + v1::DTYPE_F32));
  EXPECT_EQ(FromProto(wire).Invalid(), "dtype is 0, allowed: f32, f16 or bf16");
  wire = ToProto(geometry);
  wire.mutable_rope()->set_scaling(static_cast<v1::RopeScaling>(-1));
  EXPECT_EQ(FromProto(wire).Invalid(),
            "rope.scaling is 4294967295, allowed: none, linear, ntk or llama3");
}

TEST(ConvertTest, StatusKeepsCodeAndText) {
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
  const absl::Status status = FromGrpc({grpc::StatusCode::DATA_LOSS, "gone"});
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(), "gone");
}

}  // namespace
}  // namespace varve::client
