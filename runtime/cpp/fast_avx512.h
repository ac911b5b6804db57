// Steps of R8 with everything in registers: states, tables, values. AVX-512 with VBMI and VBMI2.
//
// Included by kernel_decode.cc only, which says which weights qualify (`Group::direct`).
#pragma once

#include "rans.h"

#define ONNX_COMPRESS_INLINE inline __attribute__((always_inline))

namespace onnx_compress {
namespace {

// Bytes stand for lanes in an order of their own: byte 4 * j + q is lane 16 * q + j. The four bytes of a 32-bit element then belong to
// four vectors of 16 floats, and a shift is all that widens them: vpermps looks at the low bits of an index only.
struct Orders {
  alignas(64) uint8_t gather[PANEL], low[PANEL], high[PANEL], lanes[PANEL], natural[PANEL];
  alignas(64) uint16_t fed_from[PANEL / 2];  // states below this, 256, take a byte
  constexpr Orders() : gather(), low(), high(), lanes(), natural(), fed_from() {
    for (int i = 0; i < PANEL / 2; ++i) fed_from[i] = 256;
    for (int lane = 0; lane < PANEL; ++lane) {
      const int byte = 4 * (lane % 16) + lane / 16;
      gather[byte] = static_cast<uint8_t>(2 * lane);  // of 128 bytes of states, the low byte of the lane's
      (lane < 32 ? low : high)[2 * (lane % 32)] = static_cast<uint8_t>(byte);
      lanes[byte] = static_cast<uint8_t>(lane), natural[lane] = static_cast<uint8_t>(byte);
    }
  }
};
constexpr Orders ORDERS;
constexpr __mmask64 EVEN = 0x5555555555555555;

ONNX_COMPRESS_INLINE __m512i sixteen(const uint8_t* table) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}

ONNX_COMPRESS_INLINE __m512i thirty_two(const void* table) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(static_cast<const __m256i*>(table)));
}

ONNX_COMPRESS_INLINE __m512i plus_one(__m512i less_one) { return _mm512_add_epi8(less_one, _mm512_set1_epi8(1)); }

// A table of 256 bytes in four registers, by slot.
struct Slots {
  __m512i part[4];
  ONNX_COMPRESS_INLINE explicit Slots(const uint8_t* table)
      : part{load_bytes(table), load_bytes(table + 64), load_bytes(table + 128), load_bytes(table + 192)} {}
  ONNX_COMPRESS_INLINE __m512i at(__m512i slot) const {
    const __m512i low = _mm512_permutex2var_epi8(part[0], slot, part[1]), high = _mm512_permutex2var_epi8(part[2], slot, part[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(slot), low, high);
  }
};

// 256, the frequency of a class that is alone, has no byte: where there may be such a class, frequencies stay less by one (LESS).
template <bool LESS>
struct PlainTable {
  Slots slots;
  __m512i frequency, start, escape;
  __m512 value;
  static constexpr bool LESS_ONE = LESS;

  ONNX_COMPRESS_INLINE explicit PlainTable(const Lookup& table)
      : slots(table.bytes.place),
        frequency(LESS ? sixteen(table.bytes.less_one) : plus_one(sixteen(table.bytes.less_one))),
        start(sixteen(table.bytes.start)),
        escape(_mm512_set1_epi8(static_cast<char>(table.escape_place))),
        value(_mm512_loadu_ps(table.value)) {}
  ONNX_COMPRESS_INLINE __m512i places(__m512i slot, __m512i) const { return slots.at(slot); }
  ONNX_COMPRESS_INLINE __m512i by_place(__m512i table, __m512i place) const { return _mm512_shuffle_epi8(table, place); }
  ONNX_COMPRESS_INLINE __m512 values(__m512i place) const { return _mm512_permutexvar_ps(place, value); }
  ONNX_COMPRESS_INLINE __mmask64 escaping(__m512i place) const { return _mm512_cmpeq_epi8_mask(place, escape); }
};

// "s = NEXT[s][level & 1]": by s + 8 * parity.
alignas(16) constexpr uint8_t NEXT_STATES[16] = {0, 5, 1, 6, 2, 4, 3, 7, 2, 7, 3, 4, 0, 6, 1, 5};

struct PairTable {
  Slots even, odd;
  __m512i frequency, start, parity;
  __m512 even_value, odd_value;
  static constexpr bool LESS_ONE = true;

