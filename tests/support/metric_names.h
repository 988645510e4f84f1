// Which metrics a document, a query or a running process names. For tests; single-threaded.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

namespace varve::testing {

// Family name -> "counter", "gauge" or "histogram".
using Families = std::map<std::string, std::string>;
// Family name -> its label names; only families that have any.
using FamilyLabels = std::map<std::string, std::set<std::string>>;

// The rows `| `name` | type | labels | ...` of docs/metrics.md below the heading `## section`; all
// sections when empty.
Families DocumentedFamilies(const std::string& markdown, const std::string& section);
FamilyLabels DocumentedLabels(const std::string& markdown, const std::string& section);

// The families of the text exposition format (its # TYPE lines) and the labels of their series,
// without `le`.
Families ExposedFamilies(const std::string& exposition);
FamilyLabels ExposedLabels(const std::string& exposition);

// Names of series in a PromQL expression: no functions, keywords, labels, durations or variables.
std::set<std::string> SeriesInQuery(const std::string& query);

// What is wrong with naming `series` when `families` exist; empty: nothing. Knows _bucket, _sum and
// _count of histograms and `up`, which Prometheus itself makes.
std::string SeriesProblem(const std::string& series, const Families& families);

std::string ReadFile(const std::string& path);
// Paths of the files in a folder whose names end in `suffix`, sorted.
std::vector<std::string> FilesIn(const std::string& folder, const std::string& suffix);

}  // namespace varve::testing
