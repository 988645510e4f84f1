#include "tests/support/metric_names.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

namespace varve::testing {
namespace {

const std::set<std::string>& Keywords() {
  static const std::set<std::string> keywords = {"and", "or",  "unless", "bool", "offset",
                                                 "inf", "nan", "start",  "end"};
  return keywords;
}

// The words of a comma-separated list.
std::vector<std::string> Words(const std::string& text) {
  static const std::regex kWord(R"re(\w+)re");
  return {std::sregex_token_iterator(text.begin(), text.end(), kWord),
          std::sregex_token_iterator()};
}

struct Row {
  std::string name, type, labels;
};

std::vector<Row> Rows(const std::string& markdown, const std::string& section) {
  static const std::regex kRow(R"re(^\| `([a-z_]+)` \| (counter|gauge|histogram) \|([^|]*)\|.*)re");
  std::vector<Row> rows;
  std::istringstream lines(markdown);
  bool inside = section.empty();
  for (std::string line; std::getline(lines, line);) {
    if (!section.empty() && line.starts_with("## ")) inside = line == "## " + section;
    std::smatch match;
    if (inside && std::regex_match(line, match, kRow))
      rows.push_back({match[1], match[2], match[3]});
  }
  return rows;
}

// Removes what cannot hold a series name: strings, label matchers, ranges, and the label lists of
// grouping words.
std::string Stripped(const std::string& query) {
  static const std::regex kStrings(R"re("[^"]*")re");
  static const std::regex kMatchers(R"re(\{[^}]*\})re");
  static const std::regex kRanges(R"re(\[[^\]]*\])re");
  static const std::regex kGroups(
      R"re(\b(by|without|on|ignoring|group_left|group_right)\s*(\([^)]*\))?)re");
  static const std::regex kVariables(R"re(\$\w+|\$\{\w+\})re");
  std::string text = query;
  for (const std::regex* pattern : {&kStrings, &kMatchers, &kRanges, &kGroups, &kVariables}) {
    text = std::regex_replace(text, *pattern, " ");
  }
  return text;
}

}  // namespace

Families DocumentedFamilies(const std::string& markdown, const std::string& section) {
  Families families;
  for (const Row& row : Rows(markdown, section)) families[row.name] = row.type;
  return families;
}

FamilyLabels DocumentedLabels(const std::string& markdown, const std::string& section) {
  FamilyLabels labels;
  for (const Row& row : Rows(markdown, section)) {
    for (const std::string& label : Words(row.labels)) labels[row.name].insert(label);
  }
  return labels;
}

Families ExposedFamilies(const std::string& exposition) {
  Families families;
  std::istringstream lines(exposition);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string hash, type_word, name, type;
    if (words >> hash >> type_word >> name >> type && hash == "#" && type_word == "TYPE")
      families[name] = type;
  }
  return families;
}

FamilyLabels ExposedLabels(const std::string& exposition) {
  static const std::regex kLabel(R"re((\w+)="[^"]*")re");
  FamilyLabels labels;
  std::string family;
  std::istringstream lines(exposition);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string hash, type_word;
    if (line.starts_with("# TYPE ")) words >> hash >> type_word >> family;
    if (line.starts_with("#")) continue;
    for (std::sregex_iterator it(line.begin(), line.end(), kLabel), end; it != end; ++it) {
      if ((*it)[1] != "le") labels[family].insert((*it)[1]);
    }
  }
  return labels;
}

std::set<std::string> SeriesInQuery(const std::string& query) {
  static const std::regex kName(R"re([a-zA-Z_:][\w:]*)re");
  const std::string text = Stripped(query);
  std::set<std::string> series;
  for (std::sregex_iterator it(text.begin(), text.end(), kName), end; it != end; ++it) {
    const size_t begin = static_cast<size_t>(it->position());
    // The unit of a duration such as 1h.
    if (begin > 0 && std::isdigit(static_cast<unsigned char>(text[begin - 1])) != 0) continue;
    const size_t after = text.find_first_not_of(' ', begin + it->length());
    const bool function = after != std::string::npos && text[after] == '(';
    // `sum by (...) (x)` leaves `sum   (x)`: still a function.
    if (!function && !Keywords().contains(it->str())) series.insert(it->str());
  }
  return series;
}

std::string SeriesProblem(const std::string& series, const Families& families) {
  if (series == "up") return "";
  const auto family = families.find(series);
  if (family != families.end()) {
    return family->second == "histogram"
               ? series + " is a histogram: name its _bucket, _sum or _count"
               : "";
  }
  for (const std::string suffix : {"_bucket", "_sum", "_count"}) {
    if (!series.ends_with(suffix)) continue;
    const auto base = families.find(series.substr(0, series.size() - suffix.size()));
    if (base != families.end() && base->second == "histogram") return "";
  }
  return series + " does not exist";
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> FilesIn(const std::string& folder, const std::string& suffix) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().string().ends_with(suffix)) paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace varve::testing
