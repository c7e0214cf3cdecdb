// A sparse matrix packed for the kernels, in one block of memory that Python lays out (ops/spmm/pack.py).
//
// Rows stand in slices, columns in blocks short enough that the inputs of one stay in L1. Within a slice and
// block, rows are sorted by their number of nonzeros and taken in groups of eight, which walk through their
// nonzeros side by side; a row that has fewer reads zeros, which stand behind the inputs of the block.
//
// For one row of inputs there may be the same matrix once more (`pairs`; ops/spmm/lookup.py, lookup.h): rows
// by their number of nonzeros in groups of 64, whose nonzeros stand in pairs of steps.
//
// For a convolution there may be places for its weights in another layout of the image (`cells`;
// ops/sparse_conv2d/cells.py, cpu_cells.cpp): its outputs stand in a grid of cells, one a lane.
#pragma once
#include <cstddef>
#include <cstdint>

namespace vdk {

constexpr int kPackRows = 8;  // rows a group
constexpr uint16_t kNoRow = 0xFFFF;
constexpr int kLookupRows = 64;  // rows a group of look-ups, and inputs a chunk
constexpr uint32_t kNoLookup = 0xFFFFFFFF;
constexpr int64_t kPackMagic = 0x32'6D6D'7073'6B64;
constexpr int64_t kPackAlign = 64;

enum class Stored : int64_t { kFloat = 0, kBFloat16 = 1, kInt8 = 2 };

struct PackHeader {
  int64_t magic;
  Stored stored;
  int64_t out, in;  // rows and columns
  int64_t slices, slice_rows, blocks, groups;
  int64_t steps;    // of eight nonzeros, in all groups
  int64_t longest;  // steps of the longest group
  int64_t bytes;
  int64_t plane;  // floats from one input to the next; images alone have more than their panel's width
  int64_t pairs;  // of steps of 64 look-ups; 0 where that form was not made
  // the grid, what one of its cells has of outputs, floats of a cell's plane, and the pieces of a block whose
  // weights are taken one after the other; 0 where that form was not made
  int64_t cells_high, cells_wide, cell_rows, cell_cols, cell_plane, pieces;
};

struct Pack {
  PackHeader h;
  const int64_t* columns;  // [blocks + 1]: where a block's columns begin
  const uint32_t* first;   // [blocks * slices + 1]: groups of a block and slice
  const uint32_t* start;   // [groups + 1]: steps of a group
  const uint16_t* rows;    // [groups, 8]: row of the slice, or kNoRow
  const float* bias;       // [out]
  const float* scale;      // [out], what int8 stands for
  const void* values;      // [steps, 8]
  const uint16_t* index;   // [steps, 8]: which input of the block; the one behind the last is zero

  const uint32_t* pair_start;   // [groups of 64 + 1]: pairs of a group
  const uint32_t* lookup_rows;  // [groups of 64, 64], or kNoLookup
  const float* lookup_bias;     // [groups of 64, 64]
  const uint16_t* chunk;        // [pairs]: where the inputs of both steps lie, in that chunk or the next
  const float* lookup_values;   // [pairs, 2, 64]
  const uint8_t* lookup_index;  // [pairs, 2, 64]: 128 + place from the chunk's begin on; below 128: none

  const uint16_t* cell_index;  // [steps, 8]: which input of a block in cells
  const uint16_t* cell_ends;   // [pieces, groups, 8]: a row's nonzeros up to the end of a piece

