// The C interface: connection, memory and objects.
#include <utility>

#include "absl/strings/str_split.h"
#include "client/c_api.h"
#include "kvstore/base/status.h"

using varve::client::Adopt;
using varve::client::AdoptAt;
using varve::client::Guarded;
using varve::client::NullError;

namespace varve::client {
namespace {

ClientOptions ToOptions(const varve_options& given) {
  ClientOptions options;
  if (given.address != nullptr) options.address = given.address;
  if (given.client_name != nullptr) options.client_name = given.client_name;
  if (given.key_namespace != nullptr) options.key_namespace = given.key_namespace;
  if (given.lanes != nullptr)
    options.lanes = absl::StrSplit(given.lanes, ',', absl::SkipWhitespace());
  if (given.connect_timeout_ms != 0)
    options.connect_timeout = absl::Milliseconds(given.connect_timeout_ms);
  if (given.transfer_deadline_ms != 0)
    options.transfer_deadline = absl::Milliseconds(given.transfer_deadline_ms);
  return options;
}

absl::StatusOr<PutItem> ToItem(const varve_put_item& given) {
  PutItem item;
  VARVE_ASSIGN_OR_RETURN(item.key, ToKey(given.key));
  VARVE_ASSIGN_OR_RETURN(item.sources,
                         ToPieces(given.sources, given.num_sources, "varve_put_item.sources"));
  item.layout = {.num_kv_heads = given.num_kv_heads, .part_bytes = given.part_bytes};
  if (given.has_crc32c != 0) item.crc32c = given.crc32c;
  item.prompt_tokens = given.prompt_tokens;
  item.tokens = given.tokens;
  if (given.ttl_ms != 0) item.ttl = absl::Milliseconds(given.ttl_ms);
  if (given.parent.bytes != 0) {
    VARVE_ASSIGN_OR_RETURN(item.parent, ToKey(given.parent));
  }
  return item;
}

absl::StatusOr<GetItem> ToItem(const varve_get_item& given) {
  GetItem item;
  VARVE_ASSIGN_OR_RETURN(item.key, ToKey(given.key));
  VARVE_ASSIGN_OR_RETURN(item.range.part, ToPart(given.part));
  item.range.head_begin = given.head_begin;
  item.range.head_count = given.head_count;
  VARVE_ASSIGN_OR_RETURN(item.destinations, ToPieces(given.destinations, given.num_destinations,
                                                     "varve_get_item.destinations"));
  return item;
}

varve_get_result FromResult(const GetResult& result) {
  return {.struct_size = 0,
          .hit = result.hit ? 1u : 0u,
          .tier = static_cast<varve_tier>(result.tier),
          .bytes = result.bytes,
          .reason = static_cast<varve_miss>(result.reason)};
}

// The text of the first item that has one, for varve_last_error.
template <typename Results>
void KeepFirstMessage(const Results& results) {
  for (const auto& result : results) {
    if (!result.message.empty()) return SetLastError(result.message);
  }
}

void CopyFlags(const std::vector<bool>& flags, uint8_t* out) {
  if (out != nullptr) std::copy(flags.begin(), flags.end(), out);
}

absl::Status Adopted(absl::StatusOr<std::unique_ptr<Memory>> made, varve_memory** memory) {
  VARVE_RETURN_IF_ERROR(made.status());
  *memory = new varve_memory{*std::move(made)};
  return absl::OkStatus();
}

}  // namespace
}  // namespace varve::client

extern "C" {

const char* varve_status_name(varve_status status) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  const int index = static_cast<int>(status);
  return index >= 0 && index < static_cast<int>(std::size(kNames)) ? kNames[index] : "UNKNOWN";
}

const char* varve_version(void) { return VARVE_VERSION; }

varve_status varve_connect(const varve_options* options, varve_client** client) {
  return Guarded([&]() -> absl::Status {
    if (client == nullptr) return NullError("client");
    varve_options own{};
    if (options != nullptr) {
      VARVE_ASSIGN_OR_RETURN(own, Adopt(options, options->struct_size, "varve_options"));
    }
    VARVE_ASSIGN_OR_RETURN(auto connected,
                           varve::client::Client::Connect(varve::client::ToOptions(own)));
    std::string lane = connected->lane();
    *client = new varve_client{std::move(connected), std::move(lane)};
    return absl::OkStatus();
  });
}

void varve_close(varve_client* client) { delete client; }

const char* varve_lane(const varve_client* client) {
  return client == nullptr ? "" : client->lane.c_str();
}

