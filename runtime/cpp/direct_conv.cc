#include "direct_conv.h"

#include <algorithm>

#include "activation.h"

namespace onnx_compress {
namespace {

// More masks than this are no longer read from the first-level cache.
constexpr int64_t MOST_MASKS = 2048;

// Whether every output is where the middle of what it reads is.
bool keeps_places(const Geometry& g) {
  bool same = true;
  for (int axis = 0; axis < 3; ++axis) same = same && g.stride[axis] == 1 && g.out[axis] == g.in[axis];
  return same;
}

// Whether it is an image of which every second row and column has an output.
bool halves(const Geometry& g) {
  bool half = g.in[0] == 1 && g.out[0] == 1;
  for (int axis = 1; axis < 3; ++axis) half = half && g.stride[axis] == 2 && g.out[axis] == (g.in[axis] + 1) / 2;
  return half;
}

}  // namespace

Phases::Phases(const Geometry& geometry, const Kernels& kernels) : geometry_(geometry), kernels_(kernels), halved_(halves(geometry)) {
  const int64_t vectors = (geometry.positions() + kernels.vector - 1) / kernels.vector, k = geometry.group_channels() * geometry.taps();
  if (kernels.masked && (halved_ || keeps_places(geometry)) && vectors * k <= MOST_MASKS) {
    lay_out_masked();
  } else {
    lay_out();
  }
}

// Outputs are vectors of the plane, whatever rows they are of.
void Phases::lay_out_masked() {
  const Geometry& g = geometry_;
  std::copy_n(g.out, 3, extent_);
  phase_size_ = g.positions() + (halved_ ? kernels_.vector : 0);
  channel_size_ = halved_ ? 4 * phase_size_ : g.plane();
  outputs_ = across_rows({0, 0, 0}, g.out);
  for (int64_t k = 0; k < g.group_channels() * g.taps(); ++k) {
    const Tap tap(g, k % g.taps());
    int64_t offset = 0, phase = 0, first[3], last[3];
    for (int axis = 0; axis < 3; ++axis) {
      // Output i reads i * stride + shift, which is number i + shift / stride of its phase.
      const int64_t stride = g.stride[axis], shift = tap.at[axis] * g.dilation[axis] - g.before[axis],
                    rest = (shift % stride + stride) % stride;
      first[axis] = std::max<int64_t>(0, (stride - 1 - shift) / stride), last[axis] = (g.in[axis] - shift + stride - 1) / stride;
      last[axis] = std::clamp<int64_t>(last[axis], 0, g.out[axis]);
      phase = phase * stride + rest, offset = offset * extent_[axis] + (shift - rest) / stride;
    }
    offsets_.push_back(k / g.taps() * channel_size_ + phase * phase_size_ + offset);
    for (const Patch& patch : across_rows(first, last)) masks_.push_back(static_cast<uint16_t>(patch.lanes));
  }
}

void Phases::lay_out() {
  const Geometry& geometry = geometry_;
  const Kernels& kernels = kernels_;
  int64_t phases = 1;
  for (int axis = 0; axis < 3; ++axis) {
    // Coordinates that some tap of some output reads, in one phase.
    const int64_t reach = (geometry.kernel[axis] - 1) * geometry.dilation[axis] / geometry.stride[axis];
    extent_[axis] = geometry.out[axis] + reach;
    phases *= geometry.stride[axis];
  }
  phase_size_ = extent_[0] * extent_[1] * extent_[2];
  channel_size_ = phases * phase_size_;
  for (int64_t z = 0; z < geometry.in[0]; ++z)
    for (int64_t y = 0; y < geometry.in[1]; ++y) add_row(z, y);
  outputs_ = row_by_row();
  // Narrow planes fill a fraction of a vector with each row.
  std::vector<Patch> fewer = across_rows({0, 0, 0}, geometry.out);
  fewer.erase(std::remove_if(fewer.begin(), fewer.end(), [](const Patch& patch) { return patch.lanes == 0; }), fewer.end());
  if (fewer.size() * 5 < outputs_.size() * 4) outputs_ = std::move(fewer);
  int64_t ends[3];
  bool all = phases == 1;  // and no tap leaves out what lies at the end of a row
  for (int axis = 0; axis < 3; ++axis) {
    ends[axis] = geometry.before[axis] + geometry.in[axis];
    all = all && ends[axis] <= extent_[axis];
  }
  if (all) inputs_ = across_rows(geometry.before, ends);
  int64_t vectors = 0;
  for (const Span& row : rows_) vectors += (row.count + kernels.vector - 1) / kernels.vector;
  if (static_cast<int64_t>(inputs_.size()) * 4 > vectors * 5) inputs_.clear();
  for (int64_t k = 0; k < geometry.group_channels() * geometry.taps(); ++k)
    offsets_.push_back(source(k / geometry.taps(), Tap(geometry, k % geometry.taps())));
}

Correlation Phases::correlation(int64_t first, int64_t last) const {
  const int64_t count = static_cast<int64_t>(outputs_.size());
  const uint16_t* masks = masked() ? masks_.data() + first * count : nullptr;
  return {nullptr, offsets_.data() + first, nullptr, last - first, outputs_.data(), count, masks, nullptr, first > 0, UNFINISHED};
}

std::vector<Patch> Phases::row_by_row() const {
  std::vector<Patch> patches;
  const int64_t vector = kernels_.vector, width = geometry_.out[2];
  for (int64_t z = 0; z < geometry_.out[0]; ++z)
    for (int64_t y = 0; y < geometry_.out[1]; ++y)
      for (int64_t x = 0; x < width; x += vector)
        patches.push_back({(z * extent_[1] + y) * extent_[2] + x, (z * geometry_.out[1] + y) * width + x,
                           static_cast<uint32_t>((uint64_t{1} << std::min(vector, width - x)) - 1)});
  return patches;
}

// All positions of a phase one after the other, those between the rows too.
std::vector<Patch> Phases::across_rows(const int64_t (&first)[3], const int64_t (&last)[3]) const {
  std::vector<Patch> patches;
  int64_t found = 0;
  for (int64_t position = 0; position < extent_[0] * extent_[1] * extent_[2]; position += kernels_.vector) {
    Patch patch = {position, found, 0};
    for (int64_t lane = 0; lane < kernels_.vector; ++lane) {
      const int64_t row = (position + lane) / extent_[2];
      const int64_t at[3] = {row / extent_[1], row % extent_[1], (position + lane) % extent_[2]};
      bool inside = true;
      for (int axis = 0; axis < 3; ++axis) inside = inside && at[axis] >= first[axis] && at[axis] < last[axis];
      if (!inside) continue;
      patch.lanes |= uint32_t{1} << lane;
      ++found;
    }
    patches.push_back(patch);
  }
  return patches;
}

// One row of a plane, of which each phase takes its share.
void Phases::add_row(int64_t z, int64_t y) {
  const Geometry& g = geometry_;
  const int64_t pz = z + g.before[0], py = y + g.before[1];
  const int64_t row_z = pz / g.stride[0], row_y = py / g.stride[1];
  if (row_z >= extent_[0] || row_y >= extent_[1]) return;  // behind the last position that is read
  for (int64_t phase = 0; phase < g.stride[2]; ++phase) {
    const int64_t number = (pz % g.stride[0] * g.stride[1] + py % g.stride[1]) * g.stride[2] + phase;
    const int64_t row = number * phase_size_ + (row_z * extent_[1] + row_y) * extent_[2];
    // Padded column i * stride + phase is input column i * stride + phase - before.
    const int64_t shift = phase - g.before[2];
    const int64_t first = shift >= 0 ? 0 : (-shift + g.stride[2] - 1) / g.stride[2];
    const int64_t last = std::min(extent_[2], (g.in[2] - shift + g.stride[2] - 1) / g.stride[2]);
    if (first < last) rows_.push_back({(z * g.in[1] + y) * g.in[2] + first * g.stride[2] + shift, row + first, last - first});
  }
}

void Phases::fill(const float* x, float* planes) const {
  for (int64_t channel = 0; channel < geometry_.group_channels(); ++channel) {
    const float* from = x + channel * geometry_.plane();
    float* to = planes + channel * channel_size_;
    if (masked()) {
      const Separation separation = {from, geometry_.in[1], geometry_.in[2], to, phase_size_, extent_[2]};
      kernels_.separate(&separation);
    } else if (!inputs_.empty()) {
      kernels_.spread(from, inputs_.data(), static_cast<int64_t>(inputs_.size()), to);
    } else {
      kernels_.copy_spans(from, rows_.data(), static_cast<int64_t>(rows_.size()), geometry_.stride[2], to);
    }
  }
}

int64_t Phases::source(int64_t channel, const Tap& tap) const {
  int64_t number = 0, offset = 0;
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t at = tap.at[axis] * geometry_.dilation[axis];
    number = number * geometry_.stride[axis] + at % geometry_.stride[axis];
    offset = offset * extent_[axis] + at / geometry_.stride[axis];
  }
  return channel * channel_size_ + number * phase_size_ + offset;
}

