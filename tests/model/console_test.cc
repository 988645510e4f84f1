// Tables and progress output of the command-line tools.
#include <signal.h>

#include <cstdio>
#include <memory>
#include <string>

#include "client/console/progress.h"
#include "client/console/stop.h"
#include "client/console/table.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::console {
namespace {

using testing::HasSubstr;

TEST(Table, AlignsColumnsUnderARuledHeading) {
  Table table({{"name"}, {"bytes", Align::kRight}});
  table.AddRow({"a", "1"});
  table.AddRow({"longer name", "123456"});
  EXPECT_EQ(table.Render(),
            "name          bytes\n"
            "-----------  ------\n"
            "a                 1\n"
            "longer name  123456\n");
}

TEST(Table, CountsCodePointsDropsExtraCellsAndFillsMissingOnes) {
  Table table({{"x"}, {"y"}});
  table.AddRow({"\xC2\xB5s", "1", "extra"});
  table.AddRow({"abc"});
  EXPECT_EQ(table.Render(), "x    y\n---  -\n\xC2\xB5s   1\nabc\n");
}

TEST(Table, ControlCharactersOfACellAreShownNotSent) {
  Table table({{"name"}});
  table.AddRow({"a\nb\x1b[2J\x7f"});
  EXPECT_THAT(table.Render(), ::testing::HasSubstr("a\\x0ab\\x1b[2J\\x7f\n"));
}

TEST(Table, RulesStandBetweenGroupsOnly) {
  Table table({{"x"}});
  table.AddRule();
  table.AddRow({"1"});
  table.AddRule();
  table.AddRule();
  table.AddRow({"2"});
  table.AddRule();
  EXPECT_EQ(table.Render(), "x\n-\n1\n-\n2\n");
}

TEST(HumanDuration, PicksAUnit) {
  EXPECT_EQ(HumanDuration(0.85), "850 ms");
  EXPECT_EQ(HumanDuration(12.34), "12.3 s");
  EXPECT_EQ(HumanDuration(185), "3 min 05 s");
  EXPECT_EQ(HumanDuration(8040), "2 h 14 min");
}

class ProgressOutput : public testing::Test {
 protected:
  ~ProgressOutput() override { std::fclose(file_); }
  ProgressOptions Options(bool terminal) {
    return {.out = file_, .terminal = terminal, .seconds = [this] { return now_; }};
  }
  // What was written since the last call.
  std::string Take() {
    std::string text(static_cast<size_t>(std::ftell(file_) - taken_), '\0');
    std::fseek(file_, taken_, SEEK_SET);
    EXPECT_EQ(std::fread(text.data(), 1, text.size(), file_), text.size());
    std::fseek(file_, 0, SEEK_END);
    taken_ = std::ftell(file_);
    return text;
  }

  std::FILE* const file_ = std::tmpfile();
  long taken_ = 0;
  double now_ = 100;
};

TEST_F(ProgressOutput, ATerminalGetsABarThatIsRedrawnAtMostTenTimesASecond) {
  Progress progress("eval", 200, Options(true));
  progress.Update(100, "vt 1024");
  EXPECT_EQ(Take(),
            "\r\033[Keval [###############...............]  50 % 100/200, 0 ms left  vt 1024");
  now_ += 0.05;
  progress.Update(101, "vt 1024");
  EXPECT_EQ(Take(), "");
  now_ += 9.95;
  progress.Update(150, "");
  EXPECT_THAT(Take(), HasSubstr(" 75 % 150/200, 3.3 s left"));
  progress.Finish();
  EXPECT_EQ(Take(), "\r\033[K");
}

TEST_F(ProgressOutput, ALogGetsALineATenthAndAClosingLine) {
  {
    Progress progress("eval", 100, Options(false));
    for (uint64_t done = 1; done <= 50; ++done) {
      now_ += 0.5;
      progress.Update(done, "agg");
    }
    const std::string lines = Take();
    EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 5);
    EXPECT_THAT(lines, HasSubstr("eval  10 % 10/100, 45.0 s left  agg\n"));
    EXPECT_EQ(lines.find('\033'), std::string::npos);
    progress.Update(100, "agg");
  }
  EXPECT_EQ(Take(), "eval 100 % 100/100 in 25.0 s\n");
}

TEST_F(ProgressOutput, ASlowLogIsNeverSilentForLongAndAnUnknownTotalCounts) {
  Progress progress("scan", 0, Options(false));
  progress.Update(1, "");
  EXPECT_EQ(Take(), "");
  now_ += 31;
  progress.Update(2, "");
  EXPECT_EQ(Take(), "scan 2\n");
}

TEST_F(ProgressOutput, UpdatesAfterTheEndAreIgnored) {
  Progress progress("x", 10, Options(true));
  progress.Finish();
  Take();
  now_ += 10;
  progress.Update(5, "");
  progress.Finish();
  EXPECT_EQ(Take(), "");
}

TEST(Stop, ASecondSignalEndsTheProgramWhicheverItIs) {
  for (const auto& [first, second] :
       {std::pair{SIGINT, SIGTERM}, std::pair{SIGTERM, SIGTERM}, std::pair{SIGHUP, SIGINT}}) {
    EXPECT_EXIT(
        {
          StopOnSignals();
          raise(first);
          if (!Stopped() || CheckStopped().ok()) exit(1);
          raise(second);
          exit(2);
        },
        ::testing::KilledBySignal(second), "");
  }
}

TEST(Stop, ATerminalThatClosesStopsTheProgramOnceHoweverOftenItSaysSo) {
  EXPECT_EXIT(
      {
        StopOnSignals();
        raise(SIGHUP);
        raise(SIGHUP);
        exit(Stopped() ? 3 : 4);
      },
      ::testing::ExitedWithCode(3), "");
}

TEST(Stop, UnderNohupATerminalMayClose) {
  EXPECT_EXIT(
      {
        signal(SIGHUP, SIG_IGN);
        StopOnSignals();
        raise(SIGHUP);
        exit(Stopped() ? 4 : 3);
      },
      ::testing::ExitedWithCode(3), "");
}

}  // namespace
}  // namespace varve::console
