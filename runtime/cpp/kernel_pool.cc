// Levels of pools, which a session keeps, as floats. Compiled for several instruction sets, each in a namespace of its own, with
// -ffp-contract=off, as kernel_decode.cc.
#include "kernels.h"
#include "vector_math.h"

namespace onnx_compress {
namespace ONNX_COMPRESS_ISA {
ONNX_COMPRESS_DECLARE_KERNELS
namespace {

typedef int16_t Levels __attribute__((vector_size(VECTOR_BYTES / 2)));

inline Floats load_levels(const int16_t* from) {
  Levels levels;
  std::memcpy(&levels, from, sizeof levels);
  return __builtin_convertvector(levels, Floats);
}

// "round32(round32(scale * col_scale) * level)"
template <bool COLUMN_SCALE>
void scale_steps(const PooledSteps& steps) {
  constexpr int COLUMNS = PANEL / FLOATS;
  Floats scale[COLUMNS];
  for (int c = 0; c < COLUMNS; ++c) scale[c] = load_some(steps.scale + c * FLOATS, FLOATS);
  for (int64_t step = 0; step < steps.count; ++step)
#pragma GCC unroll 16
    for (int c = 0; c < COLUMNS; ++c) {
      const Floats factor = COLUMN_SCALE ? scale[c] * steps.column_scale[step] : scale[c];
      store_some(steps.to + step * PANEL + c * FLOATS, factor * load_levels(steps.levels + step * steps.lanes + c * FLOATS), FLOATS);
    }
}

}  // namespace

void scale_levels(const PooledSteps* steps) { steps->column_scale ? scale_steps<true>(*steps) : scale_steps<false>(*steps); }

}  // namespace ONNX_COMPRESS_ISA
}  // namespace onnx_compress
