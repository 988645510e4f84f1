#include "gpu_worker/mass_meter.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "gpu_worker/attention.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"

namespace varve::worker {
namespace {

constexpr uint32_t kMassPages = 256;  // fetched at a time

}  // namespace

void MassMeter::Count(std::span<const HeadWork> works) const {
  for (const HeadWork& work : works) {
    SequenceStats& stats = work.sequence->stats();
    if (work.kept_bound) {
      stats.mass_bound_sum += *work.kept_bound;
      ++stats.mass_bound_samples;
      services_->metrics->mass_bound.Observe(*work.kept_bound);
    }
    if (work.kept_estimate) {
      stats.mass_estimate_sum += *work.kept_estimate;
      ++stats.mass_estimate_samples;
      services_->metrics->mass_estimate.Observe(*work.kept_estimate);
    }
  }
}

void MassMeter::Sample(std::span<const HeadWork> works) {
  for (const HeadWork& work : works) {
    if (work.sequence->has_lost()) continue;  // of the whole nobody can tell any more
    const absl::StatusOr<double> kept = KeptMass(work);
    if (!kept.ok()) {
      base::LogWarning("no sample of the attention mass: ", kept.status().ToString());
      return;
    }
    work.sequence->stats().mass_sum += *kept;
    ++work.sequence->stats().mass_samples;
    services_->metrics->mass.Observe(*kept);
  }
}

absl::StatusOr<double> MassMeter::KeptMass(const HeadWork& work) {
  base::MutexLock lock(mutex_);
  const uint32_t group = services_->options.geometry.group_size();
  const uint32_t total = work.sequence->TotalPages(work.layer);
  std::vector<float> log_mass(size_t{group} * total);
  VARVE_RETURN_IF_ERROR(LogMasses(work, log_mass));
  double kept = 0;
  for (uint32_t g = 0; g < group; ++g) {
    const std::span<const float> row = std::span(log_mass).subspan(size_t{g} * total, total);
    const double max = *std::max_element(row.begin(), row.end());
    const auto mass = [&](uint32_t page) { return std::exp(row[page] - max); };
    double all = 0;
    double attended = 0;
    for (uint32_t page = 0; page < total; ++page) all += mass(page);
    for (uint32_t page : work.selected()) attended += mass(page);
    for (uint32_t page = work.candidates; page < total; ++page) attended += mass(page);
    kept += attended / all / group;
  }
  return kept;
}

// log_mass: [group][pages of the sequence].
absl::Status MassMeter::LogMasses(const HeadWork& work, std::vector<float>& log_mass) {
  const page::Geometry& geometry = services_->options.geometry;
  const page::AttentionShape shape = ShapeOf(geometry);
  const uint32_t total = work.sequence->TotalPages(work.layer);
  std::vector<float> piece;
  for (uint32_t first = 0; first < total; first += kMassPages) {
    const uint32_t count = std::min(kMassPages, total - first);
    std::vector<uint32_t> missing;
    std::vector<page::PageView> views;
    for (uint32_t page = first; page < first + count; ++page) {
      if (!work.hot().resident(page)) missing.push_back(page);
    }
    if (!missing.empty()) VARVE_RETURN_IF_ERROR(FetchKeys(work, missing));
    size_t fetched = 0;
    for (uint32_t page = first; page < first + count; ++page) {
      const uint32_t tokens = work.sequence->PageTokens(work.layer, page);
      if (work.hot().resident(page)) {
        views.push_back(services_->pool->ViewOf(work.hot().slot(page), tokens));
      } else {
        const std::byte* keys = memory_->bytes().data() + fetched++ * geometry.part_bytes();
        views.push_back({keys, nullptr, tokens});
      }
    }
    piece.resize(size_t{shape.group_size} * count);
    page::PageLogMass(shape, work.q, views, piece.data());
    for (uint32_t g = 0; g < shape.group_size; ++g) {
      std::copy_n(piece.begin() + g * count, count, log_mass.begin() + g * total + first);
    }
  }
  return absl::OkStatus();
}

absl::Status MassMeter::FetchKeys(const HeadWork& work, std::span<const uint32_t> pages) {
  const size_t part = services_->options.geometry.part_bytes();
  if (memory_ == nullptr) {
    VARVE_ASSIGN_OR_RETURN(memory_, services_->client->Allocate(kMassPages * part));
  }
  std::vector<client::GetItem> items(pages.size());
  for (size_t i = 0; i < pages.size(); ++i) {
    items[i].key = *page::MakeObjectKey(work.sequence->block_hash(pages[i]), work.layer);
    items[i].range = {page::Part::kK, work.head, 1};
    items[i].destinations = {{memory_.get(), i * part, part}};
  }
  const auto got = services_->client->Get(items);
  if (!got.ok()) {
    memory_.reset();  // the store may still write into it
    return got.status();
  }
  const std::vector<client::GetResult>& results = *got;
  for (size_t i = 0; i < pages.size(); ++i) {
    if (results[i].hit && results[i].bytes == part) continue;
    memory_.reset();
    return absl::DataLossError(
        absl::StrCat("keys of page ", pages[i], " of layer ", work.layer, ", KV head ", work.head,
                     " could not be read to measure the attention mass: ", results[i].message));
  }
  return absl::OkStatus();
}

}  // namespace varve::worker
