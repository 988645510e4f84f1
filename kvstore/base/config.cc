#include "kvstore/base/config.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/descriptor.pb.h"
#include "kvstore/base/config_file.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"

extern char** environ;

namespace varve::base {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

struct FieldRef {
  Message* owner;
  const FieldDescriptor* field;
};

// Calls fn(path, owner, field) for every scalar field below message, in schema order.
void Walk(Message* message, const std::string& prefix,
          const std::function<void(const std::string&, Message*, const FieldDescriptor*)>& fn) {
  const auto* descriptor = message->GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    const std::string path = prefix + field->name();
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      Walk(message->GetReflection()->MutableMessage(message, field), path + ".", fn);
    } else {
      fn(path, message, field);
    }
  }
}

std::map<std::string, FieldRef> Fields(Message* message) {
  std::map<std::string, FieldRef> fields;
  Walk(message, "", [&](const std::string& path, Message* owner, const FieldDescriptor* field) {
    fields[path] = {owner, field};
  });
  return fields;
}

bool IsBytes(const FieldDescriptor* field) { return absl::EndsWith(field->name(), "_bytes"); }
bool IsDuration(const FieldDescriptor* field) { return absl::EndsWith(field->name(), "_ms"); }

std::string TypeName(const FieldDescriptor* field) {
  if (IsBytes(field)) return "size";
  if (IsDuration(field)) return "duration";
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true|false";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "number";
    case FieldDescriptor::CPPTYPE_STRING:
      return field->is_repeated() ? "list of text" : "text";
    default:
      return "whole number";
  }
}

// What the schema says about a field: its option `help`, an extension of the schema's own.
std::string HelpText(const FieldDescriptor* field) {
  const Message& options = field->options();
  std::vector<const FieldDescriptor*> set;
  options.GetReflection()->ListFields(options, &set);
  for (const FieldDescriptor* option : set) {
    if (option->is_extension() && option->name() == "help")
      return options.GetReflection()->GetString(options, option);
  }
  return "";
}

std::string RangeText(const FieldDescriptor* field) {
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat(" from 0 to ", std::numeric_limits<uint32_t>::max());
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(" from 0 to ", std::numeric_limits<uint64_t>::max());
    default:
      return "";
  }
}

// As few digits as say it exactly.
std::string SizeText(uint64_t bytes) {
  static constexpr std::pair<int, const char*> kUnits[] = {
      {40, "TiB"}, {30, "GiB"}, {20, "MiB"}, {10, "KiB"}};
  for (const auto& [shift, name] : kUnits) {
    if (bytes != 0 && bytes % (uint64_t{1} << shift) == 0)
      return absl::StrCat(bytes >> shift, name);
  }
  return absl::StrCat(bytes);
}

// Whole, as YAML writes it; base::Quoted is for people.
std::string YamlQuoted(const std::string& text) {
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(text), "\"");
}

std::string ValueText(const Message& owner, const FieldDescriptor* field) {
  const auto* reflection = owner.GetReflection();
  if (field->is_repeated()) {
    std::vector<std::string> items;
    for (int i = 0; i < reflection->FieldSize(owner, field); ++i) {
      items.push_back(YamlQuoted(reflection->GetRepeatedString(owner, field, i)));
    }
    return absl::StrCat("[", absl::StrJoin(items, ", "), "]");
  }
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetBool(owner, field) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      char text[32];  // the shortest that reads as the same number
      return {text, std::to_chars(text, std::end(text), reflection->GetDouble(owner, field)).ptr};
    }
    case FieldDescriptor::CPPTYPE_STRING:
      return YamlQuoted(reflection->GetString(owner, field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat(reflection->GetUInt32(owner, field));
    case FieldDescriptor::CPPTYPE_UINT64: {
      const uint64_t value = reflection->GetUInt64(owner, field);
      if (IsBytes(field)) return SizeText(value);
      if (IsDuration(field)) return absl::FormatDuration(absl::Milliseconds(value));
      return absl::StrCat(value);
    }
    default:
      return "?";
  }
}

