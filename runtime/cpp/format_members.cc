// Parsing and validation of tables and members (FORMAT.md, sections 3 to 5). Rules marked R there are the throws here.
#include <algorithm>

#include "cursor.h"
#include "number.h"
#include "planes.h"
#include "sections.h"

namespace onnx_compress {
namespace {

enum Tag : uint8_t { TAG_DENSE = 0, TAG_SPARSE = 1, TAG_GRID = 2, TAG_CODEBOOK = 3, TAG_SYMBOLS = 4, TAG_PLANES = 5, TAG_MAPPED = 6 };

bool is_float(int dtype) { return dtype == FLOAT || dtype == FLOAT16 || dtype == BFLOAT16; }
bool is_integer(int dtype) {
  return dtype == UINT8 || dtype == INT8 || dtype == UINT16 || dtype == INT16 || dtype == UINT4 || dtype == INT4;
}

}  // namespace

// "frequency: of indices 0..n-2, zero allowed; index n-1 has 256 minus their sum, which must be >= 1, else R1"
Lookup read_table(Cursor& cursor) {
  const uint8_t code = cursor.u8("a table");
  const int classes = code & 127;
  if (classes < 1 || classes > 16) fail(Fault::format, "a table has ", classes, " classes, legal is 1..16");
  Lookup table;
  table.escape = code >> 7;
  table.first = cursor.zigzag("a table's first class");
  const uint8_t* frequencies = cursor.take(static_cast<uint64_t>(classes) - 1, "a table's frequencies");
  int start = 0;
  table.count = 0;
  for (int index = 0; index < classes; ++index) {
    const int frequency = index + 1 < classes ? frequencies[index] : 256 - start;
    if (frequency > 256 - start || frequency < (index + 1 == classes))
      fail(Fault::format, "a table's frequencies sum to more than 255 before the last class");
    if (frequency == 0) continue;
    table.start[table.count] = static_cast<uint16_t>(start);
    table.frequency[table.count] = static_cast<uint16_t>(frequency);
    table.index[table.count] = static_cast<uint16_t>(index);
    table.bytes.less_one[table.count] = static_cast<uint8_t>(frequency - 1);
    table.bytes.biased[table.count] = static_cast<uint8_t>(start ^ 128);
    table.bytes.start[table.count] = static_cast<uint8_t>(start);
    table.bytes.index[table.count] = static_cast<uint8_t>(index);
    table.bytes.turned[table.count] = static_cast<uint8_t>(127 - start);
    table.bytes.frequency[table.count] = static_cast<uint8_t>(frequency);
    std::fill_n(table.bytes.place + start, frequency, static_cast<uint8_t>(table.count++));
    start += frequency;
  }
  return table;
}

namespace {

// What a form belongs to.
struct Scope {
  const Member& member;
  int tables;
  bool pooled;

