// One step of a vector of lanes: states, classes, raw bits, trellis, in planes of bytes. What comes out is what is multiplied with the
// scale. The same source for AVX2, SSE4.1 and NEON.
//
// Included by fast_vector.h only.
#pragma once

#include <type_traits>

#include "direct.h"
#if defined(ONNX_COMPRESS_SHUFFLE)
#include "vector256.h"
#else
#include "vector128.h"
#endif

namespace onnx_compress {
namespace {

constexpr size_t VECTOR_LANES = 16 * BLOCKS, FLOAT_LANES = 4 * BLOCKS;
typedef std::conditional_t<BLOCKS == 1, uint16_t, uint32_t> LaneBits;

// States of lanes as two planes of bytes, x = high << 8 | 127 - low between two steps, and what the step that is being made has found for
// them: leaves of the tree, trellis states before it, and bits of those that take a byte. `active`: bits of the lanes that are rows.
struct States {
  alignas(64) uint8_t low[LANES_MAX], high[LANES_MAX], leaf[LANES_MAX], before[LANES_MAX], hungry[LANES_MAX / 8], active[LANES_MAX / 8];
};

// Vectors of a group.
struct Vectors {
  size_t first, last;
};

// Vectors of one value that the loops below read: a compiler makes them anew in each round where it knows what they are.
struct Constants {
  alignas(64) uint8_t one[VECTOR_LANES], eight[VECTOR_LANES], high_bit[VECTOR_LANES], no_level[VECTOR_LANES];
  alignas(64) uint16_t exponent[VECTOR_LANES / 2];  // of floats from 2^23 on, whose last bits are integers
  alignas(64) float bias[FLOAT_LANES];

