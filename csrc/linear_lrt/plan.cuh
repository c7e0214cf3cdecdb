// How launchers cut a product into tiles and parts, and pick its kernels.
#pragma once
#include <limits>

#include "../cuda/memory.h"
#include "../cuda/reduce.cuh"
#include "cuda.cuh"

namespace vdk {
namespace cuda {

// One of the products: [m, k] by [n, k], as often as there are groups.
struct Problem {
  const char* op;  // for messages
  Pass pass;
  int64_t m, n, k, groups;
  Number type;
  Precision precision;
  double row, column;  // bytes of operands that a row, and a column, of the result needs, over k

  bool is_ieee() const { return type == Number::kFloat && precision == Precision::kIeee; }
};

// Rows of 128 where that fills the GPU without much padding, else of 64: there are twice the blocks then.
// Without tensor cores always 64, as the shared memory of the oldest GPUs allows.
inline int64_t block_rows(const Problem& p, int multiprocessors) {
  if (p.is_ieee()) return 64;
  const int64_t padding = ceil_div(p.m, 128) * 128 - p.m;
  const int64_t tiles = ceil_div(p.m, 128) * ceil_div(p.n, kBlockN) * p.groups;
  return padding * 8 > p.m || tiles < multiprocessors ? 64 : 128;
}

// Blocks that a multiprocessor is reckoned to hold: as many as registers leave.
inline int blocks_reckoned(const Problem& p) {
  if (p.is_ieee()) return p.pass == Pass::kWeights ? 3 : 2;
  return p.type == Number::kFloat && p.precision != Precision::kTf32 ? 1 : 2;
}

// The reduction is cut where tiles are fewer than multiprocessors, into parts of at least 8 steps.
inline Plan make_plan(const Problem& p, int multiprocessors) {
  if (p.m > INT_MAX || p.n > INT_MAX || p.k > INT_MAX)
    throw std::runtime_error(std::string(p.op) + ": more than 2^31 - 1 rows, inputs or outputs");
  Plan plan{};
  plan.m = p.m;
  plan.n = p.n;
  plan.k = p.k;
  plan.block_m = block_rows(p, multiprocessors);
  plan.tiles_m = ceil_div(p.m, plan.block_m);
  plan.tiles_n = ceil_div(p.n, kBlockN);
  plan.band = band_height(plan.tiles_m, double(blocks_reckoned(p)) * multiprocessors,
                          double(plan.block_m) * p.row, kBlockN * p.column);
  const int64_t tiles = plan.tiles_m * plan.tiles_n * p.groups;
  const int64_t steps = ceil_div(p.k, kStepBytes / size_of(p.type));
  int64_t parts = tiles == 0 || tiles >= multiprocessors ? 1 : 2 * multiprocessors / tiles;
  if (parts > steps / 8) parts = steps / 8;
  if (parts < 1) parts = 1;
  plan.steps_per_part = ceil_div(steps, parts);
  plan.parts = steps ? ceil_div(steps, plan.steps_per_part) : 1;
  return plan;
}
inline int64_t partial_bytes(const Plan& plan, int64_t groups = 1) {
  return plan.parts == 1 ? 0 : groups * plan.parts * 2 * plan.part_size() * int64_t(sizeof(float));
}

template <class P>
void launch_product(const typename P::Args& args, int64_t groups, void* stream) {
  const int64_t tiles = args.plan.tiles_m * args.plan.tiles_n;
  VDK_LAUNCH(lrt_product<P>, (Grid{tiles, args.plan.parts, groups}), P::kThreads, SharedLayout<P>::kBytes,
             stream, args);
  // rows of 128 are taken only where tiles are enough, and then nothing is cut
  if constexpr (P::kBlockM == 64)
    if (args.plan.parts > 1)
      VDK_LAUNCH(lrt_finish<P>, (Grid{tiles, 1, groups}), P::kThreads, SharedLayout<P>::kFinish, stream,
                 args);
}
template <template <class, Pass, int> class P, class Math, Pass kPass, class Args>
void launch_product(const Args& args, int64_t groups, void* stream) {
  if (args.plan.block_m == 64)
    launch_product<P<Math, kPass, 64>>(args, groups, stream);
  else if constexpr (!std::is_same_v<Math, IeeeMath>)
    launch_product<P<Math, kPass, 128>>(args, groups, stream);
}
// P: Product, or one like it.
template <template <class, Pass, int> class P, Pass kPass, class Args>
void launch_product(Number type, Precision precision, const Args& args, int64_t groups, void* stream) {
  if (type == Number::kBFloat16) return launch_product<P, HalfMath<BFloat16>, kPass>(args, groups, stream);
  if (type == Number::kHalf) return launch_product<P, HalfMath<Float16>, kPass>(args, groups, stream);
  switch (precision) {
    case Precision::kIeee:
      return launch_product<P, IeeeMath, kPass>(args, groups, stream);
    case Precision::kTf32x3:
      return launch_product<P, Tf32Math<3, 3>, kPass>(args, groups, stream);
    case Precision::kTf32x3Mean:
      return launch_product<P, Tf32Math<3, 1>, kPass>(args, groups, stream);
    case Precision::kTf32:
      return launch_product<P, Tf32Math<1, 1>, kPass>(args, groups, stream);
  }
}

}  // namespace cuda
}  // namespace vdk
