#include "tests/model/dense_kv.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/model/parallel.h"

namespace varve::model {
namespace {

// Query tokens that go through the key blocks together.
constexpr uint32_t kTileTokens = 48;

// The factor 1/sqrt(head_dim) goes into the query: exact for the usual powers of four.
void ScaleQuery(const float* q, uint32_t head_dim, float* to) {
  const float factor = 1.0f / std::sqrt(static_cast<float>(head_dim));
  for (uint32_t i = 0; i < head_dim; ++i) to[i] = q[i] * factor;
}

}  // namespace

DenseKv::DenseKv(const ModelConfig& config, const Kernels& kernels)
    : config_(config), kernels_(kernels), heads_(config.kv_heads) {}

void DenseKv::Append(const float* k, const float* v, uint32_t tokens) {
  const uint32_t first = tokens_;
  tokens_ += tokens;
  const uint32_t dim = config_.head_dim;
  for (uint32_t h = 0; h < config_.kv_heads; ++h) {
    Head& head = heads_[h];
    head.keys.resize(Blocks() * BlockFloats());
    head.values.resize(Blocks() * BlockFloats());
    for (uint32_t t = 0; t < tokens; ++t) {
      const size_t row = (size_t{t} * config_.kv_heads + h) * dim;
      const uint32_t slot = (first + t) % kBlockTokens;
      float* keys = &head.keys[(first + t) / kBlockTokens * BlockFloats()];
      for (uint32_t d = 0; d < dim; ++d) keys[d * kBlockTokens + slot] = k[row + d];
      std::memcpy(&head.values[size_t{first + t} * dim], v + row, dim * sizeof(float));
    }
  }
}

void DenseKv::AttendCausal(const float* q, uint32_t tokens, uint32_t first_position, int threads,
                           float* out) const {
  const uint32_t tiles = (tokens + kTileTokens - 1) / kTileTokens;
  ParallelFor(tiles * config_.kv_heads, threads, [&](uint32_t item) {
    // Late tiles have the longest rows: starting with them keeps the threads equally busy to the
    // end.
    const uint32_t first = (tiles - 1 - item / config_.kv_heads) * kTileTokens;
    const size_t row = size_t{first} * config_.QueryWidth();
    AttendTile(item % config_.kv_heads, q + row, std::min(kTileTokens, tokens - first),
               first_position + first, out + row);
  });
}

// Flash attention of one tile: the query heads of a group are extra rows, so each key block is read
// once for all.
void DenseKv::AttendTile(uint32_t kv_head, const float* q, uint32_t tokens, uint32_t first_position,
                         float* out) const {
  const uint32_t dim = config_.head_dim;
  const uint32_t group = config_.Group();
  const uint32_t rows = tokens * group;
  const auto offset = [&](uint32_t row) {
    return size_t{row / group} * config_.QueryWidth() + size_t{kv_head * group + row % group} * dim;
  };
  std::vector<float> query(size_t{rows} * dim), sum(size_t{rows} * dim);
  std::vector<float> scores(size_t{rows} * kBlockTokens);
  std::vector<SoftmaxState> states(rows);
  for (uint32_t r = 0; r < rows; ++r) ScaleQuery(q + offset(r), dim, &query[size_t{r} * dim]);

  const Head& head = heads_[kv_head];
  for (uint32_t begin = 0; begin < first_position + tokens; begin += kBlockTokens) {
    const size_t block = size_t{begin} * dim;
    kernels_.gemm({query.data(), dim, &head.keys[block], kBlockTokens, scores.data(), kBlockTokens,
                   rows, dim, kBlockTokens, false});
    for (uint32_t r = 0; r < rows; ++r) {
      const uint32_t visible = first_position + r / group + 1;
      const uint32_t valid = visible <= begin ? 0 : std::min(visible - begin, kBlockTokens);
      const float factor =
          kernels_.online_softmax(&scores[size_t{r} * kBlockTokens], valid, &states[r]);
      if (factor != 1.0f) kernels_.scale(&sum[size_t{r} * dim], factor, dim);
    }
    kernels_.gemm({scores.data(), kBlockTokens, &head.values[block], dim, sum.data(), dim, rows,
                   kBlockTokens, dim, true});
  }
  for (uint32_t r = 0; r < rows; ++r) {
    kernels_.scale(&sum[size_t{r} * dim], 1.0f / states[r].sum, dim);
    std::memcpy(out + offset(r), &sum[size_t{r} * dim], dim * sizeof(float));
  }
}

void DenseKv::Scores(uint32_t kv_head, const float* q, float* scores) const {
  const uint32_t dim = config_.head_dim;
  std::vector<float> query(size_t{config_.Group()} * dim);
  for (uint32_t g = 0; g < config_.Group(); ++g) {
    ScaleQuery(q + size_t{g} * dim, dim, &query[size_t{g} * dim]);
  }
  for (uint32_t block = 0; block < Blocks(); ++block) {
    kernels_.gemm({query.data(), dim, &heads_[kv_head].keys[block * BlockFloats()], kBlockTokens,
                   scores + size_t{block} * kBlockTokens, PaddedTokens(), config_.Group(), dim,
                   kBlockTokens, false});
  }
}

void DenseKv::WeightedValues(uint32_t kv_head, const float* weights, float* out) const {
  const uint32_t dim = config_.head_dim;
  kernels_.gemm({weights, PaddedTokens(), heads_[kv_head].values.data(), dim, out, dim,
                 config_.Group(), PaddedTokens(), dim, false});
}

void DenseKv::CopyKey(uint32_t kv_head, uint32_t token, float* key) const {
  const float* keys = &heads_[kv_head].keys[token / kBlockTokens * BlockFloats()];
  for (uint32_t d = 0; d < config_.head_dim; ++d) {
    key[d] = keys[d * kBlockTokens + token % kBlockTokens];
  }
}

}  // namespace varve::model
