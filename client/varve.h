/* The C interface of a varve-store's client: libvarve.so, C11.
 *
 * Threads: a client may be used from any thread; every call blocks until it is answered. No call
 * may be running at varve_close. A varve_memory or varve_recall_result may be read from any thread.
 *
 * Ownership: whatever a function creates is freed once, by the function named there. Memory is
 * freed before its client.
 *
 * Transfers: the store reads from (put) and writes into (get, recall) registered memory while the
 * call runs. After a call that ended with VARVE_DEADLINE_EXCEEDED or VARVE_UNAVAILABLE, or whose
 * item failed, bytes may still land in its destinations: do not reuse them before varve_free.
 *
 * Errors: every call answers a varve_status; varve_last_error is its text. A miss is a result, not
 * an error.
 *
 * fork(): a child must not use a client of its parent; connect again.
 *
 * Growth: structs begin with struct_size, which the caller sets to sizeof of the struct it was
 * compiled with. Arrays of such structs have the stride of their first element's struct_size.
 * Fields are only ever added at the end, and zero is the default of each.
 */
#ifndef VARVE_CLIENT_VARVE_H_
#define VARVE_CLIENT_VARVE_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define VARVE_API __attribute__((visibility("default")))
#else
#define VARVE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- status: the numbers of gRPC's codes */

typedef enum varve_status {
  VARVE_OK = 0,
  VARVE_CANCELLED = 1,
  VARVE_UNKNOWN = 2,
  VARVE_INVALID_ARGUMENT = 3,
  VARVE_DEADLINE_EXCEEDED = 4,
  VARVE_NOT_FOUND = 5,
  VARVE_ALREADY_EXISTS = 6,
  VARVE_PERMISSION_DENIED = 7,
  VARVE_RESOURCE_EXHAUSTED = 8,
  VARVE_FAILED_PRECONDITION = 9,
  VARVE_ABORTED = 10,
  VARVE_OUT_OF_RANGE = 11,
  VARVE_UNIMPLEMENTED = 12,
  VARVE_INTERNAL = 13,
  VARVE_UNAVAILABLE =
      14, /* the store cannot be reached or the session was lost; the next call reconnects */
  VARVE_DATA_LOSS = 15,
  VARVE_UNAUTHENTICATED = 16
} varve_status;

/* "OK", "NOT_FOUND" ...; "UNKNOWN" for other numbers. */
VARVE_API const char* varve_status_name(varve_status status);
/* Text of this thread's last call that did not answer VARVE_OK; valid until its next one. Never
 * null. */
VARVE_API const char* varve_last_error(void);
VARVE_API const char* varve_version(void);

/* ---- client */

typedef struct varve_client varve_client;

typedef struct varve_options {
  size_t struct_size;
  const char* address;       /* host:port or unix:/path; null: 127.0.0.1:7411 */
  const char* client_name;   /* null: "client" */
  const char* key_namespace; /* objects are visible only inside; null: "default" */
  const char*
      lanes; /* in order of preference; null: "rdma,shm,tcp"; "": values inside gRPC messages */
  uint32_t connect_timeout_ms;   /* 0: 10000 */
  uint32_t transfer_deadline_ms; /* 0: 10000 */
} varve_options;
#define VARVE_OPTIONS_INIT \
  { sizeof(varve_options), 0, 0, 0, 0, 0, 0 }

/* options null: all defaults. *client is set only on VARVE_OK; freed by varve_close. */
VARVE_API varve_status varve_connect(const varve_options* options, varve_client** client);
/* Null is allowed. */
VARVE_API void varve_close(varve_client* client);
/* "shm", "tcp", "rdma", "loopback" or "inline"; valid until varve_close. */
VARVE_API const char* varve_lane(const varve_client* client);

/* ---- memory */

typedef struct varve_memory varve_memory;

/* data[0, bytes) must stay until varve_free. */
VARVE_API varve_status varve_register(varve_client* client, void* data, size_t bytes,
                                      varve_memory** memory);
/* Zeroed memory of the lane's fastest kind. */
VARVE_API varve_status varve_allocate(varve_client* client, size_t bytes, varve_memory** memory);
VARVE_API void* varve_memory_data(const varve_memory* memory);
VARVE_API size_t varve_memory_bytes(const varve_memory* memory);
/* Unregisters, and frees what varve_allocate made. Null is allowed. */
VARVE_API void varve_free(varve_memory* memory);