varve_status varve_register(varve_client* client, void* data, size_t bytes, varve_memory** memory) {
  return Guarded([&]() -> absl::Status {
    if (client == nullptr) return NullError("client");
    if (memory == nullptr) return NullError("memory");
    return varve::client::Adopted(client->client->Register({static_cast<std::byte*>(data), bytes}),
                                  memory);
  });
}

varve_status varve_allocate(varve_client* client, size_t bytes, varve_memory** memory) {
  return Guarded([&]() -> absl::Status {
    if (client == nullptr) return NullError("client");
    if (memory == nullptr) return NullError("memory");
    return varve::client::Adopted(client->client->Allocate(bytes), memory);
  });
}

void* varve_memory_data(const varve_memory* memory) {
  return memory == nullptr ? nullptr : memory->memory->bytes().data();
}
size_t varve_memory_bytes(const varve_memory* memory) {
  return memory == nullptr ? 0 : memory->memory->bytes().size();
}
void varve_free(varve_memory* memory) { delete memory; }

varve_status varve_put(varve_client* client, const varve_put_item* items, size_t count,
                       varve_put_outcome* outcomes) {
  return Guarded([&]() -> absl::Status {
    if (client == nullptr) return NullError("client");
    if (count > 0 && (items == nullptr || outcomes == nullptr))
      return NullError("items and outcomes");
    std::vector<varve::client::PutItem> own;
    for (size_t i = 0; i < count; ++i) {
      VARVE_ASSIGN_OR_RETURN(const varve_put_item given, AdoptAt(items, i, "varve_put_item"));
      VARVE_ASSIGN_OR_RETURN(own.emplace_back(), varve::client::ToItem(given));
    }
    VARVE_ASSIGN_OR_RETURN(const auto results, client->client->Put(own));
    for (size_t i = 0; i < count; ++i)
      outcomes[i] = static_cast<varve_put_outcome>(results[i].outcome);
    varve::client::KeepFirstMessage(results);
    return absl::OkStatus();
  });
}

varve_status varve_get(varve_client* client, const varve_get_item* items, size_t count,
                       varve_get_result* results) {
  return Guarded([&]() -> absl::Status {
    if (client == nullptr) return NullError("client");
    if (count > 0 && (items == nullptr || results == nullptr))
      return NullError("items and results");
    if (count > 0)
      VARVE_RETURN_IF_ERROR(Adopt(results, results->struct_size, "varve_get_result").status());
    std::vector<varve::client::GetItem> own;
    for (size_t i = 0; i < count; ++i) {
      VARVE_ASSIGN_OR_RETURN(const varve_get_item given, AdoptAt(items, i, "varve_get_item"));
      VARVE_ASSIGN_OR_RETURN(own.emplace_back(), varve::client::ToItem(given));
    }
    VARVE_ASSIGN_OR_RETURN(const auto answers, client->client->Get(own));
    for (size_t i = 0; i < count; ++i) {
      varve::client::StoreAt(varve::client::FromResult(answers[i]), results, i);
    }
    varve::client::KeepFirstMessage(answers);
    return absl::OkStatus();
  });
}

varve_status varve_exists(varve_client* client, const varve_key* keys, size_t count,
                          uint8_t* exists) {
  return Guarded([&]() -> absl::Status {
    if (client == nullptr) return NullError("client");
    if (count > 0 && exists == nullptr) return NullError("exists");
    VARVE_ASSIGN_OR_RETURN(const auto own, varve::client::ToKeys(keys, count));
    VARVE_ASSIGN_OR_RETURN(const std::vector<bool> flags, client->client->Exists(own));
    varve::client::CopyFlags(flags, exists);
    return absl::OkStatus();
  });
}

varve_status varve_longest_prefix(varve_client* client, const varve_key* keys, size_t count,
                                  size_t* present) {
  return Guarded([&]() -> absl::Status {
    if (client == nullptr) return NullError("client");
    if (present == nullptr) return NullError("present");
    VARVE_ASSIGN_OR_RETURN(const auto own, varve::client::ToKeys(keys, count));
    VARVE_ASSIGN_OR_RETURN(*present, client->client->LongestPrefix(own));
    return absl::OkStatus();
  });
}

varve_status varve_remove(varve_client* client, const varve_key* keys, size_t count, int force,
                          uint8_t* removed) {
  return Guarded([&]() -> absl::Status {
    if (client == nullptr) return NullError("client");
    VARVE_ASSIGN_OR_RETURN(const auto own, varve::client::ToKeys(keys, count));
    VARVE_ASSIGN_OR_RETURN(const std::vector<bool> flags, client->client->Remove(own, force != 0));
    varve::client::CopyFlags(flags, removed);
    return absl::OkStatus();
  });
}

}  // extern "C"
