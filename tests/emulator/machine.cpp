#include "machine.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "fiber.h"

#if defined(__x86_64__)
asm(R"(
.text
.globl vdk_emu_switch
.type vdk_emu_switch, @function
vdk_emu_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size vdk_emu_switch, .-vdk_emu_switch
)");
#endif

namespace emu {
namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr size_t kMaxShared = 227 << 10, kMaxStaticShared = 48 << 10;
constexpr size_t kRedZone = 128;
constexpr unsigned char kRedByte = 0xA5, kGarbage = 0xFF;  // NaN in every floating type

enum class State : uint8_t { kReady, kAtBarrier, kInMeeting, kDone };

// A warp-wide exchange in progress for one mask; objects in turn, so that a lane which runs ahead does not
// hand its knowledge to those that have not left the meeting before.
struct Mask {
  unsigned lanes;
  int turn;
  char objects[2];
};

struct Warp {
  std::vector<Mask> masks;
  std::vector<std::unique_ptr<Meeting>> meetings;  // those of the past are used again
  std::vector<int> readers;                        // lanes that may still read meeting i
};

struct Lane {
  Fiber fiber;
  Thread thread;
  State state = State::kDone;
  Site site{};
  const char* what = "";
  unsigned mask = 0;
  Payload payload;
  int meeting = -1;  // whose results this lane may read
  int warp = 0;
  std::vector<Copy> copies;    // by age; the first `landed` have
  std::vector<size_t> groups;  // ends of committed groups in `copies`; the first `waited` are over
  size_t landed = 0, waited = 0;
};

// Shared memory of a block: arrays between red zones.
struct Arena {
  struct Array {
    const char* name;
    Site site;
    char* begin;
    size_t bytes;
  };
  static constexpr size_t kBytes = kMaxShared + 64 * 2 * kRedZone;
  char* memory = nullptr;
  size_t used = 0;
  std::vector<Array> arrays;
  char objects[2] = {};  // of __syncthreads
};

struct Machine {
  Options options;
  uint64_t random = 0;
  Fiber host;
  std::vector<std::unique_ptr<Lane>> lanes;
  std::vector<Warp> warps;
  std::vector<std::unique_ptr<Arena>> arenas;
  Arena* arena = nullptr;
  Lane* running = nullptr;
  unsigned n = 0;  // threads of the block
  size_t shared_bytes = 0;
  int barrier_turn = 0;
  uint64_t writer = 0;  // launch, block
  void (*body)(const void*) = nullptr;
  const void* context = nullptr;
  char failure[512] =
      "";  // no string: nobody would delete it, and sanitizers would see it pass between threads
  std::vector<KernelRecord> records;
  KernelRecord* record = nullptr;
  std::vector<Buffer*> buffers;
  char launch_begin = 0, launch_end = 0, blocks = 0;  // what the sanitizer orders launches and blocks by
};

Machine machine;

bool same(Site a, Site b) { return a.line == b.line && strcmp(a.file, b.file) == 0; }

uint64_t draw() {  // splitmix64
  uint64_t z = machine.random += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}
template <class T>
void shuffle(std::vector<T>& v) {
  for (size_t i = v.size(); i > 1; --i) std::swap(v[i - 1], v[draw() % i]);
}

// On the host's side: leave the launch.
[[noreturn]] void give_up(const Lane* where, const char* format, ...) {
  va_list args;
  va_start(args, format);
  char buffer[600];
  vsnprintf(buffer, sizeof buffer, format, args);
  va_end(args);
  std::string message = buffer;
  if (where) {
    const Thread& t = where->thread;
    char place[160];
    snprintf(place, sizeof place, " (block %u,%u,%u thread %u,%u,%u)", t.block.x, t.block.y, t.block.z,
             t.index.x, t.index.y, t.index.z);
    message += place;
  }
  throw std::runtime_error(machine.record->name + ": " + message);
}

void suspend(State state, bool forever = false) {
  Lane& me = *machine.running;
  me.state = state;
  Fiber::jump(me.fiber, machine.host, forever);
}

void enter() {
  Fiber::entered(machine.host);
  acquire(&machine.launch_begin);
  if (!machine.options.unordered_blocks) acquire(&machine.blocks);
  machine.body(machine.context);
  const Lane& me = *machine.running;
  if (me.landed != me.copies.size()) fail("the thread ends with cp.async in flight");
  release(&machine.blocks);
  release(&machine.launch_end);
  suspend(State::kDone, true);
  std::abort();
}

void fill(char* p, size_t bytes, unsigned char value) {
  for (size_t i = 0; i < bytes; ++i) static_cast<volatile char*>(p)[i] = char(value);
}

char* carve(const char* name, Site site, size_t bytes, size_t align) {
  Arena& a = *machine.arena;
  size_t begin = a.used + kRedZone;
  begin = (begin + align - 1) / align * align;
  char* const p = a.memory + begin;
  allow(a.memory + a.used, begin + bytes - a.used);
  fill(a.memory + a.used, begin - a.used, kRedByte);
  fill(p, bytes, kGarbage);
  fill(p + bytes, kRedZone, kRedByte);
  forbid(a.memory + a.used, begin - a.used);
  forbid(p + bytes, kRedZone);
  a.used = begin + bytes;
  a.arrays.push_back({name, site, p, bytes});
  return p;
}

void new_arena() {
  const bool fresh = machine.options.unordered_blocks || machine.arenas.empty();
  if (fresh) {
    machine.arenas.push_back(std::make_unique<Arena>());
    machine.arenas.back()->memory = static_cast<char*>(std::aligned_alloc(128, Arena::kBytes));
    machine.arenas.back()->arrays.reserve(32);
  }
  machine.arena = machine.arenas.back().get();
  machine.arena->used = 0;
  machine.arena->arrays.clear();
  forbid(machine.arena->memory, Arena::kBytes);
  carve("dynamic shared memory", Site{"", 0}, machine.shared_bytes, 128);
}

void drop_arenas() {
  for (auto& a : machine.arenas) {
    allow(a->memory, Arena::kBytes);
    std::free(a->memory);
  }
  machine.arenas.clear();
  machine.arena = nullptr;
}

void check_red_zones() {
  size_t total = 0;
  for (const Arena::Array& a : machine.arena->arrays) {
    total += a.bytes;
#ifndef VDK_ASAN  // it has seen to it
    for (size_t i = 0; i < kRedZone; ++i) {
      const bool below = static_cast<unsigned char>(a.begin[-1 - ptrdiff_t(i)]) != kRedByte;
      const bool above = static_cast<unsigned char>(a.begin[a.bytes + i]) != kRedByte;
      if (below || above)
        give_up(machine.lanes[0].get(), "write %zu bytes %s '%s' in shared memory", below ? i + 1 : i,
                below ? "before" : "past the end of", a.name);
    }
#endif
  }
  machine.record->shared_bytes = std::max(machine.record->shared_bytes, total);
}

// A meeting nobody reads any more.
int free_meeting(Warp& warp) {
  for (size_t i = 0; i < warp.meetings.size(); ++i)
    if (warp.readers[i] == 0) return int(i);
  warp.meetings.push_back(std::make_unique<Meeting>());
  warp.readers.push_back(0);
  return int(warp.meetings.size()) - 1;
}

Mask& mask_of(Warp& warp, unsigned lanes) {
  for (Mask& m : warp.masks)
    if (m.lanes == lanes) return m;
  if (warp.masks.size() == warp.masks.capacity())
    fail("more than %zu masks in one warp", warp.masks.capacity());
  warp.masks.push_back({lanes, 0, {}});
  return warp.masks.back();
}

// Let go the lanes of every mask that is complete.
void settle(int w) {
  Warp& warp = machine.warps[w];
  const int first = 32 * w, count = std::min(32, int(machine.n) - first);
  unsigned seen = 0;
  for (int i = 0; i < count; ++i) {
    const Lane& lane = *machine.lanes[first + i];
    if (lane.state != State::kInMeeting || seen >> i & 1) continue;
    unsigned present = 0;
    bool complete = true;
    for (int j = 0; j < count; ++j) {
      if (!(lane.mask >> j & 1)) continue;
      const Lane& other = *machine.lanes[first + j];
      if (other.state == State::kDone) continue;
      if (other.state != State::kInMeeting) {
        complete = false;
        continue;
      }
      if (other.mask != lane.mask)
        give_up(&other, "%s at %s:%d: lanes of one mask name different masks, %08x and %08x", other.what,
                other.site.file, other.site.line, lane.mask, other.mask);
      if (!same(other.site, lane.site) || strcmp(other.what, lane.what) != 0)
        give_up(&other, "lanes of one mask are in different places: %s at %s:%d and %s at %s:%d", lane.what,
                lane.site.file, lane.site.line, other.what, other.site.file, other.site.line);
      present |= 1u << j;
    }
    seen |= present;
    if (!complete) continue;
    const int index = free_meeting(warp);
    Meeting& meeting = *warp.meetings[index];
    meeting.lanes = present;
    mask_of(warp, lane.mask).turn ^= 1;
    for (int j = 0; j < count; ++j) {
      if (!(present >> j & 1)) continue;
      Lane& member = *machine.lanes[first + j];
      meeting.payload[j] = member.payload;
      member.meeting = index;
      member.state = State::kReady;
      ++warp.readers[index];
    }
  }
}

// Run the lanes of a warp that can run, each until it waits, in any order. False if none could.
bool run_warp(int w) {
  std::vector<Lane*> ready;
  const unsigned end = std::min(machine.n, 32u * (w + 1));
  for (unsigned i = 32u * w; i < end; ++i)
    if (machine.lanes[i]->state == State::kReady) ready.push_back(machine.lanes[i].get());
  shuffle(ready);
  for (Lane* lane : ready) {
    machine.running = lane;
    current = &lane->thread;
    Fiber::jump(machine.host, lane->fiber);
    if (machine.failure[0]) give_up(lane, "%s", machine.failure);
    if (lane->state == State::kDone && lane->meeting >= 0) {
      --machine.warps[w].readers[lane->meeting];
      lane->meeting = -1;
    }
  }
  if (!ready.empty()) settle(w);
  return !ready.empty();
}

// Nobody can run: everybody is at one barrier, or done, or the kernel is wrong.
bool pass_barrier() {
  const Lane *waiting = nullptr, *done = nullptr;
  for (unsigned i = 0; i < machine.n; ++i) {
    const Lane& lane = *machine.lanes[i];
    if (lane.state == State::kInMeeting)
      give_up(&lane, "%s at %s:%d: lanes of mask %08x never come", lane.what, lane.site.file, lane.site.line,
              lane.mask);
    if (lane.state == State::kDone) {
      done = &lane;
      continue;
    }
    if (waiting && !same(waiting->site, lane.site))
      give_up(&lane, "divergent __syncthreads: at %s:%d and at %s:%d", waiting->site.file, waiting->site.line,
              lane.site.file, lane.site.line);
    waiting = &lane;
  }
  if (!waiting) return false;
  if (done)
    give_up(done, "divergent __syncthreads: some threads wait at %s:%d, this one has ended",
            waiting->site.file, waiting->site.line);
  ++machine.record->barriers;
  machine.barrier_turn ^= 1;
  for (unsigned i = 0; i < machine.n; ++i) machine.lanes[i]->state = State::kReady;
  return true;
}

void start_block(dim3 block_index, dim3 block, dim3 grid) {
  new_arena();
  const size_t n_warps = (machine.n + 31) / 32;
  if (machine.warps.size() < n_warps) machine.warps.resize(n_warps);
  for (Warp& warp : machine.warps) {
    if (machine.options.unordered_blocks) warp.masks = {};  // what synchronises must not link blocks
    warp.masks.clear();
    warp.masks.reserve(64);
    std::fill(warp.readers.begin(), warp.readers.end(), 0);
  }
  while (machine.lanes.size() < machine.n) machine.lanes.push_back(std::make_unique<Lane>());
  for (unsigned i = 0; i < machine.n; ++i) {
    Lane& lane = *machine.lanes[i];
    lane.thread = {dim3(i % block.x, i / block.x % block.y, i / (block.x * block.y)), block_index, block,
                   grid, int(i % 32)};
    lane.warp = int(i / 32);
    lane.state = State::kReady;
    lane.meeting = -1;
    lane.copies.clear();
    lane.groups.clear();
    lane.landed = lane.waited = 0;
    if (machine.options.unordered_blocks) lane.fiber.drop();
    lane.fiber.prepare(&enter);
  }
}

void run_block() {
  const int n_warps = int((machine.n + 31) / 32);
  // how long a warp may run ahead: not at all, somewhat, or until it can go no further
  const uint64_t stay = (draw() % 3) * 127;
  std::vector<int> able;
  do {
    able.resize(n_warps);
    for (int w = 0; w < n_warps; ++w) able[w] = w;
    while (!able.empty()) {
      const size_t pick = draw() % able.size();
      bool ran = run_warp(able[pick]);
      while (ran && draw() % 256 < stay) ran = run_warp(able[pick]);
      if (!ran) able.erase(able.begin() + ptrdiff_t(pick));
    }
  } while (pass_barrier());
  check_red_zones();
}

void check_launch(dim3 grid, dim3 block, size_t shared_bytes) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || block.z > 64)
    give_up(nullptr, "a block of %ux%ux%u threads; at most %u", block.x, block.y, block.z, kMaxThreads);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535)
    give_up(nullptr, "a grid of %ux%ux%u blocks", grid.x, grid.y, grid.z);
  if (shared_bytes > kMaxShared)
    give_up(nullptr, "%zu bytes of shared memory; at most %zu", shared_bytes, kMaxShared);
}

