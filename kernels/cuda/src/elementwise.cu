// Elementwise operations and row moves. All are bound by memory: one thread
// handles 8 neighbouring columns when rows are aligned (vec), else one.
#include "params.cuh"

namespace {

// A number that the compiler knows.
template <int N> struct Number {
  METHOD constexpr operator int() const { return N; }
};

// Calls f(row, col, n) for the columns of this thread, n = Number<8> or <1>. I holds all indices.
template <class I, int N, class F> DEVICE void each_of(I rows, I cols, F f) {
  const I per_row = cols / I(N), total = rows * per_row;
  for (I i = I(block_x) * I(block_threads) + I(thread_x); i < total; i += I(grid_x) * I(block_threads)) f(int64_t(i / per_row), int64_t(i % per_row * I(N)), Number<N>());
}
template <class F> DEVICE void each(int64_t rows, int64_t cols, bool vec, F f) {
  // Division of 32 bits is several times cheaper. A grid is far below 2^31 threads.
  const bool small = rows * cols < int64_t(1) << 31;
  if (vec && small) each_of<uint32_t, 8>(uint32_t(rows), uint32_t(cols), f);
  else if (vec) each_of<int64_t, 8>(rows, cols, f);
  else each_of<int64_t, 1>(rows, cols, f);
}

DEVICE void load_n(const void *p, int dt, int64_t i, int n, float *v) {
  if (n == 8) load8(p, dt, i, v);
  else v[0] = load(p, dt, i);
}
DEVICE void store_n(void *p, int dt, int64_t i, int n, const float *v) {
  if (n == 8) store8(p, dt, i, v);
  else store(p, dt, i, v[0]);
}

}  // namespace

// out[r,c] = act(a[r,c]); ACT_NONE converts.
KERNEL(unary, RowsParams, 256, 1) {
  overlap_next();
  wait_previous();
  each(p.rows, p.cols, p.vec, [&](int64_t r, int64_t c, auto n) {
    float v[8];
    load_n(p.a, p.a_dt, r * p.a_stride + c, n, v);
    UNROLL for (int j = 0; j < n; j++) v[j] = activate(v[j], p.act);
    store_n(p.out, p.out_dt, r * p.out_stride + c, n, v);
  });
}

// out[r,c] = a[r,c] + b[r,c].
KERNEL(add, RowsParams, 256, 1) {
  overlap_next();
  wait_previous();
  each(p.rows, p.cols, p.vec, [&](int64_t r, int64_t c, auto n) {
    float v[8], w[8];
    load_n(p.a, p.a_dt, r * p.a_stride + c, n, v);
    load_n(p.b, p.b_dt, r * p.b_stride + c, n, w);
    UNROLL for (int j = 0; j < n; j++) v[j] += w[j];
    store_n(p.out, p.out_dt, r * p.out_stride + c, n, v);
  });
}

// out[r,c] = silu(a[r,c]) * a[r,cols+c].
KERNEL(silu_mul, RowsParams, 256, 1) {
  overlap_next();
  wait_previous();
  each(p.rows, p.cols, p.vec, [&](int64_t r, int64_t c, auto n) {
    float g[8], u[8];
    load_n(p.a, p.a_dt, r * p.a_stride + c, n, g);
    load_n(p.a, p.a_dt, r * p.a_stride + p.cols + c, n, u);
    UNROLL for (int j = 0; j < n; j++) g[j] = silu(g[j]) * u[j];
    store_n(p.out, p.out_dt, r * p.out_stride + c, n, g);
  });
}

// out[r,:] = a[index[r],:]; a row index outside [0,limit) gives zeros.
KERNEL(gather_rows, RowsParams, 256, 1) {
  overlap_next();
  wait_previous();
  const int32_t *index = static_cast<const int32_t *>(p.index);
  each(p.rows, p.cols, p.vec, [&](int64_t r, int64_t c, auto n) {
    const int64_t from = index[r];
    float v[8] = {};
    if (from >= 0 && from < p.limit) load_n(p.a, p.a_dt, from * p.a_stride + c, n, v);
    store_n(p.out, p.out_dt, r * p.out_stride + c, n, v);
  });
}

