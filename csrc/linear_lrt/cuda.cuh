// The kernels of linear_lrt: one dual product for the forward pass and both gradients, and what runs around
// it.
#pragma once
#include "../cuda/pipeline.cuh"
#include "epilogue.cuh"
#include "mma.cuh"

namespace vdk {
namespace cuda {

// Shared memory of a product's kernel: the operands in flight, later the finished tile.
template <class P>
struct SharedLayout {
  static constexpr int kElement = int(sizeof(typename P::E));
  static constexpr int kA = P::A::kSize * (P::kPairA ? 2 : 1), kB = P::B::kSize * (P::kPairB ? 2 : 1);
  static constexpr int kBSlots = P::kWeightsB ? kConvertedSlots : kPlainSlots;
  static constexpr int kBufferAt = (kPlainSlots * kA + kBSlots * kB) * kElement;
  static constexpr int kOperands = kBufferAt + (P::kWeightsB ? kConvertedSlots * WeightStage<P>::kBytes : 0);
  static constexpr int kResult = 2 * P::Result::kSize * int(sizeof(float));
  static constexpr int kBytes = kOperands > kResult ? kOperands : kResult;
  // of the second stage, which sums the gradient of a broadcast log
  static constexpr int kFinish = P::kImages ? 0 : P::Result::kSize * int(sizeof(float));
  // what sm_86 gives a block; products that any GPU runs stay within what sm_75 gives
  static_assert(kBytes <= (std::is_same_v<typename P::Math, IeeeMath> ? 64 << 10 : 99 << 10));

  VDK_DEVICE static OperandsOf<P> operands(unsigned char* shared, int a_slot, int b_slot) {
    auto* const a = reinterpret_cast<typename P::E*>(shared) + a_slot * kA;
    auto* const b = reinterpret_cast<typename P::E*>(shared) + kPlainSlots * kA + b_slot * kB;
    return {a, reinterpret_cast<typename P::V*>(a + P::A::kSize), b,
            reinterpret_cast<typename P::V*>(b + P::B::kSize)};
  }
};

// The operands of a tile on their way, from step `begin` of the reduction on. Slots are counted from there.
template <class P>
struct Feed {
  using Layout = SharedLayout<P>;
  const typename P::Args& args;
  unsigned char* shared;
  typename Sources<P>::A a;
  typename Sources<P>::B b;

  VDK_DEVICE Feed(const typename P::Args& args, unsigned char* shared, const TilePlace& tile, int64_t begin)
      : args(args),
        shared(shared),
        a(Sources<P>::a(args, tile, begin)),
        b(Sources<P>::b(args, tile, begin)) {}

  VDK_DEVICE WeightStage<P> weights(int slot) const {
    return {reinterpret_cast<Words4*>(shared + Layout::kBufferAt + slot * WeightStage<P>::kBytes), args};
  }
  // Starts the copies of a step. What they overwrite was last read before the barrier, or by this thread
  // alone.
  VDK_DEVICE void fetch(int plain_slot, int weight_slot) const {
    const OperandsOf<P> to = Layout::operands(shared, plain_slot, plain_slot);
    copy_tile<P::kPairA>(to.a, to.a2, args.a, args.a2, args.whole_a, a);
    if constexpr (P::kWeightsB)
      weights(weight_slot).fetch(b);
    else
      copy_tile<false>(to.b, to.b2, args.b, args.b, args.whole_b, b);
  }
  VDK_DEVICE void advance() {
    a.advance();
    b.advance();
  }
  // Weights that have landed become operands.
  VDK_DEVICE void convert(int slot) const {
    if constexpr (P::kWeightsB) {
      const OperandsOf<P> to = Layout::operands(shared, 0, slot);
      weights(slot).convert(to.b, to.b2);
    }
  }
};

// Blocks of one column of tiles see the same weights; they take turns at the KL, each step's in one of them.
template <class P>
struct KlTurn {
  static constexpr bool kCounts = P::kPass == Pass::kForward && !P::kImages;
  bool on;
  int wait, turns;
  float sum = 0;

