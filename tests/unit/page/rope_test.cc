#include "kvstore/page/rope.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdio>
#include <string>
#include <vector>

#include "kvstore/page/checksum.h"
#include "tests/unit/page/rope_data.h"

namespace varve::page {
namespace {

using testing::AnyRope;
using testing::Decode;
using testing::Encode;
using testing::Llama31;
using testing::PairOf;
using testing::ReferenceFrequency;
using testing::ReferenceTurn;
using testing::Rng;
using testing::UnitRoundoff;

using Rows = std::vector<std::byte>;

Rows Turned(const RopeTable& table, const std::vector<uint32_t>& positions, const Rows& rows,
            DType from, DType to) {
  Rows out(positions.size() * table.shape().head_dim * DTypeBytes(to));
  table.Apply(positions, {rows.data(), from}, {out.data(), to});
  return out;
}

Rows TurnedBack(const RopeTable& table, const std::vector<uint32_t>& positions, const Rows& rows,
                DType from, DType to) {
  Rows out(positions.size() * table.shape().head_dim * DTypeBytes(to));
  table.Unapply(positions, {rows.data(), from}, {out.data(), to});
  return out;
}

double Norm(const std::vector<double>& v) {
  double squares = 0;
  for (const double x : v) squares += x * x;
  return std::sqrt(squares);
}

std::vector<double> Minus(std::vector<double> a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return a;
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// To nearest even with `digits` binary digits down to 2^lowest, straight from the definition.
double Rounded(double value, int digits, int lowest) {
  if (value == 0) return value;
  const double step = std::ldexp(1.0, std::max(std::ilogb(value) - digits + 1, lowest));
  return std::nearbyint(value / step) * step;
}

double RoundedTo(double value, DType dtype) {
  if (dtype == DType::kF16) return Rounded(value, 11, -24);
  return dtype == DType::kBF16 ? Rounded(value, 8, -133) : Rounded(value, 24, -149);
}

// The frequencies of Llama 3.1 by the formula of transformers' _compute_llama3_parameters, each
// operation rounded to fp32, made with 200 binary digits by another program.
constexpr uint32_t kLlama31Frequencies[] = {
    0x3f800000, 0x3f508ac1, 0x3f29e1c6, 0x3f0a6384, 0x3ee177bc, 0x3eb7ab7d, 0x3e959ee3, 0x3e73c461,
    0x3e4693b0, 0x3e21c3a0, 0x3e03c6a0, 0x3dd6b19c, 0x3daee4ad, 0x3d8e7898, 0x3d681e67, 0x3d3d1684,
    0x3d1a08c8, 0x3cfaf53f, 0x3ccc6f49, 0x3ca68939, 0x3c87a9c3, 0x3c5d06ec, 0x3c340d6d, 0x3c12ac7f,
    0x3beef74f, 0x3bc2aa76, 0x3b9e9402, 0x3b812e35, 0x3b527720, 0x3b0dfd06, 0x3ab3d11d, 0x3a60979e,
    0x3a0995d2, 0x39a3f108, 0x393b2dd2, 0x38c86886, 0x38a3418d, 0x3884fdbf, 0x3858ac81, 0x38308199,
    0x380fc8f8, 0x37ea426f, 0x37bed4f4, 0x379b7475, 0x377d45c3, 0x374e51f5, 0x3728126b, 0x3708ea0f,
    0x36df10c4, 0x36b5b687, 0x369406cb, 0x36712b80, 0x36447610, 0x36200a69, 0x36025f34, 0x35d46808,
    0x35ad07a7, 0x358cf400, 0x3565a54d, 0x353b12c7, 0x351864a7, 0x34f848c2, 0x34ca41b0, 0x34a4c2ff,
};

TEST(RopeTableTest, TheFrequenciesOfLlama31) {
  const RopeTable table(Llama31(), 128);
  ASSERT_EQ(table.frequencies().size(), std::size(kLlama31Frequencies));
  for (size_t i = 0; i < table.frequencies().size(); ++i) {
    EXPECT_EQ(table.frequencies()[i], std::bit_cast<float>(kLlama31Frequencies[i])) << i;
  }
}

// Where 2 pi / f instead of 2 pi times 1 / f would give other bits.
TEST(RopeTableTest, TheOrderOfTheOperationsIsThePublicOne) {
  RopeParameters rope = Llama31();
  rope.rotary_dim = 256;
  const RopeTable table(rope, 256);
  EXPECT_EQ(table.frequencies()[65], std::bit_cast<float>(0x39d54a79));
  EXPECT_EQ(table.frequencies()[69], std::bit_cast<float>(0x390a0e33));
}

TEST(RopeTableTest, Llama3HasThreeBands) {
  const RopeParameters scaled = Llama31();
  RopeParameters plain;
  plain.theta = scaled.theta;
  plain.rotary_dim = scaled.rotary_dim;
  const RopeTable base(plain, 128);
  const RopeTable table(scaled, 128);
  int kept = 0, between = 0, divided = 0;
  for (size_t i = 0; i < 64; ++i) {
    const double f = base.frequencies()[i];
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength < 8192 / 4.0) {
      EXPECT_EQ(table.frequencies()[i], f) << i;
      ++kept;
    } else if (wavelength > 8192 / 1.0) {
      EXPECT_EQ(table.frequencies()[i], f / 8) << i;
      ++divided;
    } else {
      EXPECT_GT(table.frequencies()[i], f / 8) << i;
      EXPECT_LT(table.frequencies()[i], f) << i;
      ++between;
    }
    if (i > 0) {
      EXPECT_LT(table.frequencies()[i], table.frequencies()[i - 1]) << i;
    }
  }
  EXPECT_EQ(kept, 29);
  EXPECT_EQ(between, 6);
  EXPECT_EQ(divided, 29);
}

// The share s is rounding where the wavelength is at a factor: with factors as near to each other
// as is allowed, frequencies and what is made of them stay in bounds.
TEST(RopeTableTest, Llama3WithTheNearestFactors) {
  RopeParameters rope = Llama31();
  rope.theta = 10000;
  rope.rotary_dim = 2;
  rope.factor = 1e6;
  double least = 1, greatest = 0;
  for (uint32_t original = 1000; original < 9000; ++original) {
    rope.original_max_position = original;
    const double turns = original / (2 * std::numbers::pi);  // of the only pair
    for (const double high : {turns * (1 - 1e-9), turns, turns * 1024 / 1023}) {
      rope.high_freq_factor = high;
      rope.low_freq_factor = high * 1023 / 1024 * (1 - 1e-15);
      ASSERT_EQ(rope.Invalid(2), std::nullopt);
      const RopeTable table(rope, 2);
      const double f = table.frequencies()[0];
      least = std::min(least, f);
      greatest = std::max(greatest, f);
      float cos, sin;
      table.CosSin(0xffffffffu, &cos, &sin);
      const double angle = 0x1p32f * static_cast<float>(f);
      ASSERT_EQ(cos, static_cast<float>(std::cos(angle))) << f;
      ASSERT_EQ(sin, static_cast<float>(std::sin(angle))) << f;
    }
  }
  EXPECT_LT(least, 1e-6) << "no rounded share below 0 was met";
  EXPECT_GT(greatest, 1.0) << "no rounded share above 1 was met";
  EXPECT_GT(least, -0x1p-11);
  EXPECT_LT(greatest, 1 + 0x1p-11);
}

// In fp64 the power is rounded once: theta^(-2i / d) of 5e5 and 128, made with 200 binary digits by
// another program, where 1 / theta^(2i / d) of two roundings has other bits.
TEST(RopeTableTest, Float64RoundsThePowerOnce) {
  RopeParameters rope;
  rope.theta = 500000;
  rope.rotary_dim = 128;
  rope.arithmetic.angles = RopeAngles::kF64;
  const RopeTable table(rope, 128);
  for (const auto& [i, expected] : {std::pair<size_t, double>{5, 0x1.6f56f9cc64eafp-2},
                                    {31, 0x1.c7181f3d9f60bp-10},
                                    {62, 0x1.948360a975f3dp-19}}) {
    EXPECT_EQ(table.frequencies()[i], expected) << i;
  }
}

// fp32 rounds the exponent (times ln theta' in the power), the power and the quotient; where llama3
// mixes, its share s as well, whose error is that of original / wavelength.
TEST(RopePropertyTest, FrequenciesAreThoseOfTheFormulas) {
  constexpr uint64_t kSeed = 51;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int round = 0; round < 400; ++round) {
    const uint32_t head_dim = rng.HeadDim();
    const RopeParameters rope = AnyRope(rng, head_dim);
    SCOPED_TRACE(rope.ToString());
    const bool f32 = rope.arithmetic.angles == RopeAngles::kF32;
    const RopeTable table(rope, head_dim);
    ASSERT_EQ(table.frequencies().size(), rope.rotary_dim / 2);
    for (uint32_t i = 0; i < rope.rotary_dim / 2; ++i) {
      const double expected = ReferenceFrequency(rope, i);
      const double share = f32 ? 200 * 0x1p-24 : 200 * 0x1p-53;
      ASSERT_NEAR(table.frequencies()[i], expected, share * expected) << i;
      if (f32) {
        ASSERT_EQ(table.frequencies()[i], static_cast<float>(table.frequencies()[i]));
      }
    }
  }
}

// Of the angle as the arithmetic rounds it, at any position that fits 32 bits.
TEST(RopePropertyTest, CosinesAndSinesAreRoundedToNearest) {
  constexpr uint64_t kSeed = 52;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int round = 0; round < 400; ++round) {
    const uint32_t head_dim = rng.HeadDim();
    RopeParameters rope = AnyRope(rng, head_dim);
    const DType dtype = rope.arithmetic.table;
    SCOPED_TRACE(rope.ToString());
    const RopeTable table(rope, head_dim);
    for (const uint32_t position :
         {0u, 1u, rng.Below(1 << 17), rng.Below(1 << 28), 0xffffffffu - rng.Below(1 << 20)}) {
      std::vector<float> cos(rope.rotary_dim / 2), sin(cos.size());
      table.CosSin(position, cos.data(), sin.data());
      for (size_t i = 0; i < cos.size(); ++i) {
        const double f = table.frequencies()[i];
        const double angle = rope.arithmetic.angles == RopeAngles::kF32
                                 ? static_cast<float>(position) * static_cast<float>(f)
                                 : position * f;
        ASSERT_EQ(cos[i], RoundedTo(static_cast<float>(std::cos(angle)), dtype)) << position;
        ASSERT_EQ(sin[i], RoundedTo(static_cast<float>(std::sin(angle)), dtype)) << position;
      }
    }
  }
}