void run_grid(dim3 grid, dim3 block) {
  std::vector<uint64_t> order(uint64_t(grid.x) * grid.y * grid.z);
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  shuffle(order);
  for (uint64_t i : order) {
    const dim3 index(unsigned(i % grid.x), unsigned(i / grid.x % grid.y),
                     unsigned(i / (uint64_t(grid.x) * grid.y)));
    machine.writer = (machine.writer >> 32 << 32) | uint32_t(i);
    start_block(index, block, grid);
    run_block();
    machine.record->threads += machine.n;
  }
}

KernelRecord& record_of(const char* name) {
  for (KernelRecord& r : machine.records)
    if (r.name == name) return r;
  machine.records.push_back({});
  machine.records.back().name = name;
  return machine.records.back();
}

// Whatever happened, the next launch starts from nothing.
struct Cleanup {
  bool complete = false;
  ~Cleanup() {
    if (!complete) {
      for (auto& lane : machine.lanes) lane->fiber.testify(machine.host, &machine.launch_end);
      acquire(&machine.launch_end);
    }
    if (!complete || machine.options.unordered_blocks)
      for (auto& lane : machine.lanes) lane->fiber.drop();
    Fiber::bury();
    drop_arenas();
    machine.failure[0] = 0;
    machine.running = nullptr;
    current = nullptr;
    machine.host.leave_host();
  }
};

