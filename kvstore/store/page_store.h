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

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/base/clock.h"
#include "kvstore/base/executor.h"
#include "kvstore/page/geometry.h"
#include "kvstore/page/object_key.h"
#include "kvstore/store/journal.h"
#include "kvstore/tier/host_tier.h"
#include "kvstore/tier/record_log.h"
#include "kvstore/tier/tier.h"

namespace varve::store {

enum class TierId : uint8_t { kGpu = 1, kHost = 2, kNvme = 3 };
enum class MissReason : uint8_t {
  kNeverStored = 1,
  kEvicted = 2,
  kExpired = 3,
  kIncompatible = 4,
  kCorrupt = 5,
  kFailed = 6
};

// Namespaces are interned; ids are never reused in the life of a store.
using NamespaceId = uint32_t;

// The block that an object is of: its key without the last 4 bytes. Empty for keys shorter than 8.
std::string_view BlockOf(const page::ObjectKey& key);
// Whether a block of this name can come before the key's own: it is another one, and keys can have
// it.
bool CanFollow(const page::ObjectKey& key, std::string_view parent);

struct ObjectMeta {
  uint64_t bytes = 0;
  page::ObjectLayout layout;  // num_kv_heads 0: opaque
  std::string codec = "raw";
  // Of the prompt that it was computed for, all of it: what it costs to lose (cost_policy.h). 0:
  // not known.
  uint32_t prompt_tokens = 0;
  uint32_t tokens = 0;  // whose keys and values it has; 0: not known
  // Gone from then on, unless pinned or held: then when it is let go. In whole milliseconds.
  absl::Time expires = absl::InfiniteFuture();
};

// A reserved object being filled. Destroying it without Commit gives the space back.
class PutHandle {
 public:
  using CommitDone = absl::AnyInvocable<void(absl::Status) &&>;

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
  // done: when it is as durable as the store promises, before Commit returns or later on a thread
  // of the disk or of Tick. DATA_LOSS when the checksum differs, ALREADY_EXISTS when another writer
  // was first; in both cases the space is given back. Unless checksummed() it reads: call it off
  // the transport threads.
  virtual void Commit(std::optional<uint32_t> expected_crc32c, CommitDone done) = 0;
};

// A pinned object being read.
class GetHandle {
 public:
  using LoadDone = absl::AnyInvocable<void(absl::Status) &&>;

  virtual ~GetHandle() = default;
  // Without `expires`: another put may be prolonging it.
  virtual const ObjectMeta& meta() const = 0;
  // Where it is read from.
  virtual TierId tier() const = 0;
  virtual uint32_t crc32c() const = 0;
  // Whether its bytes are in memory: from the start for host memory, else after Load.
  virtual bool loaded() const = 0;
  // Brings the range into memory; done here when it is there already, else on a thread of the disk
  // or of Tick. Once at most, and the handle must live until done. INVALID_ARGUMENT for a range
  // that is not in the object, NOT_FOUND when it was removed meanwhile, DATA_LOSS when the disk
  // failed (the record has been dropped), DEADLINE_EXCEEDED when the disk has not answered by then.
  virtual void Load(const page::ObjectRange& range, absl::Time deadline, LoadDone done) = 0;
  // Takes what was loaded out of the memory that all reads share, for a reader that may be slow.
  virtual void Unstage() = 0;
  // The whole object. REQUIRES: loaded, all of it.
  virtual std::span<const std::byte> memory() const = 0;
  // Bytes of the loaded range.
  virtual std::span<const std::byte> Bytes(const page::Extent& extent) const = 0;
  // Checks the bytes of the loaded range, or of a part of it, against the checksums taken at Commit
  // (granules: one part of one head; 64 KiB for opaque objects). On DATA_LOSS the copy that it read
  // from has been dropped and counted, and with the last copy the object.
  virtual absl::Status Verify(const page::ObjectRange& range) = 0;
  // Copies from Bytes() and computes the checksums in the same pass: Verify then tells whether the
  // copy is good, and need not read granules copied front to back.
  virtual void CopyTo(void* to, const void* from, size_t count) = 0;
};

struct Miss {
  MissReason reason = MissReason::kNeverStored;
};

struct ObjectRow {
  page::ObjectKey key;
  ObjectMeta meta;
  TierId tier = TierId::kHost;  // the fastest that has it
  bool on_disk = false;
  uint32_t pins = 0;
  uint32_t crc32c = 0;
  absl::Duration idle;  // since its last use; of what was recovered: since that, at most
};

enum class Prefetched : uint8_t {
  kInMemory = 1,
  kBegun = 2,
  kBusy = 3,  // too many are on their way
  kNotStored = 4,
};

// Objects that left the store to make room. Monotonic.
struct EvictionCounters {
  uint64_t evicted_objects = 0;
  uint64_t evicted_bytes = 0;
  double last_evicted_idle_seconds = 0;
  // Of them lost to make room although more of their prompt is stored: nothing else could leave.
  uint64_t cut_objects = 0;
};

struct EvictedMatching {
  uint64_t objects = 0;
  uint64_t bytes = 0;
  uint64_t kept = 0;  // objects that match and are guarded by pins, holds or open handles
};

struct PageStoreUsage {
  tier::TierUsage host;
  uint64_t objects = 0;       // each once, wherever it is
  uint64_t object_bytes = 0;  // likewise
  uint64_t host_objects = 0;
  uint64_t pinned_bytes = 0;  // of host memory, by objects with pins or open handles
  EvictionCounters eviction;
  uint64_t checksum_failures = 0;  // in host memory

