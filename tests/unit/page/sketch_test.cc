// Sketches of keys: the kinds SIGN1, SIGN2 and SIGN4. What holds for every kind is in
// digest_test.cc and score_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/simd/kernels.h"
#include "tests/unit/page/digest_pages.h"
#include "tests/unit/page/sketch_data.h"

namespace varve::page {
namespace {

using testing::Build;
using testing::Bytes;
using testing::DecodeQuery;
using testing::DecodeToken;
using testing::Encode;
using testing::Key;
using testing::Page;
using testing::RandomPage;
using testing::Rng;
using testing::RotatedKey;
using testing::SketchQuery;
using testing::SketchToken;

constexpr DigestKind kSketches[] = {DigestKind::kSign1, DigestKind::kSign2, DigestKind::kSign4};
constexpr uint32_t kHeadDims[] = {32, 40, 64, 80, 96, 128, 248, 256};

TEST(SketchTest, ValuesMatchTheirDefinition) {
  constexpr uint64_t kSeed = 701;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 120; ++i) {
    Page page = RandomPage(rng);
    page.head_dim = kHeadDims[rng.Below(std::size(kHeadDims))];
    page.keys = testing::RandomElements(rng, size_t{page.tokens} * page.head_dim, page.dtype);
    for (DigestKind kind : kSketches) {
      const uint32_t bits = Info(kind).sketch_bits;
      const Bytes sketch = Build(kind, page);
      for (uint32_t t = 0; t < page.tokens; ++t) {
        const std::vector<double> key = RotatedKey(page, t);
        const SketchToken token = DecodeToken(kind, sketch.data(), page.tokens, t, page.head_dim);
        double mean = 0, absolute = 0, square = 0, greatest = 0;
        for (double v : key) {
          mean += v / page.head_dim;
          greatest = std::max(greatest, std::abs(v));
        }
        const double tiny = 1e-6 * greatest;
        ASSERT_NEAR(token.mean, mean, 0x1p-8 * std::abs(mean) + tiny);
        for (double v : key) {
          absolute += std::abs(v - token.mean) / page.head_dim;
          square += (v - token.mean) * (v - token.mean) / page.head_dim;
        }
        const double scale = bits == 1   ? absolute
                             : bits == 2 ? 0.49786 * std::sqrt(square)
                                         : 0.16760 * std::sqrt(square);
        ASSERT_NEAR(token.scale, scale, 0x1p-8 * scale + tiny);
        const int top = (1 << bits) - 1;
        for (uint32_t c = 0; c < page.head_dim; ++c) {
          const int code = token.codes[c];
          const double off = key[c] - token.Value(c, bits);
          ASSERT_LE(code == top ? -off : std::abs(off) * (code == 0 ? off > 0 : 1),
                    token.scale + tiny)
              << "not the nearest level, channel " << c;
        }
      }
    }
  }
}

// q.k and what the sketch says of it differ by no more than score.h allows.
TEST(SketchTest, LogitsAreWithinTheStatedError) {
  constexpr uint64_t kSeed = 702;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 150; ++i) {
    const Page page = RandomPage(rng);
    const std::vector<float> query = rng.Floats(page.head_dim);
    for (DigestKind kind : kSketches) {
      const SketchQuery q = DecodeQuery(kind, query.data(), page.head_dim);
      const uint32_t bits = Info(kind).sketch_bits;
      const Bytes sketch = Build(kind, page);
      for (uint32_t t = 0; t < page.tokens; ++t) {
        const SketchToken token = DecodeToken(kind, sketch.data(), page.tokens, t, page.head_dim);
        const std::vector<double> key = RotatedKey(page, t);
        double dot = 0, bound = 0, size = 0;
        for (uint32_t c = 0; c < page.head_dim; ++c) {
          dot += query[c] * Key(page, t, c);
          const double beyond = std::abs(key[c] - token.mean) - ((1 << bits) - 1) * token.scale;
          bound += std::abs(q.rotated[c]) * std::max(token.scale, beyond) +
                   0.5 * q.step * std::abs(token.Value(c, bits));
          size += std::abs(q.rotated[c]) * std::abs(key[c]);
        }
        const double logit =
            q.step * (token.mean * q.sum + token.scale * testing::Levels(q, token, bits));
        ASSERT_NEAR(logit, dot, bound + 1e-5 * size);
      }
    }
  }
}

