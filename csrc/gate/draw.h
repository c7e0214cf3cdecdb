// The gates of a run of channels and their derivatives by both parameters.
#pragma once
#include "../random/runs.h"
#include "concrete.h"
#include "gate.h"
#include "truncated.h"

namespace vdk {
namespace VDK_ISA {

constexpr int64_t kGateChunk = 512;  // channels drawn at a time: a multiple of every kRunLength

// Gates of one row; the derivatives are written where they are asked for.
template <class T>
struct GateRow {
  alignas(64) T theta[kGateChunk];
  alignas(64) T by_location[kGateChunk];
  alignas(64) T by_log_sigma2[kGateChunk];
};

// u and 1 - u, each exact where it is small, of the words of kLanes<double> elements.
VDK_INLINE void uniforms(const uint32_t* words, VecD& u, VecD& rest) {
  typedef uint32_t Half __attribute__((vector_size(VDK_VECTOR_BYTES / 2)));
  Half w;
  __builtin_memcpy(&w, words, sizeof w);
  u = (__builtin_convertvector(w, VecD) + 0.5) * 0x1p-32;
  rest = (__builtin_convertvector(~w, VecD) + 0.5) * 0x1p-32;
}

VDK_INLINE VecF log_odds(const uint32_t* words, float) {
  VecU w;
  __builtin_memcpy(&w, words, sizeof w);
  return 0.5f * (minus_two_log<VecF>(~w) - minus_two_log<VecF>(w));
}
VDK_INLINE VecD log_odds(const uint32_t* words, double) {
  VecD u, rest;
  uniforms(words, u, rest);
  return log_f64(u) - log_f64(rest);
}

// doubles to T
VDK_INLINE void store_as(double* to, VecD v) { store(to, v); }
VDK_INLINE void store_as(float* to, VecD v) {
  typedef float Half __attribute__((vector_size(VDK_VECTOR_BYTES / 2)));
  const Half h = __builtin_convertvector(v, Half);
  __builtin_memcpy(to, &h, sizeof h);
}

template <class T>
VDK_INLINE VecD load_doubles(const T* p, int64_t n) {
  VecD v{};
  for (int i = 0; i < kLanes<double> && i < n; ++i) v[i] = double(p[i]);
  return v;
}

namespace {

// What log-normal channels share, for every kLanes<double> of them.
template <class T>
void prepare_channels(const GateDistribution<T>& g, int64_t channels, LogNormalChannels<VecD>* out) {
  for (int64_t c = 0; c < channels; c += kLanes<double>)
    out[c / kLanes<double>] =
        log_normal_channels(load_doubles(g.location + c, channels - c),
                            load_doubles(g.log_sigma2 + c, channels - c), g.low, g.high);
}

template <class T>
void draw_log_normal(const GateDistribution<T>& g, const LogNormalChannels<VecD>* prepared,
                     const uint32_t* words, int64_t n, bool derivatives, T* theta, T* by_location,
                     T* by_log_sigma2) {
  for (int64_t i = 0; i < n; i += kLanes<double>) {
    VecD u, rest;
    uniforms(words + i, u, rest);
    constexpr bool kSingle = sizeof(T) == 4;
    const LogNormalChannels<VecD>& c = prepared[i / kLanes<double>];
    const LogNormalDraw<VecD> d =
        sum_lanes<double>(c.above + c.below) == 0
            ? log_normal_draw<kSingle, true>(c, u, rest, g.low, g.high, derivatives)
            : log_normal_draw<kSingle, false>(c, u, rest, g.low, g.high, derivatives);
    store_as(theta + i, d.theta);
    if (!derivatives) continue;
    store_as(by_location + i, d.by_location);
    store_as(by_log_sigma2 + i, d.by_log_sigma2);
  }
}

// Channels [first, first + n) of one row, first a multiple of kRunLength and n <= kGateChunk.
template <class T>
void draw_gates(const GateDistribution<T>& g, const LogNormalChannels<VecD>* prepared, const NoiseGrid& grid,
                int64_t row, int64_t first, int64_t n, bool derivatives, GateRow<T>& out) {
  using V = Vec<T>;
  const ConcreteNumbers<T> numbers(g.temperature, g.low, g.high);
  for (int64_t c = 0; c < n; c += kRunLength) {
    const uint64_t group = uint64_t(row) * grid.groups + uint64_t(first + c) / 4;
    const int64_t run = n - c < kRunLength ? n - c : kRunLength;
    const T *const a = g.location + first + c, *const b = g.log_sigma2 ? g.log_sigma2 + first + c : nullptr;
    alignas(64) uint32_t words[kRunLength];
    alignas(64) T normals[kRunLength];
    if (g.kind == GateKind::kNormal)
      draw(grid, group, normals);
    else
      draw(grid, group, words);
    if (g.kind == GateKind::kLogNormal) {
      draw_log_normal(g, prepared + (first + c) / kLanes<double>, words, run, derivatives, out.theta + c,
                      out.by_location + c, out.by_log_sigma2 + c);
      continue;
    }
    for (int64_t i = 0; i < run; i += kLanes<T>) {
      V theta, slope = V{} + 1, other{};
      if (g.kind == GateKind::kNormal) {
        other = exponential(load_first(b + i, run - i) * T(0.5)) * load(normals + i);
        theta = load_first(a + i, run - i) + other;
        other *= T(0.5);
      } else {
        concrete_draw(g.kind, numbers, log_odds(words + i, T{}), load_first(a + i, run - i), theta, slope);
      }
      store(out.theta + c + i, theta);
      store(out.by_location + c + i, slope);
      store(out.by_log_sigma2 + c + i, other);
    }
  }
}

}  // namespace
}  // namespace VDK_ISA
}  // namespace vdk