absl::Status Assign(const FieldRef& ref, const std::string& text) {
  const FieldDescriptor* field = ref.field;
  const auto* reflection = ref.owner->GetReflection();
  const absl::Status wrong = absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is no ", TypeName(field), RangeText(field)));
  if (field->is_repeated()) {
    reflection->ClearField(ref.owner, field);
    for (const auto& item : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
      reflection->AddString(ref.owner, field, std::string(absl::StripAsciiWhitespace(item)));
    }
    return absl::OkStatus();
  }
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL: {
      bool value;
      if (!absl::SimpleAtob(text, &value)) return wrong;
      reflection->SetBool(ref.owner, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value;
      if (!absl::SimpleAtod(text, &value) || value != value) return wrong;
      reflection->SetDouble(ref.owner, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_STRING:
      reflection->SetString(ref.owner, field, text);
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_UINT32: {
      uint32_t value;
      if (!absl::SimpleAtoi(text, &value)) return wrong;
      reflection->SetUInt32(ref.owner, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t value = 0;
      if (IsBytes(field)) {
        VARVE_ASSIGN_OR_RETURN(value, ParseBytes(text));
      } else if (IsDuration(field)) {
        VARVE_ASSIGN_OR_RETURN(absl::Duration duration, ParseDuration(text));
        if (duration % absl::Milliseconds(1) != absl::ZeroDuration()) {
          return absl::InvalidArgumentError(
              absl::StrCat("'", text, "' is not a whole number of milliseconds"));
        }
        value = static_cast<uint64_t>(absl::ToInt64Milliseconds(duration));
      } else if (!absl::SimpleAtoi(text, &value)) {
        return wrong;
      }
      reflection->SetUInt64(ref.owner, field, value);
      return absl::OkStatus();
    }
    default:
      return absl::InternalError(
          absl::StrCat("config schema: unsupported type of ", field->full_name()));
  }
}

// Levenshtein, for names of a few dozen characters.
size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

// " (did you mean 'x'?)", or nothing when no name is near. `shared`: what all names begin with.
std::string Suggestion(const std::string& unknown, const std::vector<std::string>& known,
                       const std::string& shared = "") {
  // One wrong character in three, at most three.
  size_t best = std::min<size_t>(3, (unknown.size() - std::min(unknown.size(), shared.size())) / 3);
  std::string found;
  for (const std::string& name : known) {
    const size_t distance = EditDistance(unknown, name);
    if (distance > best || (distance == best && !found.empty())) continue;
    best = distance;
    found = absl::StrCat(" (did you mean '", name, "'?)");
  }
  return found;
}

// Those of the names that are below `group`.
std::vector<std::string> MembersOf(const std::string& group,
                                   const std::map<std::string, FieldRef>& fields) {
  std::vector<std::string> members;
  for (const auto& [name, ref] : fields) {
    if (absl::StartsWith(name, group + ".")) members.push_back(name);
  }
  return members;
}

// Docker-style service links, which Kubernetes puts into every container of a namespace.
bool IsServiceLink(const std::string& name, const std::string& value) {
  if (absl::EndsWith(name, "_SERVICE_HOST") || absl::StrContains(name, "_SERVICE_PORT"))
    return true;
  if (absl::EndsWith(name, "_PORT")) return absl::StrContains(value, "://");
  return absl::StrContains(name, "_PORT_") &&
         (absl::StrContains(name, "_TCP") || absl::StrContains(name, "_UDP"));
}

absl::Status Problems(const std::vector<std::string>& problems) {
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(problems, "\n"));
}

}  // namespace

ConfigLoader::ConfigLoader(Message* message, std::string env_prefix)
    : message_(message), env_prefix_(std::move(env_prefix)) {}

absl::Status ConfigLoader::Set(const std::string& path, const std::string& value,
                               const std::string& origin) {
  const auto fields = Fields(message_);
  const auto found = fields.find(path);
  if (found == fields.end()) {
    if (const auto members = MembersOf(path, fields); !members.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          origin, ": '", path, "' is a group of settings: ", absl::StrJoin(members, ", ")));
    }
    std::vector<std::string> names;
    for (const auto& [name, ref] : fields) names.push_back(name);
    return absl::InvalidArgumentError(absl::StrCat(origin, ": unknown setting '", path, "'",
                                                   Suggestion(path, names),
                                                   ", known: ", absl::StrJoin(names, ", ")));
  }
  VARVE_RETURN_IF_ERROR(Annotate(Assign(found->second, value), absl::StrCat(origin, ": ", path)));
  origin_[path] = origin;
  return absl::OkStatus();
}

absl::Status ConfigLoader::LoadYamlFile(const std::string& path) {
  VARVE_ASSIGN_OR_RETURN(const std::string text, ReadConfigText(path));
  return LoadYamlText(text, path);
}

