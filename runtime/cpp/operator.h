// What our operators share: the payload, activations as floats whatever their type, and the tail (bias, residual, activation).
#pragma once

#include <functional>
#include <memory>

#include "buffer.h"
#include "decode.h"
#include "tensor.h"

namespace onnx_compress {

// ONNX's element types have the same numbers as TensorProto.DataType.
enum ElementType : int { TYPE_FLOAT = 1, TYPE_UINT8 = 2, TYPE_INT8 = 3, TYPE_INT32 = 6, TYPE_INT64 = 7 };

// Where an operator finds a weight: an input and a member of the payload in it; `to` as in FORMAT.md.
struct WeightPlace {
  size_t input;
  int64_t member;
  int to;
};

// A weight that is made once where its payload is a constant, else of the payload that arrives at each run ("inside If/Loop bodies a
// payload from the outer scope is constant on 1.32 but not on 1.18 to 1.22").
class HeldWeight {
 public:
  // `validate` checks what the operator needs of its weight; called once for each weight.
  HeldWeight(WeightPlace place, const Options& options, std::function<void(const Weight&)> validate);
  void keep_constant(const Attributes& attributes);
  bool constant() const { return constant_ != nullptr; }
  std::shared_ptr<const Weight> of(const Run& run) const;

 private:
  std::shared_ptr<const Weight> make(const Tensor& payload, const Options& options) const;
  WeightPlace place_;
  Options options_;
  std::function<void(const Weight&)> validate_;
  std::shared_ptr<const Weight> constant_;
};

class Operator {
 public:
  virtual ~Operator() = default;
  virtual void compute(const Run& run) const = 0;
};

// An operator with one weight, which the attributes `member` and `to` describe.
class WeightOperator : public Operator {
 public:
  WeightOperator(const Attributes& attributes, size_t payload_input, int to, const Options& options);

 protected:
  std::shared_ptr<const Weight> weight(const Run& run) const { return held_.of(run); }
  virtual void validate(const Weight&) const {}
  void keep_constant(const Attributes& attributes) { held_.keep_constant(attributes); }
  bool constant() const { return held_.constant(); }

 private:
  HeldWeight held_;
};

// An input as floats: its own memory, or a widened copy.
class Floats {
 public:
  explicit Floats(const Tensor& tensor);
  const float* data() const { return data_; }

 private:
  std::vector<float> copy_;
  const float* data_;
};

// An output as floats: its own memory, or a buffer that `finish` rounds into it; or null where the node has no such output.
class Output {
 public:
  Output(const Run& run, const Shape& shape, int type, size_t index = 0);
  float* data() { return data_; }
  void finish();

 private:
  std::vector<float> copy_;
  float* data_;
  uint16_t* half_ = nullptr;
};

std::optional<Floats> optional_floats(const Run& run, size_t index, const char* what, const Shape& shape);

// The same of an input that mostly is a constant, which is looked up once.
class OptionalFloats {
 public:
  OptionalFloats(const Attributes& attributes, size_t index, const char* what)
      : index_(index), what_(what), constant_(attributes.constant(index)) {}
  std::optional<Floats> of(const Run& run, const Shape& shape) const;

 private:
  size_t index_;
  const char* what_;
  std::optional<Tensor> constant_;
};

// The memory of this thread for tiles, TILE_FLOATS, and for whatever the operator packs beside it.
float* tile_memory();
float* pack_memory(int64_t floats);
float* input_memory(int64_t floats);

// Stores `count` values of a tile, `step` floats apart, as elements of `type` from `to` on.
void store_elements(const float* values, int64_t step, int64_t count, int type, void* to, int64_t offset);

// Throws where a weight of `dtype` cannot become an output of `type`: integers become floats exactly, but floats no integers, and
// integers no others.
void check_cast(int dtype, int type);

std::unique_ptr<Operator> make_matmul(const Attributes&, const Options&);
std::unique_ptr<Operator> make_gemm(const Attributes&, const Options&);
std::unique_ptr<Operator> make_conv(const Attributes&, const Options&);
std::unique_ptr<Operator> make_gather(const Attributes&, const Options&, int type);
std::unique_ptr<Operator> make_decompress(const Attributes&, const Options&, int type);
std::unique_ptr<Operator> make_lstm(const Attributes&, const Options&);
std::unique_ptr<Operator> make_gru(const Attributes&, const Options&);

}  // namespace onnx_compress