/* A piece of registered memory. This struct and varve_key never grow. */
typedef struct varve_piece {
  const varve_memory* memory;
  size_t offset;
  size_t bytes;
} varve_piece;

/* ---- objects */

/* 4 to 63 bytes of any value. Engines use: block hash, then the layer as 4 bytes, big-endian. */
typedef struct varve_key {
  const void* data;
  size_t bytes;
} varve_key;

typedef enum varve_part { VARVE_PART_KV = 0, VARVE_PART_K = 1, VARVE_PART_V = 2 } varve_part;

typedef enum varve_put_outcome {
  VARVE_PUT_STORED = 0,
  VARVE_PUT_EXISTS = 1,
  VARVE_PUT_NO_SPACE = 2,
  VARVE_PUT_CORRUPT = 3, /* crc32c did not match */
  VARVE_PUT_FAILED = 4,  /* the transfer failed */
  VARVE_PUT_INVALID = 5
} varve_put_outcome;

typedef struct varve_put_item {
  size_t struct_size;
  varve_key key;
  const varve_piece* sources; /* the value is these pieces, concatenated */
  size_t num_sources;
  uint32_t num_kv_heads; /* layout [kv head][K or V][part_bytes]; 0: opaque, no ranges */
  uint32_t part_bytes;
  uint32_t has_crc32c;
  uint32_t crc32c; /* Castagnoli, of the whole value */
  /* Of the prompt that the value was computed for, all of it: what it costs to lose. 0: not known.
   */
  uint32_t prompt_tokens;
  /* So long from now on the value can be found, and longer while it is pinned or held. 0: no limit.
   * Of what is stored already it can only make the time longer. */
  uint32_t ttl_ms;
  /* Of an object of the block before this one's in its prompt (keys that differ in their last 4
   * bytes alone are of one block): what is stored of a prompt then loses its end first, in whatever
   * order it was put or used. No data and 0 bytes: none, or not known. */
  varve_key parent;
  /* Whose keys and values it has: of two values that cost the same, the one with more bytes is the
   * first to be evicted. 0: not known. */
  uint32_t tokens;
} varve_put_item;

typedef enum varve_tier {
  VARVE_TIER_NONE = 0,
  VARVE_TIER_GPU = 1,
  VARVE_TIER_HOST = 2,
  VARVE_TIER_NVME = 3
} varve_tier;

typedef enum varve_miss {
  VARVE_MISS_NONE = 0, /* a hit, or a bad item: see varve_last_error */
  VARVE_MISS_NEVER_STORED = 1,
  VARVE_MISS_EVICTED = 2,
  VARVE_MISS_EXPIRED = 3,
  VARVE_MISS_INCOMPATIBLE = 4,
  VARVE_MISS_CORRUPT = 5,
  VARVE_MISS_FAILED = 6
} varve_miss;

typedef struct varve_get_item {
  size_t struct_size;
  varve_key key;
  varve_part part;
  uint32_t head_begin;
  uint32_t head_count;             /* 0: all from head_begin on */
  const varve_piece* destinations; /* filled in order; at least as large as the range */
  size_t num_destinations;
} varve_get_item;

typedef struct varve_get_result {
  size_t struct_size; /* set by the caller */
  uint32_t hit;
  varve_tier tier;
  uint64_t bytes;
  varve_miss reason;
} varve_get_result;

/* Outcomes, results and flags: one per item, in order, written only on VARVE_OK. Text of the first
 * bad item of a batch is then in varve_last_error, which is "" when there was none. count 0 is
 * allowed. */
VARVE_API varve_status varve_put(varve_client* client, const varve_put_item* items, size_t count,
                                 varve_put_outcome* outcomes);
VARVE_API varve_status varve_get(varve_client* client, const varve_get_item* items, size_t count,
                                 varve_get_result* results);
VARVE_API varve_status varve_exists(varve_client* client, const varve_key* keys, size_t count,
                                    uint8_t* exists);
/* *present: leading keys that are all stored. */
VARVE_API varve_status varve_longest_prefix(varve_client* client, const varve_key* keys,
                                            size_t count, size_t* present);
/* removed may be null. force: also when pinned. */
VARVE_API varve_status varve_remove(varve_client* client, const varve_key* keys, size_t count,
                                    int force, uint8_t* removed);

/* ---- contexts */

