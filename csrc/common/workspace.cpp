#include "workspace.h"

#include <cstdlib>
#include <new>
#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
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
#ifdef __SANITIZE_ADDRESS__
    // what a call did not ask for is out of its bounds, though the buffer has it
    ASAN_POISON_MEMORY_REGION(p_, size_);
    ASAN_UNPOISON_MEMORY_REGION(p_, bytes);
#endif
    return p_;
  }

 private:
  void* p_ = nullptr;
  size_t size_ = 0;
};

// glibc gives memory at the top of the heap back to the system once it exceeds twice the largest mapped block
// that was ever freed. The gradients of one layer, freed at every step, exceed it at once, and every step
// then faults their pages in again (a third of the time of a small net's step). Freeing one untouched block
// of the largest size that counts moves the limit to 64 MB, as freeing any tensor of that size would.
void keep_freed_memory() {
  constexpr size_t kLargestThatCounts = (size_t{32} << 20) - (64 << 10);
  void* volatile block = std::malloc(kLargestThatCounts);
  std::free(block);
}

}  // namespace

void* scratch(Scratch name, size_t bytes) {
  static const bool once = (keep_freed_memory(), true);
  (void)once;
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
