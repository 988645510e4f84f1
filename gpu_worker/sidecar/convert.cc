#include "gpu_worker/sidecar/convert.h"

#include "absl/strings/str_cat.h"

namespace varve::worker {

absl::StatusOr<page::Geometry> FromProto(const v1::Geometry& geometry) {
  const page::Geometry out = client::FromProto(geometry);
  if (const auto wrong = out.Invalid()) {
    return absl::InvalidArgumentError(absl::StrCat("geometry: ", *wrong));
  }
  return out;
}

absl::StatusOr<page::DigestKind> FromProto(v1::DigestKind kind) {
  if (kind < v1::DIGEST_KIND_MINMAX || kind > v1::DIGEST_KIND_MINMAX_SIGN4) {
    return absl::InvalidArgumentError(
        absl::StrCat("digest_kind is ", static_cast<int>(kind),
                     ", allowed: MINMAX, BOX_MEAN, MEAN, SPHERE, "
                     "SIGN1, SIGN2, SIGN4, MINMAX_SIGN1, MINMAX_SIGN2, MINMAX_SIGN4"));
  }
  return static_cast<page::DigestKind>(kind);
}

std::string RecallPathName(RecallPath path) {
  return path == RecallPath::kStore ? "store" : "worker";
}

absl::StatusOr<RecallPath> ParseRecallPath(const std::string& name) {
  if (name == "worker") return RecallPath::kWorker;
  if (name == "store") return RecallPath::kStore;
  return absl::InvalidArgumentError(
      absl::StrCat("recall_path is '", name, "', allowed: worker, store"));
}

void ToProto(const SequenceInfo& info, v1::SequenceInfo* out) {
  out->set_sequence_id(info.id);
  out->set_context_id(info.context_id);
  out->set_tokens(info.tokens);
  out->set_blocks(info.blocks);
  out->set_budget_pages(info.budget_pages);
  v1::SequenceStats* stats = out->mutable_stats();
  stats->set_steps(info.stats.steps);
  stats->set_selected_pages(info.stats.selected_pages);
  stats->set_hot_pages(info.stats.hot_pages);
  stats->set_recalled_pages(info.stats.recalled_pages);
  stats->set_recalled_bytes(info.stats.recalled_bytes);
  stats->set_evicted_pages(info.stats.evicted_pages);
  stats->set_saved_objects(info.stats.saved_objects);
  stats->set_lost_pages(info.stats.lost_pages);
  stats->set_prefetched_pages(info.stats.prefetched_pages);
  stats->set_prefetch_used_pages(info.stats.prefetch_used_pages);
  stats->set_prefetch_wasted_pages(info.stats.prefetch_wasted_pages);
  stats->set_kept_heads(info.stats.kept_heads);
  stats->set_corrected_heads(info.stats.corrected_heads);
  stats->set_late_heads(info.stats.late_heads);
  stats->set_prefetch_wait_ns(absl::ToInt64Nanoseconds(info.stats.prefetch_wait));
  stats->set_score_ns(absl::ToInt64Nanoseconds(info.stats.score));
  stats->set_select_ns(absl::ToInt64Nanoseconds(info.stats.select));
  stats->set_recall_ns(absl::ToInt64Nanoseconds(info.stats.recall));
  stats->set_attend_ns(absl::ToInt64Nanoseconds(info.stats.attend));
  stats->set_mass_sum(info.stats.mass_sum);
  stats->set_mass_samples(info.stats.mass_samples);
  stats->set_mass_bound_sum(info.stats.mass_bound_sum);
  stats->set_mass_bound_samples(info.stats.mass_bound_samples);
  stats->set_mass_estimate_sum(info.stats.mass_estimate_sum);
  stats->set_mass_estimate_samples(info.stats.mass_estimate_samples);
  v1::SequenceMemory* memory = out->mutable_memory();
  memory->set_rows(info.memory.rows);
  memory->set_basis(info.memory.basis);
  memory->set_gram(info.memory.gram);
  memory->set_digests(info.memory.digests);
  memory->set_outliers(info.memory.outliers);
  memory->set_window(info.memory.window);
  memory->set_hot(info.memory.hot);
  out->mutable_discarded_energy()->Add(info.discarded_energy.begin(), info.discarded_energy.end());
}

SequenceInfo FromProto(const v1::SequenceInfo& info) {
  SequenceInfo out;
  out.id = info.sequence_id();
  out.context_id = info.context_id();
  out.tokens = info.tokens();
  out.blocks = info.blocks();
  out.budget_pages = info.budget_pages();
  const v1::SequenceStats& stats = info.stats();
  out.stats.steps = stats.steps();
  out.stats.selected_pages = stats.selected_pages();
  out.stats.hot_pages = stats.hot_pages();
  out.stats.recalled_pages = stats.recalled_pages();
  out.stats.recalled_bytes = stats.recalled_bytes();
  out.stats.evicted_pages = stats.evicted_pages();
  out.stats.saved_objects = stats.saved_objects();
  out.stats.lost_pages = stats.lost_pages();
  out.stats.prefetched_pages = stats.prefetched_pages();
  out.stats.prefetch_used_pages = stats.prefetch_used_pages();
  out.stats.prefetch_wasted_pages = stats.prefetch_wasted_pages();
  out.stats.kept_heads = stats.kept_heads();
  out.stats.corrected_heads = stats.corrected_heads();
  out.stats.late_heads = stats.late_heads();
  out.stats.prefetch_wait = absl::Nanoseconds(stats.prefetch_wait_ns());
  out.stats.score = absl::Nanoseconds(stats.score_ns());
  out.stats.select = absl::Nanoseconds(stats.select_ns());
  out.stats.recall = absl::Nanoseconds(stats.recall_ns());
  out.stats.attend = absl::Nanoseconds(stats.attend_ns());
  out.stats.mass_sum = stats.mass_sum();
  out.stats.mass_samples = stats.mass_samples();
  out.stats.mass_bound_sum = stats.mass_bound_sum();
  out.stats.mass_bound_samples = stats.mass_bound_samples();
  out.stats.mass_estimate_sum = stats.mass_estimate_sum();
  out.stats.mass_estimate_samples = stats.mass_estimate_samples();
  const v1::SequenceMemory& memory = info.memory();
  out.memory = {.rows = memory.rows(),
                .basis = memory.basis(),
                .gram = memory.gram(),
                .digests = memory.digests(),
                .outliers = memory.outliers(),
                .window = memory.window(),
                .hot = memory.hot()};
  out.discarded_energy.assign(info.discarded_energy().begin(), info.discarded_energy().end());
  return out;
}

}  // namespace varve::worker
