#include "kvstore/page/lowrank/key_rows.h"

#include <cmath>
#include <cstddef>

#include "kvstore/page/rows.h"

namespace varve::page {

std::optional<std::string> NotFinite(const void* keys, uint64_t first_token, uint32_t tokens,
                                     uint32_t width, DType dtype) {
  const size_t count = size_t{tokens} * width;
  if (AllFinite(keys, count, dtype)) return std::nullopt;
  size_t i = 0;
  while (std::isfinite(LoadAsF32(keys, dtype, i))) ++i;
  const char* what = std::isnan(LoadAsF32(keys, dtype, i)) ? "nan" : "infinite";
  return "key of token " + std::to_string(first_token + i / width) + ", channel " +
         std::to_string(i % width) + " is " + what + ", allowed: finite keys";
}

}  // namespace varve::page
