// The module `emulated`: launchers of csrc/*/cuda.cu on memory that Python registers, and the machine's
// controls.
#include "binding.h"

namespace emu {

PYBIND11_MODULE(emulated, m) {
  m.doc() = "CUDA kernels run on the CPU, for tests.";

  py::class_<Buffer>(m, "Buffer", "Global memory a kernel may touch, as long as this lives.")
      .def(py::init([](const std::string& name, uintptr_t address, size_t bytes, bool writable) {
             return new Buffer(name, reinterpret_cast<void*>(address), bytes, writable);
           }),
           py::arg("name"), py::arg("address"), py::arg("bytes"), py::arg("writable"))
      .def_property_readonly("loaded", [](const Buffer& b) { return b.traffic.loaded; })
      .def_property_readonly("stored", [](const Buffer& b) { return b.traffic.stored; });

  m.def(
      "configure",
      [](uint64_t seed, bool truncate) {
        options().seed = seed;
        options().tensor_core = truncate ? Rounding::kTruncate : Rounding::kNearest;
      },
      py::arg("seed"), py::arg("truncate") = false, "Choose the schedule, and how tensor cores round.");

  m.def("records", [] {
    py::list all;
    for (const KernelRecord& r : records())
      all.append(py::dict(py::arg("kernel") = r.name, py::arg("launches") = r.launches,
                          py::arg("threads") = r.threads, py::arg("barriers") = r.barriers,
                          py::arg("loaded") = r.traffic.loaded, py::arg("stored") = r.traffic.stored,
                          py::arg("distinct") = r.traffic.distinct,
                          py::arg("shared_bytes") = r.shared_bytes));
    return all;
  });
  m.def("clear_records", &clear_records);

  for (const Binding::Define define : Binding::all()) define(m);
}

}  // namespace emu
