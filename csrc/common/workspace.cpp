#include "workspace.h"

#include <cstdlib>
#include <new>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace vdk {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

class Buffer {
 public:
  ~Buffer() { std::free(p_); }
  void* at_least(size_t bytes) {
    if (bytes > size_) {
      std::free(p_);
      const size_t unit = bytes < kHugePage ? 4096 : kHugePage;
      size_ = (bytes + unit - 1) / unit * unit;
      p_ = std::aligned_alloc(unit, size_);
      if (!p_) {
        size_ = 0;
        throw std::bad_alloc();
      }
      advise_huge_pages(p_, size_);
    }
    return p_;
  }

 private:
  void* p_ = nullptr;
  size_t size_ = 0;
};

}  // namespace

void* scratch(Scratch name, size_t bytes) {
  static thread_local Buffer buffers[2];
  return buffers[int(name)].at_least(bytes ? bytes : 1);
}

void advise_huge_pages(void* p, size_t bytes) {
#ifdef __linux__
  if (bytes < 2 * kHugePage) return;
  const uintptr_t first = (uintptr_t(p) + 4095) / 4096 * 4096, last = (uintptr_t(p) + bytes) / 4096 * 4096;
  (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a hint: failure is no error
#else
  (void)p;
  (void)bytes;
#endif
}

}  // namespace vdk
