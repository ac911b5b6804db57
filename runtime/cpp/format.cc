// Parsing and validation of payload headers (FORMAT.md, sections 2 to 7). Rules marked R there are the throws here.
#include "format.h"

#include <algorithm>
#include <cstring>

#include "crc32.h"
#include "cursor.h"
#include "number.h"

namespace onnx_compress {
namespace {

constexpr int DRAFT = 1;
enum Tag : uint8_t { TAG_DENSE = 0, TAG_SPARSE = 1, TAG_GRID = 2, TAG_CODEBOOK = 3, TAG_SYMBOLS = 4, TAG_PLANES = 5, TAG_MAPPED = 6 };

// "M[i] = round32(2^(i/16))"
constexpr uint32_t LOG8_MANTISSAS[16] = {0x3F800000, 0x3F85AAC3, 0x3F8B95C2, 0x3F91C3D3, 0x3F9837F0, 0x3F9EF532, 0x3FA5FED7, 0x3FAD583F,
                                         0x3FB504F3, 0x3FBD08A4, 0x3FC5672A, 0x3FCE248C, 0x3FD744FD, 0x3FE0CCDF, 0x3FEAC0C7, 0x3FF5257D};

bool is_float(int dtype) { return dtype == FLOAT || dtype == FLOAT16 || dtype == BFLOAT16; }
bool is_integer(int dtype) {
  return dtype == UINT8 || dtype == INT8 || dtype == UINT16 || dtype == INT16 || dtype == UINT4 || dtype == INT4;
}

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
    if (index + 1 == classes && frequency < 1) fail(Fault::format, "a table's frequencies sum to more than 255 before the last class");
    if (frequency == 0) continue;
    table.start[table.count] = static_cast<uint16_t>(start);
    table.frequency[table.count] = static_cast<uint16_t>(frequency);
    table.index[table.count++] = static_cast<uint16_t>(index);
    start += frequency;
  }
  return table;
}

const uint8_t* read_classes(Cursor& cursor, uint64_t count, int limit, const char* what) {
  const uint8_t* codes = cursor.take(count, what);
  for (uint64_t i = 0; i < count; ++i)
    if (codes[i] >= limit) fail(Fault::format, what, " is ", int{codes[i]}, ", legal is 0..", limit - 1);
  return codes;
}

Symbols read_symbols(Cursor& cursor, const Member& member, int tables) {
  Symbols symbols;
  symbols.raw_bits = cursor.byte_in("raw_bits", 0, 8);
  symbols.escape_base = cursor.zigzag("escape_base");
  symbols.row_classes = cursor.byte_in("row classes", 1, 16);
  symbols.column_classes = cursor.byte_in("column classes", 1, 16);
  const int quantizers = cursor.u8("quantizers");
  if (quantizers != 1) fail(Fault::version, quantizers, " quantizers: trellis-coded levels are reserved in draft ", DRAFT);
  if (tables == 0) fail(Fault::format, "symbols without a table");
  if (tables > 1)
    symbols.map = read_classes(cursor, static_cast<uint64_t>(symbols.row_classes) * symbols.column_classes, tables, "a table number");
  if (symbols.row_classes > 1) {
    const uint64_t panels = static_cast<uint64_t>(member.batch) * static_cast<uint64_t>(member.panels_per_batch());
    symbols.row_class = read_classes(cursor, panels, symbols.row_classes, "a row class");
  }
  if (symbols.column_classes > 1)
    symbols.column_class = read_classes(cursor, static_cast<uint64_t>(member.k), symbols.column_classes, "a column class");
  return symbols;
}