// All scalings and pairings against float64. The angle is off by what its frequency and itself are
// rounded: position * f * (200 + 1) units of fp32, or of fp64.
TEST(RopePropertyTest, EveryVariantAgainstFloat64) {
  constexpr uint64_t kSeed = 53;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int round = 0; round < 600; ++round) {
    const uint32_t head_dim = rng.HeadDim();
    const RopeParameters rope = AnyRope(rng, head_dim);
    SCOPED_TRACE(rope.ToString());
    const DType dtype = rng.AnyDType();
    const std::vector<uint32_t> positions{rng.Below(100), rng.Below(1 << 17)};
    const Rows keys = testing::RandomElements(rng, 2 * head_dim, dtype);
    const std::vector<double> from = Decode(keys, dtype);
    const RopeTable table(rope, head_dim);
    const std::vector<double> to = Decode(Turned(table, positions, keys, dtype, dtype), dtype);
    const bool by_steps = rope.arithmetic.rotation == RopeRotation::kKeyDType;
    const double unit = UnitRoundoff(dtype);
    for (size_t t = 0; t < 2; ++t) {
      const std::vector<double> key(from.begin() + t * head_dim, from.begin() + (t + 1) * head_dim);
      const std::vector<double> expected = ReferenceTurn(rope, key, positions[t]);
      for (uint32_t i = 0; i < rope.rotary_dim / 2; ++i) {
        const auto [first, second] = PairOf(rope, i);
        const double size = std::hypot(key[first], key[second]);
        const double angle = positions[t] * ReferenceFrequency(rope, i);
        const double turn =
            201 * angle * (rope.arithmetic.angles == RopeAngles::kF32 ? 0x1p-24 : 0x1p-53);
        const double share =
            turn + 2 * UnitRoundoff(rope.arithmetic.table) + 0x1p-22 + (by_steps ? 4 : 1.5) * unit;
        const double tolerance = size * share + 0x1p-23;
        ASSERT_NEAR(to[t * head_dim + first], expected[first], tolerance) << "pair " << i;
        ASSERT_NEAR(to[t * head_dim + second], expected[second], tolerance) << "pair " << i;
      }
    }
  }
}

