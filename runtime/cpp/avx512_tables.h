// Tables of classes in AVX-512 registers (VBMI and VBMI2).
//
// Included by fast_avx512.h only.
#pragma once

#include "direct.h"

namespace onnx_compress {
namespace {

// Orders of bytes. Values are looked up by the bytes of 32-bit elements, in each of which byte q is lane 16 * q + j: the four bytes then
// belong to four vectors of 16 floats, and a shift is all that takes them apart, as a lookup sees the low bits of an index only.
struct Orders {
  alignas(64) uint8_t lower[PANEL], upper[PANEL];   // of 128 bytes of states: the bytes of each
  alignas(64) uint8_t first[PANEL], second[PANEL];  // the other way round: of lanes 0 to 31, 32 to 63
  alignas(64) uint8_t swapped[PANEL];               // the bytes of words, for shuffles
  alignas(64) uint8_t quarters[PANEL];
  constexpr Orders() : lower(), upper(), first(), second(), swapped(), quarters() {
    for (int i = 0; i < PANEL; ++i) {
      lower[i] = static_cast<uint8_t>(2 * i), upper[i] = static_cast<uint8_t>(2 * i + 1);
      first[i] = static_cast<uint8_t>(i / 2 + i % 2 * PANEL), second[i] = static_cast<uint8_t>(first[i] + PANEL / 2);
      swapped[i] = static_cast<uint8_t>(i % 16 ^ 1), quarters[i] = static_cast<uint8_t>(16 * (i % 4) + i / 4);
    }
  }
};
constexpr Orders ORDERS;
constexpr __mmask64 EVEN = 0x5555555555555555, ODD = ~EVEN;

ONNX_COMPRESS_INLINE __m512i sixteen(const void* table) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(table)));
}

ONNX_COMPRESS_INLINE __m512i thirty_two(const void* table) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(static_cast<const __m256i*>(table)));
}

// 128 bytes in two registers, by the low seven bits.
struct Couples {
  __m512i part[2];
  ONNX_COMPRESS_INLINE explicit Couples(const uint8_t* table) : part{load_bytes(table), load_bytes(table + 64)} {}
  ONNX_COMPRESS_INLINE __m512i at(__m512i couple) const { return _mm512_permutex2var_epi8(part[0], couple, part[1]); }
};

ONNX_COMPRESS_INLINE __m512i couple_of(__m512i slot) { return _mm512_srli_epi16(slot, 1); }

// "& (slot | ~1)"
ONNX_COMPRESS_INLINE __m512i id_of(__m512i second, __m512i slot) {
  return _mm512_ternarylogic_epi32(second, slot, _mm512_set1_epi8(1), 0xD0);
}

// NARROW: no frequency is above 127. Else they are kept less by one, since 256, of a class that is alone, has no byte.
template <bool NARROW>
struct PlainTable {
  Couples couples;
  __m512i frequency, start, escape;
  __m512 low_value, high_value;
  static constexpr bool SMALL = NARROW;

  ONNX_COMPRESS_INLINE explicit PlainTable(const Lookup& table)
      : couples(table.couples.id),
        frequency(thirty_two(NARROW ? table.couples.frequency : table.couples.less_one)),
        start(thirty_two(table.couples.start)),
        escape(_mm512_set1_epi8(static_cast<char>(table.escape_id))),
        low_value(_mm512_load_ps(table.id_value)),
        high_value(_mm512_load_ps(table.id_value + 16)) {}
  ONNX_COMPRESS_INLINE __m512i ids(__m512i slot, __m512i) const { return id_of(couples.at(couple_of(slot)), slot); }
  ONNX_COMPRESS_INLINE __m512 values(__m512i id) const { return _mm512_permutex2var_ps(low_value, id, high_value); }
  ONNX_COMPRESS_INLINE __mmask64 escaping(__m512i id) const { return _mm512_cmpge_epu8_mask(id, escape); }
};

// Values of lanes 0 to 15, 16 to 31, ... before their scale.
using Quarters = __m512[4];

// Values that `table` finds by the low five bits of a byte.
template <class Table>
ONNX_COMPRESS_INLINE void look_up(const Table& table, __m512i bytes, Quarters& values) {
  const __m512i quarters = _mm512_permutexvar_epi8(load_bytes(ORDERS.quarters), bytes);
  values[0] = table.values(quarters), values[1] = table.values(_mm512_srli_epi32(quarters, 8));
  values[2] = table.values(_mm512_srli_epi32(quarters, 16)), values[3] = table.values(_mm512_srli_epi32(quarters, 24));
}

