// Objects: batch Exists, LongestPrefix, Put, Get, Remove, Pin and List.
//
// Threads: called on gRPC threads; nothing here blocks. Request and reply live until answer ran.
#pragma once

#include "kvstore/server/core.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

class ObjectService {
 public:
  explicit ObjectService(Core& core) : core_(core) {}

  void Exists(const varve::v1::ExistsRequest& request, varve::v1::ExistsReply* reply, Answer answer);
  void LongestPrefix(const varve::v1::LongestPrefixRequest& request,
                     varve::v1::LongestPrefixReply* reply, Answer answer);
  void Put(const varve::v1::PutRequest& request, varve::v1::PutReply* reply, Answer answer);
  void Get(const varve::v1::GetRequest& request, varve::v1::GetReply* reply, Answer answer);
  void Remove(const varve::v1::RemoveRequest& request, varve::v1::RemoveReply* reply, Answer answer);
  void Pin(const varve::v1::PinRequest& request, varve::v1::PinReply* reply, Answer answer);
  void List(const varve::v1::ListRequest& request, varve::v1::ListReply* reply, Answer answer);

 private:
  absl::Status DoExists(const varve::v1::ExistsRequest& request, varve::v1::ExistsReply* reply);
  absl::Status DoLongestPrefix(const varve::v1::LongestPrefixRequest& request,
                               varve::v1::LongestPrefixReply* reply);
  absl::Status DoRemove(const varve::v1::RemoveRequest& request, varve::v1::RemoveReply* reply);
  absl::Status DoPin(const varve::v1::PinRequest& request, varve::v1::PinReply* reply);
  absl::Status DoList(const varve::v1::ListRequest& request, varve::v1::ListReply* reply);
  uint32_t max_items() const { return core_.config.sessions().max_batch_items(); }

  Core& core_;
};

}  // namespace varve::server
