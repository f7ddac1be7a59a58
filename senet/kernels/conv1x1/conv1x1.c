/* 1x1 convolution of channels-last feature maps between two ends of an SE block, float32:

       y[m][c] = act(s[n][c] * (sum_k g[n][k] h[m][k] w[k][c] + b[c]) + e[m][c])

   over positions m = 0..M-1, P per image, n = m / P. The wide feature map is written once and never read back: each tile
   is finished in registers, and h is multiplied by its gates g in pieces that stay in a core's cache. So are rows of h
   copied that would lie in the same places of the first cache. y may be e.

   w is packed: panels of NR channels, each [k][NR], the last one padded with zeros; g, b, s and e may be NULL. `room` is
   `scratch` floats to work in. */

#include "floats.h"
#include "threads.h"

enum { BLOCK = 512 }; /* sums of so many channels are added up in fully connected layers, for less rounding */

typedef struct {
    const float *h, *w, *g, *b, *s, *e;
    float *y;
    int64_t M, P, K, C, step; /* rows of h that tiles read are `step` apart */
    int act;
} Layer;

/* One tile: `rows` positions from m on, whose inputs are `h`, by one panel from channel c on. `rows`, `vectors`, `cut`,
   whether the panel is cut off, and `blocks`, whether sums are of BLOCK channels, are constants where it is inlined. */
INLINE void tile(const Layer *l, const int rows, const int vectors, const int cut, const int blocks, const float *h,
                 int64_t m, int64_t c)
{
    const int64_t C = l->C, n = C - c;
    const float *e = l->e ? l->e + m * C + c : NULL, *b = l->b ? l->b + c : NULL;
    float *y = l->y + m * C + c;
    floats v[ROWS * 2];
    if (e) /* loads while the sums are computed */
        for (int i = 0; i < rows; i++) {
            __builtin_prefetch(e + i * C, 1);
            if (vectors > 1) __builtin_prefetch(e + i * C + LANES, 1);
        }
    const int64_t K = l->K, once = blocks && K > BLOCK ? BLOCK : K;
    product(rows, vectors, h, l->w + c * K, l->step, once, NR, v);
    for (int64_t k = once; blocks && k < K; k += BLOCK) {
        floats part[ROWS * 2];
        product(rows, vectors, h + k, l->w + c * K + k * NR, l->step, K - k < BLOCK ? K - k : BLOCK, NR, part);
#pragma GCC unroll 24
        for (int i = 0; i < rows * vectors; i++) v[i] += part[i];
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        const float *s = l->s ? l->s + (m + i) / l->P * C + c : NULL;
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) {
            const int64_t at = j * LANES, left = cut && j == vectors - 1 ? n - at : LANES;
            if (b) v[i * vectors + j] += load_part(b + at, left);
            if (s) v[i * vectors + j] *= load_part(s + at, left);
            if (e) v[i * vectors + j] += load_part(e + i * C + at, left);
        }
    }
    activate(v, rows * vectors, l->act);
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++)
            store_part(y + i * C + j * LANES, v[i * vectors + j], cut && j == vectors - 1 ? n - j * LANES : LANES);
}

/* Functions of their own: in a large one the compiler keeps the sums in memory. */
#define EACH(r) \
    static __attribute__((noinline)) void tile_##r(const Layer *l, const float *h, int64_t m, int64_t c) \
    { \
        const int64_t n = l->C - c; \
        if (n >= NR) tile(l, r, 2, 0, 0, h, m, c); \
        else if (n > LANES) tile(l, r, 2, 1, 0, h, m, c); \
        else tile(l, r, 1, 1, 0, h, m, c); \
    } \
    static __attribute__((noinline)) void long_tile_##r(const Layer *l, const float *h, int64_t m, int64_t c) \
    { \
        if (l->C - c > LANES) tile(l, r, 2, 1, 1, h, m, c); \
        else tile(l, r, 1, 1, 1, h, m, c); \
    }
FOR_ROWS(EACH)
#undef EACH