  ONNX_COMPRESS_INLINE explicit PairTable(const LookupPair& pair)
      : even(pair.bytes.place),
        odd(pair.bytes.place + LookupPair::ODD_SLOTS),
        frequency(thirty_two(pair.bytes.less_one)),
        start(thirty_two(pair.bytes.start)),
        parity(thirty_two(pair.place_parity)),
        even_value(_mm512_loadu_ps(pair.value)),
        odd_value(_mm512_loadu_ps(pair.value + LookupPair::ODD_IDS)) {}
  ONNX_COMPRESS_INLINE __m512i places(__m512i slot, __m512i trellis) const {
    return _mm512_mask_blend_epi8(_mm512_test_epi8_mask(trellis, _mm512_set1_epi8(1)), even.at(slot), odd.at(slot));
  }
  ONNX_COMPRESS_INLINE __m512i by_place(__m512i table, __m512i place) const { return _mm512_permutexvar_epi8(place, table); }
  ONNX_COMPRESS_INLINE __m512 values(__m512i place) const { return _mm512_permutex2var_ps(even_value, place, odd_value); }
  // 8 where a level is odd, 128 where it is an escape.
  ONNX_COMPRESS_INLINE __m512i parities(__m512i place) const { return by_place(parity, place); }
  ONNX_COMPRESS_INLINE void advance(__m512i& trellis, __m512i eight_parities) const {
    trellis = _mm512_shuffle_epi8(sixteen(NEXT_STATES), _mm512_or_si512(trellis, eight_parities));
  }
};

struct States {
  __m512i low, high;  // of lanes 0 to 31, and 32 to 63
  __m512i trellis;    // in the order of bytes
};

// "if x < 256:  x = (x << 8) | next byte of the rans section", lanes in ascending order; reads 32 bytes.
ONNX_COMPRESS_INLINE __m512i fed(__m512i x, uint64_t active, const uint8_t*& bytes) {
  const __mmask32 hungry = _mm512_mask_cmplt_epu16_mask(static_cast<__mmask32>(active), x, load_bytes(ORDERS.fed_from));
  const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)));
  bytes += __builtin_popcount(hungry);
  return _mm512_or_si512(_mm512_mask_slli_epi16(x, hungry, x, 8), _mm512_maskz_expand_epi16(hungry, words));
}

// "slot = x & 255;  i = the class with start[i] <= slot < start[i] + frequency[i]
//  x = frequency[i] * (x >> 8) + slot - start[i]"
//
// Gives the places of the classes, in the order of bytes.
template <class Table>
ONNX_COMPRESS_INLINE __m512i step_states(States& states, const Table& table, uint64_t active, const uint8_t*& bytes) {
  const __m512i slot = _mm512_permutex2var_epi8(states.low, load_bytes(ORDERS.gather), states.high);
  const __m512i place = table.places(slot, states.trellis);
  const __m512i frequency = table.by_place(table.frequency, place), above = _mm512_sub_epi8(slot, table.by_place(table.start, place));
  const auto next = [&](__m512i x, const uint8_t* order, uint64_t own) __attribute__((always_inline)) {
    const __m512i widened = load_bytes(order), high_byte = _mm512_srli_epi16(x, 8);
    __m512i product = _mm512_mullo_epi16(_mm512_maskz_permutexvar_epi8(EVEN, widened, frequency), high_byte);
    if constexpr (Table::LESS_ONE) product = _mm512_add_epi16(product, high_byte);
    return fed(_mm512_add_epi16(product, _mm512_maskz_permutexvar_epi8(EVEN, widened, above)), own, bytes);
  };
  states.low = next(states.low, ORDERS.low, active);
  states.high = next(states.high, ORDERS.high, active >> 32);
  return place;
}

