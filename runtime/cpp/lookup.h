// Tables as decoders look them up.
#pragma once

#include "stream.h"

namespace onnx_compress {

// "level = (c << r) - ((1 << r) >> 1) + b", of a raw part b of 0.
int level_of(int class_value, int raw_bits);

// The tables of both quantizers as one.
LookupPair paired(const Lookup& even, const Lookup& odd, int raw_bits);

// Fills `value_bytes`; says whether the upper half of their bits is all there is.
bool split_values(Lookup& table);

// Fills `bytes.node`.
void build_tree(Lookup& table);

// Fills `couples` and `id_value`.
void build_couples(Lookup& table);

}  // namespace onnx_compress
