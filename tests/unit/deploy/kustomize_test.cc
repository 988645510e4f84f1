// What `kubectl kustomize` and a cluster would refuse, checked without either: paths, references
// between documents, and the promises about security that every pod makes.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace varve {
namespace {

const std::string kBase = VARVE_ROOT "/deploy/k8s/base/";

YAML::Node Kustomization() { return YAML::LoadFile(kBase + "kustomization.yaml"); }

std::vector<YAML::Node> Documents() {
  std::vector<YAML::Node> documents;
  for (const auto& resource : Kustomization()["resources"]) {
    for (const YAML::Node& document : YAML::LoadAllFromFile(kBase + resource.as<std::string>())) {
      documents.push_back(document);
    }
  }
  return documents;
}

std::vector<YAML::Node> Workloads() {
  std::vector<YAML::Node> found;
  for (const YAML::Node& document : Documents()) {
    if (document["spec"] && document["spec"]["template"]) found.push_back(document);
  }
  return found;
}

std::vector<YAML::Node> Containers(const YAML::Node& pod) {
  std::vector<YAML::Node> all;
  for (const char* kind : {"initContainers", "containers"}) {
    for (const auto& container : pod[kind]) all.push_back(container);
  }
  return all;
}

std::map<std::string, std::string> Map(const YAML::Node& node) {
  return node ? node.as<std::map<std::string, std::string>>()
              : std::map<std::string, std::string>();
}

TEST(Kustomize, EveryPathExistsAndEveryFileIsNamed) {
  const YAML::Node kustomization = Kustomization();
  std::set<std::string> named = {"kustomization.yaml"};
  for (const auto& resource : kustomization["resources"]) named.insert(resource.as<std::string>());
  for (const auto& generator : kustomization["configMapGenerator"]) {
    for (const auto& file : generator["files"]) named.insert(file.as<std::string>());
  }
  std::set<std::string> present;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kBase)) {
    if (entry.is_regular_file())
      present.insert(std::filesystem::relative(entry.path(), kBase).string());
  }
  EXPECT_EQ(named, present);
}

TEST(Kustomize, DocumentsHaveKindAndUniqueName) {
  std::set<std::string> seen;
  for (const YAML::Node& document : Documents()) {
    ASSERT_TRUE(document["apiVersion"] && document["kind"] && document["metadata"]["name"])
        << document;
    const std::string name =
        document["kind"].as<std::string>() + "/" + document["metadata"]["name"].as<std::string>();
    EXPECT_TRUE(seen.insert(name).second) << name;
  }
  for (const char* name : {"Namespace/varve", "StatefulSet/varve-store", "Service/varve-store",
                           "PodDisruptionBudget/varve-store", "Deployment/inference-example"}) {
    EXPECT_TRUE(seen.contains(name)) << name;
  }
}

TEST(Kustomize, PodsAreLockedDown) {
  for (const YAML::Node& workload : Workloads()) {
    const YAML::Node pod = workload["spec"]["template"]["spec"];
    SCOPED_TRACE(workload["metadata"]["name"].as<std::string>());
    // VARVE_* variables made by Kubernetes would be read as settings.
    EXPECT_FALSE(pod["enableServiceLinks"].as<bool>(true));
    EXPECT_FALSE(pod["automountServiceAccountToken"].as<bool>(true));
    EXPECT_TRUE(pod["securityContext"]["runAsNonRoot"].as<bool>(false));
    EXPECT_EQ(pod["securityContext"]["runAsUser"].as<int>(0), 65532);
    EXPECT_EQ(pod["securityContext"]["seccompProfile"]["type"].as<std::string>(""),
              "RuntimeDefault");
    for (const YAML::Node& container : Containers(pod)) {
      SCOPED_TRACE(container["name"].as<std::string>());
      const YAML::Node security = container["securityContext"];
      EXPECT_TRUE(security["readOnlyRootFilesystem"].as<bool>(false));
      EXPECT_FALSE(security["allowPrivilegeEscalation"].as<bool>(true));
      EXPECT_EQ(security["capabilities"]["drop"][0].as<std::string>(""), "ALL");
    }
  }
}

// Shared memory files have mode 0600.
TEST(Kustomize, EngineAndWorkerRunAsTheSameUser) {
  std::set<std::string> users, sharing;
  for (const YAML::Node& workload : Workloads()) {
    for (const YAML::Node& container : Containers(workload["spec"]["template"]["spec"])) {
      for (const auto& mount : container["volumeMounts"]) {
        if (mount["name"].as<std::string>() != "socket") continue;
        sharing.insert(container["name"].as<std::string>());
        users.insert(container["securityContext"]["runAsUser"].as<std::string>("unset"));
      }
    }
  }
  EXPECT_EQ(sharing, (std::set<std::string>{"inference", "varve-worker"}));
  EXPECT_EQ(users, (std::set<std::string>{"65532"}));
}

