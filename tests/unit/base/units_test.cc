#include "kvstore/base/units.h"

#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::base {
namespace {

using ::testing::HasSubstr;

TEST(ParseBytes, KnowsEveryUnit) {
  const std::pair<const char*, uint64_t> cases[] = {
      {"0", 0},
      {"4096", 4096},
      {"640B", 640},
      {"64KiB", 64ull << 10},
      {"3MiB", 3ull << 20},
      {"8GiB", 8ull << 30},
      {"2TiB", 2ull << 40},
      {"64KB", 64000},
      {"3MB", 3000000},
      {"8gb", 8000000000},
      {"1TB", 1000000000000},
      {"1.5GiB", 3ull << 29},
      {" 16 kib ", 16384},
      {"0.5KiB", 512},
  };
  for (const auto& [text, bytes] : cases) {
    const auto parsed = ParseBytes(text);
    ASSERT_TRUE(parsed.ok()) << text << ": " << parsed.status();
    EXPECT_EQ(*parsed, bytes) << text;
  }
}

TEST(ParseBytes, RefusesWhatIsNoSize) {
  for (const char* text : {"", "GiB", "8GB8", "-1", "-1GiB", "1e", "0x10", "1.5", "0.3B", "8 EiB",
                           "16777216TiB", "nan", "inf", "1..5KiB", "8GiB extra"}) {
    const auto parsed = ParseBytes(text);
    ASSERT_FALSE(parsed.ok()) << text << " -> " << *parsed;
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("'" + std::string(text) + "'"));
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("64KiB"));
  }
}

TEST(ParseBytes, WholeNumbersRoundTrip) {
  constexpr uint32_t kSeed = 11;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t bytes = random() >> (11 + random() % 53);  // doubles hold 53 bits exactly
    EXPECT_EQ(*ParseBytes(std::to_string(bytes)), bytes);
  }
}

TEST(FormatBytes, ThreeSignificantDigits) {
  const std::pair<uint64_t, const char*> cases[] = {
      {0, "0 B"},
      {640, "640 B"},
      {1023, "1023 B"},
      {1024, "1.00 KiB"},
      {1536, "1.50 KiB"},
      {10240, "10.0 KiB"},
      {100ull << 20, "100 MiB"},
      {16ull << 30, "16.0 GiB"},
      {3ull << 40, "3.00 TiB"},
      {~0ull, "16.0 EiB"},
  };
  for (const auto& [bytes, text] : cases) EXPECT_EQ(FormatBytes(bytes), text);
}

TEST(ParseDuration, KnowsUnitsAndSums) {
  EXPECT_EQ(*ParseDuration("250ms"), absl::Milliseconds(250));
  EXPECT_EQ(*ParseDuration("30s"), absl::Seconds(30));
  EXPECT_EQ(*ParseDuration("1h30m"), absl::Minutes(90));
  EXPECT_EQ(*ParseDuration("0"), absl::ZeroDuration());
  EXPECT_EQ(*ParseDuration("infinite"), absl::InfiniteDuration());
}

TEST(ParseDuration, RefusesNegativeAndUnitless) {
  for (const char* text : {"", "30", "-1s", "1 s x", "s"}) {
    const auto parsed = ParseDuration(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("250ms"));
  }
}

}  // namespace
}  // namespace varve::base
