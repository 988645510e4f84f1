/* A C11 program's way through the C interface: what varve.h promises, seen by a C compiler. */
#include "tests/integration/client/c_api_roundtrip.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "client/varve.h"

#define KV_HEADS 2
#define QUERY_HEADS 2
#define HEAD_DIM 32
#define PAGE_TOKENS 8
#define BLOCKS 4
#define PART_BYTES (PAGE_TOKENS * HEAD_DIM * 4)
#define OBJECT_BYTES (KV_HEADS * 2 * PART_BYTES)
#define HASH_BYTES 16

static char failure[512];

/* The first failure is kept: what was expected, where, and the interface's own words. */
#define CHECK(condition)                                                                      \
  do {                                                                                        \
    if (!(condition)) {                                                                       \
      snprintf(failure, sizeof failure, "line %d: %s (last error: %s)", __LINE__, #condition, \
               varve_last_error());                                                           \
      return failure;                                                                         \
    }                                                                                         \
  } while (0)

static varve_key KeyOf(const char* text) {
  varve_key key = {text, strlen(text)};
  return key;
}

static const char* Objects(varve_client* client) {
  varve_memory* memory = NULL;
  CHECK(varve_allocate(client, 4096, &memory) == VARVE_OK);
  CHECK(varve_memory_bytes(memory) == 4096);
  char* data = varve_memory_data(memory);
  memset(data, 'a', 1000);

  varve_piece source = {memory, 0, 1000};
  varve_put_item puts[2] = {{0}};
  puts[0].struct_size = puts[1].struct_size = sizeof puts[0];
  puts[0].key = KeyOf("c-one");
  puts[1].key = KeyOf("c-two");
  puts[0].sources = puts[1].sources = &source;
  puts[0].num_sources = puts[1].num_sources = 1;
  varve_put_outcome outcomes[2];
  CHECK(varve_put(client, puts, 2, outcomes) == VARVE_OK);
  CHECK(outcomes[0] == VARVE_PUT_STORED && outcomes[1] == VARVE_PUT_STORED);
  CHECK(strcmp(varve_last_error(), "") == 0);
  CHECK(varve_put(client, puts, 1, outcomes) == VARVE_OK && outcomes[0] == VARVE_PUT_EXISTS);

  varve_piece destination = {memory, 2000, 1000};
  varve_get_item gets[2] = {{0}};
  gets[0].struct_size = gets[1].struct_size = sizeof gets[0];
  gets[0].key = KeyOf("c-two");
  gets[1].key = KeyOf("c-none");
  gets[0].destinations = gets[1].destinations = &destination;
  gets[0].num_destinations = gets[1].num_destinations = 1;
  varve_get_result results[2] = {{0}};
  results[0].struct_size = sizeof results[0];
  CHECK(varve_get(client, gets, 2, results) == VARVE_OK);
  CHECK(results[0].hit == 1 && results[0].bytes == 1000 && results[0].tier == VARVE_TIER_HOST);
  CHECK(results[1].hit == 0 && results[1].reason == VARVE_MISS_NEVER_STORED);
  CHECK(memcmp(data, data + 2000, 1000) == 0);

  varve_key keys[3] = {KeyOf("c-one"), KeyOf("c-two"), KeyOf("c-none")};
  uint8_t flags[3] = {9, 9, 9};
  size_t present = 9;
  CHECK(varve_exists(client, keys, 3, flags) == VARVE_OK);
  CHECK(flags[0] == 1 && flags[1] == 1 && flags[2] == 0);
  CHECK(varve_longest_prefix(client, keys, 3, &present) == VARVE_OK && present == 2);
  CHECK(varve_remove(client, keys, 3, 0, flags) == VARVE_OK);
  CHECK(flags[0] == 1 && flags[1] == 1 && flags[2] == 0);
  CHECK(varve_exists(client, keys, 0, NULL) == VARVE_OK);
  varve_free(memory);
  return NULL;
}

