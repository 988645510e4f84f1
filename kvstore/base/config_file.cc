#include "kvstore/base/config_file.h"

#include <fcntl.h>
#include <unistd.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <set>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace varve::base {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;
// More than any schema has: what is wrong with each setting is said at length.
constexpr size_t kMaxSettings = 1000;

// Reads events only to refuse what a tree of settings has no use for. Aliases may contain
// themselves.
class PlainTree : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw YAML::ParserException(mark, "aliases (*name) are not taken, write the value again");
  }
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

// The only document of `text`. Not by YAML::LoadAll: for a text like "," that never ends.
YAML::Node ParseYaml(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  PlainTree handler;
  if (parser.HandleNextDocument(handler) && parser.HandleNextDocument(handler))
    throw YAML::ParserException(YAML::Mark::null_mark(), "one YAML document is expected");
  return YAML::Load(text);
}

// Flattens a YAML tree into path -> text; sequences of scalars join with commas.
void Flatten(const YAML::Node& node, const std::string& prefix,
             std::map<std::string, std::string>& out, std::vector<std::string>& problems) {
  std::set<std::string> names;
  for (const auto& entry : node) {
    if (out.size() + problems.size() > kMaxSettings) return;
    const std::string name = entry.first.as<std::string>();
    const std::string path = prefix + name;
    if (!names.insert(name).second || out.contains(path)) {
      problems.push_back(path + ": is there twice");
    } else if (entry.second.IsMap()) {
      Flatten(entry.second, path + ".", out, problems);
    } else if (entry.second.IsSequence()) {
      std::vector<std::string> items;
      for (const auto& item : entry.second) {
        if (!item.IsScalar())
          problems.push_back(path + ": a list of plain values is expected");
        else
          items.push_back(item.as<std::string>());
      }
      out[path] = absl::StrJoin(items, ",");
    } else if (entry.second.IsScalar()) {
      out[path] = entry.second.as<std::string>();
    } else {
      problems.push_back(path + ": has no value");
    }
  }
}

}  // namespace

absl::StatusOr<std::string> ReadConfigText(const std::string& path) {
  const auto wrong = [&](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read config file ", path, ": ", why));
  };
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return wrong(std::strerror(errno));
  std::string text;
  char chunk[4096];
  ssize_t got;
  while ((got = read(descriptor, chunk, sizeof(chunk))) > 0 && text.size() <= kMaxFileBytes) {
    text.append(chunk, static_cast<size_t>(got));
  }
  const int error = errno;
  close(descriptor);
  if (got < 0) return wrong(std::strerror(error));
  if (text.size() > kMaxFileBytes) return wrong("it has more than 1MiB");
  if (absl::StrContains(text, '\0')) return wrong("it is no text file");
  // Most likely the wrong file, or half of one: nobody writes a file to say nothing.
  if (absl::StripAsciiWhitespace(text).empty()) return wrong("it is empty");
  return text;
}

absl::Status ReadSettings(const std::string& text, std::map<std::string, std::string>& values,
                          std::vector<std::string>& problems) {
  // The one place where something of ours meets exceptions: YAML's, and the library's below it.
  try {
    const YAML::Node document = ParseYaml(text);
    if (document.IsNull()) return absl::OkStatus();
    if (!document.IsMap()) return absl::InvalidArgumentError("a map of settings is expected");
    Flatten(document, "", values, problems);
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(e.what());
  }
  return absl::OkStatus();
}

}  // namespace varve::base