// The bit planes of a step of a panel, least significant first.
struct Planes {
  uint64_t bits[8];
  int count;
};

// "The raw section has, for each step and each panel of the group, r bit planes, least significant bit first, of ceil(lanes / 8) bytes
// each ... Unused bits are 0."
ONNX_COMPRESS_INLINE int take_planes(Stream& stream, uint64_t active, Planes& planes) {
  const size_t bytes = static_cast<size_t>(64 - __builtin_clzll(active) + 7) / 8;
  uint64_t all = 0;
  for (int bit = 0; bit < planes.count; ++bit, stream.raw += bytes) all |= planes.bits[bit] = load_plane(stream.raw, bytes);
  return all & ~active ? STREAM_UNUSED_BIT : STREAM_OK;
}

ONNX_COMPRESS_INLINE __m512 with_raw(__m512 value, const Planes& planes, int quarter) {
  for (int bit = 0; bit < planes.count; ++bit) {
    const __mmask16 set = static_cast<__mmask16>(planes.bits[bit] >> (16 * quarter));
    value = _mm512_mask_add_ps(value, set, value, _mm512_set1_ps(static_cast<float>(1 << bit)));
  }
  return value;
}

// Bit `lane`, of a bit in the order of bytes.
inline uint64_t lanes_in_order(uint64_t bytes) {
  return _mm512_movepi8_mask(_mm512_permutexvar_epi8(load_bytes(ORDERS.natural), _mm512_movm_epi8(bytes)));
}

// One step of a panel before its scale: values of lanes 0 to 15, 16 to 31, ..., and what the next step of a trellis needs.
struct Found {
  __m512 value[4];
  __m512i eight_parities;
};

template <class Table>
ONNX_COMPRESS_INLINE void look_up(const Table& table, __m512i place, Found& found) {
  found.value[0] = table.values(place), found.value[1] = table.values(_mm512_srli_epi32(place, 8));
  found.value[2] = table.values(_mm512_srli_epi32(place, 16)), found.value[3] = table.values(_mm512_srli_epi32(place, 24));
}

// A step of a plain panel; gives the lanes that escape, in the order of bytes: `patch_escapes` sees to them.
template <bool RAW, class Table>
ONNX_COMPRESS_INLINE uint64_t find_values(Stream& stream, const Group& group, const Table& table, States& states, uint64_t active,
                                          const uint8_t*& bytes, Found& found, int& fault) {
  const __m512i place = step_states(states, table, active, bytes);
  look_up(table, place, found);
  if constexpr (RAW) {
    Planes planes;
    planes.count = group.raw_bits;
    if (const int unused = take_planes(stream, active, planes)) fault = unused;
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) found.value[q] = with_raw(found.value[q], planes, q);
  }
  return table.escaping(place);
}

// The multiple with its raw bit b, from that without: "level = (c << 1) - 1 + b", so it grows by 2 where b is set. But c = 0 has the levels
// -1 and 0, and q * sign(level) is then 0 in place of -q: an odd quantizer's 1, which is no multiple of any other level with b = 1.
ONNX_COMPRESS_INLINE __m512 with_bit(__m512 multiple, __mmask16 bit) {
  const __m512 grown = _mm512_mask_add_ps(multiple, bit, multiple, _mm512_set1_ps(2));
  return _mm512_mask_mov_ps(grown, _mm512_mask_cmpeq_ps_mask(bit, grown, _mm512_set1_ps(1)), _mm512_setzero_ps());
}

// The same with r raw bits, h = 1 << (r - 1): it grows by 2 * raw. Where c = 0, levels are those of raw - h, and sign(level) is -1 only
// while raw < h, which the highest bit tells: an odd quantizer's multiple is then 2 less, and 0 in place of -1.
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