TEST(Kustomize, MountsProbesAndConfigMapsResolve) {
  std::set<std::string> generated;
  for (const auto& generator : Kustomization()["configMapGenerator"])
    generated.insert(generator["name"].as<std::string>());
  for (const YAML::Node& workload : Workloads()) {
    const YAML::Node pod = workload["spec"]["template"]["spec"];
    std::set<std::string> volumes;
    for (const auto& volume : pod["volumes"]) {
      volumes.insert(volume["name"].as<std::string>());
      if (!volume["configMap"]) continue;
      EXPECT_TRUE(generated.contains(volume["configMap"]["name"].as<std::string>())) << volume;
    }
    for (const YAML::Node& container : Containers(pod)) {
      SCOPED_TRACE(container["name"].as<std::string>());
      for (const auto& mount : container["volumeMounts"])
        EXPECT_TRUE(volumes.contains(mount["name"].as<std::string>())) << mount;
      std::set<std::string> ports;
      for (const auto& port : container["ports"]) ports.insert(port["name"].as<std::string>());
      for (const char* probe : {"startupProbe", "readinessProbe", "livenessProbe"}) {
        if (!container[probe]) continue;
        EXPECT_TRUE(ports.contains(container[probe]["httpGet"]["port"].as<std::string>())) << probe;
      }
    }
  }
}

TEST(Kustomize, VarveContainersAreProbedAndTheWorkerIsASidecar) {
  std::set<std::string> seen;
  for (const YAML::Node& workload : Workloads()) {
    const YAML::Node pod = workload["spec"]["template"]["spec"];
    for (const YAML::Node& container : Containers(pod)) {
      const std::string name = container["name"].as<std::string>();
      if (!name.starts_with("varve-")) continue;
      seen.insert(name);
      // A worker may wait for its store for longer than any start.
      EXPECT_EQ(container["startupProbe"]["httpGet"]["path"].as<std::string>(""),
                name == "varve-worker" ? "/healthz" : "/readyz")
          << name;
      EXPECT_EQ(container["readinessProbe"]["httpGet"]["path"].as<std::string>(""), "/readyz")
          << name;
      EXPECT_EQ(container["livenessProbe"]["httpGet"]["path"].as<std::string>(""), "/healthz")
          << name;
      const std::string restart = container["restartPolicy"].as<std::string>("");
      EXPECT_EQ(restart, name == "varve-worker" ? "Always" : "") << name;
    }
  }
  EXPECT_EQ(seen, (std::set<std::string>{"varve-store", "varve-worker"}));
}

TEST(Kustomize, SelectorsMatchPods) {
  std::vector<std::map<std::string, std::string>> pods;
  for (const YAML::Node& workload : Workloads()) {
    const auto labels = Map(workload["spec"]["template"]["metadata"]["labels"]);
    EXPECT_EQ(Map(workload["spec"]["selector"]["matchLabels"]), labels);
    pods.push_back(labels);
  }
  for (const YAML::Node& document : Documents()) {
    const std::string kind = document["kind"].as<std::string>();
    if (kind != "Service" && kind != "PodDisruptionBudget") continue;
    const YAML::Node selector = document["spec"]["selector"];
    const auto wanted = Map(kind == "Service" ? selector : selector["matchLabels"]);
    EXPECT_FALSE(wanted.empty());
    EXPECT_NE(std::find(pods.begin(), pods.end(), wanted), pods.end())
        << document["metadata"]["name"];
  }
}

// The overlay changes what the base has, and its settings are ones of the store.
TEST(Kustomize, TheNvmeOverlayFitsTheBase) {
  const std::string overlay = VARVE_ROOT "/deploy/k8s/overlays/nvme/";
  const YAML::Node kustomization = YAML::LoadFile(overlay + "kustomization.yaml");
  ASSERT_EQ(kustomization["resources"][0].as<std::string>(), "../../base");
  const YAML::Node patch =
      YAML::LoadFile(overlay + kustomization["patches"][0]["path"].as<std::string>());
  YAML::Node base;
  for (const YAML::Node& workload : Workloads()) {
    if (workload["metadata"]["name"].as<std::string>() ==
        patch["metadata"]["name"].as<std::string>()) {
      base = workload;
    }
  }
  ASSERT_TRUE(base) << "no workload of that name";
  EXPECT_EQ(patch["kind"].as<std::string>(), base["kind"].as<std::string>());
  EXPECT_EQ(patch["metadata"]["namespace"].as<std::string>(),
            Kustomization()["namespace"].as<std::string>());
  const YAML::Node container = patch["spec"]["template"]["spec"]["containers"][0];
  EXPECT_EQ(container["name"].as<std::string>(),
            base["spec"]["template"]["spec"]["containers"][0]["name"].as<std::string>());
  const YAML::Node claim = patch["spec"]["volumeClaimTemplates"][0];
  EXPECT_EQ(claim["metadata"]["name"].as<std::string>(),
            container["volumeMounts"][0]["name"].as<std::string>());
  std::string arguments;
  for (const auto& argument : container["args"]) arguments += argument.as<std::string>() + "\n";
  EXPECT_NE(arguments.find("--nvme_tier.directories=" +
                           container["volumeMounts"][0]["mountPath"].as<std::string>() + "/"),
            std::string::npos)
      << arguments;
  // Its first argument is the base's.
  EXPECT_EQ(container["args"][0].as<std::string>(),
            base["spec"]["template"]["spec"]["containers"][0]["args"][0].as<std::string>());
}

}  // namespace
}  // namespace varve
