// Values in and out of files: put, get.
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "client/console/progress.h"
#include "client/varvectl/command.h"
#include "client/varvectl/output_file.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/page/checksum.h"

namespace varve::varvectl {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kChunkBytes = 1 << 20;
constexpr uint64_t kProgressFromBytes = 8 << 20;
constexpr const char* kStandardStream = "-";
constexpr absl::Duration kLongestTtl = absl::Hours(24 * 49);  // in 32 bits of milliseconds

struct PutOptions {
  std::string key, file;
  client::ValueInfo info;
  std::string ttl, parent;  // empty: none
};
struct GetOptions {
  std::string key, file;
  std::string part = "kv";
  page::ObjectRange range;
};

absl::Status FileError(const std::string& file, const char* what) {
  return absl::FailedPreconditionError(
      absl::StrCat("cannot ", what, " ", file, ": ", std::strerror(errno)));
}

// One byte too many shows.
std::string Exactly(uint64_t bytes) {
  return absl::StrCat(base::FormatBytes(bytes), " (", bytes, " bytes)");
}

absl::Status TooLarge(const std::string& file, uint64_t bytes, uint64_t limit) {
  return absl::FailedPreconditionError(
      absl::StrCat(file, " has ", Exactly(bytes), ", the store takes values up to ", Exactly(limit),
                   " (sessions.max_object_bytes); split it, or raise the limit of the store"));
}

// Reads the whole file; `limit` 0: none. Draws a bar for large ones.
absl::StatusOr<std::string> ReadFile(const std::string& file, uint64_t limit, bool quiet) {
  std::error_code error;
  const bool regular = file != kStandardStream && fs::is_regular_file(file, error);
  const uint64_t size = regular ? fs::file_size(file, error) : 0;
  if (limit != 0 && size > limit) return TooLarge(file, size, limit);
  std::ifstream opened;
  if (file != kStandardStream) {
    opened.open(file, std::ios::binary);
    if (!opened) return FileError(file, "read");
  }
  std::istream& in = file == kStandardStream ? std::cin : opened;
  std::optional<console::Progress> progress;
  if (!quiet && size >= kProgressFromBytes) progress.emplace("reading " + file, size);
  std::string bytes;
  while (in) {
    const size_t before = bytes.size();
    bytes.resize(before + kChunkBytes);
    in.read(bytes.data() + before, kChunkBytes);
    bytes.resize(before + static_cast<size_t>(in.gcount()));
    if (limit != 0 && bytes.size() > limit) return TooLarge(file, bytes.size(), limit);
    if (progress.has_value()) progress->Update(bytes.size(), base::FormatBytes(bytes.size()));
  }
  if (in.bad()) return FileError(file, "read");
  return bytes;
}

absl::Status WriteStandardOutput(const std::string& bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), stdout) == bytes.size() &&
      std::fflush(stdout) == 0) {
    return absl::OkStatus();
  }
  return FileError("standard output", "write");
}

absl::Status Save(const std::string& file, const std::string& bytes, bool quiet) {
  if (file == kStandardStream) return WriteStandardOutput(bytes);
  std::optional<console::Progress> progress;
  if (!quiet && bytes.size() >= kProgressFromBytes)
    progress.emplace("writing " + file, bytes.size());
  return WriteFile(file, bytes, [&progress](uint64_t written) {
    if (progress.has_value()) progress->Update(written, base::FormatBytes(written));
  });
}

absl::Status PutError(const client::PutResult& result, const PutOptions& options) {
  switch (result.outcome) {
    case client::PutOutcome::kStored:
    case client::PutOutcome::kExists:
      return absl::OkStatus();
    case client::PutOutcome::kNoSpace:
      return absl::ResourceExhaustedError(
          absl::StrCat("no space for ", options.key, ": ", result.message));
    case client::PutOutcome::kInvalid:
      return absl::InvalidArgumentError(result.message);
    default:
      return absl::InternalError(absl::StrCat(options.key, " was not stored: ", result.message));
  }
}

