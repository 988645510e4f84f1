#include "client/bench/fio_peer.h"

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/console/stop.h"
#include "client/process/child_process.h"
#include "kvstore/base/status.h"
#include "nlohmann/json.hpp"

namespace varve::client {
namespace {

constexpr char kFio[] = "/usr/bin/fio";

ChildProcess::Options Command(const FioJob& job, const std::string& report) {
  ChildProcess::Options command;
  command.binary = kFio;
  command.args = {"--name=varve-bench",
                  "--output-format=json",
                  absl::StrCat("--output=", report),
                  absl::StrCat("--filename=", job.path),
                  absl::StrCat("--size=", job.file_bytes),
                  job.read ? "--rw=randread" : "--rw=write",
                  absl::StrCat("--bs=", job.block_bytes),
                  absl::StrCat("--iodepth=", job.depth),
                  absl::StrCat("--runtime=", std::llround(job.seconds * 1000), "ms"),
                  "--time_based=1",
                  "--ioengine=io_uring",
                  "--direct=1",
                  "--fixedbufs=1",
                  "--registerfiles=1",
                  "--fallocate=none",
                  "--randrepeat=0",
                  "--norandommap=1",
                  "--thread=1"};
  command.wait_ready = false;
  return command;
}

absl::StatusOr<int> WaitUnlessStopped(ChildProcess& fio) {
  while (true) {
    VARVE_RETURN_IF_ERROR(console::CheckStopped());
    const auto code = fio.Wait(absl::Milliseconds(200));
    if (!absl::IsDeadlineExceeded(code.status())) return code;
  }
}

absl::StatusOr<FioResult> ParseReport(const std::string& path, bool read) {
  std::ifstream file(path);
  const auto report = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  const nlohmann::json::json_pointer job(read ? "/jobs/0/read" : "/jobs/0/write");
  const auto number = [&](const char* field) {
    const nlohmann::json::json_pointer at = job / nlohmann::json::json_pointer(field);
    return report.is_object() && report.contains(at) && report.at(at).is_number()
               ? report.at(at).get<double>()
               : 0.0;
  };
  FioResult result;
  result.bytes_per_second = number("/bw_bytes");
  result.p50_seconds = number("/clat_ns/percentile/50.000000") / 1e9;
  result.p99_seconds = number("/clat_ns/percentile/99.000000") / 1e9;
  if (result.bytes_per_second > 0 && result.p50_seconds > 0 && result.p99_seconds > 0)
    return result;
  return absl::InternalError("fio's report has no bandwidth or no latencies");
}

absl::StatusOr<FioResult> RunWithReport(const FioJob& job, const std::string& report) {
  VARVE_ASSIGN_OR_RETURN(const auto fio, ChildProcess::Start(Command(job, report)));
  VARVE_ASSIGN_OR_RETURN(const int code, WaitUnlessStopped(*fio));
  if (code != 0) return absl::InternalError(absl::StrCat("fio ended with code ", code));
  return ParseReport(report, job.read);
}

}  // namespace

absl::Status CheckFio() {
  if (access(kFio, X_OK) == 0) return absl::OkStatus();
  return absl::NotFoundError("fio is not installed (apt-get install fio)");
}

absl::StatusOr<FioResult> RunFio(const FioJob& job) {
  VARVE_RETURN_IF_ERROR(CheckFio());
  const std::string report = job.path + ".fio.json";
  auto result = RunWithReport(job, report);
  std::error_code ignored;
  std::filesystem::remove(report, ignored);
  return result;
}

}  // namespace varve::client
