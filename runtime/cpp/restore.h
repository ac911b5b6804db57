// A whole weight, in its own shape.
#pragma once

#include <functional>

#include "operator.h"

namespace onnx_compress {

// Runs work(0..count-1), in any order.
using Parallel = std::function<void(int64_t, const std::function<void(int64_t)>&)>;

// Writes every value of the weight as `type` (4-bit types: one value a byte) to `out`, in the order of its dims.
void restore(const Weight& weight, int type, void* out, const Parallel& parallel);

// Two values a byte, the first in the low half.
void pack_halves(const uint8_t* values, int64_t count, uint8_t* out);

}  // namespace onnx_compress
