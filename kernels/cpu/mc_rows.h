// mc_rows.h: operations on rows. A task is a range of rows; each row is computed
// by one thread in a fixed order.

// RMSNorm: t = out, x, weight; n = T, C, heads (1 for [T,C]), round first; f = eps.
static void rmsnorm(const mc_cmd *c, int64_t lo, int64_t hi) {
	int64_t C = c->n[1], H = c->n[2];
	const float *w = c->t[2].p;
	for (int64_t i = lo * H; i < hi * H; i++) {
		const char *x = row_of(&c->t[1], i / H) + i % H * C * size_of(c->t[1].dt);
		char *o = row_of(&c->t[0], i / H) + i % H * C * size_of(c->t[0].dt);
		vf s = vset(0), s2 = vset(0);
		int64_t j = 0;
		for (; j + 2 * VL <= C; j += 2 * VL) {
			vf a = vget(x, c->t[1].dt, j, VL), b = vget(x, c->t[1].dt, j + VL, VL);
			s = fma_(a, a, s);
			s2 = fma_(b, b, s2);
		}
		for (; j < C; j += VL) { vf a = vget(x, c->t[1].dt, j, C - j); s = fma_(a, a, s); }
		float r = 1.0f / sqrtf(vsum(s + s2) / (float)C + c->f[0]);
		for (j = 0; j < C; j += VL) {
			vf a = vget(x, c->t[1].dt, j, C - j) * r;
			if (c->n[3]) a = (vf)(__builtin_convertvector(vround_bf16(a), vu) << 16);
			vput(o, c->t[0].dt, j, C - j, a * vget(w, MC_F32, j, C - j));
		}
	}
}

// LayerNorm: t = out, x, weight, bias; n = T, C; f = eps. Two passes, so that a large
// mean costs no digits.
static void layernorm(const mc_cmd *c, int64_t lo, int64_t hi) {
	int64_t C = c->n[1];
	for (int64_t t = lo; t < hi; t++) {
		const char *x = row_of(&c->t[1], t);
		char *o = row_of(&c->t[0], t);
		vf s = vset(0);
		for (int64_t j = 0; j < C; j += VL) s = s + vget(x, c->t[1].dt, j, C - j);
		float mean = vsum(s) / (float)C;
		vf q = vset(0);
		vi steps = vsteps();
		for (int64_t j = 0; j < C; j += VL) {
			vf d = vget(x, c->t[1].dt, j, C - j) - mean;
			if (C - j < VL) d = (vf)((vi)d & (steps < (int32_t)(C - j)));
			q = fma_(d, d, q);
		}
		float r = 1.0f / sqrtf(vsum(q) / (float)C + c->f[0]);
		for (int64_t j = 0; j < C; j += VL) {
			vf d = (vget(x, c->t[1].dt, j, C - j) - mean) * r;
			vput(o, c->t[0].dt, j, C - j, fma_(d, vget(c->t[2].p, MC_F32, j, C - j), vget(c->t[3].p, MC_F32, j, C - j)));
		}
	}
}

// Activation: t = out, x; n = T, C. Cast is the same without a function.
static void activation(const mc_cmd *c, int64_t lo, int64_t hi) {
	int64_t C = c->n[1];
	for (int64_t t = lo; t < hi; t++) {
		const char *x = row_of(&c->t[1], t);
		char *o = row_of(&c->t[0], t);
		for (int64_t j = 0; j < C; j += VL) vput(o, c->t[0].dt, j, C - j, vact(c->act, vget(x, c->t[1].dt, j, C - j)));
	}
}

// SiLUMul: t = out, x; n = T, F.
static void silu_mul(const mc_cmd *c, int64_t lo, int64_t hi) {
	int64_t F = c->n[1];
	for (int64_t t = lo; t < hi; t++) {
		const char *x = row_of(&c->t[1], t), *up = x + F * size_of(c->t[1].dt);
		char *o = row_of(&c->t[0], t);
		for (int64_t j = 0; j < F; j += VL)
			vput(o, c->t[0].dt, j, F - j, vact(ACT_SILU, vget(x, c->t[1].dt, j, F - j)) * vget(up, c->t[1].dt, j, F - j));
	}
}

