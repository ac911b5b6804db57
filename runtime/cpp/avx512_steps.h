// One step of a panel in AVX-512 registers: states, classes, raw bits, trellis. What comes out is what is multiplied with the scale.
//
// Included by fast_avx512.h only.
#pragma once

#include "avx512_tables.h"

namespace onnx_compress {
namespace {

struct States {
  __m512i low, high;  // of lanes 0 to 31, and 32 to 63
  __m512i trellis;    // in the order of bytes
};

// "if x < 256:  x = (x << 8) | next byte of the rans section", lanes in ascending order; reads 32 bytes.
ONNX_COMPRESS_INLINE __m512i fed(__m512i x, uint64_t active, const uint8_t*& bytes) {
  const __mmask32 hungry = _mm512_mask_cmplt_epu16_mask(static_cast<__mmask32>(active), x, load_bytes(ORDERS.fed_from));
  const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)));
  bytes += __builtin_popcount(hungry);
  return _mm512_or_si512(_mm512_mask_slli_epi16(x, hungry, x, 8), _mm512_maskz_expand_epi16(hungry, words));
}

// "slot = x & 255;  i = the class with start[i] <= slot < start[i] + frequency[i]
//  x = frequency[i] * (x >> 8) + slot - start[i]"
//
// Gives the places of the classes, in the order of bytes.
template <class Table>
ONNX_COMPRESS_INLINE __m512i step_states(States& states, const Table& table, uint64_t active, const uint8_t*& bytes) {
  const __m512i slot = _mm512_permutex2var_epi8(states.low, load_bytes(ORDERS.gather), states.high);
  const __m512i place = table.places(slot, states.trellis);
  const __m512i frequency = table.by_place(table.frequency, place), above = _mm512_sub_epi8(slot, table.by_place(table.start, place));
  const auto next = [&](__m512i x, const uint8_t* order, uint64_t own) __attribute__((always_inline)) {
    const __m512i widened = load_bytes(order), high_byte = _mm512_srli_epi16(x, 8);
    __m512i product = _mm512_mullo_epi16(_mm512_maskz_permutexvar_epi8(EVEN, widened, frequency), high_byte);
    if constexpr (Table::LESS_ONE) product = _mm512_add_epi16(product, high_byte);
    return fed(_mm512_add_epi16(product, _mm512_maskz_permutexvar_epi8(EVEN, widened, above)), own, bytes);
  };
  states.low = next(states.low, ORDERS.low, active);
  states.high = next(states.high, ORDERS.high, active >> 32);
  return place;
}

ONNX_COMPRESS_INLINE __m512 with_raw(__m512 value, const Planes& planes, int quarter) {
  for (int bit = 0; bit < planes.count; ++bit) {
    const __mmask16 set = static_cast<__mmask16>(planes.bits[bit] >> (16 * quarter));
    value = _mm512_mask_add_ps(value, set, value, _mm512_set1_ps(static_cast<float>(1 << bit)));
  }
  return value;
}

// Bit `lane`, of a bit in the order of bytes.
inline uint64_t lanes_in_order(uint64_t bytes) {
  return _mm512_movepi8_mask(_mm512_permutexvar_epi8(load_bytes(ORDERS.natural), _mm512_movm_epi8(bytes)));
}

// One step of a panel before its scale: values of lanes 0 to 15, 16 to 31, ..., and what the next step of a trellis needs.
struct Found {
  __m512 value[4];
  __m512i eight_parities;
};

template <class Table>
ONNX_COMPRESS_INLINE void look_up(const Table& table, __m512i place, Found& found) {
  found.value[0] = table.values(place), found.value[1] = table.values(_mm512_srli_epi32(place, 8));
  found.value[2] = table.values(_mm512_srli_epi32(place, 16)), found.value[3] = table.values(_mm512_srli_epi32(place, 24));
}

// A step of a plain panel; gives the lanes that escape, in the order of bytes: `patch_escapes` sees to them.
template <bool RAW, class Table>
ONNX_COMPRESS_INLINE uint64_t find_values(Stream& stream, const Group& group, const Table& table, States& states, uint64_t active,
                                          const uint8_t*& bytes, Found& found, int& fault) {
  const __m512i place = step_states(states, table, active, bytes);
  look_up(table, place, found);
  if constexpr (RAW) {
    Planes planes;
    planes.count = group.raw_bits;
    if (const int unused = take_planes(stream, active, planes)) fault = unused;
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) found.value[q] = with_raw(found.value[q], planes, q);
  }
  return table.escaping(place);
}

// The multiple with its raw bit b, from that without: "level = (c << 1) - 1 + b", so it grows by 2 where b is set. But c = 0 has the levels
// -1 and 0, and q * sign(level) is then 0 in place of -q: an odd quantizer's 1, which is no multiple of any other level with b = 1.
ONNX_COMPRESS_INLINE __m512 with_bit(__m512 multiple, __mmask16 bit) {
  const __m512 grown = _mm512_mask_add_ps(multiple, bit, multiple, _mm512_set1_ps(2));
  return _mm512_mask_mov_ps(grown, _mm512_mask_cmpeq_ps_mask(bit, grown, _mm512_set1_ps(1)), _mm512_setzero_ps());
}

