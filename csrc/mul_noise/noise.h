// Kinds of multiplicative noise, in the order of vdropkern/ops/mul_noise/reference.py.
#pragma once

namespace vdk {

enum class Noise : int {
  kBernoulli = 0,  // 0 with probability strength, else 1 / (1 - strength)
  kGaussian = 1    // N(1, strength)
};

}  // namespace vdk
