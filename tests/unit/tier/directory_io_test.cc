// One directory's share of a BlockIo.
#include "kvstore/tier/directory_io.h"

#include <fcntl.h>
#include <unistd.h>

#include <latch>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "kvstore/base/descriptor.h"
#include "kvstore/tier/faulty_io.h"
#include "tests/support/assert_ok.h"

namespace varve::tier {
namespace {

TEST(ThreadIo, HasAThreadForEachOperationUnderWay) {
  constexpr uint32_t kOperations = 40;
  auto io = MakeThreadIo({.queue_depth = kOperations});
  ASSERT_OK(io.status());
  const base::Descriptor file(open("/dev/null", O_RDWR | O_CLOEXEC));
  const std::vector<std::byte> bytes(16);
  std::latch all(kOperations);
  for (uint32_t i = 0; i < kOperations; ++i) {
    (*io)->Write(file.get(), 0, bytes, IoClass::kDemand,
                 [&all](const absl::Status&) { all.arrive_and_wait(); });
  }
  all.wait();
}

TEST(DirectoryIo, TellsHowLongItsOldestOperationTakes) {
  auto threads = MakeThreadIo({.queue_depth = 4});
  ASSERT_OK(threads.status());
  FaultyIo faulty(*std::move(threads));
  DirectoryIo io(&faulty, 2);
  EXPECT_EQ(io.OldestAge(), absl::ZeroDuration());
  const base::Descriptor file(open("/dev/null", O_RDWR | O_CLOEXEC));
  const std::vector<std::byte> bytes(16);
  faulty.Add({.op = IoOp::kWrite, .times = 1, .kind = IoFault::Kind::kHold});
  const absl::Time before = absl::Now();
  io.Write(file.get(), 0, bytes, IoClass::kDemand, [](const absl::Status&) {});
  faulty.AwaitHeld(1);
  absl::SleepFor(absl::Milliseconds(20));
  ASSERT_OK(Await([&](BlockIo::Done done) {
    io.Write(file.get(), 0, bytes, IoClass::kDemand, std::move(done));
  }));
  EXPECT_GE(io.OldestAge(), absl::Milliseconds(20));
  EXPECT_LE(io.OldestAge(), absl::Now() - before + absl::Milliseconds(1));
  faulty.Release();
  while (io.OldestAge() > absl::ZeroDuration()) absl::SleepFor(absl::Milliseconds(1));
  // A system call counts as well.
  {
    const DirectoryIo::Call call(&io);
    absl::SleepFor(absl::Milliseconds(2));
    EXPECT_GE(io.OldestAge(), absl::Milliseconds(2));
  }
  EXPECT_EQ(io.OldestAge(), absl::ZeroDuration());
}

}  // namespace
}  // namespace varve::tier
