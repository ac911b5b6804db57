// Sixteen bytes, or eight words, at once: SSE4.1 and NEON under the same names.
//
// Included by kernel files only.
#pragma once

#include <cstdint>

#if defined(__SSE4_1__)
#include <immintrin.h>
#else
#include <arm_neon.h>
#endif

namespace onnx_compress {
namespace {

#if defined(__SSE4_1__)

typedef __m128i Vector;

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

#endif

}  // namespace
}  // namespace onnx_compress
