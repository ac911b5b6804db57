// Classes of 64 lanes with AVX2.
//
// Included by classes.h only.
#pragma once

namespace onnx_compress {
namespace {

inline __m256i load_bytes(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

// The classes ascend, so the last whose start is not above the slot is the one: one comparison a class counts those that are above.
inline __m256i place_among(const uint8_t* biased, int count, int first, __m256i slot) {
  __m256i place = _mm256_set1_epi8(static_cast<char>(first + count - 1));
  for (int i = 1; i < count; ++i) place = _mm256_add_epi8(place, _mm256_cmpgt_epi8(_mm256_set1_epi8(static_cast<char>(biased[i])), slot));
  return place;
}

inline __m256i places(const Lookup& table, __m256i slot, const uint8_t*) { return place_among(table.bytes.biased, table.count, 0, slot); }

// `slot` has its lanes in the order of packed words: eight of the first half, eight of the second, and so on.
inline __m256i places(const LookupPair& pair, __m256i slot, const uint8_t* trellis) {
  const __m256i odd = _mm256_slli_epi16(_mm256_permute4x64_epi64(load_bytes(trellis), 0xD8), 7);  // bit 0 of each byte as its bit 7
  const __m256i even_place = place_among(pair.bytes.biased, pair.counts[0], 0, slot);
  const __m256i odd_place = place_among(pair.bytes.biased + LookupPair::ODD_IDS, pair.counts[1], LookupPair::ODD_IDS, slot);
  return _mm256_blendv_epi8(even_place, odd_place, odd);
}

inline __m256i by_place(const uint8_t* table, __m256i place) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), place);
}

inline __m256i by_place(const Lookup&, const uint8_t (&table)[16], __m256i place) { return by_place(table, place); }

inline __m256i by_place(const LookupPair&, const uint8_t (&table)[32], __m256i place) {
  return _mm256_blendv_epi8(by_place(table, place), by_place(table + 16, place), _mm256_slli_epi16(place, 3));
}

// "slot = x & 255;  i = the class with start[i] <= slot < start[i] + frequency[i]
//  x = frequency[i] * (x >> 8) + slot - start[i]"
template <typename Table>
inline void step_classes(uint16_t* states, const Table& table, const uint8_t* trellis, uint8_t* index) {
  const __m256i bytes = _mm256_set1_epi16(255), one = _mm256_set1_epi16(1), zero = _mm256_setzero_si256();
  for (int at = 0; at < PANEL; at += 32) {
    const __m256i first = load_bytes(states + at), second = load_bytes(states + at + 16);
    const __m256i packed = _mm256_packus_epi16(_mm256_and_si256(first, bytes), _mm256_and_si256(second, bytes));
    const __m256i slot = _mm256_xor_si256(packed, _mm256_set1_epi8(-128));
    const __m256i place = places(table, slot, trellis + at);
    const __m256i less_one = by_place(table, table.bytes.less_one, place), found = by_place(table, table.bytes.index, place);
    const __m256i above = _mm256_sub_epi8(slot, by_place(table, table.bytes.biased, place));
    const __m256i low = _mm256_add_epi16(_mm256_unpacklo_epi8(less_one, zero), one);
    const __m256i high = _mm256_add_epi16(_mm256_unpackhi_epi8(less_one, zero), one);
    const __m256i low_product = _mm256_mullo_epi16(low, _mm256_srli_epi16(first, 8));
    const __m256i high_product = _mm256_mullo_epi16(high, _mm256_srli_epi16(second, 8));
    const __m256i low_state = _mm256_add_epi16(low_product, _mm256_unpacklo_epi8(above, zero));
    const __m256i high_state = _mm256_add_epi16(high_product, _mm256_unpackhi_epi8(above, zero));
    std::memcpy(states + at, &low_state, sizeof low_state), std::memcpy(states + at + 16, &high_state, sizeof high_state);
    const __m256i ordered = _mm256_permute4x64_epi64(found, 0xD8);
    std::memcpy(index + at, &ordered, sizeof ordered);
  }
}

// out[lane] = table[index[lane]]
inline void look_up(const void* table, const uint8_t* index, void* out) {
  const uint8_t* entries = static_cast<const uint8_t*>(table);
  for (int at = 0; at < PANEL; at += 32) {
    const __m256i ids = load_bytes(index + at), odd = _mm256_slli_epi16(ids, 3);  // bit 4 of each byte as its bit 7
    const __m256i found = _mm256_blendv_epi8(by_place(entries, ids), by_place(entries + 16, ids), odd);
    std::memcpy(static_cast<uint8_t*>(out) + at, &found, sizeof found);
  }
}

// Bit l: index[l] is this id.
inline uint64_t lanes_of(uint8_t id, const uint8_t* index) {
  const __m256i wanted = _mm256_set1_epi8(static_cast<char>(id));
  const uint32_t low = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(load_bytes(index), wanted)));
  const uint32_t high = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(load_bytes(index + 32), wanted)));
  return uint64_t{high} << 32 | low;
}

// parts[l] gets bit l of the plane as its bit `bit`.
inline void add_plane(uint64_t plane, int bit, uint8_t* parts) {
  const __m256i places = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i own = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  for (int at = 0; at < PANEL; at += 32, plane >>= 32) {
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(plane)), places);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, own), own);
    const __m256i added = _mm256_and_si256(set, _mm256_set1_epi8(static_cast<char>(1 << bit)));
    const __m256i found = _mm256_or_si256(load_bytes(parts + at), added);
    std::memcpy(parts + at, &found, sizeof found);
  }
}

}  // namespace
}  // namespace onnx_compress
