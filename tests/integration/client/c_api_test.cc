// libvarve.so from a C program, against a store of its own.
#include "gmock/gmock.h"
#include "tests/integration/client/c_api_roundtrip.h"
#include "tests/support/store_process.h"

namespace varve::client {
namespace {

TEST(CApiTest, ACProgramPutsGetsAndRecallsOnEveryLane) {
  const auto store = varve::testing::StoreProcess::Start();
  ASSERT_TRUE(store.ok()) << store.status();
  for (const char* lanes : {"shm", "tcp", ""}) {
    const char* failure = RunCApi((*store)->grpc_address().c_str(), lanes);
    EXPECT_EQ(failure, nullptr) << "lanes '" << lanes
                                << "': " << (failure == nullptr ? "" : failure);
  }
}

}  // namespace
}  // namespace varve::client
