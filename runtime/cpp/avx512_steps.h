// One step of a panel in AVX-512 registers: states, classes, raw bits, trellis. What comes out is what is multiplied with the scale.
//
// Included by fast_avx512.h only.
#pragma once

#include "avx512_tables.h"

namespace onnx_compress {
namespace {

struct States {
  __m512i lower, upper;  // bytes of the states of a panel's lanes
  __m512i trellis;
};

ONNX_COMPRESS_INLINE States load_states(const Stream& stream, int lane) {
  const __m512i first = load_bytes(stream.states + lane), second = load_bytes(stream.states + lane + PANEL / 2);
  return {_mm512_permutex2var_epi8(first, load_bytes(ORDERS.lower), second),
          _mm512_permutex2var_epi8(first, load_bytes(ORDERS.upper), second),
          _mm512_shuffle_epi8(sixteen(KEPT_STATES.kept), load_bytes(stream.trellis + lane))};
}

ONNX_COMPRESS_INLINE void store_states(const States& states, Stream& stream, int lane) {
  _mm512_storeu_si512(stream.states + lane, _mm512_permutex2var_epi8(states.lower, load_bytes(ORDERS.first), states.upper));
  _mm512_storeu_si512(stream.states + lane + PANEL / 2, _mm512_permutex2var_epi8(states.lower, load_bytes(ORDERS.second), states.upper));
  _mm512_storeu_si512(stream.trellis + lane, _mm512_and_si512(states.trellis, _mm512_set1_epi8(7)));
}

// "if x < 256:  x = (x << 8) | next byte of the rans section", lanes in ascending order; reads 64 bytes.
ONNX_COMPRESS_INLINE void feed(States& states, uint64_t active, const uint8_t*& bytes) {
  const __mmask64 hungry = _mm512_mask_testn_epi8_mask(active, states.upper, states.upper);
  const __m512i next = load_bytes(bytes);
  bytes += __builtin_popcountll(hungry);
  states.upper = _mm512_mask_mov_epi8(states.upper, hungry, states.lower);
  states.lower = _mm512_mask_expand_epi8(states.lower, hungry, next);
}

// "x = frequency[i] * (x >> 8) + slot - start[i]", in words of even lanes and of odd ones, whose bytes are put together again.
template <class Table>
ONNX_COMPRESS_INLINE void multiply_states(States& states, const Table& table, __m512i id) {
  const __m512i swapped = load_bytes(ORDERS.swapped), odd_id = _mm512_srli_epi16(id, 8);
  const __m512i above = _mm512_sub_epi8(states.lower, _mm512_permutexvar_epi8(id, table.start));
  __m512i even, odd;
  if constexpr (Table::SMALL) {
    // One instruction multiplies two pairs of bytes and adds: frequency * upper + 1 * above, where a frequency is a signed byte.
    const __m512i one = _mm512_set1_epi8(1);
    even = _mm512_maddubs_epi16(_mm512_mask_shuffle_epi8(states.upper, ODD, above, swapped),
                                _mm512_mask_permutexvar_epi8(one, EVEN, id, table.frequency));
    odd = _mm512_maddubs_epi16(_mm512_mask_shuffle_epi8(above, EVEN, states.upper, swapped),
                               _mm512_mask_permutexvar_epi8(one, EVEN, odd_id, table.frequency));
  } else {
    const auto next = [](__m512i less_one, __m512i upper, __m512i above) {
      return _mm512_add_epi16(_mm512_add_epi16(_mm512_mullo_epi16(less_one, upper), upper), above);
    };
    even = next(_mm512_maskz_permutexvar_epi8(EVEN, id, table.frequency), _mm512_maskz_mov_epi8(EVEN, states.upper),
                _mm512_maskz_mov_epi8(EVEN, above));
    odd =
        next(_mm512_maskz_permutexvar_epi8(EVEN, odd_id, table.frequency), _mm512_srli_epi16(states.upper, 8), _mm512_srli_epi16(above, 8));
  }
  states.lower = _mm512_mask_shuffle_epi8(even, ODD, odd, swapped);
  states.upper = _mm512_mask_shuffle_epi8(odd, EVEN, even, swapped);
}

// "slot = x & 255;  i = the class with start[i] <= slot < start[i] + frequency[i]", and the next state; gives the ids of the classes.
template <class Table>
ONNX_COMPRESS_INLINE __m512i step_states(States& states, const Table& table, uint64_t active, const uint8_t*& bytes) {
  const __m512i id = table.ids(states.lower, states.trellis);
  multiply_states(states, table, id);
  feed(states, active, bytes);
  return id;
}

ONNX_COMPRESS_INLINE __m512 with_raw(__m512 value, const Planes& planes, int quarter) {
  for (int bit = 0; bit < planes.count; ++bit) {
    const __mmask16 set = static_cast<__mmask16>(planes.bits[bit] >> (16 * quarter));
    value = _mm512_mask_add_ps(value, set, value, _mm512_set1_ps(static_cast<float>(1 << bit)));
  }
  return value;
}

// One step of a panel before its scale: values of lanes 0 to 15, 16 to 31, ..., and what the next step of a trellis needs.
struct Found {
  __m512 value[4];
  __m512i parities;  // the bit LookupPair::ODD where a level is odd
};

// `key`: what the table finds a value by.
template <class Table>
ONNX_COMPRESS_INLINE void look_up(const Table& table, __m512i key, Found& found) {
  const __m512i quarters = _mm512_permutexvar_epi8(load_bytes(ORDERS.quarters), key);
  found.value[0] = table.values(quarters), found.value[1] = table.values(_mm512_srli_epi32(quarters, 8));
  found.value[2] = table.values(_mm512_srli_epi32(quarters, 16)), found.value[3] = table.values(_mm512_srli_epi32(quarters, 24));
}

// A step of a plain panel; gives the lanes that escape: `patch_escapes` sees to them.
template <bool RAW, bool NARROW>
ONNX_COMPRESS_INLINE uint64_t find_values(Stream& stream, const Group& group, const PlainTable<NARROW>& table, States& states,
                                          uint64_t active, const uint8_t*& bytes, Found& found, int& fault) {
  const __m512i id = step_states(states, table, active, bytes);
  look_up(table, id, found);
  if constexpr (RAW) {
    Planes planes;
    planes.count = group.raw_bits;
    if (const int unused = take_planes(stream, active, planes)) fault = unused;
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) found.value[q] = with_raw(found.value[q], planes, q);
  }
  return table.escaping(id);
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
// trellis-coded levels, whose next states depend on them. Escapes are rare.
__attribute__((noinline)) int take_multiples(Stream& stream, const Group& group, uint64_t lanes, const Planes& planes, __m512i trellis,
                                             Found& found) {
  alignas(64) float value[PANEL];
  alignas(64) uint8_t parity[PANEL], state[PANEL];
  for (int q = 0; q < 4; ++q) _mm512_store_ps(value + 16 * q, found.value[q]);
  _mm512_store_si512(parity, found.parities), _mm512_store_si512(state, trellis);
  for (; lanes; lanes &= lanes - 1) {
    if (stream.escapes_left == 0) return STREAM_ESCAPES;
    --stream.escapes_left;
    const int lane = __builtin_ctzll(lanes);
    int level = escaped_level(group, *stream.escapes++);
    for (int bit = 0; bit < planes.count; ++bit) level += static_cast<int>(planes.bits[bit] >> lane & 1) << bit;
    value[lane] = static_cast<float>(multiple_of(level, state[lane] & 1));
    parity[lane] = static_cast<uint8_t>((level & 1) * LookupPair::ODD);
  }
  for (int q = 0; q < 4; ++q) found.value[q] = _mm512_load_ps(value + 16 * q);
  found.parities = _mm512_load_si512(parity);
  return STREAM_OK;
}

// A step of a trellis-coded panel.
template <bool RAW, bool NARROW>
ONNX_COMPRESS_INLINE uint64_t find_values(Stream& stream, const Group& group, const PairTable<NARROW>& table, States& states,
                                          uint64_t active, const uint8_t*& bytes, Found& found, int& fault) {
  const __m512i kind = _mm512_permutexvar_epi8(step_states(states, table, active, bytes), table.kind);
  look_up(table, kind, found);
  found.parities = kind;
  Planes planes;
  planes.count = RAW ? group.raw_bits : 0;
  const __mmask64 escaping = _mm512_movepi8_mask(kind);
  if constexpr (RAW) {
    if (const int unused = take_planes(stream, active, planes)) fault = unused;
    if (planes.count == 1) {
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) found.value[q] = with_bit(found.value[q], static_cast<__mmask16>(planes.bits[0] >> (16 * q)));
      found.parities = _mm512_maskz_set1_epi8(~planes.bits[0], LookupPair::ODD);  // the parity of 2 * c - 1 + b is that of b + 1
    } else {
      const uint64_t odd = _mm512_movepi8_mask(states.trellis);
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) found.value[q] = with_bits(found.value[q], planes, odd, q);
      found.parities =
          _mm512_maskz_set1_epi8(planes.bits[0], LookupPair::ODD);  // c << r and h are even: the parity is that of the lowest bit
    }
  }
  if (__builtin_expect(escaping != 0, 0)) {
    Found patched = found;  // a copy: what lives in registers must have no address
    const int other = take_multiples(stream, group, escaping & active, planes, states.trellis, patched);
    found = patched, fault = other == STREAM_OK ? fault : other;
  }
  states.trellis = next_states(states.trellis, found.parities);
  return 0;
}

}  // namespace
}  // namespace onnx_compress