// The classes of both quantizers. Trellis states are kept with their lowest bit, the quantizer, in the highest place as well.
template <bool NARROW>
struct PairClasses {
  Couples even, odd;
  __m512i frequency, start, kind;
  static constexpr bool SMALL = NARROW;

  ONNX_COMPRESS_INLINE explicit PairClasses(const LookupPair& pair)
      : even(pair.couples.id),
        odd(pair.couples.id + LookupPair::ODD_SLOTS / 2),
        frequency(load_bytes(NARROW ? pair.couples.frequency : pair.couples.less_one)),
        start(load_bytes(pair.couples.start)),
        kind(load_bytes(pair.kind)) {}
  ONNX_COMPRESS_INLINE __m512i ids(__m512i slot, __m512i trellis) const {
    const __m512i couple = couple_of(slot);
    return id_of(_mm512_mask_blend_epi8(_mm512_movepi8_mask(trellis), even.at(couple), odd.at(couple)), slot);
  }
};

template <bool NARROW>
struct PairTable : PairClasses<NARROW> {
  __m512 even_value, odd_value;

  ONNX_COMPRESS_INLINE explicit PairTable(const LookupPair& pair)
      : PairClasses<NARROW>(pair), even_value(_mm512_load_ps(pair.value)), odd_value(_mm512_load_ps(pair.value + LookupPair::ODD_IDS)) {}
  ONNX_COMPRESS_INLINE __m512 values(__m512i kind) const { return _mm512_permutex2var_ps(even_value, kind, odd_value); }
};

// With one raw bit and small levels: it chooses among twice as many values, of which the upper half of the bits is all there is.
struct BitPairTable : PairClasses<true> {
  __m512i even_bit_value, odd_bit_value;

  ONNX_COMPRESS_INLINE explicit BitPairTable(const LookupPair& pair)
      : PairClasses<true>(pair), even_bit_value(load_bytes(pair.bit_value)), odd_bit_value(load_bytes(pair.bit_value + LookupPair::ODD)) {}
};

// Two words of a 32-bit element are two values: one is moved up, the other is there already.
ONNX_COMPRESS_INLINE void look_up(const BitPairTable& table, __m512i kind, Quarters& values) {
  const __m512i quarters = _mm512_permutexvar_epi8(load_bytes(ORDERS.quarters), kind), upper = _mm512_set1_epi32(-65536);
  const __m512i first = _mm512_permutex2var_epi16(table.even_bit_value, quarters, table.odd_bit_value);
  const __m512i second = _mm512_permutex2var_epi16(table.even_bit_value, _mm512_srli_epi16(quarters, 8), table.odd_bit_value);
  values[0] = _mm512_castsi512_ps(_mm512_slli_epi32(first, 16)), values[1] = _mm512_castsi512_ps(_mm512_slli_epi32(second, 16));
  values[2] = _mm512_castsi512_ps(_mm512_and_si512(first, upper)), values[3] = _mm512_castsi512_ps(_mm512_and_si512(second, upper));
}

// "s = NEXT[s][level & 1]": by s + ODD * parity, the states as they are kept.
struct KeptStates {
  alignas(64) uint8_t next[PANEL], kept[16];
  constexpr KeptStates() : next(), kept() {
    for (int s = 0; s < 8; ++s) {
      kept[s] = static_cast<uint8_t>(s | s << 7);
      for (int parity = 0; parity < 2; ++parity)
        next[s + LookupPair::ODD * parity] = static_cast<uint8_t>(NEXT[s][parity] | NEXT[s][parity] << 7);
    }
  }
};
constexpr KeptStates KEPT_STATES;

// Those of bits that are ODD where a level is odd; other bits do not count.
ONNX_COMPRESS_INLINE __m512i next_states(__m512i trellis, __m512i parities) {
  // (parities & ODD) | trellis
  const __m512i index = _mm512_ternarylogic_epi32(parities, _mm512_set1_epi8(LookupPair::ODD), trellis, 0xEA);
  return _mm512_permutexvar_epi8(index, load_bytes(KEPT_STATES.next));
}

}  // namespace
}  // namespace onnx_compress
