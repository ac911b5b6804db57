// Classes of 64 lanes with vectors of 128 bits.
//
// Included by classes.h only.
#pragma once

namespace onnx_compress {
namespace {

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

}  // namespace
}  // namespace onnx_compress
