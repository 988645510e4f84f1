// A small HTTP server for metrics, health and the status page. GET and HEAD only.
//
// Handlers run on the server's own threads, concurrently; they must be thread-safe and quick. A
// request that is not there whole 2 s after its connection was taken up is dropped.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace varve::base {

struct HttpResponse {
  int code = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};
// query: the part after '?', undecoded.
using HttpHandler = std::function<HttpResponse(const std::string& query)>;

class HttpServer {
 public:
  // address: "host:port"; port 0 picks one. handlers: exact paths ("/metrics"). UNAVAILABLE when it
  // cannot bind.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(
      const std::string& address, std::map<std::string, HttpHandler> handlers);
  // Waits for running handlers.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace varve::base