// The same with r raw bits, h = 1 << (r - 1): it grows by 2 * raw. Where c = 0, levels are those of raw - h, and sign(level) is -1 only
// while raw < h, which the highest bit tells: an odd quantizer's multiple is then 2 less, and 0 in place of -1.
ONNX_COMPRESS_INLINE __m512 with_bits(__m512 multiple, const Planes& planes, uint64_t odd, int quarter) {
  for (int bit = 0; bit < planes.count; ++bit) {
    const __mmask16 set = static_cast<__mmask16>(planes.bits[bit] >> (16 * quarter));
    multiple = _mm512_mask_add_ps(multiple, set, multiple, _mm512_set1_ps(static_cast<float>(2 << bit)));
  }
  // No other class has such multiples where the highest bit is set: those above begin at 2 * (1 << r) - 1, those below are negative.
  const __mmask16 high = static_cast<__mmask16>((planes.bits[planes.count - 1] & odd) >> (16 * quarter));
  const __mmask16 small = _mm512_mask_cmple_ps_mask(high, multiple, _mm512_set1_ps(static_cast<float>((1 << planes.count) - 1)));
  const __mmask16 other = _mm512_mask_cmp_ps_mask(small, multiple, _mm512_setzero_ps(), _CMP_GT_OQ);
  const __m512 less = _mm512_sub_ps(multiple, _mm512_set1_ps(2));
  return _mm512_mask_max_ps(multiple, other, less, _mm512_setzero_ps());
}

// "or, for the escape, escape_base + e with e the next byte of the escape section", in ascending lane order: multiples and parities of
// trellis-coded levels, whose next states depend on them. `lanes` and planes are by lane; escapes are rare.
__attribute__((noinline)) int take_multiples(Stream& stream, const Group& group, uint64_t lanes, const Planes& planes, __m512i trellis,
                                             Found& found) {
  alignas(64) float value[PANEL];
  alignas(64) uint8_t parity[PANEL], state[PANEL];
  for (int q = 0; q < 4; ++q) _mm512_store_ps(value + 16 * q, found.value[q]);
  _mm512_store_si512(parity, _mm512_and_si512(found.eight_parities, _mm512_set1_epi8(8))), _mm512_store_si512(state, trellis);
  for (; lanes; lanes &= lanes - 1) {
    if (stream.escapes_left == 0) return STREAM_ESCAPES;
    --stream.escapes_left;
    const int lane = __builtin_ctzll(lanes), byte = ORDERS.natural[lane];
    int level = escaped_level(group, *stream.escapes++);
    for (int bit = 0; bit < planes.count; ++bit) level += static_cast<int>(planes.bits[bit] >> lane & 1) << bit;
    value[lane] = static_cast<float>(multiple_of(level, state[byte] & 1));
    parity[byte] = static_cast<uint8_t>((level & 1) * 8);
  }
  for (int q = 0; q < 4; ++q) found.value[q] = _mm512_load_ps(value + 16 * q);
  found.eight_parities = _mm512_load_si512(parity);
  return STREAM_OK;
}

// A step of a trellis-coded panel.
template <bool RAW>
ONNX_COMPRESS_INLINE uint64_t find_values(Stream& stream, const Group& group, const PairTable& table, States& states, uint64_t active,
                                          const uint8_t*& bytes, Found& found, int& fault) {
  const __m512i place = step_states(states, table, active, bytes);
  look_up(table, place, found);
  found.eight_parities = table.parities(place);
  Planes planes;
  planes.count = RAW ? group.raw_bits : 0;
  const __mmask64 escaping = _mm512_movepi8_mask(found.eight_parities);
  if constexpr (RAW) {
    if (const int unused = take_planes(stream, active, planes)) fault = unused;
    const __m512i set = _mm512_permutexvar_epi8(load_bytes(ORDERS.lanes), _mm512_movm_epi8(planes.bits[0])), eight = _mm512_set1_epi8(8);
    if (planes.count == 1) {
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) found.value[q] = with_bit(found.value[q], static_cast<__mmask16>(planes.bits[0] >> (16 * q)));
      found.eight_parities = _mm512_andnot_si512(set, eight);  // the parity of 2 * c - 1 + b is that of b + 1
    } else {
      const uint64_t odd = _mm512_test_epi8_mask(_mm512_permutexvar_epi8(load_bytes(ORDERS.natural), states.trellis), _mm512_set1_epi8(1));
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) found.value[q] = with_bits(found.value[q], planes, odd, q);
      found.eight_parities = _mm512_and_si512(set, eight);  // c << r and h are even: the parity is that of the lowest bit
    }
  }
  if (__builtin_expect(escaping != 0, 0)) {
    Found patched = found;  // a copy: what lives in registers must have no address
    const int other = take_multiples(stream, group, lanes_in_order(escaping) & active, planes, states.trellis, patched);
    found = patched, fault = other == STREAM_OK ? fault : other;
  }
  table.advance(states.trellis, found.eight_parities);
  return 0;
}

}  // namespace
}  // namespace onnx_compress
