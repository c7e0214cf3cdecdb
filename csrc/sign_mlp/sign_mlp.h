// Losses of many perturbed copies of a net of sign layers, and sums of the noise that perturbed them: what a
// search over weights needs. Noise is drawn from seeds and never stored.
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"

namespace vdk {

// width inputs, `depth` times a linear layer of `width` outputs and a sign, a linear layer of one output.
// Parameters in torch's order: each layer's weight [outputs, inputs], then its bias.
struct SignMlpArgs {
  const float* x;        // [rows, width]
  const float* y;        // [rows]
  const float* mu;       // [parameters]
  const float* sigma;    // [parameters]
  const int64_t* seeds;  // [draws]
  int64_t rows, width, depth, draws;
  bool antithetic;  // each draw once with either sign, + first
  float* losses;    // [draws], or [2 draws]: mean squared errors

  int64_t parameters() const { return depth * (width * width + width) + width + 1; }
};

struct NoiseMomentsArgs {
  const int64_t* seeds;                   // [draws]
  const float *weights, *square_weights;  // [draws]
  int64_t draws, parameters;
  float* first;   // [parameters]: sum of weight times noise
  float* second;  // [parameters]: sum of square weight times (noise^2 - 1)
};

VDK_DECLARE_KERNEL(void sign_mlp_losses(const SignMlpArgs& args, const Parallel& parallel);
                   void noise_moments(const NoiseMomentsArgs& args, const Parallel& parallel);)
}  // namespace vdk
