// Thirty-two bytes as two blocks of sixteen: AVX2 under the names of vector128.h. Nothing crosses from one block to the other.
//
// Included by kernel files only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "controls.h"

namespace onnx_compress {
namespace {

typedef __m256i Vector;
typedef __m256 FloatVector;
constexpr int BLOCKS = 2;

ONNX_COMPRESS_INLINE Vector load_vector(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
ONNX_COMPRESS_INLINE void store_vector(void* to, Vector v) { _mm256_storeu_si256(static_cast<__m256i*>(to), v); }
ONNX_COMPRESS_INLINE Vector load_aligned(const void* from) { return _mm256_load_si256(static_cast<const __m256i*>(from)); }
ONNX_COMPRESS_INLINE void store_aligned(void* to, Vector v) { _mm256_store_si256(static_cast<__m256i*>(to), v); }
ONNX_COMPRESS_INLINE Vector load_block(const void* from) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(from)));
}
ONNX_COMPRESS_INLINE Vector no_bytes() { return _mm256_setzero_si256(); }
ONNX_COMPRESS_INLINE Vector all_bytes(uint8_t value) { return _mm256_set1_epi8(static_cast<char>(value)); }
ONNX_COMPRESS_INLINE Vector all_words(uint16_t value) { return _mm256_set1_epi16(static_cast<short>(value)); }
ONNX_COMPRESS_INLINE Vector add_bytes(Vector a, Vector b) { return _mm256_add_epi8(a, b); }
ONNX_COMPRESS_INLINE Vector subtract_bytes(Vector a, Vector b) { return _mm256_sub_epi8(a, b); }
ONNX_COMPRESS_INLINE Vector flip(Vector a, Vector b) { return _mm256_xor_si256(a, b); }
ONNX_COMPRESS_INLINE Vector both(Vector a, Vector b) { return _mm256_and_si256(a, b); }
ONNX_COMPRESS_INLINE Vector either(Vector a, Vector b) { return _mm256_or_si256(a, b); }
ONNX_COMPRESS_INLINE Vector without(Vector a, Vector b) { return _mm256_andnot_si256(b, a); }
ONNX_COMPRESS_INLINE Vector greater(Vector a, Vector b) { return _mm256_cmpgt_epi8(a, b); }
ONNX_COMPRESS_INLINE Vector equal(Vector a, Vector b) { return _mm256_cmpeq_epi8(a, b); }
ONNX_COMPRESS_INLINE Vector choose(Vector mask, Vector a, Vector b) { return _mm256_blendv_epi8(b, a, mask); }
ONNX_COMPRESS_INLINE Vector with_sign(Vector a, Vector b) { return _mm256_sign_epi8(a, b); }
ONNX_COMPRESS_INLINE Vector shuffle(Vector table, Vector index) { return _mm256_shuffle_epi8(table, index); }
ONNX_COMPRESS_INLINE Vector interleave_low(Vector a, Vector b) { return _mm256_unpacklo_epi8(a, b); }
ONNX_COMPRESS_INLINE Vector interleave_high(Vector a, Vector b) { return _mm256_unpackhi_epi8(a, b); }
ONNX_COMPRESS_INLINE Vector interleave_words_low(Vector a, Vector b) { return _mm256_unpacklo_epi16(a, b); }
ONNX_COMPRESS_INLINE Vector interleave_words_high(Vector a, Vector b) { return _mm256_unpackhi_epi16(a, b); }
ONNX_COMPRESS_INLINE uint32_t byte_bits(Vector v) { return static_cast<uint32_t>(_mm256_movemask_epi8(v)); }

// Bit i: the highest bit of byte i, whatever the others are.
ONNX_COMPRESS_INLINE uint32_t high_bits(Vector v) { return byte_bits(v); }

struct Two {
  Vector first, second;
};

ONNX_COMPRESS_INLINE Two bytes_of_words(Vector a, Vector b) {
  const Vector order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
  const Vector x = _mm256_shuffle_epi8(a, order), y = _mm256_shuffle_epi8(b, order);
  return {_mm256_unpacklo_epi64(x, y), _mm256_unpackhi_epi64(x, y)};
}