// What is stored under a key never changes: a file with other bytes has not been stored.
absl::Status CheckSameValue(client::Client& client, const page::ObjectKey& key,
                            const std::string& value) {
  VARVE_ASSIGN_OR_RETURN(const client::ObjectPage found, client.List(key.bytes(), 1, ""));
  if (found.objects.empty() || !(found.objects[0].key == key)) {
    return absl::AbortedError(
        absl::StrCat(FormatKey(key), " was stored already, but is gone by now; put it again"));
  }
  const client::ObjectInfo& stored = found.objects[0];
  if (stored.bytes == value.size() && stored.crc32c == page::Crc32c(value.data(), value.size()))
    return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(
      FormatKey(key), " is stored already with other bytes (", base::FormatBytes(stored.bytes),
      "), which stay; varvectl rm it first to replace it"));
}

absl::StatusOr<absl::Duration> ParseTtl(const std::string& text) {
  VARVE_ASSIGN_OR_RETURN(const absl::Duration ttl, base::ParseDuration(text));
  if (ttl >= absl::Milliseconds(1) && ttl <= kLongestTtl) return ttl;
  return absl::InvalidArgumentError(
      absl::StrCat("--ttl ", text, " is out of range: 1ms .. 49 days (1176h)"));
}

absl::Status Put(const Globals& globals, PutOptions options) {
  VARVE_ASSIGN_OR_RETURN(const page::ObjectKey key, ParseKey(options.key));
  if (!options.ttl.empty()) {
    VARVE_ASSIGN_OR_RETURN(options.info.ttl, ParseTtl(options.ttl));
  }
  if (!options.parent.empty()) {
    VARVE_ASSIGN_OR_RETURN(options.info.parent, ParseKey(options.parent));
  }
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, true));
  VARVE_ASSIGN_OR_RETURN(const std::string value,
                         ReadFile(options.file, client->limits().max_object_bytes, globals.json));
  if (value.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(options.file, " is empty; values have at least 1 byte"));
  }
  VARVE_ASSIGN_OR_RETURN(const client::PutResult result,
                         client->PutInline(key, std::as_bytes(std::span(value)), options.info));
  VARVE_RETURN_IF_ERROR(PutError(result, options));
  const bool existed = result.outcome == client::PutOutcome::kExists;
  if (existed) VARVE_RETURN_IF_ERROR(CheckSameValue(*client, key, value));
  if (globals.json) {
    PrintJson({{"key", FormatKey(key)},
               {"bytes", value.size()},
               {"result", existed ? "exists" : "stored"}});
  } else if (existed) {
    std::printf("%s is stored already, with the same bytes\n", FormatKey(key).c_str());
  } else {
    std::printf("stored %s, %s\n", FormatKey(key).c_str(), base::FormatBytes(value.size()).c_str());
  }
  return absl::OkStatus();
}

absl::Status Get(const Globals& globals, GetOptions options) {
  options.range.part = options.part == "k"   ? page::Part::kK
                       : options.part == "v" ? page::Part::kV
                                             : page::Part::kKV;
  VARVE_ASSIGN_OR_RETURN(const page::ObjectKey key, ParseKey(options.key));
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, true));
  std::string value;
  VARVE_ASSIGN_OR_RETURN(const client::GetResult result,
                         client->GetInline(key, options.range, &value));
  if (!result.hit && result.reason == client::MissReason::kNone) {
    return absl::InvalidArgumentError(result.message);
  }
  if (!result.hit) {
    return absl::NotFoundError(absl::StrCat(FormatKey(key), " is not in namespace '",
                                            globals.key_namespace,
                                            "': ", client::MissName(result.reason)));
  }
  VARVE_RETURN_IF_ERROR(Save(options.file, value, globals.json));
  if (options.file == kStandardStream) return absl::OkStatus();
  if (globals.json) {
    PrintJson({{"key", FormatKey(key)},
               {"bytes", value.size()},
               {"tier", TierName(result.tier)},
               {"file", options.file}});
  } else {
    std::printf("%s, %s from tier %s, is in %s\n", FormatKey(key).c_str(),
                base::FormatBytes(value.size()).c_str(), TierName(result.tier),
                options.file.c_str());
  }
  return absl::OkStatus();
}

