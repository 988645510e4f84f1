#include "tests/support/deploy_queries.h"

#include <yaml-cpp/yaml.h>

#include <regex>

#include "nlohmann/json.hpp"
#include "tests/support/metric_names.h"

namespace varve::testing {
namespace {

void AddDashboard(const std::string& path, std::vector<Query>& queries) {
  const nlohmann::json dashboard = nlohmann::json::parse(ReadFile(path));
  for (const auto& panel : dashboard.at("panels")) {
    for (const auto& target : panel.value("targets", nlohmann::json::array())) {
      queries.push_back({path + ": " + panel.at("title").get<std::string>(), target.at("expr")});
    }
  }
  static const std::regex kLabelValues(R"re(label_values\(([^,()]+),[^()]*\))re");
  for (const auto& variable : dashboard.at("templating").at("list")) {
    if (variable.at("type") != "query") continue;
    const std::string text = variable.at("query");
    std::smatch match;
    queries.push_back({path + ": variable " + variable.at("name").get<std::string>(),
                       std::regex_match(text, match, kLabelValues) ? match[1].str() : text});
  }
}

void AddRules(const std::string& path, std::vector<Query>& queries) {
  const YAML::Node rules = YAML::LoadFile(path);
  for (const auto& group : rules["groups"]) {
    for (const auto& rule : group["rules"]) {
      const YAML::Node name = rule["alert"] ? rule["alert"] : rule["record"];
      queries.push_back({path + ": " + name.as<std::string>(), rule["expr"].as<std::string>()});
    }
  }
}

}  // namespace

std::vector<Query> DeployQueries(const std::string& root) {
  std::vector<Query> queries;
  for (const auto& path : FilesIn(root + "/deploy/grafana", ".json")) AddDashboard(path, queries);
  for (const auto& path : FilesIn(root + "/deploy/prometheus", "-rules.yml"))
    AddRules(path, queries);
  return queries;
}

}  // namespace varve::testing
