// The shared headers as Python functions for tests: their scalar side, the same source the vector kernels
// instantiate with vectors and device code with floats; and the elementary functions on each kind of vector.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <vector>

#include "random/philox.h"
#include "vectors.h"

namespace py = pybind11;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

int64_t rows_of_four(const py::array& a, const char* name) {
  if (a.ndim() != 2 || a.shape(1) != 4) throw py::value_error(std::string(name) + " must be [n, 4]");
  return a.shape(0);
}

// counters [n, 4], key = low and high word of the seed -> random words [n, 4]
Array<uint32_t> philox4x32(const Array<uint32_t>& counters, uint64_t key) {
  const int64_t n = rows_of_four(counters, "counters");
  Array<uint32_t> words({n, int64_t{4}});
  uint32_t* c = words.mutable_data();
  memcpy(c, counters.data(), size_t(n) * 4 * sizeof(uint32_t));
  for (int64_t i = 0; i < n; ++i) vdk::philox4x32(c + 4 * i, uint32_t(key), uint32_t(key >> 32));
  return words;
}

// words [n, 4] -> normals [n, 4]
template <class F, class Transform>
Array<F> transform_words(const Array<uint32_t>& words, Transform transform) {
  const int64_t n = rows_of_four(words, "words");
  Array<F> z({n, int64_t{4}});
  for (int64_t i = 0; i < n; ++i) transform(words.data() + 4 * i, z.mutable_data() + 4 * i);
  return z;
}

Array<float> box_muller(const Array<uint32_t>& words) {
  return transform_words<float>(words, [](const uint32_t* w, float* z) { vdk::box_muller(w, z); });
}
Array<double> box_muller_f64(const Array<uint32_t>& words) {
  return transform_words<double>(words, [](const uint32_t* w, double* z) { vdk::box_muller_f64(w, z); });
}

float cos_turn(uint32_t bits) {
  float c, s;
  vdk::cos_sin_turn(bits, c, s);
  return c;
}
float sin_turn(uint32_t bits) {
  float c, s;
  vdk::cos_sin_turn(bits, c, s);
  return s;
}

// One function of vectors.h over an array of any length; the caller knows that this CPU runs its
// instructions.
auto over_vectors(void (*function)(const float*, float*, int64_t)) {
  return [function](const Array<float>& x) {
    constexpr int64_t kWidest = 16;
    const int64_t n = x.size();
    std::vector<float> padded(size_t(n + kWidest - 1) / kWidest * kWidest, 1.0f);
    std::copy(x.data(), x.data() + n, padded.begin());
    function(padded.data(), padded.data(), int64_t(padded.size()));
    return Array<float>(n, padded.data());
  };
}

}  // namespace

// the elementary functions on the vectors of one instruction set, by names such as exp_avx2
#define VDK_DEFINE_VECTOR_MATH(m, isa)                 \
  m.def("exp_" #isa, over_vectors(&vdk::isa::exp_of)); \
  m.def("log_" #isa, over_vectors(&vdk::isa::log_of)); \
  m.def("log1p_unit_" #isa, over_vectors(&vdk::isa::log1p_unit_of));

PYBIND11_MODULE(vdropkern_host_math, m) {
  m.doc() = "Scalar math of csrc/common and csrc/random, for tests.";
  m.def("philox4x32", &philox4x32, py::arg("counters"), py::arg("key"));
  m.def("box_muller", &box_muller, py::arg("words"));
  m.def("box_muller_f64", &box_muller_f64, py::arg("words"));
  m.def("exp_f32", py::vectorize([](float x) { return vdk::exp_f32(x); }));
  m.def("log_f32", py::vectorize([](float x) { return vdk::log_f32(x); }));
  m.def("log1p_unit", py::vectorize([](float x) { return vdk::log1p_unit(x); }));
  m.def("minus_two_log", py::vectorize([](uint32_t bits) { return vdk::minus_two_log<float>(bits); }));
  m.def("minus_two_log_of_vector",  // what vectors of the CPU run
        py::vectorize([](uint32_t bits) { return vdk::minus_two_log<float, uint32_t>(bits); }));
  m.def("cos_turn", py::vectorize(&cos_turn));
  m.def("sin_turn", py::vectorize(&sin_turn));
  VDK_DEFINE_VECTOR_MATH(m, portable)
#ifdef VDK_BUILT_AVX2
  VDK_DEFINE_VECTOR_MATH(m, avx2)
#endif
#ifdef VDK_BUILT_AVX512
  VDK_DEFINE_VECTOR_MATH(m, avx512)
#endif
}
