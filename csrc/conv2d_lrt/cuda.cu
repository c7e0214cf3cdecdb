// Launchers: where the products find their pixels, and how they are cut.
#include "cuda.cuh"

#include "../linear_lrt/plan.cuh"

namespace vdk {
namespace cuda {
namespace {

// Sizes of an image, and the steps in memory from one element of it to the next.
struct Layout {
  int64_t channels, h, w;
  bool last;

  int64_t pixels() const { return h * w; }
  int64_t image() const { return channels * h * w; }
  int64_t channel() const { return last ? 1 : h * w; }
  int64_t pixel() const { return last ? channels : 1; }
};
Layout input(const ConvShape& s) { return {s.in, s.height, s.width, s.channels_last}; }
Layout output(const ConvShape& s) { return {s.out, s.out_h, s.out_w, s.channels_last}; }

int64_t group_in(const ConvShape& s) { return s.in / s.groups; }
int64_t group_out(const ConvShape& s) { return s.out / s.groups; }
int64_t taps(const ConvShape& s) { return s.kernel_h * s.kernel_w; }

int64_t padded(int64_t pixels) { return ceil_div(pixels, 4) * 4; }

// Everything that kernels count in 32 bits.
void check(const ConvShape& s) {
  constexpr int64_t kMost = INT_MAX - (1 << 10), kFar = 1 << 29;  // tiles reach beyond the end
  for (const int64_t size :
       {s.batch * padded(input(s).pixels()), s.batch * padded(output(s).pixels()), input(s).image(),
        output(s).image(), group_in(s) * taps(s), group_out(s) * taps(s)})
    if (size > kMost)
      throw std::runtime_error(
          "conv2d_lrt: more than 2^31 - 2^10 pixels, numbers in an image or weights of an output");
  for (const int64_t far : {s.height + 2 * s.pad_h + s.dilation_h * s.kernel_h,
                            s.width + 2 * s.pad_w + s.dilation_w * s.kernel_w})
    if (far > kFar) throw std::runtime_error("conv2d_lrt: more than 2^29 rows or columns with padding");
}

Plan plan_of(Pass pass, const ConvProblem& problem, int multiprocessors) {
  const ConvShape& s = problem.s;
  const double size = double(size_of(problem.type)), log_size = 4;
  const double pixels_in = double(input(s).pixels()), pixels_out = double(output(s).pixels());
  const int64_t in = group_in(s), out = group_out(s);
  Problem p{"conv2d_lrt", pass, 0, 0, 0, s.groups, problem.type, problem.precision, 0, 0};
  // patches overlap: a pixel of theirs counts once
  switch (pass) {
    case Pass::kForward:
      p.m = s.batch * padded(output(s).pixels()), p.n = out, p.k = in * taps(s);
      p.row = double(in) * size * pixels_in / pixels_out;
      p.column = double(p.k) * (size + log_size);
      break;
    case Pass::kInput:
      p.m = s.batch * padded(input(s).pixels()), p.n = in, p.k = out * taps(s);
      p.row = double(out) * 2 * size * pixels_out / pixels_in;
      p.column = double(p.k) * (size + log_size);
      break;
    case Pass::kWeights:
      p.m = out, p.n = in * taps(s), p.k = s.batch * padded(output(s).pixels());
      p.row = pixels_out * 2 * size;
      p.column = pixels_in * size / double(taps(s));
      break;
  }
  return make_plan(p, multiprocessors);
}

PixelGrid grid_of(const Layout& l) { return {Divisor(padded(l.pixels())), Divisor(l.w), int(l.pixels())}; }
// Operands in `image`, of `channels` in a group.
Gather gather(const PixelGrid& grid, const Layout& image, int64_t channels, int64_t kernel_w) {
  Gather g{};
  g.grid = grid;
  g.size = {int(image.h), int(image.w)};
  g.by_channels = Divisor(channels);
  g.by_kernel_w = Divisor(kernel_w);
  g.image = image.image();
  g.group = channels * image.channel();
  g.stride = {int(image.w * image.pixel()), int(image.pixel())};
  g.channel = int(image.channel());
  return g;
}
// What outputs see of x.
Gather patches_of_x(const ConvShape& s) {
  Gather g = gather(grid_of(output(s)), input(s), group_in(s), s.kernel_w);
  g.scale = {int(s.stride_h), int(s.stride_w)};
  g.origin = {int(-s.pad_h), int(-s.pad_w)};
  g.step = {int(s.dilation_h), int(s.dilation_w)};
  return g;
}
// The outputs that see an input.
Gather patches_of_y(const ConvShape& s) {
  Gather g = gather(grid_of(input(s)), output(s), group_out(s), s.kernel_w);
  g.scale = {1, 1};
  g.origin = {int(s.pad_h), int(s.pad_w)};
  g.step = {int(-s.dilation_h), int(-s.dilation_w)};
  g.by_h = Divisor(s.stride_h);
  g.by_w = Divisor(s.stride_w);
  return g;
}
Gather pixels_of_y(const ConvShape& s) {
  Gather g = gather(grid_of(output(s)), output(s), group_out(s), 1);
  g.scale = {1, 1};
  return g;
}

// What all products share; rows of weights, of `line` elements in the product, are read in chunks if whole.
ConvArgs product_args(const ConvProblem& problem, const ConvWeights& w, const Plan& plan, int64_t line) {
  const ConvShape& s = problem.s;
  const bool whole = line * size_of(problem.type) % 16 == 0;
  ConvArgs args{};
  args.plan = plan;
  args.w = {w.mu, w.log, s.out, group_in(s) * taps(s), w.is_alpha, w.log_is_float, w.exp_clip};
  args.whole_b = whole && is_aligned(w.mu, 16);
  args.whole_log = whole && is_aligned(w.log, 16);
  args.plain_weights = !w.is_alpha && w.exp_clip == std::numeric_limits<float>::infinity();
  args.prior = Prior::kNone;
  args.outputs = int(group_out(s));
  args.taps = int(taps(s));
  return args;
}
void set_result(ConvArgs& args, const Layout& image) {
  args.channels = int(image.channels);
  args.image = image.image();
  args.stride = {int(image.channel()), int(image.pixel())};
}
// Whether channels of a group come in whole chunks.
bool is_whole(const Gather& g, Number type, const void* image) {
  return g.channel == 1 && int64_t(g.by_channels.divisor) * size_of(type) % 16 == 0 && is_aligned(image, 16);
}

template <Pass kPass>
void launch(const ConvProblem& problem, const ConvArgs& args, void* stream) {
  launch_product<ConvProduct, kPass>(problem.type, problem.precision, args, problem.s.groups, stream);
}

struct ForwardPlan {
  Plan plan;
  size_t bytes;

