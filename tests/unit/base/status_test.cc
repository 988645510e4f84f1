#include "kvstore/base/status.h"

#include <memory>
#include <string>

#include "gtest/gtest.h"

namespace varve::base {
namespace {

absl::StatusOr<std::unique_ptr<int>> Make(bool ok) {
  if (!ok) return absl::NotFoundError("no context 'a'");
  return std::make_unique<int>(3);
}

absl::Status Use(bool ok, int* out) {
  VARVE_ASSIGN_OR_RETURN(const std::unique_ptr<int> first, Make(ok));
  VARVE_ASSIGN_OR_RETURN(auto second, Make(ok));
  *out = *first + *second;
  return absl::OkStatus();
}

absl::Status Pass(const absl::Status& status, bool* reached) {
  VARVE_RETURN_IF_ERROR(status);
  *reached = true;
  return absl::OkStatus();
}

TEST(Status, AssignOrReturnMovesTheValueOrLeaves) {
  int out = 0;
  EXPECT_TRUE(Use(true, &out).ok());
  EXPECT_EQ(out, 6);
  out = -1;
  EXPECT_EQ(Use(false, &out).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(out, -1);
}

TEST(Status, ReturnIfErrorLeavesOnlyOnErrors) {
  bool reached = false;
  EXPECT_EQ(Pass(absl::DataLossError("x"), &reached).code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(reached);
  EXPECT_TRUE(Pass(absl::OkStatus(), &reached).ok());
  EXPECT_TRUE(reached);
}

TEST(Status, AnnotateKeepsTheCode) {
  const absl::Status status = Annotate(absl::NotFoundError("no context 'a'"), "layer 3");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(status.message()), "layer 3: no context 'a'");
  EXPECT_TRUE(Annotate(absl::OkStatus(), "layer 3").ok());
}

}  // namespace
}  // namespace varve::base