void convolve_directly(const Phases& phases, const Lanes& lanes, const float* x, const Finish& finish, float* y) {
  const Geometry& g = phases.geometry();
  const Tile& tile = lanes.tile;
  const int64_t group_outputs = g.group_outputs(), positions = g.positions(), group_floats = g.group_channels() * g.plane();
  float* planes = phases.in_place() ? nullptr : pack_memory(phases.floats());
  if (!phases.masked()) std::fill(planes, planes + phases.floats(), 0.0f);
  Correlation correlation = phases.correlation(tile.first, tile.last);
  const bool last = tile.last == g.group_channels() * g.taps();
  int64_t output = tile.batch * group_outputs + tile.row + lanes.first, inside = output % group_outputs;  // inside its group
  const float* channels = x + lanes.image * g.channels * g.plane() + output / group_outputs * group_floats;
  for (int64_t lane = lanes.first; lane < lanes.last; ++lane, ++output, ++inside) {
    const bool next = inside == group_outputs;
    if (next) inside = 0, channels += group_floats;
    if (planes && (next || lane == lanes.first)) phases.fill(channels, planes);
    const int64_t offset = (lanes.image * g.outputs + output) * positions;
    correlation.from = planes ? planes : channels, correlation.weights = tile.lane(lane), correlation.y = y + offset;
    if (last) correlation.finish = of_output(finish, output, offset);
    tile.kernels->correlate(&correlation);
  }
}

}  // namespace onnx_compress
