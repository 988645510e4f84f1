#include "client/bench/decode_data.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "kvstore/page/rope.h"

namespace varve::client {
namespace {

constexpr float kNoise = 0.1f;    // its square is the share of the energy
constexpr float kOnward = 0.95f;  // of a direction's strength from one token to the next

// Drawing a normal number for each element would take longer than all else.
class RandomTable {
 public:
  explicit RandomTable(uint64_t seed) : random_(seed), numbers_(1 << 16) {
    std::normal_distribution<float> normal;
    for (float& x : numbers_) x = normal(random_);
  }
  // So many numbers in a row, from a random place of the table on.
  const float* Row(size_t count) { return &numbers_[random_() % (numbers_.size() - count)]; }
  float One() { return *Row(1); }

 private:
  std::mt19937_64 random_;
  std::vector<float> numbers_;
};

}  // namespace

PlantedPrompt::PlantedPrompt(const page::Geometry& geometry, uint32_t tokens)
    : tokens_(tokens),
      width_(size_t{geometry.num_kv_heads} * geometry.head_dim),
      keys_(tokens * width_),
      values_(keys_.size()) {
  MakeKeys(geometry);
  RandomTable random(31);
  for (size_t t = 0; t < tokens; ++t) {
    const float* row = random.Row(width_);
    std::transform(row, row + width_, &values_[t * width_], page::F32ToBF16);
  }
}

void PlantedPrompt::MakeKeys(const page::Geometry& geometry) {
  const auto rank = static_cast<uint32_t>(std::min<size_t>(kPlantedRank, width_ / 2));
  RandomTable random(29);
  std::vector<float> directions(rank * width_), strengths(rank), key(width_);
  float energy = 0;
  for (uint32_t j = 0; j < rank; ++j) energy += 1.0f / static_cast<float>(j + 1);
  for (uint32_t j = 0; j < rank; ++j) {
    // Elements of a key have a variance of about 1.
    const float scale = std::sqrt((1 - kNoise * kNoise) / (energy * static_cast<float>(j + 1)));
    for (size_t i = 0; i < width_; ++i) directions[j * width_ + i] = scale * random.One();
    strengths[j] = random.One();
  }
  const page::RopeTable rope(*geometry.rope, geometry.head_dim);
  const size_t pairs = rope.shape().rotary_dim / 2;
  std::vector<float> cos(pairs * geometry.num_kv_heads), sin(cos.size());
  const float anew = std::sqrt(1 - kOnward * kOnward);
  for (uint32_t t = 0; t < tokens_; ++t) {
    const float* noise = random.Row(width_);
    for (size_t i = 0; i < width_; ++i) key[i] = kNoise * noise[i];
    for (uint32_t j = 0; j < rank; ++j) {
      strengths[j] = kOnward * strengths[j] + anew * random.One();
      const float strength = strengths[j];
      const float* direction = &directions[j * width_];
      for (size_t i = 0; i < width_; ++i) key[i] += strength * direction[i];
    }
    rope.CosSin(t, cos.data(), sin.data());
    for (uint32_t head = 1; head < geometry.num_kv_heads; ++head) {
      std::copy_n(cos.data(), pairs, &cos[head * pairs]);
      std::copy_n(sin.data(), pairs, &sin[head * pairs]);
    }
    page::RopeRows(rope.shape(), cos.data(), sin.data(), geometry.num_kv_heads,
                   {key.data(), page::DType::kF32}, {&keys_[t * width_], page::DType::kBF16});
  }
}

}  // namespace varve::client