typedef enum varve_dtype { VARVE_F32 = 1, VARVE_F16 = 2, VARVE_BF16 = 3 } varve_dtype;
typedef enum varve_digest {
  VARVE_DIGEST_MINMAX = 1,
  VARVE_DIGEST_BOX_MEAN = 2,
  VARVE_DIGEST_MEAN = 3,
  VARVE_DIGEST_SPHERE = 4,
  VARVE_DIGEST_SIGN1 = 5,
  VARVE_DIGEST_SIGN2 = 6,
  VARVE_DIGEST_SIGN4 = 7,
  VARVE_DIGEST_MINMAX_SIGN1 = 8,
  VARVE_DIGEST_MINMAX_SIGN2 = 9,
  VARVE_DIGEST_MINMAX_SIGN4 = 10
} varve_digest;

typedef enum varve_rope_scaling {
  VARVE_ROPE_NONE = 1,
  VARVE_ROPE_LINEAR = 2,
  VARVE_ROPE_NTK = 3,
  VARVE_ROPE_LLAMA3 = 4
} varve_rope_scaling;
typedef enum varve_rope_pairing {
  VARVE_ROPE_ROTATE_HALF = 1,
  VARVE_ROPE_INTERLEAVED = 2
} varve_rope_pairing;
typedef enum varve_rope_angles {
  VARVE_ROPE_ANGLES_F32 = 1,
  VARVE_ROPE_ANGLES_F64 = 2
} varve_rope_angles;
typedef enum varve_rope_rotation {
  VARVE_ROPE_ROTATION_F32 = 1,
  VARVE_ROPE_ROTATION_KEY_DTYPE = 2
} varve_rope_rotation;

/* How keys were turned by their positions, and with which arithmetic (docs/page_format.md). Nothing
 * has a default; what the scaling does not use is 0. */
typedef struct varve_rope {
  size_t struct_size;
  double theta;
  uint32_t rotary_dim; /* leading channels that are turned: even, at most head_dim */
  varve_rope_pairing pairing;
  varve_rope_scaling scaling;
  uint32_t original_max_position; /* llama3 */
  double factor;                  /* linear, ntk, llama3 */
  double low_freq_factor;         /* llama3 */
  double high_freq_factor;        /* llama3 */
  varve_rope_angles angles;
  varve_dtype table; /* to which cosines and sines are rounded */
  varve_rope_rotation rotation;
  uint32_t reserved; /* must be 0 */
} varve_rope;

typedef struct varve_geometry {
  size_t struct_size;
  uint32_t num_layers;
  uint32_t num_kv_heads;
  uint32_t num_query_heads;
  uint32_t head_dim;
  uint32_t page_tokens; /* 8, 16 or 32 */
  varve_dtype dtype;
  const varve_rope* rope; /* null: not known */
} varve_geometry;

typedef struct varve_context_info {
  size_t struct_size; /* set by the caller */
  uint32_t attached;
  uint32_t num_blocks;
  uint32_t epoch;
  uint32_t attached_sessions;
  uint64_t digest_bytes;
} varve_context_info;

/* info may be null in all of these. id: 1 to 128 of [A-Za-z0-9._:-]. */
VARVE_API varve_status varve_context_open(varve_client* client, const char* id,
                                          const varve_geometry* geometry, varve_digest digest,
                                          varve_context_info* info);
/* block_hashes: count hashes of hash_bytes (4 to 59) each, back to back. first_block: the context's
 * num_blocks. */
VARVE_API varve_status varve_context_append(varve_client* client, const char* id,
                                            uint32_t first_block, const void* block_hashes,
                                            size_t hash_bytes, size_t count,
                                            varve_context_info* info);
VARVE_API varve_status varve_context_attach(varve_client* client, const char* id,
                                            varve_context_info* info);
VARVE_API varve_status varve_context_park(varve_client* client, const char* id,
                                          varve_context_info* info);
/* num_blocks 0: all. */
VARVE_API varve_status varve_context_fork(varve_client* client, const char* id, const char* new_id,
                                          uint32_t num_blocks, varve_context_info* info);
VARVE_API varve_status varve_context_truncate(varve_client* client, const char* id,
                                              uint32_t num_blocks, varve_context_info* info);
