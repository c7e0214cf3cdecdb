// One way to launch a kernel: VDK_LAUNCH(kernel, grid, block, shared_bytes, stream, args). An empty grid is
// no launch, sizes are 64-bit until they are checked, more than 48 KiB of shared memory is asked for, and
// what the driver refuses becomes an exception that names the kernel. A kernel with commas in its template
// arguments goes in parentheses.
#pragma once
#include <climits>
#include <stdexcept>
#include <string>

#include "simt.cuh"

#ifdef VDK_EMULATED
#define VDK_KERNEL_NAME(kernel) ::emu::name_of<(kernel)>()  // with its template arguments
#else
#define VDK_KERNEL_NAME(kernel) #kernel
#endif
#define VDK_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::vdk::launch(VDK_KERNEL_NAME(kernel), kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

namespace vdk {

// Blocks of a launch; dimensions are counts of tiles, which may be 0.
struct Grid {
  int64_t x, y = 1, z = 1;
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline dim3 checked_grid(const char* name, const Grid& g) {
  if (g.x > INT_MAX || g.y > 65535 || g.z > 65535)
    throw std::runtime_error(std::string("kernel ") + name + ": the tensor is too large for one launch");
  return dim3(unsigned(g.x), unsigned(g.y), unsigned(g.z));
}

#ifdef VDK_EMULATED
template <class Args>
void launch(const char* name, void (*kernel)(Args), const Grid& g, dim3 block, size_t shared_bytes, void*,
            const Args& args) {
  if (g.x == 0 || g.y == 0 || g.z == 0) return;
  emu::launch(name, checked_grid(name, g), block, shared_bytes, [&] { kernel(args); });
}
#else
inline void check(const char* name, cudaError_t status) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // a refused launch must not fail the next one too
  throw std::runtime_error(std::string("kernel ") + name + ": " + cudaGetErrorString(status));
}

template <class Args>
void launch(const char* name, void (*kernel)(Args), const Grid& g, dim3 block, size_t shared_bytes,
            void* stream, const Args& args) {
  if (g.x == 0 || g.y == 0 || g.z == 0) return;
  constexpr size_t kWithoutAsking = 48 << 10;
  if (shared_bytes > kWithoutAsking)
    check(name, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)));
  void* arguments[] = {const_cast<Args*>(&args)};
  check(name, cudaLaunchKernel(reinterpret_cast<const void*>(kernel), checked_grid(name, g), block, arguments,
                               shared_bytes, static_cast<cudaStream_t>(stream)));
}
#endif

}  // namespace vdk
