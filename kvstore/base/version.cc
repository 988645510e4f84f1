#include "kvstore/base/version.h"

namespace varve::base {

const char* const kVersion = VARVE_VERSION;
const char* const kCommit = VARVE_COMMIT;

}  // namespace varve::base
