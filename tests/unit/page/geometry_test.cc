#include "kvstore/page/geometry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <vector>

#include "tests/unit/page/rope_data.h"
#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

using ::testing::HasSubstr;
using testing::Rng;

Geometry Llama() { return {32, 8, 32, 128, 32, DType::kBF16}; }

TEST(GeometryTest, BytesOfLlama31) {
  const Geometry g = Llama();
  EXPECT_EQ(g.Invalid(), std::nullopt);
  EXPECT_EQ(g.group_size(), 4u);
  EXPECT_EQ(g.row_bytes(), 256u);
  EXPECT_EQ(g.part_bytes(), 8192u);
  EXPECT_EQ(g.page_bytes(), 16384u);
  EXPECT_EQ(g.object_bytes(), 131072u);
  EXPECT_EQ(g.ToString(), "L32 Hkv8 Hq32 d128 p32 bf16");
}

struct InvalidCase {
  const char* field;
  std::function<void(Geometry&)> spoil;
};

TEST(GeometryTest, EachFieldOutOfRangeIsNamedWithWhatIsAllowed) {
  const InvalidCase cases[] = {
      {"num_layers is 0, allowed: 1..1024", [](Geometry& g) { g.num_layers = 0; }},
      {"num_layers is 1025", [](Geometry& g) { g.num_layers = 1025; }},
      {"num_kv_heads is 0, allowed: 1..256", [](Geometry& g) { g.num_kv_heads = 0; }},
      {"num_kv_heads is 257", [](Geometry& g) { g.num_kv_heads = 257, g.num_query_heads = 514; }},
      {"num_query_heads is 0", [](Geometry& g) { g.num_query_heads = 0; }},
      {"num_query_heads is 33", [](Geometry& g) { g.num_query_heads = 33; }},
      {"num_query_heads is 1032", [](Geometry& g) { g.num_query_heads = 1032; }},
      {"head_dim is 24, allowed: a multiple of 8 in 32..256", [](Geometry& g) { g.head_dim = 24; }},
      {"head_dim is 100", [](Geometry& g) { g.head_dim = 100; }},
      {"head_dim is 264", [](Geometry& g) { g.head_dim = 264; }},
      {"page_tokens is 12, allowed: 8, 16 or 32", [](Geometry& g) { g.page_tokens = 12; }},
      {"page_tokens is 64", [](Geometry& g) { g.page_tokens = 64; }},
      {"dtype is 0, allowed: f32, f16 or bf16",
       [](Geometry& g) { g.dtype = static_cast<DType>(0); }},
      {"dtype is 4", [](Geometry& g) { g.dtype = static_cast<DType>(4); }},
      {"rope.theta is 0, allowed: above 1", [](Geometry& g) { g.rope.emplace(); }},
      {"rope.rotary_dim is 128, allowed: even, 2..64 (head_dim)",
       [](Geometry& g) { g.head_dim = 64, g.rope = testing::Llama31(); }},
  };
  for (const InvalidCase& c : cases) {
    Geometry g = Llama();
    c.spoil(g);
    const auto error = g.Invalid();
    ASSERT_TRUE(error.has_value()) << c.field;
    EXPECT_THAT(*error, HasSubstr(c.field));
  }
}

TEST(GeometryTest, IdDependsOnStoredShapeOnly) {
  const Geometry base = Llama();
  Geometry g = base;
  g.num_query_heads = 64;
  EXPECT_EQ(g.Id(), base.Id());
  for (auto change :
       {+[](Geometry& x) { x.num_layers = 33; }, +[](Geometry& x) { x.num_kv_heads = 16; },
        +[](Geometry& x) { x.head_dim = 64; }, +[](Geometry& x) { x.page_tokens = 16; },
        +[](Geometry& x) { x.dtype = DType::kF16; }}) {
    g = base;
    change(g);
    EXPECT_NE(g.Id(), base.Id());
  }
}

// Names of stored blocks begin with it.
TEST(GeometryTest, IdsAreFixed) {
  Geometry g = Llama();
  EXPECT_EQ(g.Id(), 0x8342c80d266d820eu);
  g.rope = testing::Llama31();
  EXPECT_EQ(g.Invalid(), std::nullopt);
  EXPECT_EQ(g.Id(), 0x7df1e9b5bead6ddau);
}

