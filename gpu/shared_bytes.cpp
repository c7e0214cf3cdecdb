// Prints "<kernel> <bytes>" for kernels that take dynamic shared memory: only the launchers know how much.
#define VDK_EMULATED
#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <typeinfo>

#include "conv2d_lrt/cuda.cuh"
#include "xnor/cuda.cuh"

using namespace vdk::cuda;

template <class P>
void print() {
  char* const name = abi::__cxa_demangle(typeid(P).name(), nullptr, nullptr, nullptr);
  std::printf("lrt_product<%s>\t%zu\n", name, size_t(SharedLayout<P>::kBytes));
  std::printf("lrt_finish<%s>\t%zu\n", name, size_t(SharedLayout<P>::kFinish));
  std::free(name);
}
template <class Count>
void print_count() {
  char* const name = abi::__cxa_demangle(typeid(Count).name(), nullptr, nullptr, nullptr);
  std::printf("xnor_product<%s>\t%zu\n", name, size_t(SharedCounts<Count>::kBytes));
  std::free(name);
}
template <template <class, Pass, int> class P, class Math, int kBlockM>
void print_of() {
  print<P<Math, Pass::kForward, kBlockM>>();
  print<P<Math, Pass::kInput, kBlockM>>();
  print<P<Math, Pass::kWeights, kBlockM>>();
}
template <class Math, int kBlockM>
void print_passes() {
  print_of<Product, Math, kBlockM>();
  print_of<ConvProduct, Math, kBlockM>();
}
template <class Math>
void print_both() {
  print_passes<Math, 64>();
  print_passes<Math, 128>();
}

int main() {
  print_passes<IeeeMath, 64>();
  print_both<Tf32Math<1, 1>>();
  print_both<Tf32Math<3, 1>>();
  print_both<Tf32Math<3, 3>>();
  print_both<HalfMath<vdk::BFloat16>>();
  print_both<HalfMath<vdk::Float16>>();
  print_count<CountByPopc>();
  print_count<CountByMma<64>>();
  print_count<CountByMma<128>>();
}
