// Switching stacks, and telling the sanitizers of it.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <new>
#include <vector>

#if defined(VDK_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(VDK_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emu {

// What happens inside is the machine's own doing, no access of a kernel.
struct Unobserved {
#ifdef VDK_TSAN
  Unobserved() {
    AnnotateIgnoreReadsBegin("", 0);
    AnnotateIgnoreWritesBegin("", 0);
  }
  ~Unobserved() {
    AnnotateIgnoreReadsEnd("", 0);
    AnnotateIgnoreWritesEnd("", 0);
  }
#else
  Unobserved() {}
#endif
};

inline void acquire([[maybe_unused]] void* object) {
#ifdef VDK_TSAN
  __tsan_acquire(object);
#endif
}
inline void release([[maybe_unused]] void* object) {
#ifdef VDK_TSAN
  __tsan_release(object);
#endif
}
inline void forbid([[maybe_unused]] const void* p, [[maybe_unused]] size_t bytes) {
#ifdef VDK_ASAN
  __asan_poison_memory_region(p, bytes);
#endif
}
inline void allow([[maybe_unused]] const void* p, [[maybe_unused]] size_t bytes) {
#ifdef VDK_ASAN
  __asan_unpoison_memory_region(p, bytes);
#endif
}

#if defined(__x86_64__)
extern "C" void vdk_emu_switch(void** from, void* to);
#endif

// A stack with a place to resume; the host's own stack is a Fiber too.
class Fiber {
 public:
#if defined(VDK_ASAN)
  static constexpr size_t kStackBytes = 256 << 10;  // red zones make frames large
#else
  static constexpr size_t kStackBytes = 64 << 10;
#endif

  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() { drop(); }

  // Make the next switch to this fiber enter `entry`, on a fresh stack.
  void prepare(void (*entry)()) {
    if (!stack_) {
      stack_ = static_cast<char*>(std::aligned_alloc(64, kStackBytes));
      if (!stack_) throw std::bad_alloc();
    }
    allow(stack_, kStackBytes);
#ifdef VDK_TSAN
    if (!tsan_) tsan_ = __tsan_create_fiber(0);
#endif
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(stack_ + kStackBytes - 64);
    *--top = nullptr;  // where entry would return to
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    resume_at_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }

  // Forget the stack and the sanitizer's idea of the thread, so that the next one is unrelated. The sanitizer
  // gives a thread that is gone its number again and then takes both for one: so all live until `bury`.
  void drop() {
    std::free(stack_);
    stack_ = nullptr;
#ifdef VDK_TSAN
    if (tsan_) dead().push_back(tsan_);
    tsan_ = nullptr;
    if (dead().size() > 6000) bury();  // it cannot count beyond 8000
#endif
  }
  static void bury() {
#ifdef VDK_TSAN
    for (void* thread : dead()) __tsan_destroy_fiber(thread);
    dead().clear();
#endif
  }

  // Let whoever acquires `object` know all that this fiber did, though it will never get to say so.
  void testify([[maybe_unused]] const Fiber& host, [[maybe_unused]] void* object) {
#ifdef VDK_TSAN
    if (!tsan_) return;
    __tsan_switch_to_fiber(tsan_, __tsan_switch_to_fiber_no_sync);
    __tsan_release(object);
    __tsan_switch_to_fiber(host.tsan_, __tsan_switch_to_fiber_no_sync);
#endif
  }

  // Called by the host before its first switch.
  void adopt_host() {
#ifdef VDK_TSAN
    tsan_ = __tsan_get_current_fiber();
#endif
  }
  void leave_host() {
#ifdef VDK_TSAN
    tsan_ = nullptr;
#endif
  }

  // First thing on a fiber: learn where the host's stack is.
  static void entered([[maybe_unused]] Fiber& host) {
#ifdef VDK_ASAN
    const void* bottom = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    host.bottom_ = bottom;
    host.size_ = size;
#endif
  }

  static void jump(Fiber& from, Fiber& to, [[maybe_unused]] bool forever = false) {
#ifdef VDK_TSAN
    __tsan_switch_to_fiber(to.tsan_, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef VDK_ASAN
    __sanitizer_start_switch_fiber(forever ? nullptr : &from.fake_, to.stack_ ? to.stack_ : to.bottom_,
                                   to.stack_ ? kStackBytes : to.size_);
#endif
#if defined(__x86_64__)
    vdk_emu_switch(&from.resume_at_, to.resume_at_);
#else
    swapcontext(&from.context_, &to.context_);
#endif
#ifdef VDK_ASAN
    __sanitizer_finish_switch_fiber(from.fake_, nullptr, nullptr);
#endif
  }

 private:
#ifdef VDK_TSAN
  static std::vector<void*>& dead() {
    static std::vector<void*>& threads = *new std::vector<void*>;  // outlives the machine
    return threads;
  }
#endif
  char* stack_ = nullptr;
#if defined(__x86_64__)
  void* resume_at_ = nullptr;
#else
  ucontext_t context_;
#endif
#ifdef VDK_TSAN
  void* tsan_ = nullptr;
#endif
#ifdef VDK_ASAN
  const void* bottom_ = nullptr;
  size_t size_ = 0;
  void* fake_ = nullptr;
#endif
};

}  // namespace emu
