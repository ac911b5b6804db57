// Sixteen bytes, or eight words, at once: SSE4.1 and NEON under the same names.
//
// Included by kernel files only.
#pragma once

#include <cstdint>

#include "controls.h"

#if !defined(__SSE4_1__)
#include <arm_neon.h>
#endif

namespace onnx_compress {
namespace {

constexpr int BLOCKS = 1;  // of sixteen bytes in a vector

#if defined(__SSE4_1__)

typedef __m128i Vector;
typedef __m128 FloatVector;

inline Vector load_vector(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
inline void store_vector(void* to, Vector v) { _mm_storeu_si128(static_cast<__m128i*>(to), v); }
inline Vector all_bytes(uint8_t value) { return _mm_set1_epi8(static_cast<char>(value)); }
inline Vector all_words(uint16_t value) { return _mm_set1_epi16(static_cast<short>(value)); }
inline Vector add_bytes(Vector a, Vector b) { return _mm_add_epi8(a, b); }
inline Vector subtract_bytes(Vector a, Vector b) { return _mm_sub_epi8(a, b); }
inline Vector flip(Vector a, Vector b) { return _mm_xor_si128(a, b); }
inline Vector both(Vector a, Vector b) { return _mm_and_si128(a, b); }
inline Vector either(Vector a, Vector b) { return _mm_or_si128(a, b); }
// 255 where a > b, as signed bytes; and where they are equal.
inline Vector greater(Vector a, Vector b) { return _mm_cmpgt_epi8(a, b); }
inline Vector equal(Vector a, Vector b) { return _mm_cmpeq_epi8(a, b); }
// Of masks of whole bytes: a where they are set, else b.
inline Vector choose(Vector mask, Vector a, Vector b) { return _mm_blendv_epi8(b, a, mask); }
// table[index], indices below 16.
inline Vector shuffle(Vector table, Vector index) { return _mm_shuffle_epi8(table, index); }
// The low bytes of sixteen words.
inline Vector low_bytes(Vector a, Vector b) {
  const Vector mask = _mm_set1_epi16(255);
  return _mm_packus_epi16(_mm_and_si128(a, mask), _mm_and_si128(b, mask));
}
inline Vector widen_low(Vector bytes) { return _mm_cvtepu8_epi16(bytes); }
inline Vector widen_high(Vector bytes) { return _mm_unpackhi_epi8(bytes, _mm_setzero_si128()); }
inline Vector add_words(Vector a, Vector b) { return _mm_add_epi16(a, b); }
inline Vector multiply_words(Vector a, Vector b) { return _mm_mullo_epi16(a, b); }
inline Vector high_bytes(Vector words) { return _mm_srli_epi16(words, 8); }
inline Vector byte_up(Vector words) { return _mm_slli_epi16(words, 8); }
// Bit i: the highest bit of byte i.
inline uint32_t byte_bits(Vector v) { return static_cast<uint32_t>(_mm_movemask_epi8(v)); }
// Bit i: word i is below 256.
inline uint32_t below_256(Vector words) {
  return static_cast<uint32_t>(
      _mm_movemask_epi8(_mm_packs_epi16(_mm_cmpeq_epi16(_mm_srli_epi16(words, 8), _mm_setzero_si128()), _mm_setzero_si128())));
}
// Eight bytes of `from`, at the places that `controls` says (128: zero), as words; and 65535 where a place is not 128.
inline Vector take_bytes(const uint8_t* from, const uint8_t* controls) {
  return _mm_cvtepu8_epi16(_mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)),
                                            _mm_loadl_epi64(reinterpret_cast<const __m128i*>(controls))));
}
inline Vector taken(const uint8_t* controls) {
  return _mm_cmpgt_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(controls))), _mm_set1_epi16(-1));
}
// 255 in byte i where bit i is set.
inline Vector bits_as_bytes(uint32_t bits) {
  const Vector own = _mm_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  const Vector spread = _mm_shuffle_epi8(_mm_cvtsi32_si128(static_cast<int>(bits)), _mm_set_epi64x(0x0101010101010101, 0));
  return _mm_cmpeq_epi8(_mm_and_si128(spread, own), own);
}
// Bit i: the highest bit of byte i, whatever the others are.
inline uint32_t high_bits(Vector v) { return byte_bits(v); }
inline Vector load_aligned(const void* from) { return _mm_load_si128(static_cast<const __m128i*>(from)); }
inline void store_aligned(void* to, Vector v) { _mm_store_si128(static_cast<__m128i*>(to), v); }
inline Vector no_bytes() { return _mm_setzero_si128(); }
inline Vector without(Vector a, Vector b) { return _mm_andnot_si128(b, a); }
inline Vector with_sign(Vector a, Vector b) { return _mm_sign_epi8(a, b); }
inline Vector interleave_low(Vector a, Vector b) { return _mm_unpacklo_epi8(a, b); }
inline Vector interleave_high(Vector a, Vector b) { return _mm_unpackhi_epi8(a, b); }
inline Vector interleave_words_low(Vector a, Vector b) { return _mm_unpacklo_epi16(a, b); }
inline Vector interleave_words_high(Vector a, Vector b) { return _mm_unpackhi_epi16(a, b); }