/* "c-told" says what it costs and how long it stays; of the others nothing is said. All stay. */
static const char* ValuesThatSayMore(varve_client* client) {
  varve_memory* memory = NULL;
  CHECK(varve_allocate(client, 256, &memory) == VARVE_OK);
  varve_piece piece = {memory, 0, 128};
  varve_put_item puts[3] = {{0}};
  for (int i = 0; i < 3; ++i) {
    puts[i].struct_size = sizeof puts[i];
    puts[i].sources = &piece;
    puts[i].num_sources = 1;
  }
  puts[0].key = KeyOf("c-told");
  puts[0].prompt_tokens = 4096;
  puts[0].tokens = 32;
  puts[0].ttl_ms = 3600 * 1000;
  puts[1].key = KeyOf("c-untold");
  puts[2].key = KeyOf("c-short-0002");
  puts[2].ttl_ms = 1;
  puts[2].parent = KeyOf("c-told-0001");
  varve_put_outcome outcomes[3];
  CHECK(varve_put(client, puts, 3, outcomes) == VARVE_OK);
  for (int i = 0; i < 3; ++i) CHECK(outcomes[i] == VARVE_PUT_STORED);

  varve_piece destination = {memory, 128, 128};
  varve_get_item get = {0};
  get.struct_size = sizeof get;
  get.key = puts[2].key;
  get.destinations = &destination;
  get.num_destinations = 1;
  varve_get_result result = {0};
  result.struct_size = sizeof result;
  for (int tries = 0; tries < 100000; ++tries) { /* a millisecond passes */
    CHECK(varve_get(client, &get, 1, &result) == VARVE_OK);
    if (result.hit == 0) break;
  }
  CHECK(result.hit == 0 && result.reason == VARVE_MISS_EXPIRED);

  /* Two items of a caller that does not know these fields yet, side by side: what follows each is
   * the next one's, or nobody's. */
  enum { kOldSize = offsetof(varve_put_item, prompt_tokens) };
  unsigned char old[2 * kOldSize + sizeof(varve_put_item)];
  memset(old, 0x55, sizeof old);
  puts[0].key = KeyOf("c-old-0");
  puts[1].key = KeyOf("c-old-1");
  puts[0].struct_size = puts[1].struct_size = kOldSize;
  memcpy(old, &puts[0], kOldSize);
  memcpy(old + kOldSize, &puts[1], kOldSize);
  CHECK(varve_put(client, (varve_put_item*)old, 2, outcomes) == VARVE_OK);
  CHECK(outcomes[0] == VARVE_PUT_STORED && outcomes[1] == VARVE_PUT_STORED);

  puts[0] = puts[2];
  puts[0].key = KeyOf("c-follows-0002");
  puts[0].parent = KeyOf("c-follows-0001"); /* of its own block */
  CHECK(varve_put(client, puts, 1, outcomes) == VARVE_OK && outcomes[0] == VARVE_PUT_INVALID);
  CHECK(strstr(varve_last_error(), "parent") != NULL);
  puts[0].parent.bytes = 3;
  CHECK(varve_put(client, puts, 1, outcomes) == VARVE_INVALID_ARGUMENT);
  puts[0].parent.data = NULL;
  CHECK(varve_put(client, puts, 1, outcomes) == VARVE_INVALID_ARGUMENT);

  puts[0].key = KeyOf("c-bad");
  puts[0].struct_size = 0;
  CHECK(varve_put(client, puts, 1, outcomes) == VARVE_INVALID_ARGUMENT);
  CHECK(strstr(varve_last_error(), "varve_put_item.struct_size") != NULL);
  puts[0].struct_size = 1000 * sizeof puts[0];
  CHECK(varve_put(client, puts, 1, outcomes) == VARVE_INVALID_ARGUMENT);
  varve_free(memory);
  return NULL;
}

/* A caller that was compiled when the structs were shorter. */
static const char* OldStructs(varve_client* client) {
  struct old_get_result {
    size_t struct_size;
    uint32_t hit;
    varve_tier tier;
    uint64_t bytes;
  } results[3];
  memset(results, 0x55, sizeof results);
  results[0].struct_size = sizeof results[0];
  char data[64];
  varve_memory* memory = NULL;
  CHECK(varve_register(client, data, sizeof data, &memory) == VARVE_OK);
  varve_piece piece = {memory, 0, sizeof data};
  varve_get_item items[2] = {{0}};
  items[0].struct_size = items[1].struct_size = sizeof items[0];
  items[0].key = items[1].key = KeyOf("c-none");
  items[0].destinations = items[1].destinations = &piece;
  items[0].num_destinations = items[1].num_destinations = 1;
  CHECK(varve_get(client, items, 2, (varve_get_result*)results) == VARVE_OK);
  CHECK(results[0].hit == 0 && results[1].hit == 0 && results[1].bytes == 0);
  CHECK(results[2].hit == 0x55555555u); /* untouched */
  varve_free(memory);
  return NULL;
}

