// Classes of 64 lanes with AVX-512 with VBMI.
//
// Included by classes.h only.
#pragma once

namespace onnx_compress {
namespace {

inline __m512i load_bytes(const void* from) { return _mm512_loadu_si512(from); }

// A table of 256 bytes in four registers, by slot.
inline __m512i by_slot(const uint8_t* table, __m512i slot) {
  const __m512i low = _mm512_permutex2var_epi8(load_bytes(table), slot, load_bytes(table + 64));
  const __m512i high = _mm512_permutex2var_epi8(load_bytes(table + 128), slot, load_bytes(table + 192));
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(slot), low, high);
}

inline __m512i places(const Lookup& table, __m512i slot, const uint8_t*) { return by_slot(table.bytes.place, slot); }

// `slot` has its lanes in the order of packed words: eight of the first half, eight of the second, and so on.
inline __m512i places(const LookupPair& pair, __m512i slot, const uint8_t* trellis) {
  const __m512i states = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), load_bytes(trellis));
  const __mmask64 odd = _mm512_test_epi8_mask(states, _mm512_set1_epi8(1));
  return _mm512_mask_blend_epi8(odd, by_slot(pair.bytes.place, slot), by_slot(pair.bytes.place + LookupPair::ODD_SLOTS, slot));
}

inline __m512i by_place(const uint8_t (&table)[16], __m512i place) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), place);
}

inline __m512i by_place(const uint8_t (&table)[32], __m512i place) {
  return _mm512_permutexvar_epi8(place, _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(table))));
}

// "slot = x & 255;  i = the class with start[i] <= slot < start[i] + frequency[i]
//  x = frequency[i] * (x >> 8) + slot - start[i]"
//
// All 64 lanes at once, by lookups in registers.
template <typename Table>
inline void step_classes(uint16_t* states, const Table& table, const uint8_t* trellis, uint8_t* index) {
  const __m512i bytes = _mm512_set1_epi16(255), one = _mm512_set1_epi16(1), zero = _mm512_setzero_si512();
  const __m512i first = load_bytes(states), second = load_bytes(states + 32);
  const __m512i slot = _mm512_packus_epi16(_mm512_and_si512(first, bytes), _mm512_and_si512(second, bytes));
  const __m512i place = places(table, slot, trellis);
  const __m512i less_one = by_place(table.bytes.less_one, place), found = by_place(table.bytes.index, place);
  const __m512i above = _mm512_sub_epi8(_mm512_xor_si512(slot, _mm512_set1_epi8(-128)), by_place(table.bytes.biased, place));
  const __m512i low = _mm512_add_epi16(_mm512_unpacklo_epi8(less_one, zero), one);
  const __m512i high = _mm512_add_epi16(_mm512_unpackhi_epi8(less_one, zero), one);
  const __m512i low_product = _mm512_mullo_epi16(low, _mm512_srli_epi16(first, 8));
  const __m512i high_product = _mm512_mullo_epi16(high, _mm512_srli_epi16(second, 8));
  _mm512_storeu_si512(states, _mm512_add_epi16(low_product, _mm512_unpacklo_epi8(above, zero)));
  _mm512_storeu_si512(states + 32, _mm512_add_epi16(high_product, _mm512_unpackhi_epi8(above, zero)));
  _mm512_storeu_si512(index, _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), found));
}

// out[lane] = table[index[lane]]
inline void look_up(const void* table, const uint8_t* index, void* out) {
  const __m512i entries = _mm512_broadcast_i64x4(_mm256_loadu_si256(static_cast<const __m256i*>(table)));
  _mm512_storeu_si512(out, _mm512_permutexvar_epi8(load_bytes(index), entries));
}

// Bit l: index[l] is this id.
inline uint64_t lanes_of(uint8_t id, const uint8_t* index) {
  return _mm512_cmpeq_epi8_mask(load_bytes(index), _mm512_set1_epi8(static_cast<char>(id)));
}

// parts[l]: bit l of each plane of eight bytes.
inline void put_planes(const uint8_t* planes, int bits, uint8_t* parts) {
  __m512i sum = _mm512_setzero_si512(), one = _mm512_set1_epi8(1);
  for (int bit = 0; bit < bits; ++bit, one = _mm512_add_epi8(one, one)) {
    const __mmask64 plane = load_plane(planes + 8 * bit, 8);
    sum = _mm512_mask_add_epi8(sum, plane, sum, one);
  }
  _mm512_storeu_si512(parts, sum);
}

// parts[l] gets bit l of the plane as its bit `bit`.
inline void add_plane(uint64_t plane, int bit, uint8_t* parts) {
  const __m512i added = _mm512_maskz_set1_epi8(plane, static_cast<char>(1 << bit));
  _mm512_storeu_si512(parts, _mm512_or_si512(load_bytes(parts), added));
}

}  // namespace
}  // namespace onnx_compress
