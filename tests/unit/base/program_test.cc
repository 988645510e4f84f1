#include "kvstore/base/program.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/base/config_checks.h"
#include "varve/v1/config.pb.h"

namespace varve::base {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ProgramTest : public ::testing::Test {
 protected:
  ProgramTest() { config_.set_listen("127.0.0.1:7411"); }
  // The exit code, and what was printed to each stream.
  std::optional<int> Load(const std::vector<std::string>& args) {
    ProgramSettings settings({"varve-test", "What it is for.\n", {"VARVE_OTHER"}}, &config_);
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const auto exit = settings.Load(args, [this] {
      ConfigChecks checks;
      checks.Address("listen", config_.listen());
      return checks.Result();
    });
    out_ = ::testing::internal::GetCapturedStdout();
    err_ = ::testing::internal::GetCapturedStderr();
    return exit;
  }
  v1::StoreConfig config_;
  std::string out_, err_;
};

TEST_F(ProgramTest, NothingToSayGoesOn) {
  EXPECT_EQ(Load({"--listen=0.0.0.0:1"}), std::nullopt);
  EXPECT_EQ(config_.listen(), "0.0.0.0:1");
  EXPECT_EQ(out_ + err_, "");
}

TEST_F(ProgramTest, HelpVersionAndSettingsArePrinted) {
  EXPECT_EQ(Load({"--help"}), 0);
  EXPECT_THAT(out_, HasSubstr("What it is for.\nSettings:\n"));
  EXPECT_THAT(out_, HasSubstr("host_tier.capacity_bytes"));
  EXPECT_EQ(Load({"--version"}), 0);
  EXPECT_THAT(out_, HasSubstr("varve-test 0."));
  EXPECT_EQ(Load({"--print-config", "--listen", "0.0.0.0:2"}), 0);
  EXPECT_THAT(out_, HasSubstr("0.0.0.0:2"));
  // Asking for help never fails.
  EXPECT_EQ(Load({"--help", "stray"}), 0);
}

TEST_F(ProgramTest, EveryProblemIsListed) {
  EXPECT_EQ(Load({"stray", "--listne=x", "--listen=x", "--print-config", "--config"}), 2);
  EXPECT_EQ(out_, "");
  for (const char* problem :
       {"varve-test: the configuration has problems", "unknown argument 'stray'",
        "did you mean '--listen'?", "--config needs a file", "listen: 'x' is not allowed"}) {
    EXPECT_THAT(err_, HasSubstr(problem));
  }
}

TEST_F(ProgramTest, AnotherProgramsVariablesAreNotSettings) {
  setenv("VARVE_OTHER", "1", 1);
  EXPECT_EQ(Load({}), std::nullopt) << err_;
  setenv("VARVE_ANOTHER", "1", 1);
  EXPECT_EQ(Load({}), 2);
  EXPECT_THAT(err_, HasSubstr("VARVE_ANOTHER"));
  EXPECT_THAT(err_, Not(HasSubstr("VARVE_OTHER")));
  unsetenv("VARVE_OTHER");
  unsetenv("VARVE_ANOTHER");
}

TEST_F(ProgramTest, TheFileComesFromTheCommandLineOrTheEnvironment) {
  EXPECT_EQ(Load({"--config=/no/such/file"}), 2);
  EXPECT_THAT(err_, HasSubstr("/no/such/file"));
  EXPECT_EQ(Load({"--config", ::testing::TempDir()}), 2);
  EXPECT_THAT(err_, HasSubstr("Is a directory"));
  setenv("VARVE_CONFIG", "/no/such/other", 1);
  EXPECT_EQ(Load({}), 2);
  EXPECT_THAT(err_, HasSubstr("/no/such/other"));
  unsetenv("VARVE_CONFIG");
}

TEST(ReadyLine, IsOneLineOfJson) {
  ::testing::internal::CaptureStdout();
  PrintReadyLine({{"grpc", "unix:/tmp/a\"b\\c"}});
  const std::string line = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(line, HasSubstr("{\"ready\": true, \"grpc\": \"unix:/tmp/a\\\"b\\\\c\", \"pid\": "));
  EXPECT_EQ(line.find('\n'), line.size() - 1);
}

// In processes of their own: the signals end them.
TEST(StopSignalsDeathTest, DrainsOnTheFirstAndEndsOnTheSecond) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        const StopSignals signals;
        if (signals.Wait(absl::ZeroDuration())) _exit(50);
        kill(getpid(), SIGTERM);
        absl::Duration given;
        const int code = signals.ServeUntilStopped(absl::Seconds(7),
                                                   [&](absl::Duration grace) { given = grace; });
        _exit(given == absl::Seconds(7) ? 40 + code : 51);
      },
      ::testing::ExitedWithCode(40), "draining, at most 7s");
  EXPECT_EXIT(
      {
        const StopSignals signals;
        kill(getpid(), SIGTERM);
        signals.ServeUntilStopped(absl::Seconds(7), [&](absl::Duration) {
          kill(getpid(), SIGINT);
          while (true) pause();
        });
      },
      ::testing::ExitedWithCode(128 + SIGINT), "");
}

TEST(StopSignalsDeathTest, AnEndThatHangsIsGivenUp) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        const StopSignals signals;
        kill(getpid(), SIGTERM);
        signals.ServeUntilStopped(
            absl::ZeroDuration(), [](absl::Duration) {}, absl::Milliseconds(100));
        while (true) pause();
      },
      ::testing::ExitedWithCode(1), "takes too long");
}

TEST(ConfigChecks, NameTheFieldAndWhatIsAllowed) {
  ConfigChecks checks;
  checks.Range("a", 1u, 1u, 2u);
  checks.Bytes("b", 1024, 1, 2048);
  checks.Millis("c", 5, 0, 10);
  checks.OneOf("d", "x", {"x", "y"});
  checks.Address("e", "unix:/tmp/s");
  checks.Address("e", "host:0");
  checks.HttpAddress("f", "");
  EXPECT_TRUE(checks.Result().ok()) << checks.Result();
  checks.Range("a", 3u, 1u, 2u);
  checks.Bytes("b", 4096, 1, 2048);
  checks.Millis("c", 20, 0, 10);
  checks.OneOf("d", "z", {"x", "y"});
  checks.Address("e", "unix:");
  checks.HttpAddress("f", "unix:/tmp/s");
  checks.HttpAddress("f", "host:65536");
  checks.HttpAddress("f", "[::1]:80");
  checks.HttpAddress("f", "host:80,host:81");
  EXPECT_EQ(
      std::string(checks.Result().message()),
      "a: 3 is not allowed; between 1 and 2\n"
      "b: 4.00 KiB is not allowed; between 1 B and 2.00 KiB\n"
      "c: 20ms is not allowed; between 0 and 10ms\n"
      "d: 'z' is not allowed; one of x, y\n"
      "e: 'unix:' is not allowed; host:port (port 0 picks one) or unix:/path\n"
      "f: 'unix:/tmp/s' is not allowed; one IPv4 host:port (port 0 picks one), or empty for none\n"
      "f: 'host:65536' is not allowed; one IPv4 host:port (port 0 picks one), or empty for none\n"
      "f: '[::1]:80' is not allowed; one IPv4 host:port (port 0 picks one), or empty for none\n"
      "f: 'host:80,host:81' is not allowed; one IPv4 host:port (port 0 picks one), or empty for "
      "none");
}

}  // namespace
}  // namespace varve::base