VARVE_API varve_status varve_context_drop(varve_client* client, const char* id);
/* rows: [block][kv head][digest vectors][head_dim] in the geometry's dtype. */
VARVE_API varve_status varve_send_digests(varve_client* client, const char* id, uint32_t epoch,
                                          uint32_t layer, uint32_t first_block, uint32_t num_blocks,
                                          const void* rows, size_t row_bytes);

/* ---- recall */

typedef enum varve_merge {
  VARVE_MERGE_SOFTMAX_MEAN = 0,
  VARVE_MERGE_SOFTMAX_MAX = 2,
  VARVE_MERGE_MAX = 3,
  VARVE_MERGE_MEAN = 4
} varve_merge;

/* A second stage: the digests choose multiplier x budget candidates, and their keys, where the
 * store has them in memory, choose among those. */
typedef enum varve_rerank {
  VARVE_RERANK_NONE = 0,
  VARVE_RERANK_EXACT = 1, /* by the attention mass of the keys */
  VARVE_RERANK_SKETCH = 2 /* by sketches of the keys: needs such a digest kind */
} varve_rerank;

typedef struct varve_recall_head {
  size_t struct_size;
  uint32_t budget_pages;
  const uint32_t* resident; /* page ids the caller has, ascending */
  size_t num_resident;
  const varve_piece* slots; /* where missing pages go, in ascending page id; none: select only */
  size_t num_slots;
  varve_part part;
  /* With a target. */
  uint32_t floor_pages;   /* at least; at most the budget */
  uint32_t ceiling_pages; /* at most; at least the budget; 0: 4 times the budget */
  /* Pages that are selected beside the budget and not scored, ascending. Not with a target. */
  const uint32_t* outliers;
  size_t num_outliers;
  /* Of pages [values_begin, values_end) that are no outliers the values alone come, into the second
   * half of their slots. Only with VARVE_PART_KV. */
  uint32_t values_begin;
  uint32_t values_end;
} varve_recall_head;

typedef struct varve_recall_layer {
  size_t struct_size;
  uint32_t layer;
  const float* queries;           /* [num_query_heads][head_dim], post-RoPE */
  size_t num_queries;             /* floats */
  const varve_recall_head* heads; /* one per KV head */
  size_t num_heads;
  /* With a target: of all heads at most; 0: the sum of their budgets, and what earlier layers of
     the query have left of theirs. */
  uint32_t total_pages;
} varve_recall_layer;

typedef struct varve_recall_query {
  size_t struct_size;
  const char* context_id;
  uint32_t epoch;
  const varve_recall_layer* layers;
  size_t num_layers;
  varve_merge merge;
  uint32_t sinks;      /* first pages, always in */
  uint32_t window;     /* last pages, always in */
  uint32_t num_blocks; /* candidates are pages [0, num_blocks); 0: all with digests */
  varve_rerank rerank;
  double multiplier; /* 1 to 1024; 0: 4 */
  /* The share of the attention mass to reach with as few pages as can be, 0 to 1, with the merge
   * softmax_mean or a second stage. 0: as many pages as the budget. */
  double target;
  /* The scores of resident pages count 1 + hysteresis times in the last stage, so that only clearly
   * better pages take their places; 0 to 100. With the merges softmax_mean and softmax_max, or a
   * second stage; not with a target. */
  double hysteresis;
} varve_recall_query;

/* Never grows. */
typedef struct varve_recalled_page {
  uint32_t page;
  uint32_t slot; /* index into slots */
  uint32_t done; /* 0: the page is not there; reason says why */
  varve_miss reason;
} varve_recalled_page;

typedef struct varve_recall_result varve_recall_result;

/* One round trip. *result is set only on VARVE_OK; freed by varve_recall_free. */
VARVE_API varve_status varve_recall(varve_client* client, const varve_recall_query* query,
                                    varve_recall_result** result);
/* Arrays live until varve_recall_free. layer: index in the query. VARVE_OUT_OF_RANGE for indexes
 * outside it. */
VARVE_API varve_status varve_recall_selected(const varve_recall_result* result, size_t layer,
                                             size_t head, const uint32_t** pages, size_t* count);
VARVE_API varve_status varve_recall_pages(const varve_recall_result* result, size_t layer,
                                          size_t head, const varve_recalled_page** pages,
                                          size_t* count);
/* Null is allowed. */
VARVE_API void varve_recall_free(varve_recall_result* result);

#ifdef __cplusplus
}
#endif

#endif /* VARVE_CLIENT_VARVE_H_ */