Buffer* buffer_around(const char* p, size_t bytes) {
  for (Buffer* b : machine.buffers)
    if (p >= b->base && p + bytes <= b->base + b->bytes) return b;
  return nullptr;
}

// Checks an access to global memory and returns its buffer, or null where none are registered.
Buffer* check_access(const char* what, const void* address, size_t bytes, Site site) {
  if (!machine.running) fail("%s outside of a kernel", what);
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
    fail("%s of %zu bytes at %s:%d is misaligned: %p", what, bytes, site.file, site.line, address);
  if (machine.buffers.empty()) return nullptr;
  const char* const p = static_cast<const char*>(address);
  if (Buffer* const b = buffer_around(p, bytes)) return b;
  const Buffer* nearest = machine.buffers[0];
  const auto distance = [&](const Buffer* b) { return p < b->base ? b->base - p : p - b->base; };
  for (const Buffer* b : machine.buffers)
    if (distance(b) < distance(nearest)) nearest = b;
  fail("%s of %zu bytes at %s:%d is out of bounds: byte %td of the %zu of '%s'", what, bytes, site.file,
       site.line, p - nearest->base, nearest->bytes, nearest->name.c_str());
}

// Blocks run in any order, or at once: what one wrote in this launch no other may touch.
void check_writers(const char* what, const Buffer* b, const void* address, size_t bytes, Site site) {
  if (!b || b->writers.empty()) return;
  const size_t first = size_t(static_cast<const char*>(address) - b->base) / 2;
  for (size_t i = 0; i < (bytes + 1) / 2; ++i) {
    const uint64_t writer = b->writers[first + i];
    if (writer != machine.writer && writer >> 32 == machine.writer >> 32)
      fail("byte %zu of '%s' is %s at %s:%d, but block %u wrote it in this launch", 2 * (first + i),
           b->name.c_str(), what, site.file, site.line, unsigned(writer));
  }
}

}  // namespace

