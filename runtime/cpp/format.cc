// Parsing and validation of payload headers and layouts (FORMAT.md, sections 2, 6 and 7). Rules marked R there are the throws here.
#include "format.h"

#include <algorithm>
#include <cstring>

#include "crc32.h"
#include "cursor.h"
#include "number.h"
#include "planes.h"
#include "sections.h"

namespace onnx_compress {
namespace {

void check_end(uint64_t expected, uint64_t actual) {
  if (expected > actual) fail(Fault::truncated, "the payload has ", actual, " bytes, its header announces ", expected);
  if (expected < actual) fail(Fault::format, actual - expected, " unexpected bytes behind the payload's last stream");
}

// "raw: g * k * (sum over the panels of the group of r' * ceil(lanes of the panel / 8))"; below 2^40 symbols, so below 2^45.
uint64_t raw_bytes(const Member& member, const Chunk& chunk) {
  const int64_t full = chunk.lanes / PANEL_ROWS, rest = chunk.lanes % PANEL_ROWS;
  const int raw_bits = member.symbols.raw_bits - member.split.coded_bits();
  return static_cast<uint64_t>(chunk.groups * member.k * raw_bits * (full * 8 + (rest + 7) / 8));
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
  if (member.form == FORM_PLANES) {
    value_bytes = planes_bytes(member, chunk.batch * member.rows + chunk.first_row, chunk.groups, chunk.lanes);
    value_bytes += chunk.escapes * static_cast<uint64_t>(escape_bytes(member) - 1);
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

}  // namespace onnx_compress