// Add: t = out, a, b; n = T, C.
static void add(const mc_cmd *c, int64_t lo, int64_t hi) {
	int64_t C = c->n[1];
	for (int64_t t = lo; t < hi; t++) {
		const char *a = row_of(&c->t[1], t), *b = row_of(&c->t[2], t);
		char *o = row_of(&c->t[0], t);
		for (int64_t j = 0; j < C; j += VL) vput(o, c->t[0].dt, j, C - j, vget(a, c->t[1].dt, j, C - j) + vget(b, c->t[2].dt, j, C - j));
	}
}

static void copy_row(const mc_tensor *out, int64_t to, const mc_tensor *x, int64_t from, int64_t C) {
	char *o = row_of(out, to);
	const char *s = row_of(x, from);
	if (out->dt == x->dt) { memcpy(o, s, C * size_of(x->dt)); return; }
	if (x->dt == MC_F16) {
		for (int64_t j = 0; j < C; j += VL) {
			float f[VL] = {0};
			for (int64_t i = 0; i < imin(VL, C - j); i++) f[i] = from_f16(((const uint16_t *)s)[j + i]);
			vput(o, out->dt, j, C - j, vload(f));
		}
		return;
	}
	for (int64_t j = 0; j < C; j += VL) vput(o, out->dt, j, C - j, vget(s, x->dt, j, C - j));
}

// Embed and GatherRows: t = out, table or x, ids; n = T, C, rows of the table.
static void gather(const mc_cmd *c, int64_t lo, int64_t hi, mc_ctx *x) {
	const int32_t *ids = c->t[2].p;
	for (int64_t t = lo; t < hi; t++) {
		if (ids[t] < 0 || ids[t] >= c->n[2]) { bad(x, c, t, ids[t], c->n[2]); continue; }
		copy_row(&c->t[0], t, &c->t[1], ids[t], c->n[1]);
	}
}

// ScatterRows: t = out, x, index; n = rows of x, C, rows of out.
static void scatter(const mc_cmd *c, int64_t lo, int64_t hi, mc_ctx *x) {
	const int32_t *index = c->t[2].p;
	for (int64_t t = lo; t < hi; t++) {
		if (index[t] >= c->n[2]) { bad(x, c, t, index[t], c->n[2]); continue; }
		if (index[t] >= 0) copy_row(&c->t[0], index[t], &c->t[1], t, c->n[1]);
	}
}

// Cosine and sine of pos*freq[i] (the float product) times factor. The angle is
// reduced in double, so positions of some hundred thousand cost no digits; the
// series are good to 1e-9 on |r| <= pi/4.
static void trig(const float *freq, const float *pos, int64_t n, float factor, float *cs, float *sn) {
	for (int64_t i = 0; i < n; i++) {
		double a = (double)(pos[i] * freq[i]);
		double k = (a * 0.63661977236758134308 + 6755399441055744.0) - 6755399441055744.0; // rounds to an integer
		double r = (a - k * 1.57079632679489655800) - k * 6.12323399573676603587e-17;
		double q = r * r;
		double s = r * (1 + q * (-1.0 / 6 + q * (1.0 / 120 + q * (-1.0 / 5040 + q * (1.0 / 362880)))));
		double c = 1 + q * (-0.5 + q * (1.0 / 24 + q * (-1.0 / 720 + q * (1.0 / 40320 - q * (1.0 / 3628800)))));
		int32_t m = (int32_t)k & 3;
		double cc = m & 1 ? s : c, ss = m & 1 ? c : s;
		cs[i] = (float)(m == 1 || m == 2 ? -cc : cc) * factor;
		sn[i] = (float)(m >= 2 ? -ss : ss) * factor;
	}
}

#define MAX_FREQS 1024
// The position of each frequency of token t: one row of positions, or three with sections.
static void spread_positions(const int32_t *pos, int64_t T, int64_t t, int64_t half, const int64_t *sections, float *out) {
	for (int64_t i = 0; i < half; i++) {
		int64_t axis = sections[0] < 0 ? 0 : i < sections[0] ? 0 : i < sections[0] + sections[1] ? 1 : 2;
		out[i] = (float)pos[axis * T + t];
	}
}

