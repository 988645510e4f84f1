// The reader of evaluation sets: what ships, and every way a file can be wrong.
#include "tests/model/eval_data.h"

#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "client/console/file_io.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::model {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr uint32_t kVocab = 256;
constexpr char kGoodLine[] =
    R"({"id":0,"task":"t","len":3,"prompt":[1,2,3],"turns":[{"feed":[3],"answer":[9,8]}]})";

class EvalData : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    dir_ = testing::TempDir() + "varve_eval_data_" + info->name();
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string Path() const { return dir_ + "/eval_t_3.jsonl.gz"; }
  void Write(const std::string& text) {
    gzFile file = gzopen(Path().c_str(), "wb");
    ASSERT_EQ(gzwrite(file, text.data(), static_cast<unsigned>(text.size())),
              static_cast<int>(text.size()));
    ASSERT_EQ(gzclose(file), Z_OK);
  }
  absl::StatusOr<EvalSet> Read(uint32_t max_items = 0) {
    return ReadEvalSet(dir_, "t", 3, kVocab, max_items);
  }
  void ExpectRefused(const std::string& text, const std::string& message) {
    SCOPED_TRACE(text);
    Write(text);
    const absl::Status status = Read().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(Path()), HasSubstr(message)));
  }
  // The good line with one part of it replaced.
  static std::string With(const std::string& part, const std::string& by) {
    std::string line = kGoodLine;
    return line.replace(line.find(part), part.size(), by);
  }

  std::string dir_;
};

TEST_F(EvalData, ReadsLinesAndStopsAtTheLimit) {
  Write(std::string(kGoodLine) + "\n" + kGoodLine + "\n" + kGoodLine);
  ASSERT_TRUE(Read().ok()) << Read().status();
  EXPECT_EQ(Read()->items.size(), 3u);
  const EvalSet set = Read(2).value();
  ASSERT_EQ(set.items.size(), 2u);
  EXPECT_THAT(set.items[1].prompt, ElementsAre(1, 2, 3));
  ASSERT_EQ(set.items[1].turns.size(), 1u);
  EXPECT_THAT(set.items[1].turns[0].feed, ElementsAre(3));
  EXPECT_THAT(set.items[1].turns[0].answer, ElementsAre(9, 8));
}

TEST_F(EvalData, ReadsEverySetThatShips) {
  for (const char* task : {"niah_single", "niah_multikey", "niah_multiquery", "vt", "agg"}) {
    EXPECT_EQ(ReadEvalSet(VARVE_TEST_DATA_DIR, task, 1024, kVocab, 0)->items.size(), 100u);
    EXPECT_EQ(ReadEvalSet(VARVE_TEST_DATA_DIR, task, 4096, kVocab, 0)->items.size(), 50u);
  }
  EXPECT_EQ(ReadEvalSet(VARVE_TEST_DATA_DIR, "niah_multikey", 8192, kVocab, 0)->items.size(), 24u);
}

TEST_F(EvalData, AMissingSetNamesThoseThatExist) {
  Write(kGoodLine);
  const absl::Status status = ReadEvalSet(dir_, "t", 4, kVocab, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("eval_t_4.jsonl.gz"), HasSubstr("there are: eval_t_3.jsonl.gz")));
  EXPECT_THAT(std::string(ReadEvalSet(dir_ + "/no", "t", 4, kVocab, 0).status().message()),
              HasSubstr("there are: none"));
}

TEST_F(EvalData, RefusesATruncatedGzipFileWhereverItIsCut) {
  std::string text;
  for (int i = 0; i < 2000; ++i) text += std::string(kGoodLine) + "\n";
  Write(text);
  const std::string whole = console::ReadFile(Path()).value();
  for (const size_t kept : {whole.size() - 1, whole.size() - 8, whole.size() / 2, size_t{30}}) {
    SCOPED_TRACE(kept);
    std::ofstream(Path(), std::ios::binary | std::ios::trunc) << whole.substr(0, kept);
    const absl::Status status = Read().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(Path()), HasSubstr("cut short")));
  }
}

TEST_F(EvalData, RefusesAFlippedBit) {
  Write(std::string(kGoodLine) + "\n");
  std::string bytes = console::ReadFile(Path()).value();
  bytes[bytes.size() - 6] ^= 1;  // in the checksum
  std::ofstream(Path(), std::ios::binary | std::ios::trunc) << bytes;
  EXPECT_EQ(Read().status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(EvalData, RefusesAFileThatIsNotGzip) {
  std::ofstream(Path(), std::ios::binary) << kGoodLine << "\n";
  const absl::Status status = Read().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("not a gzip file"));
}

TEST_F(EvalData, NamesTheLineThatIsWrong) {
  const std::string good = std::string(kGoodLine) + "\n";
  ExpectRefused(good + good + "{\"id\":", "line 3: not a JSON object");
  ExpectRefused(good + "\n" + good, "line 2: not a JSON object");
  ExpectRefused("[]", "line 1: not a JSON object");
}

TEST_F(EvalData, NamesTheFieldThatIsWrong) {
  ExpectRefused(With("\"t\"", "\"u\""), "\"task\" and \"len\" must be t and 3");
  ExpectRefused(With("\"len\":3", "\"len\":4"), "\"task\" and \"len\" must be t and 3");
  ExpectRefused(With("[1,2,3]", "[1,2]"), "\"prompt\" has 2 tokens, \"len\" says 3");
  ExpectRefused(With("[1,2,3]", "[1,2,256]"), "\"prompt\" holds 256, token ids are in [0, 256)");
  ExpectRefused(With("[1,2,3]", "[1,2,-1]"), "\"prompt\" holds -1");
  ExpectRefused(With("[1,2,3]", "[1,2,\"x\"]"), "\"prompt\" holds \"x\"");
  ExpectRefused(With("\"prompt\"", "\"promt\""), "\"prompt\" must be a list");
  ExpectRefused(With("[9,8]", "[]"), "\"answer\" must be a list of at least one");
  ExpectRefused(With("\"feed\":[3]", "\"feed\":3"), "\"feed\" must be a list");
  ExpectRefused(With("[{\"feed\":[3],\"answer\":[9,8]}]", "[]"), "\"turns\" must be a list");
  ExpectRefused(With("{\"feed\":[3],\"answer\":[9,8]}", "7"), "a turn is not a JSON object");
}

TEST_F(EvalData, RefusesAnEmptySet) { ExpectRefused("", "no prompts"); }

}  // namespace
}  // namespace varve::model
