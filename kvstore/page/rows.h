// Checks over runs of elements. Thread-safe.
#pragma once

#include <cstddef>

#include "kvstore/page/dtype.h"

namespace varve::page {

// True when any of `count` elements is NaN.
bool HasNaN(const void* data, size_t count, DType dtype);
// True when no element is NaN or infinite.
bool AllFinite(const void* data, size_t count, DType dtype);
// Greatest magnitude of `count` elements, none of them NaN; 0 of none.
float MaxMagnitude(const void* data, size_t count, DType dtype);

}  // namespace varve::page