// What quantising leaves of the energy of normal keys: the known values of quantisers of that many
// levels.
TEST(SketchTest, ErrorOnNormalKeysIsNearTheory) {
  constexpr uint64_t kSeed = 703;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  Page page{32, 128, DType::kF32, {}};
  const double expected[] = {0.363, 0.119, 0.0115};
  for (size_t k = 0; k < 3; ++k) {
    double error = 0, energy = 0;
    for (int i = 0; i < 20; ++i) {
      std::vector<float> keys(size_t{page.tokens} * page.head_dim);
      for (float& v : keys) v = rng.Normal();
      page.keys = Encode(keys, page.dtype);
      const Bytes sketch = Build(kSketches[k], page);
      for (uint32_t t = 0; t < page.tokens; ++t) {
        const SketchToken token = DecodeToken(kSketches[k], sketch.data(), page.tokens, t, 128);
        const std::vector<double> key = RotatedKey(page, t);
        for (uint32_t c = 0; c < 128; ++c) {
          error += std::pow(key[c] - token.Value(c, Info(kSketches[k]).sketch_bits), 2);
          energy += std::pow(key[c] - token.mean, 2);
        }
      }
    }
    EXPECT_NEAR(error / energy, expected[k], 0.05 * expected[k]) << Info(kSketches[k]).name;
  }
}

// Stored bytes, for ever: a page of two tokens of 40 channels, which leaves bits over.
TEST(SketchTest, GoldenBytes) {
  std::vector<float> keys(2 * 40);
  for (int i = 0; i < 80; ++i) keys[i] = static_cast<float>((i * 37 + i * i % 11) % 64 - 32) / 8;
  const Page page{2, 40, DType::kF16, Encode(keys, DType::kF16)};
  const std::vector<uint8_t> expected[] = {
      {0x44, 0x9c, 0xf5, 0xc6, 0x8e, 0x38, 0xa2, 0xdd, 0x00, 0x03, 0x01, 0x01,
       0x03, 0x03, 0x01, 0x01, 0x41, 0x3f, 0x19, 0x3f, 0x4d, 0x3b, 0x8d, 0xbd},
      {0x65, 0xe0, 0x62, 0x3c, 0xed, 0xd1, 0x59, 0xa6, 0x75, 0xc2, 0xea,
       0xe0, 0x81, 0x1b, 0x98, 0xa6, 0x05, 0x0e, 0x02, 0x03, 0x0a, 0x0e,
       0x02, 0x03, 0xd3, 0x3e, 0xd1, 0x3e, 0x4d, 0x3b, 0x8d, 0xbd},
      {0x66, 0x42, 0x38, 0xb4, 0xb7, 0x16, 0x95, 0x78, 0x6a, 0xba, 0x59, 0x5b,
       0xba, 0xf7, 0x76, 0x88, 0x76, 0x4a, 0xa9, 0x44, 0x37, 0x8e, 0x85, 0x78,
       0x7b, 0xb3, 0xc9, 0xba, 0xa3, 0x17, 0x86, 0x88, 0x66, 0xba, 0x39, 0x4c,
       0x8a, 0xca, 0x49, 0x3b, 0x0e, 0x3e, 0x0d, 0x3e, 0x4d, 0x3b, 0x8d, 0xbd}};
  for (size_t k = 0; k < 3; ++k) {
    const Bytes sketch = Build(kSketches[k], page);
    std::vector<uint8_t> bytes(sketch.size());
    std::memcpy(bytes.data(), sketch.data(), sketch.size());
    EXPECT_EQ(bytes, expected[k]) << Info(kSketches[k]).name;
  }
}

