// mc_amx.h: linear layers of bf16 panels with tiles. Up to 16 rows go in strips of two
// panels, up to 32 in blocks over all of K: weights stream from memory. More rows go in
// blocks of 32 by 32 over chunks of 1 KiB a row, so that the chunk of a panel stays in
// the first level of cache and the chunks of AMX_SUPER rows in the second.
enum { AMX_CHUNK = 1024, AMX_SUPER = 512, AMX_PANELS = 8 };

typedef struct { int64_t per, pieces, supers; } amx_cut; // panels of a task, tasks beside and below each other
static amx_cut amx_cut_of(const mc_cmd *c, int threads) {
	const mc_weight *w = c->obj;
	int64_t T = c->n[0], panels = out_panels(c);
	amx_cut t = {.supers = 1};
	if (T > 32) {
		t.per = imin(AMX_PANELS, imax(1, CEIL(panels, 4 * threads)));
		t.supers = CEIL(T, AMX_SUPER);
	} else {
		int64_t pieces = imax(1, imin(panels * w->panel_bytes / (64 << 10), 16 * threads));
		t.per = imin(panels, CEIL(CEIL(panels, pieces), 2) * 2);
	}
	t.pieces = CEIL(panels, t.per);
	return t;
}

static void amx_plan(const mc_cmd *c, int threads, mc_plan *out) {
	const mc_weight *w = c->obj;
	int64_t T = c->n[0];
	amx_cut t = amx_cut_of(c, threads);
	out->tasks = t.pieces * t.supers;
	double flops = 2.0 * T * w->n * w->k / 1000, bytes = (double)w->bytes / 40;
	out->ns = flops > bytes ? flops : bytes;
	out->local_bytes = T > 32 ? CEIL(imin(T, AMX_SUPER), 32) * 32 * t.per * 32 * 4 * (c->n[3] ? 2 : 1) : 32 * 64 * 4;
}

// At most 16 rows; a strip is two panels, or with glu the two halves of an output.
static void amx_strips(const mc_cmd *c, int64_t p0, int64_t p1, const char *X, int64_t ldx, float *sums) {
	const mc_weight *w = c->obj;
	int R = (int)c->n[0], glu = c->n[3] != 0;
	int64_t half = w->n / 64 * w->panel_bytes, ahead[2] = {2048, 2048};
	for (int64_t p = p0; p < p1; p += glu ? 1 : 2) {
		const char *at = w->data + p * w->panel_bytes, *W[2] = {at, glu ? at + half : p + 1 < p1 ? at + w->panel_bytes : at};
		tile_strip(X, ldx, W, ahead, 1, w->k / 32, sums, 64, 0);
		if (glu) epilogue_glu(c, 0, R, p * 32, 32, sums, sums + 32, 64);
		else epilogue(c, 0, R, p * 32, imin(imin(64, (p1 - p) * 32), w->n - p * 32), sums, 64);
	}
}

// 17 to 32 rows.
static void amx_blocks(const mc_cmd *c, int64_t p0, int64_t p1, const char *X, int64_t ldx, float *sums) {
	const mc_weight *w = c->obj;
	int R = (int)c->n[0];
	int64_t half = w->n / 64 * w->panel_bytes;
	for (int64_t p = p0; p < p1; p++) {
		const char *at = w->data + p * w->panel_bytes;
		tile_block(1, X, ldx, at, w->k / 32, sums, 32, 0, at + 2048, 32);
		if (c->n[3]) {
			tile_block(1, X, ldx, at + half, w->k / 32, sums + 32 * 32, 32, 0, at + half + 2048, 32);
			epilogue_glu(c, 0, R, p * 32, 32, sums, sums + 32 * 32, 32);
		} else epilogue(c, 0, R, p * 32, imin(32, w->n - p * 32), sums, 32);
	}
}

// Rows r0..r1 by panels p0..p1, chunk by chunk of k; sums are [panel][rows][32], the
// halves of glu side by side. While a chunk of a panel is used the next one is fetched.
static void amx_many(const mc_cmd *c, int64_t p0, int64_t p1, int64_t r0, int64_t r1, const char *X, int64_t ldx, float *sums) {
	const mc_weight *w = c->obj;
	int glu = c->n[3] != 0, width = glu ? 2 : 1;
	int64_t half = w->n / 64 * w->panel_bytes, bytes = w->k * 2, blocks = CEIL(r1 - r0, 32), lines = CEIL(32, blocks);
	for (int64_t k = 0; k < bytes; k += AMX_CHUNK) {
		int64_t steps = imin(AMX_CHUNK, bytes - k) / 64;
		int last = k + AMX_CHUNK >= bytes;
		for (int64_t p = p0; p < p1; p++)
			for (int h = 0; h < width; h++) {
				const char *at = w->data + p * w->panel_bytes + k * 32 + h * half, *next = p + 1 < p1 ? at + w->panel_bytes : w->data + p0 * w->panel_bytes + (k + AMX_CHUNK) * 32 + h * half;
				float *s = sums + ((p - p0) * width + h) * blocks * 1024;
				for (int64_t b = 0; b < blocks; b++, s += 1024) {
					tile_block(1, X + (r0 + b * 32) * ldx + k, ldx, at, steps, s, 32, k > 0, next + b * steps * lines * 64, (int)lines);
					if (!last || h < width - 1) continue;
					int R = (int)imin(32, r1 - r0 - b * 32);
					if (glu) epilogue_glu(c, r0 + b * 32, R, p * 32, 32, s - blocks * 1024, s, 32);
					else epilogue(c, r0 + b * 32, R, p * 32, imin(32, w->n - p * 32), s, 32);
				}
			}
	}
}

static void amx_run(const mc_cmd *c, int64_t task, int threads, const char *X, int64_t ldx, float *sums) {
	int64_t T = c->n[0];
	amx_cut t = amx_cut_of(c, threads);
	int64_t p0 = task % t.pieces * t.per, p1 = imin(out_panels(c), p0 + t.per), r0 = task / t.pieces * AMX_SUPER;
	if (T <= 16) {
		tile_begin((int)T, 0);
		amx_strips(c, p0, p1, X, ldx, sums);
	} else if (T <= 32) {
		tile_begin(16, (int)T - 16);
		amx_blocks(c, p0, p1, X, ldx, sums);
	} else {
		tile_begin(16, 16);
		amx_many(c, p0, p1, r0, imin(T, r0 + AMX_SUPER), X, ldx, sums);
	}
	tile_end();
}
