// Pools (FORMAT.md, section 7): small, decoded once by plain scalar code.
#include "decode.h"
#include "number.h"
#include "trellis.h"

namespace onnx_compress {
namespace {

struct Reader {
  const uint8_t* rans;
  uint64_t rans_bytes, position = 0;
  const uint8_t* raw;
  uint64_t bit = 0;
  const uint8_t* escapes;
  uint64_t escapes_left;
  uint16_t states[64];
};

Reader open(const Payload& payload) {
  const Pool& pool = payload.pool;
  Reader reader{};
  const uint8_t* heads = payload.data + pool.offset + pool.rans_bytes;
  reader.rans = payload.data + pool.offset, reader.rans_bytes = pool.rans_bytes;
  reader.raw = heads + 2 * pool.lanes;
  reader.escapes = reader.raw + pool.raw_bytes, reader.escapes_left = pool.escapes;
  for (int64_t lane = 0; lane < pool.lanes; ++lane) {
    reader.states[lane] = load16(heads + 2 * lane);
    if (reader.states[lane] < 256) fail(Fault::corruption, "a start state of the pool is below 256");
  }
  return reader;
}

// "slot = x & 255; ..."; one lane of one step. Lanes take their bytes in ascending order, so lane after lane is the same as all at once.
int class_of(Reader& reader, uint16_t& state, const Lookup& table) {
  const unsigned slot = state & 255u;
  int found = 0;
  while (found + 1 < table.count && table.start[found + 1] <= slot) ++found;
  unsigned x = unsigned{table.frequency[found]} * (state >> 8) + slot - table.start[found];
  if (x < 256) {
    if (reader.position >= reader.rans_bytes) fail(Fault::corruption, "the pool's stream was read beyond its end");
    x = x << 8 | reader.rans[reader.position++];
  }
  state = static_cast<uint16_t>(x);
  return found;
}

int level_of(Reader& reader, uint16_t& state, const Lookup& table, const Symbols& symbols) {
  const int found = class_of(reader, state, table);
  int value = table.first + table.index[found];
  if (table.escape && found + 1 == table.count) {
    if (reader.escapes_left == 0) fail(Fault::corruption, "the pool has fewer escaped values than places for them");
    --reader.escapes_left;
    value = symbols.escape_base + *reader.escapes++;
  }
  // "The raw section is one bit string, least significant bit of a byte first, r bits a symbol"
  int raw = 0;
  for (int i = 0; i < symbols.raw_bits; ++i, ++reader.bit) raw |= (reader.raw[reader.bit / 8] >> (reader.bit % 8) & 1) << i;
  const int level = value * (1 << symbols.raw_bits) - ((1 << symbols.raw_bits) >> 1) + raw;
  if (level < -32768 || level > 32767) fail(Fault::corruption, "a level of a pool is ", level, ", legal is -32768..32767");
  return level;
}

int16_t checked_multiple(int level, int quantizer) {
  const int multiple = multiple_of(level, quantizer);
  if (multiple < -32768 || multiple > 32767) fail(Fault::corruption, "a multiple of a pool is ", multiple, ", legal is -32768..32767");
  return static_cast<int16_t>(multiple);
}

void check_range(const Member& member, const std::vector<int16_t>& levels) {
  const int64_t low = member.integer() ? integer_low(member.dtype) : 0;
  const int64_t high = member.integer() ? integer_high(member.dtype) : member.codes() - 1;
  if (member.form == FORM_GRID) return;
  for (const int16_t level : levels)
    if (level < low || level > high) fail(Fault::corruption, "a level of a pool's member is ", int{level}, ", legal is ", low, "..", high);
}

void check_finished(const Reader& reader, const Payload& payload) {
  bool ended = reader.position == reader.rans_bytes && reader.escapes_left == 0;
  for (int64_t lane = 0; lane < payload.pool.lanes; ++lane) ended = ended && reader.states[lane] == 256;
  for (uint64_t bit = reader.bit; bit < 8 * payload.pool.raw_bytes; ++bit) ended = ended && !(reader.raw[bit / 8] >> (bit % 8) & 1);
  if (!ended)
    fail(Fault::corruption, "the pool's stream does not end where its encoder began: the payload was changed after it was written");
}

// The levels of the next member into `levels`; `lane` is that of its first symbol.
void decode_member(const Payload& payload, const Member& member, Reader& reader, int64_t& lane, std::vector<int16_t>& levels) {
  const Symbols& symbols = member.symbols;
  for (int64_t row = 0; row < member.batch * member.rows; ++row) {
    const int row_class = symbols.row_class.empty() ? 0 : symbols.row_class[static_cast<size_t>(row)];
    unsigned state = 0;  // "0 before the row's first symbol"
    for (int64_t k = 0; k < member.k; ++k, lane = lane + 1 == payload.pool.lanes ? 0 : lane + 1) {
      const int column = symbols.column_class.empty() ? 0 : symbols.column_class[static_cast<size_t>(k)];
      const int quantizer = symbols.quantizers == 2 ? static_cast<int>(state & 1) : 0;
      const int level = level_of(reader, reader.states[lane], table_of(payload, symbols, row_class, column, quantizer), symbols);
      levels.push_back(symbols.quantizers == 2 ? checked_multiple(level, quantizer) : static_cast<int16_t>(level));
      state = NEXT[state][level & 1];
    }
  }
}

}  // namespace

std::vector<int16_t> decode_pool(const Payload& payload, size_t wanted) {
  Reader reader = open(payload);
  std::vector<int16_t> kept, levels;
  int64_t lane = 0;
  for (size_t number = 0; number < payload.members.size(); ++number) {
    levels.clear();
    decode_member(payload, payload.members[number], reader, lane, levels);
    check_range(payload.members[number], levels);
    if (number == wanted) kept = levels;
  }
  check_finished(reader, payload);
  return kept;
}

}  // namespace onnx_compress