// The definition of both rotations, operation by operation, in float64 that is rounded after each.
TEST(RopePropertyTest, EachOperationIsRoundedAsTheArithmeticSays) {
  constexpr uint64_t kSeed = 54;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int round = 0; round < 300; ++round) {
    const uint32_t head_dim = rng.HeadDim();
    const RopeParameters rope = AnyRope(rng, head_dim);
    SCOPED_TRACE(rope.ToString());
    const DType dtype = rng.AnyDType();
    const DType from = rng.Chance(0.5) ? dtype : DType::kF32;
    const DType steps = rope.arithmetic.rotation == RopeRotation::kF32 ? DType::kF32 : dtype;
    const uint32_t position = rng.Below(1 << 17);
    const Rows keys = testing::RandomElements(rng, head_dim, from);
    std::vector<double> key = Decode(keys, from);
    const RopeTable table(rope, head_dim);
    std::vector<float> cos(head_dim / 2), sin(head_dim / 2);
    table.CosSin(position, cos.data(), sin.data());
    for (uint32_t i = 0; i < rope.rotary_dim / 2; ++i) {
      const auto [first, second] = PairOf(rope, i);
      const auto op = [&](double value) { return RoundedTo(value, steps); };
      const double x = op(key[first]), y = op(key[second]), c = cos[i], s = sin[i];
      key[first] = op(op(x * c) - op(y * s));
      key[second] = op(op(y * c) + op(x * s));
    }
    const std::vector<double> turned = Decode(Turned(table, {position}, keys, from, dtype), dtype);
    for (uint32_t c = 0; c < head_dim; ++c) {
      ASSERT_EQ(turned[c], RoundedTo(key[c], dtype)) << "channel " << c;
    }
  }
}

