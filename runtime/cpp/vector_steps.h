// One step of a vector of lanes: states, classes, raw bits, trellis, in planes of bytes. What comes out is what is multiplied with the
// scale. The same source for AVX2, SSE4.1 and NEON.
//
// Included by fast_vector.h only.
#pragma once

#include "direct.h"
#if defined(ONNX_COMPRESS_SHUFFLE)
#include "vector256.h"
#else
#include "vector128.h"
#endif

namespace onnx_compress {
namespace {

constexpr int VECTOR_LANES = 16 * BLOCKS, FLOAT_LANES = 4 * BLOCKS;

// States of lanes as two planes of bytes: x = high << 8 | low.
struct States {
  alignas(64) uint8_t low[LANES_MAX], high[LANES_MAX];
};

// Values of a vector of lanes: quarter q has, block by block, lanes 4 * q to 4 * q + 3 of the block.
struct Quarters {
  Floats quarter[4];
};

// The lane that stands at this place of the floats of quarter 0, 1, ...
constexpr int lane_at(int place) {
  const int within = place % VECTOR_LANES, quarter = within / FLOAT_LANES, block = within % FLOAT_LANES / 4;
  return place - within + 16 * block + 4 * quarter + within % 4;
}

ONNX_COMPRESS_INLINE Vector descend(Vector nodes, Vector id, Vector slot) {
  return subtract_bytes(add_bytes(id, id), greater(slot, shuffle(nodes, id)));
}

// "x = frequency[i] * (x >> 8) + slot - start[i]
//  if x < 256:  x = (x << 8) | next byte of the rans section", lanes in ascending order.
//
// `frequency` is less by one where it is not NARROW. No load reaches further behind the bytes than there are lanes: each is of eight
// bytes, for eight lanes, behind at most one byte for each lane before.
template <bool NARROW>
ONNX_COMPRESS_INLINE void next_states(States& states, int at, Vector frequency, Vector start, uint32_t active, const uint8_t*& bytes) {
  const Vector slot = load_vector(states.low + at), above = subtract_bytes(slot, start);
  const Two words = multiplied<NARROW>(frequency, load_vector(states.high + at), above);
  const Two x = bytes_of_words(words.first, words.second);
  const Vector below_256 = equal(x.second, no_bytes());
  // Lanes that are no rows take nothing; what becomes of their states is of no consequence.
  const Vector fed = expanded(bytes, byte_bits(below_256) & active);
  store_vector(states.low + at, choose(below_256, fed, x.first));
  store_vector(states.high + at, choose(below_256, x.first, x.second));
}

ONNX_COMPRESS_INLINE void widen(Vector low, Vector high, Vector below, Quarters& found) {
  const Vector first = interleave_low(low, high), second = interleave_high(low, high);
  found.quarter[0] = as_floats(interleave_words_low(below, first)), found.quarter[1] = as_floats(interleave_words_high(below, first));
  found.quarter[2] = as_floats(interleave_words_low(below, second)), found.quarter[3] = as_floats(interleave_words_high(below, second));
}

// Levels of eight bits, ^ 128, as floats: n, the last bits of 2^23 + n, stands for n - 128.
ONNX_COMPRESS_INLINE void to_floats(Vector biased, Quarters& found) {
  const Vector zero = no_bytes(), first = interleave_low(biased, zero), second = interleave_high(biased, zero);
  const Vector exponent = all_words(0x4B00);
  const Floats bias = all_floats(8388608.0f + 128.0f);
  found.quarter[0] = subtract_floats(as_floats(interleave_words_low(first, exponent)), bias);
  found.quarter[1] = subtract_floats(as_floats(interleave_words_high(first, exponent)), bias);
  found.quarter[2] = subtract_floats(as_floats(interleave_words_low(second, exponent)), bias);
  found.quarter[3] = subtract_floats(as_floats(interleave_words_high(second, exponent)), bias);
}

// The raw parts of the lanes from `at` of a panel on.
ONNX_COMPRESS_INLINE Vector raw_parts(const Planes& planes, int at) {
  Vector parts = both(bits_as_bytes(static_cast<uint32_t>(planes.bits[0] >> at)), all_bytes(1));
  for (int bit = 1; bit < planes.count; ++bit)
    parts = either(parts, both(bits_as_bytes(static_cast<uint32_t>(planes.bits[bit] >> at)), all_bytes(static_cast<uint8_t>(1 << bit))));
  return parts;
}

// What the values of a class are made of.
enum Making : int { OF_HALVES, OF_FLOATS, OF_LEVELS };

// The lanes from `at` of a group on: how many bits of a mask they are, which of them are rows, their place in the panel.
struct Part {
  int at, in_panel;
  uint32_t active;
};

// A step of a vector of plain lanes; gives those that escape: `patch_escapes` sees to them.
template <Making MAKING, bool NARROW>
ONNX_COMPRESS_INLINE uint32_t find_values(const Lookup& table, States& states, Part part, const Planes& planes, const uint8_t*& bytes,
                                          Quarters& found) {
  const Vector slot = flip(load_vector(states.low + part.at), all_bytes(128)), nodes = load_block(table.bytes.node);
  Vector id = all_bytes(1);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) id = descend(nodes, id, slot);
  const Vector escaping = equal(id, all_bytes(static_cast<uint8_t>(16 + table.escape_place))), place = leaf_of(id);
  next_states<NARROW>(states, part.at, shuffle(load_block(NARROW ? table.bytes.frequency : table.bytes.less_one), place),
                      shuffle(load_block(table.bytes.start), place), part.active, bytes);
  if constexpr (MAKING == OF_LEVELS) {
    to_floats(add_bytes(shuffle(load_block(table.bytes.level), place), raw_parts(planes, part.in_panel)), found);
  } else {
    const Vector third = shuffle(load_block(table.value_bytes[2]), place), fourth = shuffle(load_block(table.value_bytes[3]), place);
    if constexpr (MAKING == OF_HALVES) {
      widen(third, fourth, no_bytes(), found);
    } else {
      const Vector first = shuffle(load_block(table.value_bytes[0]), place), second = shuffle(load_block(table.value_bytes[1]), place);
      const Vector low = interleave_low(first, second), low_of_rest = interleave_high(first, second);
      const Vector high = interleave_low(third, fourth), high_of_rest = interleave_high(third, fourth);
      found.quarter[0] = as_floats(interleave_words_low(low, high)), found.quarter[1] = as_floats(interleave_words_high(low, high));
      found.quarter[2] = as_floats(interleave_words_low(low_of_rest, high_of_rest));
      found.quarter[3] = as_floats(interleave_words_high(low_of_rest, high_of_rest));
    }
  }
  return byte_bits(escaping);
}

// "or, for the escape, escape_base + e with e the next byte of the escape section", in ascending lane order: multiples and next states of
// trellis-coded levels. `lanes` are those of the part; `before` are the trellis states that chose the quantizers. Escapes are rare.
__attribute__((noinline)) int take_multiples(Stream& stream, const Group& group, uint32_t lanes, Part part, const Planes& planes,
                                             const uint8_t* before, Quarters& found) {
  alignas(64) float value[VECTOR_LANES];
  for (int q = 0; q < 4; ++q) store_floats(value + q * FLOAT_LANES, found.quarter[q]);
  for (; lanes; lanes &= lanes - 1) {
    if (stream.escapes_left == 0) return STREAM_ESCAPES;
    --stream.escapes_left;
    const int lane = __builtin_ctz(lanes);
    int level = escaped_level(group, *stream.escapes++);
    for (int bit = 0; bit < planes.count; ++bit) level += static_cast<int>(planes.bits[bit] >> (part.in_panel + lane) & 1) << bit;
    const uint8_t state = before[lane];
    value[lane % 16 / 4 * FLOAT_LANES + lane / 16 * 4 + lane % 4] = static_cast<float>(multiple_of(level, state & 1));
    stream.trellis[part.at + lane] = NEXT[state][level & 1];
  }
  for (int q = 0; q < 4; ++q) found.quarter[q] = load_floats(value + q * FLOAT_LANES);
  return STREAM_OK;
}

// A step of a vector of trellis-coded lanes.
template <bool RAW, bool NARROW>
ONNX_COMPRESS_INLINE int find_multiples(Stream& stream, const Group& group, const LookupPair& pair, States& states, Part part,
                                        const Planes& planes, const uint8_t*& bytes, Quarters& found) {
  const Vector slot = flip(load_vector(states.low + part.at), all_bytes(128)), nodes = load_block(pair.bytes.node);
  const Vector trellis = load_vector(stream.trellis + part.at), quantizer = both(trellis, all_bytes(1));
  Vector id = either(quantizer, all_bytes(2));
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) id = descend(nodes, id, slot);
  const Leaves leaves = leaves_of(descend(load_block(pair.bytes.node + 16), leaf_of(id), slot));
  next_states<NARROW>(states, part.at, at_leaves(NARROW ? pair.bytes.frequency : pair.bytes.less_one, leaves),
                      at_leaves(pair.bytes.start, leaves), part.active, bytes);
  Vector parity = at_leaves(pair.place_parity, leaves), level = at_leaves(pair.bytes.level, leaves);
  const uint32_t escaping = byte_bits(parity) & part.active;
  if constexpr (RAW) {
    // "m = 2 * level - q * sign(level)"
    level = add_bytes(level, raw_parts(planes, part.in_panel));
    level = flip(subtract_bytes(add_bytes(level, level), with_sign(quantizer, level)), all_bytes(128));
    // "level = (c << r) - ((1 << r) >> 1) + b": (c << r) is even, and so is the half but for r = 1.
    const Vector lowest = both(bits_as_bytes(static_cast<uint32_t>(planes.bits[0] >> part.in_panel)), all_bytes(8));
    parity = flip(lowest, all_bytes(planes.count == 1 ? 8 : 0));
  }
  to_floats(level, found);
  store_vector(stream.trellis + part.at, shuffle(load_block(NEXT_STATES.by_parity), either(trellis, parity)));
  if (__builtin_expect(escaping != 0, 0)) {
    alignas(64) uint8_t before[VECTOR_LANES];
    store_vector(before, trellis);
    Quarters patched = found;  // a copy: what lives in registers must have no address
    const int fault = take_multiples(stream, group, escaping, part, planes, before, patched);
    found = patched;
    return fault;
  }
  return STREAM_OK;
}

}  // namespace
}  // namespace onnx_compress
