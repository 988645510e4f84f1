#include "client/console/file_io.h"

#include <zlib.h>

#include <fstream>
#include <memory>
#include <sstream>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"

namespace varve::console {
namespace {

struct GzCloser {
  void operator()(gzFile_s* file) const { gzclose_r(file); }
};

using GzFile = std::unique_ptr<gzFile_s, GzCloser>;

constexpr size_t kPieceBytes = 1 << 16;

absl::StatusOr<GzFile> Open(const std::string& path) {
  GzFile file(gzopen(path.c_str(), "rb"));
  if (file == nullptr) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  return file;
}

// The next bytes, as many as there are in the buffer; 0 at the end.
absl::StatusOr<size_t> Read(const GzFile& file, const std::string& path, std::string& buffer) {
  const int bytes = gzread(file.get(), buffer.data(), static_cast<unsigned>(buffer.size()));
  if (bytes > 0) return static_cast<size_t>(bytes);
  // A file cut short ends with the error set although the last gzread returned what it had.
  int error = Z_OK;
  const char* reason = gzerror(file.get(), &error);
  if (error == Z_OK || error == Z_STREAM_END) return 0;
  return absl::DataLossError(absl::StrCat(path, ": damaged or cut short (", reason, ")"));
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  std::ostringstream content;
  content << in.rdbuf();
  if (in.bad() || content.bad()) return absl::DataLossError(absl::StrCat(path, ": read failed"));
  return std::move(content).str();
}

absl::StatusOr<std::string> ReadGzipFile(const std::string& path) {
  VARVE_ASSIGN_OR_RETURN(const GzFile file, Open(path));
  std::string content;
  std::string buffer(kPieceBytes, '\0');
  while (true) {
    VARVE_ASSIGN_OR_RETURN(const size_t bytes, Read(file, path, buffer));
    if (gzdirect(file.get()) != 0) {
      return absl::DataLossError(absl::StrCat(path, ": not a gzip file"));
    }
    if (bytes == 0) return content;
    content.append(buffer, 0, bytes);
  }
}

absl::Status ReadLines(const std::string& path, size_t max_line_bytes,
                       absl::FunctionRef<absl::Status(absl::string_view line)> fn) {
  VARVE_ASSIGN_OR_RETURN(const GzFile file, Open(path));
  std::string buffer(kPieceBytes, '\0');
  std::string line;  // its beginning, as far as it has been read
  size_t number = 1;
  const auto add = [&](absl::string_view text) -> absl::Status {
    if (line.size() + text.size() <= max_line_bytes) {
      line.append(text.data(), text.size());
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(path, ": line ", number, " is longer than ",
                                                   base::FormatBytes(max_line_bytes)));
  };
  const auto end = [&] {
    const absl::Status status = base::Annotate(fn(line), absl::StrCat(path, ": line ", number));
    line.clear();
    ++number;
    return status;
  };
  while (true) {
    VARVE_ASSIGN_OR_RETURN(const size_t bytes, Read(file, path, buffer));
    if (bytes == 0) return line.empty() ? absl::OkStatus() : end();
    absl::string_view rest(buffer.data(), bytes);
    for (size_t at = 0; (at = rest.find('\n')) != absl::string_view::npos;) {
      VARVE_RETURN_IF_ERROR(add(rest.substr(0, at)));
      VARVE_RETURN_IF_ERROR(end());
      rest.remove_prefix(at + 1);
    }
    VARVE_RETURN_IF_ERROR(add(rest));
  }
}

}  // namespace varve::console
