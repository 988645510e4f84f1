#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/digest_cuda.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/digest/score_cuda.h"
#include "kvstore/page/digest/score_math.h"
#include "tests/unit/page/sketch_data.h"
#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

using testing::Rng;

// Device memory, filled with a pattern that no result has (a NaN in every dtype) unless given
// contents.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t bytes) : bytes_(bytes) {
    EXPECT_EQ(cudaMalloc(&data_, bytes), cudaSuccess);
    EXPECT_EQ(cudaMemset(data_, 0xff, bytes), cudaSuccess);
  }
  explicit DeviceBuffer(std::span<const std::byte> contents) : DeviceBuffer(contents.size()) {
    EXPECT_EQ(cudaMemcpy(data_, contents.data(), bytes_, cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::vector<std::byte> Download() const {
    std::vector<std::byte> out(bytes_);
    EXPECT_EQ(cudaMemcpy(out.data(), data_, bytes_, cudaMemcpyDeviceToHost), cudaSuccess);
    return out;
  }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

class PageParityTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(status);
    }
  }
};

// Digests of random pages, some of which hold a NaN or an infinity; both twins start from poisoned
// outputs.
void CompareDigests(Rng& rng) {
  const DigestKind kind = DigestKinds()[rng.Below(10)].kind;
  const DType dtype = rng.AnyDType();
  const uint32_t head_dim = rng.HeadDim();
  const uint32_t tokens = rng.Between(1, 32);
  const uint32_t num_pages = rng.Between(1, 20);
  const size_t page_elements = size_t{tokens} * head_dim;
  const size_t key_stride = page_elements * DTypeBytes(dtype) + 16 * rng.Below(3);
  const size_t digest_stride = DigestBytes(kind, tokens, head_dim, dtype) + 16 * rng.Below(3);

  std::vector<std::byte> keys(num_pages * key_stride);
  for (uint32_t page = 0; page < num_pages; ++page) {
    std::vector<float> values = rng.Floats(page_elements);
    if (rng.Chance(0.2)) {
      values[rng.Below(static_cast<uint32_t>(page_elements))] = rng.Chance(0.5) ? INFINITY : NAN;
    }
    const auto encoded = testing::Encode(values, dtype);
    std::memcpy(keys.data() + page * key_stride, encoded.data(), encoded.size());
  }
  std::vector<std::byte> expected(num_pages * digest_stride, std::byte{0xff});
  std::vector<std::byte> rejected(num_pages);
  for (uint32_t page = 0; page < num_pages; ++page) {
    const bool built = BuildDigest(kind, keys.data() + page * key_stride, tokens, head_dim, dtype,
                                   expected.data() + page * digest_stride);
    rejected[page] = built ? std::byte{0} : std::byte{1};
  }

  const DeviceBuffer device_keys{std::span<const std::byte>(keys)};
  const DeviceBuffer device_digests(expected.size());
  const DeviceBuffer device_rejected(num_pages);
  const cuda::DigestJob job{kind,          dtype,
                            head_dim,      tokens,
                            num_pages,     device_keys.as<void>(),
                            key_stride,    device_digests.as<void>(),
                            digest_stride, device_rejected.as<uint8_t>()};
  ASSERT_EQ(cuda::BuildDigests(job, nullptr), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(device_rejected.Download(), rejected);
  EXPECT_EQ(device_digests.Download(), expected) << "digests must match bit for bit";
}

TEST_F(PageParityTest, DigestsMatchBitForBit) {
  constexpr uint64_t kSeed = 601;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 200; ++i) {
    SCOPED_TRACE("case " + std::to_string(i));
    CompareDigests(rng);
  }
}

void CompareScores(Rng& rng) {
  const DigestKind kind = DigestKinds()[rng.Below(10)].kind;
  const DType dtype = rng.AnyDType();
  const uint32_t head_dim = rng.HeadDim();
  const uint32_t num_pages = rng.Between(1, 300);
  const uint32_t heads = rng.Between(1, 20);
  const uint32_t page_tokens = rng.PageTokens();
  const size_t stride =
      (DigestBytes(kind, page_tokens, head_dim, dtype) + 15) / 16 * 16 + 16 * rng.Below(3);
  const uint32_t elements = DigestElements(kind, head_dim);
  std::vector<std::byte> rows(num_pages * stride);
  for (uint32_t page = 0; page < num_pages; ++page) {
    if (IsSketch(kind)) {
      const auto keys = testing::RandomElements(rng, size_t{page_tokens} * head_dim, dtype);
      ASSERT_TRUE(BuildDigest(kind, keys.data(), page_tokens, head_dim, dtype,
                              rows.data() + page * stride));
      continue;
    }
    auto encoded = testing::RandomElements(rng, elements, dtype);
    if (kind == DigestKind::kSphere) {
      for (uint32_t i = head_dim + 1; i < elements; ++i) StoreF32(encoded.data(), dtype, i, 0.0f);
    }
    std::memcpy(rows.data() + page * stride, encoded.data(), encoded.size());
  }
  const std::vector<float> queries = rng.Floats(size_t{heads} * head_dim);
  // Random elements are no box (hi >= lo), so the truth is the dot product with the weights: scores
  // of the CPU's scalar-like implementation, whose own distance to float64 the unit tests bound.
  std::vector<float> expected(size_t{heads} * num_pages);
  const DigestMatrix host{kind, dtype, head_dim, page_tokens, rows.data(), stride, num_pages};
  ScoreImpls().back().fn(host, queries.data(), heads, expected.data());

  const DeviceBuffer device_rows{std::span<const std::byte>(rows)};
  const DeviceBuffer device_queries{std::as_bytes(std::span(queries))};
  const DeviceBuffer device_raw(expected.size() * sizeof(float));
  DigestMatrix matrix = host;
  matrix.rows = device_rows.as<std::byte>();
  ASSERT_EQ(
      cuda::ScorePages(matrix, device_queries.as<float>(), heads, device_raw.as<float>(), nullptr),
      cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const auto raw = device_raw.Download();
  for (size_t i = 0; i < expected.size(); ++i) {
    float actual;
    std::memcpy(&actual, raw.data() + i * sizeof(float), sizeof(float));
    double magnitude = 0;
    const uint32_t head = static_cast<uint32_t>(i / num_pages);
    const std::byte* row = rows.data() + (i % num_pages) * stride;
    const float* q = queries.data() + size_t{head} * head_dim;
    for (uint32_t e = 0; e < elements; ++e) {
      const bool radius = kind == DigestKind::kSphere && e >= head_dim;
      const float weight = radius ? score_math::RadiusWeight(q, head_dim) : q[e % head_dim];
      magnitude += std::abs(weight * LoadAsF32(row, dtype, e));
    }
    if (IsSketch(kind)) {
      ASSERT_NEAR(actual, expected[i], 2 * testing::SketchTolerance(host, q, row)) << i;
      continue;
    }
    // Twice the header's tolerance: both sides are fp32.
    ASSERT_NEAR(actual, expected[i], 8.0 * head_dim * 0x1p-24 * magnitude) << i;
  }
}

TEST_F(PageParityTest, ScoresMatchWithinTheTolerance) {
  constexpr uint64_t kSeed = 602;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 100; ++i) {
    SCOPED_TRACE("case " + std::to_string(i));
    CompareScores(rng);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace varve::page
