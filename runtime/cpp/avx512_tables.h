// Tables of classes in AVX-512 registers (VBMI and VBMI2), and the order in which bytes stand for lanes there.
//
// Included by fast_avx512.h only.
#pragma once

#include "direct.h"

namespace onnx_compress {
namespace {

// Bytes stand for lanes in an order of their own: byte 4 * j + q is lane 16 * q + j. The four bytes of a 32-bit element then belong to
// four vectors of 16 floats, and a shift is all that widens them: vpermps looks at the low bits of an index only.
struct Orders {
  alignas(64) uint8_t gather[PANEL], low[PANEL], high[PANEL], lanes[PANEL], natural[PANEL];
  alignas(64) uint16_t fed_from[PANEL / 2];  // states below this, 256, take a byte
  constexpr Orders() : gather(), low(), high(), lanes(), natural(), fed_from() {
    for (int i = 0; i < PANEL / 2; ++i) fed_from[i] = 256;
    for (int lane = 0; lane < PANEL; ++lane) {
      const int byte = 4 * (lane % 16) + lane / 16;
      gather[byte] = static_cast<uint8_t>(2 * lane);  // of 128 bytes of states, the low byte of the lane's
      (lane < 32 ? low : high)[2 * (lane % 32)] = static_cast<uint8_t>(byte);
      lanes[byte] = static_cast<uint8_t>(lane), natural[lane] = static_cast<uint8_t>(byte);
    }
  }
};
constexpr Orders ORDERS;
constexpr __mmask64 EVEN = 0x5555555555555555;

ONNX_COMPRESS_INLINE __m512i sixteen(const uint8_t* table) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}

ONNX_COMPRESS_INLINE __m512i thirty_two(const void* table) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(static_cast<const __m256i*>(table)));
}

ONNX_COMPRESS_INLINE __m512i plus_one(__m512i less_one) { return _mm512_add_epi8(less_one, _mm512_set1_epi8(1)); }

// A table of 256 bytes in four registers, by slot.
struct Slots {
  __m512i part[4];
  ONNX_COMPRESS_INLINE explicit Slots(const uint8_t* table)
      : part{load_bytes(table), load_bytes(table + 64), load_bytes(table + 128), load_bytes(table + 192)} {}
  ONNX_COMPRESS_INLINE __m512i at(__m512i slot) const {
    const __m512i low = _mm512_permutex2var_epi8(part[0], slot, part[1]), high = _mm512_permutex2var_epi8(part[2], slot, part[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(slot), low, high);
  }
};

// 256, the frequency of a class that is alone, has no byte: where there may be such a class, frequencies stay less by one (LESS).
template <bool LESS>
struct PlainTable {
  Slots slots;
  __m512i frequency, start, escape;
  __m512 value;
  static constexpr bool LESS_ONE = LESS;

  ONNX_COMPRESS_INLINE explicit PlainTable(const Lookup& table)
      : slots(table.bytes.place),
        frequency(LESS ? sixteen(table.bytes.less_one) : plus_one(sixteen(table.bytes.less_one))),
        start(sixteen(table.bytes.start)),
        escape(_mm512_set1_epi8(static_cast<char>(table.escape_place))),
        value(_mm512_loadu_ps(table.value)) {}
  ONNX_COMPRESS_INLINE __m512i places(__m512i slot, __m512i) const { return slots.at(slot); }
  ONNX_COMPRESS_INLINE __m512i by_place(__m512i table, __m512i place) const { return _mm512_shuffle_epi8(table, place); }
  ONNX_COMPRESS_INLINE __m512 values(__m512i place) const { return _mm512_permutexvar_ps(place, value); }
  ONNX_COMPRESS_INLINE __mmask64 escaping(__m512i place) const { return _mm512_cmpeq_epi8_mask(place, escape); }
};

struct PairTable {
  Slots even, odd;
  __m512i frequency, start, parity;
  __m512 even_value, odd_value;
  static constexpr bool LESS_ONE = true;

  ONNX_COMPRESS_INLINE explicit PairTable(const LookupPair& pair)
      : even(pair.bytes.place),
        odd(pair.bytes.place + LookupPair::ODD_SLOTS),
        frequency(thirty_two(pair.bytes.less_one)),
        start(thirty_two(pair.bytes.start)),
        parity(thirty_two(pair.place_parity)),
        even_value(_mm512_loadu_ps(pair.value)),
        odd_value(_mm512_loadu_ps(pair.value + LookupPair::ODD_IDS)) {}
  ONNX_COMPRESS_INLINE __m512i places(__m512i slot, __m512i trellis) const {
    return _mm512_mask_blend_epi8(_mm512_test_epi8_mask(trellis, _mm512_set1_epi8(1)), even.at(slot), odd.at(slot));
  }
  ONNX_COMPRESS_INLINE __m512i by_place(__m512i table, __m512i place) const { return _mm512_permutexvar_epi8(place, table); }
  ONNX_COMPRESS_INLINE __m512 values(__m512i place) const { return _mm512_permutex2var_ps(even_value, place, odd_value); }
  // 8 where a level is odd, 128 where it is an escape.
  ONNX_COMPRESS_INLINE __m512i parities(__m512i place) const { return by_place(parity, place); }
  ONNX_COMPRESS_INLINE void advance(__m512i& trellis, __m512i eight_parities) const {
    trellis = _mm512_shuffle_epi8(sixteen(NEXT_STATES.by_parity), _mm512_or_si512(trellis, eight_parities));
  }
};

}  // namespace
}  // namespace onnx_compress
