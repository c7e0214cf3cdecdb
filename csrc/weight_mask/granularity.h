// Of what the smallest are dropped.
#pragma once

namespace vdk {

enum class Granularity : int { kWeight = 0, kUnit = 1, kUnitElement = 2 };

}  // namespace vdk