static const char* Errors(varve_client* client) {
  varve_put_outcome outcome;
  varve_put_item item = {0};
  varve_memory* memory = NULL;
  varve_client* nobody = NULL;
  varve_options options = VARVE_OPTIONS_INIT;
  options.lanes = "carrier-pigeon";
  CHECK(varve_connect(&options, &nobody) == VARVE_INVALID_ARGUMENT && nobody == NULL);
  options.struct_size = 1;
  CHECK(varve_connect(&options, &nobody) == VARVE_INVALID_ARGUMENT);
  CHECK(strstr(varve_last_error(), "struct_size") != NULL);
  CHECK(varve_put(client, &item, 1, &outcome) == VARVE_INVALID_ARGUMENT);
  item.struct_size = sizeof item;
  item.key.data = "abc";
  item.key.bytes = 3;
  CHECK(varve_put(client, &item, 1, &outcome) == VARVE_INVALID_ARGUMENT);
  CHECK(strstr(varve_last_error(), "4 to 63") != NULL);
  CHECK(varve_put(NULL, &item, 1, &outcome) == VARVE_INVALID_ARGUMENT);
  CHECK(varve_allocate(client, 0, &memory) == VARVE_INVALID_ARGUMENT && memory == NULL);
  CHECK(varve_context_attach(client, "c-nobody", NULL) == VARVE_NOT_FOUND);
  CHECK(strcmp(varve_status_name(VARVE_NOT_FOUND), "NOT_FOUND") == 0);
  CHECK(strcmp(varve_status_name((varve_status)99), "UNKNOWN") == 0);
  varve_close(NULL);
  varve_free(NULL);
  varve_recall_free(NULL);
  return NULL;
}

static const char* FillContext(varve_client* client, varve_memory* memory, uint32_t* epoch) {
  varve_geometry geometry = {sizeof geometry, 1,           KV_HEADS,  QUERY_HEADS,
                             HEAD_DIM,        PAGE_TOKENS, VARVE_F32, NULL};
  varve_rope rope = {0};
  varve_context_info info = {0};
  info.struct_size = 1; /* refused before anything is done */
  CHECK(varve_context_open(client, "c-ctx", &geometry, VARVE_DIGEST_MEAN, &info) ==
        VARVE_INVALID_ARGUMENT);
  info.struct_size = sizeof info;
  geometry.rope = &rope;
  CHECK(varve_context_open(client, "c-ctx", &geometry, VARVE_DIGEST_MEAN, &info) ==
        VARVE_INVALID_ARGUMENT);
  CHECK(strstr(varve_last_error(), "varve_rope.struct_size is 0") != NULL);
  geometry.rope = NULL;
  geometry.dtype = (varve_dtype)257; /* VARVE_F32, were it cut to 8 bits */
  CHECK(varve_context_open(client, "c-ctx", &geometry, VARVE_DIGEST_MEAN, &info) ==
        VARVE_INVALID_ARGUMENT);
  CHECK(strstr(varve_last_error(), "dtype") != NULL);
  geometry.dtype = VARVE_F32;
  CHECK(varve_context_open(client, "c-ctx", &geometry, (varve_digest)(256 + VARVE_DIGEST_MEAN),
                           &info) == VARVE_INVALID_ARGUMENT);
  geometry.rope = &rope;
  rope.struct_size = sizeof rope;
  rope.theta = 10000;
  rope.rotary_dim = HEAD_DIM;
  rope.pairing = VARVE_ROPE_ROTATE_HALF;
  rope.scaling = VARVE_ROPE_LLAMA3;
  rope.factor = 8;
  rope.low_freq_factor = 1;
  rope.high_freq_factor = 4;
  rope.original_max_position = 8192;
  rope.angles = VARVE_ROPE_ANGLES_F32;
  rope.table = (varve_dtype)0;
  rope.rotation = VARVE_ROPE_ROTATION_KEY_DTYPE;
  CHECK(varve_context_open(client, "c-ctx", &geometry, VARVE_DIGEST_MEAN, &info) ==
        VARVE_INVALID_ARGUMENT);
  CHECK(strstr(varve_last_error(), "rope.arithmetic.table is 0") != NULL);
  rope.table = VARVE_F32;
  rope.reserved = 5;
  CHECK(varve_context_open(client, "c-ctx", &geometry, VARVE_DIGEST_MEAN, &info) ==
        VARVE_INVALID_ARGUMENT);
  CHECK(strstr(varve_last_error(), "varve_rope.reserved is 5, allowed: 0") != NULL);
  rope.reserved = 0;
  CHECK(varve_context_open(client, "c-ctx", &geometry, VARVE_DIGEST_MEAN, &info) == VARVE_OK);
  CHECK(info.attached == 1 && info.num_blocks == 0);
  char hashes[BLOCKS * HASH_BYTES];
  for (int i = 0; i < BLOCKS * HASH_BYTES; ++i) hashes[i] = (char)(i / HASH_BYTES + 1);
  CHECK(varve_context_append(client, "c-ctx", 0, hashes, HASH_BYTES, BLOCKS, &info) == VARVE_OK);
  CHECK(info.num_blocks == BLOCKS);
  *epoch = info.epoch;
  for (int block = 0; block < BLOCKS; ++block) {
    char key[HASH_BYTES + 4] = {0};
    memcpy(key, hashes + block * HASH_BYTES, HASH_BYTES); /* layer 0 */
    float* values = varve_memory_data(memory);
    for (int i = 0; i < OBJECT_BYTES / 4; ++i) values[i] = (float)block;
    varve_piece source = {memory, 0, OBJECT_BYTES};
    varve_put_item item = {0};
    item.struct_size = sizeof item;
    item.key.data = key;
    item.key.bytes = sizeof key;
    item.sources = &source;
    item.num_sources = 1;
    item.num_kv_heads = KV_HEADS;
    item.part_bytes = PART_BYTES;
    varve_put_outcome outcome;
    CHECK(varve_put(client, &item, 1, &outcome) == VARVE_OK && outcome == VARVE_PUT_STORED);
    float digests[KV_HEADS * HEAD_DIM];
    for (int i = 0; i < KV_HEADS * HEAD_DIM; ++i) digests[i] = (float)block;
    CHECK(varve_send_digests(client, "c-ctx", *epoch, 0, (uint32_t)block, 1, digests,
                             sizeof digests) == VARVE_OK);
  }
  return NULL;
}

