// Subspaces made on a device keep what those made on the CPU keep.
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstring>

#include "gmock/gmock.h"
#include "gpu_worker/eigensolver.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"
#include "tests/unit/page/low_rank_data.h"

namespace varve::worker {
namespace {

using page::testing::FallingSpectrum;
using page::testing::GramOf;
using page::testing::PlantedKeys;
using page::testing::Rng;
using ::testing::AllOf;
using ::testing::HasSubstr;

class CusolverParityTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(status);
    }
    auto device = OpenCusolver();
    if (absl::IsUnavailable(device.status())) GTEST_SKIP() << device.status();
    ASSERT_OK(device.status());
    device_ = *std::move(device);
  }

  page::SymmetricEigen OnDevice(const std::vector<double>& gram, uint32_t width) {
    std::vector<double> values(width, NAN), vectors(gram.size(), NAN);
    EXPECT_THAT(device_->Decompose(gram, values, vectors), absl::OkStatus());
    page::SymmetricEigen out;
    page::ArrangeEigen(values, vectors, out);
    return out;
  }

  std::unique_ptr<DeviceSolver> device_;
};

// Values agree, and |G v - value v| is rounding: vectors of values that lie close together may
// differ, what they span does not.
TEST_F(CusolverParityTest, ValuesAndVectorsAreThoseOfTheMatrix) {
  constexpr uint64_t kSeed = 20261123;
  std::printf("seed %llu\n", static_cast<unsigned long long>(kSeed));
  Rng rng(kSeed);
  for (const uint32_t width : {8u, 64u, 256u, 1024u}) {
    const uint32_t tokens = width + 40;
    const auto gram =
        GramOf(PlantedKeys(rng, tokens, width, FallingSpectrum(width / 2)), tokens, width);
    page::SymmetricEigen cpu;
    ASSERT_TRUE(page::DecomposeSymmetric(gram, width, cpu));
    const page::SymmetricEigen device = OnDevice(gram, width);
    const double bound = 1e-12 * width * cpu.values[0];
    for (uint32_t j = 0; j < width; ++j) {
      ASSERT_NEAR(device.values[j], cpu.values[j], bound) << width << ", value " << j;
      const double* const v = &device.vectors[size_t{j} * width];
      double residual = 0, norm = 0;
      for (uint32_t i = 0; i < width; ++i) {
        double sum = -device.values[j] * v[i];
        for (uint32_t k = 0; k < width; ++k) sum += gram[size_t{i} * width + k] * v[k];
        residual += sum * sum;
        norm += v[i] * v[i];
      }
      ASSERT_NEAR(norm, 1, 1e-12 * width) << width << ", vector " << j;
      ASSERT_LE(std::sqrt(residual), bound) << width << ", vector " << j;
    }
  }
}

TEST_F(CusolverParityTest, EqualMatricesGiveEqualBits) {
  Rng rng(7);
  constexpr uint32_t kWidth = 256;
  const auto gram = GramOf(PlantedKeys(rng, 300, kWidth, FallingSpectrum(kWidth)), 300, kWidth);
  const page::SymmetricEigen first = OnDevice(gram, kWidth);
  for (int i = 0; i < 5; ++i) {
    const page::SymmetricEigen again = OnDevice(gram, kWidth);
    EXPECT_EQ(again.values, first.values);
    EXPECT_EQ(again.vectors, first.vectors);
  }
}

TEST_F(CusolverParityTest, TheThreadKeepsItsDevice) {
  int devices = 0, before = 0, after = -1;
  ASSERT_EQ(cudaGetDeviceCount(&devices), cudaSuccess);
  ASSERT_EQ(cudaSetDevice(devices - 1), cudaSuccess);
  ASSERT_EQ(cudaGetDevice(&before), cudaSuccess);
  OnDevice({4, 1, 1, 3}, 2);
  ASSERT_EQ(cudaGetDevice(&after), cudaSuccess);
  EXPECT_EQ(after, before);
}

TEST(CusolverWithoutADeviceTest, OpenSaysWhyThereIsNone) {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess && devices > 0) return;  // the tests above are of that machine
  const auto opened = OpenCusolver();
  EXPECT_TRUE(absl::IsUnavailable(opened.status()));
  EXPECT_THAT(opened.status().message(),
              AllOf(HasSubstr("cudaGetDeviceCount"), HasSubstr(cudaGetErrorName(error))));
}

}  // namespace
}  // namespace varve::worker
