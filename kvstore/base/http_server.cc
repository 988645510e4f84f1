#include "kvstore/base/http_server.h"

#include <CivetServer.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/base/address.h"

namespace varve::base {
namespace {

// A connection that has not sent its whole request holds a thread until the timeout: a probe waits
// for half-open connections that many at a time.
constexpr const char* kThreads = "64";
constexpr const char* kRequestTimeoutMs = "2000";
constexpr const char* kText = "text/plain; charset=utf-8";

const char* Reason(int code) {
  switch (code) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 503:
      return "Service Unavailable";
    default:
      return "Error";
  }
}

class PathHandler final : public CivetHandler {
 public:
  PathHandler(std::string path, HttpHandler handler)
      : path_(std::move(path)), handler_(std::move(handler)) {}

  bool handleGet(CivetServer*, mg_connection* connection) override {
    return Answer(connection, /*with_body=*/true);
  }
  bool handleHead(CivetServer*, mg_connection* connection) override {
    return Answer(connection, /*with_body=*/false);
  }
  bool handlePost(CivetServer*, mg_connection* connection) override { return Refuse(connection); }
  bool handlePut(CivetServer*, mg_connection* connection) override { return Refuse(connection); }
  bool handleDelete(CivetServer*, mg_connection* connection) override { return Refuse(connection); }
  bool handlePatch(CivetServer*, mg_connection* connection) override { return Refuse(connection); }

 private:
  bool Answer(mg_connection* connection, bool with_body) {
    const mg_request_info* request = mg_get_request_info(connection);
    // civetweb matches by prefix: "/" would answer for every path.
    if (path_ != request->local_uri)
      return Send(connection, {404, kText, "no such page\n"}, with_body);
    return Send(connection, handler_(request->query_string ? request->query_string : ""),
                with_body);
  }

  bool Refuse(mg_connection* connection) {
    return Send(connection, {405, kText, "GET only\n"}, /*with_body=*/true);
  }

  bool Send(mg_connection* connection, const HttpResponse& response, bool with_body) {
    const std::string head = absl::StrCat(
        "HTTP/1.1 ", response.code, " ", Reason(response.code),
        "\r\nContent-Type: ", response.content_type, "\r\nContent-Length: ", response.body.size(),
        response.code == 405 ? "\r\nAllow: GET, HEAD" : "",
        "\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n");
    mg_write(connection, head.data(), head.size());
    if (with_body) mg_write(connection, response.body.data(), response.body.size());
    return true;
  }

  std::string path_;
  HttpHandler handler_;
};

// Opens and closes a connection.
void Poke(const std::string& host, int port) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  if (inet_pton(AF_INET, host == "0.0.0.0" ? "127.0.0.1" : host.c_str(), &to.sin_addr) != 1) return;
  const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) return;
  (void)connect(descriptor, reinterpret_cast<sockaddr*>(&to), sizeof(to));
  close(descriptor);
}

}  // namespace

struct HttpServer::Impl {
  std::string host;
  std::vector<std::unique_ptr<PathHandler>> handlers;
  std::unique_ptr<CivetServer> server;  // destroyed first: it calls the handlers
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const std::string& address, std::map<std::string, HttpHandler> handlers) {
  auto impl = std::make_unique<Impl>();
  impl->host = address.substr(0, address.rfind(':'));
  try {
    impl->server = std::make_unique<CivetServer>(
        std::vector<std::string>{"listening_ports", address, "num_threads", kThreads,
                                 "request_timeout_ms", kRequestTimeoutMs});
  } catch (const CivetException&) {
    // Its text names its own constructor, not what went wrong.
    return absl::UnavailableError(
        absl::StrCat("cannot serve HTTP on ", address, ": ", WhyNotBound(address)));
  }
  for (auto& [path, handler] : handlers) {
    impl->handlers.push_back(std::make_unique<PathHandler>(path, std::move(handler)));
    impl->server->addHandler(path, impl->handlers.back().get());
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() {
  // civetweb's accepting thread looks at its stop flag every two seconds, or when somebody
  // connects.
  const int stopped_port = port();
  std::atomic<bool> stopped{false};
  std::thread stopper([&] {
    impl_->server.reset();
    stopped = true;
  });
  while (!stopped) {
    Poke(impl_->host, stopped_port);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  stopper.join();
}

int HttpServer::port() const { return impl_->server->getListeningPorts().at(0); }

}  // namespace varve::base
