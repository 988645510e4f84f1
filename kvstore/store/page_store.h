// The object store: which object is where, and who may move or drop it.
//
// Objects are immutable values under (namespace, key). Writers reserve, fill and commit: nothing
// half-written is ever visible, and of two writers of one key the first to commit wins. Readers
// hold a handle that pins the object's bytes; an object that is removed or evicted meanwhile
// disappears from the index at once and its slot is freed with the last handle. States of an entry:
// Reserved -> Resident <-> Moving -> gone (object_index.h).
//
// Threads: all methods of PageStore may be called from any thread; a handle is used by one thread
// at a time. Handles must not outlive the store. No method blocks on I/O.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/base/clock.h"
#include "kvstore/page/geometry.h"
#include "kvstore/page/object_key.h"
#include "kvstore/tier/tier.h"

namespace varve::store {

enum class TierId : uint8_t { kGpu = 1, kHost = 2, kNvme = 3 };
enum class MissReason : uint8_t {
  kNeverStored = 1,
  kEvicted = 2,
  kIncompatible = 4,
  kCorrupt = 5,
  kFailed = 6
};

// Namespaces are interned; ids are never reused in the life of a store.
using NamespaceId = uint32_t;

struct ObjectMeta {
  uint64_t bytes = 0;
  page::ObjectLayout layout;  // num_kv_heads 0: opaque
  std::string codec = "raw";
};

// A reserved object being filled. Destroying it without Commit gives the space back.
class PutHandle {
 public:
  virtual ~PutHandle() = default;
  // Where the value goes, meta.bytes long: for a device. What the processor copies is better given
  // to CopyFrom.
  virtual std::span<std::byte> memory() = 0;
  // Copies to memory() + offset and computes the checksums in the same pass: those of pieces (see
  // Verify) copied front to back Commit need not read. REQUIRES: it fits.
  virtual void CopyFrom(uint64_t offset, const void* bytes, size_t count) = 0;
  // Whether Commit need not read anything.
  virtual bool checksummed() const = 0;
  // Computes the checksum, compares it with `expected` when given, and makes the object visible.
  // DATA_LOSS when the checksum differs, ALREADY_EXISTS when another writer was first; in both
  // cases the space is given back. Unless checksummed() it reads: call it off the transport
  // threads.
  virtual absl::Status Commit(std::optional<uint32_t> expected_crc32c) = 0;
};

// A pinned object being read.
class GetHandle {
 public:
  virtual ~GetHandle() = default;
  virtual const ObjectMeta& meta() const = 0;
  virtual TierId tier() const = 0;
  virtual uint32_t crc32c() const = 0;
  virtual std::span<const std::byte> memory() const = 0;
  // Checks the bytes of the range against the checksums taken at Commit (granules: one part of one
  // head; 64 KiB for opaque objects). On DATA_LOSS the object has been dropped and counted.
  virtual absl::Status Verify(const page::ObjectRange& range) = 0;
  // Copies from memory() + offset and computes the checksums in the same pass: Verify then tells
  // whether the copy is good, and need not read granules copied front to back. REQUIRES: it is in
  // the object.
  virtual void CopyTo(uint64_t offset, void* bytes, size_t count) = 0;
};

struct Miss {
  MissReason reason = MissReason::kNeverStored;
};

struct ObjectRow {
  page::ObjectKey key;
  ObjectMeta meta;
  TierId tier = TierId::kHost;
  uint32_t pins = 0;
  uint32_t crc32c = 0;
};

struct EvictionCounters {  // monotonic
  uint64_t evicted_objects = 0;
  uint64_t evicted_bytes = 0;
  double last_evicted_idle_seconds = 0;
};

struct EvictedMatching {
  uint64_t objects = 0;
  uint64_t bytes = 0;
  uint64_t kept = 0;  // objects that match and are guarded by pins, holds or open handles
};

struct PageStoreUsage {
  tier::TierUsage host;
  uint64_t objects = 0;
  uint64_t object_bytes = 0;
  uint64_t pinned_bytes = 0;  // used by objects with pins, holds or open handles
  EvictionCounters eviction;
  uint64_t checksum_failures = 0;
};

struct PageStoreOptions {
  std::string eviction = "lru";       // registry: eviction_policy.h
  double low_watermark = 0.85;        // of the capacity: eviction stops here ...
  double high_watermark = 0.95;       // ... and starts here, or whenever a reservation does not fit
  uint32_t evicted_memory = 1 << 16;  // keys remembered to tell "evicted" from "never stored"
  uint64_t max_object_bytes = 64ull << 20;
  uint32_t max_namespaces = 1 << 16;
  // Called for each object that was evicted to make room, outside locks: bytes and seconds since the
  // last use (metrics).
  std::function<void(uint64_t bytes, double idle_seconds)> on_evicted;
};

class PageStore {
 public:
  // host must outlive the store. INVALID_ARGUMENT for unknown policies and watermarks out of order.
  static absl::StatusOr<std::unique_ptr<PageStore>> Create(tier::Tier* host,
                                                           const PageStoreOptions& options,
                                                           const base::Clock* clock);
  virtual ~PageStore() = default;

