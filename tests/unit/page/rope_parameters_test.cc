#include "kvstore/page/rope_parameters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "tests/unit/page/rope_data.h"

namespace varve::page {
namespace {

using testing::AnyRope;
using ::testing::HasSubstr;
using testing::Llama31;
using testing::Rng;

struct InvalidCase {
  const char* message;
  std::function<void(RopeParameters&)> spoil;
};

TEST(RopeParametersTest, EachFieldOutOfRangeIsNamedWithWhatIsAllowed) {
  const auto plain = [](RopeParameters& r, RopeScaling scaling) {
    r.scaling = scaling;
    r.low_freq_factor = r.high_freq_factor = r.original_max_position = 0;
  };
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  const InvalidCase cases[] = {
      {"theta is 1, allowed: above 1, at most 1e15", [](auto& r) { r.theta = 1; }},
      {"theta is nan", [](auto& r) { r.theta = kNaN; }},
      {"theta is inf", [](auto& r) { r.theta = std::numeric_limits<double>::infinity(); }},
      {"rotary_dim is 0, allowed: even, 2..128 (head_dim)", [](auto& r) { r.rotary_dim = 0; }},
      {"rotary_dim is 63", [](auto& r) { r.rotary_dim = 63; }},
      {"rotary_dim is 130", [](auto& r) { r.rotary_dim = 130; }},
      {"rotary_dim is 2, allowed: at least 4 with scaling ntk",
       [&](auto& r) { plain(r, RopeScaling::kNtk), r.rotary_dim = 2; }},
      {"pairing is 0, allowed: rotate_half or interleaved",
       [](auto& r) { r.pairing = static_cast<RopePairing>(0); }},
      {"pairing is 3", [](auto& r) { r.pairing = static_cast<RopePairing>(3); }},
      {"scaling is 0, allowed: none, linear, ntk or llama3",
       [](auto& r) { r.scaling = static_cast<RopeScaling>(0); }},
      {"scaling is 5", [](auto& r) { r.scaling = static_cast<RopeScaling>(5); }},
      {"factor is 0.5, allowed: 1..1e6", [](auto& r) { r.factor = 0.5; }},
      {"factor is nan", [](auto& r) { r.factor = kNaN; }},
      {"factor is 2000000", [&](auto& r) { plain(r, RopeScaling::kNtk), r.factor = 2e6; }},
      {"factor is 0, allowed", [&](auto& r) { plain(r, RopeScaling::kLinear), r.factor = 0; }},
      {"factor is 8, allowed: 0 with scaling none", [&](auto& r) { plain(r, RopeScaling::kNone); }},
      {"low_freq_factor is 0, allowed: above 0", [](auto& r) { r.low_freq_factor = 0; }},
      {"low_freq_factor is 1, allowed: 0 with scaling linear",
       [&](auto& r) { plain(r, RopeScaling::kLinear), r.low_freq_factor = 1; }},
      {"high_freq_factor is 1, allowed: above low_freq_factor (1) by 1/1024 of itself or more, "
       "at most 1e6",
       [](auto& r) { r.high_freq_factor = 1; }},
      {"high_freq_factor is 623.0915848656674, allowed: above low_freq_factor (623.0915848656673)",
       [](auto& r) {
         r.low_freq_factor = 623.0915848656673, r.high_freq_factor = 623.0915848656674;
       }},
      {"high_freq_factor is 1.0009, allowed: above low_freq_factor (1)",
       [](auto& r) { r.high_freq_factor = 1.0009; }},
      {"high_freq_factor is nan", [](auto& r) { r.high_freq_factor = kNaN; }},
      {"high_freq_factor is 4, allowed: 0 with scaling ntk",
       [&](auto& r) { plain(r, RopeScaling::kNtk), r.high_freq_factor = 4; }},
      {"original_max_position is 0, allowed: at least 1",
       [](auto& r) { r.original_max_position = 0; }},
      {"original_max_position is 8, allowed: 0 with scaling ntk",
       [&](auto& r) { plain(r, RopeScaling::kNtk), r.original_max_position = 8; }},
      {"arithmetic.angles is 3, allowed: f32 or f64",
       [](auto& r) { r.arithmetic.angles = static_cast<RopeAngles>(3); }},
      {"arithmetic.table is 0, allowed: f32, f16 or bf16",
       [](auto& r) { r.arithmetic.table = static_cast<DType>(0); }},
      {"arithmetic.rotation is 0, allowed: f32 or key_dtype",
       [](auto& r) { r.arithmetic.rotation = static_cast<RopeRotation>(0); }},
  };
  EXPECT_EQ(Llama31().Invalid(128), std::nullopt);
  for (const InvalidCase& c : cases) {
    RopeParameters rope = Llama31();
    c.spoil(rope);
    const auto error = rope.Invalid(128);
    ASSERT_TRUE(error.has_value()) << c.message;
    EXPECT_THAT(*error, HasSubstr(c.message));
  }
}

TEST(RopeParametersTest, TheNearestFactorsOfLlama3) {
  RopeParameters rope = Llama31();
  rope.low_freq_factor = 1023;
  rope.high_freq_factor = 1024;
  EXPECT_EQ(rope.Invalid(128), std::nullopt);
  rope.low_freq_factor = std::nextafter(1023, 1024);
  EXPECT_NE(rope.Invalid(128), std::nullopt);
}

TEST(RopeParametersTest, TheTextNamesEverything) {
  EXPECT_EQ(
      Llama31().ToString(),
      "theta 500000 d128 rotate_half llama3(8, 1, 4, 8192) angles f32 table f32 rotation f32");
  RopeParameters rope = Llama31();
  rope.scaling = RopeScaling::kNtk;
  rope.factor = 2.5;
  rope.pairing = RopePairing::kInterleaved;
  rope.arithmetic = {RopeAngles::kF64, DType::kBF16, RopeRotation::kKeyDType};
  EXPECT_EQ(rope.ToString(),
            "theta 500000 d128 interleaved ntk(2.5) angles f64 table bf16 rotation key_dtype");
  Rng rng(62);
  std::vector<RopeParameters> seen;
  for (int i = 0; i < 300; ++i) {
    const RopeParameters one = AnyRope(rng, 64);
    EXPECT_EQ(one.Invalid(64), std::nullopt);
    for (const RopeParameters& other : seen) {
      EXPECT_EQ(one.ToString() == other.ToString(), one == other);
    }
    seen.push_back(one);
  }
}

}  // namespace
}  // namespace varve::page