absl::Status ConfigLoader::LoadYamlText(const std::string& text, const std::string& origin) {
  std::map<std::string, std::string> values;
  std::vector<std::string> problems;
  VARVE_RETURN_IF_ERROR(Annotate(ReadSettings(text, values, problems), origin));
  for (std::string& problem : problems) problem = absl::StrCat(origin, ": ", problem);
  for (const auto& [path, value] : values) {
    const absl::Status status = Set(path, value, origin);
    if (!status.ok()) problems.push_back(std::string(status.message()));
  }
  return Problems(problems);
}

absl::Status ConfigLoader::LoadEnvironment(const std::map<std::string, std::string>& environment) {
  std::map<std::string, std::string> path_of;
  for (const auto& [path, ref] : Fields(message_)) {
    path_of[env_prefix_ + absl::AsciiStrToUpper(absl::StrReplaceAll(path, {{".", "_"}}))] = path;
  }
  std::vector<std::string> problems;
  for (const auto& [name, value] : environment) {
    if (!absl::StartsWith(name, env_prefix_)) continue;
    const auto found = path_of.find(name);
    // VARVE_CONFIG names the file itself and belongs to main.
    if (found == path_of.end()) {
      if (name == env_prefix_ + "CONFIG" || IsServiceLink(name, value)) continue;
      std::vector<std::string> names;
      for (const auto& [known, path] : path_of) names.push_back(known);
      problems.push_back(absl::StrCat("environment: unknown setting '", name, "'",
                                      Suggestion(name, names, env_prefix_)));
      continue;
    }
    const absl::Status status = Set(found->second, value, absl::StrCat("environment ", name));
    if (!status.ok()) problems.push_back(std::string(status.message()));
  }
  return Problems(problems);
}

absl::StatusOr<std::vector<std::string>> ConfigLoader::LoadFlags(
    const std::vector<std::string>& args) {
  std::vector<std::string> rest, problems;
  const auto fields = Fields(message_);
  std::set<std::string> given;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    const size_t equals = arg.find('=');
    const std::string path =
        absl::StartsWith(arg, "--") ? arg.substr(2, equals - std::min<size_t>(equals, 2)) : "";
    if (!fields.contains(path)) {
      rest.push_back(arg);
      continue;
    }
    if (equals == std::string::npos && i + 1 == args.size()) {
      problems.push_back(absl::StrCat("command line: --", path, " needs a value"));
      continue;
    }
    const std::string value = equals == std::string::npos ? args[++i] : arg.substr(equals + 1);
    if (!given.insert(path).second) {
      problems.push_back(absl::StrCat("command line: --", path, " is there twice"));
      continue;
    }
    const absl::Status status = Set(path, value, "command line");
    if (!status.ok()) problems.push_back(std::string(status.message()));
  }
  if (problems.empty()) return rest;
  for (const std::string& arg : rest) {
    problems.push_back(absl::StrCat("command line: unknown argument '", arg, "'", Nearest(arg)));
  }
  return Problems(problems);
}

std::string ConfigLoader::Nearest(const std::string& arg) const {
  const std::string unknown = arg.substr(0, arg.find('='));
  const auto fields = Fields(message_);
  if (absl::StartsWith(unknown, "--")) {
    const auto members = MembersOf(unknown.substr(2), fields);
    if (!members.empty())
      return absl::StrCat(" (a group of settings: --", absl::StrJoin(members, ", --"), ")");
  }
  std::vector<std::string> names;
  for (const auto& [name, ref] : fields) names.push_back("--" + name);
  return Suggestion(unknown, names, "--");
}

std::string ConfigLoader::Print() const {
  std::string text;
  Walk(message_, "", [&](const std::string& path, Message* owner, const FieldDescriptor* field) {
    const auto found = origin_.find(path);
    absl::StrAppend(&text, path, ": ", ValueText(*owner, field), "  # ",
                    found == origin_.end() ? "default" : found->second, "\n");
  });
  return text;
}

std::string ConfigLoader::Describe() const {
  std::string text;
  Walk(message_, "", [&](const std::string& path, Message* owner, const FieldDescriptor* field) {
    absl::StrAppend(&text, "  --", path, "=<", TypeName(field), ">  (default ",
                    ValueText(*owner, field), ")\n");
    if (const std::string help = HelpText(field); !help.empty())
      absl::StrAppend(&text, "      ", help, "\n");
  });
  return text;
}

std::map<std::string, std::string> Environment() {
  std::map<std::string, std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string_view::npos) {
      environment.emplace(text.substr(0, equals), text.substr(equals + 1));
    }
  }
  return environment;
}

}  // namespace varve::base
