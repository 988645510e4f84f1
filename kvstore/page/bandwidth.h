// Speed of light of one core, measured: what a kernel that is bound by memory is compared with.
// And of one that is bound by multiply-adds.
//
// Pin the calling thread first and measure in the same run as the kernel: neighbours on the machine
// change the limit. Choose sizes far above the last-level cache. Results are the best of `repeats`
// passes, in GB/s (1e9 bytes). MeasureMemcpy allocates, touches and releases twice the bytes:
// nothing when memory cannot be had. Thread-safe.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

namespace varve::page {

// Bytes read per second by one thread: vector loads, several unrolling and prefetch distances
// tried, best kept.
// The memory must have been written before.
double ReadBandwidth(std::span<const std::byte> memory, int repeats);

// Reads `row_bytes`, a multiple of 64, from each of the rows, in their order, asking for them
// `ahead` rows before (0: not at all): what a kernel that has to read them is compared with.
void ReadRows(std::span<const std::byte* const> rows, size_t row_bytes, size_t ahead);

// Bytes copied per second by std::memcpy of `bytes` between two buffers.
std::optional<double> MeasureMemcpy(size_t bytes, int repeats);

// Multiply-adds of fp32 per second by one thread, in registers, as operations (two each) / 1e9.
double MultiplyAddRate(int repeats);

}  // namespace varve::page
