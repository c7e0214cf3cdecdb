// From logits to losses and gradients, four classes a lane.
#pragma once
#include <cfloat>

#include "../cuda/reduce.cuh"
#include "../cuda/vmath.cuh"
#include "../linear_lrt/number.cuh"
#include "slots.cuh"

namespace vdk {
namespace cuda {

// Weights of four classes from `klass` on; beyond the last anything.
VDK_DEVICE void weights_of(const LossArgs& args, int klass, float (&w)[4]) {
  VDK_UNROLL
  for (int i = 0; i < 4; ++i) {
    w[i] = 1;
    if (args.smoothing > 0 && args.class_weight && klass + i < args.classes)
      w[i] = load_global<float>(args.class_weight + klass + i);
  }
}

// The target of a slot, in all of its kLanes lanes, the first of which loads it.
struct SlotTarget {
  static constexpr int kIgnored = -2, kNoClass = -1;
  int klass = kIgnored;
  float weight = 0, scale = 0;  // of its class; of its gradient

  template <int kLanes>
  VDK_DEVICE static SlotTarget of(const LossArgs& args, int row, bool exists) {
    SlotTarget t;
    if (exists && threadIdx.x % kLanes == 0) {
      const int64_t y = load_global<int64_t>(args.target + row);
      const bool there = y >= 0 && y < args.classes;
      if (y != args.ignore_index) t.klass = there ? int(y) : kNoClass;
      t.weight = there ? 1 : NAN;
      if (there && args.class_weight) t.weight = load_global<float>(args.class_weight + y);
      t.scale = 1 / (float(args.slots.samples) * load_global<float>(args.norms));
      if (args.row_scale) t.scale *= load_global<float>(args.row_scale + row);
    }
    t.klass = __shfl_sync(~0u, t.klass, 0, kLanes);
    t.weight = __shfl_sync(~0u, t.weight, 0, kLanes);
    t.scale = __shfl_sync(~0u, t.scale, 0, kLanes);
    return t;
  }
};

// Maximum of the logits seen, sum of e^(z - maximum), sum of weighted logits, and the target's logit.
struct Softmax {
  float top = -FLT_MAX, total = 0, smooth = 0, hit = 0;  // of no logit: e^(top - z) is 0, not NaN

  VDK_DEVICE void take(const LossArgs& args, const float (&z)[4], int klass, const float (&w)[4],
                       int target) {
    float higher = top;
    VDK_UNROLL
    for (int i = 0; i < 4; ++i)
      if (klass + i < args.classes) higher = maximum(z[i], higher);
    total *= vexp(top - higher);
    top = higher;
    VDK_UNROLL
    for (int i = 0; i < 4; ++i)
      if (klass + i < args.classes) {
        total += vexp(z[i] - top);
        smooth += z[i] * w[i];
        if (klass + i == target) hit = z[i];
      }
  }
  // Those of kLanes lanes together, in all of them.
  template <int kLanes>
  VDK_DEVICE void merge() {
    float higher = top;
    VDK_UNROLL
    for (int step = kLanes / 2; step > 0; step /= 2)
      higher = maximum(__shfl_xor_sync(~0u, higher, step), higher);
    total *= vexp(top - higher);
    top = higher;
    VDK_UNROLL
    for (int step = kLanes / 2; step > 0; step /= 2) {
      total += __shfl_xor_sync(~0u, total, step);
      smooth += __shfl_xor_sync(~0u, smooth, step);
      hit += __shfl_xor_sync(~0u, hit, step);
    }
  }
};

// A slot's loss, and what its gradient has of softmax, the class weights and the target.
struct SlotLoss {
  float loss = 0, soft = 0, even = 0, sharp = 0, top = 0;
  int target = SlotTarget::kIgnored;

  VDK_DEVICE SlotLoss(const LossArgs& args, const SlotTarget& t, const Softmax& s)
      : top(s.top), target(t.klass) {
    if (target == SlotTarget::kIgnored) return;
    const float log_sum = top + log_f32(s.total);
    const float of_target = (1 - args.smoothing) * t.weight;
    loss = of_target * (log_sum - s.hit);
    soft = of_target;
    if (args.smoothing > 0) {
      const float share = args.smoothing / float(args.classes);
      const float all = share * load_global<float>(args.norms + 1);
      loss += all * log_sum - share * s.smooth;
      soft += all;
      even = t.scale * share;
    }
    soft *= t.scale / s.total;
    sharp = t.scale * of_target;
  }

