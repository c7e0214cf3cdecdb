// Shapes: of tiles in shared memory, and of the three products.
#pragma once
#include "number.cuh"

namespace vdk {
namespace cuda {

constexpr int kBlockN = 64;
constexpr int kResultPitch =
    kBlockN + 8;                // of finished tiles: rows 8 banks apart, so pairs meet every bank once
constexpr int kStepBytes = 64;  // of a tile's row along the reduction
template <class E>
constexpr int kBlockK = kStepBytes / int(sizeof(E));

enum class Along { kDepth, kRows };  // what is contiguous in a tile: the reduction, or its rows

// A tile of kRows by kBlockK whose reads, by ldmatrix or of 16 bytes at one k, or of words at one k and the
// next, meet every bank once: lines along the rows are longer than they need be, lines along the depth have
// their four chunks of 16 bytes exchanged.
template <class E_, int kRows, Along kAlong>
struct SharedTile {
  using E = E_;
  static constexpr bool kDeep = kAlong == Along::kDepth;
  static constexpr int kLines = kDeep ? kRows : kBlockK<E>, kLength = kDeep ? kBlockK<E> : kRows;
  static constexpr int kPitch = kLength + (kDeep ? 0 : 8);
  static constexpr int kSize = kLines * kPitch;

  VDK_DEVICE static int at(int row, int k) {
    if constexpr (kDeep) return row * kPitch + (k ^ row / 2 % 4 * kVec<E>);
    return k * kPitch + row;
  }
};

// A finished tile in shared memory, in quads: four results that an epilogue takes at a time. Here they are
// columns of a row.
template <int kBlockM>
struct RowQuads {
  static constexpr int kSize = kBlockM * kResultPitch, kCount = kBlockM * kBlockN / 4;

  VDK_DEVICE static int at(int row, int col) { return row * kResultPitch + col; }
  // where quad i begins
  VDK_DEVICE static int row(int i) { return i / (kBlockN / 4); }
  VDK_DEVICE static int col(int i) { return i % (kBlockN / 4) * 4; }
  // where it lies among the sums of a part of the reduction
  template <class Plan>
  VDK_DEVICE static int64_t in_part(const Plan& plan, int64_t row, int64_t col) {
    return row * plan.padded_n() + col;
  }
  // two sums of a row
  VDK_DEVICE static void store_two(float* tile, int row, int col, float x, float y) {
    store_shared(tile + at(row, col), make_float2(x, y));
  }
};

struct ProductArgs;

//              rows    columns  reduction  A           B             result
// kForward     batch   out      in         x, x^2      mu, sigma^2   y, std
// kInput       batch   in       out        dy, g_v     mu, sigma^2   dx
// kWeights     out     in       batch      dy, g_v     x, x^2        dmu, dlog
enum class Pass { kForward, kInput, kWeights };

// Four or eight warps, each with 32 by 32 of a tile.
template <class Math_, Pass kPass_, int kBlockM_>
struct Product {
  using Math = Math_;
  using E = typename Math::E;
  using V = Variance<E>;
  using Args = ProductArgs;
  using Result = RowQuads<kBlockM_>;
  static constexpr Pass kPass = kPass_;
  // of images: then there is a product a group, each a layer of the grid, `log` is never broadcast, and the
  // KL is left to its own kernel
  static constexpr bool kImages = false;
  static constexpr int kBlockM = kBlockM_, kThreads = 2 * kBlockM;
  // of a multiprocessor: what its registers are divided by. Three products for one take their operands'
  // halves too.
  static constexpr int kBlocks = Math::kLean ? 512 / kThreads : 1;
  static constexpr bool kWeightsB = kPass != Pass::kWeights;  // B is made of mu and log
  // whether the variance's operand is stored, or the square of the mean's
  static constexpr bool kPairA = kPass != Pass::kForward, kPairB = kWeightsB;
  using A = SharedTile<E, kBlockM, kPass == Pass::kWeights ? Along::kRows : Along::kDepth>;
  using B = SharedTile<E, kBlockN, kPass == Pass::kForward ? Along::kDepth : Along::kRows>;
};

// Where a step's operands lie in shared memory; of a pair that is not stored the second is null.
template <class P>
struct OperandsOf {
  typename P::E* a;
  typename P::V* a2;
  typename P::E* b;
  typename P::V* b2;
};

}  // namespace cuda
}  // namespace vdk
