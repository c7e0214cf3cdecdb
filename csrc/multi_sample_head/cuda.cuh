// The kernels of multi_sample_head. A column of the logits is a slot, one sample of one row of h; masks are
// drawn where h is read, and again where gradients meet them. The logits, which become the gradients of the
// loss, are all that grows with the samples.
#pragma once
#include "losses.cuh"
#include "product.cuh"

namespace vdk {
namespace cuda {

// Four elements of a row of the result, of which `valid` exist.
VDK_DEVICE void put_four(const HeadProductArgs& args, int64_t at, int valid, const float (&v)[4]) {
  if (args.whole_result)
    store_global_whole(args.result + at,
                       make_uint4(as_uint(v[0]), as_uint(v[1]), as_uint(v[2]), as_uint(v[3])));
  else
    store_four(args.result + at, valid, false, v);
}

// `each`: called with every tile of A.
template <class P, class Each>
VDK_DEVICE void multiply(HeadFeed<P>& feed, HeadSums<P>& sums, int steps, Each&& each) {
  const auto convert = [&](int slot) { feed.convert(slot); };
  pipelined(feed, steps, convert, [&](int plain, int converted) {
    sums.step(feed.a_tile(plain), feed.b_tile(converted));
    each(feed.a_tile(plain));
  });
}

// Four columns of a finished tile of slots: logits, and where the tile has all classes their losses and
// gradients.
template <class P>
VDK_DEVICE void finish_logits(const HeadProductArgs& args, const TilePlace& tile, const float* finished) {
  constexpr int kLanes = P::kBlockM / 4;
  const LossArgs& loss = args.loss;
  const Slots& slots = loss.slots;
  const int lane = int(threadIdx.x) % kLanes, klass = int(tile.m) * P::kBlockM + 4 * lane;
  const SlotTile first(slots, int(tile.n));
  float bias[4], w[4];
  VDK_UNROLL
  for (int i = 0; i < 4; ++i)
    bias[i] = args.bias && klass + i < loss.classes ? load_global<float>(args.bias + klass + i) : 0.0f;
  weights_of(loss, klass, w);
  VDK_ROLLED
  for (int n = int(threadIdx.x) / kLanes; n < kTileSlots; n += P::kThreads / kLanes) {
    const int64_t slot = tile.n * kTileSlots + n;
    const int row = first.row + (n >> slots.shift), sample = first.sample + (n & (slots.shared() - 1));
    Words4 four = load_shared<Words4>(finished + n * HeadLayout<P>::kPitch + 4 * lane);
    float z[4];
    widen_all<float>(four.w, z);
    VDK_UNROLL
    for (int i = 0; i < 4; ++i) z[i] = z[i] * args.keep_scale + bias[i];
    if (args.tiles_m == 1) {
      const bool exists = row < slots.rows && sample < slots.samples;
      const SlotTarget target = SlotTarget::of<kLanes>(loss, row, exists);
      Softmax softmax;
      softmax.take(loss, z, klass, w, target.klass);
      softmax.merge<kLanes>();
      const SlotLoss own(loss, target, softmax);
      if (exists && lane == 0 && loss.losses) store_global(loss.losses + slot, own.loss);
      own.gradient(loss, z, klass, w);
    }
    if (!loss.logits || klass >= loss.ld) continue;
    narrow_all<float>(z, four.w);
    store_global(loss.logits + slot * loss.ld + klass, four);
  }
}

template <class P>
VDK_KERNEL void __launch_bounds__(P::kThreads, blocks_at_once<P::kBlocks, HeadLayout<P>::kBytes>())
    head_logits(HeadProductArgs args) {
  VDK_SHARED(unsigned char, shared);
  const TilePlace tile(args);
  float* const finished = reinterpret_cast<float*>(shared);
  {
    HeadFeed<P> feed{
        args, shared, {args.loss.classes, args.features, tile.m * P::kBlockM, 0}, {args, tile, 0}};
    HeadSums<P> sums;
    multiply(feed, sums, args.steps, [](const auto*) {});
    sums.store(finished);
  }
  __syncthreads();
  finish_logits<P>(args, tile, finished);
}

// The products of a tile of slots, or two of the same rows, from sample `sample0` on: added to what those
// before left in dh, where the masks keep the feature. A thread has the same elements every time.
template <class P>
VDK_DEVICE void add_samples(const HeadProductArgs& args, const TilePlace& tile, const float* products,
                            int sample0) {
  const Slots& slots = args.loss.slots;
  const NoiseKey key = noise_key(args.seed);
  VDK_ROLLED
  for (int i = threadIdx.x; i < slots.tile_rows() * (kBlockN / 4); i += P::kThreads) {
    const int r = i / (kBlockN / 4), c = i % (kBlockN / 4) * 4;
    const int row = int(tile.m) * slots.tile_rows() + r, col = int(tile.n) * kBlockN + c;
    if (row >= args.rows || col >= args.features) continue;
    const int64_t at = int64_t(row) * args.features + col;
    const int left = args.features - col, valid = left < 4 ? left : 4;
    float total[4] = {};
    VDK_UNROLL
    for (int part = 0; part < P::kBlockM / kTileSlots; ++part) {
      const int first = sample0 + (part << slots.shift);
      if (first >= slots.samples) continue;
      uint32_t words[4];
      noise_words(key, uint64_t((int64_t(first / 4) * args.rows + row) * args.groups + col / 4), words);
      VDK_UNROLL
      for (int s = 0; s < 4; ++s) {
        if (s >= slots.shared() || first + s >= slots.samples) continue;
        float product[4];
        const int slot = part * kTileSlots + (r << slots.shift) + s;
        widen_all<float>(load_shared<Words4>(products + slot * kResultPitch + c).w, product);
        VDK_UNROLL
        for (int j = 0; j < 4; ++j)
          if (turned(words[j], first + s) >= args.below) total[j] += product[j];
      }
    }
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) total[j] *= args.keep_scale;
    if (sample0) {
      float before[4];
      load_four(args.result + at, valid, args.whole_result, before);
      VDK_UNROLL
      for (int j = 0; j < 4; ++j) total[j] += before[j];
    }
    put_four(args, at, valid, total);
  }
}

template <class P>
VDK_KERNEL void __launch_bounds__(P::kThreads, blocks_at_once<P::kBlocks, HeadLayout<P>::kBytes>())
    head_input_gradient(HeadProductArgs args) {
  VDK_SHARED(unsigned char, shared);
  const TilePlace tile(args);
  const LossArgs& loss = args.loss;
  const int64_t of_rows = int64_t(loss.slots.quads) * kTileSlots;  // slots
  float* const products = reinterpret_cast<float*>(shared);
  VDK_ROLLED
  for (int64_t slot = 0; slot < of_rows; slot += P::kBlockM) {
    {
      HeadFeed<P> feed{
          args, shared, {(tile.m + 1) * of_rows, loss.ld, tile.m * of_rows + slot, 0}, {args, tile, 0}};
      HeadSums<P> sums;
      multiply(feed, sums, args.steps, [](const auto*) {});
      sums.store(products);
    }
    __syncthreads();
    add_samples<P>(args, tile, products, int(slot / kTileSlots) << loss.slots.shift);
    __syncthreads();
  }
}

// A block: one tile, one part of the slots. Those of the first column of tiles sum their gradients of logits
// too.
template <class P>
VDK_KERNEL void __launch_bounds__(P::kThreads, blocks_at_once<P::kBlocks, HeadLayout<P>::kBytes>())
    head_weight_gradient(HeadProductArgs args) {
  VDK_SHARED(unsigned char, shared);
  const TilePlace tile(args);
  const LossArgs& loss = args.loss;
  constexpr int kStep = kBlockK<typename P::E>;
  const int begin = int(blockIdx.y) * args.steps_per_part, left_steps = args.steps - begin;
  const int steps = left_steps < args.steps_per_part ? left_steps : args.steps_per_part;
  float* const products = reinterpret_cast<float*>(shared);
  const int own = threadIdx.x;
  const bool sums_bias = args.bias_sums && tile.n == 0 && own < P::kBlockM;
  Compensated<float> bias{0, 0};
  {
    HeadFeed<P> feed{args,
                     shared,
                     {int64_t(args.steps) * kStep, loss.ld, int64_t(begin) * kStep, tile.m * P::kBlockM},
                     {args, tile, begin}};
    HeadSums<P> sums;
    multiply(feed, sums, steps, [&](const float* g) {
      if (sums_bias)
        for (int slot = 0; slot < kStep; ++slot) bias.add(g[P::A::at(own, slot)]);
    });
    sums.store(products);
  }
  const int64_t first_class = int64_t(blockIdx.y) * loss.classes;  // of the part
  const int klass = int(tile.m) * P::kBlockM + own;
  if (sums_bias && klass < loss.classes) store_global(args.bias_sums + first_class + klass, bias.value());
  __syncthreads();
  const int c = own % (kBlockN / 4) * 4, col = int(tile.n) * kBlockN + c, left = args.features - col;
  if (left <= 0) return;
  VDK_ROLLED
  for (int r = own / (kBlockN / 4); r < P::kBlockM; r += P::kThreads / (kBlockN / 4)) {
    const int row = int(tile.m) * P::kBlockM + r;
    if (row >= loss.classes) return;
    float v[4];
    widen_all<float>(load_shared<Words4>(products + r * kResultPitch + c).w, v);
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) v[j] *= args.keep_scale;
    put_four(args, (first_class + row) * args.features + col, left < 4 ? left : 4, v);
  }
}

}  // namespace cuda
}  // namespace vdk
