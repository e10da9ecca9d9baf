// mc_amx_quant.h: quantised panels with tiles, cut into tasks as in mc_amx.h. int4
// panels are spread to bytes first, a chunk at a time. The integer sums of a group leave
// the tiles for memory, where the same operations in the same order as in mc_quant.h
// scale and add them: the bits are those of the kernels for few rows.

// Whether T rows go through tiles: groups are whole steps, and rows enough that reading
// the tiles out costs less than the products of mc_quant.h.
enum { AMX_Q_ROWS = 5, AMX_Q_CHUNK = 1024 };
static int amx_quant(const mc_weight *w, int64_t T) { return T >= AMX_Q_ROWS && w->agroup % 64 == 0; }

typedef struct { int32_t ints[2][32 * 32]; uint8_t codes[2][AMX_Q_CHUNK * 32]; } amx_q_local; // sums of a group in turns; int4 spread
static float *amx_q_sums(char *local) { return (float *)(local + sizeof(amx_q_local)); }

static void amx_q_plan(const mc_cmd *c, int threads, mc_plan *out) {
	amx_plan(c, threads, out);
	int64_t rows = c->n[0] > 16 ? CEIL(imin(c->n[0], AMX_SUPER), 32) * 32 * amx_cut_of(c, threads).per * (c->n[3] ? 2 : 1) : 32;
	out->ns *= 2;
	out->local_bytes = sizeof(amx_q_local) + rows * 32 * 4;
}

// n bytes of an int4 panel as 2n bytes of an int8 panel.
INLINE void amx_spread(const uint8_t *w, uint8_t *out, int64_t n) {
	for (int64_t i = 0; i < n; i += 128, w += 128, out += 256) {
		tile_fetch((const char *)w + 4096, 2);
		for (int j = 0; j < 128; j += VL * 4) {
			vu u;
			memcpy(&u, w + j, sizeof u);
			vu lo = u & 0x0f0f0f0fu, hi = u >> 4 & 0x0f0f0f0fu;
			memcpy(out + j, &lo, sizeof lo);
			memcpy(out + 128 + j, &hi, sizeof hi);
		}
	}
}

// Weights of np = 1 or 2 panels and rows that meet them: codes from panel byte W, scales S
// and zero points Z of the first group, activation codes, scales and sums.
typedef struct {
	const uint8_t *W[2];
	const float *S[2], *Z[2]; // Z NULL: zero
	const char *x;
	const float *scale, *sum;
	int64_t ldx, groups, steps, repeat, phase;
	float zero;
} amx_q_args;

// F += (ints - z * sum) * s * scale of group g; NP panels of 32 columns.
INLINE void amx_q_scale(int NP, int R, const amx_q_args *a, int64_t g, int64_t s, const int32_t *ints, float *F, int first) {
	enum { MOST = 64 / VL };
	vf scale[MOST], zero[MOST];
#pragma GCC unroll 16
	for (int v = 0; v < NP * 32 / VL; v++) {
		int at = v * VL % 32, p = v * VL / 32;
		scale[v] = vload(a->S[p] + s + at);
		zero[v] = a->Z[0] ? vload(a->Z[p] + s + at) : vset(a->zero);
	}
	for (int i = 0; i < R; i++) {
		float sa = *(const float *)((const char *)(a->scale + g) + i * a->ldx), sum = *(const float *)((const char *)(a->sum + g) + i * a->ldx);
#pragma GCC unroll 16
		for (int v = 0; v < NP * 32 / VL; v++) {
			vi d;
			memcpy(&d, ints + i * NP * 32 + v * VL, sizeof d);
			float *f = F + i * NP * 32 + v * VL;
			vf t = fma_(zero[v], vset(-sum), __builtin_convertvector(d, vf));
			vstore(f, fma_(t, scale[v] * sa, first ? vset(0) : vload(f)));
		}
	}
}

