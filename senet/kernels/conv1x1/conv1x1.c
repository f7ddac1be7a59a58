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

void conv1x1(const int64_t *a, Parallel *parallel)
{
    const float *g = (const float *)a[2];
    float *room = (float *)a[7];
    const int threads = (int)a[13];
    const Layer l = {(const float *)a[0], (const float *)a[1], g, (const float *)a[3], (const float *)a[4],
                     (const float *)a[5], (float *)a[6], a[8], a[9], a[10], a[11], 0, (int)a[12]};
    const int64_t P = l.P, K = l.K, C = l.C, rows = (C + NR - 1) / NR * K;
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