const Thread* current = nullptr;

Options& options() { return machine.options; }

std::string short_name(std::string text) {
  const std::string before = "kFunction = ";
  const size_t from = text.find(before) + before.size();
  text = text.substr(from, text.find_first_of(";]", from) - from);  // then other parameters of the template
  for (const char* prefix : {"vdk::cuda::", "vdk::", "{anonymous}::"})
    for (size_t at; (at = text.find(prefix)) != std::string::npos;) text.erase(at, strlen(prefix));
  return text;
}

void fail(const char* format, ...) {
  {
    const Unobserved quiet;
    va_list args;
    va_start(args, format);
    vsnprintf(machine.failure, sizeof machine.failure, format, args);
    va_end(args);
  }
  if (!machine.running) throw std::logic_error(machine.failure);
  suspend(State::kDone, true);
  std::abort();
}

void launch(const char* name, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(const void*),
            const void* context) {
  const Unobserved quiet;
  Cleanup cleanup;
  machine.record = &record_of(name);
  check_launch(grid, block, shared_bytes);
  machine.n = block.x * block.y * block.z;
  machine.shared_bytes = shared_bytes;
  machine.random = machine.options.seed;
  machine.body = body;
  machine.context = context;
  machine.host.adopt_host();
  release(&machine.launch_begin);
  machine.writer += uint64_t(1) << 32;
  run_grid(grid, block);
  acquire(&machine.launch_end);
  ++machine.record->launches;
  cleanup.complete = true;
}

