// What a step finds for the 64 lanes of a panel: classes, their levels, escapes and raw bits (FORMAT.md, sections 5 and 6).
//
// Included by kernel files only, once for each instruction set: everything has internal linkage.
#pragma once

#include <cstring>

#include "controls.h"

#if defined(__AVX512VBMI2__) && defined(__AVX512VL__)
#include <immintrin.h>
#define ONNX_COMPRESS_EXPAND 1
#elif defined(__AVX2__)
#include <immintrin.h>
#define ONNX_COMPRESS_SHUFFLE 1
#elif defined(__SSE4_1__) || defined(ONNX_COMPRESS_NEON)
#include "vector128.h"
#define ONNX_COMPRESS_VECTOR128 1
#endif

// Whether weights of `Group::direct` have a decoder of their own.
#if defined(ONNX_COMPRESS_EXPAND) || defined(ONNX_COMPRESS_SHUFFLE) || defined(ONNX_COMPRESS_VECTOR128)
#define ONNX_COMPRESS_DIRECT 1
#endif

#if defined(__AVX512BW__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#include "stream.h"

namespace onnx_compress {
namespace {

constexpr int PANEL = 64;
typedef uint16_t Words __attribute__((vector_size(VECTOR_BYTES)));
typedef int16_t SignedWords __attribute__((vector_size(VECTOR_BYTES)));
constexpr int WORDS = VECTOR_BYTES / 2;
typedef uint8_t Bytes __attribute__((vector_size(VECTOR_BYTES / 2)));

inline Words load_words(const uint16_t* from) {
  Words words;
  std::memcpy(&words, from, sizeof words);
  return words;
}

inline void store_words(uint16_t* to, Words words) { std::memcpy(to, &words, sizeof words); }

// The first bytes, at most eight, of a plane of bits.
inline uint64_t load_plane(const uint8_t* from, size_t bytes) {
  uint64_t plane = 0;
  if (bytes == 8) {
    for (int i = 0; i < 8; ++i) plane |= static_cast<uint64_t>(from[i]) << (8 * i);
    return plane;
  }
  for (size_t i = 0; i < bytes; ++i) plane |= static_cast<uint64_t>(from[i]) << (8 * i);
  return plane;
}

}  // namespace
}  // namespace onnx_compress

#if defined(ONNX_COMPRESS_EXPAND)
#include "classes_avx512.h"
#elif defined(ONNX_COMPRESS_SHUFFLE)
#include "classes_avx2.h"
#elif defined(ONNX_COMPRESS_VECTOR128)
#include "classes_128.h"
#else
#include "classes_plain.h"
#endif

#if !defined(ONNX_COMPRESS_EXPAND)

namespace onnx_compress {
namespace {

// parts[l]: bit l of each plane of eight bytes.
inline void put_planes(const uint8_t* planes, int bits, uint8_t* parts) {
  std::memset(parts, 0, PANEL);
  for (int bit = 0; bit < bits; ++bit) add_plane(load_plane(planes + 8 * bit, 8), bit, parts);
}

}  // namespace
}  // namespace onnx_compress

#endif
