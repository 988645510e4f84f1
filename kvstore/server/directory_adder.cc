#include "kvstore/server/directory_adder.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/units.h"
#include "kvstore/server/disk_stack.h"

namespace varve::server {

DirectoryAdder::DirectoryAdder(tier::RecordLog* log)
    : log_(log),
      pool_(log == nullptr ? nullptr : std::make_unique<base::ThreadPool>("add", kAtATime)) {}

void DirectoryAdder::Close() { waiting_.Close(); }

void DirectoryAdder::Add(const std::string& path, uint64_t capacity_bytes, Answer answer) {
  const std::string work = absl::StrCat(path, "=", capacity_bytes);
  if (!waiting_.Add(work, std::move(answer), kAtATime)) return;
  pool_->Run([this, path, capacity_bytes, work] {
    const absl::Status added = log_->AddDirectory(path, capacity_bytes);
    if (added.ok()) {
      base::LogInfo(path, " is a directory of the nvme tier from now on, with ",
                    base::FormatBytes(capacity_bytes));
      WarnBeyondFileSystem(path, capacity_bytes);
    }
    waiting_.Give(work, added);
  });
}

}  // namespace varve::server