TEST(RopePropertyTest, NormsAndDifferencesOfKeysStay) {
  constexpr uint64_t kSeed = 55;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int round = 0; round < 300; ++round) {
    const uint32_t head_dim = rng.HeadDim();
    RopeParameters rope = AnyRope(rng, head_dim);
    rope.arithmetic.table = DType::kF32;
    SCOPED_TRACE(rope.ToString());
    const RopeTable table(rope, head_dim);
    const std::vector<uint32_t> position{rng.Below(1 << 20)};
    const std::vector<float> key = rng.Floats(head_dim);
    std::vector<float> rebuilt = key;
    for (float& v : rebuilt) v += 0.05f * rng.Normal();
    const auto turned = [&](const std::vector<float>& row) {
      return Decode(Turned(table, position, Encode(row, DType::kF32), DType::kF32, DType::kF32),
                    DType::kF32);
    };
    const std::vector<double> k(key.begin(), key.end()), r(rebuilt.begin(), rebuilt.end());
    EXPECT_NEAR(Norm(turned(key)), Norm(k), 0x1p-21 * Norm(k));
    // P15: what a rebuilt key is off by before the turn is what it is off by after it.
    EXPECT_NEAR(Norm(Minus(turned(key), turned(rebuilt))), Norm(Minus(k, r)),
                0x1p-21 * (Norm(k) + Norm(r)));
  }
}