static void any_tile(const Layer *l, int rows, const float *h, int64_t m, int64_t c)
{
#define EACH(r) case r: tile_##r(l, h, m, c); break; case -r: long_tile_##r(l, h, m, c); break;
    switch (l->P == 1 && l->K > BLOCK ? -rows : rows) { FOR_ROWS(EACH) }
#undef EACH
}

int panel(void) { return NR; }

/* Few weights fit every core's cache: threads share the positions. Few positions: threads share the panels. Else blocks
   of both. */
typedef struct { int64_t block, group; } Plan;

static Plan plan_of(int64_t M, int64_t K, int64_t C)
{
    const int64_t panels = (C + NR - 1) / NR, weights = panels * NR * K, fit = 65536 / (NR * K);
    const int few = weights <= 131072, flat = !few && M * K <= 262144;
    return (Plan){few ? 2 * ROWS : flat ? M : 8 * ROWS, few ? panels : flat || fit < 1 ? 1 : fit};
}

/* The weights are multiplied by the gates, for each image, where they are fewer than its inputs. */
static int scales_weights(int64_t P, int64_t C) { return 4 * C <= P; }

/* How many floats `conv1x1` needs as scratch memory. */
int64_t scratch(int64_t M, int64_t P, int64_t K, int64_t C, int gated, int threads)
{
    const int64_t weights = gated && scales_weights(P, C) ? (C + NR - 1) / NR * NR * K : 0;
    const int copies = collide(K) || (gated && !weights);
    return weights + (copies ? threads * plan_of(M, K, C).block * apart(K) : 0);
}

typedef struct { Layer l; const float *g; float *room; } Run;

/* Blocks of positions, each by groups of panels. */
static void blocks(const void *context, Work *work)
{
    const Run *run = context;
    const Layer *l = &run->l;
    const float *g = run->g;
    const Plan p = plan_of(l->M, l->K, l->C);
    const int copies = g || collide(l->K);
    const int64_t panels = (l->C + NR - 1) / NR, groups = (panels + p.group - 1) / p.group, K = l->K, step = l->step;
    float *own = run->room + (copies ? work->id * p.block * step : 0);
    int64_t ready = -1; /* the block that `own` holds */
    for (int64_t item; (item = work->next(work)) >= 0;) {
        const int64_t i = item / groups, j = item % groups, from = i * p.block;
        const int64_t to = from + p.block < l->M ? from + p.block : l->M;
        const int64_t last = (j + 1) * p.group < panels ? (j + 1) * p.group : panels;
        if (copies && ready != i) {
            for (int64_t m = from; m < to; m++) {
                const float *gates = g ? g + m / l->P * K : NULL, *of = l->h + m * K;
                float *row = own + (m - from) * step;
                if (!g) memcpy(row, of, K * sizeof *row);
                else for (int64_t k = 0; k < K; k++) row[k] = gates[k] * of[k];
            }
            ready = i;
        }
        const float *rows = copies ? own : l->h + from * K;
        /* Tiles of about equally many rows: one of a few would wait for its sums. */
        for (int64_t c = j * p.group; c < last; c++)
            for (int64_t m = from, left = (to - from + ROWS - 1) / ROWS, n; m < to; m += n, left--) {
                n = (to - m + left - 1) / left;
                any_tile(l, (int)n, rows + (m - from) * step, m, c * NR);
            }
    }
}

/* `room` is for inputs that are multiplied by g, or copied. */
static void run(const Layer *layer, const float *g, float *room, int threads, Parallel *parallel)
{
    Run run = {*layer, g, room};
    const Plan p = plan_of(layer->M, layer->K, layer->C);
    const int64_t panels = (layer->C + NR - 1) / NR, groups = (panels + p.group - 1) / p.group;
    run.l.step = g || collide(layer->K) ? apart(layer->K) : layer->K;
    if (p.block) parallel(threads, (layer->M + p.block - 1) / p.block * groups, blocks, &run);
}