// "or, for the escape, escape_base + e with e the next byte of the escape section", in ascending lane order: multiples and parities of
// trellis-coded levels, whose next states depend on them. `lanes` and planes are by lane; escapes are rare.
__attribute__((noinline)) int take_multiples(Stream& stream, const Group& group, uint64_t lanes, const Planes& planes, __m512i trellis,
                                             Found& found) {
  alignas(64) float value[PANEL];
  alignas(64) uint8_t parity[PANEL], state[PANEL];
  for (int q = 0; q < 4; ++q) _mm512_store_ps(value + 16 * q, found.value[q]);
  _mm512_store_si512(parity, _mm512_and_si512(found.eight_parities, _mm512_set1_epi8(8))), _mm512_store_si512(state, trellis);
  for (; lanes; lanes &= lanes - 1) {
    if (stream.escapes_left == 0) return STREAM_ESCAPES;
    --stream.escapes_left;
    const int lane = __builtin_ctzll(lanes), byte = ORDERS.natural[lane];
    int level = escaped_level(group, *stream.escapes++);
    for (int bit = 0; bit < planes.count; ++bit) level += static_cast<int>(planes.bits[bit] >> lane & 1) << bit;
    value[lane] = static_cast<float>(2 * level - (state[byte] & 1) * ((level > 0) - (level < 0)));
    parity[byte] = static_cast<uint8_t>((level & 1) * 8);
  }
  for (int q = 0; q < 4; ++q) found.value[q] = _mm512_load_ps(value + 16 * q);
  found.eight_parities = _mm512_load_si512(parity);
  return STREAM_OK;
}

// A step of a trellis-coded panel.
template <bool RAW>
ONNX_COMPRESS_INLINE uint64_t find_values(Stream& stream, const Group& group, const PairTable& table, States& states, uint64_t active,
                                          const uint8_t*& bytes, Found& found, int& fault) {
  const __m512i place = step_states(states, table, active, bytes);
  look_up(table, place, found);
  found.eight_parities = table.parities(place);
  Planes planes;
  planes.count = RAW ? group.raw_bits : 0;
  const __mmask64 escaping = _mm512_movepi8_mask(found.eight_parities);
  if constexpr (RAW) {
    if (const int unused = take_planes(stream, active, planes)) fault = unused;
    const __m512i set = _mm512_permutexvar_epi8(load_bytes(ORDERS.lanes), _mm512_movm_epi8(planes.bits[0])), eight = _mm512_set1_epi8(8);
    if (planes.count == 1) {
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) found.value[q] = with_bit(found.value[q], static_cast<__mmask16>(planes.bits[0] >> (16 * q)));
      found.eight_parities = _mm512_andnot_si512(set, eight);  // the parity of 2 * c - 1 + b is that of b + 1
    } else {
      const uint64_t odd = _mm512_test_epi8_mask(_mm512_permutexvar_epi8(load_bytes(ORDERS.natural), states.trellis), _mm512_set1_epi8(1));
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) found.value[q] = with_bits(found.value[q], planes, odd, q);
      found.eight_parities = _mm512_and_si512(set, eight);  // c << r and h are even: the parity is that of the lowest bit
    }
  }
  if (__builtin_expect(escaping != 0, 0)) {
    Found patched = found;  // a copy: what lives in registers must have no address
    const int other = take_multiples(stream, group, lanes_in_order(escaping) & active, planes, states.trellis, patched);
    found = patched, fault = other == STREAM_OK ? fault : other;
  }
  table.advance(states.trellis, found.eight_parities);
  return 0;
}

ONNX_COMPRESS_INLINE void store_values(const Found& found, const float* scale, float* out) {
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) _mm512_storeu_ps(out + 16 * q, _mm512_mul_ps(_mm512_load_ps(scale + 16 * q), found.value[q]));
}