TEST(RopePropertyTest, LogitsDependOnTheDistanceAlone) {
  constexpr uint64_t kSeed = 56;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int round = 0; round < 300; ++round) {
    const uint32_t head_dim = rng.HeadDim();
    RopeParameters rope = AnyRope(rng, head_dim);
    rope.arithmetic.table = DType::kF32;
    SCOPED_TRACE(rope.ToString());
    const RopeTable table(rope, head_dim);
    const Rows rows = testing::RandomElements(rng, 2 * head_dim, DType::kF32);
    const uint32_t distance = rng.Below(1 << 13);
    std::vector<double> logits;
    double size = 0;
    for (const uint32_t at : {0u, rng.Below(1 << 13)}) {
      const auto turned =
          Decode(Turned(table, {at + distance, at}, rows, DType::kF32, DType::kF32), DType::kF32);
      const std::vector<double> q(turned.begin(), turned.begin() + head_dim);
      const std::vector<double> k(turned.begin() + head_dim, turned.end());
      logits.push_back(Dot(q, k));
      size = Norm(q) * Norm(k);
    }
    // In fp32 an angle of up to 2^14 is off by half a unit, 2^-11.
    const bool f32 = rope.arithmetic.angles == RopeAngles::kF32;
    EXPECT_NEAR(logits[0], logits[1], size * (f32 ? 0x1p-9 : 0x1p-20));
  }
}

TEST(RopePropertyTest, TurningBackIsOffByNoMoreThanStated) {
  constexpr uint64_t kSeed = 57;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int round = 0; round < 600; ++round) {
    const uint32_t head_dim = rng.HeadDim();
    const RopeParameters rope = AnyRope(rng, head_dim);
    SCOPED_TRACE(rope.ToString());
    const DType dtype = rng.AnyDType();
    const RopeTable table(rope, head_dim);
    const std::vector<uint32_t> position{rng.Below(1 << 20)};
    const Rows keys = testing::RandomElements(rng, head_dim, dtype);
    const std::vector<double> key = Decode(keys, dtype);
    const std::vector<double> back =
        Decode(TurnedBack(table, position, Turned(table, position, keys, dtype, dtype), dtype,
                          DType::kF32),
               DType::kF32);
    const bool by_steps = rope.arithmetic.rotation == RopeRotation::kKeyDType;
    const double share = (by_steps ? 4 : 2) * UnitRoundoff(dtype) + 0x1p-21;
    const double tiny = dtype == DType::kF16 ? 0x1p-23 : 0;
    for (uint32_t i = 0; i < rope.rotary_dim / 2; ++i) {
      const auto [first, second] = PairOf(rope, i);
      const double off = std::hypot(back[first] - key[first], back[second] - key[second]);
      ASSERT_LE(off, share * std::hypot(key[first], key[second]) + tiny) << "pair " << i;
    }
    for (uint32_t c = rope.rotary_dim; c < head_dim; ++c) ASSERT_EQ(back[c], key[c]);
  }
}

// Any bits: also those of a signalling NaN.
TEST(RopePropertyTest, ChannelsBeyondTheRotaryOnesKeepTheirBits) {
  constexpr uint64_t kSeed = 58;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int round = 0; round < 200; ++round) {
    const uint32_t head_dim = rng.HeadDim();
    RopeParameters rope = AnyRope(rng, head_dim);
    rope.rotary_dim = head_dim - 2 * rng.Between(1, head_dim / 2 - 2);
    const DType dtype = rng.AnyDType();
    const RopeTable table(rope, head_dim);
    Rows rows(3 * head_dim * DTypeBytes(dtype));
    for (std::byte& b : rows) b = static_cast<std::byte>(rng.Below(256));
    const std::vector<uint32_t> positions{0, 77, 4000};
    for (const Rows& out : {Turned(table, positions, rows, dtype, dtype),
                            TurnedBack(table, positions, rows, dtype, dtype)}) {
      for (size_t t = 0; t < 3; ++t) {
        for (size_t b = rope.rotary_dim * DTypeBytes(dtype); b < head_dim * DTypeBytes(dtype);
             ++b) {
          const size_t at = t * head_dim * DTypeBytes(dtype) + b;
          ASSERT_EQ(out[at], rows[at]) << "row " << t << ", byte " << b;
        }
      }
    }
  }
}

