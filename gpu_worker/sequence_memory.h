// What sequences hold of a worker's memory, by kind.
#pragma once

#include <array>
#include <cstdint>

namespace varve::worker {

// Bytes over all layers and KV heads. Exact sums of what is kept, K and V of a resident page as one
// slot of the pool; scratch and bookkeeping are not counted.
struct SequenceMemory {
  uint64_t rows = 0;      // low-rank keys (A)
  uint64_t basis = 0;     // their subspaces (B)
  uint64_t gram = 0;      // what subspaces are made from
  uint64_t digests = 0;   // of all full pages; of kind mean they are landmarks
  uint64_t outliers = 0;  // pages that low-rank keys tell badly: always attended to, whole
  uint64_t window = 0;    // other pages that are always attended to
  uint64_t hot = 0;       // resident pages among which the policy chooses

  uint64_t total() const { return rows + basis + gram + digests + outliers + window + hot; }
};

struct MemoryKind {
  const char* name;
  uint64_t SequenceMemory::*bytes;
};
inline constexpr std::array<MemoryKind, 7> kMemoryKinds = {{
    {"rows", &SequenceMemory::rows},
    {"basis", &SequenceMemory::basis},
    {"gram", &SequenceMemory::gram},
    {"digests", &SequenceMemory::digests},
    {"outliers", &SequenceMemory::outliers},
    {"window", &SequenceMemory::window},
    {"hot", &SequenceMemory::hot},
}};

}  // namespace varve::worker