template <bool NARROW>
ONNX_COMPRESS_INLINE Two multiplied(Vector frequency, Vector high, Vector above) {
  if constexpr (NARROW) {
    const Vector one = _mm256_set1_epi8(1);
    return {_mm256_maddubs_epi16(interleave_low(high, above), interleave_low(frequency, one)),
            _mm256_maddubs_epi16(interleave_high(high, above), interleave_high(frequency, one))};
  } else {
    const Vector zero = no_bytes(), low = interleave_low(high, zero), upper = interleave_high(high, zero);
    const Vector a = _mm256_mullo_epi16(interleave_low(frequency, zero), low),
                 b = _mm256_mullo_epi16(interleave_high(frequency, zero), upper);
    return {_mm256_add_epi16(a, _mm256_add_epi16(low, interleave_low(above, zero))),
            _mm256_add_epi16(b, _mm256_add_epi16(upper, interleave_high(above, zero)))};
  }
}

ONNX_COMPRESS_INLINE Vector expanded(const uint8_t*& bytes, const uint8_t* masks) {
  const uint8_t *first = bytes, *second = first + __builtin_popcount(masks[0]), *third = second + __builtin_popcount(masks[1]);
  const uint8_t* fourth = third + __builtin_popcount(masks[2]);
  bytes = fourth + __builtin_popcount(masks[3]);
  const __m128i low = _mm_shuffle_epi8(two_octets(first, second), two_octets(low_control(masks[0]), high_control(masks[1])));
  const __m128i high = _mm_shuffle_epi8(two_octets(third, fourth), two_octets(low_control(masks[2]), high_control(masks[3])));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

ONNX_COMPRESS_INLINE Vector bits_as_bytes(uint32_t bits) {
  const Vector places = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const Vector own = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  return _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), places), own), own);
}

// Leaves of trees of 32: ids from 32 on.
struct Leaves {
  Vector even, odd;  // an index whose highest bit is set finds zero
};

// Leaves are kept with their highest bit set where they are odd.
ONNX_COMPRESS_INLINE Vector kept_leaf(Vector id) { return _mm256_add_epi8(id, all_bytes(128 - 48)); }
ONNX_COMPRESS_INLINE Leaves leaves_of(Vector kept) { return {kept, flip(kept, all_bytes(128))}; }

ONNX_COMPRESS_INLINE Vector at_leaves(const uint8_t* table, Leaves leaves) {
  return either(shuffle(load_block(table), leaves.even), shuffle(load_block(table + 16), leaves.odd));
}

// The leaf of a tree of 16: only the low four bits of a shuffle's index count.
ONNX_COMPRESS_INLINE Vector leaf_of(Vector id) { return id; }

ONNX_COMPRESS_INLINE FloatVector all_floats(float value) { return _mm256_set1_ps(value); }
ONNX_COMPRESS_INLINE FloatVector as_floats(Vector v) { return _mm256_castsi256_ps(v); }
ONNX_COMPRESS_INLINE FloatVector load_floats(const float* from) { return _mm256_load_ps(from); }
ONNX_COMPRESS_INLINE void store_floats(float* to, FloatVector v) { _mm256_store_ps(to, v); }
ONNX_COMPRESS_INLINE FloatVector subtract_floats(FloatVector a, FloatVector b) { return _mm256_sub_ps(a, b); }
ONNX_COMPRESS_INLINE FloatVector multiply_floats(FloatVector a, FloatVector b) { return _mm256_mul_ps(a, b); }
ONNX_COMPRESS_INLINE FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) { return _mm256_fmadd_ps(a, b, c); }
// Four floats of each block, to places that are 16 apart.
ONNX_COMPRESS_INLINE void store_blocks(float* to, FloatVector v) {
  _mm_storeu_ps(to, _mm256_castps256_ps128(v));
  _mm_storeu_ps(to + 16, _mm256_extractf128_ps(v, 1));
}

}  // namespace
}  // namespace onnx_compress