  // Logits become their gradients; 0 where there is no class, which leaves products alone.
  VDK_DEVICE void gradient(const LossArgs& args, float (&z)[4], int klass, const float (&w)[4]) const {
    VDK_UNROLL
    for (int i = 0; i < 4; ++i) {
      float g = vexp(z[i] - top) * soft - even * w[i];
      if (klass + i == target) g -= sharp;
      z[i] = klass + i < args.classes && target != SlotTarget::kIgnored ? g : 0.0f;
    }
  }
};

constexpr int kNormThreads = 512;

struct NormArgs {
  const int64_t* target;
  const float* class_weight;
  int64_t rows, classes, ignore_index;
  bool mean;
  float* norms;  // see LossArgs
};

// Two blocks: one sums what rows count, the other the weights of the classes.
template <class T>
VDK_KERNEL void __launch_bounds__(kNormThreads) head_norms(NormArgs a) {
  const bool of_rows = blockIdx.x == 0;
  const int64_t n = !of_rows ? a.classes : a.mean ? a.rows : 0;
  Compensated<T> sum{0, 0};
  for (int64_t i = threadIdx.x; i < n; i += kNormThreads) {
    int64_t y = i;
    if (of_rows) y = load_global<int64_t>(a.target + i);
    if (of_rows && y == a.ignore_index) continue;
    T weight = y >= 0 && y < a.classes ? 1 : NAN;
    if (a.class_weight && weight == 1) weight = load_global<T>(a.class_weight + y);
    sum.add(weight);
  }
  const T all = block_sum<kNormThreads>(sum.value());
  if (threadIdx.x == 0) store_global(a.norms + blockIdx.x, of_rows && !a.mean ? T(1) : all);
}

constexpr int kLossThreads = 128;
constexpr int kHeldClasses = 8192;  // logits that a block holds in shared memory

struct RowsOfLogits {
  LossArgs loss;
  int held;  // logits of a row, a multiple of four; what is beyond is read again
};

// A warp a slot, with more classes than a tile has.
template <class T>
VDK_KERNEL void __launch_bounds__(kLossThreads) head_losses(RowsOfLogits a) {
  VDK_SHARED(T, shared);
  const LossArgs& args = a.loss;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int slot = int(blockIdx.x * (blockDim.x / 32)) + warp;
  const SlotTile tile(args.slots, slot / kTileSlots);
  const int row = tile.row + (slot % kTileSlots >> args.slots.shift);
  const int sample = tile.sample + (slot & (args.slots.shared() - 1));
  const bool exists = row < args.slots.rows && sample < args.slots.samples;
  T *const logits = args.logits + int64_t(slot) * args.ld, *const held = shared + warp * a.held;
  const SlotTarget target = SlotTarget::of<32>(args, row, exists);
  Softmax softmax;
  T z[4], w[4];
  if (exists)
    for (int k = 4 * lane; k < args.classes; k += 4 * 32) {
      const Words4 four = load_global<Words4>(logits + k);
      if (k < a.held) store_shared(held + k, four);
      widen_all<T>(four.w, z);
      weights_of(args, k, w);
      softmax.take(args, z, k, w, target.klass);
    }
  softmax.merge<32>();
  const SlotLoss loss(args, target, softmax);
  if (exists && lane == 0 && args.losses) store_global(args.losses + slot, loss.loss);
  if (!args.grad) return;
  for (int k = 4 * lane; k < args.ld; k += 4 * 32) {
    Words4 four{};
    if (exists) four = k < a.held ? load_shared<Words4>(held + k) : load_global<Words4>(logits + k);
    widen_all<T>(four.w, z);
    weights_of(args, k, w);
    loss.gradient(args, z, k, w);
    narrow_all<T>(z, four.w);
    store_global(logits + k, four);
  }
}

constexpr int kRowThreads = 256;

struct RowLossArgs {
  LossArgs loss;
  int n;  // rows, and where they are to be summed one more: 0 / 0 where a mean is of nothing
  float* rows;
};

// Means over the samples of a row, in their order, over what the sum of the rows is divided by.
template <class T>
VDK_KERNEL void __launch_bounds__(kRowThreads) head_rows(RowLossArgs a) {
  const LossArgs& args = a.loss;
  const int row = int(blockIdx.x * kRowThreads + threadIdx.x);
  T norm = threadIdx.x % 32 == 0 ? load_global<T>(args.norms) : T(0);
  norm = __shfl_sync(~0u, norm, 0);
  if (row >= a.n) return;
  T sum = 0;
  if (row < args.slots.rows)
    for (int i = 0; i < args.slots.samples; ++i) sum += load_global<T>(args.losses + args.slots.of(row, i));
  store_global(a.rows + row, sum / (T(args.slots.samples) * norm));
}

}  // namespace cuda
}  // namespace vdk