static void rotate(char *x, int64_t dt, int64_t half, const float *cs, const float *sn) {
	char *y = x + half * size_of(dt);
	for (int64_t j = 0; j < half; j += VL) {
		int64_t left = half - j;
		vf a = vget(x, dt, j, left), b = vget(y, dt, j, left), co = vget(cs, MC_F32, j, left), si = vget(sn, MC_F32, j, left);
		vput(x, dt, j, left, fma_(a, co, -(b * si)));
		vput(y, dt, j, left, fma_(b, co, a * si));
	}
}

// Rope: t = x, positions, freqs; n = T, H, D, -, s0, s1, s2 (s0 = -1: one axis); f = factor.
static void rope(const mc_cmd *c, int64_t lo, int64_t hi) {
	int64_t H = c->n[1], D = c->n[2], half = D / 2;
	float pos[MAX_FREQS], cs[MAX_FREQS], sn[MAX_FREQS];
	for (int64_t t = lo; t < hi; t++) {
		spread_positions(c->t[1].p, c->n[0], t, half, c->n + 4, pos);
		trig(c->t[2].p, pos, half, c->f[0], cs, sn);
		for (int64_t h = 0; h < H; h++) rotate(row_of(&c->t[0], t) + h * D * size_of(c->t[0].dt), c->t[0].dt, half, cs, sn);
	}
}

// Patchify: t = out, tiles, lut; n = rows, columns of out, side, patch. Side and patch in pixels.
static void patchify(const mc_cmd *c, int64_t lo, int64_t hi) {
	int64_t cols = c->n[1], S = c->n[2], p = c->n[3], g = S / p;
	const uint8_t *tiles = c->t[1].p;
	const float *lut = c->t[2].p;
	float line[VL];
	for (int64_t r = lo; r < hi; r++) {
		const uint8_t *patch = tiles + ((r / (g * g) * S + r / g % g * p) * S + r % g * p) * 3;
		char *o = row_of(&c->t[0], r);
		int64_t fill = 0, at = 0; // line holds fill values that belong at column at
		for (int64_t e = 0; e < cols; e++) {
			int64_t ch = e / (p * p), ky = e / p % p, kx = e % p;
			line[fill++] = ch < 3 ? lut[ch * 256 + patch[(ky * S + kx) * 3 + ch]] : 0;
			if (fill == VL || e == cols - 1) { vput(o, c->t[0].dt, at, fill, vload(line)); at += fill; fill = 0; }
		}
	}
}

// VisionEmbed: t = out, x, class, pos; n = tiles*(1+P), 1+P, E.
static void vision_embed(const mc_cmd *c, int64_t lo, int64_t hi) {
	int64_t rows = c->n[1], E = c->n[2];
	for (int64_t i = lo; i < hi; i++) {
		int64_t tile = i / rows, r = i % rows;
		char *o = row_of(&c->t[0], tile) + r * E * size_of(c->t[0].dt);
		const char *x = r ? row_of(&c->t[1], tile * (rows - 1) + r - 1) : c->t[2].p;
		const char *pos = row_of(&c->t[3], r);
		int64_t dt = r ? c->t[1].dt : MC_F32;
		for (int64_t j = 0; j < E; j += VL) vput(o, c->t[0].dt, j, E - j, vget(x, dt, j, E - j) + vget(pos, MC_F32, j, E - j));
	}
}

// PixelShuffle: t = out, x; n = tiles*q*q, grid g, E, factor r, version.
static void pixel_shuffle(const mc_cmd *c, int64_t lo, int64_t hi) {
	int64_t g = c->n[1], r = c->n[3], q = g / r, bytes = c->n[2] * size_of(c->t[1].dt);
	for (int64_t i = lo; i < hi; i++) {
		int64_t tile = i / (q * q), y = i % (q * q) / q, x = i % q;
		int64_t token = c->n[4] == 1 ? x * q + y : y * q + x;
		char *o = row_of(&c->t[0], tile) + token * r * r * bytes;
		const char *s = row_of(&c->t[1], tile);
		for (int64_t dy = 0; dy < r; dy++)
			memcpy(o + dy * r * bytes, s + (1 + (r * y + dy) * g + r * x) * bytes, r * bytes);
	}
}