ONNX_COMPRESS_INLINE void add_values(const Found& found, float x, float* sums) {
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q)
    _mm512_storeu_ps(sums + 16 * q, _mm512_fmadd_ps(_mm512_set1_ps(x), found.value[q], _mm512_loadu_ps(sums + 16 * q)));
}

template <bool LESS>
inline PlainTable<LESS> table_at(const Group& group, int panel, int column, const PlainTable<LESS>*) {
  return PlainTable<LESS>(*group.tables[panel][column]);
}

inline PairTable table_at(const Group& group, int panel, int column, const PairTable*) { return PairTable(*group.pairs[panel][column]); }

// Steps whose escapes are seen to at once.
constexpr int64_t STRIDE = 64;

// Escapes of plain levels, found in up to STRIDE steps: `steps` has a bit for each step that has any, `lanes` [steps, panels] are in the
// order of bytes.
template <int PANELS>
struct Escapes {
  uint64_t steps = 0, lanes[STRIDE * PANELS];
};

// Puts escaped values in the place of what was stored for them, after their steps; `raw` is where the raw part of the first step begins.
template <int PANELS>
__attribute__((noinline)) int patch_escapes(Stream& stream, const Group& group, const Evaluation& form, const Range& done,
                                            Escapes<PANELS>& escapes, const uint8_t* raw) {
  const int last_lanes = group.lanes - (PANELS - 1) * PANEL;
  const int64_t last_bytes = (last_lanes + 7) / 8, step_bytes = group.raw_bits * ((PANELS - 1) * 8 + last_bytes);
  for (; escapes.steps; escapes.steps &= escapes.steps - 1) {
    const int64_t step = __builtin_ctzll(escapes.steps);
    for (int p = 0; p < PANELS; ++p) {
      uint64_t lanes = lanes_in_order(escapes.lanes[step * PANELS + p]);
      if (p == PANELS - 1 && last_lanes < PANEL) lanes &= (uint64_t{1} << last_lanes) - 1;
      const int64_t plane_bytes = p < PANELS - 1 ? 8 : last_bytes;
      const uint8_t* planes = raw + step * step_bytes + p * 8 * group.raw_bits;
      for (; lanes; lanes &= lanes - 1) {
        if (stream.escapes_left == 0) return STREAM_ESCAPES;
        --stream.escapes_left;
        const int lane = __builtin_ctzll(lanes);
        int32_t level = escaped_level(group, *stream.escapes++);
        float* to = done.tile + p * done.panel_stride + lane;
        if (done.x) {  // the raw part is in the sum already
          *to += done.x[step] * static_cast<float>(level);
          continue;
        }
        for (int bit = 0; bit < group.raw_bits; ++bit) level += (planes[bit * plane_bytes + lane / 8] >> (lane % 8) & 1) << bit;
        to[step * PANEL] = form.scale[p * PANEL + lane] * static_cast<float>(level);
      }
    }
  }
  return STREAM_OK;
}