  ForwardPlan(const ConvForward& f, int multiprocessors, void* workspace)
      : plan(plan_of(Pass::kForward, f.problem, multiprocessors)) {
    Carver carver(workspace);
    plan.partial = static_cast<float*>(carver.take(partial_bytes(plan, f.problem.s.groups)));
    bytes = carver.used();
  }
};

struct BackwardPlan {
  Plan input, weights;
  void* g_v;
  size_t bytes;

  BackwardPlan(const ConvBackward& b, int multiprocessors, void* workspace)
      : input(plan_of(Pass::kInput, b.problem, multiprocessors)),
        weights(plan_of(Pass::kWeights, b.problem, multiprocessors)) {
    const ConvShape& s = b.problem.s;
    Carver carver(workspace);
    g_v = carver.take(s.batch * output(s).image() * size_of(b.problem.type));
    const int64_t input_bytes = b.dx ? partial_bytes(input, s.groups) : 0;
    const int64_t weight_bytes = b.dmu ? partial_bytes(weights, s.groups) : 0;
    input.partial = weights.partial =  // one after the other
        static_cast<float*>(carver.take(input_bytes > weight_bytes ? input_bytes : weight_bytes));
    bytes = carver.used();
  }
};

void noise_gradient(const ConvBackward& b, void* g_v, void* stream) {
  const int64_t n = b.problem.s.batch * output(b.problem.s).image();
  const bool whole = is_aligned(b.dy, 4 * size_of(b.problem.type)) && is_aligned(b.r, 16);
  const ConvNoiseArgs args{b.dy, b.r, g_v, n, whole};
  const Grid grid{ceil_div(n, 4 * kGradientThreads)};
  if (b.problem.type == Number::kFloat)
    VDK_LAUNCH(conv_noise_gradient<float>, grid, kGradientThreads, 0, stream, args);
  else if (b.problem.type == Number::kBFloat16)
    VDK_LAUNCH(conv_noise_gradient<BFloat16>, grid, kGradientThreads, 0, stream, args);
  else
    VDK_LAUNCH(conv_noise_gradient<Float16>, grid, kGradientThreads, 0, stream, args);
}

void input_gradient(const ConvBackward& b, const BackwardPlan& plan, void* stream) {
  const ConvShape& s = b.problem.s;
  const Layout x = input(s);
  const int64_t four = 4 * size_of(b.problem.type);
  ConvArgs args = product_args(b.problem, b.w, plan.input, group_in(s));
  args.a = b.dy;
  args.a2 = plan.g_v;
  args.from_a = patches_of_y(s);
  args.whole_a = is_whole(args.from_a, b.problem.type, b.dy);
  args.x = b.x;
  args.result = b.dx;
  set_result(args, x);
  args.whole_result = x.pixels() % 4 == 0 && is_aligned(b.x, four) && is_aligned(b.dx, four);
  launch<Pass::kInput>(b.problem, args, stream);
}

void weight_gradient(const ConvBackward& b, const BackwardPlan& plan, void* stream) {
  const ConvShape& s = b.problem.s;
  const int64_t depth = group_in(s) * taps(s), four = 4 * size_of(b.problem.type);
  const int64_t four_logs = b.w.log_is_float ? 16 : four;
  ConvArgs args = product_args(b.problem, b.w, plan.weights, depth);
  args.a = b.dy;
  args.a2 = plan.g_v;
  args.b = b.x;
  args.from_a = pixels_of_y(s);
  args.from_b = patches_of_x(s);
  args.whole_a = is_whole(args.from_a, b.problem.type, b.dy);
  args.whole_b = is_whole(args.from_b, b.problem.type, b.x);
  args.result = b.dmu;
  args.log_result = b.dlog;
  args.whole_result = depth % 4 == 0 && is_aligned(b.w.mu, four) && is_aligned(b.dmu, four) &&
                      is_aligned(b.w.log, four_logs) && is_aligned(b.dlog, four_logs);
  args.prior = b.prior;
  args.normal = normal_prior<float>(b.prior);
  args.kl_scale = b.kl_scale;
  launch<Pass::kWeights>(b.problem, args, stream);
}

}  // namespace

size_t conv2d_lrt_workspace(const ConvForward& args, int multiprocessors) {
  check(args.problem.s);
  return ForwardPlan(args, multiprocessors, nullptr).bytes;
}
size_t conv2d_lrt_workspace(const ConvBackward& args, int multiprocessors) {
  check(args.problem.s);
  return BackwardPlan(args, multiprocessors, nullptr).bytes;
}

void conv2d_lrt_forward(const ConvForward& f, int multiprocessors, void* workspace, void* stream) {
  const ConvShape& s = f.problem.s;
  const Layout y = output(s);
  const ForwardPlan plan(f, multiprocessors, workspace);
  ConvArgs args = product_args(f.problem, f.w, plan.plan, group_in(s) * taps(s));
  args.a = f.x;
  args.from_a = patches_of_x(s);
  args.whole_a = is_whole(args.from_a, f.problem.type, f.x);
  args.seed = f.seed;
  args.bias = f.bias;
  args.eps = f.eps;
  args.result = f.y;
  args.std = f.r;
  set_result(args, y);
  args.whole_result =
      y.pixels() % 4 == 0 && is_aligned(f.y, 4 * size_of(f.problem.type)) && is_aligned(f.r, 16);
  launch<Pass::kForward>(f.problem, args, stream);
}

void conv2d_lrt_backward(const ConvBackward& b, int multiprocessors, void* workspace, void* stream) {
  const BackwardPlan plan(b, multiprocessors, workspace);
  if (b.dx || b.dmu) noise_gradient(b, plan.g_v, stream);
  if (b.dx) input_gradient(b, plan, stream);
  if (b.dmu) weight_gradient(b, plan, stream);
}

}  // namespace cuda
}  // namespace vdk
