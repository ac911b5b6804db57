// Vectors of floats, and the functions of them that activations need.
//
// Included by kernel files only, once for each instruction set: everything has internal linkage.
#pragma once

#include "classes.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace onnx_compress {
namespace {

typedef float Floats __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
constexpr int FLOATS = VECTOR_BYTES / 4;

#if defined(__AVX2__) && !defined(__AVX512F__)
// All ones in the first `count` lanes.
inline __m256i first_lanes(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

// The first `count` floats, at most a vector, zeros behind them.
inline Floats load_some(const float* from, int64_t count) {
  Floats floats{};
  if (count >= FLOATS) {
    std::memcpy(&floats, from, sizeof floats);
    return floats;
  }
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), from));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(_mm256_maskload_ps(from, first_lanes(count)));
#else
  for (int64_t i = 0; i < count; ++i) floats[i] = from[i];
  return floats;
#endif
}

inline void store_some(float* to, Floats floats, int64_t count) {
  if (count >= FLOATS) {
    std::memcpy(to, &floats, sizeof floats);
    return;
  }
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1u), reinterpret_cast<__m512>(floats));
#elif defined(__AVX2__)
  _mm256_maskstore_ps(to, first_lanes(count), reinterpret_cast<__m256>(floats));
#else
  for (int64_t i = 0; i < count; ++i) to[i] = floats[i];
#endif
}

inline Floats all(float value) { return Floats{} + value; }

// The larger, the smaller of two: `x` where it is a NaN. The compiler does not find these instructions by itself.
inline Floats larger(Floats than, Floats x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_maskz_max_ps(0xFFFF, reinterpret_cast<__m512>(than), reinterpret_cast<__m512>(x)));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(_mm256_max_ps(reinterpret_cast<__m256>(than), reinterpret_cast<__m256>(x)));
#elif defined(__SSE2__)
  return _mm_max_ps(than, x);
#else
  return x < than ? than : x;
#endif
}

inline Floats smaller(Floats than, Floats x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_maskz_min_ps(0xFFFF, reinterpret_cast<__m512>(than), reinterpret_cast<__m512>(x)));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(_mm256_min_ps(reinterpret_cast<__m256>(than), reinterpret_cast<__m256>(x)));
#elif defined(__SSE2__)
  return _mm_min_ps(than, x);
#else
  return x > than ? than : x;
#endif
}

inline Floats clamp(Floats x, Floats low, Floats high) { return smaller(high, larger(low, x)); }

// e^x for |x| <= 86, relative error below 1e-7: 2^n e^r with n = round(x / ln 2), and a polynomial for |r| <= ln 2 / 2. Adding 1.5 * 2^23
// rounds to an integer, which then stands in the low bits. Coefficients: Cephes (Moshier), expf.
inline Floats exponential(Floats x) {
  constexpr float ROUND = 12582912.0f, LOG2_E = 1.44269504f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
  x = clamp(x, all(-86.0f), all(86.0f));
  const Floats shifted = x * LOG2_E + ROUND, n = shifted - ROUND;
  const Floats r = (x - n * LN2_HIGH) - n * LN2_LOW;
  Floats sum = r * 1.9875691500e-4f + 1.3981999507e-3f;
  sum = sum * r + 8.3334519073e-3f;
  sum = sum * r + 4.1665795894e-2f;
  sum = sum * r + 1.6666665459e-1f;
  sum = sum * r + 5.0000001201e-1f;
  sum = sum * (r * r) + r + 1.0f;
  Bits exponent, result;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  std::memcpy(&result, &sum, sizeof result);
  result += exponent << 23;
  std::memcpy(&sum, &result, sizeof sum);
  return sum;
}

// Relative error below 1.5e-7, that of the next one, too.
// Below -86 it is zero, so that x sigmoid(x) is, too.
inline Floats sigmoid(Floats x) { return x < -86.0f ? Floats{} : 1.0f / (1.0f + exponential(-x)); }

// 1 - 2 / (e^2|x| + 1) with the sign of x; near zero, where that cancels, a polynomial (Cephes, tanhf).
inline Floats hyperbolic_tangent(Floats x) {
  const Floats size = x < 0.0f ? -x : x, square = x * x;
  const Floats large = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
  Floats small = square * -5.70498872745e-3f + 2.06390887954e-2f;
  small = small * square - 5.37397155531e-2f;
  small = small * square + 1.33314422036e-1f;
  small = small * square - 3.33332819422e-1f;
  small = small * square * x + x;
  return size < 0.625f ? small : x < 0.0f ? -large : large;
}

}  // namespace
}  // namespace onnx_compress
