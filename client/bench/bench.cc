#include "client/bench/bench.h"

#include <algorithm>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/console/stop.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"

namespace varve::client {

BenchRow MakeRow(const std::string& op, const BenchOptions& options, uint64_t value_bytes,
                 uint32_t batch, uint32_t threads, const Series& series) {
  BenchRow row;
  row.op = op;
  row.transport = options.transport;
  row.value_bytes = value_bytes;
  row.batch = batch;
  row.threads = threads;
  if (value_bytes > 0) row.gb_per_s = series.rate() / 1e9;
  row.ops_per_s =
      value_bytes > 0 ? series.rate() / static_cast<double>(value_bytes) : series.rate();
  row.p50_us = Quantile(series.batch_seconds, 0.5) * 1e6;
  row.p99_us = Quantile(series.batch_seconds, 0.99) * 1e6;
  row.spread = Spread(series);
  return row;
}

absl::StatusOr<BenchStore> OpenStore(const BenchOptions& options, uint64_t capacity_bytes,
                                     const std::vector<std::string>& flags) {
  if (!options.store.empty()) return BenchStore{nullptr, options.store, ""};
  ChildProcess::Options child;
  child.stopped = &console::CheckStopped;
  child.binary = "varve-store";
  child.args = {"--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0", "--log_level=warning",
                absl::StrCat("--host_tier.capacity_bytes=", capacity_bytes)};
  constexpr char kLargest[] = "--sessions.max_object_bytes=";
  if (std::none_of(flags.begin(), flags.end(),
                   [&](const std::string& flag) { return flag.starts_with(kLargest); })) {
    child.args.push_back(absl::StrCat(kLargest, std::min<uint64_t>(capacity_bytes, 64 << 20)));
  }
  child.args.insert(child.args.end(), flags.begin(), flags.end());
  VARVE_ASSIGN_OR_RETURN(auto process, ChildProcess::Start(child));
  std::string address = process->ready("grpc"), http_address = process->ready("http");
  return BenchStore{std::move(process), std::move(address), std::move(http_address)};
}

absl::StatusOr<std::unique_ptr<Client>> OpenClient(const BenchOptions& options,
                                                   const BenchStore& store) {
  ClientOptions client;
  client.address = store.address;
  client.client_name = "varve-bench";
  client.key_namespace = "varve-bench";
  client.lanes.clear();
  if (options.transport != "inline") client.lanes.push_back(options.transport);
  VARVE_ASSIGN_OR_RETURN(auto connected, Client::Connect(client));
  if (connected->lane() != options.transport) {
    return absl::FailedPreconditionError(
        absl::StrCat("asked for ", options.transport, ", the store chose ", connected->lane()));
  }
  return connected;
}

absl::Status CheckRoom(const BenchOptions& options, Client& client, uint64_t value_bytes) {
  if (options.store.empty()) return absl::OkStatus();
  VARVE_ASSIGN_OR_RETURN(const StoreStatus status, client.Status());
  double free_bytes = 0;
  for (const TierInfo& tier : status.tiers) {
    free_bytes += std::max(0.0, static_cast<double>(tier.capacity_bytes) * tier.high_watermark -
                                    static_cast<double>(tier.used_bytes));
  }
  if (static_cast<double>(value_bytes) <= free_bytes) return absl::OkStatus();
  const std::string problem =
      absl::StrCat("the values take ", base::FormatBytes(value_bytes), ", the store at ",
                   options.store, " has ", base::FormatBytes(static_cast<uint64_t>(free_bytes)),
                   " free: others' values would be evicted");
  if (!options.force) {
    return absl::FailedPreconditionError(
        absl::StrCat(problem, "; use less (--working-set, --pages), or --force to go on"));
  }
  std::cerr << "varve-bench: warning: " << problem << '\n';
  return absl::OkStatus();
}

absl::Status CheckStored(const PutResult& result) {
  switch (result.outcome) {
    case PutOutcome::kStored:
      return absl::OkStatus();
    case PutOutcome::kExists:
      return absl::InternalError("a value was stored already");
    case PutOutcome::kNoSpace:
      return absl::ResourceExhaustedError(
          absl::StrCat("the store has no space for a value: ", result.message));
    default:
      return absl::InternalError(absl::StrCat("a value was not stored: ", result.message));
  }
}

absl::Status CheckHit(const GetResult& result) {
  if (result.hit) return absl::OkStatus();
  std::string text = absl::StrCat("a value is missing: ", MissName(result.reason));
  if (result.reason == MissReason::kEvicted)
    absl::StrAppend(&text, ", the store is too small for the working set");
  if (!result.message.empty()) absl::StrAppend(&text, ": ", result.message);
  return absl::NotFoundError(text);
}

}  // namespace varve::client
