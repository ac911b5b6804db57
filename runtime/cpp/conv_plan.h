// What a convolution works out once for each shape of its input.
#pragma once

#include "direct_conv.h"

namespace onnx_compress {

// The padded input, [channel, position], of a convolution that is a multiplication: output positions are rows of x, wherever their taps
// are. Where they shall be neighbours, each row of the input is split into phases by the stride, as in Phases.
class PaddedInput {
 public:
  PaddedInput(const Geometry& geometry, bool neighbours);

  bool same() const { return same_; }         // as the input: there is no padding, and nothing is split
  int64_t volume() const { return volume_; }  // of a channel
  // One channel, with its padding.
  void fill(const Kernels& kernels, const float* channel, float* to) const;
  // How far what each tap of a group reads is from what tap 0 reads, for the same position.
  const std::vector<int64_t>& taps() const { return taps_; }
  // What tap 0 reads, from the group's beginning on.
  int64_t start(int64_t position) const;
  // The same of the group at `from`, for `many` positions from `first` on.
  void rows(const float* from, int64_t first, int64_t many, const float** x) const;

 private:
  void add_row(int64_t z, int64_t y);
  const Geometry& geometry_;
  int64_t phases_, step_;  // of a row; from one position to the next
  int64_t extent_, row_, plane_, volume_;
  bool same_;
  std::vector<int64_t> taps_;
  std::vector<Span> spans_;  // of a channel
};

struct ConvPlan {
  ConvPlan(const ConvAttributes& attributes, const Shape& x, const Weight& weight);
  ConvPlan(const ConvPlan&) = delete;

  const Shape x;
  const Geometry geometry;
  const Shape bias, y;
  std::optional<Phases> phases;       // of groups of few outputs
  std::optional<PaddedInput> padded;  // of all others
  int64_t line = 0;                   // so many positions, one after the other, are neighbours that fill vectors; 0: those are outputs
};

}  // namespace onnx_compress
