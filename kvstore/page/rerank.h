// The second stage of a selection: candidates, found by their digests, are ranked by the attention
// mass that their keys truly get (specs: two-stage recall).
//
// A page's mass for one query head is its share of the softmax over all candidates' tokens; its
// score is the mean over the G query heads of a KV head. Thread-safe, no exceptions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace varve::page {

enum class Rerank : uint8_t {
  kNone = 0,    // digests alone select
  kExact = 1,   // by the keys themselves; by sketches, where there are no keys at hand
  kSketch = 2,  // by sketches of the keys (digest.h)
};
std::optional<Rerank> RerankByName(std::string_view name);  // none, exact, sketch
std::string_view RerankName(Rerank rerank);                 // "?" for what is none of them
std::string_view RerankNames();                             // for error messages

// Candidates of the second stage, in multiples of the budget.
inline constexpr double kDefaultMultiplier = 4;
inline constexpr double kMinMultiplier = 1;
inline constexpr double kMaxMultiplier = 1024;

// min(num_pages, ceil(multiplier * budget)).
uint32_t CandidatePages(uint32_t budget, double multiplier, uint32_t num_pages);

// scores[i] of candidate i from log_mass [group_size][candidates] (attention.h), which is
// overwritten.
void MassScores(float* log_mass, uint32_t group_size, uint32_t candidates, float* scores);

// Scores of all candidates when the keys of some were not at hand: those keep the rank among the
// candidates that their digests gave them. digest_scores: of all candidates. known: indexes of
// those with a mass; mass_scores: theirs. Allocates when some are not known.
void FillScores(std::span<const float> digest_scores, std::span<const uint32_t> known,
                std::span<const float> mass_scores, std::span<float> scores);

}  // namespace varve::page
