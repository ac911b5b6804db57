// Steps of R8 in vectors of bytes, whose tables and states lie in the first cache: AVX2, SSE4.1 and NEON.
//
// Included by kernel_decode.cc only, for the weights of `Group::direct`.
#pragma once

#include "vector_steps.h"

namespace onnx_compress {
namespace {

constexpr int PANELS_MAX = LANES_MAX / PANEL;

// In the place of the values of plain lanes.
struct Nothing {
  explicit Nothing(const LookupPair&) {}
};

// A stream that is being decoded. Its steps go to `range`, which becomes what is left; with x, to `sums` first.
struct Run {
  Stream& stream;
  const Group& group;
  const Evaluation& form;
  Range& range;
  const uint8_t *bytes, *limit;
  int fault = STREAM_OK;
  States states = {};
  const Constants constants;
  Escapes<PANELS_MAX> escapes = {};
  alignas(64) float scale[LANES_MAX], sums[LANES_MAX];  // by the places of Quarters

  Run(Stream& s, const Group& g, const Evaluation& f, Range& r) : stream(s), group(g), form(f), range(r) {
    bytes = s.bytes + s.position, limit = last_start(s, g.panels * PANEL);
    for (int lane = 0; lane < g.panels * PANEL; ++lane)
      states.low[lane] = static_cast<uint8_t>(127 - s.states[lane]), states.high[lane] = static_cast<uint8_t>(s.states[lane] >> 8);
    for (size_t place = 0; place < static_cast<size_t>(g.panels * PANEL); ++place) scale[place] = f.scale[lane_at(place)], sums[place] = 0;
    for (int lane = 0; lane < g.lanes; ++lane) states.active[lane / 8] = static_cast<uint8_t>(states.active[lane / 8] | 1 << lane % 8);
  }