struct Two {
  Vector first, second;
};

inline Two bytes_of_words(Vector a, Vector b) {
  const Vector order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  const Vector x = _mm_shuffle_epi8(a, order), y = _mm_shuffle_epi8(b, order);
  return {_mm_unpacklo_epi64(x, y), _mm_unpackhi_epi64(x, y)};
}

template <bool NARROW>
inline Two multiplied(Vector frequency, Vector high, Vector above) {
  if constexpr (NARROW) {
    const Vector one = _mm_set1_epi8(1);
    return {_mm_maddubs_epi16(interleave_low(high, above), interleave_low(frequency, one)),
            _mm_maddubs_epi16(interleave_high(high, above), interleave_high(frequency, one))};
  } else {
    const Vector zero = no_bytes(), low = interleave_low(high, zero), upper = interleave_high(high, zero);
    const Vector a = _mm_mullo_epi16(interleave_low(frequency, zero), low), b = _mm_mullo_epi16(interleave_high(frequency, zero), upper);
    return {_mm_add_epi16(a, _mm_add_epi16(low, interleave_low(above, zero))),
            _mm_add_epi16(b, _mm_add_epi16(upper, interleave_high(above, zero)))};
  }
}

inline Vector expanded(const uint8_t*& bytes, const uint8_t* masks) {
  const uint8_t *first = bytes, *second = first + __builtin_popcount(masks[0]);
  bytes = second + __builtin_popcount(masks[1]);
  return _mm_shuffle_epi8(two_octets(first, second), two_octets(low_control(masks[0]), high_control(masks[1])));
}

// Leaves of trees of 32: ids from 32 on.
struct Leaves {
  Vector even, odd;  // an index whose highest bit is set finds zero
};

// Leaves are kept with their highest bit set where they are odd.
inline Vector kept_leaf(Vector id) { return _mm_add_epi8(id, all_bytes(128 - 48)); }
inline Leaves leaves_of(Vector kept) { return {kept, flip(kept, all_bytes(128))}; }

inline Vector at_leaves(const uint8_t* table, Leaves leaves) {
  return either(shuffle(load_vector(table), leaves.even), shuffle(load_vector(table + 16), leaves.odd));
}

// The leaf of a tree of 16: only the low four bits of a shuffle's index count.
inline Vector leaf_of(Vector id) { return id; }

inline FloatVector all_floats(float value) { return _mm_set1_ps(value); }
inline FloatVector as_floats(Vector v) { return _mm_castsi128_ps(v); }
inline FloatVector load_floats(const float* from) { return _mm_load_ps(from); }
inline void store_floats(float* to, FloatVector v) { _mm_store_ps(to, v); }
inline FloatVector subtract_floats(FloatVector a, FloatVector b) { return _mm_sub_ps(a, b); }
inline FloatVector multiply_floats(FloatVector a, FloatVector b) { return _mm_mul_ps(a, b); }
inline FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
inline void store_blocks(float* to, FloatVector v) { _mm_storeu_ps(to, v); }

