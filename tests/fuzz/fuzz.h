// What a fuzzer offers: the libFuzzer entry point, and seeds from which mutation starts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace varve::fuzz {

std::vector<std::string> Seeds();

// Ends the program with a message: an invariant did not hold.
void Require(bool held, const char* what);

}  // namespace varve::fuzz
