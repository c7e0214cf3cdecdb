// Prints "<kernel> <bytes>" for kernels that take dynamic shared memory: only the launchers know how much.
#define VDK_EMULATED
#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <typeinfo>

#include "conv2d_lrt/cuda.cuh"
#include "multi_sample_head/cuda.cuh"
#include "xnor/cuda.cuh"

using namespace vdk::cuda;

template <class P>
void print() {
  char* const name = abi::__cxa_demangle(typeid(P).name(), nullptr, nullptr, nullptr);
  std::printf("lrt_product<%s>\t%zu\n", name, size_t(SharedLayout<P>::kBytes));
  std::printf("lrt_finish<%s>\t%zu\n", name, size_t(SharedLayout<P>::kFinish));
  std::free(name);
}
template <class P>
void print_head(const char* kernel) {
  char* const name = abi::__cxa_demangle(typeid(P).name(), nullptr, nullptr, nullptr);
  std::printf("%s<%s>\t%zu\n", kernel, name, size_t(HeadLayout<P>::kBytes));
  std::free(name);
}
// Of type H: logits by one arithmetic, gradients by the other.
template <class H, class Logits, class Gradients, int kBlockM>
void print_head_passes() {
  print_head<HeadProduct<Logits, H, HeadPass::kLogits, kBlockM>>("head_logits");
  print_head<HeadProduct<Gradients, H, HeadPass::kInput, kBlockM>>("head_input_gradient");
  print_head<HeadProduct<Gradients, H, HeadPass::kWeight, kBlockM>>("head_weight_gradient");
}
template <class H, class Logits, class Gradients>
void print_both_heads() {
  print_head_passes<H, Logits, Gradients, 64>();
  print_head_passes<H, Logits, Gradients, 128>();
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
  print_head_passes<float, IeeeMath, IeeeMath, 64>();
  print_both_heads<float, Tf32Math<3, 3>, Tf32Math<3, 3>>();
  print_both_heads<float, Tf32Math<1, 1>, Tf32Math<1, 1>>();
  print_both_heads<vdk::BFloat16, HalfMath<vdk::BFloat16>, Tf32Math<1, 1>>();
  print_both_heads<vdk::Float16, HalfMath<vdk::Float16>, Tf32Math<1, 1>>();
  // the most it takes: as many classes as a block holds
  std::printf("head_losses<float>\t%zu\n", kHeldClasses * sizeof(float));
  print_count<CountByPopc>();
  print_count<CountByMma<64>>();
  print_count<CountByMma<128>>();
}
