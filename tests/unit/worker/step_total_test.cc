#include "gpu_worker/step_total.h"

#include "gtest/gtest.h"

namespace varve::worker {
namespace {

TEST(StepTotal, CarriesOverWithinAStep) {
  StepTotal total;
  EXPECT_EQ(total.For(0, 10, 8), 8u);
  total.Select(5);
  EXPECT_EQ(total.For(1, 10, 8), 11u);
  total.Select(11);
  EXPECT_EQ(total.For(2, 10, 8), 8u);
  total.Select(0);
  EXPECT_EQ(total.For(5, 10, 8), 16u) << "layers between have left nothing";
  total.Select(2);
  EXPECT_EQ(total.For(0, 10, 8), 8u) << "a new step at the same tokens";
  total.Select(1);
  EXPECT_EQ(total.For(1, 11, 8), 8u) << "a new token";
}

TEST(StepTotal, ALayerOnceMoreGetsWhatItGot) {
  StepTotal total;
  EXPECT_EQ(total.For(0, 10, 8), 8u);
  total.Select(5);
  for (int again = 0; again < 3; ++again) {
    EXPECT_EQ(total.For(1, 10, 8), 11u);
    total.Select(6);
  }
  EXPECT_EQ(total.For(2, 10, 8), 13u);
  EXPECT_EQ(total.For(2, 10, 8), 13u) << "before anything was selected, too";
}

}  // namespace
}  // namespace varve::worker