/* Strassen's algorithm, once: halves of positions, of inputs and of channels make seven products of half a size instead of
   eight, an eighth less,

       [C11 C12] = [M1 + M4 - M5 + M7        M3 + M5     ]    M1 = (A11 + A22) (B11 + B22)    M2 = (A21 + A22) B11
       [C21 C22]   [     M2 + M4        M1 - M2 + M3 + M6]    M3 = A11 (B12 - B22)            M4 = A22 (B21 - B11)
                                                              M5 = (A11 + A12) B22
                                                              M6 = (A21 - A11) (B11 + B12)    M7 = (A12 - A22) (B21 + B22)

   w holds the seven factors of B, each in panels. A pair of positions of an image, `half` apart, is a row of the factors of
   A. Rounding is 1.4 times as large. */
enum { PAIRS = 56, PRODUCTS = 7, QUADRANTS = 4 };

/* A product, in the order in which they are computed: its factors, and what becomes of the quadrants. */
enum { NOTHING, SET, ADD, SUBTRACT };
typedef struct { int factor, to[2], how[2]; } Term;
static const Term terms[PRODUCTS] = {
    {0, {0, 3}, {SET, SET}}, {2, {1, 3}, {SET, ADD}}, {1, {2, 3}, {SET, SUBTRACT}}, {3, {0, 2}, {ADD, ADD}},
    {4, {0, 1}, {SUBTRACT, ADD}}, {5, {3, 0}, {ADD, NOTHING}}, {6, {0, 0}, {ADD, NOTHING}},
};

INLINE void add_product(const int rows, const float *h, const float *w, float *sums, int64_t step, int64_t K, const Term *t)
{
    floats v[2 * ROWS];
    product(rows, 2, h, w, step, K, NR, v);
    for (int of = 0; of < 2; of++) {
        float *to = sums + t->to[of] * PAIRS * NR;
        switch (t->how[of]) {
#define EACH(how, result) \
    case how: \
        _Pragma("GCC unroll 24") for (int i = 0; i < 2 * rows; i++) { \
            float *at = to + i * LANES; \
            store(at, result); \
        } \
        break;
            EACH(SET, v[i]) EACH(ADD, load(at) + v[i]) EACH(SUBTRACT, load(at) - v[i])
#undef EACH
        }
    }
}

#define EACH(r) \
    static __attribute__((noinline)) void add_product_##r(const float *h, const float *w, float *sums, int64_t step, \
                                                          int64_t K, const Term *t) \
    { \
        add_product(r, h, w, sums, step, K, t); \
    }
FOR_ROWS(EACH)
#undef EACH

typedef struct { Layer l; const float *g; float *room; int64_t half, count, block; } Fast;

/* The positions of pair i; the second is -1 where an image has an odd number. */
INLINE void positions(const Fast *f, int64_t i, int64_t at[2])
{
    const int64_t first = i / f->half * f->l.P, row = i % f->half;
    at[0] = first + row, at[1] = row + f->half < f->l.P ? at[0] + f->half : -1;
}

/* The seven factors of A of pair i. */
static void factors(const Fast *f, int64_t i, float *to, int64_t apart)
{
    const Layer *l = &f->l;
    const int64_t K = l->K, n = K / 2;
    int64_t at[2];
    positions(f, i, at);
    const float *top = l->h + at[0] * K, *low = at[1] < 0 ? NULL : l->h + at[1] * K;
    const float *g = f->g ? f->g + at[0] / l->P * K : NULL;
    for (int64_t k = 0; k < n; k += LANES) {
        floats a = load_part(top + k, n - k), b = load_part(top + n + k, n - k), c = {0}, d = {0};
        if (low) c = load_part(low + k, n - k), d = load_part(low + n + k, n - k);
        if (g) {
            const floats left = load_part(g + k, n - k), right = load_part(g + n + k, n - k);
            a *= left, b *= right, c *= left, d *= right;
        }
        const floats all[PRODUCTS] = {a + d, c + d, a, d, a + b, c - a, b - d};
#pragma GCC unroll 7
        for (int j = 0; j < PRODUCTS; j++) store_part(to + j * apart + k, all[j], n - k);
    }
}

