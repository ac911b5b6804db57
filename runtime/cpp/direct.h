// What decoders of the weights of `Group::direct` share: bit planes, escapes that are seen to later, and where a step may begin.
//
// Included by kernel files only, once for each instruction set: everything has internal linkage.
#pragma once

#include "rans.h"
#include "trellis.h"

namespace onnx_compress {
namespace {

// Asks for what a section has some steps on. A step takes a cache line or less, so slowly that the processor does not fetch ahead far
// enough. The address may lie beyond the payload: nothing is read there.
constexpr uintptr_t BYTES_AHEAD = 1024;
ONNX_COMPRESS_INLINE void fetch_ahead(const uint8_t* bytes) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(bytes) + BYTES_AHEAD));
}

// The bit planes of a step of a panel, least significant first.
struct Planes {
  uint64_t bits[8];
  int count;
};

// "The raw section has, for each step and each panel of the group, r bit planes, least significant bit first, of ceil(lanes / 8) bytes
// each ... Unused bits are 0."
ONNX_COMPRESS_INLINE int take_planes(Stream& stream, uint64_t active, Planes& planes) {
  fetch_ahead(stream.raw);
  const size_t bytes = static_cast<size_t>(64 - __builtin_clzll(active) + 7) / 8;
  uint64_t all = 0;
  for (int bit = 0; bit < planes.count; ++bit, stream.raw += bytes) all |= planes.bits[bit] = load_plane(stream.raw, bytes);
  return all & ~active ? STREAM_UNUSED_BIT : STREAM_OK;
}

// Steps whose escapes are seen to at once.
constexpr int64_t STRIDE = 64;

// Escapes found in up to STRIDE steps: `steps` has a bit for each step that has any, `lanes` are [steps, PANELS], and may have bits behind
// the last lane. Of trellis-coded levels also `odd`, the lanes of the odd quantizer.
template <int PANELS>
struct Escapes {
  uint64_t steps = 0, lanes[STRIDE * PANELS], odd[STRIDE * PANELS];
};

// Puts escaped values in the place of what was stored for them, after their steps; `raw` is where the raw part of the first step begins.
//
// Which panels of a step escape is no more to be foreseen than which steps do, so they are listed without a branch; most have one lane.
template <int PANELS>
__attribute__((noinline)) int patch_escapes(Stream& stream, const Group& group, const Evaluation& form, const Range& done,
                                            Escapes<PANELS>& escapes, const uint8_t* raw) {
  const int last = group.panels - 1, last_lanes = group.lanes - last * PANEL;
  const int64_t last_bytes = (last_lanes + 7) / 8, step_bytes = group.raw_bits * (last * 8 + last_bytes);
  const uint64_t last_active = ~uint64_t{0} >> (PANEL - last_lanes);
  int places[STRIDE * PANELS], count = 0;
  for (; escapes.steps; escapes.steps &= escapes.steps - 1) {
    const int step = __builtin_ctzll(escapes.steps);
    escapes.lanes[step * PANELS + last] &= last_active;
    for (int p = 0; p < group.panels; ++p) {
      places[count] = step * PANELS + p;
      count += escapes.lanes[step * PANELS + p] != 0;
    }
  }
  for (int i = 0; i < count; ++i) {
    const int64_t step = places[i] / PANELS, p = places[i] % PANELS, plane_bytes = p < last ? 8 : last_bytes;
    const uint8_t* planes = raw + step * step_bytes + p * 8 * group.raw_bits;
    uint64_t lanes = escapes.lanes[places[i]];
    do {
      if (stream.escapes_left == 0) return STREAM_ESCAPES;
      --stream.escapes_left;
      const int lane = __builtin_ctzll(lanes);
      int32_t raw_part = 0;
      for (int bit = 0; bit < group.raw_bits; ++bit) raw_part += (planes[bit * plane_bytes + lane / 8] >> (lane % 8) & 1) << bit;
      int32_t found = escaped_level(group, *stream.escapes++) + raw_part;
      if (group.quantizers == 2) found = multiple_of(found, escapes.odd[places[i]] >> lane & 1);
      float* to = done.tile + p * done.panel_stride + lane;
      if (done.x) {  // the raw part is in the sum already
        *to += done.x[step] * static_cast<float>(found - group.quantizers * raw_part);
      } else {
        to[step * PANEL] = form.scale[p * PANEL + lane] * static_cast<float>(found);
      }
    } while (lanes &= lanes - 1);
  }
  stream.escapes_seen = 0;
  return STREAM_OK;
}

// The last place in the rans section where a step of so many lanes may begin, which may lie before the section: then none may. A step takes
// at most a byte a lane, and its last load is of as many bytes as there are lanes behind those of the lanes before.
inline const uint8_t* last_start(const Stream& stream, int64_t lanes) {
  const int64_t room = static_cast<int64_t>(stream.readable) - lanes, end = static_cast<int64_t>(stream.rans_bytes);
  return stream.bytes + (room < end ? room : end);
}

// "s = NEXT[s][level & 1]": by s + 8 * parity.
struct NextStates {
  alignas(16) uint8_t by_parity[16];
  constexpr NextStates() : by_parity() {
    for (int i = 0; i < 16; ++i) by_parity[i] = NEXT[i & 7][i >> 3];
  }
};
constexpr NextStates NEXT_STATES;

}  // namespace
}  // namespace onnx_compress