TEST(SketchTest, EqualKeysHaveTheScaleZero) {
  // Only the first channel of each block is set: all rotated channels are equal.
  for (float value : {0.0f, -0.0f, 3.0f, -3.0f}) {
    std::vector<float> keys(8 * 96, 0.0f);
    for (size_t i = 0; i < keys.size(); i += 32) keys[i] = value;
    const Page page{8, 96, DType::kBF16, Encode(keys, DType::kBF16)};
    const Geometry g{1, 1, 1, 96, 8, DType::kBF16};
    for (DigestKind kind : kSketches) {
      const Bytes sketch = Build(kind, page);
      EXPECT_TRUE(DigestRowIsSane(kind, sketch.data(), g));
      const SketchToken token = DecodeToken(kind, sketch.data(), 8, 7, 96);
      EXPECT_EQ(token.scale, 0);
      EXPECT_FALSE(std::signbit(token.scale));
      EXPECT_EQ(token.mean, value / 32);
      EXPECT_FALSE(value == 0 && std::signbit(token.mean));
    }
  }
}

TEST(SketchTest, SanityFindsEveryKindOfDamage) {
  constexpr uint64_t kSeed = 704;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (uint32_t head_dim : {80u, 96u, 40u}) {
    const Geometry g{1, 3, 3, head_dim, 8, DType::kF16};
    const Page page{8, head_dim, DType::kF16, testing::RandomElements(rng, 8 * head_dim, g.dtype)};
    for (DigestKind kind : kSketches) {
      const Bytes digest = Build(kind, page);
      Bytes row;
      for (int head = 0; head < 3; ++head) row.insert(row.end(), digest.begin(), digest.end());
      ASSERT_EQ(row.size(), DigestRowBytes(kind, g));
      EXPECT_TRUE(DigestRowIsSane(kind, row.data(), g));
      const size_t words = size_t{4} * SketchWords(kind, head_dim) * 8;
      uint32_t free_bits = 0;
      // Of the last head: bits that no channel has, and the numbers behind the words.
      const size_t last = 2 * digest.size();
      for (size_t bit = 0; bit < 8 * words; ++bit) {
        Bytes damaged = row;
        damaged[last + bit / 8] ^= std::byte{1} << bit % 8;
        const bool same =
            DecodeToken(kind, damaged.data() + last, 8, bit / 32 % 8, head_dim).codes ==
            DecodeToken(kind, digest.data(), 8, bit / 32 % 8, head_dim).codes;
        ASSERT_EQ(DigestRowIsSane(kind, damaged.data(), g), !same) << bit;
        free_bits += same ? 1 : 0;
      }
      EXPECT_EQ(free_bits, 8 * words - size_t{8} * head_dim * Info(kind).sketch_bits);
      for (size_t at = last + words; at < row.size(); at += 2) {
        for (uint16_t bad : {uint16_t{0x7f80}, uint16_t{0xff80}, uint16_t{0x7fc1}}) {
          Bytes damaged = row;
          std::memcpy(damaged.data() + at, &bad, 2);
          ASSERT_FALSE(DigestRowIsSane(kind, damaged.data(), g)) << at;
        }
      }
      const uint16_t negative = 0xbf80;
      Bytes damaged = row;
      std::memcpy(damaged.data() + last + words + 2, &negative, 2);
      EXPECT_FALSE(DigestRowIsSane(kind, damaged.data(), g)) << "a negative scale";
      damaged = row;
      std::memcpy(damaged.data() + last + words + 16, &negative, 2);
      EXPECT_TRUE(DigestRowIsSane(kind, damaged.data(), g)) << "a negative mean";
    }
  }
}

}  // namespace
}  // namespace varve::page
