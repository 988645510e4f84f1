// The example configurations load, and those that say they show the defaults do.
#include <google/protobuf/util/message_differencer.h>

#include <string>

#include "gpu_worker/sidecar/config.h"
#include "gtest/gtest.h"
#include "kvstore/base/config.h"
#include "kvstore/server/config.h"
#include "kvstore/server/embedded_store.h"
#include "varve/v1/config.pb.h"

namespace varve {
namespace {

using google::protobuf::util::MessageDifferencer;

absl::Status Load(const std::string& file, google::protobuf::Message* config) {
  return base::ConfigLoader(config, "VARVE_").LoadYamlFile(VARVE_ROOT "/deploy/" + file);
}

TEST(ConfigFiles, StoreExampleNamesEverySettingWithItsDefault) {
  v1::StoreConfig config;  // empty: what the file leaves out stays zero
  const absl::Status status = Load("config/varve-store.yaml", &config);
  ASSERT_TRUE(status.ok()) << status;
  std::string difference;
  MessageDifferencer differencer;
  differencer.ReportDifferencesToString(&difference);
  EXPECT_TRUE(differencer.Compare(server::DefaultStoreConfig(), config)) << difference;
}

TEST(ConfigFiles, KubernetesStoreSettingsAreValid) {
  v1::StoreConfig config = server::DefaultStoreConfig();
  absl::Status status = Load("k8s/base/config/varve-store.yaml", &config);
  ASSERT_TRUE(status.ok()) << status;
  status = server::ValidateStoreConfig(config);
  EXPECT_TRUE(status.ok()) << status;
  // The ports of the manifests.
  EXPECT_EQ(config.listen(), "0.0.0.0:7411");
  EXPECT_EQ(config.http_listen(), "0.0.0.0:7412");
}

TEST(ConfigFiles, WorkerExampleNamesEverySettingWithItsDefault) {
  v1::WorkerConfig config;
  const absl::Status status = Load("config/varve-worker.yaml", &config);
  ASSERT_TRUE(status.ok()) << status;
  std::string difference;
  MessageDifferencer differencer;
  differencer.ReportDifferencesToString(&difference);
  EXPECT_TRUE(differencer.Compare(worker::DefaultWorkerConfig(), config)) << difference;
}

TEST(ConfigFiles, KubernetesWorkerSettingsAreValid) {
  v1::WorkerConfig config = worker::DefaultWorkerConfig();
  absl::Status status = Load("k8s/base/config/varve-worker.yaml", &config);
  ASSERT_TRUE(status.ok()) << status;
  status = worker::ValidateWorkerConfig(config);
  EXPECT_TRUE(status.ok()) << status;
  // The socket and the port of the manifests.
  EXPECT_EQ(config.listen(), "unix:/run/varve/worker.sock");
  EXPECT_EQ(config.http_listen(), "0.0.0.0:7422");
  EXPECT_EQ(config.store(), "varve-store:7411");
}

}  // namespace
}  // namespace varve
