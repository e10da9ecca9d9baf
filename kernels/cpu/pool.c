// pool.c: instruction set choice, memory, and the thread pool that runs command lists.
//
// A command list becomes units (a phase of a command) and these become steps: one unit
// whose tasks threads share, or a run of small units that one thread does alone. Every
// thread walks the steps in order: it takes tasks of a step from a counter until none is left, waits until
// the step's tasks are all done, and goes on. There is no barrier that needs every
// thread: a thread that sleeps or is preempted takes no tasks and delays nobody.
//
// There is one pool for the process. A run borrows it; a second run at the same
// time (another engine) finds it taken and works on its caller's thread alone, so
// several engines do not oversubscribe the machine.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "mc.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

// ---- instruction sets

#if defined(__x86_64__)
static uint64_t xcr0(void) {
	uint32_t a, d;
	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return (uint64_t)d << 32 | a;
}

// Linux gives tiles to a process that asks, for all its threads.
static int may_use_tiles(void) {
	enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
#if defined(__linux__)
	return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
	return 0;
#endif
}

static int can_run(const mc_isa *isa) {
	uint32_t a, b, c, d, b7, c7, d7, a71;
	if (isa == &mc_base) return 1;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA) || !(c & bit_F16C)) return 0;
	uint64_t state = xcr0();
	if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || (state & 6) != 6) return 0;
	if (!(b7 & bit_AVX2) || !(b7 & bit_BMI) || !(b7 & bit_BMI2)) return 0;
	if (isa == &mc_avx2) return 1;
	uint32_t need = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
	if ((state & 0xe6) != 0xe6 || (b7 & need) != need) return 0;
	if (isa == &mc_avx512) return 1;
	if (a < 1 || !__get_cpuid_count(7, 1, &a71, &b, &c, &d)) return 0;
	if (!(a71 & (1 << 5)) || !(c7 & bit_AVX512VNNI)) return 0; // AVX512_BF16
	if (isa == &mc_avx512bf16) return 1;
	need = 1 << 22 | 1 << 24 | 1 << 25; // AMX_BF16, AMX_TILE, AMX_INT8
	return (state & 0x60000) == 0x60000 && (d7 & need) == need && may_use_tiles();
}
static const mc_isa *const isas[] = {&mc_amx, &mc_avx512bf16, &mc_avx512, &mc_avx2, &mc_base};
#else
static int can_run(const mc_isa *isa) { return isa == &mc_base; }
static const mc_isa *const isas[] = {&mc_base};
#endif
enum { ISAS = sizeof isas / sizeof *isas };

const mc_isa *mc_find_isa(const char *name) {
	if (!strcmp(name, mc_amx_emulated.name)) return &mc_amx_emulated;
	for (int i = 0; i < ISAS; i++) if ((!*name || !strcmp(name, isas[i]->name)) && can_run(isas[i])) return isas[i];
	return NULL;
}

int mc_isa_names(const char **names, int max) {
	int n = 0;
	for (int i = 0; i < ISAS && n < max; i++) if (can_run(isas[i])) names[n++] = isas[i]->name;
	return n;
}

// ---- memory

enum { HUGE_PAGE = 2 << 20, PAGE = 4096 };
static int64_t mapped(int64_t bytes) {
	int64_t unit = bytes >= HUGE_PAGE ? HUGE_PAGE : PAGE;
	return (bytes + unit - 1) / unit * unit;
}