// Steps from `first` on, as many as cannot read beyond the payload; gives the step that comes next.
template <class Table, int PANELS, Sharing SHARED, bool RAW>
int64_t fast_steps(Stream& stream, const Group& group, const Evaluation& form, Range range, int& result) {
  int fault = STREAM_OK;
  constexpr const Table* KIND = nullptr;
  States states[PANELS];
#pragma GCC unroll 4
  for (int p = 0; p < PANELS; ++p)
    states[p] = {load_bytes(stream.states + p * PANEL), load_bytes(stream.states + p * PANEL + 32),
                 _mm512_permutexvar_epi8(load_bytes(ORDERS.lanes), load_bytes(stream.trellis + p * PANEL))};
  const int last_lanes = group.lanes - (PANELS - 1) * PANEL;
  const uint64_t last_active = last_lanes == PANEL ? ~uint64_t{0} : (uint64_t{1} << last_lanes) - 1;
  const Table of_all = table_at(group, 0, 0, KIND);
  const uint8_t *bytes = stream.bytes + stream.position, *end = stream.bytes + stream.rans_bytes;
  // A step takes at most a byte a lane, and its last load is of 32 bytes behind those of the 32 lanes before.
  const uint8_t* readable = stream.bytes + stream.readable - PANELS * PANEL;
  const uint8_t* limit = readable < end ? readable : end;
  while (range.first < range.last && bytes <= limit && fault == STREAM_OK) {
    Escapes<PANELS> escapes;
    const uint8_t* raw = stream.raw;
    Range done = range;
    done.last = range.last - range.first < STRIDE ? range.last : range.first + STRIDE;
    float* out = range.tile;
    int64_t step = range.first;
    for (uint64_t* lanes = escapes.lanes; step < done.last && bytes <= limit && fault == STREAM_OK; ++step, lanes += PANELS) {
      const int column = SHARED != SHARED_BY_ALL && group.column_class ? group.column_class[step] : 0;
      const Table of_step = SHARED == SHARED_BY_ALL ? of_all : table_at(group, 0, column, KIND);
      uint64_t any = 0;
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; ++p) {
        const uint64_t active = p < PANELS - 1 ? ~uint64_t{0} : last_active;
        Found found;
        if constexpr (SHARED == SHARED_BY_NONE)
          lanes[p] = find_values<RAW>(stream, group, table_at(group, p, column, KIND), states[p], active, bytes, found, fault);
        else
          lanes[p] = find_values<RAW>(stream, group, of_step, states[p], active, bytes, found, fault);
        any |= lanes[p];
        if (range.x)
          add_values(found, range.x[step - range.first], out + p * range.panel_stride);
        else
          store_values(found, form.scale + p * PANEL, out + p * range.panel_stride);
      }
      if (!range.x) out += PANEL;
      escapes.steps |= static_cast<uint64_t>(any != 0) << (step - range.first);
    }
    if (range.x) range.x += step - range.first;
    done.last = step, range.first = step, range.tile = out;
    if (escapes.steps && fault == STREAM_OK) fault = patch_escapes(stream, group, form, done, escapes, raw);
  }
  stream.position = static_cast<uint64_t>(bytes - stream.bytes);
  if (bytes > end) fault = STREAM_OVERRUN;
#pragma GCC unroll 4
  for (int p = 0; p < PANELS; ++p) {
    _mm512_storeu_si512(stream.states + p * PANEL, states[p].low), _mm512_storeu_si512(stream.states + p * PANEL + 32, states[p].high);
    _mm512_storeu_si512(stream.trellis + p * PANEL, _mm512_permutexvar_epi8(load_bytes(ORDERS.natural), states[p].trellis));
  }
  result = fault;
  return range.first;
}

