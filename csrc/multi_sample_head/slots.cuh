// Slots, samples of a row of h, are the rows of the logits; where they lie, and what their kernels are given.
#pragma once
#include "../cuda/divisor.cuh"
#include "cuda.h"

namespace vdk {
namespace cuda {

constexpr int kTileSlots = 64;  // of a tile: a power of two samples, at most four, of some rows of h

// Tiles of slots go through all samples of some rows, then of the next ones. Up to four samples that lie side
// by side share the random words of their row. Slots beyond the rows and the samples pad the last tiles.
struct Slots {
  int rows, samples, shift, quads;  // 2^shift samples of a tile; tiles of the same rows
  Divisor by_quads;

  VDK_HD int shared() const { return 1 << shift; }
  VDK_HD int tile_rows() const { return kTileSlots >> shift; }
  VDK_HD int64_t tiles() const { return int64_t(rows + tile_rows() - 1) / tile_rows() * quads; }
  VDK_HD int64_t count() const { return tiles() * kTileSlots; }
  VDK_HD int of(int row, int sample) const {
    const int tile = row / tile_rows() * quads + (sample >> shift);
    return tile * kTileSlots + (row % tile_rows() << shift) + (sample & (shared() - 1));
  }
};

// The first row and sample of a tile of slots.
struct SlotTile {
  int row, sample;

  VDK_DEVICE SlotTile(const Slots& slots, int tile) {
    const int above = slots.by_quads.of(tile);
    row = above * slots.tile_rows();
    sample = (tile - above * slots.quads) << slots.shift;
  }
};

// How logits become losses and the gradients of the loss.
struct LossArgs {
  Slots slots;
  int classes, ld;  // of the logits; their rows are whole vectors
  float* logits;    // [slots, ld], or null: not kept
  const int64_t* target;
  const float *class_weight, *row_scale;
  const float* norms;  // [2]: what the sum of the losses is divided by, and the sum of the class weights
  int64_t ignore_index;
  float smoothing;
  float* losses;  // [slots]
  bool grad;      // logits become gradients
};

struct HeadProductArgs {
  LossArgs loss;
  int rows, features, groups;  // of four features
  int64_t tiles_m, tiles_n, band;
  int steps, steps_per_part;
  const void *h, *weight;
  const float* bias;
  bool whole_h, whole_weight, whole_result;  // rows keep the alignment of 16 bytes
  const int64_t* seed;
  uint32_t below;  // words that drop
  float keep_scale;
  float* result;     // dh; dweight, or its parts [parts, classes, features]
  float* bias_sums;  // dbias, or its parts [parts, classes], or null
};

}  // namespace cuda
}  // namespace vdk
