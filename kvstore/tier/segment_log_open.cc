// A log's beginning: its directories are taken, and what their segments hold is found.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/log.h"
#include "kvstore/base/parallel.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/tier/segment_log_impl.h"

namespace varve::tier {
namespace {

constexpr uint64_t kMinSegments = 4;
constexpr uint64_t kMaxBufferBytes = 64 << 20;
constexpr uint32_t kReadsAtOnce = 8;
// Numbers of records whose segments are gone, or lie in a directory that is not there today, are
// not given again.
constexpr uint64_t kIdGap = 1ull << 32;
constexpr uint64_t kSegmentGap = 1 << 20;
// Numbers by the clock: more records or segments than this nobody writes. They last until 2112.
constexpr int kIdsPerMicrosecondBits = 12;

absl::Status CheckCapacity(const std::string& path, uint64_t capacity, uint64_t segment_bytes) {
  if (capacity >= kMinSegments * segment_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": capacity_bytes is ", capacity, ", allowed: ", kMinSegments,
                   " segments or more, that is ", base::FormatBytes(kMinSegments * segment_bytes)));
}

absl::Status Check(const SegmentLogOptions& options) {
  if (options.directories.empty()) return absl::InvalidArgumentError("no directory is named");
  if (options.segment_bytes < kMinSegmentBytes || options.segment_bytes > kMaxSegmentBytes ||
      options.segment_bytes % kMaxSegmentAlignment != 0) {
    return absl::InvalidArgumentError(absl::StrCat("segment_bytes is ", options.segment_bytes,
                                                   ", allowed: multiples of ", kMaxSegmentAlignment,
                                                   ", ", kMinSegmentBytes, "..", kMaxSegmentBytes));
  }
  if (options.write_buffer_bytes < kReadAlignment || options.write_buffer_bytes > kMaxBufferBytes ||
      options.write_buffer_bytes % kReadAlignment != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("write_buffer_bytes is ", options.write_buffer_bytes,
                     ", allowed: multiples of ", kReadAlignment, ", at most ", kMaxBufferBytes));
  }
  if (options.write_buffers < 1 || options.write_buffers > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("write_buffers is ", options.write_buffers, ", allowed: 1..1024"));
  }
  if (options.queue_depth < 1) {
    return absl::InvalidArgumentError("queue_depth is 0, allowed: 1 or more");
  }
  for (const LogDirectory& directory : options.directories) {
    VARVE_RETURN_IF_ERROR(
        CheckCapacity(directory.path, directory.capacity_bytes, options.segment_bytes));
  }
  return absl::OkStatus();
}

// Each segment is an open file.
void AllowOpenFiles(uint64_t segments) {
  constexpr uint64_t kOthers = 1024;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= segments + kOthers) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < segments + kOthers) {
    base::LogWarning("the disks' directories need ", segments, " open files, ", limit.rlim_cur,
                     " are allowed: make segments larger, or the limit (ulimit -n)");
  }
}

// The first block of a segment, unparsed: through the page cache, whatever its alignment; empty
// when the file is shorter. DATA_LOSS: the device does not give it.
absl::StatusOr<std::string> FirstBlock(BlockIo* io, const std::string& file) {
  const base::Descriptor fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  std::string block(kMinSegmentAlignment, '\0');
  if (fd.get() < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", file));
  const absl::Status read = Await([&](BlockIo::Done done) {
    io->Read(fd.get(), 0, std::as_writable_bytes(std::span(block)), IoClass::kDemand,
             std::move(done));
  });
  if (absl::IsOutOfRange(read)) return std::string();
  if (!read.ok()) return base::Annotate(read, file);
  return block;
}

// Which of two files of one number has more: a copy may be older than what was written since.
uint64_t LastSequence(BlockIo* io, int file, const SegmentHeader& header) {
  const absl::StatusOr<SegmentContents> contents = ReadSegment(io, file, header);
  return contents.ok() ? contents->last_sequence : 0;
}

// entries: all that lies before end_bytes. As a writer does it: when they are on the device.
absl::Status WriteFooter(BlockIo* io, const Segment& segment, std::span<const FooterEntry> entries,
                         uint64_t end_bytes) {
  const std::string footer = EncodeFooter(entries, segment.header);
  const int file = segment.file.get();
  const uint64_t bytes = segment.header.segment_bytes;
  if (end_bytes + footer.size() > bytes) {
    return absl::DataLossError("its records leave no room for one");
  }
  VARVE_ASSIGN_OR_RETURN(Arena memory, Arena::Map(footer.size(), false));
  std::memcpy(memory.memory().data(), footer.data(), footer.size());
  VARVE_RETURN_IF_ERROR(Await([&](BlockIo::Done done) { io->Sync(file, std::move(done)); }));
  return Await([&](BlockIo::Done done) {
    io->Write(file, bytes - footer.size(), memory.memory().first(footer.size()), IoClass::kDemand,
              std::move(done));
  });
}

}  // namespace

