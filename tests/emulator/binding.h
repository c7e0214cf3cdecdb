// What the op bindings of the test module share. An op's launchers are bound in bind_<op>.cpp, found by
// CMake.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>

#include "kl/prior.h"
#include "machine.h"

namespace emu {

namespace py = pybind11;

struct Binding {
  using Define = void (*)(py::module_&);
  explicit Binding(Define define) { all().push_back(define); }
  static std::vector<Define>& all() {
    static std::vector<Define> defines;
    return defines;
  }
};

// VDK_BINDING(kl, m) { m.def(...); }
#define VDK_BINDING(op, module)            \
  static void bind_##op(py::module_&);     \
  static Binding binding_##op(&bind_##op); \
  static void bind_##op(py::module_& module)

// A registered buffer's memory, or null for None.
template <class T>
T* pointer(const Buffer* buffer) {
  return buffer ? const_cast<T*>(static_cast<const T*>(static_cast<const void*>(buffer->base))) : nullptr;
}

// Fields by name: a dict holds integers, floats and buffers or None.
template <class T>
T field(const py::dict& d, const char* name) {
  return d[name].cast<T>();
}
template <class T = void>
T* address(const py::dict& d, const char* name) {
  const py::object value = d[name];
  return value.is_none() ? nullptr : pointer<T>(value.cast<const Buffer*>());
}

// Prior(kind), of which a normal one has standard deviation `sd`.
inline vdk::Prior prior_of(int kind, double sd) {
  return {vdk::Prior::Kind(kind), 1 / (sd * sd), -2 * std::log(sd)};
}

}  // namespace emu
