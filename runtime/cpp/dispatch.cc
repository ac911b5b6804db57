#include "dispatch.h"

#include "error.h"

namespace onnx_compress {

#define ONNX_COMPRESS_SET(isa, bytes, direct)             \
  namespace isa {                                         \
  ONNX_COMPRESS_DECLARE_KERNELS                           \
  }                                                       \
  namespace {                                             \
  constexpr Kernels isa##_set = {#isa,                    \
                                 bytes / 4,               \
                                 bytes == 64,             \
                                 direct,                  \
                                 isa::decode,             \
                                 isa::decode_together,    \
                                 isa::multiply,           \
                                 isa::multiply_positions, \
                                 isa::transpose,          \
                                 isa::correlate,          \
                                 isa::copy_spans,         \
                                 isa::separate,           \
                                 isa::spread,             \
                                 isa::end_rows,           \
                                 isa::pack_levels,        \
                                 isa::multiply_levels,    \
                                 isa::lstm_cell,          \
                                 isa::gru_gates,          \
                                 isa::gru_cell,           \
                                 isa::planes,             \
                                 isa::turn_words,         \
                                 isa::scale_levels};      \
  }

ONNX_COMPRESS_SET(baseline, 16, false)
#if defined(ONNX_COMPRESS_X86)
ONNX_COMPRESS_SET(sse4, 16, true)
ONNX_COMPRESS_SET(avx2, 32, true)
ONNX_COMPRESS_SET(avx512, 64, true)
#elif defined(ONNX_COMPRESS_ARM)
ONNX_COMPRESS_SET(neon, 16, true)
#endif

const std::vector<const Kernels*>& machine_kernels() {
  static const std::vector<const Kernels*> found = [] {
    std::vector<const Kernels*> sets;
#if defined(ONNX_COMPRESS_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
                        __builtin_cpu_supports("avx512vbmi2");
    if (avx512) sets.push_back(&avx512_set);
    if (avx2) sets.push_back(&avx2_set);
    if (__builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("popcnt")) sets.push_back(&sse4_set);
#elif defined(ONNX_COMPRESS_ARM)
    sets.push_back(&neon_set);  // every 64-bit ARM has it
#endif
    sets.push_back(&baseline_set);
    return sets;
  }();
  return found;
}

const Kernels& kernels_named(const std::string& name) {
  if (name.empty()) return *machine_kernels().front();
  std::string known;
  for (const Kernels* set : machine_kernels()) {
    if (name == set->name) return *set;
    known += (known.empty() ? "" : ", ") + std::string(set->name);
  }
  fail(Fault::argument, "no instruction set '", name, "' here: choose from what this machine has, ", known);
}

}  // namespace onnx_compress