// ArgMax: t = ids, logprobs (p NULL: not wanted), logits; n = B, V.
static void argmax(const mc_cmd *c, int64_t lo, int64_t hi) {
	int64_t V = c->n[1];
	for (int64_t b = lo; b < hi; b++) {
		const float *x = (const float *)row_of(&c->t[2], b);
		float best = -INFINITY;
		int64_t j = 0, from = 0; // best is first met in the stretch from there on
		while (j + VL <= V) {
			int64_t start = j, end = imin(V / VL * VL, j + 1024);
			vf m = vset(-INFINITY);
			for (; j < end; j += VL) m = vmax(vload(x + j), m);
			float top = vmaximum(m);
			if (top > best) best = top, from = start;
		}
		for (; j < V; j++) if (x[j] > best) best = x[j], from = j;
		int64_t at = from;
		while (at < V && x[at] != best) at++;
		((int32_t *)c->t[0].p)[b] = (int32_t)(at < V ? at : 0);
		if (!c->t[1].p) continue;
		vf s = vset(0), s2 = vset(0);
		vi steps = vsteps();
		for (j = 0; j + 2 * VL <= V; j += 2 * VL) { s = s + vexp(vload(x + j) - best); s2 = s2 + vexp(vload(x + j + VL) - best); }
		for (; j < V; j += VL) s = s + (vf)((vi)vexp(vget(x, MC_F32, j, V - j) - best) & (steps < (int32_t)imin(V - j, VL)));
		((float *)c->t[1].p)[b] = -logf(vsum(s + s2));
	}
}

// RMSNorm of one head in place, with the weight w.
static void norm_head(char *x, int64_t dt, int64_t D, const float *w, float eps, int round_first) {
	mc_cmd c = {.t = {{x, D, dt}, {x, D, dt}, {(void *)w, D, MC_F32}}, .n = {1, D, 1, round_first}, .f = {eps}};
	rmsnorm(&c, 0, 1);
}

// QKNormRopeStore: t = qkv, q norm, k norm (p NULL: none), positions, freqs, slots;
// n = T, Hq, layer, round first, s0, s1, s2; f = eps, factor; obj = cache.
static void qkv_rows(const mc_cmd *c, int64_t lo, int64_t hi, mc_ctx *x) {
	const mc_kv *kv = c->obj;
	int64_t Hq = c->n[1], Hkv = kv->heads, D = kv->d, half = D / 2, dt = c->t[0].dt, bytes = D * size_of(dt);
	float pos[MAX_FREQS], cs[MAX_FREQS], sn[MAX_FREQS];
	const int32_t *slots = c->t[5].p;
	for (int64_t t = lo; t < hi; t++) {
		char *row = row_of(&c->t[0], t);
		spread_positions(c->t[3].p, c->n[0], t, half, c->n + 4, pos);
		trig(c->t[4].p, pos, half, c->f[1], cs, sn);
		for (int64_t h = 0; h < Hq + Hkv; h++) {
			const float *w = c->t[h < Hq ? 1 : 2].p;
			if (w) norm_head(row + h * bytes, dt, D, w, c->f[0], (int)c->n[3]);
			rotate(row + h * bytes, dt, half, cs, sn);
		}
		if (slots[t] < 0) continue;
		if (slots[t] >= kv->blocks * MC_BLOCK) { bad(x, c, t, slots[t], kv->blocks * MC_BLOCK); continue; }
		for (int64_t h = 0; h < Hkv; h++)
			put_token(kv, page_of(kv, c->n[2], slots[t] / MC_BLOCK, h), slots[t] % MC_BLOCK, row + (Hq + h) * bytes, row + (Hq + Hkv + h) * bytes, dt, dt);
	}
}