// out[index[r],:] = a[r,:] where 0 <= index[r] < limit.
KERNEL(scatter_rows, RowsParams, 256, 1) {
  overlap_next();
  wait_previous();
  const int32_t *index = static_cast<const int32_t *>(p.index);
  each(p.rows, p.cols, p.vec, [&](int64_t r, int64_t c, auto n) {
    const int64_t to = index[r];
    if (to < 0 || to >= p.limit) return;
    float v[8];
    load_n(p.a, p.a_dt, r * p.a_stride + c, n, v);
    store_n(p.out, p.out_dt, to * p.out_stride + c, n, v);
  });
}

// out[i] = src[i] converted; contiguous, for weights at load time.
KERNEL(convert, ConvertParams, 256, 1) {
  for (int64_t i = int64_t(block_x) * block_threads + thread_x; i < p.count; i += int64_t(grid_x) * block_threads)
    store(p.out, p.out_dt, i, load(p.src, p.src_dt, i));
}

// out[r, (c*patch+ky)*patch+kx] = lut[c][tiles[tile, y*patch+ky, x*patch+kx, c]], r = tile*g*g + y*g + x.
// A cta a row; a thread takes a pixel, then one of the columns behind, which are zeros.
KERNEL(patchify, PatchifyParams, 256, 1) {
  overlap_next();
  wait_previous();
  const uint8_t *tiles = static_cast<const uint8_t *>(p.tiles);
  const float *lut = static_cast<const float *>(p.lut);
  const int g = p.side / p.patch, area = p.patch * p.patch;
  for (int64_t r = block_x; r < p.rows; r += grid_x) {
    const int64_t tile = r / (g * g);
    const int cell = int(r % (g * g)), y0 = cell / g * p.patch, x0 = cell % g * p.patch;
    for (int in = thread_x; in < area; in += block_threads) {
      const int ky = in / p.patch, kx = in - ky * p.patch;
      const uint8_t *pixel = tiles + ((tile * p.side + y0 + ky) * p.side + x0 + kx) * 3;
      UNROLL for (int c = 0; c < 3; c++) store(p.out, p.out_dt, r * p.out_stride + c * area + in, lut[c * 256 + pixel[c]]);
    }
    for (int c = 3 * area + thread_x; c < p.cols; c += block_threads) store(p.out, p.out_dt, r * p.out_stride + c, 0.f);
  }
}

// out[i,0,:] = cls + pos[0]; out[i,1+j,:] = x[i*(rows-1)+j,:] + pos[1+j].
KERNEL(vision_embed, VisionEmbedParams, 256, 1) {
  overlap_next();
  wait_previous();
  each(int64_t(p.tiles) * p.rows, p.cols, p.vec, [&](int64_t r, int64_t c, auto n) {
    const int tile = int(r) / p.rows, row = int(r) % p.rows;
    float v[8], w[8];
    if (row == 0) load_n(p.cls, DT_F32, c, n, v);
    else load_n(p.x, p.x_dt, (int64_t(tile) * (p.rows - 1) + row - 1) * p.x_stride + c, n, v);
    load_n(p.pos, DT_F32, int64_t(row) * p.cols + c, n, w);
    UNROLL for (int j = 0; j < n; j++) v[j] += w[j];
    store_n(p.out, p.out_dt, tile * p.out_stride + int64_t(row) * p.cols + c, n, v);
  });
}

// Space to depth of a grid of patches behind a class token; copies bits.
KERNEL(pixel_shuffle, PixelShuffleParams, 256, 1) {
  overlap_next();
  wait_previous();
  const int q = p.grid / p.factor, f = p.factor;
  // A row is a token's part: one patch.
  each(int64_t(p.tiles) * q * q * f * f, p.cols, p.vec, [&](int64_t row, int64_t e, auto n) {
    const int part = int(row) % (f * f), token = int(row) / (f * f) % (q * q), tile = int(row) / (f * f) / (q * q);
    const int y = p.version == 1 ? token % q : token / q, x = p.version == 1 ? token / q : token % q;
    const int from = 1 + (f * y + part / f) * p.grid + f * x + part % f;
    float v[8];
    load_n(p.x, p.dt, tile * p.x_stride + int64_t(from) * p.cols + e, n, v);
    store_n(p.out, p.dt, tile * p.out_stride + (int64_t(token) * f * f + part) * p.cols + e, n, v);
  });
}
