// libvarve.so from a C program, against a store of its own.
#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/integration/client/c_api_roundtrip.h"
#include "tests/integration/client/varvectl_runner.h"
#include "tests/support/store_process.h"

namespace varve::client {
namespace {

class CApiTest : public VarvectlRunner {};

// What the store knows of the values that the C program left.
void ExpectToldValues(const std::string& listed) {
  const auto objects = nlohmann::json::parse(listed)["objects"];
  ASSERT_EQ(objects.size(), 4u) << listed;
  for (const auto& object : objects) {
    const bool told = object["key"] == "c-told";
    EXPECT_EQ(object.value("prompt_tokens", 0), told ? 4096 : 0) << object;
    EXPECT_EQ(object.value("tokens", 0), told ? 32 : 0) << object;
    EXPECT_EQ(object.contains("ttl_seconds"), told) << object;
    if (!told) continue;
    EXPECT_GT(object["ttl_seconds"], 1000);
    EXPECT_LE(object["ttl_seconds"], 3600);
  }
}

TEST_F(CApiTest, ACProgramPutsGetsAndRecallsOnEveryLane) {
  const auto store = varve::testing::StoreProcess::Start();
  ASSERT_TRUE(store.ok()) << store.status();
  for (const std::string lanes : {"shm", "tcp", ""}) {
    SCOPED_TRACE("lanes '" + lanes + "'");
    const char* failure = RunCApi((*store)->grpc_address().c_str(), lanes.c_str());
    ASSERT_EQ(failure, nullptr) << (failure == nullptr ? "" : failure);
    const Outcome listed =
        RunAt((*store)->grpc_address(),
              "ls --json --namespace " + (lanes.empty() ? "c-inline" : lanes) + " --prefix c-");
    ASSERT_EQ(listed.code, 0) << listed.err;
    ExpectToldValues(listed.out);
  }
}

}  // namespace
}  // namespace varve::client
