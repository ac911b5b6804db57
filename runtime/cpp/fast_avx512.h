// Steps of R8 with everything in registers: states, tables, values. AVX-512 with VBMI and VBMI2.
//
// Included by kernel_decode.cc only, for the weights of `Group::direct`.
#pragma once

#include <type_traits>

#include "avx512_steps.h"

namespace onnx_compress {
namespace {

ONNX_COMPRESS_INLINE void store_values(const Found& found, const float* scale, float* out) {
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) _mm512_storeu_ps(out + 16 * q, _mm512_mul_ps(_mm512_load_ps(scale + 16 * q), found.value[q]));
}

ONNX_COMPRESS_INLINE void add_values(const Found& found, float x, float* sums) {
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q)
    _mm512_storeu_ps(sums + 16 * q, _mm512_fmadd_ps(_mm512_set1_ps(x), found.value[q], _mm512_loadu_ps(sums + 16 * q)));
}

template <bool NARROW>
inline PlainTable<NARROW> table_at(const Group& group, int panel, int column, const PlainTable<NARROW>*) {
  return PlainTable<NARROW>(*group.tables[panel][column]);
}

template <class Table>
inline Table table_at(const Group& group, int panel, int column, const Table*) {
  return Table(*group.pairs[panel][column]);
}

template <class Table>
constexpr bool PAIR = std::is_constructible_v<Table, const LookupPair&>;

// Steps from `first` on, as many as cannot read beyond the payload; gives the step that comes next.
template <class Table, int PANELS, Sharing SHARED, bool RAW>
int64_t fast_steps(Stream& stream, const Group& group, const Evaluation& form, Range range, int& result) {
  int fault = STREAM_OK;
  constexpr const Table* KIND = nullptr;
  States states[PANELS];
#pragma GCC unroll 4
  for (int p = 0; p < PANELS; ++p) states[p] = load_states(stream, p * PANEL);
  const int last_lanes = group.lanes - (PANELS - 1) * PANEL;
  const uint64_t last_active = last_lanes == PANEL ? ~uint64_t{0} : (uint64_t{1} << last_lanes) - 1;
  const Table of_all = table_at(group, 0, 0, KIND);
  const uint8_t *bytes = stream.bytes + stream.position, *end = stream.bytes + stream.rans_bytes;
  const uint8_t* limit = last_start(stream, PANELS * PANEL);
  while (range.first < range.last && bytes <= limit && fault == STREAM_OK) {
    Escapes<PANELS> escapes;
    const uint8_t* raw = stream.raw;
    Range done = range;
    done.last = range.last - range.first < STRIDE ? range.last : range.first + STRIDE;
    float* out = range.tile;
    int64_t step = range.first;
    uint64_t *lanes = escapes.lanes, *odd = escapes.odd;
    for (; step < done.last && bytes <= limit && fault == STREAM_OK; ++step, lanes += PANELS, odd += PANELS) {
      const int column = SHARED != SHARED_BY_ALL && group.column_class ? group.column_class[step] : 0;
      const Table of_step = SHARED == SHARED_BY_ALL ? of_all : table_at(group, 0, column, KIND);
      uint64_t any = 0;
      fetch_ahead(bytes);
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; ++p) {
        const uint64_t active = p < PANELS - 1 ? ~uint64_t{0} : last_active;
        Found found;
        if constexpr (SHARED == SHARED_BY_NONE)
          find_values<RAW>(stream, group, table_at(group, p, column, KIND), states[p], active, bytes, found, fault);
        else
          find_values<RAW>(stream, group, of_step, states[p], active, bytes, found, fault);
        lanes[p] = found.escaping, any |= found.escaping;
        if constexpr (PAIR<Table>) odd[p] = found.odd;
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
  for (int p = 0; p < PANELS; ++p) store_states(states[p], stream, p * PANEL);
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
    states[i] = load_states(stream, 0);
    active[i] = groups[i]->lanes == PANEL ? ~uint64_t{0} : (uint64_t{1} << groups[i]->lanes) - 1;
    bytes[i] = stream.bytes + stream.position;
    limit[i] = last_start(stream, PANEL);
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
        fetch_ahead(bytes[i]);
        const int column = groups[i]->column_class ? groups[i]->column_class[ranges[i].first + step] : 0;
        Found found;
        find_values<RAW>(*streams[i], *groups[i], table_at(*groups[i], 0, column, KIND), states[i], active[i], bytes[i], found, faults[i]);
        escapes[i].lanes[step] = found.escaping, escapes[i].steps |= static_cast<uint64_t>(found.escaping != 0) << step;
        if constexpr (PAIR<Table>) escapes[i].odd[step] = found.odd;
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
    if (stream.position > stream.rans_bytes) faults[i] = STREAM_OVERRUN;
    store_states(states[i], stream, 0);
  }
}

// Whether a BitPairTable serves.
inline bool bit_pairs(const Group& group) { return group.raw_bits == 1 && group.narrow && group.small_levels; }

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

template <class Table, bool RAW>
int64_t fast_tables(Stream& stream, const Group& group, const Evaluation& form, Range range, int& fault) {
  if (group.sharing == SHARED_BY_NONE) return fast_panels<Table, SHARED_BY_NONE, RAW>(stream, group, form, range, fault);
  if (group.sharing == SHARED_IN_STEP) return fast_panels<Table, SHARED_IN_STEP, RAW>(stream, group, form, range, fault);
  return fast_panels<Table, SHARED_BY_ALL, RAW>(stream, group, form, range, fault);
}

int64_t fast_pairs(Stream& stream, const Group& group, const Evaluation& form, Range range, int& fault) {
  if (bit_pairs(group)) return fast_tables<BitPairTable, true>(stream, group, form, range, fault);
  if (group.raw_bits) return fast_tables<PairTable<false>, true>(stream, group, form, range, fault);
  return group.narrow ? fast_tables<PairTable<true>, false>(stream, group, form, range, fault)
                      : fast_tables<PairTable<false>, false>(stream, group, form, range, fault);
}

template <bool RAW>
int64_t fast_plain(Stream& stream, const Group& group, const Evaluation& form, Range range, int& fault) {
  return group.narrow ? fast_tables<PlainTable<true>, RAW>(stream, group, form, range, fault)
                      : fast_tables<PlainTable<false>, RAW>(stream, group, form, range, fault);
}

int64_t fast(Stream& stream, const Group& group, const Evaluation& form, Range range, int& fault) {
  if (group.quantizers == 2) return fast_pairs(stream, group, form, range, fault);
  return group.raw_bits ? fast_plain<true>(stream, group, form, range, fault) : fast_plain<false>(stream, group, form, range, fault);
}

}  // namespace
}  // namespace onnx_compress
