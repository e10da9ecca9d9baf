// Elementwise operations and row moves. All are bound by memory: one thread
// handles 8 neighbouring columns when rows are aligned (vec), else one.
#include "params.cuh"

namespace {

// Calls f(row, col, n) for the columns of this thread, n = 8 or 1.
template <class F> DEVICE void each(int64_t rows, int64_t cols, bool vec, F f) {
  const int64_t step = vec ? 8 : 1, per_row = cols / step, total = rows * per_row;
  for (int64_t i = int64_t(block_x) * block_threads + thread_x; i < total; i += int64_t(grid_x) * block_threads) f(i / per_row, i % per_row * step, int(step));
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
  each(p.rows, p.cols, p.vec, [&](int64_t r, int64_t c, int n) {
    float v[8];
    load_n(p.a, p.a_dt, r * p.a_stride + c, n, v);
    for (int j = 0; j < n; j++) v[j] = activate(v[j], p.act);
    store_n(p.out, p.out_dt, r * p.out_stride + c, n, v);
  });
}

// out[r,c] = a[r,c] + b[r,c].
KERNEL(add, RowsParams, 256, 1) {
  overlap_next();
  wait_previous();
  each(p.rows, p.cols, p.vec, [&](int64_t r, int64_t c, int n) {
    float v[8], w[8];
    load_n(p.a, p.a_dt, r * p.a_stride + c, n, v);
    load_n(p.b, p.b_dt, r * p.b_stride + c, n, w);
    for (int j = 0; j < n; j++) v[j] += w[j];
    store_n(p.out, p.out_dt, r * p.out_stride + c, n, v);
  });
}

// out[r,c] = silu(a[r,c]) * a[r,cols+c].
KERNEL(silu_mul, RowsParams, 256, 1) {
  overlap_next();
  wait_previous();
  each(p.rows, p.cols, p.vec, [&](int64_t r, int64_t c, int n) {
    float g[8], u[8];
    load_n(p.a, p.a_dt, r * p.a_stride + c, n, g);
    load_n(p.a, p.a_dt, r * p.a_stride + p.cols + c, n, u);
    for (int j = 0; j < n; j++) g[j] = silu(g[j]) * u[j];
    store_n(p.out, p.out_dt, r * p.out_stride + c, n, g);
  });
}

// out[r,:] = a[index[r],:]; a row index outside [0,limit) gives zeros.
KERNEL(gather_rows, RowsParams, 256, 1) {
  overlap_next();
  wait_previous();
  const int32_t *index = static_cast<const int32_t *>(p.index);
  each(p.rows, p.cols, p.vec, [&](int64_t r, int64_t c, int n) {
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
  each(p.rows, p.cols, p.vec, [&](int64_t r, int64_t c, int n) {
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
KERNEL(patchify, PatchifyParams, 256, 1) {
  overlap_next();
  wait_previous();
  const uint8_t *tiles = static_cast<const uint8_t *>(p.tiles);
  const float *lut = static_cast<const float *>(p.lut);
  const int g = p.side / p.patch, used = 3 * p.patch * p.patch;
  each(p.rows, p.cols, false, [&](int64_t r, int64_t c, int) {
    float v = 0.f;
    if (c < used) {
      const int64_t tile = r / (g * g);
      const int cell = int(r % (g * g)), channel = int(c) / (p.patch * p.patch), in = int(c) % (p.patch * p.patch);
      const int y = cell / g * p.patch + in / p.patch, x = cell % g * p.patch + in % p.patch;
      v = lut[channel * 256 + tiles[((tile * p.side + y) * p.side + x) * 3 + channel]];
    }
    store(p.out, p.out_dt, r * p.out_stride + c, v);
  });
}

// out[i,0,:] = cls + pos[0]; out[i,1+j,:] = x[i*(rows-1)+j,:] + pos[1+j].
KERNEL(vision_embed, VisionEmbedParams, 256, 1) {
  overlap_next();
  wait_previous();
  const float *cls = static_cast<const float *>(p.cls), *pos = static_cast<const float *>(p.pos);
  each(int64_t(p.tiles) * p.rows, p.cols, false, [&](int64_t r, int64_t c, int) {
    const int64_t tile = r / p.rows, row = r % p.rows;
    const float v = row == 0 ? cls[c] : load(p.x, p.x_dt, (tile * (p.rows - 1) + row - 1) * p.x_stride + c);
    store(p.out, p.out_dt, tile * p.out_stride + row * p.cols + c, v + pos[row * p.cols + c]);
  });
}

// Space to depth of a grid of patches behind a class token; copies bits.
KERNEL(pixel_shuffle, PixelShuffleParams, 256, 1) {
  overlap_next();
  wait_previous();
  const int q = p.grid / p.factor, r = p.factor, width = r * r * p.cols;
  each(int64_t(p.tiles) * q * q, width, false, [&](int64_t row, int64_t col, int) {
    const int64_t tile = row / (q * q);
    const int token = int(row % (q * q)), part = int(col / p.cols), e = int(col % p.cols);
    const int y = p.version == 1 ? token % q : token / q, x = p.version == 1 ? token / q : token % q;
    const int from = 1 + (r * y + part / r) * p.grid + r * x + part % r;
    const float v = load(p.x, p.dt, tile * p.x_stride + int64_t(from) * p.cols + e);
    store(p.out, p.dt, tile * p.out_stride + int64_t(token) * width + col, v);
  });
}
