// Work in parts whose sizes the compiler knows, so that their sums stay in registers.
//
// Included by kernel files only, once for each instruction set: everything has internal linkage.
#pragma once

#include <cstdint>

namespace onnx_compress {
namespace {

template <int N>
struct Number {
  static constexpr int value = N;
};

// Calls work(Number<n>) for an n of 1 to MOST.
template <int MOST, class Work>
inline void with_number(int64_t n, const Work& work) {
  if constexpr (MOST == 1) {
    work(Number<1>{});
  } else {
    n == MOST ? work(Number<MOST>{}) : with_number<MOST - 1>(n, work);
  }
}

// Calls work(begin, end) for parts of 0 to `count`, as few of at most MOST as there can be, of almost equal size.
template <int MOST, class Work>
inline void in_parts(int64_t count, const Work& work) {
  const int64_t parts = (count + MOST - 1) / MOST;
  for (int64_t part = 0; part < parts; ++part) work(count * part / parts, count * (part + 1) / parts);
}

}  // namespace
}  // namespace onnx_compress