// The same of TOGETHER streams of one panel each: a panel alone waits for its own states most of the time. All have as many steps.
template <class Table, bool RAW>
void fast_streams(Stream* const* streams, const Group* const* groups, const Evaluation* const* forms, Range* ranges, int* faults) {
  constexpr const Table* KIND = nullptr;
  States states[TOGETHER];
  const uint8_t *bytes[TOGETHER], *limit[TOGETHER];
  uint64_t active[TOGETHER];
#pragma GCC unroll 4
  for (int i = 0; i < TOGETHER; ++i) {
    const Stream& stream = *streams[i];
    states[i] = {load_bytes(stream.states), load_bytes(stream.states + 32),
                 _mm512_permutexvar_epi8(load_bytes(ORDERS.lanes), load_bytes(stream.trellis))};
    active[i] = groups[i]->lanes == PANEL ? ~uint64_t{0} : (uint64_t{1} << groups[i]->lanes) - 1;
    bytes[i] = stream.bytes + stream.position;
    limit[i] = stream.bytes + (stream.readable - PANEL < stream.rans_bytes ? stream.readable - PANEL : stream.rans_bytes);
  }
  bool going = true;
  while (ranges[0].first < ranges[0].last && going) {
    Escapes<1> escapes[TOGETHER];
    const uint8_t* raw[TOGETHER];
    for (int i = 0; i < TOGETHER; ++i) raw[i] = streams[i]->raw;
    const int64_t steps = ranges[0].last - ranges[0].first < STRIDE ? ranges[0].last - ranges[0].first : STRIDE;
    int64_t step = 0;
    for (; step < steps; ++step) {
      for (int i = 0; i < TOGETHER; ++i) going = going && bytes[i] <= limit[i] && faults[i] == STREAM_OK;
      if (!going) break;
#pragma GCC unroll 4
      for (int i = 0; i < TOGETHER; ++i) {
        const int column = groups[i]->column_class ? groups[i]->column_class[ranges[i].first + step] : 0;
        Found found;
        const uint64_t lanes = find_values<RAW>(*streams[i], *groups[i], table_at(*groups[i], 0, column, KIND), states[i], active[i],
                                                bytes[i], found, faults[i]);
        escapes[i].lanes[step] = lanes, escapes[i].steps |= static_cast<uint64_t>(lanes != 0) << step;
        store_values(found, forms[i]->scale, ranges[i].tile + step * PANEL);
      }
    }
    for (int i = 0; i < TOGETHER; ++i) {
      Range done = ranges[i];
      done.last = done.first + step;
      if (escapes[i].steps && faults[i] == STREAM_OK)
        faults[i] = patch_escapes(*streams[i], *groups[i], *forms[i], done, escapes[i], raw[i]);
      ranges[i].first += step, ranges[i].tile += step * PANEL;
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < TOGETHER; ++i) {
    Stream& stream = *streams[i];
    stream.position = static_cast<uint64_t>(bytes[i] - stream.bytes);
    _mm512_storeu_si512(stream.states, states[i].low), _mm512_storeu_si512(stream.states + 32, states[i].high);
    _mm512_storeu_si512(stream.trellis, _mm512_permutexvar_epi8(load_bytes(ORDERS.natural), states[i].trellis));
  }
}

template <class Table, Sharing SHARED, bool RAW>
int64_t fast_panels(Stream& stream, const Group& group, const Evaluation& form, Range range, int& fault) {
  switch (group.panels) {
    case 1:
      return fast_steps<Table, 1, SHARED, RAW>(stream, group, form, range, fault);
    case 2:
      return fast_steps<Table, 2, SHARED, RAW>(stream, group, form, range, fault);
    case 3:
      return fast_steps<Table, 3, SHARED, RAW>(stream, group, form, range, fault);
    default:
      return fast_steps<Table, 4, SHARED, RAW>(stream, group, form, range, fault);
  }
}

// WHOLE: the kind of table that serves where all have the same and no class is alone.
template <class Table, class Whole, bool RAW>
int64_t fast_tables(Stream& stream, const Group& group, const Evaluation& form, Range range, int& fault) {
  if (group.sharing == SHARED_BY_NONE) return fast_panels<Table, SHARED_BY_NONE, RAW>(stream, group, form, range, fault);
  if (group.sharing == SHARED_IN_STEP || group.tables[0][0]->count == 1)
    return fast_panels<Table, SHARED_IN_STEP, RAW>(stream, group, form, range, fault);
  return fast_panels<Whole, SHARED_BY_ALL, RAW>(stream, group, form, range, fault);
}

int64_t fast(Stream& stream, const Group& group, const Evaluation& form, Range range, int& fault) {
  if (group.quantizers == 2)
    return group.raw_bits ? fast_tables<PairTable, PairTable, true>(stream, group, form, range, fault)
                          : fast_tables<PairTable, PairTable, false>(stream, group, form, range, fault);
  return group.raw_bits ? fast_tables<PlainTable<true>, PlainTable<false>, true>(stream, group, form, range, fault)
                        : fast_tables<PlainTable<true>, PlainTable<false>, false>(stream, group, form, range, fault);
}

}  // namespace
}  // namespace onnx_compress
