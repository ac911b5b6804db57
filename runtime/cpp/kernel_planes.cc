// Steps of Planes: symbols and raw bytes to words (FORMAT.md, sections 5 and 6). Compiled for several instruction sets, each in a namespace
// of its own; integers only, so that every one gives the same bits.
#include "kernels.h"
#include "number.h"
#include "rans.h"

namespace onnx_compress {
namespace ONNX_COMPRESS_ISA {
ONNX_COMPRESS_DECLARE_KERNELS
namespace {

constexpr int AHEAD_BYTES = 2048;

// What one step of a panel is put together from.
struct Parts {
  alignas(64) uint16_t top[PANEL];
  alignas(64) uint16_t cut[PANEL];  // the top bits of the raw parts, where these are coded
  alignas(64) uint8_t raw[PANEL];   // what is stored of them
  alignas(64) uint8_t held[7 * PANEL];
  const uint8_t* low;  // [planes, 64], here or in the payload
};

// "slot = x & 255;  t = 1 where slot >= cut, else 0
//  x = (t ? 256 - cut : cut) * (x >> 8) + slot - (t ? cut : 0)"
//
// Lanes without a row get states that nobody looks at.
inline void step_cuts(uint16_t* states, const uint8_t* cuts, const uint8_t* index, uint16_t* found) {
  alignas(64) uint8_t cut[PANEL];
  look_up(cuts, index, cut);
  for (int at = 0; at < PANEL; at += WORDS) {
    Bytes bytes;
    std::memcpy(&bytes, cut + at, sizeof bytes);
    const Words c = __builtin_convertvector(bytes, Words), x = load_words(states + at), slot = x & 255;
    const Words above = (Words)((SignedWords)slot >= (SignedWords)c), start = c & above;
    const Words frequency = ((256 - 2 * c) & above) + c;
    store_words(states + at, frequency * (x >> 8) + slot - start);
    store_words(found + at, above & 1);
  }
}

// "for the escape, escape_base + e with e the next number of the escape section", in ascending lane order.
int take_escapes(Stream& stream, const Group& group, int bytes, uint64_t lanes, uint16_t* top) {
  for (; lanes; lanes &= lanes - 1) {
    if (stream.escapes_left == 0) return STREAM_ESCAPES;
    --stream.escapes_left;
    const int escape = bytes == 1 ? *stream.escapes : load16(stream.escapes);
    top[__builtin_ctzll(lanes)] = static_cast<uint16_t>(group.escape_base + escape);
    stream.escapes += bytes;
  }
  return STREAM_OK;
}

// What later steps read: a chunk is read at four places at once, and pages end too soon for a processor to follow them all by itself.
inline void fetch_ahead(const uint8_t* section) { __builtin_prefetch(section + AHEAD_BYTES); }

// "The raw section has, for each step and each panel of the group, r bit planes, least significant bit first, of ceil(lanes / 8) bytes
// each"
int take_raw(Stream& stream, int raw_bits, int lanes, uint8_t* parts) {
  if (lanes == PANEL) {
    put_planes(stream.raw, raw_bits, parts);
    stream.raw += 8 * raw_bits;
    fetch_ahead(stream.raw);
    return STREAM_OK;
  }
  std::memset(parts, 0, PANEL);
  const size_t bytes = static_cast<size_t>(lanes + 7) / 8;
  uint64_t unused = 0;
  for (int bit = 0; bit < raw_bits; ++bit, stream.raw += bytes) {
    const uint64_t plane = load_plane(stream.raw, bytes);
    add_plane(plane, bit, parts);
    unused |= plane >> lanes;
  }
  return unused ? STREAM_UNUSED_BIT : STREAM_OK;
}

// "plane by plane, the most significant first: the bytes of the rows that store whole ones, in ascending order, then the kept bits of the
// short rows as one bit string, least significant bit first, in ascending order, unused bits 0"
int take_planes(Stream& stream, const PlanesPlan& split, int panel, int lanes, Parts& parts) {
  const uint64_t shorts = split.shorts[panel];
  if (shorts == 0) {
    parts.low = stream.values;
    stream.values += split.planes * lanes;
    for (int plane = 0; plane < split.planes; ++plane) fetch_ahead(stream.values + plane * PANEL);
    if (lanes == PANEL) return STREAM_OK;
    for (int plane = 0; plane < split.planes; ++plane)
      std::memcpy(parts.held + plane * PANEL, parts.low + plane * lanes, static_cast<size_t>(lanes));
    parts.low = parts.held;
    return STREAM_OK;
  }
  parts.low = parts.held;
  for (int plane = 0; plane < split.planes; ++plane) {
    uint8_t* out = parts.held + plane * PANEL;
    const int kept = kept_bits(split.planes, split.short_bits, plane);
    const uint64_t packed = kept == 8 ? 0 : shorts;
    int at = 0;
    for (uint64_t left = packed; left; left &= left - 1) {  // whole bytes go in runs between the short rows
      const int lane = __builtin_ctzll(left);
      std::memcpy(out + at, stream.values, static_cast<size_t>(lane - at));
      stream.values += lane - at, at = lane + 1, out[lane] = 0;
    }
    std::memcpy(out + at, stream.values, static_cast<size_t>(lanes - at));
    stream.values += lanes - at;
    if (kept == 8 || kept == 0) continue;
    unsigned held = 0;
    int bits = 0;
    for (uint64_t left = packed; left; left &= left - 1) {
      if (bits < kept) held |= static_cast<unsigned>(*stream.values++) << bits, bits += 8;
      out[__builtin_ctzll(left)] = static_cast<uint8_t>(held << (8 - kept));
      held >>= kept, bits -= kept;
    }
    if (held) return STREAM_UNUSED_BIT;
  }
  return STREAM_OK;
}

// "u = ((c << r) + b) * 2^(8 planes) + low, times 2^drop, modulo 2^width"
template <class Word, int Planes>
inline Word joined(const Parts& parts, const uint8_t* low, int lane, int cut, int raw_bits, int planes, int drop) {
  if constexpr (sizeof(Word) < 8) {
    uint32_t word = (((uint32_t{parts.top[lane]} << cut) + parts.cut[lane]) << raw_bits) + parts.raw[lane];
    for (int plane = 0; plane < Planes; ++plane) word = word << 8 | low[plane * PANEL + lane];
    return static_cast<Word>(word << drop);
  }
  uint64_t wide = (((uint64_t{parts.top[lane]} << cut) + parts.cut[lane]) << raw_bits) + parts.raw[lane];
  for (int plane = 0; plane < planes; ++plane) wide = wide << 8 | low[plane * PANEL + lane];
  return static_cast<Word>(wide << drop);
}

// "the sign stands behind the exponent"
template <class Word>
inline Word unfolded(Word folded, int mantissa) {
  constexpr int TOP = 8 * sizeof(Word) - 1;
  const Word low = static_cast<Word>((Word{1} << mantissa) - 1);
  const Word sign = static_cast<Word>((folded >> mantissa & 1) << TOP);
  const Word exponent =
      static_cast<Word>(static_cast<Word>(folded >> 1) & static_cast<Word>(~low) & static_cast<Word>((Word{1} << TOP) - 1));
  return static_cast<Word>(sign | exponent | (folded & low));
}

inline Words wide_words(const uint8_t* from) {
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, Words);
}

// The same for words of 16 bits, in vectors of these: compilers would put them together in 32.
template <int Planes>
void words_of_16(const Parts& __restrict parts, const Group& group, const PlanesPlan& split, uint16_t* __restrict out) {
  const int cut = split.cut, raw_bits = group.raw_bits - cut, mantissa = 15 - split.exponent - cut;
  const uint16_t low = static_cast<uint16_t>((1 << mantissa) - 1), exponent = static_cast<uint16_t>(0x7FFF & ~low);
  for (int at = 0; at < PANEL; at += WORDS) {
    Words word = (((load_words(parts.top + at) << cut) + load_words(parts.cut + at)) << raw_bits) + wide_words(parts.raw + at);
    if (Planes == 1) word = word << 8 | wide_words(parts.low + at);
    word <<= split.drop;
    const Words sign = (word >> mantissa) << 15;
    store_words(out + at, split.exponent ? sign | (word >> 1 & exponent) | (word & low) : word + static_cast<uint16_t>(split.base));
  }
}

template <class Word, int Planes>
void words_of(const Parts& __restrict parts, const Group& group, const PlanesPlan& split, Word* __restrict out) {
  const uint8_t* __restrict low = parts.low;  // without this, words are put together one by one
  const int cut = split.cut, raw_bits = group.raw_bits - cut, planes = split.planes, drop = split.drop;
  if (split.exponent) {
    // "the sign stands behind the exponent and its cut"
    const int mantissa = static_cast<int>(8 * sizeof(Word)) - 1 - split.exponent - split.cut;
    for (int lane = 0; lane < PANEL; ++lane)
      out[lane] = unfolded<Word>(joined<Word, Planes>(parts, low, lane, cut, raw_bits, planes, drop), mantissa);
    return;
  }
  for (int lane = 0; lane < PANEL; ++lane)
    out[lane] = static_cast<Word>(joined<Word, Planes>(parts, low, lane, cut, raw_bits, planes, drop) + split.base);
}

// "with delta, the sum of the row's values so far"
template <class Word>
void add_up(uint64_t* sums, int lanes, Word* out) {
  for (int lane = 0; lane < lanes; ++lane) out[lane] = static_cast<Word>(sums[lane] += out[lane]);
}

template <class Word>
void to_floats(const Word* words, int dtype, int lanes, float* out) {
  for (int lane = 0; lane < PANEL; ++lane) {
    if constexpr (sizeof(Word) == 4) out[lane] = bits_float(words[lane]);
    if constexpr (sizeof(Word) == 2) out[lane] = dtype == 10 ? from_half(words[lane]) : from_bfloat(words[lane]);
  }
  if (lanes < PANEL) std::memset(out + lanes, 0, sizeof(float) * static_cast<size_t>(PANEL - lanes));
}

inline int lanes_in(const Group& group, int panel) {
  const int left = group.lanes - panel * PANEL;
  return left < PANEL ? left : PANEL;
}

inline uint64_t active_lanes(int lanes) { return lanes == PANEL ? ~uint64_t{0} : (uint64_t{1} << lanes) - 1; }

// What is left of a step of a panel, once its classes and cuts are there.
template <class Word, int Planes>
int panel_step(Stream& stream, const Group& group, const PlanesPlan& split, const Lookup& table, int panel, const uint8_t* index,
               Parts& parts, void* to) {
  const int first = panel * PANEL, lanes = lanes_in(group, panel);
  for (int lane = 0; lane < PANEL; ++lane) parts.top[lane] = static_cast<uint16_t>(table.first + index[lane]);
  int fault = STREAM_OK;
  if (table.escape) {
    const uint64_t escaping = lanes_of(static_cast<uint8_t>(table.index[table.count - 1]), index) & active_lanes(lanes);
    fault = take_escapes(stream, group, split.escape_bytes, escaping, parts.top);
  }
  if (fault == STREAM_OK) fault = take_raw(stream, group.raw_bits - split.cut, lanes, parts.raw);
  if (fault == STREAM_OK) fault = take_planes(stream, split, panel, lanes, parts);
  if (fault != STREAM_OK) return fault;
  alignas(64) Word held[PANEL];
  Word* words = split.floats ? held : static_cast<Word*>(to);
  if constexpr (sizeof(Word) == 2)
    words_of_16<Planes>(parts, group, split, words);
  else
    words_of<Word, Planes>(parts, group, split, words);
  if (split.delta) add_up(split.sums + first, lanes, words);
  if (split.floats) to_floats(words, split.floats, lanes, static_cast<float*>(to));
  return STREAM_OK;
}

template <class Word, int Planes>
int steps(Stream& stream, const Group& group, const PlanesPlan& split, const PlanesRange& range) {
  const size_t bytes = PANEL * (split.floats ? sizeof(float) : sizeof(Word)), apart = bytes * static_cast<size_t>(range.last - range.first);
  uint8_t* to = static_cast<uint8_t*>(range.to);
  alignas(64) uint8_t index[4][PANEL];
  Parts parts[4];
  for (int panel = 0; panel < group.panels; ++panel) std::memset(parts[panel].cut, 0, sizeof parts[panel].cut);
  for (int64_t step = range.first; step < range.last; ++step, to += bytes) {
    const int column = group.column_class ? group.column_class[step] : 0;
    for (int panel = 0; panel < group.panels; ++panel) {
      step_classes(stream.states + panel * PANEL, *group.tables[panel][column], stream.trellis + panel * PANEL, index[panel]);
      feed(stream, stream.states + panel * PANEL, active_lanes(lanes_in(group, panel)));
    }
    // "In a Planes member with cuts, all lanes then take the top bit t of their raw parts by the cut of the class index that they found,
    // and lanes that need a byte take it"
    for (int panel = 0; panel < group.panels && split.cut; ++panel) {
      step_cuts(stream.states + panel * PANEL, split.cuts[panel][column], index[panel], parts[panel].cut);
      feed(stream, stream.states + panel * PANEL, active_lanes(lanes_in(group, panel)));
    }
    for (int panel = 0; panel < group.panels; ++panel) {
      const int fault = panel_step<Word, Planes>(stream, group, split, *group.tables[panel][column], panel, index[panel], parts[panel],
                                                 to + static_cast<size_t>(panel) * apart);
      if (fault != STREAM_OK) return fault;
    }
    // "one comparison after each step bounds every read (position > rans_bytes: R3)"; the header counts the bytes of raw and planes.
    if (stream.position > stream.rans_bytes) return STREAM_OVERRUN;
  }
  return STREAM_OK;
}

}  // namespace

int planes(Stream* stream, const Group* group, const PlanesPlan* split, const PlanesRange* range) {
  if (split->width == 8) return steps<uint8_t, 0>(*stream, *group, *split, *range);
  if (split->width == 64) return steps<uint64_t, 0>(*stream, *group, *split, *range);
  if (split->width == 16)
    return split->planes ? steps<uint16_t, 1>(*stream, *group, *split, *range) : steps<uint16_t, 0>(*stream, *group, *split, *range);
  switch (split->planes) {
    case 0:
      return steps<uint32_t, 0>(*stream, *group, *split, *range);
    case 1:
      return steps<uint32_t, 1>(*stream, *group, *split, *range);
    case 2:
      return steps<uint32_t, 2>(*stream, *group, *split, *range);
    default:
      return steps<uint32_t, 3>(*stream, *group, *split, *range);
  }
}

}  // namespace ONNX_COMPRESS_ISA
}  // namespace onnx_compress
