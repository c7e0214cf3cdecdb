// Types of elements, for those who only pass pointers to them; simt.cuh defines them.
#pragma once
#include <type_traits>

namespace vdk {

struct Float16;
struct BFloat16;

// Half types are computed with in float, and rounded once.
template <class E>
using ComputeOf = std::conditional_t<std::is_same_v<E, double>, double, float>;

}  // namespace vdk