void block_barrier(Site site) {
  Lane& me = *machine.running;
  void* const object = &machine.arena->objects[machine.barrier_turn];
  me.site = site;
  release(object);
  suspend(State::kAtBarrier);
  acquire(object);
}

const Meeting& meet(const char* what, unsigned mask, const void* payload, size_t bytes, Site site) {
  Lane& me = *machine.running;
  Warp& warp = machine.warps[me.warp];
  if (!(mask >> me.thread.lane & 1))
    fail("%s at %s:%d: the lane is not in its own mask %08x", what, site.file, site.line, mask);
  if (me.meeting >= 0) --warp.readers[me.meeting];
  me.meeting = -1;
  for (size_t i = 0; i < bytes; ++i)
    me.payload.bytes[i] = static_cast<const volatile unsigned char*>(payload)[i];
  me.what = what;
  me.mask = mask;
  me.site = site;
  Mask& m = mask_of(warp, mask);
  void* const object = &m.objects[m.turn];
  release(object);
  suspend(State::kInMeeting);
  acquire(object);
  return *warp.meetings[me.meeting];
}

void* shared_memory() { return machine.arena->arrays[0].begin; }

void* shared_array(const char* name, size_t bytes, Site site) {
  size_t total = bytes;
  for (size_t i = 1; i < machine.arena->arrays.size(); ++i) {
    const Arena::Array& a = machine.arena->arrays[i];
    if (strcmp(a.name, name) == 0 && same(a.site, site)) return a.begin;
    total += a.bytes;
  }
  if (total > kMaxStaticShared)
    fail("%zu bytes of static shared memory; at most %zu", total, kMaxStaticShared);
  if (total + machine.shared_bytes > kMaxShared) fail("more than %zu bytes of shared memory", kMaxShared);
  if (machine.arena->arrays.size() == machine.arena->arrays.capacity()) fail("too many shared arrays");
  return carve(name, site, bytes, 16);
}

