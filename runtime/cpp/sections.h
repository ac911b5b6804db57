// The parts of a header, between the files that parse it.
#pragma once

#include "cursor.h"
#include "format.h"

namespace onnx_compress {

constexpr int DRAFT = 4;

Lookup read_table(Cursor& cursor);
Member read_member(Cursor& cursor, int tables, bool pooled);

}  // namespace onnx_compress
