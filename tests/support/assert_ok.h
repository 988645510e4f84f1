// ASSERT_OK(expr): fails the test with the status when it is not OK.
#pragma once

#include "absl/status/status.h"
#include "gtest/gtest.h"

#define ASSERT_OK(expr)                                 \
  do {                                                  \
    const absl::Status status_of_expr = (expr);         \
    ASSERT_TRUE(status_of_expr.ok()) << status_of_expr; \
  } while (false)