// Small pieces come from the heap, large ones are mapped on huge pages: fewer TLB
// misses while weights stream, and the memory goes back to the system when freed.
void *mc_alloc(int64_t bytes) {
	if (bytes < HUGE_PAGE) {
		void *p = NULL;
		int64_t size = (bytes + 255) / 256 * 256;
		if (posix_memalign(&p, 256, size)) return NULL;
		return memset(p, 0, size);
	}
	void *p = mmap(NULL, mapped(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) return NULL;
	madvise(p, mapped(bytes), MADV_HUGEPAGE);
	return p;
}

void mc_free(void *p, int64_t bytes) {
	if (!p) return;
	if (bytes < HUGE_PAGE) free(p);
	else munmap(p, mapped(bytes));
}

// ---- runs

typedef struct { int64_t cmd, phase, tasks; } unit_t;

// Units first..last: the tasks of one, or (serial) all tasks of several, in order, as one task.
typedef struct {
	int32_t first, last;
	int64_t serial, tasks;
	int64_t next __attribute__((aligned(64))); // counter of tasks taken
	int64_t done;                              // counter of tasks finished
} step_t;

// What a command list becomes, with the largest scratch that a unit needs.
typedef struct {
	unit_t *units;
	step_t *steps;
	int64_t nunits, nsteps, max_units, max_steps, shared_bytes, local_bytes;
} work_t;

enum { MAX_THREADS = 512 };
typedef struct {
	const mc_isa *isa;
	const mc_cmd *cmds;
	work_t *work;
	int threads;
	mc_error *err;
	char *shared, *local[MAX_THREADS];
} run_t;

static struct {
	pthread_mutex_t life;  // guards start and end of threads
	pthread_mutex_t turn;  // held by the run that has the pool
	pthread_mutex_t sleep; // with wake: parked workers
	pthread_cond_t wake;
	pthread_t threads[MAX_THREADS];
	int users, nthreads;
	int stop;
	int parked;
	uint32_t generation;   // changes when a run is published
	run_t *current;        // NULL between runs
	int active;            // workers inside the current run
	// scratch kept from run to run, guarded by turn
	work_t work;
	int64_t shared_bytes, local_bytes;
	int scratch_threads;
	char *shared, *local[MAX_THREADS];
} pool = {.life = PTHREAD_MUTEX_INITIALIZER, .turn = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static void pause_cpu(void) {
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

// A step is a fraction of a millisecond, so waiting spins; it gives the core away
// now and then in case the thread that is waited for needs it.
static void wait_done(const step_t *s) {
	for (int spins = 0; __atomic_load_n(&s->done, __ATOMIC_ACQUIRE) < s->tasks; spins++) {
		if (spins < 2000) pause_cpu();
		else sched_yield();
	}
}

static void do_unit(const run_t *r, const unit_t *u, int64_t task, mc_ctx *x) {
	r->isa->run(&r->cmds[u->cmd], (int)u->phase, task, r->threads, x);
}

static void do_serial(const run_t *r, const step_t *s, mc_ctx *x) {
	for (int64_t i = s->first; i <= s->last; i++) {
		const unit_t *u = &r->work->units[i];
		for (int64_t t = 0; t < u->tasks; t++) do_unit(r, u, t, x);
	}
}

static void walk(run_t *r, int thread) {
	mc_ctx x = {r->local[thread], r->shared, thread, r->err, NULL};
	for (int64_t i = 0; i < r->work->nsteps; i++) {
		step_t *s = &r->work->steps[i];
		int64_t mine = 0, t;
		if (__atomic_load_n(&s->next, __ATOMIC_RELAXED) < s->tasks) {
			while ((t = __atomic_fetch_add(&s->next, 1, __ATOMIC_RELAXED)) < s->tasks) {
				if (s->serial) do_serial(r, s, &x);
				else do_unit(r, &r->work->units[s->first], t, &x);
				mine++;
			}
		}
		if (mine) __atomic_fetch_add(&s->done, mine, __ATOMIC_RELEASE);
		wait_done(s);
	}
}

static int64_t now_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000 + t.tv_nsec;
}

enum { SPIN_NS = 20000 }; // a worker waits this long for the next run before it parks

static void *worker(void *arg) {
	int thread = (int)(intptr_t)arg;
	uint32_t seen = 0;
	for (;;) {
		int64_t until = now_ns() + SPIN_NS;
		while (__atomic_load_n(&pool.generation, __ATOMIC_ACQUIRE) == seen && !__atomic_load_n(&pool.stop, __ATOMIC_ACQUIRE)) {
			for (int i = 0; i < 64; i++) pause_cpu();
			if (now_ns() < until) continue;
			pthread_mutex_lock(&pool.sleep);
			pool.parked++;
			while (__atomic_load_n(&pool.generation, __ATOMIC_ACQUIRE) == seen && !pool.stop) pthread_cond_wait(&pool.wake, &pool.sleep);
			pool.parked--;
			pthread_mutex_unlock(&pool.sleep);
		}
		if (__atomic_load_n(&pool.stop, __ATOMIC_ACQUIRE)) return NULL;
		seen = __atomic_load_n(&pool.generation, __ATOMIC_ACQUIRE);
		// Enter, then look whether the run is still there: its owner waits for active
		// to fall to zero after taking it away.
		__atomic_fetch_add(&pool.active, 1, __ATOMIC_SEQ_CST);
		run_t *r = __atomic_load_n(&pool.current, __ATOMIC_SEQ_CST);
		if (r && thread < r->threads) walk(r, thread);
		__atomic_fetch_sub(&pool.active, 1, __ATOMIC_SEQ_CST);
	}
}

void mc_pool_retain(int threads) {
	pthread_mutex_lock(&pool.life);
	pthread_mutex_lock(&pool.turn);
	pool.users++;
	if (threads > MAX_THREADS) threads = MAX_THREADS;
	while (pool.nthreads < threads - 1 && !pthread_create(&pool.threads[pool.nthreads], NULL, worker, (void *)(intptr_t)(pool.nthreads + 1))) pool.nthreads++;
	pthread_mutex_unlock(&pool.turn);
	pthread_mutex_unlock(&pool.life);
}

static void free_work(work_t *w) {
	free(w->units);
	free(w->steps);
	*w = (work_t){0};
}

static void free_scratch(void) {
	mc_free(pool.shared, pool.shared_bytes);
	for (int i = 0; i < pool.scratch_threads; i++) mc_free(pool.local[i], pool.local_bytes);
	free_work(&pool.work);
	pool.shared = NULL;
	pool.shared_bytes = pool.local_bytes = pool.scratch_threads = 0;
}

void mc_pool_release(void) {
	pthread_mutex_lock(&pool.life);
	pthread_mutex_lock(&pool.turn);
	if (--pool.users == 0) {
		pthread_mutex_lock(&pool.sleep);
		__atomic_store_n(&pool.stop, 1, __ATOMIC_RELEASE);
		pthread_cond_broadcast(&pool.wake);
		pthread_mutex_unlock(&pool.sleep);
		for (int i = 0; i < pool.nthreads; i++) pthread_join(pool.threads[i], NULL);
		pool.nthreads = 0;
		__atomic_store_n(&pool.stop, 0, __ATOMIC_RELEASE);
		free_scratch();
	}
	pthread_mutex_unlock(&pool.turn);
	pthread_mutex_unlock(&pool.life);
}

int mc_pool_threads(void) {
	pthread_mutex_lock(&pool.life);
	int n = pool.nthreads;
	pthread_mutex_unlock(&pool.life);
	return n;
}

// Below this many nanoseconds of work a unit is done by one thread: handing it out
// and waiting costs a few hundred.
enum { SERIAL_NS = 3000 };

// Makes room for one more unit and step; -1 if there is no memory.
static int work_room(work_t *w) {
	if (w->nunits == w->max_units) {
		int64_t most = 2 * w->max_units + 256;
		unit_t *units = realloc(w->units, most * sizeof *units);
		if (!units) return -1;
		w->units = units, w->max_units = most;
	}
	if (w->nsteps == w->max_steps) {
		int64_t most = 2 * w->max_steps + 128;
		step_t *steps;
		if (posix_memalign((void **)&steps, 64, most * sizeof *steps)) return -1;
		if (w->nsteps) memcpy(steps, w->steps, w->nsteps * sizeof *steps);
		free(w->steps);
		w->steps = steps, w->max_steps = most;
	}
	return 0;
}

// Turns commands into units and steps.
static int make_work(work_t *w, const mc_isa *isa, const mc_cmd *cmds, int64_t n, int threads) {
	w->nunits = w->nsteps = 0;
	w->shared_bytes = w->local_bytes = 256;
	for (int64_t i = 0; i < n; i++) {
		mc_plan p;
		for (int phase = 0; isa->plan(&cmds[i], phase, threads, &p), p.tasks; phase++) {
			if (p.shared_bytes > w->shared_bytes) w->shared_bytes = p.shared_bytes;
			if (p.local_bytes > w->local_bytes) w->local_bytes = p.local_bytes;
			if (work_room(w)) return -1;
			int32_t u = (int32_t)w->nunits++;
			w->units[u] = (unit_t){i, phase, p.tasks};
			int serial = threads == 1 || p.tasks == 1 || p.ns < SERIAL_NS;
			if (serial && w->nsteps && w->steps[w->nsteps - 1].serial) w->steps[w->nsteps - 1].last = u;
			else w->steps[w->nsteps++] = (step_t){.first = u, .last = u, .serial = serial, .tasks = serial ? 1 : p.tasks};
		}
	}
	return 0;
}

static char *grow(char *old, int64_t old_bytes, int64_t bytes) {
	mc_free(old, old_bytes);
	return mc_alloc(bytes);
}

// Scratch for a run with the pool: kept, and grown when needed.
static int pool_scratch(int64_t shared, int64_t local, int threads) {
	if (shared > pool.shared_bytes) {
		pool.shared = grow(pool.shared, pool.shared_bytes, shared);
		pool.shared_bytes = pool.shared ? shared : 0;
		if (!pool.shared) return -1;
	}
	if (local > pool.local_bytes || threads > pool.scratch_threads) {
		int64_t want = local > pool.local_bytes ? local : pool.local_bytes;
		for (int i = 0; i < pool.scratch_threads; i++) mc_free(pool.local[i], pool.local_bytes);
		pool.local_bytes = want;
		pool.scratch_threads = 0;
		for (int i = 0; i < threads; i++) {
			if (!(pool.local[i] = mc_alloc(want))) return -1;
			pool.scratch_threads++;
		}
	}
	return 0;
}

static void publish(run_t *r) {
	__atomic_store_n(&pool.current, r, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&pool.generation, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_lock(&pool.sleep);
	if (pool.parked) pthread_cond_broadcast(&pool.wake);
	pthread_mutex_unlock(&pool.sleep);
}

static void retract(void) {
	__atomic_store_n(&pool.current, NULL, __ATOMIC_SEQ_CST);
	for (int spins = 0; __atomic_load_n(&pool.active, __ATOMIC_SEQ_CST) > 0; spins++) {
		if (spins < 2000) pause_cpu();
		else sched_yield();
	}
}

// A run on the caller's thread alone, with scratch of its own.
static int run_alone(run_t *r, int64_t n) {
	work_t w = {0};
	r->threads = 1;
	r->work = &w;
	int rc = make_work(&w, r->isa, r->cmds, n, 1);
	char *s = rc ? NULL : mc_alloc(w.shared_bytes), *l = rc ? NULL : mc_alloc(w.local_bytes);
	if (s && l) {
		r->shared = s;
		r->local[0] = l;
		walk(r, 0);
	}
	mc_free(s, w.shared_bytes);
	mc_free(l, w.local_bytes);
	free_work(&w);
	return s && l ? 0 : -1;
}

int mc_run(const mc_isa *isa, mc_cmd *cmds, int64_t n, int threads, mc_error *err) {
	run_t r;
	if (n <= 0) return 0;
	r.isa = isa, r.cmds = cmds, r.err = err;
	if (pthread_mutex_trylock(&pool.turn)) return run_alone(&r, n);
	r.threads = threads < pool.nthreads + 1 ? threads : pool.nthreads + 1;
	r.work = &pool.work;
	int rc = make_work(&pool.work, isa, cmds, n, r.threads);
	if (!rc) rc = pool_scratch(pool.work.shared_bytes, pool.work.local_bytes, r.threads);
	if (!rc) {
		r.shared = pool.shared;
		memcpy(r.local, pool.local, sizeof(char *) * r.threads);
		int together = 0;
		for (int64_t i = 0; i < pool.work.nsteps; i++) together |= !pool.work.steps[i].serial;
		if (together && r.threads > 1) {
			publish(&r);
			walk(&r, 0);
			retract();
		} else {
			walk(&r, 0);
		}
	}
	pthread_mutex_unlock(&pool.turn);
	return rc;
}