// ---- Open

absl::StatusOr<std::unique_ptr<RecordLog>> SegmentLog::Open(const SegmentLogOptions& options,
                                                            BlockIo* io, base::Executor* executor) {
  VARVE_RETURN_IF_ERROR(Check(options));
  uint64_t segments = 0;
  for (const LogDirectory& directory : options.directories) {
    segments += directory.capacity_bytes / options.segment_bytes;
  }
  AllowOpenFiles(segments);
  std::unique_ptr<SegmentLog> log(new SegmentLog(options, io, executor));
  for (const LogDirectory& directory : options.directories) {
    VARVE_ASSIGN_OR_RETURN(auto opened,
                           log->OpenDirectory(directory.path, directory.capacity_bytes));
    base::MutexLock lock(log->state_.mutex);
    log->directories_.push_back(std::move(opened));
  }
  VARVE_RETURN_IF_ERROR(log->OpenSet());
  return log;
}

absl::StatusOr<std::unique_ptr<Directory>> SegmentLog::OpenDirectory(const std::string& path,
                                                                     uint64_t capacity_bytes) {
  auto directory = std::make_unique<Directory>(io_, options_.queue_depth);
  directory->path = path;
  directory->capacity_bytes = capacity_bytes / options_.segment_bytes * options_.segment_bytes;
  directory->limit_bytes = directory->capacity_bytes;
  if (const auto identity = SegmentFiles::IdentityOf(path); identity.has_value()) {
    base::MutexLock lock(state_.mutex);
    for (const auto& each : directories_) {
      if (each->files->identity() != identity) continue;
      const std::string name =
          path == each->path ? "" : absl::StrCat("the same as ", each->path, ", ");
      return absl::FailedPreconditionError(
          absl::StrCat(path, " is ", name, "one of the directories already"));
    }
  }
  VARVE_ASSIGN_OR_RETURN(directory->files, SegmentFiles::Open(path));
  Reclaimer::Owner* const owner = this;
  directory->reclaimer = std::make_unique<Reclaimer>(&state_, directory.get(), owner);
  const auto writer = [&](bool moves) {
    return SegmentWriter::Create({options_.write_buffer_bytes, options_.write_buffers,
                                  moves ? IoClass::kPrefetch : IoClass::kDemand},
                                 {directory.get(), moves}, this, &directory->io,
                                 &directory->threads);
  };
  VARVE_ASSIGN_OR_RETURN(directory->appends, writer(false));
  VARVE_ASSIGN_OR_RETURN(directory->moves, writer(true));
  return directory;
}

absl::Status SegmentLog::CheckStoreId(const Directory& directory, const SegmentHeader& header) {
  if (!has_store_id_) {
    store_id_ = header.store_id;
    has_store_id_ = true;
  }
  if (header.store_id == store_id_) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(directory.path, " belongs to the log ", Hex(header.store_id),
                   ", the directories before it to ", Hex(store_id_),
                   ": two logs cannot be joined; start with the directories of one of them, and "
                   "remove the files of the others before they are added"));
}