void require_shared(const char* what, const void* address, size_t bytes) {
  const char* const p = static_cast<const char*>(address);
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0)
    fail("%s of %zu bytes is misaligned: %p", what, bytes, address);
  for (const Arena::Array& a : machine.arena->arrays)
    if (p >= a.begin && p + bytes <= a.begin + a.bytes) return;
  fail("%s of %zu bytes: not inside of shared memory", what, bytes);
}

void async_issue(const Copy& copy) {
  const Unobserved quiet;
  machine.running->copies.push_back(copy);
}

void async_commit() {
  const Unobserved quiet;
  machine.running->groups.push_back(machine.running->copies.size());
}

bool async_next(size_t groups_in_flight, Copy& copy) {
  Lane& me = *machine.running;
  for (; me.groups.size() - me.waited > groups_in_flight; ++me.waited)
    if (me.landed < me.groups[me.waited]) {
      copy = me.copies[me.landed++];
      return true;
    }
  return false;
}

void count_load(const void* p, size_t bytes, Site site) {
  Buffer* const b = check_access("load", p, bytes, site);
  check_writers("read", b, p, bytes, site);
  if (b && !b->writable && b->bytes <= 16) bytes = b->traffic.loaded ? 0 : b->bytes;
  if (b) b->traffic.loaded += bytes;
  machine.record->traffic.loaded += bytes;
}

void count_store(const void* p, size_t bytes, Site site) {
  Buffer* const b = check_access("store", p, bytes, site);
  if (b && !b->writable)
    fail("store to '%s' at %s:%d, which is an input", b->name.c_str(), site.file, site.line);
  check_writers("written", b, p, bytes, site);
  if (b) {
    const size_t first = size_t(static_cast<const char*>(p) - b->base) / 2;
    for (size_t i = 0; i < (bytes + 1) / 2; ++i) b->writers[first + i] = machine.writer;
    b->traffic.stored += bytes;
  }
  machine.record->traffic.stored += bytes;
}

void count_atomic(const void* p, size_t bytes, Site site) {
  Buffer* const b = check_access("atomic access", p, bytes, site);
  for (Traffic* t : {b ? &b->traffic : nullptr, &machine.record->traffic}) {
    if (!t) continue;
    t->loaded += bytes;
    t->stored += bytes;
  }
}

Buffer::Buffer(std::string name, const void* base, size_t bytes, bool writable)
    : name(std::move(name)), base(static_cast<const char*>(base)), bytes(bytes), writable(writable) {
  if (writable) writers.resize(bytes / 2 + 1);
  machine.buffers.push_back(this);
}
Buffer::~Buffer() { machine.buffers.erase(std::find(machine.buffers.begin(), machine.buffers.end(), this)); }

const std::vector<KernelRecord>& records() { return machine.records; }
void clear_records() { machine.records.clear(); }

}  // namespace emu
