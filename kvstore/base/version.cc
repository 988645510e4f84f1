#include "kvstore/base/version.h"

namespace varve::base {

const char* const kVersion = VARVE_VERSION;
const char* const kCommit = VARVE_COMMIT;

std::string VersionText(std::string_view program) {
  return std::string(program) + " " + kVersion + " (" + kCommit + ")";
}

}  // namespace varve::base
