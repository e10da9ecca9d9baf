// mc_tile.h: AMX tiles, 8 registers of up to 16 rows of 64 bytes. Tile numbers are
// literals 0..7. With MC_TILE_EMULATED the same operations run in plain C, so that
// every machine can test the code above them.
//
// A product adds A[rows][64 bytes] times B[16 groups][16 outputs][4 bytes] to
// C[rows][16 outputs]. In bf16, an output's even and its odd inputs are summed apart,
// each from zero by fused multiply-adds in ascending order; then C + (even + odd).
// Denormals count as zero, on both sides. The bytes are signed in A, unsigned in B.
//
// A block is 32 rows by 32 outputs, tiles 0 1 | 2 3, with rows in 4, 5 and weights in
// 6, 7. A strip is 16 rows by 64 outputs, tiles 0 1 2 3, with rows in 4 and weights in
// 5, 6, 7. Both have the shape of a block in the numbers of rows.
typedef struct {
	uint8_t palette, start, reserved[14];
	uint16_t row_bytes[16];
	uint8_t rows[16];
} tile_shape;

// The shape of a strip of r0 rows (r1 = 0) or of a block of 16 and r1 rows.
static tile_shape tile_shape_of(int r0, int r1) {
	tile_shape s = {.palette = 1};
	int upper = r1 ? r1 : r0;
	uint8_t rows[8] = {r0, r0, upper, upper, r0, r1 ? r1 : 16, 16, 16};
	for (int i = 0; i < 8; i++) s.rows[i] = rows[i], s.row_bytes[i] = 64;
	return s;
}

#ifndef MC_TILE_EMULATED
// Own asm and not gcc's intrinsics, which do not tell the compiler that they touch memory.
INLINE void tile_begin(int r0, int r1) { tile_shape s = tile_shape_of(r0, r1); __asm__ volatile("ldtilecfg %0" : : "m"(s) : "memory"); }
// An idle thread has no tiles: the system need not save them.
INLINE void tile_end(void) { __asm__ volatile("tilerelease" : : : "memory"); }
#define TILE_ZERO(n) __asm__ volatile("tilezero %%tmm" #n : :)
#define TILE_LOAD(n, p, stride) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #n : : "r"((const void *)(p)), "r"((int64_t)(stride)) : "memory")
#define TILE_STORE(n, p, stride) __asm__ volatile("tilestored %%tmm" #n ", (%0,%1,1)" : : "r"((void *)(p)), "r"((int64_t)(stride)) : "memory")
#define TILE_BF16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
#define TILE_BYTES(c, a, b) __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
#else
static __thread struct { int rows[8]; union { uint32_t u[16][16]; float f[16][16]; int32_t i[16][16]; } t[8]; } tiles;

static void tile_begin(int r0, int r1) {
	tile_shape s = tile_shape_of(r0, r1);
	for (int i = 0; i < 8; i++) tiles.rows[i] = s.rows[i];
}
static void tile_end(void) { memset(&tiles, 0xff, sizeof tiles); } // what is used without a shape is seen
static void tile_zero(int n) { memset(&tiles.t[n], 0, sizeof tiles.t[n]); }
static void tile_load(int n, const char *p, int64_t stride) {
	tile_zero(n);
	for (int i = 0; i < tiles.rows[n]; i++) memcpy(tiles.t[n].u[i], p + i * stride, 64);
}
static void tile_store(int n, char *p, int64_t stride) {
	for (int i = 0; i < tiles.rows[n]; i++) memcpy(p + i * stride, tiles.t[n].u[i], 64);
}
static float tile_flush(float f) { return fabsf(f) < 0x1p-126f ? copysignf(0, f) : f; }
static void tile_bf16(int c, int a, int b) {
	for (int i = 0; i < tiles.rows[c]; i++)
		for (int j = 0; j < 16; j++) {
			float even = 0, odd = 0;
			for (int g = 0; g < 16; g++) {
				uint32_t x = tiles.t[a].u[i][g], w = tiles.t[b].u[g][j];
				even = tile_flush(fmaf(tile_flush(from_bf16((uint16_t)x)), tile_flush(from_bf16((uint16_t)w)), even));
				odd = tile_flush(fmaf(tile_flush(from_bf16(x >> 16)), tile_flush(from_bf16(w >> 16)), odd));
			}
			tiles.t[c].f[i][j] = tile_flush(tile_flush(tiles.t[c].f[i][j]) + tile_flush(even + odd));
		}
}
static void tile_bytes(int c, int a, int b) {
	for (int i = 0; i < tiles.rows[c]; i++)
		for (int j = 0; j < 16; j++)
			for (int g = 0; g < 64; g++)
				tiles.t[c].i[i][j] += (int8_t)(tiles.t[a].u[i][g / 4] >> g % 4 * 8) * (int32_t)(uint8_t)(tiles.t[b].u[g / 4][j] >> g % 4 * 8);
}
#define TILE_ZERO(n) tile_zero(n)
#define TILE_LOAD(n, p, stride) tile_load(n, (const char *)(p), stride)
#define TILE_STORE(n, p, stride) tile_store(n, (char *)(p), stride)
#define TILE_BF16(c, a, b) tile_bf16(c, a, b)
#define TILE_BYTES(c, a, b) tile_bytes(c, a, b)
#endif

// Rows of a product: a tile of 16 rows of 64 bytes at p with ld bytes from row to row, the
// next step of k step bytes on, the second tile of a block upper bytes on.
typedef struct { const char *p; int64_t ld, step, upper; } tile_rows;
INLINE tile_rows rows_of(const void *p, int64_t ld) { return (tile_rows){p, ld, 64, 16 * ld}; }