  Constants() {
    std::memset(one, 1, sizeof one), std::memset(eight, 8, sizeof eight), std::memset(high_bit, 128, sizeof high_bit);
    std::memset(no_level, LookupPair::NO_LEVEL, sizeof no_level);
    for (uint16_t& word : exponent) word = 0x4B00;
    for (float& value : bias) value = 8388608.0f + 128.0f;
  }
};

// Values of a vector of lanes: quarter q has, block by block, lanes 4 * q to 4 * q + 3 of the block.
struct Quarters {
  FloatVector quarter[4];
};

// The lane that stands at this place of the floats of quarter 0, 1, ...
constexpr size_t lane_at(size_t place) {
  const size_t within = place % VECTOR_LANES, quarter = within / FLOAT_LANES, block = within % FLOAT_LANES / 4;
  return place - within + 16 * block + 4 * quarter + within % 4;
}

ONNX_COMPRESS_INLINE Vector descend(Vector nodes, Vector id, const uint8_t* turned_slot) {
  return subtract_bytes(add_bytes(id, id), greater(shuffle(nodes, id), load_aligned(turned_slot)));
}

// What a lane waits for is long, fifty cycles in a step, and a processor looks ahead by some hundred instructions of vectors only: SIDE
// vectors are written side by side, operation by operation.
#define ONNX_COMPRESS_EACH _Pragma("GCC unroll 8") for (size_t i = 0; i < SIDE; ++i)

// "slot = x & 255": 127 - slot is what `low` has then, and what trees compare.
ONNX_COMPRESS_INLINE Vector turned(Vector low) { return flip(low, all_bytes(127)); }

// "x = frequency[i] * (x >> 8) + slot - start[i]"; `frequency` is less by one where it is not NARROW, `start` is 127 - start. Gives the low
// byte of x as it is, and the bits of lanes that take a byte.
template <bool NARROW, size_t SIDE>
ONNX_COMPRESS_INLINE void multiply_states(States& states, size_t at, const Vector (&frequency)[SIDE], const Vector (&start)[SIDE]) {
  Two words[SIDE];
  ONNX_COMPRESS_EACH {
    const Vector above = subtract_bytes(start[i], load_aligned(states.low + at + i * VECTOR_LANES));
    words[i] = multiplied<NARROW>(frequency[i], load_aligned(states.high + at + i * VECTOR_LANES), above);
  }
  ONNX_COMPRESS_EACH words[i] = bytes_of_words(words[i].first, words[i].second);
  ONNX_COMPRESS_EACH {
    store_aligned(states.low + at + i * VECTOR_LANES, words[i].first), store_aligned(states.high + at + i * VECTOR_LANES, words[i].second);
    const LaneBits hungry = static_cast<LaneBits>(byte_bits(equal(words[i].second, no_bytes())));
    std::memcpy(states.hungry + at / 8 + i * sizeof hungry, &hungry, sizeof hungry);
  }
}

// "if x < 256:  x = (x << 8) | next byte of the rans section", lanes in ascending order. Lanes that are no rows take nothing; what becomes
// of their states is of no consequence. No load reaches further behind the bytes than there are lanes in the panels: each is of eight
// bytes, for eight lanes, behind at most one byte for each lane before.
ONNX_COMPRESS_INLINE void feed_states(States& states, size_t vectors, const uint8_t*& bytes) {
  for (size_t at = 0; at < vectors * VECTOR_LANES; at += VECTOR_LANES) {
    const Vector low = load_aligned(states.low + at), high = load_aligned(states.high + at), below_256 = equal(high, no_bytes());
    store_aligned(states.low + at, turned(choose(below_256, expanded(bytes, states.hungry + at / 8), low)));
    store_aligned(states.high + at, choose(below_256, low, high));
  }
}

// "slot = x & 255;  i = the class with start[i] <= slot < start[i] + frequency[i]", of plain lanes.
template <size_t SIDE>
ONNX_COMPRESS_INLINE void find_leaves(const Lookup& table, const uint8_t*, States& states, size_t at) {
  const Vector nodes = load_block(table.bytes.node), root = shuffle(nodes, all_bytes(1));
  Vector id[SIDE];
  ONNX_COMPRESS_EACH id[i] = subtract_bytes(all_bytes(2), greater(root, load_aligned(states.low + at + i * VECTOR_LANES)));
#pragma GCC unroll 3
  for (int depth = 1; depth < 4; ++depth) ONNX_COMPRESS_EACH id[i] = descend(nodes, id[i], states.low + at + i * VECTOR_LANES);
  ONNX_COMPRESS_EACH store_aligned(states.leaf + at + i * VECTOR_LANES, id[i]);
}

// Of trellis-coded lanes, from the quantizers that their trellis states choose.
template <size_t SIDE>
ONNX_COMPRESS_INLINE void find_leaves(const LookupPair& pair, const uint8_t* trellis, States& states, size_t at) {
  const Vector nodes = load_block(pair.bytes.node), last_nodes = load_block(pair.bytes.node + 16);
  Vector id[SIDE];
  ONNX_COMPRESS_EACH id[i] = either(both(load_aligned(trellis + at + i * VECTOR_LANES), all_bytes(1)), all_bytes(2));
#pragma GCC unroll 3
  for (int depth = 0; depth < 3; ++depth) ONNX_COMPRESS_EACH id[i] = descend(nodes, id[i], states.low + at + i * VECTOR_LANES);
  ONNX_COMPRESS_EACH id[i] = descend(last_nodes, leaf_of(id[i]), states.low + at + i * VECTOR_LANES);
  ONNX_COMPRESS_EACH store_aligned(states.leaf + at + i * VECTOR_LANES, kept_leaf(id[i]));
}

// x, from the leaves.
template <bool NARROW, size_t SIDE>
ONNX_COMPRESS_INLINE void step_leaves(const Lookup& table, States& states, size_t at) {
  const Vector frequencies = load_block(NARROW ? table.bytes.frequency : table.bytes.less_one), starts = load_block(table.bytes.turned);
  Vector frequency[SIDE], start[SIDE];
  ONNX_COMPRESS_EACH {
    const Vector leaf = leaf_of(load_aligned(states.leaf + at + i * VECTOR_LANES));
    frequency[i] = shuffle(frequencies, leaf), start[i] = shuffle(starts, leaf);
  }
  multiply_states<NARROW, SIDE>(states, at, frequency, start);
}

template <bool NARROW, size_t SIDE>
ONNX_COMPRESS_INLINE void step_leaves(const LookupPair& pair, States& states, size_t at) {
  Vector frequency[SIDE], start[SIDE];
  ONNX_COMPRESS_EACH {
    const Leaves leaves = leaves_of(load_aligned(states.leaf + at + i * VECTOR_LANES));
    frequency[i] = at_leaves(NARROW ? pair.bytes.frequency : pair.bytes.less_one, leaves);
    start[i] = at_leaves(pair.bytes.turned, leaves);
  }
  multiply_states<NARROW, SIDE>(states, at, frequency, start);
}

// Where there are more lanes than this, all are searched before the first is multiplied; fewer would only wait for memory between the two.
constexpr size_t APART_FROM = 2 * PANEL;

template <bool NARROW, class Table>
ONNX_COMPRESS_INLINE void step_states(const Table& table, const uint8_t* trellis, States& states, Vectors own) {
  constexpr size_t SIDE = 2, STEP = SIDE * VECTOR_LANES;
  const size_t first = own.first * VECTOR_LANES, last = own.last * VECTOR_LANES;
  if (last - first <= APART_FROM) {
    for (size_t at = first; at < last; at += STEP) {
      find_leaves<SIDE>(table, trellis, states, at);
      step_leaves<NARROW, SIDE>(table, states, at);
    }
  } else {
    for (size_t at = first; at < last; at += 2 * STEP) find_leaves<2 * SIDE>(table, trellis, states, at);
    for (size_t at = first; at < last; at += STEP) step_leaves<NARROW, SIDE>(table, states, at);
  }
}

// FloatVector whose upper halves are these words, of lanes 0 to 7 and 8 to 15 of each block, and their lower halves those.
ONNX_COMPRESS_INLINE void widen(Vector upper, Vector upper_of_rest, Vector lower, Vector lower_of_rest, Quarters& found) {
  found.quarter[0] = as_floats(interleave_words_low(lower, upper)), found.quarter[1] = as_floats(interleave_words_high(lower, upper));
  found.quarter[2] = as_floats(interleave_words_low(lower_of_rest, upper_of_rest));
  found.quarter[3] = as_floats(interleave_words_high(lower_of_rest, upper_of_rest));
}

// Levels of eight bits, ^ 128, as floats: n, the last bits of 2^23 + n, stands for n - 128.
ONNX_COMPRESS_INLINE void to_floats(Vector biased, const Constants& constants, Quarters& found) {
  const Vector zero = no_bytes(), exponent = load_aligned(constants.exponent);
  const FloatVector bias = load_floats(constants.bias);
  widen(exponent, exponent, interleave_low(biased, zero), interleave_high(biased, zero), found);
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) found.quarter[q] = subtract_floats(found.quarter[q], bias);
}

// 255 in the lanes from `within` of a panel on whose bit is set in a plane.
ONNX_COMPRESS_INLINE Vector lanes_with(uint64_t const& plane, size_t within) {
  LaneBits bits;
  std::memcpy(&bits, reinterpret_cast<const uint8_t*>(&plane) + within / 8, sizeof bits);
  return bits_as_bytes(bits);
}

// The raw parts of the lanes from `within` of a panel on, beyond their lowest bits.
ONNX_COMPRESS_INLINE Vector add_planes(Vector parts, const Planes& planes, size_t within) {
  for (int bit = 1; bit < planes.count; ++bit)
    parts = either(parts, both(lanes_with(planes.bits[bit], within), all_bytes(static_cast<uint8_t>(1 << bit))));
  return parts;
}

// What the values of a class are made of.
enum Making : int { OF_HALVES, OF_FLOATS, OF_LEVELS };

// What the values of plain lanes are made of.
template <Making MAKING>
struct PlainValues {
  Vector escape, level, bytes[4];

