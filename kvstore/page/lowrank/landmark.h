// Landmarks and outliers (ShadowKV): what the chunks of a context are selected by, per KV head.
//
// A chunk is a few consecutive tokens (8 in ShadowKV). Its landmark is the mean of their post-RoPE
// keys: the digest kind MEAN, built and scored as every other digest (digest.h, score.h). A chunk
// whose keys do not point where their mean does is badly told by it: the chunks of the lowest
// minimal cosine are outliers, whose keys are kept exact and attended to always. They leave the
// landmarks, so the softmax by which chunks are selected is over the others. Sinks are found this
// way; nothing here pins them.
//
// Chunk ids count from the first token of the context. Deterministic, the same on every CPU but for
// scores (score.h): ties go to the lower id. Thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvstore/page/digest/score.h"
#include "kvstore/page/select.h"

namespace varve::page {

// The least cosine of any of the keys [tokens][head_dim] with the landmark, all finite, of dtype;
// summed in fp64 and rounded to fp32, in -1 .. 1. A zero vector has no direction: its cosine is 0,
// but 1 when key and landmark are both zero. tokens > 0, head_dim at
// most 256.
float MinCosine(const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                const void* landmark);

// The landmark (head_dim elements of dtype) of a chunk and the least cosine with it, as it is
// stored. False, with both untouched, when tokens == 0 or any key is NaN or infinite.
bool BuildLandmark(const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                   void* landmark, float* min_cosine);

// Ids of the `count` chunks with the lowest cosines (all when there are fewer), ascending.
void ChooseOutliers(std::span<const float> min_cosines, uint32_t count, SelectScratch& scratch,
                    std::vector<uint32_t>& outliers);

}  // namespace varve::page
