#include "client/bench/nvme_bench.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/bench/append_stream.h"
#include "client/bench/fio_peer.h"
#include "client/console/stop.h"
#include "kvstore/base/mutex.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/tier/arena.h"
#include "kvstore/tier/block_io.h"

namespace varve::client {
namespace {

using tier::BlockIo;

// What the store writes at once, and an object of common models.
constexpr size_t kWriteBytes = 1 << 20;
constexpr size_t kReadBytes = 128 << 10;
constexpr uint64_t kMaxFileBytes = 1ull << 40;
constexpr size_t BlockBytes(bool read) { return read ? kReadBytes : kWriteBytes; }

uint32_t MaxDepth(const NvmeOptions& nvme) {
  return *std::max_element(nvme.depths.begin(), nvme.depths.end());
}

// A file of the benchmark, with all its blocks, open for direct input and output. Removed at the
// end.
class BenchFile {
 public:
  static absl::StatusOr<std::unique_ptr<BenchFile>> Make(const std::string& directory,
                                                         uint64_t bytes) {
    std::string path = absl::StrCat(directory, "/varve-bench-", getpid(), ".data");
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0) {
      const int error = errno;
      if (error == EINVAL) unlink(path.c_str());
      return error == EINVAL ? absl::FailedPreconditionError(absl::StrCat(
                                   directory, ": its file system has no direct input and output"))
                             : absl::ErrnoToStatus(error, path);
    }
    std::unique_ptr<BenchFile> file(new BenchFile(std::move(path), fd));
    if (fallocate(fd, 0, 0, static_cast<off_t>(bytes)) != 0) {
      return absl::ErrnoToStatus(
          errno, absl::StrCat(directory, ": no ", base::FormatBytes(bytes), " for the file"));
    }
    return file;
  }
  ~BenchFile() {
    close(fd_);
    unlink(path_.c_str());
  }
  BenchFile(const BenchFile&) = delete;
  BenchFile& operator=(const BenchFile&) = delete;

  const std::string& path() const { return path_; }
  int fd() const { return fd_; }

 private:
  BenchFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  const std::string path_;
  const int fd_;
};

// Random bytes: some devices look for zeros.
absl::StatusOr<tier::Arena> MapBuffers(uint32_t depth, bool huge_pages) {
  VARVE_ASSIGN_OR_RETURN(tier::Arena arena, tier::Arena::Map(depth * kWriteBytes, huge_pages));
  const std::span<std::byte> memory = arena.memory();
  std::mt19937_64 random(20261121);
  for (size_t at = 0; at < memory.size(); at += sizeof(uint64_t)) {
    const uint64_t number = random();
    std::memcpy(memory.data() + at, &number, sizeof(number));
  }
  return arena;
}

// Keeps `depth` operations under way for a time: each begins in the Done of the one before it.
class Stream {
 public:
  Stream(BlockIo& io, int fd, uint64_t file_bytes, std::span<std::byte> memory, bool read)
      : io_(io),
        fd_(fd),
        block_bytes_(BlockBytes(read)),
        blocks_(file_bytes / block_bytes_),
        memory_(memory),
        read_(read) {}

  // Once over all blocks, in order.
  absl::Status RunOver(uint32_t depth) {
    operations_left_ = blocks_;
    Series unkept;
    return Run(depth, /*until=*/1e300, unkept);
  }

  absl::Status RunFor(uint32_t depth, double seconds, Series& series) {
    operations_left_ = UINT64_MAX;
    return Run(depth, NowSeconds() + seconds, series);
  }

 private:
  absl::Status Run(uint32_t depth, double until, Series& series) {
    const double begin = NowSeconds();
    {
      base::MutexLock lock(mutex_);
      until_ = until;
      lanes_ = depth;
      latencies_.clear();
      status_ = absl::OkStatus();
    }
    for (uint32_t lane = 0; lane < depth; ++lane) Next(lane);
    base::MutexLock lock(mutex_);
    while (lanes_ > 0) ended_.Wait(mutex_);
    VARVE_RETURN_IF_ERROR(status_);
    VARVE_RETURN_IF_ERROR(console::CheckStopped());
    series.rate_per_round.push_back(static_cast<double>(latencies_.size() * block_bytes_) /
                                    (NowSeconds() - begin));
    series.batch_seconds.insert(series.batch_seconds.end(), latencies_.begin(), latencies_.end());
    return absl::OkStatus();
  }