  struct Disk {
    tier::LogUsage log;
    uint64_t objects = 0;
    uint64_t pinned_bytes = 0;  // by objects with pins, holds or open handles
    EvictionCounters eviction;  // from the disk, whether or not a copy in host memory remains
    uint64_t checksum_failures = 0;
    uint64_t queued_objects = 0;     // to be written
    uint64_t queued_bytes = 0;       // likewise, those being written included
    uint64_t promoting_objects = 0;  // to be read into host memory
    uint64_t read_errors = 0;        // objects that the disk did not give
    uint64_t write_errors = 0;       // objects that it did not take
    uint64_t lost_notes = 0;         // of the journal: not written, or dropped
    uint64_t note_bytes = 0;         // on disk
    uint64_t recovered_objects = 0;
    double recovery_seconds = 0;
  };
  std::optional<Disk> disk;
};

// What an acknowledged Put means.
enum class Durability : uint8_t {
  kMemory,     // the object is in host memory; it is written to disk when it has to leave
  kNvmeAsync,  // ... and is being written to disk: a crash loses what was put last
  kNvmeSync,   // the object is on disk, and the device has said so
};

// Why an object was written to another tier: to the disk for the first two.
enum class MoveCause : uint8_t { kPut, kDemote, kPromote, kPrefetch };

// The disks under the host tier. Everything outlives the store.
struct DiskOptions {
  tier::RecordLog* log = nullptr;
  // Memory for what is read for a Get and not kept: a tier of its own, aligned for the log's reads.
  tier::Tier* staging = nullptr;
  // Where promotions are checked and demotions go on: not a thread of the log.
  base::Executor* executor = nullptr;
  Durability durability = Durability::kMemory;
  std::string eviction = "lru";
  double low_watermark = 0.90;  // of what the log can use
  double high_watermark = 0.95;
  double notes_share = 0.25;  // of what the log can use, for notes of contexts at most
  uint32_t promote_uses = 2;  // of an object on disk, before it returns to host memory; 0: never
  uint64_t max_pending_bytes = 64 << 20;  // given to the log and not yet written
  // A put or a removal waits for the disk no longer (kNvmeSync): DEADLINE_EXCEEDED from Tick; what
  // was put is stored or not, what was removed is gone while this process lives.
  absl::Duration max_write_wait = absl::Seconds(10);
};

struct PageStoreOptions {
  std::string eviction = "lru";       // registry: eviction_policy.h
  double low_watermark = 0.85;        // of the capacity: eviction stops here ...
  double high_watermark = 0.95;       // ... and starts here, or whenever a reservation does not fit
  uint32_t evicted_memory = 1 << 16;  // keys remembered to tell "evicted" from "never stored"
  uint64_t max_object_bytes = 64ull << 20;
  uint32_t max_namespaces = 1 << 16;
  std::optional<DiskOptions> disk;
  // For metrics; called outside locks.
  // An object has left the tier, and the store unless another tier has it, to make room.
  std::function<void(TierId tier, uint64_t bytes, double idle_seconds)> on_evicted;
  // So many bytes were written to another tier.
  std::function<void(MoveCause cause, uint64_t bytes)> on_moved;
};

class PageStore {
 public:
  // host must outlive the store. With a disk: recovers what is on it. INVALID_ARGUMENT for unknown
  // policies and watermarks out of order; or the log's error.
  static absl::StatusOr<std::unique_ptr<PageStore>> Create(tier::HostTier* host,
                                                           const PageStoreOptions& options,
                                                           const base::Clock* clock);
  virtual ~PageStore() = default;