  // RESOURCE_EXHAUSTED over max_namespaces: ids are never given back.
  virtual absl::StatusOr<NamespaceId> InternNamespace(std::string_view name) = 0;

  // ALREADY_EXISTS when the key is resident; RESOURCE_EXHAUSTED when eviction cannot make room (the
  // message says how much is pinned): the cache is then at most evicted to its low watermark. What
  // fits no hole evicts the cheapest neighbours, whatever the policy says of them. INVALID_ARGUMENT
  // for sizes out of range, a layout that does not match, an unknown codec.
  virtual absl::StatusOr<std::unique_ptr<PutHandle>> Reserve(NamespaceId ns,
                                                             const page::ObjectKey& key,
                                                             const ObjectMeta& meta) = 0;
  // A handle, or why not. Touches the eviction policy.
  virtual std::unique_ptr<GetHandle> Acquire(NamespaceId ns, const page::ObjectKey& key,
                                             Miss* miss) = 0;

  virtual bool Exists(NamespaceId ns, const page::ObjectKey& key) const = 0;
  // False: not stored, or pinned or held and not forced. Open handles keep their bytes.
  virtual bool Remove(NamespaceId ns, const page::ObjectKey& key, bool force) = 0;

  // Pins by owner (a session). Infinite ttl: a hard pin, counted, Unpin takes one back. Finite ttl:
  // a soft pin, one per object and owner, that lapses by itself; pinning again can only prolong it,
  // and Unpin takes it back after the hard ones. False: not stored, or ttl <= 0; Unpin: not pinned
  // by this owner.
  virtual bool Pin(NamespaceId ns, const page::ObjectKey& key, uint64_t owner,
                   absl::Duration ttl) = 0;
  virtual bool Unpin(NamespaceId ns, const page::ObjectKey& key, uint64_t owner) = 0;
  virtual void UnpinAll(uint64_t owner) = 0;

  // Holds: keep every object of a block (its group: the key without the 4-byte layer suffix; keys
  // shorter than 8 bytes have none) from eviction, stored already or later. Counted; attached
  // contexts hold their blocks. O(1) a block, however many objects it has; the lock is released
  // every 128 blocks.
  virtual void Hold(NamespaceId ns, std::span<const std::string> block_hashes) = 0;
  virtual void Release(NamespaceId ns, std::span<const std::string> block_hashes) = 0;

  // Objects with keys > after (empty: from the start) and the prefix, ascending, at most limit.
  // More may exist when the result is full. O(log n + limit), the lock is released every 256 rows:
  // objects that come and go meanwhile may or may not be listed.
  virtual std::vector<ObjectRow> List(NamespaceId ns, std::string_view prefix,
                                      std::string_view after, size_t limit) const = 0;
  // Evicts the unguarded objects of a namespace with this key prefix (empty: all), whatever the
  // policy says; the lock is released every 256 objects. NOT_FOUND: nobody has interned the
  // namespace.
  virtual absl::StatusOr<EvictedMatching> EvictMatching(std::string_view ns_name,
                                                        std::string_view prefix) = 0;
  virtual PageStoreUsage Usage() const = 0;
};

}  // namespace varve::store
