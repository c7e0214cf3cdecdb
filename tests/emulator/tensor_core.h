// cp.async, ldmatrix and mma.sync. Layouts are those of the PTX ISA; test_layouts.cpp checks them against its
// tables.
#pragma once

namespace emu {

constexpr unsigned kWholeWarp = ~0u;

// Written as words so that the sanitizers see them; memset and memcpy of a constant size would be inlined
// away.
inline void write_words(void* dst, const uint32_t* words, int count) {
  volatile uint32_t* const to = static_cast<uint32_t*>(dst);
  for (int i = 0; i < count; ++i) to[i] = words ? words[i] : 0;
}

inline void land(const Copy& copy) {
  uint32_t words[4];
  if (copy.src)
    for (int i = 0; i < copy.words; ++i) words[i] = static_cast<const volatile uint32_t*>(copy.src)[i];
  write_words(copy.dst, copy.src ? words : nullptr, copy.words);
}

// The destination is garbage from now until the copy lands, which is as late as the waits allow.
inline void issue(void* dst, const void* src, bool valid, int words, Site site) {
  const size_t bytes = 4 * size_t(words);
  require_shared("cp.async", dst, bytes);
  if (valid) count_load(src, bytes, site);
  const uint32_t garbage[4] = {0x7FC0DEADu, 0x7FC0DEADu, 0x7FC0DEADu, 0x7FC0DEADu};  // NaN in every type
  write_words(dst, garbage, words);
  async_issue({dst, valid ? src : nullptr, words});
}

inline float round_sum(double exact) {
  const float nearest = float(exact);
  if (options().tensor_core == Rounding::kNearest || std::fabs(double(nearest)) <= std::fabs(exact))
    return nearest;
  return std::nextafter(nearest, 0.0f);
}

inline float tf32_operand(uint32_t bits) {
  if (options().tensor_core == Rounding::kNearest) bits = vdk::to_tf32(vdk::as_float(bits));
  return vdk::as_float(bits & ~0x1FFFu);
}

struct Fragments {
  uint32_t a[4], b[2];
};

inline const Meeting& meet_whole_warp(const char* what, const void* payload, size_t bytes, Site site) {
  const Meeting& meeting = meet(what, kWholeWarp, payload, bytes, site);
  if (meeting.lanes != kWholeWarp) fail("%s: only lanes %08x take part", what, meeting.lanes);
  return meeting;
}

// d += a b for the four elements of the running lane; a_at(warp, row, k) and b_at(warp, k, col) find an
// operand among the fragments of the warp.
template <int kDepth, class A, class B>
void multiply(const char* what, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site,
              A a_at, B b_at) {
  const Fragments mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const Meeting& warp = meet_whole_warp(what, &mine, sizeof mine, site);
  const int group = current->lane >> 2, pair = current->lane & 3;
  for (int i = 0; i < 4; ++i) {
    const int row = group + (i >> 1) * 8, col = 2 * pair + (i & 1);
    double sum = d[i];
    for (int k = 0; k < kDepth; ++k) sum += double(a_at(warp, row, k)) * b_at(warp, k, col);
    d[i] = round_sum(sum);
  }
}

inline const Fragments& fragments(const Meeting& warp, int lane) {
  return *reinterpret_cast<const Fragments*>(warp.payload[lane].bytes);
}

template <class H>
float half_of(uint32_t word, int upper) {
  return vdk::to_float(H{uint16_t(word >> 16 * upper)});
}

template <class H>
void mma_m16n8k16(const char* what, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                  Site site) {
  multiply<16>(
      what, d, a, b, site,
      [](const Meeting& warp, int row, int k) {
        return half_of<H>(fragments(warp, (row & 7) * 4 + (k & 7) / 2).a[(row >> 3) + (k >> 3) * 2], k & 1);
      },
      [](const Meeting& warp, int k, int col) {
        return half_of<H>(fragments(warp, col * 4 + (k & 7) / 2).b[k >> 3], k & 1);
      });
}

inline const unsigned char* matrix_row(const Meeting& warp, int lane) {
  const void* const p = published<const void*>(warp, lane);
  require_shared("ldmatrix", p, 16);
  return static_cast<const unsigned char*>(p);
}

}  // namespace emu

namespace vdk {

inline void cp_async16(void* dst, const void* src, bool valid, emu::Site site = emu::Site::here()) {
  emu::issue(dst, src, valid, 4, site);
}
inline void cp_async8(void* dst, const void* src, bool valid, emu::Site site = emu::Site::here()) {
  emu::issue(dst, src, valid, 2, site);
}
inline void cp_async4(void* dst, const void* src, bool valid, emu::Site site = emu::Site::here()) {
  emu::issue(dst, src, valid, 1, site);
}
inline void cp_async_commit() { emu::async_commit(); }
template <int kInFlight>
void cp_async_wait() {
  for (emu::Copy copy; emu::async_next(kInFlight, copy);) emu::land(copy);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, emu::Site site = emu::Site::here()) {
  const emu::Meeting& warp = emu::meet_whole_warp("ldmatrix", &row, sizeof row, site);
  const int lane = emu::current->lane;
  for (int i = 0; i < 4; ++i)
    r[i] = reinterpret_cast<const uint32_t*>(emu::matrix_row(warp, 8 * i + lane / 4))[lane % 4];
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, emu::Site site = emu::Site::here()) {
  const emu::Meeting& warp = emu::meet_whole_warp("ldmatrix.trans", &row, sizeof row, site);
  const int lane = emu::current->lane;
  for (int i = 0; i < 4; ++i) {
    uint32_t halves[2];
    for (int j = 0; j < 2; ++j)
      halves[j] =
          reinterpret_cast<const uint16_t*>(emu::matrix_row(warp, 8 * i + lane % 4 * 2 + j))[lane / 4];
    r[i] = halves[0] | halves[1] << 16;
  }
}

inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             emu::Site site = emu::Site::here()) {
  emu::multiply<8>(
      "mma.m16n8k8.tf32", d, a, b, site,
      [](const emu::Meeting& warp, int row, int k) {
        return emu::tf32_operand(emu::fragments(warp, (row & 7) * 4 + (k & 3)).a[(row >> 3) + (k >> 2) * 2]);
      },
      [](const emu::Meeting& warp, int k, int col) {
        return emu::tf32_operand(emu::fragments(warp, col * 4 + (k & 3)).b[k >> 2]);
      });
}
inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              emu::Site site = emu::Site::here()) {
  emu::mma_m16n8k16<BFloat16>("mma.m16n8k16.bf16", d, a, b, site);
}
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             emu::Site site = emu::Site::here()) {
  emu::mma_m16n8k16<Float16>("mma.m16n8k16.f16", d, a, b, site);
}
inline void mma_m16n8k256_b1(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             emu::Site site = emu::Site::here()) {
  const emu::Fragments mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const emu::Meeting& warp = emu::meet_whole_warp("mma.m16n8k256.b1", &mine, sizeof mine, site);
  const int group = emu::current->lane >> 2, pair = emu::current->lane & 3;
  for (int i = 0; i < 4; ++i) {
    const int row = group + (i >> 1) * 8, col = 2 * pair + (i & 1);
    for (int word = 0; word < 8; ++word) {  // of 32 bits along the reduction
      const uint32_t of_a = emu::fragments(warp, (row & 7) * 4 + (word & 3)).a[(row >> 3) + (word >> 2) * 2];
      const uint32_t of_b = emu::fragments(warp, col * 4 + (word & 3)).b[word >> 2];
      d[i] += __builtin_popcount(of_a ^ of_b);
    }
  }
}

}  // namespace vdk
