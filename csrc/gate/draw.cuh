// Gates as a thread draws them, one at a time from the word that is its own, and what the draws of a channel
// share.
#pragma once
#include "../cuda/vector.cuh"
#include "../random/noise.cuh"
#include "concrete.h"
#include "cuda.h"
#include "truncated.h"

namespace vdk {
namespace cuda {

template <class C>
struct Gate {
  C theta, by_location, by_log_sigma2;
};

template <class C>
struct GateDraws {
  GateKind kind;
  const C* location;
  const C* log_sigma2;
  const int64_t* seed;
  ConcreteNumbers<C> numbers;
  double low, high;  // of the truncated log-normal
};

VDK_DEVICE float log_odds(uint32_t word, float) {
  return 0.5f * (minus_two_log<float>(~word) - minus_two_log<float>(word));
}
VDK_DEVICE double log_odds(uint32_t word, double) {
  return log((word + 0.5) * 0x1p-32) - log((~word + 0.5) * 0x1p-32);
}

// The normal of word j; those of its pair, drawn beside it, are the same to the compiler.
template <class C>
VDK_DEVICE C normal_of(const uint32_t (&words)[4], int j) {
  const uint32_t radius = j < 2 ? words[0] : words[2], angle = j < 2 ? words[1] : words[3];
  const uint32_t twice[4] = {radius, angle, radius, angle};
  C z[4];
  if constexpr (sizeof(C) == 8)
    box_muller_f64(twice, z);
  else
    box_muller(twice, z);
  return j % 2 ? z[1] : z[0];
}

// Every kind but the log-normal, in the type that x is computed in. A thread takes four channels.
template <class C>
struct PlainChannel {
  static constexpr int kPer = 4;
  C location, sigma;

  VDK_DEVICE void prepare(const GateDraws<C>& of, C of_location, C log_sigma2) {
    location = of_location;
    sigma = of.kind == GateKind::kNormal ? exponential(C(0.5) * log_sigma2) : C(0);
  }

  VDK_DEVICE Gate<C> draw(const GateDraws<C>& of, const uint32_t (&words)[4], int j) const {
    Gate<C> gate{location, C(1), C(0)};
    if (of.kind == GateKind::kSwitch) return gate;
    if (of.kind == GateKind::kNormal) {
      const C noise = sigma * normal_of<C>(words, j);
      gate.theta += noise;
      gate.by_log_sigma2 = C(0.5) * noise;
      return gate;
    }
    concrete_draw(of.kind, of.numbers, log_odds(word_of(words, j), C{}), location, gate.theta,
                  gate.by_location);
    return gate;
  }
};

// The log-normal in double whatever the tensors are, and one channel a thread: what its draws share fills
// forty registers and takes longer than a draw.
template <class C>
struct LogNormalChannel {
  static constexpr int kPer = 1;
  LogNormalChannels<double> shared;

  VDK_DEVICE void prepare(const GateDraws<C>& of, C location, C log_sigma2) {
    shared = log_normal_channels(double(location), double(log_sigma2), of.low, of.high);
  }

  VDK_DEVICE Gate<C> draw(const GateDraws<C>& of, const uint32_t (&words)[4], int j) const {
    constexpr bool kSingle = sizeof(C) == 4;
    const uint32_t word = word_of(words, j);
    const double u = (word + 0.5) * 0x1p-32, rest = (~word + 0.5) * 0x1p-32;
    const LogNormalDraw<double> d =
        shared.above + shared.below == 0
            ? log_normal_draw<kSingle, true>(shared, u, rest, of.low, of.high, true)
            : log_normal_draw<kSingle, false>(shared, u, rest, of.low, of.high, true);
    return {C(d.theta), C(d.by_location), C(d.by_log_sigma2)};
  }
};

}  // namespace cuda
}  // namespace vdk
