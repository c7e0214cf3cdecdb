// Launchers: how a head is cut into tiles, and which kernels it takes.
#include "../cuda/memory.h"
#include "cuda.cuh"

namespace vdk {
namespace cuda {
namespace {

struct Gpu {
  int capability, multiprocessors;
};

bool is_ieee(const MultiSampleHead& h) { return h.type == Number::kFloat && h.precision == Precision::kIeee; }

// How many samples of a word a tile takes: no more than a quarter over what there are.
Slots slots_of(const MultiSampleHead& h) {
  int shift = 2;
  while (shift && (ceil_div(h.samples, 1 << shift) << shift) - h.samples > h.samples / 4) --shift;
  const int64_t quads = ceil_div(h.samples, 1 << shift);
  constexpr int64_t kMost = INT_MAX - 256;  // tiles reach beyond the last
  for (const int64_t size : {h.rows, h.features, h.classes, h.samples})
    if (size > kMost) throw std::runtime_error("multi_sample_head: a dimension of more than 2^31 - 257");
  const Slots slots{int(h.rows), int(h.samples), shift, int(quads), Divisor(quads)};
  if (slots.count() > kMost)
    throw std::runtime_error("multi_sample_head: more than 2^31 - 257 samples of rows");
  return slots;
}

// Rows of 128 where that fills the GPU without much padding, else of 64: there are twice the blocks then.
// Without tensor cores always 64, as the shared memory of the oldest GPUs allows.
int64_t block_rows(int64_t m, int64_t tiles_n, const MultiSampleHead& h, int multiprocessors) {
  if (is_ieee(h)) return 64;
  const int64_t padding = ceil_div(m, 128) * 128 - m;
  return padding * 8 > m || ceil_div(m, 128) * tiles_n < multiprocessors ? 64 : 128;
}

struct HeadPlan {
  Slots slots;
  int64_t ld;
  // a head of no more classes has its losses and gradients in one tile
  int64_t logit_rows, input_rows, weight_rows;  // of tiles
  int64_t steps, steps_per_part, parts;         // of the weight gradient
  float *logits, *losses, *row_losses, *norms, *partial, *partial_bias;
  size_t bytes;