  ONNX_COMPRESS_INLINE explicit PlainValues(const Lookup& table) : escape(all_bytes(static_cast<uint8_t>(16 + table.escape_place))) {
    if constexpr (MAKING == OF_LEVELS) level = load_block(table.bytes.level);
    for (int i = MAKING == OF_HALVES ? 2 : 0; i < 4 && MAKING != OF_LEVELS; ++i) bytes[i] = load_block(table.value_bytes[i]);
  }

  // Those of a vector `within` a panel; gives the lanes that escape: `patch_escapes` sees to them.
  ONNX_COMPRESS_INLINE LaneBits find(const uint8_t* leaves, const Planes& planes, size_t within, const Constants& constants,
                                     Quarters& found) const {
    const Vector id = load_aligned(leaves), place = leaf_of(id);
    if constexpr (MAKING == OF_LEVELS) {
      const Vector lowest = both(lanes_with(planes.bits[0], within), load_aligned(constants.one));
      to_floats(add_bytes(shuffle(level, place), add_planes(lowest, planes, within)), constants, found);
    } else {
      Vector lower = no_bytes(), lower_of_rest = no_bytes();
      if constexpr (MAKING == OF_FLOATS) {
        const Vector first = shuffle(bytes[0], place), second = shuffle(bytes[1], place);
        lower = interleave_low(first, second), lower_of_rest = interleave_high(first, second);
      }
      const Vector third = shuffle(bytes[2], place), fourth = shuffle(bytes[3], place);
      widen(interleave_low(third, fourth), interleave_high(third, fourth), lower, lower_of_rest, found);
    }
    return static_cast<LaneBits>(byte_bits(equal(id, escape)));
  }
};

// The multiples of a vector of trellis-coded lanes, and their next trellis states, as if nothing escaped; gives the lanes that do, whose
// multiples are 0.
template <bool RAW>
ONNX_COMPRESS_INLINE LaneBits find_multiples(uint8_t* trellis_states, const LookupPair& pair, States& states, size_t at,
                                             const Planes& planes, const Constants& constants, Quarters& found) {
  const Leaves leaves = leaves_of(load_aligned(states.leaf + at));
  const Vector trellis = load_aligned(trellis_states + at);
  Vector level = at_leaves(pair.bytes.level, leaves), parity;
  LaneBits escaping;
  if constexpr (RAW) {
    const Vector one = load_aligned(constants.one), eight = load_aligned(constants.eight), lowest = lanes_with(planes.bits[0], at % PANEL);
    const Vector escaped = equal(level, load_aligned(constants.no_level));
    escaping = static_cast<LaneBits>(byte_bits(escaped));
    // "m = 2 * level - q * sign(level)"
    level = add_bytes(level, add_planes(both(lowest, one), planes, at % PANEL));
    level = subtract_bytes(add_bytes(level, level), with_sign(both(trellis, one), level));
    level = flip(without(level, escaped), load_aligned(constants.high_bit));
    // "level = (c << r) - ((1 << r) >> 1) + b": (c << r) is even, and so is the half but for r = 1.
    parity = planes.count == 1 ? without(eight, lowest) : both(eight, lowest);
  } else {
    parity = at_leaves(pair.place_parity, leaves), escaping = static_cast<LaneBits>(high_bits(parity));
  }
  to_floats(level, constants, found);
  store_aligned(states.before + at, trellis);
  store_aligned(trellis_states + at, shuffle(load_block(NEXT_STATES.by_parity), either(trellis, parity)));
  return escaping;
}

}  // namespace
}  // namespace onnx_compress
