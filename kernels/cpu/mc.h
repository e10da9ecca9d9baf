// mc.h: what the Go side and the C kernels share: tensor views, packed weights,
// the paged cache and the command list. All memory behind the pointers is C
// memory owned by the backend. Offsets are int64_t.
#ifndef MC_H
#define MC_H
#include <stddef.h>
#include <stdint.h>

enum { MC_F32 = 1, MC_BF16 = 2, MC_F16 = 3, MC_I32 = 4, MC_U8 = 5 }; // as kernels.DType

// A tensor view: pointer to the first element, elements between rows, dtype.
typedef struct { void *p; int64_t stride; int64_t dt; } mc_tensor;

enum {
	MC_OP_UPLOAD, MC_OP_LINEAR, MC_OP_RMSNORM, MC_OP_LAYERNORM, MC_OP_ACTIVATION, MC_OP_SILU_MUL, MC_OP_ADD, MC_OP_CAST,
	MC_OP_EMBED, MC_OP_GATHER, MC_OP_SCATTER, MC_OP_ROPE, MC_OP_KV_STORE, MC_OP_KV_COPY, MC_OP_PAGED, MC_OP_SEGMENT,
	MC_OP_PATCHIFY, MC_OP_VISION_EMBED, MC_OP_PIXEL_SHUFFLE, MC_OP_ARGMAX, MC_OP_QKV, MC_OPS
};

// One operation. The meaning of t, n and f is said at each operation in mc_rows.h,
// mc_gemm.h and mc_attn.h.
typedef struct {
	int32_t op, act;
	mc_tensor t[8];
	int64_t n[10];
	float f[2];
	void *obj;   // mc_weight or mc_kv
	void *extra; // staged bytes of an upload or copy; freed after the run
} mc_cmd;

// Weight layouts, all in panels of 32 outputs (P32, see README.md).
enum { MC_W_F32, MC_W_BF16, MC_W_Q8, MC_W_Q4 };
typedef struct {
	int32_t layout, exact; // exact: no rounding of the rows of X
	int64_t n, k;
	int64_t group, agroup; // inputs that share a weight scale, an activation scale (quantised layouts)
	int64_t panel_bytes;   // from one panel to the next
	char *data;            // panels
	float *scales;         // [panels][K/group][32]
	float *zeros;          // [panels][K/group][32], zero point in the unsigned code; NULL: 128 or 8
	int64_t bytes;
} mc_weight;

// The paged cache: [layers][blocks][heads][K panel, V panel]. K panel [D/2][32][2]
// (bf16) or [D][32] (f32); V panels [Dp/32][16][32][2] or [Dp/32][32][32], Dp = D
// rounded up to 32.
#define MC_BLOCK 32
typedef struct {
	int64_t layers, blocks, heads, d, dp, dt;
	int64_t k_bytes, page_bytes; // of one K panel; of K and V panels of one block and head
	char *data;
	int64_t bytes;
} mc_kv;

// An error of device data, the first of a run.
typedef struct { int32_t op, code; int64_t index, value, limit; } mc_error;

// Scratch and identity of one thread during a run.
typedef struct {
	char *local;    // private scratch of local_bytes
	char *shared;   // scratch of the whole run
	int thread;
	mc_error *err;
	const mc_cmd *staged; // whose rows lie staged in local
} mc_ctx;

// What a phase of an operation needs: tasks that may run in any order on any
// thread, a rough cost in nanoseconds, scratch bytes.
typedef struct { int64_t tasks; double ns; int64_t shared_bytes, local_bytes; } mc_plan;

// The functions of one instruction set.
typedef struct {
	const char *name;
	void (*plan)(const mc_cmd *c, int phase, int threads, mc_plan *out); // tasks = 0: no such phase
	void (*run)(const mc_cmd *c, int phase, int64_t task, int threads, mc_ctx *x);
} mc_isa;

extern const mc_isa mc_base, mc_amx_emulated;
#if defined(__x86_64__)
extern const mc_isa mc_avx2, mc_avx512, mc_avx512bf16, mc_amx;
#endif

const mc_isa *mc_find_isa(const char *name); // "" = best; NULL if unknown or not runnable here
int mc_isa_names(const char **names, int max); // those that run here, best first, without the emulated one

void *mc_alloc(int64_t bytes); // zeroed, 256-byte aligned, huge pages for large ones; NULL if there is no memory
void mc_free(void *p, int64_t bytes);

void mc_pool_retain(int threads);  // at least this many threads, the caller included
void mc_pool_release(void);        // joins all threads when the last backend is gone
int mc_pool_threads(void);         // live pool threads

// Runs commands in order on at most threads threads, the caller being one.
// Returns 0, or -1 if scratch memory could not be had. *err tells of bad device data.
int mc_run(const mc_isa *isa, mc_cmd *cmds, int64_t n, int threads, mc_error *err);

// Writes panels [p0,p1) of a weight from row-major source rows. src[i] is the
// first byte of output i's row; dt its dtype.
void mc_pack_dense(mc_weight *w, int64_t p0, int64_t p1, const char *src, int64_t n0, int64_t n1, int dt);
// The same for quantised rows: bits 8 or 4, values, scales and zeros as in kernels.QuantPart.
void mc_pack_quant(mc_weight *w, int64_t p0, int64_t p1, const uint8_t *q, const float *scales, const uint8_t *zeros, int bits, int64_t group, int64_t n0, int64_t n1);
#endif