  void end() {
    stream.position = static_cast<uint64_t>(bytes - stream.bytes);
    if (stream.position > stream.rans_bytes) fault = STREAM_OVERRUN;
    for (int lane = 0; lane < group.panels * PANEL; ++lane)
      stream.states[lane] = static_cast<uint16_t>(states.high[lane] << 8 | ((127 - states.low[lane]) & 255));
    for (size_t place = 0; range.x && place < static_cast<size_t>(group.panels * PANEL); ++place) {
      const size_t lane = lane_at(place);
      range.tile[lane / PANEL * static_cast<size_t>(range.panel_stride) + lane % PANEL] += sums[place];
    }
  }
};

constexpr size_t PANEL_VECTORS = PANEL / VECTOR_LANES;

inline size_t vectors_of(const Group& group) { return (static_cast<size_t>(group.lanes) + VECTOR_LANES - 1) / VECTOR_LANES; }

// "or, for the escape, escape_base + e with e the next byte of the escape section", in ascending lane order: puts escaped multiples in the
// place of the zeros of a step, and sets the trellis states that depend on them.
__attribute__((noinline)) void patch_multiples(Run& run, Vectors own, const Planes& planes, int number) {
  Stream& stream = run.stream;
  for (size_t panel = own.first / PANEL_VECTORS; panel * PANEL_VECTORS < own.last; ++panel) {
    const int rows = run.group.lanes - panel * PANEL;
    uint64_t lanes = run.escapes.lanes[number * PANELS_MAX + panel] & (rows >= PANEL ? ~uint64_t{0} : (uint64_t{1} << rows) - 1);
    for (; lanes; lanes &= lanes - 1) {
      if (stream.escapes_left == 0) {
        run.fault = STREAM_ESCAPES;
        return;
      }
      --stream.escapes_left;
      const size_t lane = static_cast<size_t>(__builtin_ctzll(lanes)), at = panel * PANEL + lane;
      int level = escaped_level(run.group, *stream.escapes++);
      for (int bit = 0; bit < planes.count; ++bit) level += static_cast<int>(planes.bits[bit] >> lane & 1) << bit;
      const uint8_t before = run.states.before[at];
      stream.trellis[at] = NEXT[before][level & 1];
      const float multiple = static_cast<float>(multiple_of(level, before & 1));
      float* to = run.range.tile + panel * run.range.panel_stride + lane;
      if (run.range.x)
        *to += run.range.x[number] * multiple;
      else
        to[number * PANEL] = run.form.scale[at] * multiple;
    }
  }
}

// The table of a panel in a step.
template <bool PAIR>
ONNX_COMPRESS_INLINE const auto& table_at(const Group& group, size_t panel, int column) {
  if constexpr (PAIR)
    return *group.pairs[panel][column];
  else
    return *group.tables[panel][column];
}

// Values of vectors that have one table, or are in one panel, in the step that the states have made.
template <Making MAKING, bool PAIR, bool RAW, bool MULTIPLIED>
ONNX_COMPRESS_INLINE void values_of_vectors(Run& run, Vectors own, int column, int number) {
  const Group& group = run.group;
  const size_t panel = own.first / PANEL_VECTORS;
  Planes planes;
  planes.count = RAW ? group.raw_bits : 0;
  if constexpr (RAW) {
    const int lanes = group.lanes - panel * PANEL;
    if (const int unused = take_planes(run.stream, lanes >= PANEL ? ~uint64_t{0} : (uint64_t{1} << lanes) - 1, planes)) run.fault = unused;
  }
  const FloatVector x = all_floats(MULTIPLIED ? run.range.x[number] : 0.0f);
  float* out = run.range.tile + panel * run.range.panel_stride + number * PANEL;
  uint8_t* escapes = reinterpret_cast<uint8_t*>(run.escapes.lanes + number * PANELS_MAX);
  LaneBits any = 0;
  const auto& table = table_at<PAIR>(group, panel, column);
  [[maybe_unused]] const std::conditional_t<PAIR, Nothing, PlainValues<MAKING>> plain(table);
  for (size_t at = own.first * VECTOR_LANES; at < own.last * VECTOR_LANES; at += VECTOR_LANES) {
    Quarters found;
    LaneBits lanes;
    if constexpr (PAIR)
      lanes = find_multiples<RAW>(run.stream.trellis, table, run.states, at, planes, run.constants, found);
    else
      lanes = plain.find(run.states.leaf + at, planes, at % PANEL, run.constants, found);
    std::memcpy(escapes + at / 8, &lanes, sizeof lanes);
    any |= lanes;
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      if constexpr (MULTIPLIED) {
        float* sum = run.sums + at + q * FLOAT_LANES;
        store_floats(sum, multiply_add(x, found.quarter[q], load_floats(sum)));
      } else {
        store_blocks(out + at % PANEL + 4 * q, multiply_floats(load_floats(run.scale + at + q * FLOAT_LANES), found.quarter[q]));
      }
    }
  }
  for (int lane = (own.last - own.first) * VECTOR_LANES; lane < PANEL && !MULTIPLIED; ++lane) out[lane] = 0;
  if constexpr (PAIR) {
    if (any) patch_multiples(run, own, planes, number);
  } else {
    run.escapes.steps |= static_cast<uint64_t>(any != 0) << number;
  }
}

// Lanes of the last vector that are no rows take no bytes.
inline void leave_others(States& states, size_t lanes) {
  LaneBits hungry, active;
  const size_t last = lanes / VECTOR_LANES * VECTOR_LANES / 8;
  std::memcpy(&hungry, states.hungry + last, sizeof hungry), std::memcpy(&active, states.active + last, sizeof active);
  hungry &= active;
  std::memcpy(states.hungry + last, &hungry, sizeof hungry);
}

// One step: the states of all lanes, the values, then the bytes that lanes take. A loop for each keeps what a lane waits for short, so that
// a processor has the work of many lanes at hand.
template <Making MAKING, bool PAIR, bool RAW, bool NARROW, bool MULTIPLIED>
ONNX_COMPRESS_INLINE void run_step(Run& run, int number) {
  const Group& group = run.group;
  const int column = group.column_class ? group.column_class[run.range.first + number] : 0;
  const size_t vectors = vectors_of(group), table_span = group.sharing == SHARED_BY_NONE ? PANEL_VECTORS : vectors;
  for (size_t first = 0; first < vectors; first += table_span) {
    const Vectors own{first, first + table_span < vectors ? first + table_span : vectors};
    step_states<NARROW>(table_at<PAIR>(group, first / PANEL_VECTORS, column), run.stream.trellis, run.states, own);
  }
  if (group.lanes % static_cast<int>(VECTOR_LANES)) leave_others(run.states, static_cast<size_t>(group.lanes));
  const size_t value_span = RAW || !MULTIPLIED ? PANEL_VECTORS : table_span;
  for (size_t first = 0; first < vectors; first += value_span)
    values_of_vectors<MAKING, PAIR, RAW, MULTIPLIED>(run, {first, first + value_span < vectors ? first + value_span : vectors}, column,
                                                     number);
  const uint8_t* bytes = run.bytes;
  fetch_ahead(bytes);
  feed_states(run.states, vectors, bytes);
  run.bytes = bytes;
}

// Steps of some streams side by side, until one is near its end or at fault; gives how many.
template <Making MAKING, bool PAIR, bool RAW, bool NARROW, bool MULTIPLIED>
int run_stride(Run* const* runs, int count, int steps) {
  for (int number = 0; number < steps; ++number) {
    for (int i = 0; i < count; ++i)
      if (runs[i]->bytes > runs[i]->limit || runs[i]->fault != STREAM_OK) return number;
    for (int i = 0; i < count; ++i) run_step<MAKING, PAIR, RAW, NARROW, MULTIPLIED>(*runs[i], number);
  }
  return steps;
}

template <Making MAKING, bool PAIR, bool RAW, bool NARROW>
void run_steps(Run* const* runs, int count) {
  Range& first = runs[0]->range;  // all have as many steps
  while (first.first < first.last) {
    const uint8_t* raw[TOGETHER];
    for (int i = 0; i < count; ++i) raw[i] = runs[i]->stream.raw, runs[i]->escapes.steps = 0;
    const int64_t left = first.last - first.first;
    const int wanted = static_cast<int>(left < STRIDE ? left : STRIDE);
    const int steps = first.x ? run_stride<MAKING, PAIR, RAW, NARROW, true>(runs, count, wanted)
                              : run_stride<MAKING, PAIR, RAW, NARROW, false>(runs, count, wanted);
    for (int i = 0; i < count; ++i) {
      Run& run = *runs[i];
      if (run.escapes.steps && run.fault == STREAM_OK)
        run.fault = patch_escapes(run.stream, run.group, run.form, run.range, run.escapes, raw[i]);
      run.range.first += steps;
      run.range.x ? run.range.x += steps : run.range.tile += steps * PANEL;
    }
    if (steps < wanted) return;
  }
}

template <Making MAKING, bool PAIR, bool RAW>
void run_narrow(Run* const* runs, int count) {
  runs[0]->group.narrow ? run_steps<MAKING, PAIR, RAW, true>(runs, count) : run_steps<MAKING, PAIR, RAW, false>(runs, count);
}

// Steps of streams of one weight, as many as cannot read beyond the payload and as the weight's values allow here.
void run_all(Run* const* runs, int count) {
  const Group& group = runs[0]->group;
  if (group.quantizers == 2 && group.small_levels) {
    group.raw_bits ? run_narrow<OF_LEVELS, true, true>(runs, count) : run_narrow<OF_LEVELS, true, false>(runs, count);
  } else if (group.quantizers == 1 && group.raw_bits && group.small_levels) {
    run_narrow<OF_LEVELS, false, true>(runs, count);
  } else if (group.quantizers == 1 && !group.raw_bits) {
    group.half_values ? run_narrow<OF_HALVES, false, false>(runs, count) : run_narrow<OF_FLOATS, false, false>(runs, count);
  }
  for (int i = 0; i < count; ++i) runs[i]->end();
}

// Gives the step that comes next.
int64_t fast(Stream& stream, const Group& group, const Evaluation& form, Range range, int& fault) {
  Run run(stream, group, form, range);
  Run* const runs[] = {&run};
  run_all(runs, 1);
  fault = run.fault;
  return range.first;
}

// The same of TOGETHER streams of one panel each: a panel alone waits for its own states most of the time. All have as many steps.
void fast_streams(Stream* const* streams, const Group* const* groups, const Evaluation* const* forms, Range* ranges, int* faults) {
  static_assert(TOGETHER == 4, "as many as are named here");
  Run a(*streams[0], *groups[0], *forms[0], ranges[0]), b(*streams[1], *groups[1], *forms[1], ranges[1]);
  Run c(*streams[2], *groups[2], *forms[2], ranges[2]), d(*streams[3], *groups[3], *forms[3], ranges[3]);
  Run* const runs[] = {&a, &b, &c, &d};
  run_all(runs, TOGETHER);
  for (int i = 0; i < TOGETHER; ++i) faults[i] = runs[i]->fault;
}

}  // namespace
}  // namespace onnx_compress