  int64_t lookup_groups() const { return h.pairs > 0 ? (h.out + kLookupRows - 1) / kLookupRows : 0; }
};

constexpr size_t stored_bytes(Stored s) { return s == Stored::kFloat ? 4 : s == Stored::kBFloat16 ? 2 : 1; }

// Read the parts' places; false if `bytes` of memory at `data` cannot be a pack. What the parts hold is
// trusted: they are written by ops/spmm/pack.py alone; `check_pack` of check.py tells.
inline bool read_pack(const void* data, int64_t bytes, Pack& pack) {
  PackHeader& h = pack.h;
  // on a multiple of 64 bytes reads are fastest, but constants of compiled programs lie elsewhere too
  if (bytes < int64_t(sizeof h) || reinterpret_cast<uintptr_t>(data) % alignof(int64_t) != 0) return false;
  __builtin_memcpy(&h, data, sizeof h);
  constexpr int64_t kMost = int64_t(1) << 40;
  const int64_t sizes[] = {h.out,    h.in,    h.slices, h.slice_rows, h.blocks,
                           h.groups, h.steps, h.plane,  h.pairs,      h.longest};
  for (const int64_t size : sizes)
    if (size < 0 || size > kMost) return false;
  constexpr int64_t kMostOfCells = int64_t(1) << 16;
  const int64_t of_cells[] = {h.cells_high, h.cells_wide, h.cell_rows, h.cell_cols, h.cell_plane, h.pieces};
  for (const int64_t size : of_cells)
    if (size < (h.pieces > 0 ? 1 : 0) || size > (h.pieces > 0 ? kMostOfCells : 0)) return false;
  if (h.magic != kPackMagic || h.bytes != bytes || int64_t(h.stored) < 0 || int64_t(h.stored) > 2 ||
      h.blocks < 1 || h.slices > kMost / h.blocks || h.longest > h.steps)
    return false;
  if (h.slice_rows >= kNoRow || h.slices * h.slice_rows < h.out) return false;
  int64_t at = 0;
  const auto part = [&](int64_t count, size_t each) {
    const char* const p = static_cast<const char*>(data) + at;
    at += (count * int64_t(each) + kPackAlign - 1) / kPackAlign * kPackAlign;
    return p;
  };
  part(1, sizeof h);
  pack.columns = reinterpret_cast<const int64_t*>(part(h.blocks + 1, 8));
  pack.first = reinterpret_cast<const uint32_t*>(part(h.blocks * h.slices + 1, 4));
  pack.start = reinterpret_cast<const uint32_t*>(part(h.groups + 1, 4));
  pack.rows = reinterpret_cast<const uint16_t*>(part(h.groups * kPackRows, 2));
  pack.bias = reinterpret_cast<const float*>(part(h.out, 4));
  pack.scale = reinterpret_cast<const float*>(part(h.stored == Stored::kInt8 ? h.out : 0, 4));
  pack.values = part(h.steps * kPackRows, stored_bytes(h.stored));
  pack.index = reinterpret_cast<const uint16_t*>(part(h.steps * kPackRows, 2));
  const int64_t groups = pack.lookup_groups(), places = h.pairs * 2 * kLookupRows;
  pack.pair_start = reinterpret_cast<const uint32_t*>(part(h.pairs > 0 ? groups + 1 : 0, 4));
  pack.lookup_rows = reinterpret_cast<const uint32_t*>(part(groups * kLookupRows, 4));
  pack.lookup_bias = reinterpret_cast<const float*>(part(groups * kLookupRows, 4));
  pack.chunk = reinterpret_cast<const uint16_t*>(part(h.pairs, 2));
  pack.lookup_values = reinterpret_cast<const float*>(part(places, 4));
  pack.lookup_index = reinterpret_cast<const uint8_t*>(part(places, 1));
  pack.cell_index = reinterpret_cast<const uint16_t*>(part(h.pieces > 0 ? h.steps * kPackRows : 0, 2));
  pack.cell_ends = reinterpret_cast<const uint16_t*>(part(h.pieces * h.groups * kPackRows, 2));
  return at == bytes;
}

// Several packed layers in one block of memory: a header, an entry a layer, the packs, each on a multiple of
// 64 bytes.
constexpr int64_t kChainMagic = 0x31'6E'6961'6863'6476;
constexpr int64_t kMostLayers = 64;

struct ChainEntry {
  int64_t begin, bytes, relu;
};

// Read a chain's layers; their number, or -1 if the memory cannot be a chain.
inline int64_t read_chain(const void* data, int64_t bytes, Pack* layers, bool* relu) {
  int64_t head[2];
  if (bytes < int64_t(sizeof head)) return -1;
  __builtin_memcpy(head, data, sizeof head);
  const int64_t count = head[1];
  if (head[0] != kChainMagic || count < 1 || count > kMostLayers ||
      bytes < int64_t(sizeof head) + count * int64_t(sizeof(ChainEntry)))
    return -1;
  const char* const base = static_cast<const char*>(data);
  for (int64_t i = 0; i < count; ++i) {
    ChainEntry e;
    __builtin_memcpy(&e, base + sizeof head + size_t(i) * sizeof e, sizeof e);
    if (e.begin < 0 || e.bytes < 0 || e.begin > bytes || e.bytes > bytes - e.begin ||
        !read_pack(base + e.begin, e.bytes, layers[i]) || layers[i].h.plane != 0 ||
        (i > 0 && layers[i].h.in != layers[i - 1].h.out))
      return -1;
    relu[i] = e.relu != 0;
  }
  return count;
}

}  // namespace vdk