TEST(RopePropertyTest, RowsInPlaceAndWithTablesOfTheCallersAreTheSame) {
  constexpr uint64_t kSeed = 59;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int round = 0; round < 200; ++round) {
    const uint32_t head_dim = rng.HeadDim();
    const RopeParameters rope = AnyRope(rng, head_dim);
    SCOPED_TRACE(rope.ToString());
    const DType dtype = rng.AnyDType();
    const uint32_t half = rope.rotary_dim / 2;
    const RopeTable table(rope, head_dim);
    const std::vector<uint32_t> positions{rng.Below(1 << 17), 0, rng.Below(1 << 17)};
    std::vector<float> cos(3 * half), sin(3 * half);
    for (size_t t = 0; t < 3; ++t) table.CosSin(positions[t], &cos[t * half], &sin[t * half]);
    const Rows rows = testing::RandomElements(rng, 3 * head_dim, dtype);
    const Rows turned = Turned(table, positions, rows, dtype, dtype);
    Rows own = rows;
    table.Apply(positions, {own.data(), dtype}, {own.data(), dtype});
    EXPECT_EQ(own, turned);
    own = rows;
    RopeRows(table.shape(), cos.data(), sin.data(), 3, {own.data(), dtype}, {own.data(), dtype});
    EXPECT_EQ(own, turned);
    const Rows back = TurnedBack(table, positions, turned, dtype, dtype);
    UnropeRows(table.shape(), cos.data(), sin.data(), 3, {own.data(), dtype}, {own.data(), dtype});
    EXPECT_EQ(own, back);
    own = turned;
    table.Unapply(positions, {own.data(), dtype}, {own.data(), dtype});
    EXPECT_EQ(own, back);
  }
}

TEST(RopeTableTest, ThePositionZeroChangesNothing) {
  Rng rng(60);
  for (const DType dtype : testing::kAllDTypes) {
    for (const RopeRotation rotation : {RopeRotation::kF32, RopeRotation::kKeyDType}) {
      RopeParameters rope = Llama31();
      rope.arithmetic.rotation = rotation;
      // A zero may change its sign: -0 * 1 + 0 is +0.
      const Rows rows = Encode(std::vector<float>(128, 1.5f), dtype);
      EXPECT_EQ(Turned(RopeTable(rope, 128), {0}, rows, dtype, dtype), rows);
    }
  }
}

// Whatever the compiler and the CPU: engines, stores and workers must agree on these bytes. Another
// program has them too, with 300 binary digits where no operation is rounded.
TEST(RopeTableTest, TheBytesAreFixed) {
  constexpr uint64_t kSeed = 61;
  VARVE_SEED(kSeed);
  std::mt19937_64 bits(
      kSeed);  // its numbers are the same everywhere, those of distributions are not
  std::vector<float> key(3 * 128);
  for (float& v : key) v = static_cast<float>(static_cast<int64_t>(bits())) * 0x1p-62f;
  std::string found;
  for (uint32_t scaling = 1; scaling <= 4; ++scaling) {
    for (uint32_t variant = 0; variant < 8; ++variant) {
      RopeParameters rope = Llama31();
      rope.scaling = static_cast<RopeScaling>(scaling);
      rope.rotary_dim = (variant & 1) != 0 ? 128 : 96;
      rope.pairing = static_cast<RopePairing>(1 + (variant >> 1 & 1));
      const bool f64 = (variant & 4) != 0;
      rope.arithmetic = {f64 ? RopeAngles::kF64 : RopeAngles::kF32,
                         f64 ? DType::kF32 : DType::kBF16,
                         f64 ? RopeRotation::kF32 : RopeRotation::kKeyDType};
      const DType dtype = f64 ? DType::kF32 : DType::kBF16;
      const Rows out =
          Turned(RopeTable(rope, 128), {1, 4711, 131071}, Encode(key, dtype), dtype, dtype);
      char text[16];
      std::snprintf(text, sizeof(text), "%08x ", Crc32c(out.data(), out.size()));
      found += text;
    }
  }
  EXPECT_EQ(found,
            "b249c903 6b804884 93bc6b36 022080e0 e6571c8d 151376cc 0f3e2801 526c3305 "
            "886147a0 934ba179 cf0e8ba0 95f683c1 ebd06632 698b9fef 1ea7def5 5c827a65 "
            "2d5b2f3a d69c37be 6d9c8d6c b369ec5d ca2b9ba3 1321d98c 5b15780a 0f3502c4 "
            "f582a875 ee91e25c 64925a73 427668d7 1008ce64 cfcd609d f3867d9f a289bbd9 ");
}

}  // namespace
}  // namespace varve::page