#else

typedef uint8x16_t Vector;

inline Vector load_vector(const void* from) { return vld1q_u8(static_cast<const uint8_t*>(from)); }
inline void store_vector(void* to, Vector v) { vst1q_u8(static_cast<uint8_t*>(to), v); }
inline Vector all_bytes(uint8_t value) { return vdupq_n_u8(value); }
inline Vector all_words(uint16_t value) { return vreinterpretq_u8_u16(vdupq_n_u16(value)); }
inline Vector add_bytes(Vector a, Vector b) { return vaddq_u8(a, b); }
inline Vector subtract_bytes(Vector a, Vector b) { return vsubq_u8(a, b); }
inline Vector flip(Vector a, Vector b) { return veorq_u8(a, b); }
inline Vector both(Vector a, Vector b) { return vandq_u8(a, b); }
inline Vector either(Vector a, Vector b) { return vorrq_u8(a, b); }
// 255 where a > b, as signed bytes; and where they are equal.
inline Vector greater(Vector a, Vector b) { return vcgtq_s8(vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b)); }
inline Vector equal(Vector a, Vector b) { return vceqq_u8(a, b); }
// Of masks of whole bytes: a where they are set, else b.
inline Vector choose(Vector mask, Vector a, Vector b) { return vbslq_u8(mask, a, b); }
// table[index], indices below 16.
inline Vector shuffle(Vector table, Vector index) { return vqtbl1q_u8(table, index); }
// The low bytes of sixteen words.
inline Vector low_bytes(Vector a, Vector b) { return vuzp1q_u8(a, b); }
inline uint16x8_t words_of(Vector v) { return vreinterpretq_u16_u8(v); }
inline Vector bytes_of(uint16x8_t v) { return vreinterpretq_u8_u16(v); }
inline Vector widen_low(Vector bytes) { return bytes_of(vmovl_u8(vget_low_u8(bytes))); }
inline Vector widen_high(Vector bytes) { return bytes_of(vmovl_u8(vget_high_u8(bytes))); }
inline Vector add_words(Vector a, Vector b) { return bytes_of(vaddq_u16(words_of(a), words_of(b))); }
inline Vector multiply_words(Vector a, Vector b) { return bytes_of(vmulq_u16(words_of(a), words_of(b))); }
inline Vector high_bytes(Vector words) { return bytes_of(vshrq_n_u16(words_of(words), 8)); }
inline Vector byte_up(Vector words) { return bytes_of(vshlq_n_u16(words_of(words), 8)); }
// Bit i: the highest bit of byte i, which is set in all its bits or in none.
inline uint32_t byte_bits(Vector v) {
  const uint8x16_t own = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t set = vandq_u8(v, own);
  return vaddv_u8(vget_low_u8(set)) | static_cast<uint32_t>(vaddv_u8(vget_high_u8(set))) << 8;
}
// Bit i: word i is below 256.
inline uint32_t below_256(Vector words) {
  const uint8x8_t own = {1, 2, 4, 8, 16, 32, 64, 128};
  return vaddv_u8(vand_u8(vmovn_u16(vcltq_u16(words_of(words), vdupq_n_u16(256))), own));
}
// Eight bytes of `from`, at the places that `controls` says (128: zero), as words; and 65535 where a place is not 128.
inline Vector take_bytes(const uint8_t* from, const uint8_t* controls) {
  return bytes_of(vmovl_u8(vtbl1_u8(vld1_u8(from), vld1_u8(controls))));
}
inline Vector taken(const uint8_t* controls) { return bytes_of(vcgezq_s16(vmovl_s8(vreinterpret_s8_u8(vld1_u8(controls))))); }
// 255 in byte i where bit i is set.
inline Vector bits_as_bytes(uint32_t bits) {
  const uint8x16_t own = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t spread = vcombine_u8(vdup_n_u8(static_cast<uint8_t>(bits)), vdup_n_u8(static_cast<uint8_t>(bits >> 8)));
  return vtstq_u8(spread, own);
}
// Bit i: the highest bit of byte i, whatever the others are.
inline uint32_t high_bits(Vector v) { return byte_bits(vcltzq_s8(vreinterpretq_s8_u8(v))); }
inline Vector load_aligned(const void* from) { return load_vector(from); }
inline void store_aligned(void* to, Vector v) { store_vector(to, v); }
inline Vector no_bytes() { return vdupq_n_u8(0); }
inline Vector without(Vector a, Vector b) { return vbicq_u8(a, b); }
// a where b is positive, -a where it is negative, else 0.
inline Vector with_sign(Vector a, Vector b) {
  const int8x16_t sign = vreinterpretq_s8_u8(b);
  return vsubq_u8(vandq_u8(a, vcgtzq_s8(sign)), vandq_u8(a, vcltzq_s8(sign)));
}
inline Vector interleave_low(Vector a, Vector b) { return vzip1q_u8(a, b); }
inline Vector interleave_high(Vector a, Vector b) { return vzip2q_u8(a, b); }
inline Vector interleave_words_low(Vector a, Vector b) { return bytes_of(vzip1q_u16(words_of(a), words_of(b))); }
inline Vector interleave_words_high(Vector a, Vector b) { return bytes_of(vzip2q_u16(words_of(a), words_of(b))); }

