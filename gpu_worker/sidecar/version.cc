#include "gpu_worker/sidecar/version.h"

namespace varve::worker {

const char* const kVersion = VARVE_VERSION;
const char* const kCommit = VARVE_COMMIT;

}  // namespace varve::worker
