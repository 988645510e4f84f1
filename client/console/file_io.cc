#include "client/console/file_io.h"

#include <zlib.h>

#include <fstream>
#include <memory>
#include <sstream>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace varve::console {
namespace {

struct GzCloser {
  void operator()(gzFile_s* file) const { gzclose_r(file); }
};

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  std::ostringstream content;
  content << in.rdbuf();
  if (in.bad() || content.bad()) return absl::DataLossError(absl::StrCat(path, ": read failed"));
  return std::move(content).str();
}

absl::StatusOr<std::string> ReadGzipFile(const std::string& path, Plain plain) {
  std::unique_ptr<gzFile_s, GzCloser> file(gzopen(path.c_str(), "rb"));
  if (file == nullptr) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  std::string content;
  std::string buffer(1 << 16, '\0');
  while (true) {
    const int bytes = gzread(file.get(), buffer.data(), static_cast<unsigned>(buffer.size()));
    if (plain == Plain::kRefused && gzdirect(file.get()) != 0) {
      return absl::DataLossError(absl::StrCat(path, ": not a gzip file"));
    }
    if (bytes <= 0) break;
    content.append(buffer, 0, static_cast<size_t>(bytes));
  }
  // A file cut short ends with the error set although the last gzread returned what it had.
  int error = Z_OK;
  const char* reason = gzerror(file.get(), &error);
  if (error != Z_OK && error != Z_STREAM_END) {
    return absl::DataLossError(absl::StrCat(path, ": damaged or cut short (", reason, ")"));
  }
  return content;
}

}  // namespace varve::console
