// One Put: validate, reserve, read the client's memory, commit.
//
// All transfers are posted at once; a chunk of items commits (checksum, off the transport threads)
// while the next is still travelling. The answer goes out when the last chunk has committed.
#pragma once

#include "kvstore/server/core.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

// REQUIRES: request and reply live until answer ran.
void StartPut(Core& core, SessionRef session, const varve::v1::PutRequest& request,
              varve::v1::PutReply* reply, absl::Time deadline, Answer answer);

// What PageStore::Reserve and Commit mean for an item; OK: stored.
// What became of a put, when that is as durable as the answer says: another writer's object that
// exists may not be so yet. done: here, or on a thread of the disk.
void AwaitSettled(Core& core, store::NamespaceId ns, const std::string& key,
                  const absl::Status& status, store::PutHandle::CommitDone done);

varve::v1::PutResult ToPutResult(const absl::Status& status);
// What an item says of its value, apart from its memory.
struct ValueFields {
  uint64_t bytes = 0;
  const varve::v1::ObjectLayout& layout;
  const std::string& codec;
  uint32_t prompt_tokens = 0;
  uint32_t tokens = 0;
  uint32_t ttl_ms = 0;  // from now on; 0: none
};
absl::StatusOr<store::ObjectMeta> ParseMeta(const Core& core, const ValueFields& fields);
// The block before the key's own, by the key of an object of it; empty for empty.
absl::StatusOr<std::string> ParseParent(const page::ObjectKey& key, const std::string& parent);

}  // namespace varve::server
