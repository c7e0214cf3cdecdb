// Launchers: how inputs are turned over, which lanes take a row, and what of a gradient runs by which kernel.
#include "columns.cuh"
#include "gradient.cuh"
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
  constexpr int64_t kSpare = 1 << 10;                       // of a last stage beyond the end
  const int64_t sizes[] = {w.nnz, w.in, w.out, 4 * batch};  // nvcc takes no list in a template's loop
  for (const int64_t size : sizes)
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

// Parts of a workspace, one after the other, each at a multiple of 16 bytes.
class Parts {
 public:
  explicit Parts(void* begin) : begin_(static_cast<char*>(begin)) {}

  template <class T>
  T* take(int64_t count) {
    T* const part = begin_ ? reinterpret_cast<T*>(begin_ + bytes_) : nullptr;
    bytes_ += size_t(ceil_div(count * int64_t(sizeof(T)), 16)) * 16;
    return part;
  }
  size_t bytes() const { return bytes_; }

 private:
  char* begin_;
  size_t bytes_ = 0;
};

// How many chunks of rows count their nonzeros side by side: what they note should not outweigh the matrix.
template <class V>
int64_t column_chunks(const CsrMatrix<V>& w) {
  constexpr int64_t kMost = 256, kLeastNumbers = 1 << 20;
  const int64_t numbers = 2 * w.nnz > kLeastNumbers ? 2 * w.nnz : kLeastNumbers;
  int64_t chunks = w.in ? numbers / w.in : kMost;
  if (chunks > kMost) chunks = kMost;
  if (chunks > w.out) chunks = w.out;
  return chunks > 1 ? chunks : 1;
}

template <class V>
void by_column(const ColumnArgs<V>& args, void* stream) {
  VDK_LAUNCH(spmm_column_counts<V>, Grid{args.chunks}, kColumnThreads, 0, stream, args);
  VDK_LAUNCH(spmm_column_chunks<V>, Grid{ceil_div(args.w.in, kColumnThreads)}, kColumnThreads, 0, stream,
             args);
  VDK_LAUNCH(spmm_scan, Grid{1}, kScanThreads, 0, stream, ScanArgs{args.offsets, args.w.in});
  VDK_LAUNCH(spmm_column_places<V>, Grid{args.chunks}, kColumnThreads, 0, stream, args);
}

// Everything a gradient lays out for itself.
template <class E, class V>
struct GradientSpace {
  ColumnArgs<V> columns{};
  E *x_t = nullptr, *dy_t = nullptr, *dx_t = nullptr;
  size_t bytes;

  GradientSpace(const SpmmGradientArgs<E, V>& a, void* workspace) {
    const int64_t pitch = pitch_of<E>(a.batch);
    const bool many = a.dx && a.batch > kVectorBatch;
    Parts parts(workspace);
    if (a.dx) {
      const int64_t chunks = column_chunks(a.w);
      columns = {a.w,
                 int(chunks),
                 int(ceil_div(a.w.out, chunks)),
                 parts.take<int32_t>(chunks * a.w.in),
                 parts.take<int32_t>(a.w.in + 1),
                 parts.take<int32_t>(a.w.nnz),
                 parts.take<V>(a.w.nnz)};
    }
    if (many || a.dvalues || a.dbias) dy_t = parts.take<E>((a.w.out + 1) * pitch);
    if (a.dvalues) x_t = parts.take<E>((a.w.in + 1) * pitch);
    if (many) dx_t = parts.take<E>(a.w.in * pitch);
    bytes = parts.bytes();
  }
};

// dx = dy W: a product as that of the forward pass, by the matrix turned over.
template <class E, class V>
void input_gradient(const SpmmGradientArgs<E, V>& a, const GradientSpace<E, V>& space, void* stream) {
  by_column(space.columns, stream);
  const CsrMatrix<V> turned{
      a.w.in, a.w.out, a.w.nnz, space.columns.values, space.columns.rows, space.columns.offsets};
  if (a.batch <= kVectorBatch)
    return vector(SpmmArgs<E, V>{turned, a.batch, nullptr, a.dy, nullptr, false, a.dx}, stream);
  const int64_t pitch = pitch_of<E>(a.batch);
  product(SpmmProductArgs<E, V>{turned, nullptr, space.dy_t, pitch, nullptr, false, space.dx_t, 0}, stream);
  turn(space.dx_t, a.w.in, a.batch, pitch, a.dx, a.batch, a.w.in, stream);
}

}  // namespace

template <class E, class V>
size_t spmm_workspace(const SpmmArgs<E, V>& a) {
  if (a.batch <= kVectorBatch) return 0;
  return size_t((a.w.in + 1 + a.w.out) * pitch_of<E>(a.batch)) * sizeof(E);
}

template <class E, class V>
size_t spmm_workspace(const SpmmGradientArgs<E, V>& a) {
  return GradientSpace<E, V>(a, nullptr).bytes;
}

template <class E, class V>
void spmm(const SpmmArgs<E, V>& a, void* workspace, void* stream) {
  check_sizes("spmm", a.w, a.batch);
  if (a.batch * a.w.out == 0) return;
  if (a.batch <= kVectorBatch) return vector(a, stream);
  const int64_t pitch = pitch_of<E>(a.batch);
  E* const x_t = static_cast<E*>(workspace);
  E* const y_t = x_t + (a.w.in + 1) * pitch;
  turn_in(a.x, a.batch, a.w.in, x_t, stream);
  product(SpmmProductArgs<E, V>{a.w, a.order, x_t, pitch, a.bias, a.relu, y_t, 0}, stream);
  turn(y_t, a.w.out, a.batch, pitch, a.y, a.batch, a.w.out, stream);
}

template <class E, class V>
void spmm_backward(const SpmmGradientArgs<E, V>& a, void* workspace, void* stream) {
  check_sizes("spmm_backward", a.w, a.batch);
  const int64_t pitch = pitch_of<E>(a.batch);
  const GradientSpace<E, V> space(a, workspace);
  if (space.dy_t) turn_in(a.dy, a.batch, a.w.out, space.dy_t, stream);
  if (a.dx) input_gradient(a, space, stream);
  if (a.dvalues) {
    turn_in(a.x, a.batch, a.w.in, space.x_t, stream);
    const int64_t per_block = kSpmmThreads / kSampledLanes * kSampledRun;
    VDK_LAUNCH(spmm_sampled<E>, Grid{ceil_div(a.w.nnz, per_block)}, kSpmmThreads, 0, stream,
               SampledArgs<E>{a.w.cols, a.w.rows, a.w.nnz, a.w.out, pitch, space.x_t, space.dy_t, a.dvalues});
  }
  if (a.dbias)
    VDK_LAUNCH(spmm_row_sums<E>, Grid{ceil_div(a.w.out, kSpmmThreads / 32)}, kSpmmThreads, 0, stream,
               RowSumArgs<E>{space.dy_t, a.w.out, pitch, a.dbias});
}

#define VDK_SPMM_DEFINE(E, V)                                    \
  template size_t spmm_workspace(const SpmmArgs<E, V>&);         \
  template size_t spmm_workspace(const SpmmGradientArgs<E, V>&); \
  template void spmm(const SpmmArgs<E, V>&, void*, void*);       \
  template void spmm_backward(const SpmmGradientArgs<E, V>&, void*, void*);
VDK_SPMM_TYPES(VDK_SPMM_DEFINE)

}  // namespace cuda
}  // namespace vdk
