// Scores pages by their digests, and merges the scores of the G query heads of a KV head.
//
// score of a page for one query head: MINMAX and BOX_MEAN sum_i max(q_i hi_i, q_i lo_i) =
// relu(q).hi - relu(-q).lo; MEAN q.mean; SPHERE q.c + |q| r. fp32 accumulation; against a float64
// reference the relative error is at most 4 * head_dim * 2^-24 of sum_i |q_i| max(|hi_i|, |lo_i|)
// (SPHERE: sum_i |q_i| |c_i| + |q| r), for every implementation (the AVX-512 BF16 one multiplies
// bf16 and splits the query into two bf16 parts); numbers below 2^-117 may count as zero. Rows with
// NaN cannot occur (DigestRowIsSane at ingest). Bandwidth-bound on the digest bytes. Thread-safe;
// no allocation; no exceptions. Implementations (AVX-512 BF16, AVX-512, AVX2+F16C, portable) are
// chosen once at run time by CPUID.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

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

struct DigestMatrix {
  DigestKind kind;
  DType dtype;
  uint32_t head_dim;
  const std::byte* rows;  // row of page i at rows + i * row_stride_bytes
  size_t row_stride_bytes;
  uint32_t num_pages;
};

// raw[g * num_pages + i] = score of page i for query head g. queries: [group_size][head_dim] fp32,
// post-RoPE.
void ScorePages(const DigestMatrix& digests, const float* queries, uint32_t group_size, float* raw);

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

// Named implementations available on this CPU, for tests and benchmarks; the first is the one
// ScorePages uses.
using ScoreFn = void (*)(const DigestMatrix&, const float*, uint32_t, float*);
struct ScoreImpl {
  std::string_view name;
  ScoreFn fn;
};
std::span<const ScoreImpl> ScoreImpls();

}  // namespace varve::page
