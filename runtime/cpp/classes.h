// What a step finds for the 64 lanes of a panel: classes, their levels, escapes and raw bits (FORMAT.md, sections 5 and 6).
//
// Included by kernel files only, once for each instruction set: everything has internal linkage.
#pragma once

#include <cstring>

#if defined(__AVX512VBMI2__) && defined(__AVX512VL__)
#include <immintrin.h>
#define ONNX_COMPRESS_EXPAND 1
#elif defined(__AVX2__)
#include <immintrin.h>
#define ONNX_COMPRESS_SHUFFLE 1
#elif defined(__SSE4_1__) || defined(ONNX_COMPRESS_NEON)
#include "vector128.h"
#define ONNX_COMPRESS_VECTOR128 1
#endif

#if defined(__AVX512BW__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#include "stream.h"

namespace onnx_compress {
namespace {

constexpr int PANEL = 64;
typedef uint16_t Words __attribute__((vector_size(VECTOR_BYTES)));
typedef int16_t SignedWords __attribute__((vector_size(VECTOR_BYTES)));
constexpr int WORDS = VECTOR_BYTES / 2;
typedef uint8_t Bytes __attribute__((vector_size(VECTOR_BYTES / 2)));

inline Words load_words(const uint16_t* from) {
  Words words;
  std::memcpy(&words, from, sizeof words);
  return words;
}

inline void store_words(uint16_t* to, Words words) { std::memcpy(to, &words, sizeof words); }

// The first bytes, at most eight, of a plane of bits.
inline uint64_t load_plane(const uint8_t* from, size_t bytes) {
  uint64_t plane = 0;
  if (bytes == 8) {
    for (int i = 0; i < 8; ++i) plane |= static_cast<uint64_t>(from[i]) << (8 * i);
    return plane;
  }
  for (size_t i = 0; i < bytes; ++i) plane |= static_cast<uint64_t>(from[i]) << (8 * i);
  return plane;
}

#if defined(ONNX_COMPRESS_EXPAND)

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

// parts[l] gets bit l of the plane as its bit `bit`.
inline void add_plane(uint64_t plane, int bit, uint8_t* parts) {
  const __m512i added = _mm512_maskz_set1_epi8(plane, static_cast<char>(1 << bit));
  _mm512_storeu_si512(parts, _mm512_or_si512(load_bytes(parts), added));
}

#elif defined(ONNX_COMPRESS_SHUFFLE)

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

#elif defined(ONNX_COMPRESS_VECTOR128)

// The classes ascend, so the last whose start is not above the slot is the one: one comparison a class counts those that are above.
inline Vector place_among(const uint8_t* biased, int count, int first, Vector slot) {
  Vector place = all_bytes(static_cast<uint8_t>(first + count - 1));
  for (int i = 1; i < count; ++i) place = add_bytes(place, greater(all_bytes(biased[i]), slot));
  return place;
}

inline Vector places(const Lookup& table, Vector slot, const uint8_t*) { return place_among(table.bytes.biased, table.count, 0, slot); }

inline Vector places(const LookupPair& pair, Vector slot, const uint8_t* trellis) {
  const Vector one = all_bytes(1), odd = equal(both(load_vector(trellis), one), one);
  const Vector even_place = place_among(pair.bytes.biased, pair.counts[0], 0, slot);
  const Vector odd_place = place_among(pair.bytes.biased + LookupPair::ODD_IDS, pair.counts[1], LookupPair::ODD_IDS, slot);
  return choose(odd, odd_place, even_place);
}

inline Vector by_place(const uint8_t (&table)[16], Vector place) { return shuffle(load_vector(table), place); }

inline Vector by_place(const uint8_t (&table)[32], Vector place) {
  const Vector own = both(place, all_bytes(15));
  return choose(greater(place, all_bytes(15)), shuffle(load_vector(table + 16), own), shuffle(load_vector(table), own));
}

// "slot = x & 255;  i = the class with start[i] <= slot < start[i] + frequency[i]
//  x = frequency[i] * (x >> 8) + slot - start[i]"
template <typename Table>
inline void step_classes(uint16_t* states, const Table& table, const uint8_t* trellis, uint8_t* index) {
  const Vector one = all_words(1);
  for (int at = 0; at < PANEL; at += 16) {
    const Vector first = load_vector(states + at), second = load_vector(states + at + 8);
    const Vector slot = flip(low_bytes(first, second), all_bytes(128));
    const Vector place = places(table, slot, trellis + at);
    const Vector less_one = by_place(table.bytes.less_one, place), above = subtract_bytes(slot, by_place(table.bytes.biased, place));
    const Vector low = multiply_words(add_words(widen_low(less_one), one), high_bytes(first));
    const Vector high = multiply_words(add_words(widen_high(less_one), one), high_bytes(second));
    store_vector(states + at, add_words(low, widen_low(above))), store_vector(states + at + 8, add_words(high, widen_high(above)));
    store_vector(index + at, by_place(table.bytes.index, place));
  }
}

// out[lane] = table[index[lane]], of 32 entries.
inline void look_up(const void* table, const uint8_t* index, void* out) {
  const uint8_t (&entries)[32] = *static_cast<const uint8_t (*)[32]>(table);
  for (int at = 0; at < PANEL; at += 16) store_vector(static_cast<uint8_t*>(out) + at, by_place(entries, load_vector(index + at)));
}

// Bit l: index[l] is this id.
inline uint64_t lanes_of(uint8_t id, const uint8_t* index) {
  uint64_t lanes = 0;
  for (int at = 0; at < PANEL; at += 16) lanes |= uint64_t{byte_bits(equal(load_vector(index + at), all_bytes(id)))} << at;
  return lanes;
}

// parts[l] gets bit l of the plane as its bit `bit`.
inline void add_plane(uint64_t plane, int bit, uint8_t* parts) {
  for (int at = 0; at < PANEL; at += 16, plane >>= 16) {
    const Vector set = bits_as_bytes(static_cast<uint32_t>(plane & 0xFFFF));
    store_vector(parts + at, either(load_vector(parts + at), both(set, all_bytes(static_cast<uint8_t>(1 << bit)))));
  }
}

#else

// "slot = x & 255;  i = the class with start[i] <= slot < start[i] + frequency[i]
//  x = frequency[i] * (x >> 8) + slot - start[i]"
//
// The classes ascend, so the last whose start is not above the slot is the one: a compare and three selections a class, no lookup.
// Slots and starts are below 256, so a signed compare serves. The new x is below frequency * 256 <= 65536: 16 bits hold it.
//
// Of a pair of tables, the odd one's slots lie behind the even one's: a lane of the odd quantizer looks for slot + 256.
inline Words odd_slots(const Lookup&, const uint8_t*) { return Words{}; }

inline Words odd_slots(const LookupPair&, const uint8_t* trellis) {
  Bytes states;
  std::memcpy(&states, trellis, sizeof states);
  return (__builtin_convertvector(states, Words) & 1) << 8;
}

template <typename Table>
inline void step_classes(uint16_t* states, const Table& table, const uint8_t* trellis, uint8_t* index) {
  constexpr int SHARED = 2;  // vectors that share the broadcasts of a class
  for (int at = 0; at < PANEL; at += SHARED * WORDS) {
    Words slot[SHARED], high[SHARED], frequency[SHARED], start[SHARED], found[SHARED];
    for (int v = 0; v < SHARED; ++v) {
      const Words x = load_words(states + at + v * WORDS);
      slot[v] = (x & 255) | odd_slots(table, trellis + at + v * WORDS), high[v] = x >> 8;
      frequency[v] = Words{} + table.frequency[0], start[v] = Words{}, found[v] = Words{} + table.index[0];
    }
    for (int i = 1; i < table.count; ++i) {
      const Words s = Words{} + table.start[i], f = Words{} + table.frequency[i], n = Words{} + table.index[i];
      for (int v = 0; v < SHARED; ++v) {
        const SignedWords reached = (SignedWords)slot[v] >= (SignedWords)s;
        frequency[v] = reached ? f : frequency[v];
        start[v] = reached ? s : start[v];
        found[v] = reached ? n : found[v];
      }
    }
    for (int v = 0; v < SHARED; ++v) {
      store_words(states + at + v * WORDS, frequency[v] * high[v] + slot[v] - start[v]);
      const Bytes ids = __builtin_convertvector(found[v], Bytes);
      std::memcpy(index + at + v * WORDS, &ids, sizeof ids);
    }
  }
}

// out[lane] = table[index[lane]]
inline void look_up(const void* table, const uint8_t* index, void* out) {
  for (int lane = 0; lane < PANEL; ++lane) static_cast<uint8_t*>(out)[lane] = static_cast<const uint8_t*>(table)[index[lane]];
}

// Bit l: index[l] is this id.
inline uint64_t lanes_of(uint8_t id, const uint8_t* index) {
  uint8_t any = 0;
  for (int lane = 0; lane < PANEL; ++lane) any = static_cast<uint8_t>(any | (index[lane] == id));
  if (!any) return 0;
  uint64_t lanes = 0;
  for (int lane = 0; lane < PANEL; ++lane) lanes |= static_cast<uint64_t>(index[lane] == id) << lane;
  return lanes;
}

// spread[b]: bit l of b as byte l, least significant first.
struct Spread {
  uint64_t bytes[256];
  constexpr Spread() : bytes() {
    for (int byte = 0; byte < 256; ++byte)
      for (int bit = 0; bit < 8; ++bit) bytes[byte] |= static_cast<uint64_t>(byte >> bit & 1) << (8 * bit);
  }
};
constexpr Spread SPREAD;

// parts[l] gets bit l of the plane as its bit `bit`.
inline void add_plane(uint64_t plane, int bit, uint8_t* parts) {
  for (int at = 0; at < PANEL; at += 8, plane >>= 8) {
    const uint64_t eight = SPREAD.bytes[plane & 255] << bit;
    for (int lane = 0; lane < 8; ++lane) parts[at + lane] = static_cast<uint8_t>(parts[at + lane] | (eight >> (8 * lane) & 255));
  }
}

#endif

}  // namespace
}  // namespace onnx_compress