// A variable that a script has not set is not the same as no option.
const CLI::Validator& NotEmpty() {
  static const CLI::Validator not_empty(
      [](std::string& text) {
        return std::string(text.empty() ? "is empty: give a value, or leave the option out" : "");
      },
      "");
  return not_empty;
}

}  // namespace

void AddFileCommands(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* put =
      AddCommand(app, "put",
                 "Store a file under a key.\n"
                 "A key that is stored keeps its value: the same bytes again are fine,\n"
                 "others are refused (exit code 1) until varvectl rm has removed it.\n"
                 "Of the options, --ttl alone counts then, where it makes the value stay longer.",
                 "  varvectl put greeting hello.txt\n"
                 "  echo hi | varvectl put greeting -\n"
                 "  varvectl put hex:00112233 page.bin --kv-heads 8 --part-bytes 8192\n"
                 "  varvectl put answer page.bin --ttl 10m --prompt-tokens 4096\n"
                 "  varvectl put block-2-0000 page.bin --parent block-1-0000");
  auto put_options = std::make_shared<PutOptions>();
  put->add_option("KEY", put_options->key, kKeyHelp)->required();
  put->add_option("FILE", put_options->file, "The value; - reads standard input")->required();
  CLI::Option* heads =
      put->add_option("--kv-heads", put_options->info.layout.num_kv_heads,
                      "The value is pages of so many KV heads; without it, opaque bytes");
  put->add_option("--part-bytes", put_options->info.layout.part_bytes, "Bytes of one K or V part")
      ->needs(heads);
  put->add_option("--ttl", put_options->ttl,
                  "It can be found for so long, longer while it is pinned or held; without it, for "
                  "ever")
      ->check(NotEmpty());
  put->add_option("--prompt-tokens", put_options->info.prompt_tokens,
                  "Of the prompt that it was computed for: what it costs to lose")
      ->check(NotEmpty());
  put->add_option("--tokens", put_options->info.tokens,
                  "Whose keys and values it has: more bytes for as many leave first")
      ->check(NotEmpty());
  put->add_option(
         "--parent", put_options->parent,
         "Key of an object of the block before this one's in its prompt, which then is not "
         "evicted before this one; keys of one block differ in their last 4 bytes alone")
      ->check(NotEmpty());
  put->callback([&globals, &action, put_options] {
    action = [&globals, put_options] { return Put(globals, *put_options); };
  });

  CLI::App* get =
      AddCommand(app, "get", "Write a stored value into a file",
                 "  varvectl get greeting copy.txt\n"
                 "  varvectl get greeting -\n"
                 "  varvectl get hex:00112233 values.bin --part v --head-begin 2 --head-count 1");
  auto get_options = std::make_shared<GetOptions>();
  get->add_option("KEY", get_options->key, kKeyHelp)->required();
  get->add_option("FILE", get_options->file, "Where to; - writes standard output")->required();
  get->add_option("--part", get_options->part, "Keys, values or both")
      ->check(CLI::IsMember({"kv", "k", "v"}))
      ->capture_default_str();
  get->add_option("--head-begin", get_options->range.head_begin, "First KV head")
      ->capture_default_str();
  get->add_option("--head-count", get_options->range.head_count, "How many; 0: all that follow")
      ->capture_default_str();
  get->callback([&globals, &action, get_options] {
    action = [&globals, get_options] { return Get(globals, *get_options); };
  });
}

}  // namespace varve::varvectl
