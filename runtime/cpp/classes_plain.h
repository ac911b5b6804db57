// Classes of 64 lanes with vectors of the compiler's own.
//
// Included by classes.h only.
#pragma once

namespace onnx_compress {
namespace {

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

}  // namespace
}  // namespace onnx_compress