  uint64_t rows() const { return static_cast<uint64_t>(member.batch) * static_cast<uint64_t>(member.rows); }
};

void check_code(int code, int limit, const char* what) {
  if (code >= limit) fail(Fault::format, what, " is ", code, ", legal is 0..", limit - 1);
}

// "codes(count, n): count numbers below n as one bit string, w = ceil(log2(n)) bits each, least significant bit of a number and of a byte
// first. [...] a number >= n is R1, unused bits are 0, else R1". At most 8 bytes are made of each that was read.
std::vector<uint8_t> read_codes(Cursor& cursor, uint64_t count, int limit, const char* what) {
  uint64_t width = 0;
  while (1 << width < limit) ++width;
  const uint64_t bits = count * width, bytes = (bits + 7) / 8;
  const uint8_t* packed = cursor.take(bytes, what);
  if (bits % 8 && packed[bytes - 1] >> (bits % 8)) fail(Fault::format, "an unused bit behind ", what, " is set");
  std::vector<uint8_t> codes(count);
  for (uint64_t i = 0, at = 0; i < count; ++i, at += width) {
    const unsigned window = packed[at / 8] | (at / 8 + 1 < bytes ? packed[at / 8 + 1] << 8 : 0);
    codes[i] = static_cast<uint8_t>(window >> (at % 8) & ((1u << width) - 1));
    check_code(codes[i], limit, what);
  }
  return codes;
}

Symbols read_symbols(Cursor& cursor, const Scope& scope, uint8_t most_quantizers) {
  const Member& member = scope.member;
  Symbols symbols;
  symbols.raw_bits = cursor.byte_in("raw_bits", 0, 8);
  symbols.escape_base = cursor.zigzag("escape_base");
  symbols.row_classes = cursor.byte_in("row classes", 1, 16);
  symbols.column_classes = cursor.byte_in("column classes", 1, 16);
  symbols.quantizers = cursor.byte_in("quantizers", 1, most_quantizers);
  if (scope.tables == 0) fail(Fault::format, "symbols without a table");
  if (scope.tables > 1) {
    const int count = symbols.row_classes * symbols.column_classes * symbols.quantizers;
    symbols.map = cursor.take(static_cast<uint64_t>(count), "a table map");
    for (int i = 0; i < count; ++i) check_code(symbols.map[i], scope.tables, "a table number");
  }
  // "Units are panels in a chunked payload, rows (batch * rows, batch by batch) in a pool"
  const uint64_t panels = static_cast<uint64_t>(member.batch) * static_cast<uint64_t>(member.panels_per_batch());
  if (symbols.row_classes > 1)
    symbols.row_class = read_codes(cursor, scope.pooled ? scope.rows() : panels, symbols.row_classes, "a row class");
  if (symbols.column_classes > 1)
    symbols.column_class = read_codes(cursor, static_cast<uint64_t>(member.k), symbols.column_classes, "a column class");
  return symbols;
}

// "1..2; Q = 2 inside a Grid only"
Symbols read_leaf(Cursor& cursor, const Scope& scope, uint8_t most_quantizers = 1) {
  if (cursor.u8("a form's tag") != TAG_SYMBOLS) fail(Fault::format, "a leaf of integers must be Symbols");
  return read_symbols(cursor, scope, most_quantizers);
}

// "Values are finite, else R1."
void check_finite(const Dense& dense, const char* what) {
  for (uint64_t i = 0; i < dense.count; ++i) {
    const bool special = dense.kind == DENSE_FLOAT  ? (load32(dense.bytes + 4 * i) & 0x7F800000u) == 0x7F800000u
                         : dense.kind == DENSE_HALF ? (load16(dense.bytes + 2 * i) & 0x7C00u) == 0x7C00u
                                                    : (load16(dense.bytes + 2 * i) & 0x7F80u) == 0x7F80u;
    if (special) fail(Fault::format, what, " holds a value that is not finite");
  }
}

// `groups`: where it is not 0, any multiple of it from low to high is a legal count, not these two alone.
Dense read_dense(Cursor& cursor, uint64_t low, uint64_t high, const char* what, uint64_t groups = 0) {
  if (cursor.u8(what) != TAG_DENSE) fail(Fault::format, what, " must be Dense");
  Dense dense;
  dense.kind = static_cast<DenseKind>(cursor.byte_in(what, 0, 3));
  dense.count = cursor.varint(what, low, high);
  if (groups && dense.count % groups) fail(Fault::format, what, " has ", dense.count, " values, no multiple of ", groups, " groups");
  if (!groups && dense.count != low && dense.count != high)
    fail(Fault::format, what, " has ", dense.count, " values, expected ", low, " or ", high);
  if (dense.kind == DENSE_LOG8) {
    dense.exponent = static_cast<int8_t>(cursor.u8(what));
    if (dense.exponent < -100 || dense.exponent > 84) fail(Fault::format, what, ": exponent ", dense.exponent, ", legal is -100..84");
  }
  const uint64_t bytes = dense.kind == DENSE_FLOAT ? 4 : dense.kind == DENSE_LOG8 ? 1 : 2;
  dense.bytes = cursor.take(dense.count * bytes, what);
  if (dense.kind != DENSE_LOG8) check_finite(dense, what);
  return dense;
}

// "scale has batch * rows * blocks values in that order, or one value for all"
void read_grid(Cursor& cursor, Member& member, const Scope& scope) {
  const int flags = cursor.byte_in("Grid flags", 0, 1);
  member.block = static_cast<int64_t>(cursor.varint("a grid's block", 0, static_cast<uint64_t>(member.k)));
  const uint64_t blocks = member.block ? static_cast<uint64_t>((member.k + member.block - 1) / member.block) : 1;
  member.scale = read_dense(cursor, 1, scope.rows() * blocks, "a grid's scale");
  const uint64_t k = static_cast<uint64_t>(member.k);
  if (flags & 1) member.column_scale = read_dense(cursor, k, k, "a column scale");
  member.symbols = read_leaf(cursor, scope, 2);
}

void read_centroids(Cursor& cursor, Member& member) {
  const Dense centroids = read_dense(cursor, 1, 65536, "centroids", static_cast<uint64_t>(member.groups));
  member.centroids.resize(centroids.count);
  for (uint64_t i = 0; i < centroids.count; ++i) member.centroids[i] = centroids.at(i);
}

void read_codebook(Cursor& cursor, Member& member, const Scope& scope) {
  const int flags = cursor.byte_in("Codebook flags", 0, 1);
  read_centroids(cursor, member);
  if (flags & 1) member.scale = read_dense(cursor, scope.rows(), scope.rows(), "a codebook's scale");
  member.symbols = read_leaf(cursor, scope);
}

// "Mapped: u8 flags, varint groups G, form centroids (a multiple of G), form scale (only with bit 0), row_group (only if G > 1), form
// codes"
void read_mapped(Cursor& cursor, Member& member, const Scope& scope) {
  const int flags = cursor.byte_in("Mapped flags", 0, 1);
  member.groups = static_cast<int64_t>(cursor.varint("groups", 1, 256));
  read_centroids(cursor, member);
  if (flags & 1) member.scale = read_dense(cursor, scope.rows(), scope.rows(), "the scale of a Mapped form");
  if (member.groups > 1) member.row_group = read_codes(cursor, scope.rows(), static_cast<int>(member.groups), "a row's group");
  member.symbols = read_leaf(cursor, scope);
}

// "a u8, f + 16 m (f, m = 0..15; f + m <= 16, else R1), then m times a u8, 1..255 (else R1): the cuts of the table's class indices f .. f +
// m - 1; the others have 128"
void read_cuts(Cursor& cursor, Split& split, int tables) {
  for (int table = 0; table < tables; ++table) {
    const int code = cursor.u8("cuts"), first = code & 15, count = code >> 4;
    if (first + count > 16) fail(Fault::format, "cuts of ", count, " classes from ", first, " on: a table has 16");
    Cuts cuts;
    std::fill_n(cuts.of_index, sizeof cuts.of_index, uint8_t{128});
    const uint8_t* own = cursor.take(static_cast<uint64_t>(count), "cuts");
    if (std::find(own, own + count, uint8_t{0}) != own + count) fail(Fault::format, "a cut is 0, legal is 1..255");
    std::copy_n(own, count, cuts.of_index + first);
    split.cuts.push_back(cuts);
  }
}

// "u8 flags (bit 0: integers, bit 1: short rows, bit 2: delta, with bit 0 only, bit 3: cuts, without bit 0 only), base, drop, planes, short
// bits, short_row, cuts, form tops"
void read_planes(Cursor& cursor, Member& member, const Scope& scope) {
  const int flags = cursor.byte_in("Planes flags", 0, 15), width = planes_width(member.dtype);
  const bool integers = flags & 1;
  if (integers == (planes_exponent(member.dtype) > 0) || (flags & 4 && !integers) || (flags & 8 && integers))
    fail(Fault::format, "Planes flags ", flags, " do not fit dtype ", member.dtype);
  Split& split = member.split;
  split.delta = flags & 4;
  if (integers) {
    const uint8_t* base = cursor.take(8, "a base");
    split.base = uint64_t{load32(base)} | uint64_t{load32(base + 4)} << 32;
  }
  split.drop = cursor.byte_in("dropped bits", 0, 63);
  split.planes = cursor.byte_in("byte planes", 0, 7);
  if (flags & 2) {
    split.short_bits = cursor.byte_in("short bits", 1, static_cast<uint8_t>(8 * split.planes));
    split.short_row = read_codes(cursor, scope.rows(), 2, "a short row");
  }
  if (flags & 8) read_cuts(cursor, split, scope.tables);
  member.symbols = read_leaf(cursor, scope);
  if (member.symbols.raw_bits < split.coded_bits()) fail(Fault::format, "cuts of raw parts that have no bits");
  if (split.drop + 8 * split.planes + member.symbols.raw_bits >= width)
    fail(Fault::format, split.drop, " + 8 x ", split.planes, " + ", member.symbols.raw_bits, " bits leave none of the ", width,
         " of dtype ", member.dtype, " to symbols");
}

void read_form(Cursor& cursor, Member& member, const Scope& scope) {
  const uint8_t tag = cursor.u8("a form's tag");
  if (tag < TAG_SPARSE || tag > TAG_MAPPED) fail(Fault::format, "tag ", int{tag}, " is no form of a weight");
  member.form = static_cast<FormKind>(tag);
  if (tag == TAG_GRID) return read_grid(cursor, member, scope);
  if (tag == TAG_CODEBOOK) return read_codebook(cursor, member, scope);
  if (tag == TAG_PLANES) return read_planes(cursor, member, scope);
  if (tag == TAG_MAPPED) return read_mapped(cursor, member, scope);
  if (tag == TAG_SYMBOLS) {
    member.symbols = read_symbols(cursor, scope, 1);
    return;
  }
  member.value_kind = static_cast<DenseKind>(cursor.byte_in("Sparse kind", 0, 2));
  member.symbols = read_leaf(cursor, scope);
}

void read_view(Cursor& cursor, Member& member) {
  const uint8_t layout = cursor.u8("a layout");
  const int rank = layout & 127;
  if (rank > 8) fail(Fault::format, "rank ", rank, ", at most 8 is legal");
  uint64_t size = 1;
  for (int axis = 0; axis < rank; ++axis) {
    const uint64_t dim = cursor.varint("a dimension", 1, (uint64_t{1} << 31) - 1);
    // size < 2^40 and dim < 2^31 would overflow: divide instead.
    if (dim > ((uint64_t{1} << 40) - 1) / size) fail(Fault::format, "dims have 2^40 values or more");
    size *= dim;
    member.dims.push_back(static_cast<int64_t>(dim));
    member.permutation.push_back(axis);
  }
  if (layout & 128) {
    uint32_t seen = 0;
    for (int axis = 0; axis < rank; ++axis) {
      const int place = cursor.byte_in("a permutation", 0, static_cast<uint8_t>(std::max(rank - 1, 0)));
      if (seen >> place & 1) fail(Fault::format, "axis ", place, " occurs twice in a permutation");
      seen |= 1u << place;
      member.permutation[static_cast<size_t>(axis)] = place;
    }
  }
  const uint64_t batch = cursor.varint("batch", 1), rows = cursor.varint("rows", 1);
  if (batch > size || rows > size / batch || size % (batch * rows) != 0)  // so compared, the product cannot overflow
    fail(Fault::format, "batch ", batch, " x rows ", rows, " does not divide the ", size, " values of the dims");
  member.batch = static_cast<int64_t>(batch);
  member.rows = static_cast<int64_t>(rows);
  member.k = static_cast<int64_t>(size / (batch * rows));
}

}  // namespace

Member read_member(Cursor& cursor, int tables, bool pooled) {
  Member member;
  member.dtype = cursor.u8("a dtype");
  if (!is_float(member.dtype) && !is_integer(member.dtype) && planes_width(member.dtype) == 0)
    fail(Fault::format, "dtype ", member.dtype, " is not one that weights can have");
  read_view(cursor, member);
  read_form(cursor, member, Scope{member, tables, pooled});
  const bool fits = member.form == FORM_PLANES ? planes_width(member.dtype) > 0
                    : member.integer()         ? is_integer(member.dtype)
                                               : is_float(member.dtype);
  if (!fits) fail(Fault::format, "form ", static_cast<int>(member.form), " does not fit dtype ", member.dtype);
  if (pooled && (member.form == FORM_SPARSE || member.form == FORM_PLANES))
    fail(Fault::format, "a pool holds no Sparse and no Planes members");
  return member;
}

}  // namespace onnx_compress
