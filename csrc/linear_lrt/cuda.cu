// Launchers: what a call needs, and which kernels it takes.
#include "plan.cuh"

namespace vdk {
namespace cuda {
namespace {

bool is_full(const LrtWeights& w, const LrtShape& s) { return w.log_rows == s.out && w.log_cols == s.in; }

Plan plan_of(Pass pass, int64_t m, int64_t n, int64_t k, const LrtShape& s, int multiprocessors) {
  const double size = double(size_of(s.type)), log_size = 4;
  const double row = pass == Pass::kForward ? size : 2 * size;
  const double column = pass == Pass::kWeights ? size : size + log_size;
  return make_plan({"linear_lrt", pass, m, n, k, 1, s.type, s.precision, row, column}, multiprocessors);
}
template <Pass kPass>
void launch(const LrtShape& s, const ProductArgs& args, void* stream) {
  launch_product<Product, kPass>(s.type, s.precision, args, 1, stream);
}

// What all products share.
ProductArgs product_args(const LrtShape& s, const LrtWeights& w, const Plan& plan, const int64_t* seed) {
  ProductArgs args{};
  const int64_t size = size_of(s.type);
  args.plan = plan;
  args.w = w;
  args.out = s.out;
  args.in = s.in;
  args.whole_log = is_full(w, s) && s.in * size % 16 == 0 && is_aligned(w.log, 16);
  args.plain_weights = !w.is_alpha && w.exp_clip == std::numeric_limits<float>::infinity();
  args.seed = seed;
  args.prior = Prior::kNone;
  return args;
}

struct ForwardPlan {
  Plan plan;
  float* kl_sums;
  size_t bytes;

  int64_t blocks() const { return plan.tiles_m * plan.tiles_n * plan.parts; }

  ForwardPlan(const LrtForward& f, int multiprocessors, void* workspace)
      : plan(plan_of(Pass::kForward, f.shape.batch, f.shape.out, f.shape.in, f.shape, multiprocessors)) {
    if (f.prior != Prior::kNone && plan.tiles_m == 0) plan.tiles_m = 1;  // the KL of an empty batch
    Carver carver(workspace);
    plan.partial = static_cast<float*>(carver.take(partial_bytes(plan)));
    kl_sums = static_cast<float*>(carver.take(f.prior == Prior::kNone ? 0 : 4 * blocks()));
    bytes = carver.used();
  }
};

struct BackwardPlan {
  Plan input, weights;
  int64_t rows_per_block, row_blocks;
  void* g_v;
  float *bias_sums, *log_sums;
  size_t bytes;

