// The client's half of a lane: sessions opened by stores, and the answers to their reads and writes
// of our regions.
//
// A request is never trusted: every piece is looked up and bounds-checked in the region table, and
// the memory stays pinned while UCX touches it. Lane's thread only, apart from the constructor and
// the destructor.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kvstore/transport/region_table.h"
#include "kvstore/transport/ucx_lane.h"

namespace varve::transport {

class Responder {
 public:
  // Both must outlive the responder; the lane must be stopped before it is destroyed.
  Responder(Lane& lane, RegionTable& regions);
  ~Responder();
  Responder(const Responder&) = delete;
  Responder& operator=(const Responder&) = delete;

  // kHello, kBye, kRead, kWrite.
  void OnMessage(const Incoming& incoming);
  // Ends the sessions that are using a region, or all of them (region 0). Their operations end soon
  // after.
  void CloseSessions(uint64_t region);

 private:
  class Session;
  class Answer;

  void OnHello(const Incoming& incoming);
  void OpenSession(uint64_t id, uint32_t pid, const std::string& worker_address);
  void CloseSession(uint64_t id);
  void AbandonAnswers(const Session& session);
  void OnRead(const Incoming& incoming);
  void OnWrite(const Incoming& incoming);
  std::shared_ptr<Session> Find(uint64_t id) const;
  Answer* NewAnswer(std::shared_ptr<Session> session, const Message& request);
  void Recycle(Answer* answer);

  Lane& lane_;
  RegionTable& regions_;
  absl::flat_hash_map<uint64_t, std::shared_ptr<Session>> sessions_;
  std::vector<std::unique_ptr<Answer>> answers_;
  std::vector<Answer*> free_answers_;
};

}  // namespace varve::transport