// F[R][NP*32] (+)= the product over all groups. A group's tiles are computed before the
// sums of the group before it are scaled, so that both go on at the same time.
INLINE void amx_q_product(int NP, int R, const amx_q_args *a, int32_t (*ints)[32 * 32], float *F, int acc, tile_ahead fetch, const char *second) {
	const uint8_t *w0 = a->W[0], *w1 = NP == 2 ? a->W[1] : NULL;
	const char *x = a->x;
	int64_t past = a->phase, s = 0;
	for (int64_t g = 0; g <= a->groups; g++) {
		if (g < a->groups) {
			TILE_ZERO(0); TILE_ZERO(1); TILE_ZERO(2); TILE_ZERO(3);
			for (int64_t i = 0; i < a->steps; i++) {
				TILE_LOAD(4, x, a->ldx);
				TILE_LOAD(6, w0, 128);
				TILE_BYTES(0, 4, 6);
				TILE_LOAD(7, w0 + 64, 128);
				TILE_BYTES(1, 4, 7);
				if (NP == 2) {
					TILE_LOAD(5, w1, 128);
					TILE_BYTES(2, 4, 5);
					TILE_LOAD(6, w1 + 64, 128);
					TILE_BYTES(3, 4, 6);
					w1 += 2048;
				} else {
					TILE_LOAD(5, x + 16 * a->ldx, a->ldx);
					TILE_BYTES(2, 5, 6);
					TILE_BYTES(3, 5, 7);
				}
				tile_fetch_ahead(&fetch);
				if (NP == 2) tile_fetch(second, fetch.lines), second += fetch.lines * 64;
				x += 64, w0 += 2048;
			}
		}
		if (g > 0) {
			amx_q_scale(NP, R, a, g - 1, s, ints[(g - 1) % 2], F, !acc && g == 1);
			if (++past == a->repeat) { past = 0; s += 32; }
		}
		if (g < a->groups) {
			char *at = (char *)ints[g % 2];
			TILE_STORE(0, at, NP * 128); TILE_STORE(1, at + 64, NP * 128);
			TILE_STORE(2, NP == 2 ? at + 128 : at + 16 * 128, NP * 128); TILE_STORE(3, NP == 2 ? at + 192 : at + 16 * 128 + 64, NP * 128);
		}
	}
}

// Operands of rows from x on and np panels, groups g0..g1.
static amx_q_args amx_q_operands(const mc_weight *w, const char *rows, int64_t codes, int64_t ldx, const int64_t *panel, int np, int64_t g0, int64_t g1, amx_q_local *l) {
	int four = w->layout == MC_W_Q4;
	int64_t groups = w->k / w->group, repeat = w->group / w->agroup;
	amx_q_args a = {.x = rows + g0 * w->agroup, .ldx = ldx, .groups = g1 - g0, .steps = w->agroup / 64, .repeat = repeat, .phase = g0 % repeat, .zero = four ? 8 : 128};
	a.scale = (const float *)(rows + codes) + g0;
	a.sum = a.scale + w->k / w->agroup;
	for (int p = 0; p < np; p++) {
		int64_t at = (panel[p] * groups + g0 / repeat) * 32;
		const uint8_t *src = (const uint8_t *)w->data + panel[p] * w->panel_bytes + g0 * w->agroup * (four ? 16 : 32);
		a.W[p] = four ? l->codes[p] : src;
		if (four) amx_spread(src, l->codes[p], (g1 - g0) * w->agroup * 16);
		a.S[p] = w->scales + at;
		a.Z[p] = w->zeros ? w->zeros + at : NULL;
	}
	return a;
}

