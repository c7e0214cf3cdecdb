// Layers of a sparse net one after the other in one call: what each costs in Python and dispatch is paid
// once.
#include "../max_pool2d/checks.h"
#include "../sparse_conv2d/packed.h"
#include "../spmm/spmm.h"

namespace vdk {
namespace {

// The program's numbers, read in order; none beyond its end.
class Reader {
 public:
  explicit Reader(const Tensor& program) : at_(pointer<int64_t>(program)), end_(at_ + program.numel()) {}
  bool done() const { return at_ == end_; }
  int64_t next() {
    STD_TORCH_CHECK(at_ < end_, "sparse_net: the program ends within a layer");
    return *at_++;
  }
  std::vector<int64_t> pair() {
    const int64_t first = next();
    return {first, next()};
  }

 private:
  const int64_t *at_, *end_;
};

const Tensor& taken(const std::vector<Tensor>& packed, int64_t index) {
  STD_TORCH_CHECK(0 <= index && index < int64_t(packed.size()), "sparse_net: there is no packed form ",
                  index);
  const Tensor& t = packed[size_t(index)];
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Byte && t.is_contiguous(),
                  "sparse_net: packed must be bytes that ops.spmm.pack made");
  return t;
}

Tensor convolved(const Tensor& x, const std::vector<Tensor>& all, Reader& r) {
  const Tensor& packed = taken(all, r.next());
  const int64_t out = r.next();
  const auto kernel = r.pair(), stride = r.pair(), padding = r.pair(), dilation = r.pair();
  const int64_t band = r.next(), relu = r.next();
  const ConvSizes sizes("sparse_net", x, kernel, stride, padding, dilation);
  return sparse_conv2d_of("sparse_net", x, packed, out, sizes, band, relu != 0);
}

Tensor pooled(const Tensor& x, Reader& r) {
  STD_TORCH_CHECK(x.dim() == 4, "sparse_net: a pooling must be given images");
  int64_t n[8];
  for (int64_t& number : n) number = r.next();
  const bool ceil_mode = r.next() != 0, relu = r.next() != 0;
  return max_pool2d_of(x, {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], ceil_mode}, relu);
}

// x is read as [N, everything else].
Tensor multiplied(const Tensor& x, const std::vector<Tensor>& all, Reader& r) {
  const Tensor& chain = taken(all, r.next());
  Pack layers[kMostLayers];
  bool relu[kMostLayers];
  const int64_t count = read_chain(chain.const_data_ptr(), chain.numel(), layers, relu);
  STD_TORCH_CHECK(count > 0, "sparse_net: packed is no chain that ops.spmm.pack made");
  const int64_t batch = x.size(0);
  STD_TORCH_CHECK(x.numel() == batch * layers[0].h.in, "sparse_net: a chain must be given [N, ",
                  layers[0].h.in, "]");
  const Tensor y = empty({batch, layers[count - 1].h.out}, ScalarType::Float);
  using Kernel = void (*)(const PackedArgs&, const Parallel&);
  if (batch > 0) VDK_SELECT_AS(Kernel, spmm_packed)
  ({layers, relu, count, batch, pointer<float>(x), output<float>(y)}, torch_parallel());
  return y;
}

Tensor sparse_net(const Tensor& given, std::vector<Tensor> packed, const Tensor& program,
                  std::vector<int64_t> out_sizes) {
  const ScalarType type = given.scalar_type();
  STD_TORCH_CHECK(given.dim() == 4 && is_float(type),
                  "sparse_net: x must be [N, C, H, W] of float32, bfloat16 or float16");
  STD_TORCH_CHECK(program.scalar_type() == ScalarType::Long && program.is_contiguous(),
                  "sparse_net: program must be int64");
  Tensor x = prepared(given, ScalarType::Float);
  Reader r(program);
  STD_TORCH_CHECK(!r.done(), "sparse_net: the program is empty");
  while (!r.done()) {
    const int64_t kind = r.next();  // as in ops/sparse_net
    STD_TORCH_CHECK(0 <= kind && kind <= 2, "sparse_net: there is no layer of kind ", kind);
    x = kind == 0 ? convolved(x, packed, r) : kind == 1 ? pooled(x, r) : multiplied(x, packed, r);
  }
  bool as_told = x.dim() == int64_t(out_sizes.size()) + 1;
  for (size_t i = 0; as_told && i < out_sizes.size(); ++i) as_told = x.size(int64_t(i) + 1) == out_sizes[i];
  STD_TORCH_CHECK(as_told, "sparse_net: results are not of the sizes in out_sizes");
  return returned(x, type);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) { m.impl("sparse_net", TORCH_BOX(&sparse_net)); }

}  // namespace vdk
