#include "kvstore/server/version.h"

namespace varve::server {

const char* const kVersion = VARVE_VERSION;
const char* const kCommit = VARVE_COMMIT;

}  // namespace varve::server
