// Steps of R8 in vectors of bytes, whose tables and states lie in the first cache: AVX2, SSE4.1 and NEON.
//
// Included by kernel_decode.cc only, for the weights of `Group::direct`.
#pragma once

#include "vector_steps.h"

namespace onnx_compress {
namespace {

constexpr int PANELS_MAX = LANES_MAX / PANEL;

inline uint64_t as_they_are(uint64_t lanes) { return lanes; }

// A stream that is being decoded. Its steps go to `range`, which becomes what is left; with x, to `sums` first.
struct Run {
  Stream& stream;
  const Group& group;
  const Evaluation& form;
  Range& range;
  const uint8_t *bytes, *limit;
  int fault = STREAM_OK;
  States states;
  Escapes<PANELS_MAX> escapes;
  alignas(64) float scale[LANES_MAX], sums[LANES_MAX];  // by the places of Quarters

  Run(Stream& s, const Group& g, const Evaluation& f, Range& r) : stream(s), group(g), form(f), range(r) {
    bytes = s.bytes + s.position, limit = last_start(s, g.panels * PANEL);
    for (int lane = 0; lane < g.panels * PANEL; ++lane)
      states.low[lane] = static_cast<uint8_t>(s.states[lane]), states.high[lane] = static_cast<uint8_t>(s.states[lane] >> 8);
    for (int place = 0; place < g.panels * PANEL; ++place) scale[place] = f.scale[lane_at(place)], sums[place] = 0;
  }

  void end() {
    stream.position = static_cast<uint64_t>(bytes - stream.bytes);
    if (stream.position > stream.rans_bytes) fault = STREAM_OVERRUN;
    for (int lane = 0; lane < group.panels * PANEL; ++lane)
      stream.states[lane] = static_cast<uint16_t>(states.high[lane] << 8 | states.low[lane]);
    for (int place = 0; range.x && place < group.panels * PANEL; ++place) {
      const int lane = lane_at(place);
      range.tile[lane / PANEL * range.panel_stride + lane % PANEL] += sums[place];
    }
  }
};

template <Making MAKING, bool PAIR, bool RAW, bool NARROW>
ONNX_COMPRESS_INLINE void run_panel(Run& run, int panel, int64_t step, int number, const uint8_t*& bytes) {
  const Group& group = run.group;
  const Range& range = run.range;
  const int column = group.column_class ? group.column_class[step] : 0;
  const int lanes = group.lanes - panel * PANEL < PANEL ? group.lanes - panel * PANEL : PANEL;
  const uint64_t active = lanes == PANEL ? ~uint64_t{0} : (uint64_t{1} << lanes) - 1;
  float* out = range.x ? run.sums + panel * PANEL : range.tile + panel * range.panel_stride + number * PANEL;
  Planes planes;
  planes.count = RAW ? group.raw_bits : 0;
  if constexpr (RAW)
    if (const int unused = take_planes(run.stream, active, planes)) run.fault = unused;
  uint64_t escaping = 0;
  int first = 0;
  for (; first < lanes; first += VECTOR_LANES) {
    const Part part{panel * PANEL + first, first, static_cast<uint32_t>(active >> first & ((uint64_t{1} << VECTOR_LANES) - 1))};
    Quarters found;
    if constexpr (PAIR) {
      const int fault = find_multiples<RAW, NARROW>(run.stream, group, *group.pairs[panel][column], run.states, part, planes, bytes, found);
      if (fault) run.fault = fault;
    } else {
      const Lookup& table = *group.tables[panel][column];
      escaping |= uint64_t{find_values<MAKING, NARROW>(table, run.states, part, planes, bytes, found) & part.active} << first;
    }
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      if (range.x) {
        float* sum = out + first + q * FLOAT_LANES;
        store_floats(sum, multiply_add(all_floats(range.x[number]), found.quarter[q], load_floats(sum)));
      } else {
        const Floats scale = load_floats(run.scale + part.at + q * FLOAT_LANES);
        store_blocks(out + first + 4 * q, multiply_floats(scale, found.quarter[q]));
      }
    }
  }
  if (first < PANEL && !range.x) std::memset(out + first, 0, sizeof(float) * static_cast<size_t>(PANEL - first));
  run.escapes.lanes[number * PANELS_MAX + panel] = escaping;
  run.escapes.steps |= static_cast<uint64_t>(escaping != 0) << number;
}

// Steps of some streams side by side, until one is near its end or at fault; gives how many.
template <Making MAKING, bool PAIR, bool RAW, bool NARROW>
int run_stride(Run* const* runs, int count, int steps) {
  for (int number = 0; number < steps; ++number) {
    for (int i = 0; i < count; ++i)
      if (runs[i]->bytes > runs[i]->limit || runs[i]->fault != STREAM_OK) return number;
    for (int i = 0; i < count; ++i) {
      Run& run = *runs[i];
      const uint8_t* bytes = run.bytes;
      for (int panel = 0; panel < run.group.panels; ++panel)
        run_panel<MAKING, PAIR, RAW, NARROW>(run, panel, run.range.first + number, number, bytes);
      run.bytes = bytes;
    }
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
    const int steps = run_stride<MAKING, PAIR, RAW, NARROW>(runs, count, wanted);
    for (int i = 0; i < count; ++i) {
      Run& run = *runs[i];
      if (run.escapes.steps && run.fault == STREAM_OK)
        run.fault = patch_escapes<PANELS_MAX, as_they_are>(run.stream, run.group, run.form, run.range, run.escapes, raw[i]);
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
