#include "tests/model/eval_data.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/console/file_io.h"
#include "kvstore/base/status.h"

namespace varve::model {
namespace {

using Json = nlohmann::json;

absl::StatusOr<std::vector<int32_t>> TokenList(const Json& object, const char* field,
                                               uint32_t vocab) {
  const auto it = object.find(field);
  if (it == object.end() || !it->is_array() || it->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", field, "\" must be a list of at least one token id"));
  }
  std::vector<int32_t> tokens;
  tokens.reserve(it->size());
  for (const Json& value : *it) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= vocab) {
      return absl::InvalidArgumentError(absl::StrCat("\"", field, "\" holds ", value.dump(),
                                                     ", token ids are in [0, ", vocab, ")"));
    }
    tokens.push_back(value.get<int32_t>());
  }
  return tokens;
}

absl::Status CheckHead(const Json& json, const EvalSet& set) {
  if (!json.is_object()) return absl::InvalidArgumentError("not a JSON object");
  if (json.value("task", Json()) != set.task || json.value("len", Json()) != set.length) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"task\" and \"len\" must be ", set.task, " and ", set.length));
  }
  return absl::OkStatus();
}

absl::StatusOr<EvalItem> ParseItem(std::string_view line, const EvalSet& set, uint32_t vocab) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  VARVE_RETURN_IF_ERROR(CheckHead(json, set));
  EvalItem item;
  VARVE_ASSIGN_OR_RETURN(item.prompt, TokenList(json, "prompt", vocab));
  if (item.prompt.size() != set.length) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"prompt\" has ", item.prompt.size(), " tokens, \"len\" says ", set.length));
  }
  const auto turns = json.find("turns");
  if (turns == json.end() || !turns->is_array() || turns->empty()) {
    return absl::InvalidArgumentError("\"turns\" must be a list of at least one turn");
  }
  for (const Json& turn : *turns) {
    if (!turn.is_object()) return absl::InvalidArgumentError("a turn is not a JSON object");
    EvalTurn parsed;
    VARVE_ASSIGN_OR_RETURN(parsed.feed, TokenList(turn, "feed", vocab));
    VARVE_ASSIGN_OR_RETURN(parsed.answer, TokenList(turn, "answer", vocab));
    item.turns.push_back(std::move(parsed));
  }
  return item;
}

// "eval_a_1024.jsonl.gz, ..." of a directory, for the error that a set is not there.
std::string KnownSets(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator it(dir, error);
  for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    std::string name = it->path().filename().string();
    if (name.starts_with("eval_") && name.ends_with(".jsonl.gz")) names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names.empty() ? "none" : absl::StrJoin(names, ", ");
}

std::string SetPath(const std::string& dir, const std::string& task, uint32_t length) {
  return absl::StrCat(dir, "/eval_", task, "_", length, ".jsonl.gz");
}

absl::Status NoSuchSet(const std::string& path, const std::string& dir) {
  return absl::NotFoundError(
      absl::StrCat(path, ": no such evaluation set, there are: ", KnownSets(dir)));
}

}  // namespace

absl::Status CheckEvalSets(const std::string& dir, absl::Span<const std::string> tasks,
                           absl::Span<const uint32_t> lengths) {
  for (const std::string& task : tasks) {
    for (const uint32_t length : lengths) {
      const std::string path = SetPath(dir, task, length);
      std::error_code error;
      if (!std::filesystem::exists(path, error)) return NoSuchSet(path, dir);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<EvalSet> ReadEvalSet(const std::string& dir, const std::string& task,
                                    uint32_t length, uint32_t vocab, uint32_t max_items) {
  const std::string path = SetPath(dir, task, length);
  const absl::StatusOr<std::string> text = console::ReadGzipFile(path);
  if (absl::IsNotFound(text.status())) return NoSuchSet(path, dir);
  if (!text.ok()) return text.status();
  EvalSet set{task, length, {}};
  std::string_view rest(*text);
  for (uint32_t number = 1; !rest.empty(); ++number) {
    if (max_items != 0 && set.items.size() == max_items) break;
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    absl::StatusOr<EvalItem> item = ParseItem(line, set, vocab);
    if (!item.ok()) {
      return base::Annotate(item.status(), std::string(absl::StrCat(path, " line ", number)));
    }
    set.items.push_back(*std::move(item));
  }
  if (set.items.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": no prompts"));
  return set;
}

}  // namespace varve::model
