// Launchers: how inputs are turned over, which lanes take a row, and what of a gradient runs by which kernel.
#include "product.cuh"
#include "transpose.cuh"

namespace vdk {
namespace cuda {
namespace {

// Vectors of 16 bytes of the batch.
template <class E>
int64_t pitch_of(int64_t batch) {
  return ceil_div(batch, kPer16<E>) * kPer16<E>;
}

template <class V>
void check_sizes(const char* op, const CsrMatrix<V>& w, int64_t batch) {
  constexpr int64_t kSpare = 1 << 10;  // of a last stage beyond the end
  for (const int64_t size : {w.nnz, w.in, w.out, 4 * batch})
    if (size > INT_MAX - kSpare)
      throw std::runtime_error(
          std::string(op) + ": more than 2^31 - 2^10 nonzeros, inputs or outputs, or 2^29 - 2^8 rows of x");
}

// from [rows, cols] -> to [to_rows, to_cols], transposed and filled up with zeros.
template <class E>
void turn(const E* from, int64_t rows, int64_t cols, int64_t pitch, E* to, int64_t to_rows, int64_t to_cols,
          void* stream) {
  const int64_t across = ceil_div(to_cols, kTurnTile), down = ceil_div(to_rows, kTurnTile);
  const TurnArgs<E> args{from, rows, cols, pitch, to, to_rows, to_cols, int(across)};
  VDK_LAUNCH(spmm_turn<E>, Grid{across * down}, kTurnThreads, 0, stream, args);
}

template <class E>
void turn_in(const E* x, int64_t batch, int64_t in, E* x_t, void* stream) {
  turn(x, batch, in, in, x_t, in + 1, pitch_of<E>(batch), stream);
}

template <int kLanes, class E, class V>
void product_by(SpmmProductArgs<E, V> args, void* stream) {
  const int64_t rows = ceil_div(args.w.out, kSpmmThreads / kLanes);
  args.row_blocks = int(rows);
  VDK_LAUNCH((spmm_product<E, V, kLanes>), Grid{rows * ceil_div(args.pitch, kLanes * kPer16<E>)},
             kSpmmThreads, 0, stream, args);
}

// Of inputs and results with the batch side by side.
template <class E, class V>
void product(const SpmmProductArgs<E, V>& args, void* stream) {
  const int64_t vectors = args.pitch / kPer16<E>;
  if (vectors <= 8) return product_by<8>(args, stream);
  if (vectors <= 16) return product_by<16>(args, stream);
  product_by<32>(args, stream);
}

template <int kLanes, int kBatch, class E, class V>
void vector_by(const SpmmArgs<E, V>& args, void* stream) {
  VDK_LAUNCH((spmm_vector<E, V, kLanes, kBatch>), Grid{ceil_div(args.w.out, kSpmmThreads / kLanes)},
             kSpmmThreads, 0, stream, args);
}

template <class E, class V>
void vector(const SpmmArgs<E, V>& args, void* stream) {
  constexpr int64_t kFew = 64;  // nonzeros a row, on average, for which a whole warp is too many
  const bool few = args.w.nnz <= kFew * args.w.out;
  if (args.batch == 1) return few ? vector_by<8, 1>(args, stream) : vector_by<32, 1>(args, stream);
  few ? vector_by<8, kVectorBatch>(args, stream) : vector_by<32, kVectorBatch>(args, stream);
}

// x [batch, in] and y [batch, out], as spmm's; `work` has room for both turned over.
template <class E, class V>
void run(const SpmmArgs<E, V>& a, E* work, void* stream) {
  if (a.batch <= kVectorBatch) return vector(a, stream);
  const int64_t pitch = pitch_of<E>(a.batch);
  E* const y_t = work + (a.w.in + 1) * pitch;
  turn_in(a.x, a.batch, a.w.in, work, stream);
  product(SpmmProductArgs<E, V>{a.w, a.order, work, pitch, a.bias, a.relu, y_t, 0}, stream);
  turn(y_t, a.w.out, a.batch, pitch, a.y, a.batch, a.w.out, stream);
}

}  // namespace

template <class E, class V>
size_t spmm_workspace(const SpmmArgs<E, V>& a) {
  if (a.batch <= kVectorBatch) return 0;
  return size_t((a.w.in + 1 + a.w.out) * pitch_of<E>(a.batch)) * sizeof(E);
}

template <class E, class V>
void spmm(const SpmmArgs<E, V>& a, void* workspace, void* stream) {
  check_sizes("spmm", a.w, a.batch);
  if (a.batch * a.w.out == 0) return;
  run(a, static_cast<E*>(workspace), stream);
}

#define VDK_SPMM_DEFINE(E, V)                            \
  template size_t spmm_workspace(const SpmmArgs<E, V>&); \
  template void spmm(const SpmmArgs<E, V>&, void*, void*);
VDK_SPMM_TYPES(VDK_SPMM_DEFINE)

}  // namespace cuda
}  // namespace vdk
