// varve-worker as a command: help, settings from every source, refusals.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::testing {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  int exit = -1;
  std::string output;  // both streams
};

Outcome Worker(const std::string& arguments, const std::string& environment = "") {
  const auto here = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  const std::string command = environment + " " +
                              (here / "../bin/varve-worker").lexically_normal().string() + " " +
                              arguments + " 2>&1";
  Outcome run;
  FILE* pipe = popen(command.c_str(), "r");
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof(buffer), pipe)) run.output.append(buffer, n);
  const int status = pclose(pipe);
  run.exit = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return run;
}

TEST(WorkerCommandLine, HelpNamesEverySetting) {
  const Outcome run = Worker("--help");
  EXPECT_EQ(run.exit, 0);
  for (const char* setting :
       {"listen", "http_listen", "store", "key_namespace", "pool_bytes", "digest", "recall_path",
        "step_deadline_ms", "shared_memory_dir", "drain_ms", "transport.lanes", "mass_sample_every",
        "attend_threads", "eigensolver", "prefetch_layers"}) {
    EXPECT_THAT(run.output, HasSubstr(setting));
  }
  EXPECT_EQ(run.output.find("segment_bytes"), std::string::npos);  // the store's alone
  EXPECT_THAT(Worker("--version").output, HasSubstr("varve-worker 0."));
}

TEST(WorkerCommandLine, SettingsComeFromEverySourceInOrder) {
  const std::string file = ::testing::TempDir() + "worker-" + std::to_string(getpid()) + ".yaml";
  std::ofstream(file) << "pool_bytes: 32MiB\ndigest: mean\nrecall_path: store\n";
  const Outcome run = Worker("--print-config --digest=box_mean --config=" + file,
                             "VARVE_DIGEST=minmax VARVE_RECALL_PATH=worker");
  std::filesystem::remove(file);
  EXPECT_EQ(run.exit, 0) << run.output;
  EXPECT_THAT(run.output, HasSubstr("digest: \"box_mean\""));
  EXPECT_THAT(run.output, HasSubstr("recall_path: \"worker\""));
  EXPECT_THAT(run.output, HasSubstr("VARVE_RECALL_PATH"));
  EXPECT_THAT(run.output, HasSubstr("http_listen: \"127.0.0.1:7422\""));
}

TEST(WorkerCommandLine, EveryProblemIsListed) {
  const Outcome run = Worker(
      "--digest=median --recall_path=both --pool_bytes=1KiB --listen=nowhere --store=x "
      "--shared_memory_dir=/no/such --transport.lanes=pigeon --log_level=loud "
      "--step_deadline_ms=0s --attend_threads=999 --eigensolver=gpu --prefetch_layers=65537 "
      "--http_listen=here");
  EXPECT_EQ(run.exit, 2);
  for (const char* field :
       {"digest: 'median'", "recall_path: 'both'", "pool_bytes: 1", "listen: 'nowhere'",
        "store: 'x'", "shared_memory_dir: '/no/such'", "transport.lanes: 'pigeon'",
        "log_level: 'loud'", "step_deadline_ms: 0", "attend_threads: 999", "http_listen: 'here'",
        "one of minmax, box_mean, mean, sphere, sign1, sign2, sign4, minmax_sign1, minmax_sign2, "
        "minmax_sign4",
        "one of worker, store", "eigensolver: 'gpu'", "prefetch_layers: 65537",
        "one of auto, cpu, cuda"}) {
    EXPECT_THAT(run.output, HasSubstr(field));
  }
  EXPECT_THAT(Worker("--pool_bytes=64TiB").output,
              HasSubstr("bytes of the file system of /dev/shm (shared_memory_dir)"));
  EXPECT_THAT(Worker("--pool_byte=1GiB").output, HasSubstr("did you mean '--pool_bytes'?"));
  EXPECT_EQ(Worker("--pool_byte=1GiB").exit, 2);
  EXPECT_EQ(Worker("stray").exit, 2);
  EXPECT_THAT(Worker("--transport.lanes= --print-config").output, HasSubstr("at least one of shm"));
  EXPECT_THAT(Worker("--transport.lanes=shm,shm --print-config").output, HasSubstr("each once"));
  EXPECT_THAT(Worker("--config").output, HasSubstr("--config needs a file"));
}

// Where nothing can, it ends before it asks for a store.
TEST(WorkerCommandLine, AnEigensolverThatIsNotThereIsRefused) {
  const Outcome run =
      Worker("--eigensolver=cuda --listen=127.0.0.1:0 --http_listen= --store=127.0.0.1:1",
             "CUDA_VISIBLE_DEVICES=");
  EXPECT_EQ(run.exit, 1) << run.output;
  EXPECT_THAT(run.output, HasSubstr("eigensolver cuda: "));
}

}  // namespace
}  // namespace varve::testing
