#include "client/varvectl/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/descriptor.h"
#include "kvstore/base/hash.h"
#include "kvstore/base/status.h"

namespace varve::varvectl {
namespace {

namespace fs = std::filesystem;

constexpr size_t kChunkBytes = 1 << 20;
constexpr int kMaxLinks = 40;  // as the kernel's own limit

absl::Status WriteError(const std::string& file, const char* reason) {
  return absl::FailedPreconditionError(absl::StrCat("cannot write ", file, ": ", reason));
}

// Where the links lead, also when nothing is there.
absl::StatusOr<fs::path> FollowLinks(const std::string& file) {
  fs::path path = file;
  std::error_code error;
  for (int links = 0; fs::is_symlink(path, error); ++links) {
    if (links == kMaxLinks) return WriteError(file, std::strerror(ELOOP));
    path = path.parent_path() / fs::read_symlink(path, error);
    if (error) return WriteError(file, error.message().c_str());
  }
  return path;
}

}  // namespace

absl::StatusOr<std::unique_ptr<OutputFile>> OutputFile::Open(const std::string& file) {
  std::unique_ptr<OutputFile> output(new OutputFile());
  output->target_ = file;
  struct stat old;
  const bool exists = stat(file.c_str(), &old) == 0;
  if (!exists && errno != ENOENT) return output->Error();
  if (exists && !S_ISREG(old.st_mode)) {
    output->out_.emplace(open(file.c_str(), O_WRONLY | O_CLOEXEC));
  } else {
    VARVE_ASSIGN_OR_RETURN(const fs::path target, FollowLinks(file));
    output->target_ = target;
    if (exists) output->old_ = old;
    output->part_ =
        target.parent_path() /
        absl::StrCat(".varvectl-", absl::BytesToHexString(base::RandomBytes(8)), ".part");
    output->out_.emplace(
        open(output->part_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, exists ? 0600 : 0666));
  }
  if (output->out_->get() < 0) {
    const absl::Status failed = output->Error();
    output->part_.clear();
    return failed;
  }
  return output;
}

OutputFile::~OutputFile() {
  if (!part_.empty()) unlink(part_.c_str());
}

absl::Status OutputFile::Error() const { return WriteError(target_, std::strerror(errno)); }

absl::Status OutputFile::Write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(out_->get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error();
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Commit() {
  if (old_.has_value()) {
    // A user who may not give files away keeps them.
    (void)!fchown(out_->get(), old_->st_uid, old_->st_gid);
    if (fchmod(out_->get(), old_->st_mode & 07777) != 0) return Error();
  }
  if (!out_->Close()) return Error();
  if (part_.empty()) return absl::OkStatus();
  if (rename(part_.c_str(), target_.c_str()) != 0) return Error();
  part_.clear();
  return absl::OkStatus();
}

absl::Status WriteFile(const std::string& file, std::string_view bytes,
                       const std::function<void(uint64_t)>& progress) {
  VARVE_ASSIGN_OR_RETURN(const auto output, OutputFile::Open(file));
  for (size_t written = 0; written < bytes.size();) {
    const std::string_view chunk = bytes.substr(written, kChunkBytes);
    VARVE_RETURN_IF_ERROR(output->Write(chunk));
    written += chunk.size();
    progress(written);
  }
  return output->Commit();
}

}  // namespace varve::varvectl
