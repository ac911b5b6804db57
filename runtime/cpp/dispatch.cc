// Chooses kernels by what the processor can do. Decoded values are equal to the bit in all of them.
#include "stream.h"

namespace onnx_compress {

#define ONNX_COMPRESS_SET(isa)                                                                                   \
  namespace isa {                                                                                                \
  ONNX_COMPRESS_DECLARE_KERNELS                                                                                  \
  }                                                                                                              \
  namespace {                                                                                                    \
  constexpr Kernels isa##_set = {#isa, isa::decode, isa::planes, isa::transpose, isa::multiply, isa::correlate}; \
  }

ONNX_COMPRESS_SET(baseline)
#if defined(ONNX_COMPRESS_X86)
ONNX_COMPRESS_SET(avx2)
ONNX_COMPRESS_SET(avx512)
#endif

// ONNX_COMPRESS_FASTEST is for tests: 0 baseline, 1 AVX2, 2 AVX-512 at most.
const Kernels* kernels_named(int rank) {
  if (rank > ONNX_COMPRESS_FASTEST) return nullptr;
#if defined(ONNX_COMPRESS_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
                      __builtin_cpu_supports("avx512vbmi2");
  if (rank == 2) return avx512 ? &avx512_set : nullptr;
  if (rank == 1) return avx2 ? &avx2_set : nullptr;
#endif
  return rank == 0 ? &baseline_set : nullptr;
}

const Kernels& kernels() {
  static const Kernels& best = [&]() -> const Kernels& {
    for (int rank = 2; rank > 0; --rank)
      if (const Kernels* set = kernels_named(rank)) return *set;
    return baseline_set;
  }();
  return best;
}

}  // namespace onnx_compress
