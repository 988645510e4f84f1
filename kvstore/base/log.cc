#include "kvstore/base/log.h"

#include <memory>

#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace varve::base {
namespace {

spdlog::logger& Logger() {
  // Leaked on purpose: threads may log while statics are destroyed.
  static spdlog::logger* logger = [] {
    auto* made = new spdlog::logger("varve", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%e %L %t %v");
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *logger;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kOff:
      return spdlog::level::off;
  }
  return spdlog::level::off;
}

}  // namespace

absl::Status SetLogLevel(std::string_view name) {
  for (LogLevel level :
       {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError, LogLevel::kOff}) {
    static constexpr std::string_view kNames[] = {"debug", "info", "warning", "error", "off"};
    if (name == kNames[static_cast<int>(level)]) {
      Logger().set_level(ToSpdlog(level));
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("log level '", std::string(name),
                                                 "', allowed: debug, info, warning, error, off"));
}

bool LogEnabled(LogLevel level) { return Logger().should_log(ToSpdlog(level)); }

void LogLine(LogLevel level, const std::string& text) { Logger().log(ToSpdlog(level), "{}", text); }

}  // namespace varve::base
