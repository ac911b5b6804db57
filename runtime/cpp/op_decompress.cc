// Decompress: the weight in its own shape, or cut into several, for consumers that have no kernel of ours (FORMAT.md, section 8).
#include <cstring>

#include "number.h"
#include "planes.h"
#include "restore.h"

namespace onnx_compress {
namespace {

// "parts: for each output its rank and its dims": none, where the attribute is absent.
std::vector<Shape> read_parts(const std::vector<int64_t>& numbers) {
  std::vector<Shape> parts;
  for (size_t at = 0; at < numbers.size();) {
    const int64_t rank = numbers[at++], left = static_cast<int64_t>(numbers.size() - at);
    if (rank < 0 || rank > left) fail(Fault::argument, "parts: a rank of ", rank, " with ", left, " numbers behind it");
    const auto first = numbers.begin() + static_cast<std::ptrdiff_t>(at);
    parts.emplace_back(first, first + rank);
    at += static_cast<size_t>(rank);
  }
  return parts;
}

class Decompress : public WeightOperator {
 public:
  Decompress(const Attributes& attributes, const Options& options, int type)
      : WeightOperator(attributes, 0, static_cast<int>(attributes.integer("to", 0)), options),
        type_(type),
        parts_(read_parts(attributes.integers("parts"))) {
    keep_constant(attributes);
  }

  void compute(const Run& run) const override {
    const auto held = weight(run);
    const auto parallel = [&run](int64_t count, const std::function<void(int64_t)>& work) { run.parallel(count, work); };
    if (!parts_.empty()) return cut(run, *held, parallel);
    void* out = run.output(held->member().dims);
    if (type_ != INT4 && type_ != UINT4) return restore(*held, type_, out, parallel);
    std::vector<uint8_t> values(static_cast<size_t>(held->member().size()));
    restore(*held, type_, values.data(), parallel);
    pack_halves(values.data(), held->member().size(), static_cast<uint8_t*>(out));
  }

 protected:
  void validate(const Weight& weight) const override {
    const Member& member = weight.member();
    check_cast(member.dtype, type_);
    if (parts_.empty()) return;
    if (type_ != member.dtype && !(type_ == FLOAT && (member.dtype == FLOAT16 || member.dtype == BFLOAT16)))
      fail(Fault::argument, "parts of dtype ", member.dtype, " become no type ", type_, ": only 16-bit floats become floats");
    if (type_ == INT4 || type_ == UINT4) fail(Fault::argument, "a weight of 4 bits has no parts");
    int64_t left = member.size();
    for (const Shape& part : parts_) left -= checked_count(part, left);
  }

 private:
  // "the product of its dims", which may not be more than there are `left`.
  static int64_t checked_count(const Shape& part, int64_t left) {
    int64_t count = 1;
    for (const int64_t dim : part) {
      if (dim < 1 || dim > left / count) fail(Fault::argument, "a part of dims ", text_of(part), " where ", left, " values are left");
      count *= dim;
    }
    if (count > left) fail(Fault::argument, "a part of one value where none is left");
    return count;
  }

  // "output i has the values behind those of output i - 1"
  void cut(const Run& run, const Weight& held, const Parallel& parallel) const {
    const int dtype = held.member().dtype;
    const int64_t bytes = element_bytes(dtype);
    std::vector<uint8_t> whole(static_cast<size_t>(held.member().size() * bytes));
    restore(held, dtype, whole.data(), parallel);
    const uint8_t* at = whole.data();
    for (size_t i = 0; i < parts_.size(); ++i) {
      const int64_t count = count_of(parts_[i]);
      if (void* out = run.output(parts_[i], i)) give(at, count, dtype, out);
      at += count * bytes;
    }
  }

  void give(const uint8_t* from, int64_t count, int dtype, void* out) const {
    if (type_ == dtype) {
      std::memcpy(out, from, static_cast<size_t>(count * element_bytes(dtype)));
      return;
    }
    float* to = static_cast<float*>(out);
    for (int64_t i = 0; i < count; ++i) to[i] = dtype == FLOAT16 ? from_half(load16(from + 2 * i)) : from_bfloat(load16(from + 2 * i));
  }

  int type_;
  std::vector<Shape> parts_;
};

}  // namespace

std::unique_ptr<Operator> make_decompress(const Attributes& attributes, const Options& options, int type) {
  return std::make_unique<Decompress>(attributes, options, type);
}

}  // namespace onnx_compress
