#include "cuda.cuh"

namespace vdk {
namespace cuda {
namespace {

int64_t power_of_two(int64_t n) {  // the least that is n or more
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// How threads share x: a function of shape and kind alone, and so are the sums' last bits.
struct Plan {
  bool columns;
  int64_t owned, tall, wide;  // see GateKernelArgs
  int64_t across, parts_wide, parts;

  Plan(const GateShape& s, GateKind kind) : columns(s.channels_last || s.spatial == 1) {
    if (columns) {
      const bool single = kind == GateKind::kLogNormal;
      const int64_t each = single ? 1 : 4;  // channels a thread
      owned = least(kGateAcross, power_of_two(ceil_div(s.channels, each)));
      const int64_t rows = single ? 16 : 8, pixels = 128 / each;  // a thread
      const int64_t threads = single ? kGateThreads<1> : kGateThreads<4>;
      const int64_t positions = threads / owned * (s.spatial == 1 ? rows : pixels);
      wide = least(s.spatial, positions);
      tall = positions / wide;
      across = ceil_div(s.channels, owned * each);
    } else {
      constexpr int64_t kLine = 4096, kElements = 1024;  // a warp: the longest part of a line, the fewest
      owned = least(32, least(power_of_two(s.channels), power_of_two(ceil_div(kElements, s.spatial))));
      wide = least(s.spatial, kLine);
      tall = most(1, ceil_div(kElements, owned * s.spatial));
      across = ceil_div(s.channels, owned);
    }
    parts_wide = ceil_div(s.spatial, wide);
    parts = ceil_div(s.rows, tall) * parts_wide;
    if (parts * across > INT_MAX) throw std::runtime_error("gate: the tensor is too large for one launch");
  }
};

template <class E>
struct Launch {
  using C = ComputeOf<E>;
  const GateArgs<E>& of;
  void* stream;
  Plan plan;

  Launch(const GateArgs<E>& args, void* to) : of(args), stream(to), plan(args.shape, args.kind) {}

  bool whole() const {
    const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % alignof(Four<E>) == 0; };
    return (plan.columns ? of.shape.channels : of.shape.spatial) % 4 == 0 && aligned(of.given) &&
           aligned(of.x) && aligned(of.out);
  }

  GateKernelArgs<E> arguments() const {
    const GateShape& s = of.shape;
    const GateDraws<C> draws{of.kind, of.location, of.log_sigma2, of.seed, {of.temperature, of.low, of.high},
                             of.low,  of.high};
    const int64_t lanes = least(32, power_of_two(ceil_div(plan.wide, whole() ? 4 : 1)));
    GateKernelArgs<E> args{of.given,
                           of.x,
                           of.out,
                           draws,
                           s.rows,
                           s.channels,
                           s.spatial,
                           of.per_sample,
                           {of.d_location, of.d_log_sigma2},
                           plan.tall,
                           plan.wide,
                           Divisor(plan.across),
                           Divisor(plan.parts_wide),
                           plan.parts * plan.across,
                           int(plan.owned),
                           int(lanes)};
    if (plan.parts > 1) {
      args.sums[0] = of.workspace;
      if (of.d_log_sigma2) args.sums[1] = of.workspace + plan.parts * s.channels;
    }
    return args;
  }

  template <template <class> class Channel, bool kSums>
  void kernel() const {
    constexpr int kThreads = kGateThreads<Channel<C>::kPer>;
    const GateKernelArgs<E> args = arguments();
    if (plan.columns) {
      const Grid grid{plan.parts * plan.across};
      if (Channel<C>::kPer == 4 && whole())
        VDK_LAUNCH((gate_columns<E, Channel, kSums, Channel<C>::kPer == 4>), grid, kThreads, 0, stream, args);
      else
        VDK_LAUNCH((gate_columns<E, Channel, kSums, false>), grid, kThreads, 0, stream, args);
      return;
    }
    const Grid grid{ceil_div(args.units, kThreads / 32)};
    if (whole())
      VDK_LAUNCH((gate_lines<E, Channel, kSums, true>), grid, kThreads, 0, stream, args);
    else
      VDK_LAUNCH((gate_lines<E, Channel, kSums, false>), grid, kThreads, 0, stream, args);
  }

  void add(const C* partial, C* sums) const {
    const int64_t n = of.shape.channels;
    VDK_LAUNCH(sum_parts_kernel<C>, Grid{ceil_div(n, kPartsThreads)}, kPartsThreads, 0, stream,
               PartsArgs<C>{partial, plan.parts, n, sums});
  }

  template <template <class> class Channel>
  void all() const {
    if (!of.x) return kernel<Channel, false>();
    kernel<Channel, true>();
    if (plan.parts == 1) return;
    add(of.workspace, of.d_location);
    if (of.d_log_sigma2) add(of.workspace + plan.parts * of.shape.channels, of.d_log_sigma2);
  }
};

template <class E>
void gate_all(const GateArgs<E>& args, void* stream) {
  const GateShape& s = args.shape;
  if (s.rows * s.channels * s.spatial == 0) return;
  const Launch<E> launch(args, stream);
  args.kind == GateKind::kLogNormal ? launch.template all<LogNormalChannel>()
                                    : launch.template all<PlainChannel>();
}

}  // namespace

int64_t gate_workspace(const GateShape& s, GateKind kind) {
  if (s.rows * s.channels * s.spatial == 0) return 0;
  const Plan plan(s, kind);
  return plan.parts > 1 ? 2 * plan.parts * s.channels : 0;
}

void gate(const GateArgs<float>& args, void* stream) { gate_all(args, stream); }
void gate(const GateArgs<double>& args, void* stream) { gate_all(args, stream); }
void gate(const GateArgs<Float16>& args, void* stream) { gate_all(args, stream); }
void gate(const GateArgs<BFloat16>& args, void* stream) { gate_all(args, stream); }

}  // namespace cuda
}  // namespace vdk
