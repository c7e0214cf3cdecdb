// Names of the priors, in the order of vdropkern/ops/kl/reference.py.
#pragma once

namespace vdk {
enum class Prior : int { kNone = -1, kLogUniform = 0, kKingma = 1, kExact = 2, kArd = 3 };
}
