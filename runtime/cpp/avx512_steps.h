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

// A step of a panel before its scale, and the lanes that escape, which `patch_escapes` sees to: what they have is their raw part's share.
struct Found {
  Quarters value;
  uint64_t escaping, odd;  // a bit a lane; `odd`: those of the odd quantizer
};

// A step of a plain panel.
template <bool RAW, bool NARROW>
ONNX_COMPRESS_INLINE void find_values(Stream& stream, const Group& group, const PlainTable<NARROW>& table, States& states, uint64_t active,
                                      const uint8_t*& bytes, Found& found, int& fault) {
  const __m512i id = step_states(states, table, active, bytes);
  look_up(table, id, found.value);
  found.escaping = table.escaping(id);
  if constexpr (RAW) {
    Planes planes;
    planes.count = group.raw_bits;
    if (const int unused = take_planes(stream, active, planes)) fault = unused;
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) found.value[q] = with_raw(found.value[q], planes, q);
  }
}

// The multiple with its r raw bits, from that without, h = 1 << (r - 1): it grows by 2 * raw. Where c = 0, levels are those of raw - h, and
// sign(level) is -1 only while raw < h, which the highest bit tells: an odd quantizer's multiple is then 2 less, and 0 in place of -1.
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

// "(c << r) - ((1 << r) >> 1) + b" has the parity that it has with b = 0, or the other one where the lowest bit of b is set. What the bit
// ODD carries does not count.
ONNX_COMPRESS_INLINE __m512i with_parity(__m512i kind, uint64_t lowest) {
  return _mm512_mask_add_epi8(kind, lowest, kind, _mm512_set1_epi8(LookupPair::ODD));
}

// Those of the lanes that escape whose levels are odd, without raw bits. One that is missing is found by `patch_escapes`.
__attribute__((noinline)) uint64_t odd_escapes(Stream& stream, const Group& group, uint64_t lanes) {
  uint64_t odd = 0;
  for (; lanes && stream.escapes_seen < stream.escapes_left; lanes &= lanes - 1) {
    const uint64_t parity = static_cast<uint64_t>(group.escape_base + stream.escapes[stream.escapes_seen++]) & 1;
    odd |= lanes & (0 - lanes) & (0 - parity);
  }
  return odd;
}

// A step of a trellis-coded panel: with one raw bit,
template <bool RAW>
ONNX_COMPRESS_INLINE void find_values(Stream& stream, const Group&, const BitPairTable& table, States& states, uint64_t active,
                                      const uint8_t*& bytes, Found& found, int& fault) {
  static_assert(RAW);
  found.odd = _mm512_movepi8_mask(states.trellis);
  const __m512i plain = _mm512_permutexvar_epi8(step_states(states, table, active, bytes), table.kind);
  found.escaping = _mm512_movepi8_mask(plain);
  Planes planes;
  planes.count = 1;
  if (const int unused = take_planes(stream, active, planes)) fault = unused;
  const __m512i kind = with_parity(plain, planes.bits[0]);
  look_up(table, kind, found.value);
  states.trellis = next_states(states.trellis, kind);
}

// or with any number. Without one, the parity of an escaped level is that of its own.
template <bool RAW, bool NARROW>
ONNX_COMPRESS_INLINE void find_values(Stream& stream, const Group& group, const PairTable<NARROW>& table, States& states, uint64_t active,
                                      const uint8_t*& bytes, Found& found, int& fault) {
  found.odd = _mm512_movepi8_mask(states.trellis);
  __m512i kind = _mm512_permutexvar_epi8(step_states(states, table, active, bytes), table.kind);
  look_up(table, kind, found.value);
  found.escaping = _mm512_movepi8_mask(kind) & active;
  if constexpr (RAW) {
    Planes planes;
    planes.count = group.raw_bits;
    if (const int unused = take_planes(stream, active, planes)) fault = unused;
    kind = with_parity(kind, planes.bits[0]);
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) found.value[q] = with_bits(found.value[q], planes, found.odd, q);
  } else if (__builtin_expect(found.escaping != 0, 0)) {
    kind = with_parity(kind, odd_escapes(stream, group, found.escaping));
  }
  states.trellis = next_states(states.trellis, kind);
}

}  // namespace
}  // namespace onnx_compress
