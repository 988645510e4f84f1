// Everything a worker test stands on: a store (fake, embedded or a process of its own), a client,
// and the memory of the page pool, so that tests can look into the slots.
#pragma once

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/client.h"
#include "gpu_worker/worker.h"

namespace varve::testing {

// A store and how workers reach it.
class StoreSetup {
 public:
  virtual ~StoreSetup() = default;
  // A new client of the store; valid as long as the setup.
  virtual absl::StatusOr<client::Client*> Connect() = 0;
  // Of a store that is a process; empty otherwise.
  virtual std::string address() const { return ""; }
  virtual std::string lane() const { return ""; }
};

struct WorkerSetting {
  std::string name;   // of the parametrised test
  std::string store;  // "fake", "embedded", "shm", "tcp"
  bool sidecar = false;
  worker::RecallPath path = worker::RecallPath::kWorker;
};
inline void PrintTo(const WorkerSetting& setting, std::ostream* out) { *out << setting.name; }
std::vector<WorkerSetting> AllSettings();

absl::StatusOr<std::unique_ptr<StoreSetup>> MakeStore(const std::string& store);

// A worker of the setting's form, with a page pool of `pages` pages. Owns everything but the store.
class WorkerUnderTest {
 public:
  virtual ~WorkerUnderTest() = default;
  virtual worker::Worker* worker() = 0;
  // The pool's memory, as an engine sees it.
  virtual std::span<const std::byte> pool() const = 0;
};
absl::StatusOr<std::unique_ptr<WorkerUnderTest>> MakeWorker(const WorkerSetting& setting,
                                                            StoreSetup* store,
                                                            worker::WorkerOptions options,
                                                            uint32_t pages);

}  // namespace varve::testing
