// The sets of kernels, one for each instruction set that this library was built for.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace onnx_compress {

// Those that this machine can run, the fastest first, the baseline last. Chosen by what the processor says of itself; decoded values are
// equal to the bit in all of them.
const std::vector<const Kernels*>& machine_kernels();

// The set of this name ("avx512"), or the fastest where it is empty. Throws where this machine has none of that name.
const Kernels& kernels_named(const std::string& name);

}  // namespace onnx_compress
