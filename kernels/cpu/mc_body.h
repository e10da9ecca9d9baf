// mc_body.h: everything one instruction set needs, built once per set. The
// including file sets the target, VL and MC_NAME.
#include "mc_vec.h"
#ifdef MC_TILE
#include "mc_tile.h"
#endif
#include "mc_gemm.h"
#include "mc_attn.h"
#include "mc_paged.h"
#include "mc_rows.h"

// Rows of one task of a row operation: about 16 Ki elements.
static int64_t rows_per_task(int64_t elements) { return imax(1, 16384 / imax(1, elements)); }

// Elements of one row of a row operation, and a rough price of one in nanoseconds.
static int64_t row_elements(const mc_cmd *c, double *price) {
	*price = 0.15;
	switch (c->op) {
	case MC_OP_RMSNORM: return c->n[1] * c->n[2];
	case MC_OP_ROPE: *price = 0.3; return c->n[1] * c->n[2];
	case MC_OP_QKV: *price = 0.6; return (c->n[1] + 2 * ((const mc_kv *)c->obj)->heads) * ((const mc_kv *)c->obj)->d;
	case MC_OP_ACTIVATION: *price = 0.5; return c->n[1];
	case MC_OP_SILU_MUL: *price = 0.4; return c->n[1];
	case MC_OP_PATCHIFY: *price = 2; return c->n[1];
	case MC_OP_VISION_EMBED: return c->n[2];
	case MC_OP_PIXEL_SHUFFLE: return c->n[2] * c->n[3] * c->n[3];
	case MC_OP_ARGMAX: *price = 0.4; return c->n[1];
	}
	return c->n[1];
}

static void plan(const mc_cmd *c, int phase, int threads, mc_plan *out) {
	*out = (mc_plan){0};
	switch (c->op) {
	case MC_OP_UPLOAD:
		if (phase == 0) *out = (mc_plan){1, (double)c->n[0] / 10, 0, 0};
		return;
	case MC_OP_LINEAR: linear_plan(c, phase, threads, out); return;
	case MC_OP_SEGMENT: segment_plan(c, phase, out); return;
	case MC_OP_PAGED: paged_plan(c, phase, out); return;
	case MC_OP_KV_STORE:
		if (phase == 0) *out = (mc_plan){((const mc_kv *)c->obj)->heads, (double)c->n[0] * ((const mc_kv *)c->obj)->heads * ((const mc_kv *)c->obj)->d * 2, 0, 0};
		return;
	case MC_OP_KV_COPY:
		if (phase == 0) *out = (mc_plan){((const mc_kv *)c->obj)->layers, (double)c->n[0] * ((const mc_kv *)c->obj)->layers * ((const mc_kv *)c->obj)->heads * ((const mc_kv *)c->obj)->page_bytes / 10, 0, 0};
		return;
	}
	if (phase > 0) return;
	double price;
	int64_t e = row_elements(c, &price);
	out->tasks = CEIL(c->n[0], rows_per_task(e));
	out->ns = (double)c->n[0] * e * price;
}

static void run(const mc_cmd *c, int phase, int64_t task, int threads, mc_ctx *x) {
	switch (c->op) {
	case MC_OP_UPLOAD: memcpy(c->t[0].p, c->extra, c->n[0]); return;
	case MC_OP_LINEAR: linear_run(c, phase, task, threads, x); return;
	case MC_OP_SEGMENT: if (phase == 0) segment_pack(c, task, x); else segment_run(c, task, x); return;
	case MC_OP_PAGED: paged_run(c, phase, task, x); return;
	case MC_OP_KV_STORE: kv_store(c, task, x); return;
	case MC_OP_KV_COPY: kv_copy(c, task); return;
	}
	double price;
	int64_t per = rows_per_task(row_elements(c, &price)), lo = task * per, hi = imin(c->n[0], lo + per);
	switch (c->op) {
	case MC_OP_RMSNORM: rmsnorm(c, lo, hi); return;
	case MC_OP_LAYERNORM: layernorm(c, lo, hi); return;
	case MC_OP_ACTIVATION: case MC_OP_CAST: activation(c, lo, hi); return;
	case MC_OP_SILU_MUL: silu_mul(c, lo, hi); return;
	case MC_OP_ADD: add(c, lo, hi); return;
	case MC_OP_EMBED: case MC_OP_GATHER: gather(c, lo, hi, x); return;
	case MC_OP_SCATTER: scatter(c, lo, hi, x); return;
	case MC_OP_ROPE: rope(c, lo, hi); return;
	case MC_OP_QKV: qkv_rows(c, lo, hi, x); return;
	case MC_OP_PATCHIFY: patchify(c, lo, hi); return;
	case MC_OP_VISION_EMBED: vision_embed(c, lo, hi); return;
	case MC_OP_PIXEL_SHUFFLE: pixel_shuffle(c, lo, hi); return;
	case MC_OP_ARGMAX: argmax(c, lo, hi); return;
	}
}

#define MC_STRING(x) #x
#define MC_TEXT(x) MC_STRING(x)
#define MC_JOIN(a, b) a##b
#define MC_SYMBOL(x) MC_JOIN(mc_, x)
const mc_isa MC_SYMBOL(MC_NAME) = {MC_TEXT(MC_NAME), plan, run};
