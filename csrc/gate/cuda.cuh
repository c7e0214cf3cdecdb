// Memory-bound but for the log-normal: x, and dy, are read once and the result is written once. Gates are
// drawn where they are used, so none is stored.
//
// Where a channel has many elements in a row of memory (gate_lines), a warp owns some channels: each lane
// draws the gate of one, then all go through the channels' elements, one channel after the other, taking its
// gate by a shuffle. Where neighbours in memory are of different channels (gate_columns), each thread has its
// own channels and goes down the rows. Gradients are summed on the way: part after part in a fixed order.
#pragma once
#include "../cuda/divisor.cuh"
#include "../cuda/reduce.cuh"
#include "draw.cuh"

namespace vdk {
namespace cuda {

// Of a block; the log-normal, one channel a thread, takes so many registers that half as many leave more of
// them at work.
template <int kPer>
constexpr int kGateThreads = kPer == 1 ? 128 : 256;
constexpr int kGateAcross = 64;  // threads side by side, of gate_columns
// Blocks that a multiprocessor is to hold; double is not held back, nor is the log-normal, which would spill.
template <class C, int kPer, bool kSums>
constexpr int kGateBlocks = kPer == 1 || sizeof(C) == 8 ? 1
                            : kSums                     ? 2
                                                        : 3;

template <class E>
struct GateKernelArgs {
  using C = ComputeOf<E>;
  const E *given, *x;
  E* out;
  GateDraws<C> draws;
  int64_t rows, channels, spatial;
  bool per_sample;
  C* sums[2];  // by location and by log_sigma2, [parts, channels] each; the second may be null
  // A part is `tall` rows and `wide` of `spatial`; blocks or warps take parts, and in them some channels.
  int64_t tall, wide;
  Divisor across, parts_wide;  // groups of channels; parts side by side
  int64_t units;               // warps, of gate_lines
  // gate_lines: channels a warp owns and lanes that share a channel's line; gate_columns: threads across
  // channels and down rows or pixels. All are powers of two.
  int owned, lanes;
};

// One element, or four where they are whole and lie at a multiple of their size.
template <class E, int kN>
struct Some {
  E v[kN];
};
template <class E, int kN>
VDK_DEVICE Some<E, kN> load_some(const E* p) {
  Some<E, kN> some;
  if constexpr (kN == 4) {
    const Four<E> four = load_four(p, 4, true);
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) some.v[j] = four.v[j];
  } else {
    some.v[0] = load_global<E>(p);
  }
  return some;
}
template <class E, int kN>
VDK_DEVICE void store_some(E* p, const Some<E, kN>& some) {
  if constexpr (kN == 4) {
    Four<E> four;
    VDK_UNROLL
    for (int j = 0; j < 4; ++j) four.v[j] = some.v[j];
    store_whole_four(p, four);
  } else {
    store_global(p, some.v[0]);
  }
}

// Elements 0 ... of a line, `lanes` threads taking turns, of which this is number `mine`. The sum of given x.
template <class E, bool kSums, bool kWide>
VDK_DEVICE ComputeOf<E> gate_line(const GateKernelArgs<E>& a, int64_t at, int n, int mine, int lanes,
                                  ComputeOf<E> theta) {
  constexpr int kN = kWide ? 4 : 1, kBatch = kWide ? 2 : 4;
  ComputeOf<E> sum = 0;
  for (int i = mine * kN; i < n; i += lanes * (kN * kBatch)) {
    Some<E, kN> given[kBatch], x[kBatch];
    VDK_UNROLL
    for (int b = 0; b < kBatch; ++b) {
      const int place = i + b * lanes * kN;
      if (place >= n) continue;
      given[b] = load_some<E, kN>(a.given + at + place);
      if constexpr (kSums) x[b] = load_some<E, kN>(a.x + at + place);
    }
    VDK_UNROLL
    for (int b = 0; b < kBatch; ++b) {
      const int place = i + b * lanes * kN;
      if (place >= n) continue;
      Some<E, kN> out;
      VDK_UNROLL
      for (int j = 0; j < kN; ++j) {
        const auto g = computed(given[b].v[j]);
        if constexpr (kSums) sum += g * computed(x[b].v[j]);
        out.v[j] = stored<E>(g * theta);
      }
      if (!kSums || a.out) store_some(a.out + at + place, out);
    }
  }
  return sum;
}

// x is [rows, channels, spatial]. kWide: lines are whole fours at a multiple of their size.
template <class E, template <class> class Channel, bool kSums, bool kWide>
VDK_KERNEL void __launch_bounds__(kGateThreads<Channel<float>::kPer>,
                                  kGateBlocks<ComputeOf<E>, Channel<float>::kPer, false>)
    gate_lines(GateKernelArgs<E> a) {
  using C = ComputeOf<E>;
  const int lane = threadIdx.x % 32;
  const int64_t unit = int64_t(blockIdx.x) * (kGateThreads<Channel<C>::kPer> / 32) + threadIdx.x / 32;
  if (unit >= a.units) return;
  const int tile = a.across.of(int(unit)), strip = a.parts_wide.of(tile);
  const int64_t part_wide = tile - int64_t(strip) * a.parts_wide.divisor;
  const int64_t first = (unit - int64_t(tile) * a.across.divisor) * a.owned;
  const int64_t begin = part_wide * a.wide, left = a.spatial - begin;
  const int n = int(left < a.wide ? left : a.wide);

  const int own = lane % a.owned;
  const int64_t channel = first + own < a.channels ? first + own : a.channels - 1;
  C parameters[2] = {};
  if (lane < a.owned) {
    parameters[0] = load_global<C>(a.draws.location + channel);
    if (a.draws.log_sigma2) parameters[1] = load_global<C>(a.draws.log_sigma2 + channel);
  }
  Channel<C> channels;
  channels.prepare(a.draws, __shfl_sync(~0u, parameters[0], own), __shfl_sync(~0u, parameters[1], own));
  const NoiseKey key = noise_key(a.draws.seed);
  const int at_once = 32 / a.lanes < a.owned ? 32 / a.lanes : a.owned, group = lane / a.lanes;
  const int64_t top = strip * a.tall, bottom = top + a.tall < a.rows ? top + a.tall : a.rows;
  Gate<C> gate{};
  C sums[2] = {};
  for (int64_t row = top; row < bottom; ++row) {
    if (a.per_sample || row == top) {
      uint32_t words[4];
      noise_words(key, uint64_t((a.per_sample ? row : 0) * groups_of(a.channels) + channel / 4), words);
      gate = channels.draw(a.draws, words, int(channel % 4));
    }
    C of_own = 0;
    for (int i = 0; i < a.owned; i += at_once) {
      const int line = i + group % at_once;
      const C theta = __shfl_sync(~0u, gate.theta, line);
      C sum = 0;
      if (group < at_once && first + line < a.channels)
        sum = gate_line<E, kSums, kWide>(a, (row * a.channels + first + line) * a.spatial + begin, n,
                                         lane % a.lanes, a.lanes, theta);
      if constexpr (kSums) {
        for (int step = a.lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        const C total = __shfl_sync(~0u, sum, own % at_once * a.lanes);
        if (i <= own && own < i + at_once) of_own = total;
      }
    }
    sums[0] += of_own * gate.by_location;
    sums[1] += of_own * gate.by_log_sigma2;
  }
  if constexpr (kSums) {
    if (lane >= a.owned || first + own >= a.channels) return;
    store_global(a.sums[0] + tile * a.channels + channel, sums[0]);
    if (a.sums[1]) store_global(a.sums[1] + tile * a.channels + channel, sums[1]);
  }
}

// The sums of a block over the threads of a channel, [1 of a part, channels].
template <int kPer, class C>
VDK_DEVICE void sum_down(const C (&mine)[kPer], C* sums, int across, int64_t first, int64_t channels) {
  VDK_SHARED_ARRAY(C, shared, kGateThreads<kPer> * kPer);
  __syncthreads();  // of the sums before these
  VDK_UNROLL
  for (int j = 0; j < kPer; ++j) shared[threadIdx.x * kPer + j] = mine[j];
  __syncthreads();
  for (int i = threadIdx.x; i < across * kPer; i += kGateThreads<kPer>) {
    if (first + i >= channels) continue;
    C sum = 0;
    for (int at = i; at < kGateThreads<kPer> * kPer; at += across * kPer) sum += shared[at];
    store_global(sums + first + i, sum);
  }
}

// x is [rows, spatial, channels], spatial perhaps 1. kWide: channels are whole fours at a multiple of their
// size.
template <class E, template <class> class Channel, bool kSums, bool kWide>
VDK_KERNEL void __launch_bounds__(kGateThreads<Channel<float>::kPer>,
                                  kGateBlocks<ComputeOf<E>, Channel<float>::kPer, kSums>)
    gate_columns(GateKernelArgs<E> a) {
  using C = ComputeOf<E>;
  constexpr int kPer = Channel<C>::kPer, kBatch = kPer == 4 && kSums ? 2 : 4;
  const int across = a.owned, down = kGateThreads<kPer> / across;
  const int tile = a.across.of(int(blockIdx.x)), strip = a.parts_wide.of(tile);
  const int64_t part_wide = tile - int64_t(strip) * a.parts_wide.divisor;
  const int64_t first = (blockIdx.x - int64_t(tile) * a.across.divisor) * (across * kPer);
  const int64_t channel = first + threadIdx.x % across * kPer;
  const int n = channel >= a.channels                             ? 0
                : kPer == 1 || kWide || a.channels - channel >= 4 ? kPer
                                                                  : int(a.channels - channel);

  VDK_SHARED_ARRAY(C, locations, kGateAcross * kPer);
  VDK_SHARED_ARRAY(C, logs, kGateAcross * kPer);
  for (int i = threadIdx.x; i < across * kPer; i += kGateThreads<kPer>) {
    const bool there = first + i < a.channels;
    locations[i] = there ? load_global<C>(a.draws.location + first + i) : C(0);
    logs[i] = there && a.draws.log_sigma2 ? load_global<C>(a.draws.log_sigma2 + first + i) : C(0);
  }
  __syncthreads();
  Channel<C> channels[kPer];
  VDK_UNROLL
  for (int j = 0; j < kPer; ++j) {
    const int mine = threadIdx.x % across * kPer + j;
    channels[j].prepare(a.draws, locations[mine], logs[mine]);
  }
  const NoiseKey key = noise_key(a.draws.seed);
  // threads take turns down the rows, or where a row has pixels down those
  const bool by_row = a.spatial == 1;
  const int turn = threadIdx.x / across, row_step = by_row ? down : 1, step = by_row ? 1 : down;
  const int64_t top = strip * a.tall, bottom = top + a.tall < a.rows ? top + a.tall : a.rows;
  const int64_t begin = part_wide * a.wide, end = begin + a.wide < a.spatial ? begin + a.wide : a.spatial;
  C sums[2][kPer] = {};
  bool drawn = false;
  Gate<C> gates[kPer] = {};
  for (int64_t row = top + (by_row ? turn : 0); row < bottom; row += row_step) {
    if (a.per_sample || !drawn) {
      uint32_t words[4];
      noise_words(key, uint64_t((a.per_sample ? row : 0) * groups_of(a.channels) + channel / 4), words);
      VDK_UNROLL
      for (int j = 0; j < kPer; ++j)
        gates[j] = channels[j].draw(a.draws, words, kPer == 1 ? int(channel % 4) : j);
      drawn = true;
    }
    C of_row[kPer] = {};
    for (int64_t pixel = begin + (by_row ? 0 : turn); pixel < end; pixel += step * kBatch) {
      Four<E> given[kBatch], x[kBatch];
      VDK_UNROLL
      for (int b = 0; b < kBatch; ++b) {
        if (pixel + b * step >= end) continue;
        const int64_t at = (row * a.spatial + pixel + b * step) * a.channels + channel;
        given[b] = load_four(a.given + at, n, kWide);
        if constexpr (kSums) x[b] = load_four(a.x + at, n, kWide);
      }
      VDK_UNROLL
      for (int b = 0; b < kBatch; ++b) {
        if (pixel + b * step >= end) continue;
        const int64_t at = (row * a.spatial + pixel + b * step) * a.channels + channel;
        Four<E> out{};
        VDK_UNROLL
        for (int j = 0; j < kPer; ++j) {
          const auto g = computed(given[b].v[j]);
          if constexpr (kSums) of_row[j] += g * computed(x[b].v[j]);
          out.v[j] = stored<E>(g * gates[j].theta);
        }
        if (kSums && !a.out) continue;
        if constexpr (kWide) {
          if (n > 0) store_whole_four(a.out + at, out);
        } else {
          store_four(a.out + at, out, n, false);
        }
      }
    }
    VDK_UNROLL
    for (int j = 0; j < kPer; ++j) {
      sums[0][j] += of_row[j] * gates[j].by_location;
      sums[1][j] += of_row[j] * gates[j].by_log_sigma2;
    }
  }
  if constexpr (kSums) {
    sum_down<kPer>(sums[0], a.sums[0] + tile * a.channels, across, first, a.channels);
    if (a.sums[1]) sum_down<kPer>(sums[1], a.sums[1] + tile * a.channels, across, first, a.channels);
  }
}

}  // namespace cuda
}  // namespace vdk