  // RESOURCE_EXHAUSTED over max_namespaces: ids are never given back.
  virtual absl::StatusOr<NamespaceId> InternNamespace(std::string_view name) = 0;
  // Of an id that InternNamespace answered.
  virtual std::string NamespaceName(NamespaceId ns) const = 0;
  // At most limit, from the one with this id on (1: the first); ids have no gaps.
  virtual std::vector<std::string> ListNamespaces(NamespaceId first, size_t limit) const = 0;

  // ALREADY_EXISTS when the key is resident; RESOURCE_EXHAUSTED when eviction cannot make room (the
  // message says how much is pinned): the cache is then at most evicted to its low watermark;
  // UNAVAILABLE when objects are on their way to disk, and there will be room (AwaitRoom). What
  // fits no hole evicts the cheapest neighbours, whatever the policy says of them, and the
  // beginning of a chain only where nothing else will do. INVALID_ARGUMENT for sizes out of range,
  // a layout that does not match, an unknown codec, a parent that is the object's own block or
  // cannot be one. parent: the block (as in Hold) that comes before the object's own in its prompt:
  // what is stored of a chain of blocks loses its end first. Empty: none, or not known. Of what the
  // objects of a block say, the first counts; what would close a circle does not, nor, in a chain
  // that is longer than 4096 blocks, what closes a gap.
  // Where the answer, here or of Commit, is ALREADY_EXISTS, the object that is there expires at the
  // later of the two times: in memory, a record that it has keeps its own.
  virtual absl::StatusOr<std::unique_ptr<PutHandle>> Reserve(NamespaceId ns,
                                                             const page::ObjectKey& key,
                                                             const ObjectMeta& meta,
                                                             std::string_view parent) = 0;
  absl::StatusOr<std::unique_ptr<PutHandle>> Reserve(NamespaceId ns, const page::ObjectKey& key,
                                                     const ObjectMeta& meta) {
    return Reserve(ns, key, meta, {});
  }
  // After UNAVAILABLE: `done` on some thread, once, when there may be room for so many bytes, and
  // at `deadline` at the latest. Who has the earliest deadline comes first, so an object that
  // waits again with the deadline that it had keeps its turn among those who wait.
  virtual void AwaitRoom(uint64_t bytes, absl::Time deadline, base::Task done) = 0;
  // ALREADY_EXISTS was the answer: done when that object is as durable as the store promises, or
  // with why it is not; the object stays what it was, unless its own Put still waits.
  virtual void AwaitDurable(NamespaceId ns, const page::ObjectKey& key,
                            PutHandle::CommitDone done) = 0;
  // A handle, or why not. Touches the eviction policies.
  virtual std::unique_ptr<GetHandle> Acquire(NamespaceId ns, const page::ObjectKey& key,
                                             Miss* miss) = 0;
  // Handles of those objects whose bytes are in host memory, null for the others; no use of them:
  // policies do not hear of it. The lock is released every 128 keys.
  virtual std::vector<std::unique_ptr<GetHandle>> Peek(NamespaceId ns,
                                                       std::span<const page::ObjectKey> keys) = 0;
  // Destroys handles of this store, null ones too, with a lock for 128 of them instead of for each.
  virtual void CloseAll(std::vector<std::unique_ptr<GetHandle>> handles) = 0;
  // One more handle for the same use of an object.
  virtual std::unique_ptr<GetHandle> AcquireAgain(NamespaceId ns, const page::ObjectKey& key) = 0;

