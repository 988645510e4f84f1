#include "kvstore/transport/ucx_handles.h"

#include <ucs/debug/log_def.h>

#include <cstdarg>
#include <cstdio>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"

namespace varve::transport {
namespace {

ucs_log_func_rc_t LogFromUcx(const char* file, unsigned line, const char* /*function*/,
                             ucs_log_level_t level, const ucs_log_component_config_t* component,
                             const char* format, va_list args) {
  if (level > component->log_level) return UCS_LOG_FUNC_RC_STOP;
  const auto to = level <= UCS_LOG_LEVEL_ERROR ? base::LogLevel::kWarning : base::LogLevel::kDebug;
  if (base::LogEnabled(to)) {
    char text[512];
    vsnprintf(text, sizeof(text), format, args);
    base::LogLine(to, absl::StrCat("ucx: ", text, " (", file, ":", line, ")"));
  }
  return UCS_LOG_FUNC_RC_STOP;
}

struct ConfigDeleter {
  void operator()(ucp_config_t* config) const { ucp_config_release(config); }
};

}  // namespace

absl::Status FromUcs(ucs_status_t status, std::string_view what) {
  if (status == UCS_OK) return absl::OkStatus();
  const std::string text = absl::StrCat(base::Sv(what), ": ", ucs_status_string(status));
  switch (status) {
    case UCS_ERR_CANCELED:
      return absl::CancelledError(text);
    case UCS_ERR_NO_MEMORY:
    case UCS_ERR_NO_RESOURCE:
      return absl::ResourceExhaustedError(text);
    case UCS_ERR_INVALID_PARAM:
    case UCS_ERR_INVALID_ADDR:
      return absl::InvalidArgumentError(text);
    default:
      return absl::UnavailableError(text);
  }
}

void RouteUcxLog() {
  static std::once_flag once;
  std::call_once(once, [] { ucs_log_push_handler(LogFromUcx); });
}

absl::StatusOr<UcxContext> MakeUcxContext(
    const std::vector<std::pair<std::string, std::string>>& settings, uint64_t features) {
  ucp_config_t* read = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &read);
  if (status != UCS_OK) return FromUcs(status, "ucp_config_read");
  const std::unique_ptr<ucp_config_t, ConfigDeleter> config(read);
  for (const auto& [name, value] : settings) {
    status = ucp_config_modify(config.get(), name.c_str(), value.c_str());
    if (status != UCS_OK) return FromUcs(status, absl::StrCat("UCX setting ", name, "=", value));
  }
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
  params.features = features;
  params.mt_workers_shared = 1;
  ucp_context_h context = nullptr;
  status = ucp_init(&params, config.get(), &context);
  if (status != UCS_OK) return FromUcs(status, "ucp_init");
  return UcxContext(context);
}

absl::StatusOr<UcxWorker> MakeUcxWorker(ucp_context_h context) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_MULTI;
  ucp_worker_h worker = nullptr;
  const ucs_status_t status = ucp_worker_create(context, &params, &worker);
  if (status != UCS_OK) return FromUcs(status, "ucp_worker_create");
  return UcxWorker(worker);
}

absl::StatusOr<std::string> UcxWorkerAddress(ucp_worker_h worker) {
  ucp_address_t* address = nullptr;
  size_t length = 0;
  const ucs_status_t status = ucp_worker_get_address(worker, &address, &length);
  if (status != UCS_OK) return FromUcs(status, "ucp_worker_get_address");
  std::string bytes(reinterpret_cast<const char*>(address), length);
  ucp_worker_release_address(worker, address);
  return bytes;
}

absl::StatusOr<UcxMemory> UcxMemory::Map(ucp_context_h context, void* address, size_t bytes) {
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_FLAGS |
                      UCP_MEM_MAP_PARAM_FIELD_ADDRESS;
  params.address = address;
  params.length = bytes;
  params.flags = address == nullptr ? UCP_MEM_MAP_ALLOCATE : 0;
  ucp_mem_h memory = nullptr;
  ucs_status_t status = ucp_mem_map(context, &params, &memory);
  if (status != UCS_OK) return FromUcs(status, absl::StrCat("mapping ", bytes, " bytes"));
  UcxMemory mapped(context, memory);
  ucp_mem_attr_t attributes{};
  attributes.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS;
  status = ucp_mem_query(memory, &attributes);
  if (status != UCS_OK) return FromUcs(status, "ucp_mem_query");
  mapped.address_ = attributes.address;
  return mapped;
}

UcxMemory::~UcxMemory() {
  if (memory_ != nullptr) ucp_mem_unmap(context_, memory_);
}

absl::StatusOr<std::string> UcxMemory::PackKey() const {
  void* buffer = nullptr;
  size_t length = 0;
  const ucs_status_t status = ucp_rkey_pack(context_, memory_, &buffer, &length);
  if (status != UCS_OK) return FromUcs(status, "ucp_rkey_pack");
  std::string key(static_cast<const char*>(buffer), length);
  ucp_rkey_buffer_release(buffer);
  return key;
}

}  // namespace varve::transport
