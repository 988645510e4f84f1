// Content hashes of blocks. SHA-256, so that one tenant cannot craft a prefix that collides with
// another's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/types/span.h"

namespace varve::base {

// 32 raw bytes.
std::string Sha256(std::string_view bytes);

// Hash of a block: SHA-256(parent hash || tokens as 4-byte little-endian). The first block's parent
// is the hash of the context's namespace (any string).
std::string ChainBlockHash(std::string_view parent, absl::Span<const int32_t> tokens);

// n random bytes from the system's generator: session ids that cannot be guessed.
std::string RandomBytes(size_t n);

}  // namespace varve::base
