// Checks of key rows [token][width] that low-rank keys are made of. Internal to page.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kvstore/page/dtype.h"

namespace varve::page {

// "key of token 7, channel 12 is nan, allowed: finite keys" for the first that is NaN or infinite;
// tokens count from first_token on.
std::optional<std::string> NotFinite(const void* keys, uint64_t first_token, uint32_t tokens,
                                     uint32_t width, DType dtype);

}  // namespace varve::page
