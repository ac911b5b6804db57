// What a convolution works out once for each shape of its input.
#pragma once

#include "direct_conv.h"

namespace onnx_compress {

// The padded input, [channel, position], of a convolution that is a multiplication: rows of x are output positions, wherever their taps
// are.
class PaddedInput {
 public:
  explicit PaddedInput(const Geometry& geometry);

  bool same() const { return volume_ == geometry_.plane(); }  // as the input: there is no padding
  int64_t volume() const { return volume_; }                  // of a channel
  // One channel, with its padding.
  void fill(const float* channel, float* to) const;
  // How far what each tap of a group reads is from what tap 0 reads, for the same position.
  const std::vector<int64_t>& taps() const { return taps_; }
  // What tap 0 reads of the group at `from`, for `many` positions from `first` on.
  void rows(const float* from, int64_t first, int64_t many, const float** x) const;

 private:
  const Geometry& geometry_;
  int64_t row_, plane_, volume_;
  std::vector<int64_t> taps_;
};

struct ConvPlan {
  ConvPlan(const ConvAttributes& attributes, const Shape& x, const Weight& weight);
  ConvPlan(const ConvPlan&) = delete;

  const Shape x;
  const Geometry geometry;
  const Shape bias, y;
  std::optional<Phases> phases;       // of groups of few outputs
  bool pointwise = false;             // of single positions that fill vectors
  std::optional<PaddedInput> padded;  // of all others
};

}  // namespace onnx_compress