// Asks for n lines from p on, for the second level of cache.
INLINE void tile_fetch(const char *p, int n) { for (int i = 0; i < n; i++) __builtin_prefetch(p + i * 64, 0, 2); }

// What a block asks for in each step, so that it is in the second level of cache when its
// turn comes: lines of weights, and two lines each of some rows of the output, whose
// memory would otherwise be waited for when it is written.
typedef struct { const char *weights, *out; int64_t stride; int lines, rows; } tile_ahead;
INLINE void tile_fetch_ahead(tile_ahead *f) {
	tile_fetch(f->weights, f->lines);
	f->weights += f->lines * 64;
	for (int i = 0; i < f->rows; i++, f->out += f->stride) tile_fetch(f->out, 2);
}

// C[rows][32] (+)= A[rows][steps * 64 bytes] * panel. upper: there are rows in 5.
INLINE void tile_block(int upper, tile_rows A, const char *B, int64_t steps, float *C, int64_t ldc, int acc, tile_ahead fetch) {
	char *c0 = (char *)C, *c1 = c0 + 16 * ldc * 4;
	if (acc) {
		TILE_LOAD(0, c0, ldc * 4); TILE_LOAD(1, c0 + 64, ldc * 4);
		if (upper) { TILE_LOAD(2, c1, ldc * 4); TILE_LOAD(3, c1 + 64, ldc * 4); }
	} else {
		TILE_ZERO(0); TILE_ZERO(1);
		if (upper) { TILE_ZERO(2); TILE_ZERO(3); }
	}
	for (int64_t s = 0; s < steps; s++) {
		TILE_LOAD(4, A.p, A.ld);
		TILE_LOAD(6, B, 128);
		TILE_BF16(0, 4, 6);
		TILE_LOAD(7, B + 64, 128);
		TILE_BF16(1, 4, 7);
		if (upper) {
			TILE_LOAD(5, A.p + A.upper, A.ld);
			TILE_BF16(2, 5, 6);
			TILE_BF16(3, 5, 7);
		}
		tile_fetch_ahead(&fetch);
		A.p += A.step, B += 2048;
	}
	TILE_STORE(0, c0, ldc * 4); TILE_STORE(1, c0 + 64, ldc * 4);
	if (upper) { TILE_STORE(2, c1, ldc * 4); TILE_STORE(3, c1 + 64, ldc * 4); }
}

// C[rows][64] (+)= A * two panels of nseg pieces, W[2*s] and W[2*s+1], of steps each; A
// advances through them. ahead[2*s+p] is the distance of the bytes to fetch meanwhile.
INLINE void tile_strip(tile_rows A, const char *const *W, const int64_t *ahead, int nseg, int64_t steps, float *C, int64_t ldc, int acc) {
	char *c = (char *)C;
	if (acc) { TILE_LOAD(0, c, ldc * 4); TILE_LOAD(1, c + 64, ldc * 4); TILE_LOAD(2, c + 128, ldc * 4); TILE_LOAD(3, c + 192, ldc * 4); }
	else { TILE_ZERO(0); TILE_ZERO(1); TILE_ZERO(2); TILE_ZERO(3); }
	for (int s = 0; s < nseg; s++) {
		const char *b0 = W[2 * s], *b1 = W[2 * s + 1];
		int64_t a0 = ahead[2 * s], a1 = ahead[2 * s + 1];
		for (int64_t i = 0; i < steps; i++) {
			TILE_LOAD(4, A.p, A.ld);
			TILE_LOAD(5, b0, 128);
			TILE_BF16(0, 4, 5);
			TILE_LOAD(6, b0 + 64, 128);
			TILE_BF16(1, 4, 6);
			tile_fetch(b0 + a0, 32);
			TILE_LOAD(7, b1, 128);
			TILE_BF16(2, 4, 7);
			TILE_LOAD(5, b1 + 64, 128);
			TILE_BF16(3, 4, 5);
			tile_fetch(b1 + a1, 32);
			A.p += A.step, b0 += 2048, b1 += 2048;
		}
	}
	TILE_STORE(0, c, ldc * 4); TILE_STORE(1, c + 64, ldc * 4); TILE_STORE(2, c + 128, ldc * 4); TILE_STORE(3, c + 192, ldc * 4);
}

// C[rows][32] += A[rows][nseg * 64 bytes] * one panel of nseg pieces W[2*s] of one step each.
// With rows in 5 if the shape is a block's; else the panel's second half is in 7 too.
INLINE void tile_pieces(int upper, tile_rows A, const char *const *W, const int64_t *ahead, int nseg, float *C, int64_t ldc) {
	char *c0 = (char *)C, *c1 = c0 + 16 * ldc * 4;
	TILE_LOAD(0, c0, ldc * 4); TILE_LOAD(1, c0 + 64, ldc * 4);
	if (upper) { TILE_LOAD(2, c1, ldc * 4); TILE_LOAD(3, c1 + 64, ldc * 4); }
	for (int s = 0; s < nseg; s++) {
		TILE_LOAD(4, A.p, A.ld);
		TILE_LOAD(6, W[2 * s], 128);
		TILE_BF16(0, 4, 6);
		TILE_LOAD(7, W[2 * s] + 64, 128);
		TILE_BF16(1, 4, 7);
		if (upper) {
			TILE_LOAD(5, A.p + A.upper, A.ld);
			TILE_BF16(2, 5, 6);
			TILE_BF16(3, 5, 7);
		}
		tile_fetch(W[2 * s] + ahead[2 * s], 32);
		A.p += A.step;
	}
	TILE_STORE(0, c0, ldc * 4); TILE_STORE(1, c0 + 64, ldc * 4);
	if (upper) { TILE_STORE(2, c1, ldc * 4); TILE_STORE(3, c1 + 64, ldc * 4); }
}