absl::Status SegmentLog::OpenSegments(Directory& directory) {
  VARVE_ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, directory.files->List());
  for (const uint64_t number : numbers) {
    last_segment_ = std::max(last_segment_, number);
    VARVE_RETURN_IF_ERROR(OpenSegmentFile(directory, number));
  }
  return absl::OkStatus();
}

absl::Status SegmentLog::OpenSegmentFile(Directory& directory, uint64_t number) {
  const std::string name = absl::StrCat(directory.path, "/", number, ".seg");
  VARVE_ASSIGN_OR_RETURN(const bool is_file, directory.files->IsFile(number));
  if (!is_file) {
    base::LogWarning(name, " is no file: it is left where it is");
    ++state_.damaged_records;
    return absl::OkStatus();
  }
  const absl::StatusOr<std::string> block = FirstBlock(io_, name);
  if (!block.ok() && !absl::IsDataLoss(block.status())) return block.status();
  absl::StatusOr<SegmentHeader> header =
      block.ok() ? ParseSegmentHeader(std::as_bytes(std::span(*block))) : block.status();
  if (absl::IsFailedPrecondition(header.status())) {
    return base::Annotate(header.status(), directory.path);
  }
  const bool headless = !header.ok();
  if (headless) {
    // Not written before a crash, damaged, or not to be read now: what can be found in it still
    // counts.
    if (!block.ok() || block->find_first_not_of('\0') != std::string::npos) {
      base::LogWarning(directory.path, ": the header of segment ", number,
                       block.ok() ? " is damaged" : " cannot be read");
      ++state_.damaged_records;
    }
    header = SegmentHeader{number, options_.segment_bytes, directory.files->alignment(), store_id_};
  } else {
    VARVE_RETURN_IF_ERROR(CheckStoreId(directory, *header));
    if (header->number != number) return SetAside(directory, number, header->number);
    // With files of several sizes room for one of another size may never come.
    if (header->segment_bytes != options_.segment_bytes) {
      return absl::FailedPreconditionError(absl::StrCat(
          directory.path, " has segments of ", header->segment_bytes, " bytes; at this start ",
          options_.segment_bytes,
          " bytes were given (nvme_tier.segment_bytes): only empty directories take another size"));
    }
  }
  VARVE_ASSIGN_OR_RETURN(const int file, directory.files->OpenSegment(number, header->alignment));
  auto segment = std::make_unique<Segment>(*header, file, io_);
  segment->holding = &directory.holding;
  segment->directory = &directory;
  segment->sealed = true;
  segment->headless = headless;
  const auto other = state_.table.segments().find(number);
  if (other != state_.table.segments().end()) {
    Segment& known = *other->second;
    const bool newer =
        LastSequence(io_, file, *header) > LastSequence(io_, known.file.get(), known.header);
    VARVE_RETURN_IF_ERROR(SetAside(newer ? *known.directory : directory, number, number));
    if (!newer) return absl::OkStatus();
    state_.table.Remove(&known);
  }
  state_.table.Add(std::move(segment));
  return absl::OkStatus();
}

// Were it taken at a later start, when the other one has gone, what was removed would be back.
absl::Status SegmentLog::SetAside(Directory& directory, uint64_t number, uint64_t is) {
  VARVE_ASSIGN_OR_RETURN(const std::string aside, directory.files->SetAside(number));
  base::LogWarning(directory.path, ": ", number, ".seg is a copy of segment ", is,
                   ", or was renamed: it is left out, and is called ", aside, " from now on");
  ++state_.damaged_records;
  return absl::OkStatus();
}

// ---- Recover