  HeadPlan(const MultiSampleHead& h, int multiprocessors, void* workspace)
      : slots(slots_of(h)), ld(ceil_div(h.classes, 4) * 4) {
    const int64_t across = ceil_div(h.features, kBlockN);
    logit_rows = h.classes <= 64    ? 64
                 : is_ieee(h)       ? 64
                 : h.classes <= 128 ? 128
                                    : block_rows(h.classes, slots.tiles(), h, multiprocessors);
    input_rows = is_ieee(h) || slots.quads == 1 || slots.quads % 2 * 8 > slots.quads ? 64 : 128;
    weight_rows = block_rows(h.classes, across, h, multiprocessors);
    const int64_t tiles = ceil_div(h.classes, weight_rows) * across;
    steps = slots.count() / kBlockK<float>;
    int64_t wanted = tiles == 0 || tiles >= multiprocessors ? 1 : 2 * multiprocessors / tiles;
    if (wanted > steps / 8) wanted = steps / 8;
    if (wanted < 1) wanted = 1;
    steps_per_part = ceil_div(steps, wanted);
    parts = steps ? ceil_div(steps, steps_per_part) : 1;

    const bool kept = h.dh || h.dweight || !whole(h);
    Carver carver(workspace);
    const auto take = [&](int64_t floats) { return static_cast<float*>(carver.take(4 * floats)); };
    norms = take(2);
    logits = take(kept ? slots.count() * ld : 0);
    if (!kept) logits = nullptr;
    losses = take(slots.count());
    row_losses = take(h.rows + 1);
    partial = take(h.dweight && parts > 1 ? parts * h.classes * h.features : 0);
    partial_bias = take(h.dbias && parts > 1 ? parts * h.classes : 0);
    bytes = carver.used();
  }
  bool whole(const MultiSampleHead& h) const { return h.classes <= logit_rows; }
};

// Calls f with a product for the head's arithmetic. The gradients of half types are by tf32.
template <HeadPass kPass, class F>
void with_product(const MultiSampleHead& h, int64_t block_rows, F&& f) {
  constexpr bool kLogits = kPass == HeadPass::kLogits;
  const auto of = [&](auto math, auto element) {
    using Math = decltype(math);
    using H = decltype(element);
    if (block_rows == 64)
      f(HeadProduct<Math, H, kPass, 64>{});
    else if constexpr (!std::is_same_v<Math, IeeeMath>)
      f(HeadProduct<Math, H, kPass, 128>{});
  };
  if (h.type == Number::kBFloat16)
    return of(std::conditional_t<kLogits, HalfMath<BFloat16>, Tf32Math<1, 1>>{}, BFloat16{});
  if (h.type == Number::kHalf)
    return of(std::conditional_t<kLogits, HalfMath<Float16>, Tf32Math<1, 1>>{}, Float16{});
  switch (h.precision) {
    case Precision::kIeee:
      return of(IeeeMath{}, float{});
    case Precision::kTf32x3:
    case Precision::kTf32x3Mean:
      return of(Tf32Math<3, 3>{}, float{});
    case Precision::kTf32:
      return of(Tf32Math<1, 1>{}, float{});
  }
}

// What all products share.
HeadProductArgs product_args(const MultiSampleHead& h, const LossArgs& loss) {
  HeadProductArgs args{};
  const int64_t size = size_of(h.type);
  args.loss = loss;
  args.rows = int(h.rows);
  args.features = int(h.features);
  args.groups = int(groups_of(h.features));
  args.h = h.h;
  args.weight = h.weight;
  args.bias = h.bias;
  args.whole_h = h.features * size % 16 == 0 && is_aligned(h.h, 16);
  args.whole_weight = h.features * size % 16 == 0 && is_aligned(h.weight, 16);
  args.seed = h.seed;
  const double below = std::floor(h.p * 0x1p32);
  args.below = below < 0xFFFFFFFFp0 ? uint32_t(below) : 0xFFFFFFFFu;
  args.keep_scale = float(1 / (1 - h.p));
  return args;
}

// Tiles, of which `at_once` are reckoned to run at one time; `row`, `column`: the bytes of operands that a
// row of them takes, and a column, of which `beside` take the same.
void cut(HeadProductArgs& args, int64_t down, int64_t across, int64_t at_once, int64_t row, int64_t column,
         int64_t beside = 1) {
  args.tiles_m = down;
  args.tiles_n = across;
  args.band = best_band(down, across, at_once, double(row), double(column), beside);
}

// Blocks of a product that the GPU runs at one time.
template <class P>
int64_t at_once(const Gpu& gpu) {
  const int fit = (shared_kib(gpu.capability) << 10) / (HeadLayout<P>::kBytes + 1024);
  return int64_t(fit < 1 ? 1 : fit < P::kBlocks ? fit : P::kBlocks) * gpu.multiprocessors;
}

void input_gradient(const MultiSampleHead& h, const HeadPlan& plan, HeadProductArgs args, const Gpu& gpu,
                    void* stream) {
  const int64_t size = size_of(h.type);
  args.result = h.dh;
  args.whole_result = h.features % 4 == 0 && is_aligned(h.dh, 16);
  with_product<HeadPass::kInput>(h, plan.input_rows, [&](auto product) {
    using P = decltype(product);
    args.steps = int(ceil_div(h.classes, kBlockK<typename P::E>));
    const int64_t of_rows = int64_t(plan.slots.quads) * kTileSlots;
    cut(args, plan.slots.tiles() / plan.slots.quads, ceil_div(h.features, kBlockN), at_once<P>(gpu),
        of_rows * h.classes * 4, kBlockN * h.classes * size);
    VDK_LAUNCH(head_input_gradient<P>, Grid{args.tiles_m * args.tiles_n}, P::kThreads, HeadLayout<P>::kBytes,
               stream, args);
  });
}

void weight_gradient(const MultiSampleHead& h, const HeadPlan& plan, HeadProductArgs args, const Gpu& gpu,
                     void* stream) {
  const int64_t size = size_of(h.type);
  const bool cut_up = plan.parts > 1;
  args.result = cut_up ? plan.partial : h.dweight;
  args.bias_sums = h.dbias && cut_up ? plan.partial_bias : h.dbias;
  args.whole_result = h.features % 4 == 0 && is_aligned(args.result, 16);
  args.steps = int(plan.steps);
  args.steps_per_part = int(plan.steps_per_part);
  with_product<HeadPass::kWeight>(h, plan.weight_rows, [&](auto product) {
    using P = decltype(product);
    cut(args, ceil_div(h.classes, P::kBlockM), ceil_div(h.features, kBlockN), at_once<P>(gpu),
        P::kBlockM * plan.slots.count() * 4, kBlockN * h.rows * size);
    VDK_LAUNCH(head_weight_gradient<P>, (Grid{args.tiles_m * args.tiles_n, plan.parts}), P::kThreads,
               HeadLayout<P>::kBytes, stream, args);
  });
  if (!cut_up) return;
  const auto add = [&](const float* partial, int64_t n, float* sums) {
    VDK_LAUNCH(sum_parts_kernel<float>, Grid{ceil_div(n, kPartsThreads)}, kPartsThreads, 0, stream,
               PartsArgs<float>{partial, plan.parts, n, sums});
  };
  add(plan.partial, h.classes * h.features, h.dweight);
  if (h.dbias) add(plan.partial_bias, h.classes, h.dbias);
}

}  // namespace

size_t multi_sample_head_workspace(const MultiSampleHead& h, int multiprocessors) {
  return HeadPlan(h, multiprocessors, nullptr).bytes;
}

void multi_sample_head(const MultiSampleHead& h, int capability, int multiprocessors, void* workspace,
                       void* stream) {
  const Gpu gpu{capability, multiprocessors};
  const HeadPlan plan(h, multiprocessors, workspace);
  const bool grad = h.dh || h.dweight;
  VDK_LAUNCH(head_norms<float>, Grid{2}, kNormThreads, 0, stream,
             NormArgs{h.target, h.class_weight, h.rows, h.classes, h.ignore_index, h.mean, plan.norms});
  const LossArgs loss{plan.slots,
                      int(h.classes),
                      int(plan.ld),
                      plan.logits,
                      h.target,
                      h.class_weight,
                      h.row_scale,
                      plan.norms,
                      h.ignore_index,
                      h.smoothing,
                      h.loss || h.losses ? plan.losses : nullptr,
                      grad};
  HeadProductArgs args = product_args(h, loss);
  with_product<HeadPass::kLogits>(h, plan.logit_rows, [&](auto product) {
    using P = decltype(product);
    const int64_t size = size_of(h.type);
    args.steps = int(ceil_div(h.features, kBlockK<typename P::E>));
    cut(args, ceil_div(h.classes, P::kBlockM), plan.slots.tiles(), at_once<P>(gpu),
        P::kBlockM * h.features * size, plan.slots.tile_rows() * h.features * size, plan.slots.quads);
    VDK_LAUNCH(head_logits<P>, Grid{args.tiles_m * args.tiles_n}, P::kThreads, HeadLayout<P>::kBytes, stream,
               args);
  });
  if (!plan.whole(h)) {
    // long rows a block each
    const int64_t held = plan.ld < kHeldClasses ? plan.ld : kHeldClasses;
    const int64_t warps = held > kHeldClasses / (kLossThreads / 32) ? 1 : kLossThreads / 32;
    VDK_LAUNCH(head_losses<float>, Grid{plan.slots.count() / warps}, unsigned(32 * warps),
               size_t(warps * held) * sizeof(float), stream, RowsOfLogits{loss, int(held)});
  }
  if (loss.losses) {
    const int n = int(h.losses ? h.rows : h.rows + 1);
    float* const rows = h.losses ? h.losses : plan.row_losses;
    VDK_LAUNCH(head_rows<float>, Grid{ceil_div(n, kRowThreads)}, kRowThreads, 0, stream,
               RowLossArgs{loss, n, rows});
    if (h.loss)
      VDK_LAUNCH(sum_kernel<float>, Grid{1}, kSumThreads, 0, stream, SumArgs<float>{rows, n, h.loss});
  }
  if (h.dh) input_gradient(h, plan, args, gpu, stream);
  if (h.dweight) weight_gradient(h, plan, args, gpu, stream);
}

}  // namespace cuda
}  // namespace vdk
