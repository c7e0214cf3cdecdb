// y = x * noise of mean 1, drawn and never stored: fixed noise, or Gaussian noise of learned variance on x +
// bias.
#pragma once
#include "../common/half.h"
#include "../common/isa.h"
#include "../common/parallel.h"
#include "noise.h"

namespace vdk {

// How x lies in memory, and with that where an element finds its noise. Row-major: the noise of a [rows,
// cols] tensor. Channels last: the same noise, of [images * channels * height, width], while memory runs over
// images, height, width, channels.
struct NoiseLayout {
  int64_t rows, cols;
  int64_t channels, height;  // channels last; else channels is 0
  int64_t numel() const { return rows * cols; }
};

template <class E>
struct MulNoiseArgs {
  const E* x;
  E* y;
  NoiseLayout layout;
  Noise noise;
  double strength;
  uint64_t seed;
};

// In memory order x is [outer, channels, inner], and its element of channel c has std[c] = sqrt(alpha_c) and
// bias[c]: one rule for noise per layer, unit, channel or element. T is double for double, else float.
struct ChannelRuns {
  int64_t outer, channels, inner;
};
template <class E, class T>
struct LearnedNoiseArgs {
  const E* x;
  const E* dy;  // null: forward
  E* out;       // y, or dx
  NoiseLayout layout;
  ChannelRuns runs;
  const T* log_alpha;  // [channels], or one value
  bool one_alpha;
  const T* bias;  // [channels] or null
  uint64_t seed;
  T* dlog_alpha;  // of log_alpha's size
  T* dbias;       // [channels]; null without a bias
};

VDK_DECLARE_KERNEL(
    void mul_noise(const MulNoiseArgs<float>& args, const Parallel& parallel);
    void mul_noise(const MulNoiseArgs<double>& args, const Parallel& parallel);
    void mul_noise(const MulNoiseArgs<Float16>& args, const Parallel& parallel);
    void mul_noise(const MulNoiseArgs<BFloat16>& args, const Parallel& parallel);
    void mul_noise_learned(const LearnedNoiseArgs<float, float>& args, const Parallel& parallel);
    void mul_noise_learned(const LearnedNoiseArgs<double, double>& args, const Parallel& parallel);
    void mul_noise_learned(const LearnedNoiseArgs<Float16, float>& args, const Parallel& parallel);
    void mul_noise_learned(const LearnedNoiseArgs<BFloat16, float>& args, const Parallel& parallel);)
}  // namespace vdk
