// Decoding a group of lanes into a tile of floats. Compiled for several instruction sets, each in a namespace of its own, with
// -ffp-contract=off: "The decoded value is defined as fp32 round(round(row_scale * col_scale) * level), so every path agrees to the bit".
#include "kernels.h"
#include "number.h"
#include "rans.h"
#include "trellis.h"
#if defined(ONNX_COMPRESS_EXPAND)
#include "fast_avx512.h"
#elif defined(ONNX_COMPRESS_SHUFFLE) || defined(ONNX_COMPRESS_VECTOR128)
#include "fast_vector.h"
#endif

namespace onnx_compress {
namespace ONNX_COMPRESS_ISA {
ONNX_COMPRESS_DECLARE_KERNELS
namespace {

// "level = (c << r) - ((1 << r) >> 1) + b", without b.
inline void levels_of(const Lookup& table, const uint8_t* index, int raw_bits, int32_t* level) {
  const int32_t base = (table.first * (1 << raw_bits)) - ((1 << raw_bits) >> 1);
  for (int lane = 0; lane < PANEL; ++lane) level[lane] = base + (int32_t{index[lane]} << raw_bits);
}

// "or, for the escape, escape_base + e with e the next byte of the escape section", in ascending lane order; bit l of `lanes`: lane l
// escapes.
int take_escapes(Stream& stream, const Group& group, uint64_t lanes, int32_t* level) {
  for (; lanes; lanes &= lanes - 1) {
    if (stream.escapes_left == 0) return STREAM_ESCAPES;
    --stream.escapes_left;
    level[__builtin_ctzll(lanes)] = escaped_level(group, *stream.escapes++);
  }
  return STREAM_OK;
}

// The same of a pair of tables: ids from 16 on are the odd table's.
inline void levels_of(const LookupPair& pair, const uint8_t* index, int raw_bits, int32_t* level) {
  const int32_t half = (1 << raw_bits) >> 1, even = pair.first[0] * (1 << raw_bits) - half, odd = pair.first[1] * (1 << raw_bits) - half;
  for (int lane = 0; lane < PANEL; ++lane)
    level[lane] = (index[lane] & LookupPair::ODD_IDS ? odd : even) + (int32_t{index[lane]} % LookupPair::ODD_IDS << raw_bits);
}

// "m = 2 * level - q * sign(level);  s = NEXT[s][level & 1]"
inline void step_trellis(uint8_t* trellis, int32_t* level) {
  uint8_t parity[PANEL];
  for (int lane = 0; lane < PANEL; ++lane) {
    parity[lane] = static_cast<uint8_t>(level[lane] & 1);
    level[lane] = multiple_of(level[lane], trellis[lane] & 1);
  }
  for (int lane = 0; lane < PANEL; ++lane) trellis[lane] = next_state(trellis[lane], parity[lane]);
}

// Of the lanes of a panel: the states that chose the quantizers, the multiples and the parities of the levels.
struct Multiples {
  const uint8_t* trellis;
  int32_t* multiple;
  uint8_t* parity;
};

int take_escaped_multiples(Stream& stream, const Group& group, uint64_t lanes, Multiples found) {
  int32_t level[PANEL];
  const int fault = take_escapes(stream, group, lanes, level);
  for (; lanes && fault == STREAM_OK; lanes &= lanes - 1) {
    const int lane = __builtin_ctzll(lanes);
    found.multiple[lane] = multiple_of(level[lane], found.trellis[lane] & 1);
    found.parity[lane] = static_cast<uint8_t>(level[lane] & 1);
  }
  return fault;
}

// "The raw section has, for each step and each panel of the group, r bit planes, least significant bit first, of ceil(lanes / 8) bytes
// each; bit l % 8 of byte l / 8 belongs to the panel's lane l. Unused bits are 0."
int take_raw(Stream& stream, int raw_bits, int lanes, int32_t* level) {
  const size_t bytes = static_cast<size_t>(lanes + 7) / 8;
  alignas(64) uint8_t parts[PANEL] = {};
  uint64_t unused = 0;
  for (int bit = 0; bit < raw_bits; ++bit, stream.raw += bytes) {
    const uint64_t plane = load_plane(stream.raw, bytes);
    add_plane(plane, bit, parts);
    if (lanes < PANEL) unused |= plane >> lanes;
  }
  for (int lane = 0; lane < PANEL; ++lane) level[lane] += parts[lane];
  return unused ? STREAM_UNUSED_BIT : STREAM_OK;
}

inline void grid_values(const Evaluation& form, const float* scale, int64_t step, const int32_t* level, float* out) {
  if (form.column_scale == nullptr) {
    for (int lane = 0; lane < PANEL; ++lane) out[lane] = scale[lane] * static_cast<float>(level[lane]);
    return;
  }
  const float column = form.column_scale[step];
  for (int lane = 0; lane < PANEL; ++lane) out[lane] = (scale[lane] * column) * static_cast<float>(level[lane]);
}

inline int outside(const Evaluation& form, const int32_t* level, int lanes) {
  int any = 0;
  for (int lane = 0; lane < lanes; ++lane) any |= (level[lane] < form.low) | (level[lane] > form.high);
  return any;
}

// "value = centroids[code], or round32(scale[b,o] * centroids[code]). A code outside the centroids is R3."
inline int codebook_values(const Evaluation& form, const float* scale, const int32_t* level, int lanes, float* out) {
  if (outside(form, level, lanes)) return STREAM_RANGE;
  for (int lane = 0; lane < lanes; ++lane) out[lane] = form.centroids[level[lane]];
  if (!form.has_scale) return STREAM_OK;
  for (int lane = 0; lane < PANEL; ++lane) out[lane] = scale[lane] * out[lane];
  return STREAM_OK;
}

// "value = centroids[row_group[row] * n + code], or round32(scale[b,o] * that)"
inline int mapped_values(const Evaluation& form, int panel, const int32_t* level, int lanes, float* out) {
  const int32_t* base = form.base + panel * PANEL;
  if (outside(form, level, lanes)) return STREAM_RANGE;
  for (int lane = 0; lane < lanes; ++lane) out[lane] = form.centroids[base[lane] + level[lane]];
  if (!form.has_scale) return STREAM_OK;
  for (int lane = 0; lane < PANEL; ++lane) out[lane] = form.scale[panel * PANEL + lane] * out[lane];
  return STREAM_OK;
}

// "value = mask ? next value of the value section : 0", in ascending lane order.
int sparse_values(Stream& stream, const Evaluation& form, const int32_t* level, int lanes, float* out) {
  if (outside(form, level, lanes)) return STREAM_RANGE;
  for (int lane = 0; lane < lanes; ++lane) {
    if (level[lane] == 0) continue;
    if (stream.values_left == 0) return STREAM_VALUES;
    --stream.values_left;
    out[lane] = form.value_kind == 0   ? bits_float(load32(stream.values))
                : form.value_kind == 1 ? from_half(load16(stream.values))
                                       : from_bfloat(load16(stream.values));
    stream.values += form.value_kind == 0 ? 4 : 2;
  }
  return STREAM_OK;
}

// "A float member's value is then rounded to its dtype: nothing for float, round16 or roundbf for the 16-bit ones."
inline void round_values(int dtype, float* out) {
  if (dtype == 10)
    for (int lane = 0; lane < PANEL; ++lane) out[lane] = from_half(to_half(out[lane]));
  if (dtype == 16)
    for (int lane = 0; lane < PANEL; ++lane) out[lane] = from_bfloat(to_bfloat(out[lane]));
}

int values_of(Stream& stream, const Evaluation& form, int panel, int64_t step, const int32_t* level, int lanes, float* out) {
  const float* scale = form.scale + panel * PANEL;
  if (form.form == FORM_GRID) {
    grid_values(form, scale, step, level, out);
    if (lanes < PANEL) std::memset(out + lanes, 0, sizeof(float) * static_cast<size_t>(PANEL - lanes));
    return STREAM_OK;
  }
  std::memset(out, 0, sizeof(float) * PANEL);
  if (form.form == FORM_CODEBOOK) return codebook_values(form, scale, level, lanes, out);
  if (form.form == FORM_MAPPED) return mapped_values(form, panel, level, lanes, out);
  if (form.form == FORM_SPARSE) return sparse_values(stream, form, level, lanes, out);
  if (outside(form, level, lanes)) return STREAM_RANGE;
  for (int lane = 0; lane < lanes; ++lane) out[lane] = static_cast<float>(level[lane]);
  return STREAM_OK;
}

inline uint64_t escaping(const Lookup& table, const uint8_t* index) {
  return table.escape ? lanes_of(static_cast<uint8_t>(table.index[table.count - 1]), index) : 0;
}

inline uint64_t escaping(const LookupPair& pair, const uint8_t* index) {
  const uint64_t even = pair.escape[0] == LookupPair::NO_ID ? 0 : lanes_of(pair.escape[0], index);
  return even | (pair.escape[1] == LookupPair::NO_ID ? 0 : lanes_of(pair.escape[1], index));
}

// A step's lanes of one panel: which of them are rows, and their trellis states.
struct Lanes {
  int count;
  uint64_t active;
  uint8_t* trellis;
};

// Levels of one step of a panel, from the classes of its lanes: plain ones,
inline int step_levels(Stream& stream, const Group& group, const Lookup& table, const uint8_t* index, Lanes lanes, int32_t* level) {
  levels_of(table, index, group.raw_bits, level);
  const int fault = take_escapes(stream, group, escaping(table, index) & lanes.active, level);
  return group.raw_bits && fault == STREAM_OK ? take_raw(stream, group.raw_bits, lanes.count, level) : fault;
}

// or multiples of trellis-coded ones. Without raw bits they and their parities are looked up by class.
inline int step_levels(Stream& stream, const Group& group, const LookupPair& pair, const uint8_t* index, Lanes lanes, int32_t* level) {
  const uint64_t escaped = escaping(pair, index) & lanes.active;
  if (group.raw_bits == 0 && pair.small) {
    alignas(64) int8_t multiple[PANEL];
    alignas(64) uint8_t parity[PANEL];
    look_up(pair.multiple, index, multiple);
    look_up(pair.parity, index, parity);
    for (int lane = 0; lane < PANEL; ++lane) level[lane] = multiple[lane];
    const int fault = escaped ? take_escaped_multiples(stream, group, escaped, Multiples{lanes.trellis, level, parity}) : STREAM_OK;
    for (int lane = 0; lane < PANEL; ++lane) lanes.trellis[lane] = next_state(lanes.trellis[lane], parity[lane]);
    return fault;
  }
  levels_of(pair, index, group.raw_bits, level);
  int fault = take_escapes(stream, group, escaped, level);
  if (group.raw_bits && fault == STREAM_OK) fault = take_raw(stream, group.raw_bits, lanes.count, level);
  step_trellis(lanes.trellis, level);
  return fault;
}

template <typename Table>
int panel_step(Stream& stream, const Group& group, const Evaluation& form, const Table& table, int panel, int64_t step, int64_t first,
               float* out) {
  const int lanes = group.lanes - panel * PANEL < PANEL ? group.lanes - panel * PANEL : PANEL;
  const Lanes own{lanes, lanes == PANEL ? ~uint64_t{0} : (uint64_t{1} << lanes) - 1, stream.trellis + panel * PANEL};
  alignas(64) uint8_t index[PANEL];
  alignas(64) int32_t level[PANEL];
  step_classes(stream.states + panel * PANEL, table, own.trellis, index);
  feed(stream, stream.states + panel * PANEL, own.active);
  int fault = step_levels(stream, group, table, index, own, level);
  if (fault == STREAM_OK) fault = values_of(stream, form, panel, step - first, level, lanes, out);
  if (form.round_first) round_values(form.round_first, out);
  if (form.round_then) round_values(form.round_then, out);
  return fault;
}

int any_panel_step(Stream& stream, const Group& group, const Evaluation& form, int panel, int64_t step, int64_t first, float* out) {
  const int column = group.column_class ? group.column_class[step] : 0;
  if (group.quantizers == 2) return panel_step(stream, group, form, *group.pairs[panel][column], panel, step, first, out);
  return panel_step(stream, group, form, *group.tables[panel][column], panel, step, first, out);
}

#if defined(ONNX_COMPRESS_DIRECT)
// Rounds what was decoded directly, steps range.first to `last`.
void round_all(const Evaluation& form, const Range& range, int64_t last, int panels) {
  for (int panel = 0; panel < panels; ++panel)
    for (int64_t step = 0; step < last - range.first; ++step) {
      float* out = range.tile + panel * range.panel_stride + step * PANEL;
      if (form.round_first) round_values(form.round_first, out);
      if (form.round_then) round_values(form.round_then, out);
    }
}
#endif

}  // namespace

void decode_together(Stream* const* streams, const Group* const* groups, const Evaluation* const* forms, Range* ranges, int* faults) {
#if defined(ONNX_COMPRESS_EXPAND)
  const Group& first = *groups[0];  // all have the same kind of symbols
  if (first.quantizers == 2)
    first.raw_bits ? fast_streams<PairTable<false>, true>(streams, groups, forms, ranges, faults)
                   : fast_streams<PairTable<false>, false>(streams, groups, forms, ranges, faults);
  else
    first.raw_bits ? fast_streams<PlainTable<false>, true>(streams, groups, forms, ranges, faults)
                   : fast_streams<PlainTable<false>, false>(streams, groups, forms, ranges, faults);
#elif defined(ONNX_COMPRESS_DIRECT)
  fast_streams(streams, groups, forms, ranges, faults);
#else
  static_cast<void>(streams), static_cast<void>(groups), static_cast<void>(forms), static_cast<void>(ranges), static_cast<void>(faults);
#endif
}

int decode(Stream* stream, const Group* group, const Evaluation* form, const Range* range) {
  int64_t step = range->first;
#if defined(ONNX_COMPRESS_DIRECT)
  if (group->direct) {
    int fault = STREAM_OK;
    step = fast(*stream, *group, *form, *range, fault);
    if (fault != STREAM_OK) return fault;
    if (!range->x && (form->round_first || form->round_then)) round_all(*form, *range, step, group->panels);
  }
#endif
  for (; step < range->last; ++step) {
    for (int panel = 0; panel < group->panels; ++panel) {
      alignas(64) float values[PANEL];
      float* out = range->x ? values : range->tile + panel * range->panel_stride + (step - range->first) * PANEL;
      const int fault = any_panel_step(*stream, *group, *form, panel, step, range->first, out);
      if (fault != STREAM_OK) return fault;
      for (int lane = 0; range->x && lane < PANEL; ++lane)
        range->scaled[panel * PANEL + lane] += range->x[step - range->first] * values[lane];
    }
    // "A step so consumes at most L rans bytes, and the heads behind them are 2 * L: one comparison after each step bounds every read
    // (position > rans_bytes: R3)." The bytes of the raw section are counted by the header, those of escapes and values as they go.
    if (stream->position > stream->rans_bytes) return STREAM_OVERRUN;
  }
  return STREAM_OK;
}

}  // namespace ONNX_COMPRESS_ISA
}  // namespace onnx_compress
