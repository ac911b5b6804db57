// Leaves of floats, and what integers hold (FORMAT.md, sections 1 and 5).
#include "format.h"
#include "number.h"

namespace onnx_compress {
namespace {

// "M[i] = round32(2^(i/16))"
constexpr uint32_t LOG8_MANTISSAS[16] = {0x3F800000, 0x3F85AAC3, 0x3F8B95C2, 0x3F91C3D3, 0x3F9837F0, 0x3F9EF532, 0x3FA5FED7, 0x3FAD583F,
                                         0x3FB504F3, 0x3FBD08A4, 0x3FC5672A, 0x3FCE248C, 0x3FD744FD, 0x3FE0CCDF, 0x3FEAC0C7, 0x3FF5257D};

}  // namespace

float Dense::at(uint64_t index) const {
  switch (kind) {
    case DENSE_FLOAT:
      return bits_float(load32(bytes + 4 * index));
    case DENSE_HALF:
      return from_half(load16(bytes + 2 * index));
    case DENSE_BFLOAT:
      return from_bfloat(load16(bytes + 2 * index));
    case DENSE_LOG8:
      break;
  }
  // "M[j & 15] * 2^(exponent + (j >> 4))": exact, so that adding to the exponent's bits is the product.
  const int power = exponent + (bytes[index] >> 4);
  return bits_float(LOG8_MANTISSAS[bytes[index] & 15] + static_cast<uint32_t>(power) * (1u << 23));
}

int64_t integer_low(int dtype) { return dtype == INT8 ? -128 : dtype == INT16 ? -32768 : dtype == INT4 ? -8 : 0; }

int64_t integer_high(int dtype) {
  switch (dtype) {
    case UINT8:
      return 255;
    case INT8:
      return 127;
    case UINT16:
      return 65535;
    case INT16:
      return 32767;
    case UINT4:
      return 15;
    default:
      return 7;
  }
}

}  // namespace onnx_compress