  // The lane's next operation, or its end.
  void Next(uint32_t lane) {
    const double now = NowSeconds();
    uint64_t block;
    {
      base::MutexLock lock(mutex_);
      if (!status_.ok() || now >= until_ || operations_left_ == 0 || console::Stopped()) {
        if (--lanes_ == 0) ended_.NotifyAll();
        return;
      }
      --operations_left_;
      block = read_ ? random_() % blocks_ : next_++ % blocks_;
    }
    const uint64_t offset = block * block_bytes_;
    const auto buffer = memory_.subspan(lane * block_bytes_, block_bytes_);
    auto done = [this, lane, now](absl::Status status) {
      {
        base::MutexLock lock(mutex_);
        latencies_.push_back(NowSeconds() - now);
        status_.Update(status);
      }
      Next(lane);
    };
    read_ ? io_.Read(fd_, offset, buffer, tier::IoClass::kDemand, std::move(done))
          : io_.Write(fd_, offset, buffer, tier::IoClass::kDemand, std::move(done));
  }

  BlockIo& io_;
  const int fd_;
  const size_t block_bytes_;
  const uint64_t blocks_;
  const std::span<std::byte> memory_;
  const bool read_;

  base::Mutex mutex_;
  base::CondVar ended_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_){20261121};
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t operations_left_ ABSL_GUARDED_BY(mutex_) = 0;
  double until_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t lanes_ ABSL_GUARDED_BY(mutex_) = 0;  // with an operation under way
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::vector<double> latencies_ ABSL_GUARDED_BY(mutex_);
};

class NvmeBench {
 public:
  NvmeBench(const NvmeOptions& nvme, const BenchOptions& bench)
      : nvme_(nvme), bench_(bench), max_depth_(MaxDepth(nvme)) {}

  absl::StatusOr<std::vector<BenchRow>> Run() {
    if (nvme_.against_fio) VARVE_RETURN_IF_ERROR(CheckFio());
    VARVE_RETURN_IF_ERROR(Prepare());
    for (const uint32_t depth : nvme_.depths) {
      for (const std::string& memory : nvme_.memory) {
        VARVE_RETURN_IF_ERROR(AddBlocks(depth, memory));
      }
      VARVE_RETURN_IF_ERROR(AddAppends(depth));
    }
    return std::move(rows_);
  }

 private:
  absl::Status Prepare() {
    const tier::BlockIoOptions options{.queue_depth = max_depth_};
    absl::StatusOr<std::unique_ptr<tier::BlockIo>> io =
        nvme_.io == "threads" ? tier::MakeThreadIo(options) : tier::MakeUringIo(options);
    if (absl::IsUnavailable(io.status())) {
      return absl::UnavailableError(
          absl::StrCat(io.status().message(), "; --io threads does without, and without fio"));
    }
    if (!io.ok()) return io.status();
    io_ = *std::move(io);
    VARVE_ASSIGN_OR_RETURN(file_, BenchFile::Make(nvme_.directory, nvme_.file_bytes));
    io_->AddFile(file_->fd());
    // Blocks that were never written are slow to write, and read without the device.
    VARVE_ASSIGN_OR_RETURN(const tier::Arena memory, MapBuffers(max_depth_, /*huge_pages=*/true));
    Stream fill(*io_, file_->fd(), nvme_.file_bytes, memory.memory(), /*read=*/false);
    return base::Annotate(fill.RunOver(max_depth_), "filling the file");
  }

  absl::Status AddBlocks(uint32_t depth, const std::string& kind) {
    VARVE_ASSIGN_OR_RETURN(const tier::Arena memory, MapBuffers(depth, kind == "huge"));
    io_->AddBuffer(memory.memory());
    absl::Status status;
    for (const bool read : {false, true}) {
      Stream stream(*io_, file_->fd(), nvme_.file_bytes, memory.memory(), read);
      status.Update(AddRow(
          absl::StrCat("nvme/", read ? "read" : "write", "/", kind), BlockBytes(read), depth, read,
          [&](double seconds, Series& series) { return stream.RunFor(depth, seconds, series); }));
    }
    io_->RemoveBuffer(memory.memory());
    return status;
  }

  // Of `depth` writes of the log's at once; fio writes as many.
  absl::Status AddAppends(uint32_t depth) {
    VARVE_ASSIGN_OR_RETURN(const tier::Arena payload, MapBuffers(1, /*huge_pages=*/true));
    VARVE_ASSIGN_OR_RETURN(const auto stream,
                           AppendStream::Open(nvme_.directory, nvme_.file_bytes, depth, io_.get(),
                                              payload.memory().first(kReadBytes)));
    constexpr uint32_t kRecordsPerWrite = kWriteBytes / kReadBytes;
    VARVE_RETURN_IF_ERROR(stream->RunOver(depth * kRecordsPerWrite));
    return AddRow("nvme/append", kReadBytes, depth, /*read=*/false,
                  [&](double seconds, Series& series) {
                    return stream->RunFor(depth * kRecordsPerWrite, seconds, series);
                  });
  }