  VDK_DEVICE KlTurn(const ProductArgs& args, const TilePlace& tile, int64_t begin)
      : on(kCounts && args.kl_sums), turns(int(args.plan.tiles_m)) {
    wait = int((tile.m - begin % turns + turns) % turns);
  }
  VDK_DEVICE void step(const Feed<P>& feed, int slot) {
    if (!on) return;
    if (wait-- > 0) return;
    wait = turns - 1;
    if constexpr (kCounts) sum += feed.weights(slot).kl(feed.b);
  }
};

template <class P>
VDK_DEVICE void multiply(Feed<P>& feed, Accumulators<P, typename P::Math>& sums, KlTurn<P>& kl, int steps) {
  const auto convert = [&](int slot) {
    feed.convert(slot);
    kl.step(feed, slot);
  };
  pipelined(feed, steps, convert, [&](int plain, int converted) {
    sums.step(SharedLayout<P>::operands(feed.shared, plain, P::kWeightsB ? converted : plain));
  });
}

// The gradient of a log that is broadcast is summed over its tile here and over tiles by lrt_sum_rows: sums
// are [tiles_m, in], [tiles_n, out] or, of a scalar, [tiles].
template <class P>
VDK_DEVICE void sum_log_gradient(const ProductArgs& args, const TilePlace& tile, float* gradient) {
  const Plan& plan = args.plan;
  const int thread = threadIdx.x;
  __syncthreads();
  if (args.w.log_cols != 1) {
    const int64_t col = tile.n * kBlockN + thread;
    if (thread < kBlockN && col < plan.n) {
      float sum = 0;
      for (int row = 0; row < P::kBlockM; ++row) sum += gradient[row * kResultPitch + thread];
      store_global(args.log_sums + tile.m * plan.n + col, sum);
    }
    return;
  }
  const int64_t row = tile.m * P::kBlockM + thread;
  float sum = 0;
  if (thread < P::kBlockM) {
    for (int col = 0; col < kBlockN; ++col) sum += gradient[thread * kResultPitch + col];
    if (args.w.log_rows != 1 && row < plan.m) store_global(args.log_sums + tile.n * plan.m + row, sum);
  }
  if (args.w.log_rows != 1) return;
  __syncthreads();
  if (thread < P::kBlockM) gradient[thread * kResultPitch] = sum;
  __syncthreads();
  if (thread == 0) {
    float total = 0;
    for (int r = 0; r < P::kBlockM; ++r) total += gradient[r * kResultPitch];
    store_global(args.log_sums + tile.m * plan.tiles_n + tile.n, total);
  }
}

// Calls the epilogue for a tile; four(row, col, mean, variance), within the tile, brings its sums. A rolled
// loop: the epilogue is long, and there is one copy of it. A thread goes down four columns.
template <class P, class Four>
VDK_DEVICE void finish_tile(const typename P::Args& args, const TilePlace& tile, float* gradient,
                            Four&& four) {
  constexpr bool kSums = P::kPass == Pass::kWeights && !P::kImages;
  constexpr int kAcross = kBlockN / 4;
  static_assert(P::kThreads % kAcross == 0);
  const Plan& plan = args.plan;
  const int c = int(threadIdx.x) % kAcross * 4;
  const int64_t col = tile.n * kBlockN + c, left = plan.n - col;
  const int valid = left <= 0 ? 0 : left < 4 ? int(left) : 4;
  const Epilogue<P> epilogue(args, col, valid);
  VDK_ROLLED
  for (int r = int(threadIdx.x) / kAcross; r < P::kBlockM; r += P::kThreads / kAcross) {
    const int64_t row = tile.m * P::kBlockM + r;
    float mean[4], variance[4] = {};
    const bool inside = row < plan.m && valid;
    if (inside) {
      four(r, c, mean, variance);
      epilogue(row, mean, variance);
    }
    if (kSums && args.log_sums) VDK_UNROLL
    for (int j = 0; j < 4; ++j) gradient[r * kResultPitch + c + j] = inside && j < valid ? variance[j] : 0.0f;
  }
  if (kSums && args.log_sums) sum_log_gradient<P>(args, tile, gradient);
}
template <class P>
struct Finish {
  template <class Four>
  VDK_DEVICE static void tile(const typename P::Args& args, const TilePlace& tile, float* gradient,
                              Four&& four) {
    finish_tile<P>(args, tile, gradient, four);
  }
};

// Where the sums of a part begin; parts of a group follow those of the last.
template <class P>
VDK_DEVICE float* part_sums(const Plan& plan, int64_t part) {
  if constexpr (P::kImages) part += int64_t(blockIdx.z) * plan.parts;
  return plan.partial + part * 2 * plan.part_size();
}

// Products of images spill with registers saved for blocks that shared memory does not hold, and on sm_8x those
// of float with registers for two.
template <class P>
constexpr int blocks_of() {
#ifdef __CUDA_ARCH__
  if (P::kImages && __CUDA_ARCH__ < 900 && sizeof(typename P::E) == 4) return 1;
  if (P::kImages) return fitting_blocks(__CUDA_ARCH__ / 10, P::kBlocks, SharedLayout<P>::kBytes);
#endif
  return blocks_at_once<P::kBlocks, SharedLayout<P>::kBytes>();
}

// A block: one tile, one part of the reduction.
template <class P>
VDK_KERNEL void __launch_bounds__(P::kThreads, blocks_of<P>()) lrt_product(typename P::Args args) {
  using Result = typename P::Result;
  VDK_SHARED(unsigned char, shared);
  const Plan& plan = args.plan;
  const TilePlace tile(plan);
  const int64_t all_steps = (plan.k + kBlockK<typename P::E> - 1) / kBlockK<typename P::E>;
  const int64_t begin = blockIdx.y * plan.steps_per_part;
  const int64_t end = begin + plan.steps_per_part < all_steps ? begin + plan.steps_per_part : all_steps;
  float *const means = reinterpret_cast<float*>(shared), *const variances = means + Result::kSize;
  KlTurn<P> kl(args, tile, begin);
  {
    Feed<P> feed(args, shared, tile, begin);
    Accumulators<P, typename P::Math> sums;
    multiply(feed, sums, kl, int(end - begin));
    sums.store(means, variances);
  }
  if (kl.on) {
    const float sum = block_sum<P::kThreads>(kl.sum);
    if (threadIdx.x == 0) store_global(args.kl_sums + blockIdx.y * gridDim.x + blockIdx.x, sum);
  }
  __syncthreads();
  const auto from_shared = [&](int row, int col, float (&mean)[4], float (&variance)[4]) {
    const int at = Result::at(row, col);
    widen_all<float>(load_shared<Words4>(means + at).w, mean);
    widen_all<float>(load_shared<Words4>(variances + at).w, variance);
  };
  if (plan.parts == 1) {
    Finish<P>::tile(args, tile, variances, from_shared);
    return;
  }
  float* const partial = part_sums<P>(plan, blockIdx.y);
  VDK_ROLLED
  for (int i = threadIdx.x; i < Result::kCount; i += P::kThreads) {
    const int r = Result::row(i), c = Result::col(i);
    const int64_t row = tile.m * P::kBlockM + r, col = tile.n * kBlockN + c;
    if (row >= plan.m || col >= plan.n) continue;
    const int64_t at = Result::in_part(plan, row, col);
    store_global(partial + at, load_shared<Words4>(means + Result::at(r, c)));
    store_global(partial + plan.part_size() + at, load_shared<Words4>(variances + Result::at(r, c)));
  }
}

// The second stage of a reduction in parts.
template <class P>
VDK_KERNEL void __launch_bounds__(P::kThreads) lrt_finish(typename P::Args args) {
  VDK_SHARED(float, gradient);
  const Plan& plan = args.plan;
  const TilePlace tile(plan);
  const int64_t size = plan.part_size();
  Finish<P>::tile(args, tile, gradient, [&](int r, int c, float (&mean)[4], float (&variance)[4]) {
    const float* from = part_sums<P>(plan, 0);
    from += P::Result::in_part(plan, tile.m * P::kBlockM + r, tile.n * kBlockN + c);
    VDK_UNROLL
    for (int i = 0; i < 4; ++i) mean[i] = variance[i] = 0;
    for (int64_t part = 0; part < plan.parts; ++part, from += 2 * size) {
      const Words4 m = load_global<Words4>(from), v = load_global<Words4>(from + size);
      VDK_UNROLL
      for (int i = 0; i < 4; ++i) {
        mean[i] += as_float(m.w[i]);
        variance[i] += as_float(v.w[i]);
      }
    }
  });
}

constexpr int kGradientThreads = 256, kGradientCols = 32;  // columns in groups of four

// A block takes kGradientCols groups of columns and some rows; a warp a row of it.
template <class E>
VDK_KERNEL void __launch_bounds__(kGradientThreads) lrt_noise_gradient(NoiseGradientArgs args) {
  constexpr int kRowsAtOnce = kGradientThreads / kGradientCols;
  VDK_SHARED_ARRAY(Words4, sums, kGradientThreads);
  const int64_t group = blockIdx.x * int64_t(kGradientCols) + threadIdx.x % kGradientCols, col = 4 * group;
  const int64_t begin = blockIdx.y * args.rows_per_block;
  const int64_t end = begin + args.rows_per_block < args.batch ? begin + args.rows_per_block : args.batch;
  const int valid = col >= args.out ? 0 : args.out - col < 4 ? int(args.out - col) : 4;
  const NoiseKey key = noise_key(args.seed);
  float sum[4] = {};
  if (valid)
    for (int64_t row = begin + threadIdx.x / kGradientCols; row < end; row += kRowsAtOnce) {
      const int64_t at = row * args.out + col;
      float dy[4];
      load_four(static_cast<const E*>(args.dy) + at, valid, args.whole, dy);
      VDK_UNROLL
      for (int i = 0; i < 4; ++i) sum[i] += dy[i];
      if (!args.g_v) continue;
      float std[4], z[4];
      load_four(args.std + at, valid, args.whole, std);
      noise_normals(key, uint64_t(row * groups_of(args.out) + group), z);
      VDK_UNROLL
      for (int i = 0; i < 4; ++i) z[i] = dy[i] * z[i] / (2 * std[i]);
      store_four(static_cast<Variance<E>*>(args.g_v) + at, valid, args.whole, z);
    }
  if (!args.bias_sums) return;
  narrow_all<float>(sum, sums[threadIdx.x].w);
  __syncthreads();
  if (threadIdx.x >= kGradientCols || !valid) return;
  for (int i = kGradientCols; i < kGradientThreads; i += kGradientCols) {
    float other[4];
    widen_all<float>(sums[threadIdx.x + i].w, other);
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) sum[j] += other[j];
  }
  store_four(args.bias_sums + blockIdx.y * args.out + col, valid, false, sum);
}

// Thirty-two columns a block, or one where there is but one; rows in a fixed order.
template <class E>
VDK_KERNEL void __launch_bounds__(256) lrt_sum_rows(SumRowsArgs args) {
  VDK_SHARED_ARRAY(float, sums, 256);
  const int width = args.cols == 1 ? 1 : 32, x = threadIdx.x % width;
  const int64_t col = blockIdx.x * int64_t(width) + x;
  float sum = 0;
  if (col < args.cols)
    for (int64_t row = threadIdx.x / width; row < args.rows; row += 256 / width)
      sum += load_global<float>(args.sums + row * args.cols + col);
  sums[threadIdx.x] = sum;
  for (int half = 128; half >= width; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (int(threadIdx.x) >= width || col >= args.cols) return;
  if (args.result_is_float)
    store_global(static_cast<float*>(args.result) + col, sums[threadIdx.x]);
  else
    store_global(static_cast<E*>(args.result) + col, narrow<E>(sums[threadIdx.x]));
}

}  // namespace cuda
}  // namespace vdk
