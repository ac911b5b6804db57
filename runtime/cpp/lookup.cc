#include "lookup.h"

#include <cstring>
#include <initializer_list>

#include "trellis.h"

namespace onnx_compress {

namespace {

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

}  // namespace

bool split_values(Lookup& table) {
  uint32_t any = 0;
  for (int place = 0; place < 16; ++place) {
    const uint32_t bits = bits_of(table.value[place]);
    for (int byte = 0; byte < 4; ++byte) table.value_bytes[byte][place] = static_cast<uint8_t>(bits >> (8 * byte));
    any |= bits;
  }
  return (any & 0xFFFF) == 0;
}

namespace {

// The nodes of a table of the tree, from `root` on: the first of them, then the two below it, ...
void build_branch(const Lookup& table, int root, uint8_t* nodes) {
  for (int depth = 0; depth < 4; ++depth)
    for (int i = 0; i < 1 << depth; ++i) {
      const int place = (2 * i + 1) << (3 - depth);
      // Places that there are not are never reached.
      nodes[(root << depth) + i] = static_cast<uint8_t>(place < table.count ? (table.start[place] - 1) ^ 127 : 128);
    }
}

// The couples of a table, from place `first` on.
template <int N>
void add_couples(const Lookup& table, int first, CoupleLookup<N>& couples) {
  uint8_t* ids = couples.id + first * 8;
  for (int couple = 0; couple < 128; ++couple) {
    const int place = table.bytes.place[2 * couple], next = table.bytes.place[2 * couple + 1];
    ids[couple] = static_cast<uint8_t>(2 * first + place + next);
  }
  for (int id = 0; id < 32; ++id) {
    const int place = (id + 1) / 2 % 16;
    couples.less_one[2 * first + id] = table.bytes.less_one[place], couples.start[2 * first + id] = table.bytes.start[place];
    couples.frequency[2 * first + id] = table.bytes.frequency[place];
  }
}

}  // namespace

void build_couples(Lookup& table) {
  add_couples(table, 0, table.couples);
  for (int id = 0; id < 32; ++id) table.id_value[id] = table.value[(id + 1) / 2 % 16];
}

void build_tree(Lookup& table) { build_branch(table, 1, table.bytes.node); }

int level_of(int class_value, int raw_bits) { return class_value * (1 << raw_bits) - ((1 << raw_bits) >> 1); }

LookupPair paired(const Lookup& even, const Lookup& odd, int raw_bits) {
  LookupPair pair;
  for (int q = 0; q < 2; ++q) {
    const Lookup& table = q ? odd : even;
    pair.first[q] = table.first;
    for (int i = 0; i < table.count; ++i, ++pair.count) {
      pair.start[pair.count] = static_cast<uint16_t>(table.start[i] + q * LookupPair::ODD_SLOTS);
      pair.frequency[pair.count] = table.frequency[i];
      pair.index[pair.count] = static_cast<uint16_t>(table.index[i] + q * LookupPair::ODD_IDS);
    }
    pair.counts[q] = table.count;
    for (int i = 0; i < 16; ++i) {
      const int id = i + q * LookupPair::ODD_IDS;
      pair.bytes.less_one[id] = table.bytes.less_one[i], pair.bytes.biased[id] = table.bytes.biased[i];
      pair.bytes.start[id] = table.bytes.start[i], pair.bytes.turned[id] = table.bytes.turned[i];
      pair.bytes.index[id] = static_cast<uint8_t>(table.bytes.index[i] + q * LookupPair::ODD_IDS);
      const int level = table.first + i, multiple = multiple_of(level, q);
      pair.small = pair.small && multiple >= -128 && multiple <= 127;
      pair.multiple[id] = static_cast<int8_t>(multiple), pair.parity[id] = static_cast<uint8_t>(level & 1);
    }
    for (int slot = 0; slot < LookupPair::ODD_SLOTS; ++slot)
      pair.bytes.place[slot + q * LookupPair::ODD_SLOTS] = static_cast<uint8_t>(table.bytes.place[slot] + q * LookupPair::ODD_IDS);
    for (int i = 0; i < table.count; ++i) {
      const int level = level_of(table.first + table.index[i], raw_bits), place = i + q * LookupPair::ODD_IDS;
      const bool escape = table.escape && i == table.count - 1;
      pair.value[place] = escape ? 0.0f : static_cast<float>(multiple_of(level, q));
      for (int bit = 0; bit < 2 && raw_bits == 1; ++bit)
        pair.bit_value[place | (1 - bit) * LookupPair::ODD] =
            static_cast<uint16_t>(bits_of(static_cast<float>(escape ? 2 * bit : multiple_of(level + bit, q))) >> 16);
      // Twice a level has to have eight bits as well where raw parts come to levels.
      const int highest = level + (1 << raw_bits) - 1, least = raw_bits ? -64 : -127, most = raw_bits ? 63 : 127;
      const int kept = raw_bits ? level : multiple_of(level, q);
      pair.small_levels = pair.small_levels && (escape || (kept >= least && (raw_bits ? highest : kept) <= most));
      pair.bytes.level[place] = static_cast<uint8_t>((kept & 255) ^ (raw_bits ? 0 : 128));
      if (escape) pair.bytes.level[place] = raw_bits ? LookupPair::NO_LEVEL : 128;
      pair.bytes.frequency[place] = static_cast<uint8_t>(table.frequency[i]);
      pair.place_parity[place] = static_cast<uint8_t>((level & 1) * 8 | escape * 128);
      const int odd = escape && raw_bits == 0 ? 0 : level & 1;
      for (const int id : {2 * place - (i > 0), 2 * place})
        pair.kind[id] = static_cast<uint8_t>(place | odd * LookupPair::ODD | escape * LookupPair::ESCAPE);
    }
    build_branch(table, 2 + q, pair.bytes.node);
    add_couples(table, q * LookupPair::ODD_IDS, pair.couples);
    if (table.escape) pair.escape[q] = static_cast<uint8_t>(pair.index[pair.count - 1]);
  }
  return pair;
}

}  // namespace onnx_compress