Symbols read_leaf(Cursor& cursor, const Member& member, int tables) {
  if (cursor.u8("a form's tag") != TAG_SYMBOLS) fail(Fault::format, "a leaf of integers must be Symbols");
  return read_symbols(cursor, member, tables);
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

Dense read_dense(Cursor& cursor, uint64_t low, uint64_t high, const char* what) {
  if (cursor.u8(what) != TAG_DENSE) fail(Fault::format, what, " must be Dense");
  Dense dense;
  dense.kind = static_cast<DenseKind>(cursor.byte_in(what, 0, 3));
  dense.count = cursor.varint(what, low, high);
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
void read_grid(Cursor& cursor, Member& member, int tables) {
  const int flags = cursor.byte_in("Grid flags", 0, 1);
  member.block = static_cast<int64_t>(cursor.varint("a grid's block", 0, static_cast<uint64_t>(member.k)));
  const uint64_t blocks = member.block ? static_cast<uint64_t>((member.k + member.block - 1) / member.block) : 1;
  const uint64_t scales = static_cast<uint64_t>(member.batch * member.rows) * blocks;
  member.scale = read_dense(cursor, 1, scales, "a grid's scale");
  if (member.scale.count != 1 && member.scale.count != scales)
    fail(Fault::format, "a grid's scale has ", member.scale.count, " values, expected 1 or ", scales);
  const uint64_t k = static_cast<uint64_t>(member.k);
  if (flags & 1) member.column_scale = read_dense(cursor, k, k, "a column scale");
  member.symbols = read_leaf(cursor, member, tables);
}

void read_codebook(Cursor& cursor, Member& member, int tables) {
  const int flags = cursor.byte_in("Codebook flags", 0, 1);
  const Dense centroids = read_dense(cursor, 1, 65536, "centroids");
  member.centroids.resize(centroids.count);
  for (uint64_t i = 0; i < centroids.count; ++i) member.centroids[i] = centroids.at(i);
  const uint64_t rows = static_cast<uint64_t>(member.batch * member.rows);
  if (flags & 1) member.scale = read_dense(cursor, rows, rows, "a codebook's scale");
  member.symbols = read_leaf(cursor, member, tables);
}

void read_form(Cursor& cursor, Member& member, int tables) {
  const uint8_t tag = cursor.u8("a form's tag");
  if (tag == TAG_PLANES || tag == TAG_MAPPED) fail(Fault::version, "form ", int{tag}, " is reserved in draft ", DRAFT);
  if (tag < TAG_SPARSE || tag > TAG_SYMBOLS) fail(Fault::format, "tag ", int{tag}, " is no form of a weight");
  member.form = static_cast<FormKind>(tag);
  if (tag == TAG_GRID) return read_grid(cursor, member, tables);
  if (tag == TAG_CODEBOOK) return read_codebook(cursor, member, tables);
  if (tag == TAG_SYMBOLS) {
    member.symbols = read_symbols(cursor, member, tables);
    return;
  }
  member.value_kind = static_cast<DenseKind>(cursor.byte_in("Sparse kind", 0, 2));
  member.symbols = read_leaf(cursor, member, tables);
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

Member read_member(Cursor& cursor, int tables, bool pooled) {
  Member member;
  member.dtype = cursor.u8("a dtype");
  if (!is_float(member.dtype) && !is_integer(member.dtype))
    fail(Fault::format, "dtype ", member.dtype, " is not one that weights can have");
  read_view(cursor, member);
  read_form(cursor, member, tables);
  if (member.integer() == is_float(member.dtype))
    fail(Fault::format, "form ", static_cast<int>(member.form), " does not fit dtype ", member.dtype);
  if (pooled && member.form == FORM_SPARSE) fail(Fault::format, "a pool holds no Sparse members");
  return member;
}

void check_end(uint64_t expected, uint64_t actual) {
  if (expected > actual) fail(Fault::truncated, "the payload has ", actual, " bytes, its header announces ", expected);
  if (expected < actual) fail(Fault::format, actual - expected, " unexpected bytes behind the payload's last stream");
}

// "raw: g * k * (sum over the panels of the group of r * ceil(lanes of the panel / 8))"; below 2^40 symbols, so below 2^45.
uint64_t raw_bytes(const Member& member, const Chunk& chunk) {
  const int64_t full = chunk.lanes / PANEL_ROWS, rest = chunk.lanes % PANEL_ROWS;
  return static_cast<uint64_t>(chunk.groups * member.k * member.symbols.raw_bits * (full * 8 + (rest + 7) / 8));
}

void read_chunk(Cursor& cursor, Payload& payload, Chunk chunk, uint64_t& offset) {
  const Member& member = payload.members[0];
  chunk.rans_bytes = cursor.varint("rans_bytes");
  chunk.escapes = cursor.varint("escape_count");
  uint64_t value_bytes = 0;
  if (member.form == FORM_SPARSE) {
    chunk.values = cursor.varint("value_count");
    value_bytes = chunk.values * (member.value_kind == DENSE_FLOAT ? 4 : 2);
  }
  chunk.crc = cursor.u32("chunk_crc");
  chunk.raw_bytes = raw_bytes(member, chunk);
  chunk.offset = offset;
  chunk.size = chunk.rans_bytes + 2 * static_cast<uint64_t>(chunk.lanes) + chunk.raw_bytes + chunk.escapes + value_bytes;
  offset += chunk.size;
  // Checked at each chunk, so that the sum cannot overflow: every size is below 2^46.
  if (offset > payload.size) fail(Fault::truncated, "chunk ", payload.chunks.size(), " ends at ", offset, " of ", payload.size, " bytes");
  payload.chunks.push_back(chunk);
}

// "Each batch has rows // W full groups of W rows, in chunks of G groups, and then, if rows % W is not 0, one more chunk with one group
// of the rows % W rows that are left."
void read_chunk_layout(Cursor& cursor, Payload& payload, uint64_t offset) {
  const Member& member = payload.members[0];
  const int64_t lanes = PANEL_ROWS * cursor.byte_in("width", 1, 4);
  const int64_t full = member.rows / lanes, rest = member.rows % lanes;
  const int64_t groups = static_cast<int64_t>(cursor.varint("groups_per_chunk", 1));
  if (full && full % groups) fail(Fault::format, "groups_per_chunk ", groups, " does not divide ", full, " groups");
  const uint64_t per_batch = static_cast<uint64_t>(full ? full / groups : 0) + (rest ? 1 : 0);
  // A chunk takes at least 6 bytes of the header: nothing is reserved that the bytes have not earned.
  if (per_batch > cursor.left() / 6 / static_cast<uint64_t>(member.batch))
    fail(Fault::truncated, "a directory of ", per_batch, " chunks in each of ", member.batch, " batches does not fit the header");
  payload.chunks.reserve(per_batch * static_cast<uint64_t>(member.batch));
  for (int64_t batch = 0; batch < member.batch; ++batch) {
    Chunk chunk;
    chunk.batch = batch;
    for (int64_t group = 0; group < full; group += groups) {
      chunk.first_row = group * lanes, chunk.lanes = lanes, chunk.groups = groups;
      read_chunk(cursor, payload, chunk, offset);
    }
    if (rest == 0) continue;
    chunk.first_row = full * lanes, chunk.lanes = rest, chunk.groups = 1;
    read_chunk(cursor, payload, chunk, offset);
  }
  check_end(offset, payload.size);
}

void read_pool_layout(Cursor& cursor, Payload& payload, uint64_t offset) {
  Pool& pool = payload.pool;
  pool.lanes = cursor.byte_in("lanes", 1, 64);
  pool.rans_bytes = cursor.varint("rans_bytes");
  pool.escapes = cursor.varint("escape_count");
  pool.crc = cursor.u32("stream_crc");
  pool.offset = offset;
  uint64_t raw_bits = 0;
  int64_t symbols = 0;
  for (const Member& member : payload.members) {
    symbols += member.size();
    if (symbols > 65536) fail(Fault::format, "a pool of more than 65536 symbols");
    raw_bits += static_cast<uint64_t>(member.size() * member.symbols.raw_bits);
  }
  pool.raw_bytes = (raw_bits + 7) / 8;
  check_end(offset + pool.rans_bytes + 2 * static_cast<uint64_t>(pool.lanes) + pool.raw_bytes + pool.escapes, payload.size);
}

// Magic, draft, kind and header_bytes; then the header's checksum, before anything of it is believed.
uint64_t read_preamble(Cursor& cursor, Payload& payload) {
  const uint8_t* magic = cursor.take(2, "the magic");
  if (magic[0] != 'O' || magic[1] != 'C') fail(Fault::format, "these bytes are no onnx-compress payload (the magic is missing)");
  const int draft = cursor.u8("the draft");
  if (draft != DRAFT)
    fail(Fault::version, "payload of format draft ", draft, "; this library reads draft ", DRAFT,
         " only: install the onnx-compress that wrote it");
  payload.pooled = cursor.byte_in("the kind", 0, 1) == 1;
  const uint64_t header_bytes = cursor.u32("header_bytes");
  if (header_bytes > payload.size) fail(Fault::truncated, "the header has ", header_bytes, " bytes, the payload only ", payload.size);
  if (header_bytes < 12) fail(Fault::format, "header_bytes is ", header_bytes, ", a header has at least 12");
  cursor.limit(header_bytes - 4);
  const uint32_t stored = load32(payload.data + header_bytes - 4), computed = crc32(payload.data, header_bytes - 4);
  if (stored != computed) fail(Fault::corruption, "the header's checksum does not match: the payload was changed after it was written");
  return header_bytes;
}

}  // namespace

float Dense::at(uint64_t index) const {
  switch (kind) {
    case DENSE_FLOAT:
      return bits_float(load32(bytes + 4 * index));
    case DENSE_HALF:
      return from_half(load16(bytes + 2 * index));
    case DENSE_BFLOAT:
      return from_bfloat(load16(bytes + 2 * index));
    case DENSE_LOG8:
      break;
  }
  // "M[j & 15] * 2^(exponent + (j >> 4))": exact, so that adding to the exponent's bits is the product.
  const int power = exponent + (bytes[index] >> 4);
  return bits_float(LOG8_MANTISSAS[bytes[index] & 15] + static_cast<uint32_t>(power) * (1u << 23));
}

Payload parse(const uint8_t* data, uint64_t size) {
  Payload payload;
  payload.data = data;
  payload.size = size;
  Cursor cursor(data, size);
  const uint64_t header_bytes = read_preamble(cursor, payload);
  const int tables = static_cast<int>(cursor.varint("table_count", 0, 256));
  for (int i = 0; i < tables; ++i) payload.tables.push_back(read_table(cursor));
  const uint64_t members = payload.pooled ? cursor.varint("member_count", 1, 4096) : 1;
  uint64_t symbols = 0;
  for (uint64_t i = 0; i < members; ++i) {
    payload.members.push_back(read_member(cursor, tables, payload.pooled));
    symbols += static_cast<uint64_t>(payload.members.back().size());
  }
  // "A payload whose members have more than 65,536 symbols a payload byte in all is R1"
  if (symbols / 65536 > size || (symbols / 65536 == size && symbols % 65536))
    fail(Fault::format, symbols, " symbols in ", size, " bytes, at most 65536 a byte are legal");
  payload.pooled ? read_pool_layout(cursor, payload, header_bytes) : read_chunk_layout(cursor, payload, header_bytes);
  if (cursor.left()) fail(Fault::format, "the header ends ", cursor.left(), " bytes before header_bytes says");
  return payload;
}

void verify_checksums(const Payload& payload) {
  const char* changed = " does not match: the payload was changed after it was written";
  if (payload.pooled) {
    if (crc32(payload.data + payload.pool.offset, payload.size - payload.pool.offset) != payload.pool.crc)
      fail(Fault::corruption, "the checksum of the pool", changed);
    return;
  }
  for (size_t i = 0; i < payload.chunks.size(); ++i)
    if (crc32(payload.data + payload.chunks[i].offset, payload.chunks[i].size) != payload.chunks[i].crc)
      fail(Fault::corruption, "the checksum of chunk ", i, changed);
}

int64_t integer_low(int dtype) { return dtype == INT8 ? -128 : dtype == INT16 ? -32768 : dtype == INT4 ? -8 : 0; }

int64_t integer_high(int dtype) {
  switch (dtype) {
    case UINT8:
      return 255;
    case INT8:
      return 127;
    case UINT16:
      return 65535;
    case INT16:
      return 32767;
    case UINT4:
      return 15;
    default:
      return 7;
  }
}

}  // namespace onnx_compress
