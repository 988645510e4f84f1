#include "client/bench/redis_peer.h"

#include <arpa/inet.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/process/child_process.h"
#include "kvstore/base/status.h"

namespace varve::client {
namespace {

struct ContextDeleter {
  void operator()(redisContext* context) const { redisFree(context); }
};
struct ReplyDeleter {
  void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
using ContextPtr = std::unique_ptr<redisContext, ContextDeleter>;
using ReplyPtr = std::unique_ptr<redisReply, ReplyDeleter>;

// A port that was free a moment ago: redis-server cannot pick one and tell it.
int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  close(fd);
  return ntohs(address.sin_port);
}

class RedisPeerImpl final : public RedisPeer {
 public:
  RedisPeerImpl(std::unique_ptr<ChildProcess> server, ContextPtr context)
      : server_(std::move(server)), context_(std::move(context)) {}

  absl::Status Set(uint64_t first_key, int batch, const char* values, size_t value_bytes) override {
    for (int i = 0; i < batch; ++i) {
      redisAppendCommand(context_.get(), "SET k%llu %b",
                         static_cast<unsigned long long>(first_key + i), values + i * value_bytes,
                         value_bytes);
    }
    for (int i = 0; i < batch; ++i) {
      VARVE_ASSIGN_OR_RETURN(const ReplyPtr reply, NextReply());
      if (reply->type == REDIS_REPLY_ERROR)
        return absl::InternalError(absl::StrCat("redis SET: ", reply->str));
    }
    return absl::OkStatus();
  }

  absl::Status Get(uint64_t first_key, int batch, char* into, size_t value_bytes) override {
    for (int i = 0; i < batch; ++i) {
      redisAppendCommand(context_.get(), "GET k%llu",
                         static_cast<unsigned long long>(first_key + i));
    }
    for (int i = 0; i < batch; ++i) {
      VARVE_ASSIGN_OR_RETURN(const ReplyPtr reply, NextReply());
      if (reply->type != REDIS_REPLY_STRING || static_cast<size_t>(reply->len) != value_bytes) {
        return absl::NotFoundError("redis GET: value missing");
      }
      std::memcpy(into + i * value_bytes, reply->str, value_bytes);
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<ReplyPtr> NextReply() {
    void* reply = nullptr;
    if (redisGetReply(context_.get(), &reply) != REDIS_OK) {
      return absl::UnavailableError(absl::StrCat("redis: ", context_->errstr));
    }
    return ReplyPtr(static_cast<redisReply*>(reply));
  }

  std::unique_ptr<ChildProcess> server_;
  ContextPtr context_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RedisPeer>> RedisPeer::Start(uint64_t max_memory_bytes) {
  const char* binary = "/usr/bin/redis-server";
  if (access(binary, X_OK) != 0)
    return absl::NotFoundError("redis-server is not installed (apt-get install redis-server)");
  const int port = FreePort();
  ChildProcess::Options options;
  options.binary = binary;
  options.args = {"--port",
                  absl::StrCat(port),
                  "--bind",
                  "127.0.0.1",
                  "--save",
                  "",
                  "--appendonly",
                  "no",
                  "--maxmemory",
                  absl::StrCat(max_memory_bytes),
                  "--maxmemory-policy",
                  "allkeys-lru"};
  options.wait_ready = false;
  VARVE_ASSIGN_OR_RETURN(auto server, ChildProcess::Start(options));
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (absl::Now() < deadline) {
    ContextPtr context(redisConnectWithTimeout("127.0.0.1", port, timeval{1, 0}));
    if (context != nullptr && context->err == 0) {
      return std::make_unique<RedisPeerImpl>(std::move(server), std::move(context));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return absl::UnavailableError("redis-server did not answer");
}

}  // namespace varve::client