struct Two {
  Vector first, second;
};

inline Two bytes_of_words(Vector a, Vector b) { return {vuzp1q_u8(a, b), vuzp2q_u8(a, b)}; }

template <bool NARROW>
inline Two multiplied(Vector frequency, Vector high, Vector above) {
  uint16x8_t low = vmull_u8(vget_low_u8(frequency), vget_low_u8(high)), upper = vmull_high_u8(frequency, high);
  if constexpr (!NARROW) low = vaddw_u8(low, vget_low_u8(high)), upper = vaddw_high_u8(upper, high);
  return {bytes_of(vaddw_u8(low, vget_low_u8(above))), bytes_of(vaddw_high_u8(upper, above))};
}

inline Vector expanded(const uint8_t*& bytes, const uint8_t* masks) {
  const uint8_t *first = bytes, *second = first + __builtin_popcount(masks[0]);
  bytes = second + __builtin_popcount(masks[1]);
  const Vector controls = vcombine_u8(vld1_u8(low_control(masks[0])), vld1_u8(high_control(masks[1])));
  return vqtbl1q_u8(vcombine_u8(vld1_u8(first), vld1_u8(second)), controls);
}

struct Leaves {
  Vector place;
};

inline Vector kept_leaf(Vector id) { return vandq_u8(id, vdupq_n_u8(31)); }
inline Leaves leaves_of(Vector kept) { return {kept}; }
inline Vector at_leaves(const uint8_t* table, Leaves leaves) {
  return vqtbl2q_u8(uint8x16x2_t{{vld1q_u8(table), vld1q_u8(table + 16)}}, leaves.place);
}
inline Vector leaf_of(Vector id) { return vandq_u8(id, vdupq_n_u8(15)); }

typedef float32x4_t FloatVector;

inline FloatVector all_floats(float value) { return vdupq_n_f32(value); }
inline FloatVector as_floats(Vector v) { return vreinterpretq_f32_u8(v); }
inline FloatVector load_floats(const float* from) { return vld1q_f32(from); }
inline void store_floats(float* to, FloatVector v) { vst1q_f32(to, v); }
inline FloatVector subtract_floats(FloatVector a, FloatVector b) { return vsubq_f32(a, b); }
inline FloatVector multiply_floats(FloatVector a, FloatVector b) { return vmulq_f32(a, b); }
inline FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) { return vfmaq_f32(c, a, b); }
inline void store_blocks(float* to, FloatVector v) { vst1q_f32(to, v); }

#endif

inline Vector load_block(const void* from) { return load_vector(from); }

}  // namespace
}  // namespace onnx_compress
