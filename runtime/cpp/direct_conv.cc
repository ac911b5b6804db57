#include "direct_conv.h"

#include <algorithm>
#include <cstring>

namespace onnx_compress {

Phases::Phases(const Geometry& geometry) : geometry_(geometry) {
  int64_t phases = 1;
  for (int axis = 0; axis < 3; ++axis) {
    // Coordinates that some tap of some output reads, in one phase.
    const int64_t reach = (geometry.kernel[axis] - 1) * geometry.dilation[axis] / geometry.stride[axis];
    extent_[axis] = geometry.out[axis] + reach;
    phases *= geometry.stride[axis];
  }
  phase_size_ = extent_[0] * extent_[1] * extent_[2];
  // The flat correlation runs over rows with their margins; the last rows' margins are beyond the phase, hence the slack behind a channel.
  channel_size_ = phases * phase_size_ + extent_[1] * extent_[2] + extent_[2];
  span_ = ((geometry.out[0] - 1) * extent_[1] + geometry.out[1] - 1) * extent_[2] + geometry.out[2];
  planes_.assign(static_cast<size_t>(channel_size_ * geometry.group_channels()), 0.0f);
}

void Phases::fill(const float* x) {
  const Geometry& g = geometry_;
  for (int64_t channel = 0; channel < g.group_channels(); ++channel)
    for (int64_t z = 0; z < g.in[0]; ++z)
      for (int64_t y = 0; y < g.in[1]; ++y) fill_row(x + ((channel * g.in[0] + z) * g.in[1] + y) * g.in[2], channel, z, y);
}

// Padding stays zero from the constructor on: every fill writes the same places.
void Phases::fill_row(const float* x, int64_t channel, int64_t z, int64_t y) {
  const Geometry& g = geometry_;
  const int64_t pz = z + g.before[0], py = y + g.before[1];
  const int64_t row_z = pz / g.stride[0], row_y = py / g.stride[1];
  if (row_z >= extent_[0] || row_y >= extent_[1]) return;  // behind the last position that is read
  for (int64_t phase = 0; phase < g.stride[2]; ++phase) {
    const int64_t number = (pz % g.stride[0] * g.stride[1] + py % g.stride[1]) * g.stride[2] + phase;
    float* row = planes_.data() + channel * channel_size_ + number * phase_size_ + (row_z * extent_[1] + row_y) * extent_[2];
    // Padded column i * stride + phase is input column i * stride + phase - before.
    const int64_t shift = phase - g.before[2];
    const int64_t first = shift >= 0 ? 0 : (-shift + g.stride[2] - 1) / g.stride[2];
    const int64_t last = std::min(extent_[2], (g.in[2] - shift + g.stride[2] - 1) / g.stride[2]);
    for (int64_t i = first; i < last; ++i) row[i] = x[i * g.stride[2] + shift];
  }
}

const float* Phases::source(int64_t channel, const Tap& tap) const {
  int64_t number = 0, offset = 0;
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t at = tap.at[axis] * geometry_.dilation[axis];
    number = number * geometry_.stride[axis] + at % geometry_.stride[axis];
    offset = offset * extent_[axis] + at / geometry_.stride[axis];
  }
  return planes_.data() + channel * channel_size_ + number * phase_size_ + offset;
}

void Phases::collect(const float* flat, float* y, bool accumulate) const {
  for (int64_t z = 0; z < geometry_.out[0]; ++z)
    for (int64_t row = 0; row < geometry_.out[1]; ++row, y += geometry_.out[2]) {
      const float* from = flat + (z * extent_[1] + row) * extent_[2];
      for (int64_t i = 0; i < geometry_.out[2]; ++i) y[i] = accumulate ? y[i] + from[i] : from[i];
    }
}

void convolve_directly(const Geometry& g, const Tile& tile, const float* x, float* y) {
  Phases phases(g);
  const int64_t taps = tile.last - tile.first;
  std::vector<const float*> sources(static_cast<size_t>(taps));
  std::vector<float> weights(static_cast<size_t>(taps));
  for (int64_t tap = 0; tap < taps; ++tap)
    sources[static_cast<size_t>(tap)] = phases.source((tile.first + tap) / g.taps(), Tap(g, (tile.first + tap) % g.taps()));
  float* flat = pack_memory(phases.span());
  for (int64_t image = 0; image < g.images; ++image)
    for (int64_t lane = 0, filled = -1; lane < tile.lanes; ++lane) {
      const int64_t output = tile.batch * g.group_outputs() + tile.row + lane, group = output / g.group_outputs();
      if (group != filled) phases.fill(x + (image * g.channels + group * g.group_channels()) * g.plane());
      filled = group;
      for (int64_t tap = 0; tap < taps; ++tap) weights[static_cast<size_t>(tap)] = tile.lane(lane)[tap * PANEL_ROWS];
      kernels().correlate(flat, phases.span(), sources.data(), weights.data(), taps, 0);
      phases.collect(flat, y + (image * g.outputs + output) * g.positions(), tile.first > 0);
    }
}

}  // namespace onnx_compress
