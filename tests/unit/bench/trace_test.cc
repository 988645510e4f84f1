#include "client/bench/trace.h"

#include <unistd.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::client {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kTwoRequests[] =
    R"({"timestamp": 2500, "input_length": 1100, "output_length": 7, "hash_ids": [70, 9, 70000000000]}
{"timestamp": 1000.5, "input_length": 600, "output_length": 8, "hash_ids": [70, 5]}

)";

void ExpectTheTwo(const Trace& trace) {
  ASSERT_EQ(trace.requests.size(), 2u);
  EXPECT_EQ(trace.distinct_blocks, 4u);
  EXPECT_EQ(trace.references, 5u);
  const TraceRequest& first = trace.requests[0];
  EXPECT_DOUBLE_EQ(first.arrival_seconds, 1.0005) << "by arrival";
  EXPECT_EQ(first.input_tokens, 600u);
  EXPECT_EQ(first.output_tokens, 8u);
  EXPECT_THAT(first.blocks, ElementsAre(0, 3)) << "numbered by their place in the file";
  EXPECT_THAT(trace.requests[1].blocks, ElementsAre(0, 1, 2));
}

TEST(Trace, ReadsRequestsInTheOrderOfTheirArrival) {
  const auto trace = ParseTrace(kTwoRequests);
  ASSERT_TRUE(trace.ok()) << trace.status();
  ExpectTheTwo(*trace);
}

TEST(Trace, ReadsPlainAndCompressedFiles) {
  const std::string path = ::testing::TempDir() + "/varve-trace-" + std::to_string(getpid());
  std::ofstream(path) << kTwoRequests;
  const auto plain = ReadTrace(path);
  ASSERT_TRUE(plain.ok()) << plain.status();
  ExpectTheTwo(*plain);
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, kTwoRequests, sizeof(kTwoRequests) - 1);
  gzclose(file);
  const auto compressed = ReadTrace(path);
  ASSERT_TRUE(compressed.ok()) << compressed.status();
  ExpectTheTwo(*compressed);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 4);
  EXPECT_THAT(ReadTrace(path).status().ToString(), AllOf(HasSubstr(path), HasSubstr("cut short")));
  std::filesystem::remove(path);
  EXPECT_THAT(ReadTrace(path).status().ToString(), AllOf(HasSubstr("NOT_FOUND"), HasSubstr(path)));
}

// Such as a device that has no end.
TEST(Trace, LinesHaveALimit) {
  const std::string path = ::testing::TempDir() + "/varve-trace-long-" + std::to_string(getpid());
  const std::string good =
      R"({"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [1]})";
  std::ofstream(path) << good << std::string((16 << 20) - good.size(), ' ') << '\n' << good;
  const auto whole = ReadTrace(path);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->requests.size(), 2u);
  std::ofstream(path) << good << '\n' << good << std::string(17 << 20, ' ');
  EXPECT_THAT(
      ReadTrace(path).status().ToString(),
      AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr(path + ": line 2 is longer than 16.0 MiB")));
  std::filesystem::remove(path);
  EXPECT_THAT(ReadTrace("/dev/zero").status().ToString(), HasSubstr("line 1 is longer than"));
}

TEST(Trace, SaysWhichLineIsWrongAndWhy) {
  const std::string good =
      R"({"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [1]})";
  const auto expect = [&](const std::string& line, const std::string& why) {
    EXPECT_THAT(ParseTrace(good + "\n" + line).status().ToString(),
                AllOf(HasSubstr("INVALID_ARGUMENT: line 2: "), HasSubstr(why)))
        << line;
  };
  expect("hello", "not a JSON object");
  expect("[1]", "not a JSON object");
  expect("{}", "'timestamp' has to be milliseconds");
  expect(R"({"timestamp": -1})", "'timestamp' has to be milliseconds");
  expect(R"({"timestamp": 0, "input_length": -1})", "'input_length' has to be tokens");
  expect(R"({"timestamp": 0, "input_length": 1, "output_length": 4294967296})",
         "'output_length' has to be tokens");
  for (const char* ids : {"7", "[1.5]", "[-1]", "[\"a\"]"}) {
    expect(R"({"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": )" +
               std::string(ids) + "}",
           "'hash_ids' has to be a list of whole numbers");
  }
  EXPECT_THAT(ParseTrace("").status().ToString(), HasSubstr("no request has any blocks"));
}

}  // namespace
}  // namespace varve::client
