// The stores that the client's contract suite runs against, one per program, and clients of them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "client/client.h"
#include "kvstore/transport/transport.h"

namespace varve::client::testing {

enum class Lane { kEmbedded, kShm, kTcp, kInline };
inline constexpr Lane kAllLanes[] = {Lane::kEmbedded, Lane::kShm, Lane::kTcp, Lane::kInline};
std::string LaneName(Lane lane);

// A client and, for the embedded lane, the transport that it needs. Calls go through ->.
class Connection {
 public:
  Connection(std::unique_ptr<transport::Transport> transport, std::unique_ptr<Client> client)
      : transport_(std::move(transport)), client_(std::move(client)) {}
  Client* operator->() const { return client_.get(); }
  Client& operator*() const { return *client_; }
  // Closes the client; the transport stays.
  void Close() { client_.reset(); }

 private:
  std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<Client> client_;
};

// Starts the lane's store on first use; it lives as long as the program. Aborts the test program
// when it cannot.
Connection Connect(Lane lane, const std::string& key_namespace);

// Bytes that depend on the seed and nothing else.
std::string RandomBytes(uint64_t seed, size_t bytes);
page::ObjectKey Key(std::string_view text);
// A copy in the memory at `offset`, and back.
void Fill(const Memory& memory, size_t offset, std::string_view bytes);
std::string Bytes(const Memory& memory, size_t offset, size_t bytes);

}  // namespace varve::client::testing
