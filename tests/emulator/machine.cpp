// Threads: how they take turns, meet and end.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <stdexcept>

#include "state.h"

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

Machine machine;

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

namespace {

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

const std::vector<KernelRecord>& records() { return machine.records; }
void clear_records() { machine.records.clear(); }

}  // namespace emu
