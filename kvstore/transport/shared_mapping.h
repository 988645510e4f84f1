// What lies behind an address range of this process.
#pragma once

#include <cstddef>
#include <span>

namespace varve::transport {

// True when the whole range lies in shared, readable and writable mappings of one and the same object, in its order.
// A peer's word about the size of its segment is checked with this before the range is touched: otherwise a lie would
// let it reach the memory mapped next to it. Thread-safe; reads /proc/self/maps.
bool IsOneSharedMapping(std::span<const std::byte> range);

}  // namespace varve::transport
