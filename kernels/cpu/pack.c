// pack.c: weights into panels (P32). Plain C: packing is bound by memory.
#include <string.h>
#include "mc.h"

static float widen(const char *src, int64_t i, int dt) {
	uint32_t u;
	float f;
	uint16_t h;
	if (dt == MC_F32) { memcpy(&f, src + i * 4, 4); return f; }
	memcpy(&h, src + i * 2, 2);
	if (dt == MC_BF16) { u = (uint32_t)h << 16; memcpy(&f, &u, 4); return f; }
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 0x3ff;
	if (e == 31) u = sign | 0x7f800000 | m << 13;
	else if (e) u = sign | (e + 112) << 23 | m << 13;
	else { f = (float)m * 0x1p-24f; memcpy(&u, &f, 4); u |= sign; }
	memcpy(&f, &u, 4);
	return f;
}

void mc_pack_dense(mc_weight *w, int64_t p0, int64_t p1, const char *src, int64_t n0, int64_t n1, int dt) {
	int64_t k = w->k, row = k * (dt == MC_F32 ? 4 : 2);
	for (int64_t p = p0; p < p1; p++) {
		char *panel = w->data + p * w->panel_bytes;
		for (int64_t o = 0; o < 32; o++) {
			int64_t n = p * 32 + o;
			if (n < n0 || n >= n1) continue;
			const char *s = src + (n - n0) * row;
			if (w->layout == MC_W_F32) {
				for (int64_t i = 0; i < k; i++) ((float *)panel)[i * 32 + o] = widen(s, i, dt);
			} else {
				uint16_t h;
				for (int64_t i = 0; i < k; i++) { memcpy(&h, s + i * 2, 2); ((uint16_t *)panel)[i / 2 * 64 + o * 2 + i % 2] = h; }
			}
		}
	}
}

// The unsigned code of input i of a row: signed bytes are shifted by 128.
static int code(const uint8_t *row, int64_t i, int bits) { return bits == 8 ? row[i] ^ 128 : row[i / 2] >> 4 * (i % 2) & 15; }

void mc_pack_quant(mc_weight *w, int64_t p0, int64_t p1, const uint8_t *q, const float *scales, const uint8_t *zeros, int bits, int64_t group, int64_t n0, int64_t n1) {
	int64_t k = w->k, groups = k / group;
	int middle = bits == 8 ? 128 : 8; // code of zero where the source has no zero points
	for (int64_t p = p0; p < p1; p++) {
		uint8_t *panel = (uint8_t *)w->data + p * w->panel_bytes;
		for (int64_t o = 0; o < 32; o++) {
			int64_t n = p * 32 + o;
			if (n < n0 || n >= n1) continue;
			const uint8_t *row = q + (n - n0) * k * bits / 8;
			const float *scale = scales + (n - n0) * groups;
			const uint8_t *zero = zeros ? zeros + (n - n0) * groups : NULL;
			if (w->layout == MC_W_F32) {
				for (int64_t i = 0; i < k; i++) {
					int z = zero ? zero[i / group] + (bits == 8 ? 128 : 0) : middle;
					((float *)panel)[i * 32 + o] = (float)(code(row, i, bits) - z) * scale[i / group];
				}
				continue;
			}
			for (int64_t g = 0; g < groups; g++) {
				w->scales[(p * groups + g) * 32 + o] = scale[g];
				if (w->zeros) w->zeros[(p * groups + g) * 32 + o] = (float)(zero ? zero[g] + (bits == 8 ? 128 : 0) : middle);
			}
			if (bits == 8) for (int64_t i = 0; i < k; i++) panel[i / 4 * 128 + o * 4 + i % 4] = (uint8_t)code(row, i, 8);
			else for (int64_t i = 0; i < k; i++) panel[i / 8 * 128 + o * 4 + i % 4] |= (uint8_t)(code(row, i, 4) << (i % 8 < 4 ? 0 : 4));
		}
	}
}
