// Scratch memory that outlives a call: fresh pages cost more than many a kernel (a page fault a 4 KiB).
#pragma once
#include <cstddef>
#include <cstdint>

namespace vdk {

// Two buffers a thread: one for what all tasks of a call share, one for what a task needs for itself.
enum class Scratch { kShared, kTask };

// At least `bytes` of 64-byte aligned memory of this thread, valid until its next call with the same name.
// Contents are undefined. Memory is kept until the thread ends.
void* scratch(Scratch name, size_t bytes);

// Ask for huge pages under memory about to be written for the first time; does nothing where it cannot.
void advise_huge_pages(void* p, size_t bytes);

// Hands out aligned pieces of one buffer: first count them all, then take them in the same order.
class Carver {
 public:
  explicit Carver(void* base = nullptr) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t n) {
    char* const p = base_ ? base_ + used_ : nullptr;
    used_ += (size_t(n) * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(p);
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace vdk