// At most 16 rows: strips of two panels, in chunks of k for int4's sake.
static void amx_q_strips(const mc_cmd *c, int64_t p0, int64_t p1, const char *X, int64_t codes, int64_t ldx, amx_q_local *l) {
	const mc_weight *w = c->obj;
	int R = (int)c->n[0], glu = c->n[3] != 0;
	float *F = amx_q_sums((char *)l);
	int64_t all = w->k / w->agroup, chunk = AMX_Q_CHUNK / 4 / w->agroup; // both spread panels stay in the first level of cache
	for (int64_t p = p0; p < p1; p += glu ? 1 : 2) {
		int64_t panel[2] = {p, glu ? p + w->n / 64 : imin(p + 1, p1 - 1)};
		for (int64_t g = 0; g < all; g += chunk) {
			amx_q_args a = amx_q_operands(w, X, codes, ldx, panel, 2, g, imin(all, g + chunk), l);
			tile_ahead ahead = {.weights = (const char *)a.W[0] + 2048, .lines = w->layout == MC_W_Q8 ? 32 : 0}; // int4 is in cache
			amx_q_product(2, R, &a, l->ints, F, g > 0, ahead, (const char *)a.W[1] + 2048);
		}
		if (glu) epilogue_glu(c, 0, R, p * 32, 32, F, F + 32, 64);
		else epilogue(c, 0, R, p * 32, imin(imin(64, (p1 - p) * 32), w->n - p * 32), F, 64);
	}
}

// Rows r0..r1 by panels p0..p1 in blocks, as amx_many.
static void amx_q_many(const mc_cmd *c, int64_t p0, int64_t p1, int64_t r0, int64_t r1, const char *X, int64_t codes, int64_t ldx, amx_q_local *l) {
	const mc_weight *w = c->obj;
	int glu = c->n[3] != 0, width = glu ? 2 : 1;
	int64_t all = w->k / w->agroup, chunk = AMX_Q_CHUNK / w->agroup, blocks = CEIL(r1 - r0, 32), four = w->layout == MC_W_Q4;
	int64_t lines = CEIL(four ? 16 : 32, blocks);
	for (int64_t g = 0; g < all; g += chunk)
		for (int64_t p = p0; p < p1; p++)
			for (int h = 0; h < width; h++) {
				int64_t panel = p + h * (w->n / 64), end = imin(all, g + chunk);
				float *F = amx_q_sums((char *)l) + ((p - p0) * width + h) * blocks * 1024;
				const char *next = w->data + (p + 1 < p1 ? panel + 1 : panel) * w->panel_bytes + (p + 1 < p1 ? g : end) * w->agroup * (four ? 16 : 32);
				amx_q_args first = amx_q_operands(w, X + r0 * ldx, codes, ldx, &panel, 1, g, end, l);
				for (int64_t b = 0; b < blocks; b++, F += 1024) {
					int64_t row = r0 + b * 32, skip = b * 32 * ldx;
					int R = (int)imin(32, r1 - row);
					amx_q_args a = first;
					a.x += skip, a.scale += skip / 4, a.sum += skip / 4;
					amx_q_product(1, R, &a, l->ints, F, g > 0, amx_ahead(c, next + b * (end - g) * a.steps * lines * 64, lines, end == all && h == width - 1, p, row, r1, (end - g) * a.steps), NULL);
					if (end < all || h < width - 1) continue;
					if (glu) epilogue_glu(c, row, R, p * 32, 32, F - blocks * 1024, F, 32);
					else epilogue(c, row, R, p * 32, imin(32, w->n - p * 32), F, 32);
				}
			}
}

static void amx_q_run(const mc_cmd *c, int64_t task, int threads, const char *X, int64_t codes, int64_t ldx, char *local) {
	int64_t T = c->n[0];
	amx_cut t = amx_cut_of(c, threads);
	int64_t p0 = task % t.pieces * t.per, p1 = imin(out_panels(c), p0 + t.per), r0 = task / t.pieces * AMX_SUPER;
	if (T <= 16) {
		tile_begin((int)T, 0);
		amx_q_strips(c, p0, p1, X, codes, ldx, (amx_q_local *)local);
	} else {
		tile_begin(16, 16);
		amx_q_many(c, p0, p1, r0, imin(T, r0 + AMX_SUPER), X, codes, ldx, (amx_q_local *)local);
	}
	tile_end();
}
