// The PromQL of deploy/: what dashboards and rules ask for. For tests.
#pragma once

#include <string>
#include <vector>

namespace varve::testing {

struct Query {
  std::string where;  // file and panel or alert
  std::string expression;
};

// Every panel target and variable of the dashboards and every rule under root/deploy. Throws on
// files that do not parse.
std::vector<Query> DeployQueries(const std::string& root);

}  // namespace varve::testing
