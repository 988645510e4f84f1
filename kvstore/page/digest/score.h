// Scores pages by their digests, and merges the scores of the G query heads of a KV head.
//
// score of a page for one query head: MINMAX and BOX_MEAN sum_i max(q_i hi_i, q_i lo_i) =
// relu(q).hi - relu(-q).lo; MEAN q.mean; SPHERE q.c + |q| r. fp32 accumulation; against a float64
// reference the relative error is at most 4 * head_dim * 2^-24 of sum_i |q_i| max(|hi_i|, |lo_i|)
// (SPHERE: sum_i |q_i| |c_i| + |q| r), for every implementation (the AVX-512 BF16 one multiplies
// bf16 and splits the query into two bf16 parts); numbers below 2^-117 may count as zero. Rows with
// NaN cannot occur (DigestRowIsSane at ingest). Bandwidth-bound on the digest bytes. Thread-safe;
// no allocation; no exceptions.
//
// SIGN1, SIGN2, SIGN4: sqrt(head_dim) log sum_t exp(logit_t / sqrt(head_dim)) over the page's
// tokens, so that the softmax of scores is each page's share of the attention mass. The rotated
// query q' is rounded to integers qi of -127 .. 127, for b = 1 -63 .. 63 (sketch_math.h); with c
// the codes of a token of b bits, D = sum c_i qi_i and S = sum qi_i,
//   logit_t = qs (mean_t S + scale_t (2 D - (2^b - 1) S)).
// D and S are exact, the same for every implementation. With r_i = k'_i - mean and k~' what the
// sketch says of k',
//   |q.k - logit| <= sum_i |q'_i| max(scale, |r_i| - (2^b - 1) scale) + 0.5 qs sum_i |k~'_i|
// and fp32 rounding; nothing here is an upper or a lower bound of q.k. Against a float64 reference
// of the same integers log sum exp errs by at most 2^-13 + 2^-20 (2 + max_t qs / sqrt(head_dim)
// (|mean_t S| + scale_t (2^b - 1) sum |qi_i|)), for every implementation. Logits beyond +-1e30
// count as that. A query whose greatest |q'| is below 2^-100 counts as zero; queries are below
// 2^119.
//
// Implementations (AVX-512 BF16, AVX-512 VBMI, AVX-512 VNNI, AVX-512, AVX2+F16C, portable) are
// chosen once at run time by CPUID.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "kvstore/page/attention.h"
#include "kvstore/page/digest/digest.h"

namespace varve::page {

// Merge of the G per-query-head scores into one score per page and KV head.
enum class ScoreMerge : uint8_t {
  // Mean over heads of softmax over pages of score / sqrt(head_dim) (FreeKV); the default.
  kSoftmaxMean = 1,
  kSoftmaxMax = 2,  // maximum over heads of that softmax (ShadowKV)
  kMax = 3,         // maximum of the raw scores
  kMean = 4,        // mean of the raw scores (ArkVale)
};
std::optional<ScoreMerge> ScoreMergeByName(
    std::string_view name);  // softmax_mean, softmax_max, max, mean
std::string_view ScoreMergeName(ScoreMerge merge);
std::string_view ScoreMergeNames();  // for error messages
// Merged scores are then shares of the attention mass, as the digests see it.
inline bool ScoresAreShares(ScoreMerge merge) {
  return merge == ScoreMerge::kSoftmaxMean || merge == ScoreMerge::kSoftmaxMax;
}

struct DigestMatrix {
  DigestKind kind;
  DType dtype;
  uint32_t head_dim;
  uint32_t page_tokens;   // 8, 16 or 32; for sketches
  const std::byte* rows;  // row of page i at rows + i * row_stride_bytes
  size_t row_stride_bytes;
  uint32_t num_pages;
};

// raw[g * num_pages + i] = score of page i for query head g. queries: [group_size][head_dim] fp32,
// post-RoPE.
void ScorePages(const DigestMatrix& digests, const float* queries, uint32_t group_size, float* raw);

// log_mass[g * rows.size() + i] = log sum_t exp(scale logit_t) of the sketch rows[i] for query head
// g: what PageLogMass (attention.h) makes of the keys themselves. queries: [group_size][head_dim];
// shape.dtype does not matter.
void SketchLogMass(DigestKind kind, uint32_t page_tokens, const AttentionShape& shape,
                   const float* queries, std::span<const std::byte* const> rows, float* log_mass);

// scores[i] from raw [group_size][num_pages]. raw is scratch and is overwritten.
void MergeScores(ScoreMerge merge, float* raw, uint32_t group_size, uint32_t num_pages,
                 uint32_t head_dim, float* scores);
// The same, some heads at a time: raw [heads][num_pages] are the next ones of a group of
// group_size. first: of the whole group, so scores is set, not added to. The parts of a group give
// what the whole gives, bit for bit.
void MergeSomeScores(ScoreMerge merge, float* raw, uint32_t heads, uint32_t group_size, bool first,
                     uint32_t num_pages, uint32_t head_dim, float* scores);

// Scalar truth (float64 accumulation), for tests.
void ScorePagesReference(const DigestMatrix& digests, const float* queries, uint32_t group_size,
                         double* raw);
// The same, of sketches alone.
void ScoreSketchReference(const DigestMatrix& digests, const float* queries, uint32_t group_size,
                          double* raw);

// Named implementations available on this CPU, for tests and benchmarks; the first is the one
// ScorePages uses.
using ScoreFn = void (*)(const DigestMatrix&, const float*, uint32_t, float*);
struct ScoreImpl {
  std::string_view name;
  ScoreFn fn;
};
std::span<const ScoreImpl> ScoreImpls();

}  // namespace varve::page