  BackwardPlan(const LrtBackward& b, int multiprocessors, void* workspace) {
    const LrtShape& s = b.shape;
    input = plan_of(Pass::kInput, s.batch, s.in, s.out, s, multiprocessors);
    weights = plan_of(Pass::kWeights, s.out, s.in, s.batch, s, multiprocessors);
    // enough blocks to fill the GPU, and no more rows of sums than that takes
    const int64_t col_blocks = at_least_1(ceil_div(s.out, 4 * kGradientCols));
    rows_per_block = at_least_1(ceil_div(s.batch * col_blocks, 4 * multiprocessors));
    row_blocks = ceil_div(s.batch, rows_per_block);
    Carver carver(workspace);
    g_v = carver.take(b.dx || b.dmu ? s.batch * s.out * size_of(s.type) : 0);
    bias_sums = static_cast<float*>(carver.take(b.dbias ? row_blocks * s.out * 4 : 0));
    const int64_t input_bytes = b.dx ? partial_bytes(input) : 0,
                  weight_bytes = b.dmu ? partial_bytes(weights) : 0;
    input.partial = weights.partial =  // one after the other
        static_cast<float*>(carver.take(input_bytes > weight_bytes ? input_bytes : weight_bytes));
    log_sums = static_cast<float*>(carver.take(b.dmu && !is_full(b.w, s) ? 4 * sum_count(b.w) : 0));
    bytes = carver.used();
  }
  static int64_t at_least_1(int64_t x) { return x < 1 ? 1 : x; }
  int64_t sum_rows(const LrtWeights& w) const {
    return w.log_cols != 1 ? weights.tiles_m : weights.tiles_n * (w.log_rows != 1 ? 1 : weights.tiles_m);
  }
  int64_t sum_count(const LrtWeights& w) const { return sum_rows(w) * w.log_rows * w.log_cols; }
};

void reduce(const LrtShape& shape, const SumRowsArgs& args, void* stream) {
  const Grid grid{args.cols == 1 ? 1 : ceil_div(args.cols, 32)};
  if (shape.type == Number::kHalf)
    VDK_LAUNCH(lrt_sum_rows<Float16>, grid, 256, 0, stream, args);
  else
    VDK_LAUNCH(lrt_sum_rows<BFloat16>, grid, 256, 0, stream, args);
}

void noise_gradient(const LrtBackward& b, const BackwardPlan& plan, void* stream) {
  const LrtShape& s = b.shape;
  const bool whole = s.out % 4 == 0 && is_aligned(b.dy, 4 * size_of(s.type)) && is_aligned(b.std, 16);
  const NoiseGradientArgs args{b.dy,
                               b.std,
                               b.seed,
                               s.batch,
                               s.out,
                               plan.rows_per_block,
                               whole,
                               b.dx || b.dmu ? plan.g_v : nullptr,
                               b.dbias ? plan.bias_sums : nullptr};
  const Grid grid{ceil_div(s.out, 4 * kGradientCols), plan.row_blocks};
  if (s.type == Number::kFloat)
    VDK_LAUNCH(lrt_noise_gradient<float>, grid, kGradientThreads, 0, stream, args);
  else if (s.type == Number::kBFloat16)
    VDK_LAUNCH(lrt_noise_gradient<BFloat16>, grid, kGradientThreads, 0, stream, args);
  else
    VDK_LAUNCH(lrt_noise_gradient<Float16>, grid, kGradientThreads, 0, stream, args);
  if (b.dbias) reduce(s, {plan.bias_sums, plan.row_blocks, s.out, b.dbias, true}, stream);
}

void input_gradient(const LrtBackward& b, const BackwardPlan& plan, void* stream) {
  const LrtShape& s = b.shape;
  const int64_t size = size_of(s.type);
  ProductArgs args = product_args(s, b.w, plan.input, b.seed);
  args.a = b.dy;
  args.a2 = plan.g_v;
  args.whole_a = s.out * size % 16 == 0 && is_aligned(b.dy, 16);
  args.whole_b = s.in * size % 16 == 0 && is_aligned(b.w.mu, 16);
  args.x = b.x;
  args.result = b.dx;
  args.whole_result = s.in % 4 == 0 && is_aligned(b.x, 4 * size) && is_aligned(b.dx, 4 * size);
  launch<Pass::kInput>(s, args, stream);
}

void weight_gradient(const LrtBackward& b, const BackwardPlan& plan, void* stream) {
  const LrtShape& s = b.shape;
  const int64_t size = size_of(s.type), log_size = b.w.log_is_float ? 4 : size;
  ProductArgs args = product_args(s, b.w, plan.weights, b.seed);
  args.a = b.dy;
  args.a2 = plan.g_v;
  args.b = b.x;
  args.whole_a = s.out * size % 16 == 0 && is_aligned(b.dy, 16);
  args.whole_b = s.in * size % 16 == 0 && is_aligned(b.x, 16);
  args.result = b.dmu;
  args.log_result = b.dlog;
  args.whole_result = s.in % 4 == 0 && is_aligned(b.w.mu, 4 * size) && is_aligned(b.dmu, 4 * size) &&
                      is_aligned(b.w.log, 4 * log_size) && is_aligned(b.dlog, 4 * log_size);
  const bool full = is_full(b.w, s);
  args.log_sums = full ? nullptr : plan.log_sums;
  args.prior = b.prior;
  args.normal = normal_prior<float>(b.prior);
  args.kl_scale = b.kl_scale;
  launch<Pass::kWeights>(s, args, stream);
  if (!full)
    reduce(s, {plan.log_sums, plan.sum_rows(b.w), b.w.log_rows * b.w.log_cols, b.dlog, b.w.log_is_float},
           stream);
}

}  // namespace

size_t linear_lrt_workspace(const LrtForward& args, int multiprocessors) {
  return ForwardPlan(args, multiprocessors, nullptr).bytes;
}
size_t linear_lrt_workspace(const LrtBackward& args, int multiprocessors) {
  return BackwardPlan(args, multiprocessors, nullptr).bytes;
}

void linear_lrt_forward(const LrtForward& f, int multiprocessors, void* workspace, void* stream) {
  const LrtShape& s = f.shape;
  const int64_t size = size_of(s.type);
  const ForwardPlan plan(f, multiprocessors, workspace);
  ProductArgs args = product_args(s, f.w, plan.plan, f.seed);
  args.a = f.x;
  args.whole_a = s.in * size % 16 == 0 && is_aligned(f.x, 16);
  args.whole_b = s.in * size % 16 == 0 && is_aligned(f.w.mu, 16);
  args.bias = f.bias;
  args.eps = f.eps;
  args.result = f.y;
  args.std = f.std;
  args.whole_result = s.out % 4 == 0 && is_aligned(f.y, 4 * size) && is_aligned(f.std, 16);
  args.prior = f.prior;
  args.normal = normal_prior<float>(f.prior);
  args.kl_sums = f.prior == Prior::kNone ? nullptr : plan.kl_sums;
  launch<Pass::kForward>(s, args, stream);
  if (args.kl_sums)
    VDK_LAUNCH(sum_kernel<float>, Grid{1}, kSumThreads, 0, stream,
               SumArgs<float>{plan.kl_sums, plan.blocks(), f.kl});
}

void linear_lrt_backward(const LrtBackward& b, int multiprocessors, void* workspace, void* stream) {
  const BackwardPlan plan(b, multiprocessors, workspace);
  if (b.dx || b.dmu || b.dbias) noise_gradient(b, plan, stream);
  if (b.dx) input_gradient(b, plan, stream);
  if (b.dmu) weight_gradient(b, plan, stream);
}

}  // namespace cuda
}  // namespace vdk