TEST(GeometryTest, EveryRopeParameterCounts) {
  Geometry base = Llama();
  base.rope = testing::Llama31();
  EXPECT_EQ(base.ToString(), Llama().ToString() + " rope(" + base.rope->ToString() + ")");
  EXPECT_NE(base, Llama());
  for (auto change :
       {+[](RopeParameters& r) { r.theta = 10000; }, +[](RopeParameters& r) { r.rotary_dim = 64; },
        +[](RopeParameters& r) { r.pairing = RopePairing::kInterleaved; },
        +[](RopeParameters& r) { r.scaling = RopeScaling::kNtk; },
        +[](RopeParameters& r) { r.factor = 32; },
        +[](RopeParameters& r) { r.low_freq_factor = 2; },
        +[](RopeParameters& r) { r.high_freq_factor = 8; },
        +[](RopeParameters& r) { r.original_max_position = 4096; },
        +[](RopeParameters& r) { r.arithmetic.angles = RopeAngles::kF64; },
        +[](RopeParameters& r) { r.arithmetic.table = DType::kBF16; },
        +[](RopeParameters& r) { r.arithmetic.rotation = RopeRotation::kKeyDType; }}) {
    Geometry g = base;
    change(*g.rope);
    EXPECT_NE(g, base);
    EXPECT_NE(g.Id(), base.Id());
    EXPECT_FALSE(MayContinue(g, base));
  }
  Geometry zero = Llama();
  zero.rope.emplace().theta = 10000;
  Geometry negative_zero = zero;
  negative_zero.rope->factor = -0.0;
  EXPECT_EQ(zero, negative_zero);
  EXPECT_EQ(zero.Id(), negative_zero.Id());
}

TEST(GeometryTest, WhoDoesNotSayHowKeysAreTurnedMayContinueAnybodys) {
  const Geometry silent = Llama();
  Geometry known = silent;
  known.rope = testing::Llama31();
  known.num_query_heads = 64;
  EXPECT_TRUE(MayContinue(silent, known));
  EXPECT_TRUE(MayContinue(known, silent));
  EXPECT_TRUE(MayContinue(known, known));
  known.head_dim = 256;
  EXPECT_FALSE(MayContinue(silent, known));
  EXPECT_FALSE(MayContinue(known, silent));
}

// The bytes that a range selects, by definition: walk every byte of the object and ask whether it
// is in.
std::vector<size_t> BytesOf(const ObjectLayout& layout, const ObjectRange& range) {
  const uint32_t count =
      range.head_count == 0 ? layout.num_kv_heads - range.head_begin : range.head_count;
  std::vector<size_t> offsets;
  for (size_t offset = 0; offset < layout.object_bytes(); ++offset) {
    const size_t part = offset / layout.part_bytes;
    const size_t head = part / 2;
    const bool is_k = part % 2 == 0;
    const bool head_in = head >= range.head_begin && head < range.head_begin + count;
    const bool part_in = range.part == Part::kKV || (range.part == Part::kK) == is_k;
    if (head_in && part_in) offsets.push_back(offset);
  }
  return offsets;
}

TEST(ObjectRangeTest, ExtentsCoverExactlyTheRange) {
  constexpr uint64_t kSeed = 21;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 300; ++i) {
    const ObjectLayout layout{rng.Between(1, 6), 4 * rng.Between(1, 5)};
    ObjectRange range{static_cast<Part>(rng.Below(3)), rng.Below(layout.num_kv_heads), 0};
    range.head_count = rng.Below(layout.num_kv_heads - range.head_begin + 1);
    std::vector<size_t> covered;
    size_t last_end = 0;
    size_t extents = 0;
    ForEachExtent(layout, range, [&](const Extent& e) {
      if (extents++ > 0) {
        EXPECT_GT(e.offset, last_end) << "touching extents are not merged";
      }
      last_end = e.offset + e.bytes;
      for (size_t b = 0; b < e.bytes; ++b) covered.push_back(e.offset + b);
    });
    EXPECT_EQ(covered, BytesOf(layout, range));
    EXPECT_EQ(RangeBytes(layout, range), covered.size());
  }
}

TEST(ObjectRangeTest, RangesThatDoNotFitAreRefused) {
  const ObjectLayout layout{4, 64};
  EXPECT_EQ(RangeBytes(layout, {}), 512u);
  EXPECT_EQ(RangeBytes(layout, {Part::kK, 3, 1}), 64u);
  EXPECT_EQ(RangeBytes(layout, {Part::kKV, 4, 0}), std::nullopt);
  EXPECT_EQ(RangeBytes(layout, {Part::kKV, 2, 3}), std::nullopt);
  EXPECT_EQ(RangeBytes(layout, {Part::kV, 1, 0xffffffffu}), std::nullopt);
  EXPECT_EQ(RangeBytes(layout, {Part::kV, 0xffffffffu, 2}), std::nullopt);
  EXPECT_EQ(RangeBytes({}, {}), std::nullopt) << "an opaque value has no ranges";
}

}  // namespace
}  // namespace varve::page