  absl::Status AddRow(const std::string& op, uint64_t value_bytes, uint32_t depth, bool fio_reads,
                      const std::function<absl::Status(double, Series&)>& round) {
    std::vector<double> fio_p50, fio_p99;
    std::vector<Contestant> contestants = {{"varve", round}};
    if (nvme_.against_fio) {
      contestants.push_back({"fio", [&](double seconds, Series& series) -> absl::Status {
                               const FioJob job{file_->path(), nvme_.file_bytes,
                                                fio_reads,     BlockBytes(fio_reads),
                                                depth,         seconds};
                               VARVE_ASSIGN_OR_RETURN(const FioResult result, RunFio(job));
                               series.rate_per_round.push_back(result.bytes_per_second);
                               fio_p50.push_back(result.p50_seconds);
                               fio_p99.push_back(result.p99_seconds);
                               return absl::OkStatus();
                             }});
    }
    VARVE_ASSIGN_OR_RETURN(const auto series, Compete(contestants, bench_.rounds, bench_.seconds));
    BenchRow row = MakeRow(op, bench_, value_bytes, depth, 1, series.at("varve"));
    row.transport = nvme_.io;
    if (nvme_.against_fio) {
      const Series& fio = series.at("fio");
      row.extra["ratio_fio"] = MedianRatio(series.at("varve"), fio);
      row.extra["fio_gb_per_s"] = fio.rate() / 1e9;
      row.extra["fio_spread"] = Spread(fio);
      row.extra["fio_p50_us"] = Median(fio_p50) * 1e6;
      row.extra["fio_p99_us"] = Median(fio_p99) * 1e6;
    }
    rows_.push_back(std::move(row));
    return absl::OkStatus();
  }

  const NvmeOptions& nvme_;
  const BenchOptions& bench_;
  const uint32_t max_depth_;
  std::unique_ptr<BenchFile> file_;
  std::unique_ptr<BlockIo> io_;
  std::vector<BenchRow> rows_;
};

uint64_t LeastFileBytes(const NvmeOptions& nvme) {
  return std::max<uint64_t>(64 << 20, 8 * kWriteBytes * MaxDepth(nvme));
}

void CheckFileBytes(const NvmeOptions& nvme) {
  const uint64_t least = LeastFileBytes(nvme);
  if (nvme.file_bytes >= least && nvme.file_bytes <= kMaxFileBytes) return;
  throw CLI::ValidationError(
      "--size",
      absl::StrCat(base::FormatBytes(nvme.file_bytes), ": allowed with --depth ", MaxDepth(nvme),
                   " ", base::FormatBytes(least), " to ", base::FormatBytes(kMaxFileBytes)));
}

}  // namespace

void AddNvmeCommand(CLI::App& app, NvmeOptions& nvme) {
  CLI::App* sub = app.add_subcommand(
      "nvme", "a disk as the store uses it: writes of 1 MiB, random reads and appends of 128 KiB");
  sub->add_option("--dir", nvme.directory, "A directory of the disk; a file is made and removed")
      ->required()
      ->check(CLI::ExistingDirectory);
  sub->add_option_function<std::string>(
      "--size",
      [&nvme](const std::string& text) {
        const auto bytes = base::ParseBytes(text);
        if (!bytes.ok())
          throw CLI::ValidationError("--size", std::string(bytes.status().message()));
        nvme.file_bytes = *bytes;
      },
      "Bytes of the file, much more than the disk caches (default 4GiB)");
  sub->final_callback([&nvme] { CheckFileBytes(nvme); });
  sub->add_option("--depth", nvme.depths, "Operations under way, comma separated (default 16)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024));
  sub->add_option("--memory", nvme.memory,
                  "Buffers in small pages, as fio's, or huge ones, comma separated (default both)")
      ->delimiter(',')
      ->check(CLI::IsMember({"small", "huge"}));
  sub->add_option("--io", nvme.io, "io_uring (default) or threads")
      ->check(CLI::IsMember({"io_uring", "threads"}));
  sub->add_option_function<std::string>(
         "--against", [&nvme](const std::string&) { nvme.against_fio = true; },
         "Also measure a peer on the same file, in turns: fio")
      ->check(CLI::IsMember({"fio"}));
}

absl::StatusOr<std::vector<BenchRow>> BenchNvme(const NvmeOptions& nvme,
                                                const BenchOptions& bench) {
  return NvmeBench(nvme, bench).Run();
}

}  // namespace varve::client