/* The page of block b holds b everywhere, so a query of ones prefers the last blocks. */
static const char* Recall(varve_client* client) {
  varve_memory* memory = NULL;
  CHECK(varve_allocate(client, OBJECT_BYTES + KV_HEADS * 2 * 2 * PART_BYTES, &memory) == VARVE_OK);
  uint32_t epoch = 0;
  const char* failed = FillContext(client, memory, &epoch);
  if (failed != NULL) return failed;

  float queries[QUERY_HEADS * HEAD_DIM];
  for (int i = 0; i < QUERY_HEADS * HEAD_DIM; ++i) queries[i] = 1;
  varve_piece slots[KV_HEADS][2];
  varve_recall_head heads[KV_HEADS] = {{0}};
  for (int h = 0; h < KV_HEADS; ++h) {
    for (int s = 0; s < 2; ++s) {
      slots[h][s] = (varve_piece){memory, OBJECT_BYTES + (size_t)(2 * h + s) * 2 * PART_BYTES,
                                  2 * PART_BYTES};
    }
    heads[h] = (varve_recall_head){
        .struct_size = sizeof heads[h], .budget_pages = 2, .slots = slots[h], .num_slots = 2};
  }
  varve_recall_layer layer = {.struct_size = sizeof layer,
                              .queries = queries,
                              .num_queries = QUERY_HEADS * HEAD_DIM,
                              .heads = heads,
                              .num_heads = KV_HEADS};
  varve_recall_query query = {.struct_size = sizeof query,
                              .context_id = "c-ctx",
                              .epoch = epoch,
                              .layers = &layer,
                              .num_layers = 1};
  varve_recall_result* result = NULL;
  CHECK(varve_recall(client, &query, &result) == VARVE_OK);
  for (size_t h = 0; h < KV_HEADS; ++h) {
    const uint32_t* selected;
    const varve_recalled_page* pages;
    size_t count;
    CHECK(varve_recall_selected(result, 0, h, &selected, &count) == VARVE_OK);
    CHECK(count == 2 && selected[0] == 2 && selected[1] == 3);
    CHECK(varve_recall_pages(result, 0, h, &pages, &count) == VARVE_OK && count == 2);
    for (size_t i = 0; i < count; ++i) {
      CHECK(pages[i].done == 1);
      const float* page =
          (const float*)((char*)varve_memory_data(memory) + slots[h][pages[i].slot].offset);
      for (int v = 0; v < 2 * PART_BYTES / 4; ++v) CHECK(page[v] == (float)pages[i].page);
    }
    CHECK(varve_recall_selected(result, 1, h, &selected, &count) == VARVE_OUT_OF_RANGE);
  }
  varve_recall_free(result);

  /* The first page beside the budget and whole; of the last its values alone. */
  const uint32_t outlier = 0;
  float* all = varve_memory_data(memory);
  for (int v = 0; v < (OBJECT_BYTES + KV_HEADS * 2 * 2 * PART_BYTES) / 4; ++v) all[v] = -1;
  for (int h = 0; h < KV_HEADS; ++h) {
    heads[h].budget_pages = 1;
    heads[h].outliers = &outlier;
    heads[h].num_outliers = 1;
    heads[h].values_end = BLOCKS;
  }
  query.rerank = (varve_rerank)257; /* one that there is, were it cut to 8 bits */
  CHECK(varve_recall(client, &query, &result) == VARVE_INVALID_ARGUMENT);
  query.rerank = VARVE_RERANK_NONE;
  query.merge = (varve_merge)258;
  CHECK(varve_recall(client, &query, &result) == VARVE_INVALID_ARGUMENT);
  query.merge = VARVE_MERGE_SOFTMAX_MEAN;
  CHECK(varve_recall(client, &query, &result) == VARVE_OK);
  for (size_t h = 0; h < KV_HEADS; ++h) {
    const varve_recalled_page* pages;
    size_t count;
    CHECK(varve_recall_pages(result, 0, h, &pages, &count) == VARVE_OK && count == 2);
    CHECK(pages[0].page == 0 && pages[0].done == 1 && pages[1].page == 3 && pages[1].done == 1);
    const float* whole = all + slots[h][0].offset / 4;
    const float* half = all + slots[h][1].offset / 4;
    for (int v = 0; v < 2 * PART_BYTES / 4; ++v) {
      CHECK(whole[v] == 0);
      CHECK(half[v] == (v < PART_BYTES / 4 ? -1 : 3));
    }
  }
  varve_recall_free(result);
  heads[0].values_end = BLOCKS + 1;
  CHECK(varve_recall(client, &query, &result) == VARVE_INVALID_ARGUMENT);
  CHECK(strstr(varve_last_error(), "values_end 5; allowed: a range within [0, 4)") != NULL);
  heads[0].values_end = BLOCKS;
  heads[0].outliers = NULL;
  CHECK(varve_recall(client, &query, &result) == VARVE_INVALID_ARGUMENT);
  CHECK(strstr(varve_last_error(), "varve_recall_head.outliers") != NULL);

  varve_context_info info = {0};
  info.struct_size = sizeof info;
  CHECK(varve_context_fork(client, "c-ctx", "c-fork", 3, &info) == VARVE_OK &&
        info.num_blocks == 3);
  CHECK(varve_context_truncate(client, "c-fork", 1, &info) == VARVE_OK && info.num_blocks == 1);
  CHECK(varve_context_park(client, "c-fork", &info) == VARVE_OK && info.attached == 0);
  CHECK(varve_context_attach(client, "c-fork", &info) == VARVE_OK && info.attached == 1);
  CHECK(varve_context_drop(client, "c-fork") == VARVE_OK);
  CHECK(varve_context_drop(client, "c-ctx") == VARVE_OK);
  varve_free(memory);
  return NULL;
}

const char* RunCApi(const char* address, const char* lanes) {
  varve_options options = VARVE_OPTIONS_INIT;
  options.address = address;
  options.lanes = lanes;
  options.key_namespace = lanes[0] == '\0' ? "c-inline" : lanes;
  varve_client* client = NULL;
  CHECK(varve_connect(&options, &client) == VARVE_OK);
  CHECK(strcmp(varve_lane(client), lanes[0] == '\0' ? "inline" : lanes) == 0);
  const char* failed = Objects(client);
  if (failed == NULL) failed = ValuesThatSayMore(client);
  if (failed == NULL) failed = OldStructs(client);
  if (failed == NULL) failed = Errors(client);
  if (failed == NULL) failed = Recall(client);
  varve_close(client);
  return failed;
}