absl::Status SegmentLog::Recover(absl::FunctionRef<void(const Recovered&)> fn) {
  std::vector<Segment*> segments;
  {
    base::MutexLock lock(state_.mutex);
    for (const auto& [number, segment] : state_.table.segments()) segments.push_back(segment.get());
  }
  // Of copies of a record the oldest counts: a segment that records were being moved to when the
  // process ended is empty then, and its space comes back.
  std::sort(segments.begin(), segments.end(),
            [](const Segment* a, const Segment* b) { return a->header.number < b->header.number; });
  std::vector<absl::StatusOr<SegmentContents>> read(segments.size(), SegmentContents{});
  const auto read_one = [&](uint32_t piece, uint32_t) {
    read[piece] = ReadSegment(io_, segments[piece]->file.get(), segments[piece]->header);
  };
  base::ParallelFor(executor_, kReadsAtOnce, static_cast<uint32_t>(segments.size()), read_one);
  std::vector<SegmentContents> contents;
  for (absl::StatusOr<SegmentContents>& each : read) {
    if (!each.ok()) return each.status();
    contents.push_back(*std::move(each));
  }
  std::vector<Directory*> directories;
  std::vector<const FooterEntry*> live;
  uint64_t damaged = 0;
  {
    base::MutexLock lock(state_.mutex);
    live = TakeContents(segments, contents);
    damaged = state_.damaged_records;
    for (const auto& directory : directories_) directories.push_back(directory.get());
  }
  if (damaged > 0) base::LogWarning(damaged, " damaged records on the disks were left out");
  for (const FooterEntry* entry : live) fn({entry->sequence, entry->label, entry->payload_bytes});
  SealRecovered(segments, contents);
  for (Directory* directory : directories) {
    MakeSpare(*directory);
    directory->reclaimer->Wake();
  }
  return absl::OkStatus();
}

void SegmentLog::MakeSpare(Directory& directory) {
  const absl::Status made = [&] {
    const DirectoryIo::Call call(&directory.io);
    return directory.files->MakeSpare(options_.segment_bytes);
  }();
  if (!made.ok()) base::LogWarning(directory.path, " has no spare file: ", made.message());
  base::MutexLock lock(state_.mutex);
  directory.spare = made.ok();
}

// What a crash left without a footer would be read through at every start.
void SegmentLog::SealRecovered(const std::vector<Segment*>& segments,
                               std::vector<SegmentContents>& contents) {
  std::vector<size_t> unsealed;
  {
    base::MutexLock lock(state_.mutex);
    for (size_t i = 0; i < segments.size(); ++i) {
      const SegmentContents& found = contents[i];
      // What could not be read now may be readable later.
      if (found.footer || found.cut_off || found.unreadable || segments[i]->headless) continue;
      if (segments[i]->live_bytes > 0 && state_.space.TakesWrites(*segments[i]->directory)) {
        unsealed.push_back(i);
      }
    }
  }
  const auto seal = [&](uint32_t piece, uint32_t) {
    const Segment& segment = *segments[unsealed[piece]];
    SegmentContents& found = contents[unsealed[piece]];
    std::vector<FooterEntry> entries = std::move(found.records);
    entries.insert(entries.end(), found.tombstone_records.begin(), found.tombstone_records.end());
    std::sort(entries.begin(), entries.end(),
              [](const FooterEntry& a, const FooterEntry& b) { return a.offset < b.offset; });
    const absl::Status sealed = WriteFooter(io_, segment, entries, found.end_bytes);
    if (!sealed.ok()) {
      base::LogWarning(segment.directory->path, ": segment ", segment.header.number,
                       " stays without a footer: ", sealed.message());
    }
  };
  base::ParallelFor(executor_, kReadsAtOnce, static_cast<uint32_t>(unsealed.size()), seal);
}

