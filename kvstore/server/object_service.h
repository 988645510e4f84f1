// Objects: batch Exists, LongestPrefix, Put, Get, Remove, Pin and List.
//
// Threads: called on gRPC threads; nothing here blocks.
#pragma once

#include <string>
#include <vector>

#include "google/protobuf/repeated_field.h"
#include "kvstore/page/object_key.h"
#include "kvstore/server/core.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

class ObjectService {
 public:
  explicit ObjectService(Core& core) : core_(core) {}

  absl::Status Exists(const varve::v1::ExistsRequest& request, varve::v1::ExistsReply* reply);
  absl::Status LongestPrefix(const varve::v1::LongestPrefixRequest& request,
                             varve::v1::LongestPrefixReply* reply);
  // Bytes move: these answer later. Request and reply live until answer ran.
  void Put(const varve::v1::PutRequest& request, varve::v1::PutReply* reply, Answer answer);
  void Get(const varve::v1::GetRequest& request, varve::v1::GetReply* reply, Answer answer);
  // Answers when what was removed is gone for good.
  void Remove(const varve::v1::RemoveRequest& request, varve::v1::RemoveReply* reply,
              Answer answer);
  absl::Status Pin(const varve::v1::PinRequest& request, varve::v1::PinReply* reply);
  absl::Status List(const varve::v1::ListRequest& request, varve::v1::ListReply* reply);
  absl::Status Prefetch(const varve::v1::PrefetchRequest& request, varve::v1::PrefetchReply* reply);

 private:
  absl::StatusOr<std::vector<page::ObjectKey>> Keys(
      const google::protobuf::RepeatedPtrField<std::string>& keys);
  uint32_t max_items() const { return core_.config.sessions().max_batch_items(); }

  Core& core_;
};

}  // namespace varve::server
