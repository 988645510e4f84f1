// What a program's /metrics page must agree with. For tests.
#pragma once

#include <string>

#include "gtest/gtest.h"
#include "tests/support/metric_names.h"

namespace varve::testing {

// Names, types and labels are those of the program's section in docs/metrics.md, no more and no
// fewer.
inline void ExpectAsDocumented(const std::string& exposition, const std::string& program) {
  const std::string document = ReadFile(VARVE_ROOT "/docs/metrics.md");
  EXPECT_EQ(ExposedFamilies(exposition), DocumentedFamilies(document, program));
  EXPECT_EQ(ExposedLabels(exposition), DocumentedLabels(document, program));
}

inline void ExpectEveryFamilyHasASeries(const std::string& exposition) {
  for (const auto& [name, type] : ExposedFamilies(exposition)) {
    const std::string sample = "\n" + name + (type == "histogram" ? "_count" : "");
    EXPECT_TRUE(exposition.find(sample + " ") != std::string::npos ||
                exposition.find(sample + "{") != std::string::npos)
        << name;
  }
}

}  // namespace varve::testing