/* A row of one quadrant. */
INLINE void finish(const Layer *l, const float *sums, int64_t m, int64_t c)
{
    const float *b = l->b ? l->b + c : NULL, *s = l->s ? l->s + m / l->P * l->C + c : NULL;
    const float *e = l->e ? l->e + m * l->C + c : NULL;
    floats v[2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
        v[j] = load(sums + j * LANES);
        if (b) v[j] += load(b + j * LANES);
        if (s) v[j] *= load(s + j * LANES);
        if (e) v[j] += load(e + j * LANES);
    }
    activate(v, 2, l->act);
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) store(l->y + m * l->C + c + j * LANES, v[j]);
}

static void pairs(const void *context, Work *work)
{
    const Fast *f = context;
    const Layer *l = &f->l;
    const int64_t n = l->K / 2, panels = l->C / (2 * NR), step = apart(n), apart_by = f->block * step;
    float *own = f->room + work->id * (PRODUCTS * apart_by + QUADRANTS * PAIRS * NR), *sums = own + PRODUCTS * apart_by;
    int64_t ready = -1;
    for (int64_t item; (item = work->next(work)) >= 0;) {
        const int64_t i = item / panels, panel = item % panels, from = i * f->block;
        const int64_t count = f->count - from < f->block ? f->count - from : f->block;
        if (ready != i)
            for (int64_t m = 0; m < count; m++) factors(f, from + m, own + m * step, apart_by);
        ready = i;
        for (int p = 0; p < PRODUCTS; p++) {
            const Term *t = &terms[p];
            const float *h = own + t->factor * apart_by, *w = l->w + (t->factor * panels + panel) * n * NR;
            for (int64_t m = 0, left = (count + ROWS - 1) / ROWS, rows; m < count; m += rows, left--) {
                rows = (count - m + left - 1) / left;
                switch (rows) {
#define EACH(r) case r: add_product_##r(h + m * step, w, sums + m * NR, step, n, t); break;
                    FOR_ROWS(EACH)
#undef EACH
                }
            }
        }
        for (int64_t m = 0; m < count; m++) {
            int64_t at[2];
            positions(f, from + m, at);
            for (int q = 0; q < QUADRANTS; q++)
                if (at[q / 2] >= 0)
                    finish(l, sums + (q * PAIRS + m) * NR, at[q / 2], panel * NR + (q % 2 ? l->C / 2 : 0));
        }
    }
}

static int64_t count_of(int64_t M, int64_t P) { return P ? M / P * ((P + 1) / 2) : 0; }

/* Blocks of about equally many pairs. */
static int64_t block_of(int64_t count)
{
    const int64_t blocks = (count + PAIRS - 1) / PAIRS;
    return blocks ? (count + blocks - 1) / blocks : 0;
}

int64_t fast_scratch(int64_t M, int64_t P, int64_t K, int threads)
{
    return threads * (PRODUCTS * block_of(count_of(M, P)) * apart(K / 2) + QUADRANTS * PAIRS * NR);
}

void conv1x1(const int64_t *a, Parallel *parallel)
{
    const float *g = (const float *)a[2];
    float *room = (float *)a[7];
    const int threads = (int)a[13];
    const Layer l = {(const float *)a[0], (const float *)a[1], g, (const float *)a[3], (const float *)a[4],
                     (const float *)a[5], (float *)a[6], a[8], a[9], a[10], a[11], 0, (int)a[12]};
    const int64_t P = l.P, K = l.K, C = l.C, rows = (C + NR - 1) / NR * K;
    if (a[14]) {
        const int64_t count = count_of(l.M, P), block = block_of(count);
        const Fast f = {l, g, room, (P + 1) / 2, count, block};
        if (block) parallel(threads, (count + block - 1) / block * (C / (2 * NR)), pairs, &f);
        return;
    }
    if (!g || !scales_weights(P, C)) {
        run(&l, g, room, threads, parallel);
        return;
    }
    for (int64_t n = 0; n * P < l.M; n++) {
        for (int64_t i = 0; i < rows; i++)
            for (int j = 0; j < NR; j += LANES)
                store(room + i * NR + j, load(l.w + i * NR + j) * g[n * K + i % K]);
        Layer one = l;
        one.h += n * P * K, one.y += n * P * C, one.w = room, one.M = P;
        if (l.e) one.e += n * P * C;
        if (l.s) one.s += n * C;
        run(&one, NULL, room + rows * NR, threads, parallel);
    }
}