  virtual bool Exists(NamespaceId ns, const page::ObjectKey& key) const = 0;
  // False: not stored, or pinned or held and not forced. Open handles keep their bytes.
  virtual bool Remove(NamespaceId ns, const page::ObjectKey& key, bool force) = 0;
  // The same for several keys; done when they are gone for good, as far as the store promises, also
  // those that had gone before: here, or on a thread of the disk. Its status tells whether that is
  // so, whatever was removed from sight.
  using RemoveDone = absl::AnyInvocable<void(absl::Status, std::vector<bool> removed) &&>;
  virtual void RemoveAll(NamespaceId ns, std::span<const page::ObjectKey> keys, bool force,
                         RemoveDone done) = 0;

  // Pins by owner (a session). Infinite ttl: a hard pin, counted, Unpin takes one back. Finite ttl:
  // a soft pin, one per object and owner, that lapses by itself; pinning again can only prolong it,
  // and Unpin takes it back after the hard ones. False: not stored, or ttl <= 0; Unpin: not pinned
  // by this owner.
  virtual bool Pin(NamespaceId ns, const page::ObjectKey& key, uint64_t owner,
                   absl::Duration ttl) = 0;
  virtual bool Unpin(NamespaceId ns, const page::ObjectKey& key, uint64_t owner) = 0;
  virtual void UnpinAll(uint64_t owner) = 0;

  // Holds: keep every object of a block from eviction, stored already or later. Counted; attached
  // contexts hold their blocks. O(1) a block, however many objects it has; the lock is released
  // every 128 blocks.
  virtual void Hold(NamespaceId ns, std::span<const std::string> block_hashes) = 0;
  virtual void Release(NamespaceId ns, std::span<const std::string> block_hashes) = 0;

  // Objects with keys > after (empty: from the start) and the prefix, ascending, at most limit;
  // not those that Exists denies because they have expired.
  // More may exist when the result is full. O(log n + limit), the lock is released every 256 rows:
  // objects that come and go meanwhile may or may not be listed.
  virtual std::vector<ObjectRow> List(NamespaceId ns, std::string_view prefix,
                                      std::string_view after, size_t limit) const = 0;
  // Evicts the unguarded objects of a namespace with this key prefix (empty: all), whatever the
  // policy says; the lock is released every 256 objects. NOT_FOUND: nobody has interned the
  // namespace.
  virtual absl::StatusOr<EvictedMatching> EvictMatching(std::string_view ns_name,
                                                        std::string_view prefix) = 0;
  // Begins to bring objects of the disk into host memory, where room can be made for them. One
  // answer for each key.
  virtual std::vector<Prefetched> Prefetch(NamespaceId ns,
                                           std::span<const page::ObjectKey> keys) = 0;
  // Looks after what waits for time, objects that expire too. To be called now and then.
  virtual void Tick() = 0;
  // done when everything that is in host memory now is on disk as well: OK, or what kept objects
  // from being written meanwhile (UNAVAILABLE: no directory takes writes). Without a disk at once.
  virtual void Flush(PutHandle::CommitDone done) = 0;
  // Nobody waits for the disk any more: who does is answered UNAVAILABLE, now and from now on.
  virtual void StopWaiting() = 0;
  // Changes the size of host memory, and calls done when that has so much and, when it has become
  // less, the rest is the system's again: what is pinned moves, and waits for handles and for the
  // disk are Tick's. May take seconds itself. INVALID_ARGUMENT for less than the largest object or
  // more than the tier may have, FAILED_PRECONDITION for less than what is pinned,
  // RESOURCE_EXHAUSTED when the system has no memory: then nothing has changed. ABORTED when
  // another call came before this was done; UNAVAILABLE when the store ends, or another call is at
  // it at this moment.
  using ResizeDone = absl::AnyInvocable<void(absl::Status) &&>;
  virtual void ResizeHost(uint64_t capacity_bytes, ResizeDone done) = 0;
  // Null without a disk.
  virtual Journal* journal() = 0;
  virtual PageStoreUsage Usage() const = 0;
};

}  // namespace varve::store
