#include "kvstore/transport/ucx_settings.h"

#include <sys/syscall.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace varve::transport {

bool ProcessesCanBeWatched() {
  static const bool can = [] {
    const int fd = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
    if (fd >= 0) close(fd);
    return fd >= 0;
  }();
  return can;
}

std::vector<std::pair<std::string, std::string>> LaneSettings(LaneKind kind,
                                                              const UcxOptions& options) {
  const bool watched = kind == LaneKind::kShm && ProcessesCanBeWatched();
  std::vector<std::pair<std::string, std::string>> settings = {
      {"KEEPALIVE_INTERVAL",
       watched ? "inf" : absl::StrCat(absl::ToInt64Milliseconds(options.keepalive), "ms")},
      // Without this a worker that is sent something while it is being made aborts the process
      // (UCX issue 7898).
      {"ADAPTIVE_PROGRESS", "n"},
      // Kernel buffers and rails of several devices for one transfer cost more than they bring on
      // one machine.
      {"MAX_RNDV_RAILS", "1"},
      // The one format that peers' addresses are checked for.
      {"ADDRESS_VERSION", "v1"},
      {"ADDRESS_DEBUG_INFO", "n"},
      {"UNIFIED_MODE", "n"},
  };
  if (!options.devices.empty() && kind != LaneKind::kShm) {
    settings.emplace_back("NET_DEVICES", absl::StrJoin(options.devices, ","));
  }
  switch (kind) {
    case LaneKind::kShm:
      // Without error handling a dead peer would never be noticed. MM is the part of posix that it
      // shares with sysv: set through ucp_config_modify the setting has that name alone. A station
      // grows by so many receive buffers of 8 KiB at a time: the default of 512 costs each session
      // 9 MB of shared memory and 14 ms.
      settings.insert(
          settings.end(),
          {{"TLS", "posix,cma"}, {"MM_ERROR_HANDLING", "y"}, {"MM_RX_BUFS_GROW", "64"}});
      break;
    case LaneKind::kTcp:
      // ucp_config_modify knows the settings of tcp without their TCP_ prefix. Eager messages are
      // copied into the segment: gathering their pieces in place (zero copy) runs into an assertion
      // of UCX 1.13.
      settings.insert(settings.end(), {{"TLS", "tcp"},
                                       {"TX_SEG_SIZE", absl::StrCat(kTcpSegmentBytes)},
                                       {"RX_SEG_SIZE", absl::StrCat(kTcpSegmentBytes)},
                                       {"ZCOPY_THRESH", "inf"},
                                       {"CONN_NB", "y"}});
      if (!options.tcp_port_range.empty())
        settings.emplace_back("PORT_RANGE", options.tcp_port_range);
      break;
    case LaneKind::kRdma:
      settings.insert(settings.end(), {{"TLS", "rc,dc,ud"}});
      break;
  }
  return settings;
}

uint64_t LaneFeatures(LaneKind kind) {
  // No RMA over tcp: emulated put/get can abort the survivor when its peer dies.
  return UCP_FEATURE_AM | UCP_FEATURE_WAKEUP | (kind == LaneKind::kTcp ? 0 : UCP_FEATURE_RMA);
}

}  // namespace varve::transport
