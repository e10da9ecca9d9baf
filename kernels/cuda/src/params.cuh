// Parameter blocks of the kernels. cmd/cu2go mirrors them in Go (kernels_gen.go)
// and checks sizes and offsets (layout_gen.cuh); it knows the types ptr, i32, i64,
// f32, tensormap and arrays of them, one field a line.
//
// x, out, ...: first element. *_stride: elements between rows. *_dt: element type
// (DT_*). vec: all rows begin on 16 bytes and have a multiple of 8 columns.
#pragma once
#include "dialect.cuh"

typedef void *ptr;
typedef int32_t i32;
typedef int64_t i64;
typedef float f32;
struct alignas(64) tensormap { uint64_t opaque[16]; };

// Rows of a unary or binary elementwise operation.
struct RowsParams {
  ptr out;
  ptr a;
  ptr b;
  ptr index;
  i64 out_stride;
  i64 a_stride;
  i64 b_stride;
  i64 rows;
  i64 cols;
  i64 limit;
  i32 out_dt;
  i32 a_dt;
  i32 b_dt;
  i32 act;
  i32 vec;
};

// Normalisation over the last dimension of rows*heads vectors.
struct NormParams {
  ptr out;
  ptr x;
  ptr weight;
  ptr bias;
  i64 out_stride;
  i64 x_stride;
  i32 heads;
  i32 rows;
  i32 cols;
  i32 out_dt;
  i32 x_dt;
  f32 eps;
  i32 round_first;
  i32 vec;
};

struct PatchifyParams {
  ptr out;
  ptr tiles;
  ptr lut;
  i64 out_stride;
  i64 rows;
  i32 cols;
  i32 side;
  i32 patch;
  i32 out_dt;
};

struct VisionEmbedParams {
  ptr out;
  ptr x;
  ptr cls;
  ptr pos;
  i64 out_stride;
  i64 x_stride;
  i32 tiles;
  i32 rows;
  i32 cols;
  i32 out_dt;
  i32 x_dt;
  i32 vec;
};

struct PixelShuffleParams {
  ptr out;
  ptr x;
  i64 out_stride;
  i64 x_stride;
  i32 tiles;
  i32 grid;
  i32 factor;
  i32 cols;
  i32 dt;
  i32 version;
  i32 vec;
};

struct RopeParams {
  ptr x;
  ptr positions;
  ptr inv_freq;
  i64 x_stride;
  i64 pos_stride;
  i32 tokens;
  i32 heads;
  i32 head_dim;
  i32 x_dt;
  f32 factor;
  i32 section1;
  i32 section2;
};

// A layer of the key/value cache: [blocks][2][heads][32][head_dim].
struct KVStoreParams {
  ptr cache;
  ptr k;
  ptr v;
  ptr slots;
  i64 k_stride;
  i64 v_stride;
  i64 block_elements;
  i32 tokens;
  i32 heads;
  i32 head_dim;
  i32 k_dt;
  i32 v_dt;
  i32 cache_dt;
};

// q/k-norm, rotation and cache store of a fused projection's rows. warps: of a token.
struct QKRopeStoreParams {
  ptr q;
  ptr k;
  ptr v;
  ptr q_weight;
  ptr k_weight;
  ptr positions;
  ptr inv_freq;
  ptr slots;
  ptr cache;
  i64 q_stride;
  i64 k_stride;
  i64 v_stride;
  i64 block_elements;
  i64 pos_stride;
  i32 tokens;
  i32 q_heads;
  i32 kv_heads;
  i32 head_dim;
  i32 cache_dt;
  f32 eps;
  f32 factor;
  i32 round_first;
  i32 section1;
  i32 section2;
  i32 warps;
  i32 vec;
};

struct KVCopyParams {
  ptr cache;
  ptr pairs;
  i64 layer_bytes;
  i64 block_bytes;
  i32 pairs_count;
  i32 layers;
};

// Dense weights to the tiled layout (linear.cuh), from rows at row0 on.
struct PackParams {
  ptr out;
  ptr src;
  i64 rows;
  i64 row0;
  i32 k;
  i32 k_padded;
  i32 src_dt;
  i32 interleave;
  i32 half;
};

struct ConvertParams {
  ptr out;
  ptr src;
  i64 count;
  i32 out_dt;
  i32 src_dt;
};

// out[t,n] = epilogue(sum_k x[t,k] w[n,k]).
struct LinearParams {
  ptr out;
  ptr x;
  ptr w;
  ptr scales;
  ptr zeros;
  ptr bias;
  ptr residual;
  ptr layer_scale;
  i64 out_stride;
  i64 x_stride;
  i64 residual_stride;
  i32 rows;
  i32 n;
  i32 k;
  i32 k_padded;
  i32 out_dt;
  i32 x_dt;
  i32 w_dt;
  i32 act;
  i32 gated;
  i32 group;
  i32 vec;
};

// LinearParams with all tensors as maps (sm_90a): results and residual are boxes of 64 rows.
struct LinearTileParams {
  tensormap x_map;
  tensormap w_map;
  tensormap out_map;
  tensormap residual_map;
  LinearParams linear;
  i32 finish;
};

// LinearParams for the streaming kernels of a few rows (sm_90a), and the RMSNorm in
// front of a single row (norm: its weight, or null).
struct LinearStreamParams {
  tensormap x_map;
  LinearParams linear;
  ptr norm;
  i32 passes;
  f32 eps;
  i32 round_first;
};

struct AttentionParams {
  ptr out;
  ptr q;
  ptr k;
  ptr v;
  ptr cache;
  ptr starts;
  ptr lens;
  ptr tables;
  ptr shared;
  ptr partial;
  i64 out_stride;
  i64 q_stride;
  i64 k_stride;
  i64 v_stride;
  i64 table_stride;
  i64 block_elements;
  i32 sequences;
  i32 q_heads;
  i32 kv_heads;
  i32 head_dim;
  i32 out_dt;
  i32 q_dt;
  i32 kv_dt;
  i32 partitions;
  i32 partial_rows;
  i32 split_rows;
  i32 walk;
  i32 slots;
  i32 settled;
  f32 scale;
};

// AttentionParams with keys and values as tensor maps of boxes of 32 keys, 64 columns (sm_90a).
// row0: the layer's first row of the cache, whose rows are [blocks][2][heads][32].
struct AttentionMapParams {
  tensormap k_map;
  tensormap v_map;
  AttentionParams attention;
  i32 row0;
};

struct ArgMaxParams {
  ptr ids;
  ptr log_probs;
  ptr logits;
  ptr partial;
  i64 stride;
  i32 rows;
  i32 vocab;
  i32 parts;
};
#include "layout_gen.cuh"