std::vector<const FooterEntry*> SegmentLog::TakeContents(const std::vector<Segment*>& segments,
                                                         std::vector<SegmentContents>& contents) {
  std::vector<const FooterEntry*> live;
  absl::flat_hash_set<RecordId> gone;
  absl::flat_hash_set<std::pair<RecordId, uint64_t>> said;
  for (size_t i = 0; i < segments.size(); ++i) {
    // What was left free when it was sealed can be won by moving its records, unless they are too
    // large to lie any better.
    const uint64_t bytes = segments[i]->header.segment_bytes;
    const bool filled =
        contents[i].end_bytes + contents[i].greatest_bytes + state_.space.SparedBytes() > bytes;
    segments[i]->end_bytes = filled ? contents[i].end_bytes : bytes;
    RecordTable::CountWaste(segments[i], state_.space.SparedBytes());
    if (contents[i].cut_off) {
      base::LogWarning(segments[i]->directory->path, ": segment ", segments[i]->header.number,
                       " is cut off");
      ++state_.damaged_records;
    }
    segments[i]->unreadable = contents[i].unreadable;
    segments[i]->tombstones = std::move(contents[i].tombstones);
    for (const Tombstone& tombstone : segments[i]->tombstones) {
      gone.insert(tombstone.id);
      said.emplace(tombstone.id, tombstone.segment);
    }
    last_id_ = std::max(last_id_, contents[i].last_sequence);
    state_.damaged_records += contents[i].damaged_records;
  }
  for (size_t i = 0; i < segments.size(); ++i) {
    for (const FooterEntry& entry : contents[i].records) {
      const RecordId id = entry.sequence;
      if (gone.contains(id)) {
        // A copy from a start without the directory that says so.
        const uint64_t number = segments[i]->header.number;
        if (!said.contains(std::pair(id, number))) unwritten_.push_back({id, number});
        continue;
      }
      if (state_.table.Find(id) != nullptr) {
        segments[i]->ids.push_back(id);
        state_.table.AddCopy(id, segments[i]);
        continue;
      }
      const RecordExtent extent = ExtentOf(static_cast<uint32_t>(entry.label.size()),
                                           entry.payload_bytes, segments[i]->header.alignment);
      const Place place{segments[i], static_cast<uint32_t>(entry.offset),
                        static_cast<uint32_t>(extent.payload_offset),
                        static_cast<uint32_t>(extent.total_bytes)};
      state_.table.Reserve(id, place);
      state_.table.Commit(id, place);
      live.push_back(&entry);
    }
  }
  const uint64_t now = static_cast<uint64_t>(absl::ToUnixMicros(absl::Now()));
  // Another part of the directories may be there at other starts, and goes on from other numbers:
  // those of its time.
  const bool by_clock = !absent_.empty();
  const uint64_t clock_id = now << kIdsPerMicrosecondBits;
  last_id_ = by_clock && clock_id > last_id_ ? clock_id : last_id_ + kIdGap;
  last_segment_ = by_clock && now > last_segment_ ? now : last_segment_ + kSegmentGap;
  return live;
}

// ---- AddDirectory

// Not where they are given up: what ends a directory runs on its own strand.
void SegmentLog::FreeRetired() {
  std::vector<std::unique_ptr<Directory>> retired;
  {
    base::MutexLock lock(state_.mutex);
    retired.swap(retired_);
  }
  for (const std::unique_ptr<Directory>& directory : retired) {
    directory->reclaimer->Settle();
    directory->reclaimer->Stop();
    directory->appends->Close();
    directory->moves->Close();
  }
}

absl::Status SegmentLog::AddDirectory(const std::string& path, uint64_t capacity_bytes) {
  VARVE_RETURN_IF_ERROR(CheckCapacity(path, capacity_bytes, options_.segment_bytes));
  FreeRetired();
  VARVE_ASSIGN_OR_RETURN(std::unique_ptr<Directory> directory, OpenDirectory(path, capacity_bytes));
  VARVE_ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, directory->files->List());
  if (!numbers.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " has ", numbers.size(), " segments: only an empty directory can be added"));
  }
  MakeSpare(*directory);
  base::MutexLock set(set_mutex_);
  {
    base::MutexLock lock(state_.mutex);
    AllowOpenFiles(state_.table.segments().size() + capacity_bytes / options_.segment_bytes);
    Join(*directory);
    directories_.push_back(std::move(directory));
    NoteAbsentLocked();
  }
  WriteSets();
  return absl::OkStatus();
}

}  // namespace varve::tier
