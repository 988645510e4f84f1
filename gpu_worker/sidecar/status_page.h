// The page that a person reads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/sidecar/engine_session.h"
#include "varve/v1/worker.pb.h"

namespace varve::worker {

// HTML; reloads itself.
std::string StatusPage(const varve::v1::WorkerStatus& status,
                       const std::vector<std::shared_ptr<EngineSession>>& engines, bool draining);

}  // namespace varve::worker
