/* Depthwise convolution of channels-last feature maps, with activation and squeeze, float32:

       y[n][i][j][c] = act(g[n][c] sum_ab w[a][b][c] h[n][i s + a - py][j s + b - px][c] + b[c]),    z[n][c] = mean_ij y

   h (N, H, W, C), y (N, Y, X, C), C >= LANES. It is bound by the caches: a tile of T results along a row reads each
   weight and each input once, channel after channel, and adds its results up for z in the registers that hold them.
   `expanded` does the same of h = act(w1 x + b1), x (N, H, W, I): it computes a row of h when it is needed, and keeps as
   many as the kernel has, so h never leaves the caches.

   Sums for z are kept for each row, in `room` (`scratch` floats), and added in order: any number of threads gives the
   same bits. b and g, gates of h, may be NULL, and z, if it is not wanted. */

#include "floats.h"
#include "threads.h"

enum { T = 4 };

typedef struct {
    const float *h, *w, *b, *g;
    float *y, *z, *room;
    int64_t N, H, W, C, Y, X, py, px;
    int K, S, act, threads;
} Layer;

INLINE int64_t padded(int64_t C) { return (C + LANES - 1) / LANES * LANES; }

/* Results of a row of y from column x on, up to T of them; the sum of each channel is added to `sums`. `rows` are the K
   rows of h, from column x S - px on, or NULL above and below it. K, S and `inside`, whether all columns and results are
   inside of the feature maps, are constants where it is inlined. */
INLINE void tile(const Layer *l, const int K, const int S, const int inside, const float *const rows[], const float *g,
                 float *y, int64_t x, float *sums)
{
    const int64_t C = l->C, left = x * S - l->px, n = l->X - x > T ? T : l->X - x;
    for (int64_t block = 0; block < C; block += LANES) {
        /* The last vector overlaps the one before. */
        const int64_t c = block + LANES <= C ? block : C - LANES;
        floats acc[T], bias = l->b ? load(l->b + c) : (floats){0};
#pragma GCC unroll 4
        for (int i = 0; i < T; i++) acc[i] = g ? (floats){0} : bias;
        for (int a = 0; a < K; a++) {
            if (!rows[a]) continue;
            const float *w = l->w + a * K * C + c, *from = rows[a] + c;
            floats weights[7];
#pragma GCC unroll 7
            for (int b = 0; b < K; b++) weights[b] = load(w + b * C);
#pragma GCC unroll 16
            for (int column = 0; column < (T - 1) * S + K; column++) {
                if (!inside && (left + column < 0 || left + column >= l->W)) continue;
                floats v = load(from + column * C);
#pragma GCC unroll 4
                for (int i = 0; i < T; i++)
                    if (column - i * S >= 0 && column - i * S < K) acc[i] += v * weights[column - i * S];
            }
        }
        if (g) {
            const floats gate = load(g + c);
#pragma GCC unroll 4
            for (int i = 0; i < T; i++) acc[i] = acc[i] * gate + bias;
        }
        activate(acc, T, l->act);
        floats sum = {0};
#pragma GCC unroll 4
        for (int i = 0; i < T; i++)
            if (i < n) {
                store(y + i * C + c, acc[i]);
                sum += acc[i];
            }
        if (sums) store(sums + block, load(sums + block) + sum);
    }
}

/* One row of y. `rows` begin at column -px if `whole`: then they are as long as all tiles, filled up with zeros. */
INLINE void line(const Layer *l, const int K, const int S, const int whole, const float *const rows[],
                 const float *g, float *y, float *sums)
{
    for (int64_t x = 0; x < l->X; x += T) {
        const int64_t left = x * S - (whole ? 0 : l->px);
        const float *from[7];
#pragma GCC unroll 7
        for (int a = 0; a < K; a++) from[a] = rows[a] ? rows[a] + left * l->C : NULL;
        if (whole || (left >= 0 && left + (T - 1) * S + K <= l->W && x + T <= l->X))
            tile(l, K, S, 1, from, g, y + x * l->C, x, sums);
        else
            tile(l, K, S, 0, from, g, y + x * l->C, x, sums);
    }
}

/* Row `row` of y of image n; `ring` holds the rows of h, each as long as `width` numbers, or is NULL. */
static void any_line(const Layer *l, int64_t n, int64_t row, const float *ring, int64_t width)
{
    const int64_t top = row * l->S - l->py;
    const float *rows[7];
    float *y = l->y + (n * l->Y + row) * l->X * l->C, *sums = l->z ? l->room + (n * l->Y + row) * padded(l->C) : NULL;
    const float *g = l->g ? l->g + n * l->C : NULL;
    if (sums) memset(sums, 0, padded(l->C) * sizeof *sums);
    for (int64_t a = 0; a < l->K; a++) {
        const int64_t at = top + a;
        rows[a] = at < 0 || at >= l->H ? NULL
                  : ring               ? ring + at % l->K * width
                                       : l->h + (n * l->H + at) * l->W * l->C;
    }
    switch ((l->K * 10 + l->S) * 2 + !!ring) {
#define EACH(k, s) \
    case (k * 10 + s) * 2: line(l, k, s, 0, rows, g, y, sums); break; \
    case (k * 10 + s) * 2 + 1: line(l, k, s, 1, rows, g, y, sums); break;
        EACH(3, 1) EACH(3, 2) EACH(5, 1) EACH(5, 2) EACH(7, 1) EACH(7, 2)
#undef EACH
    }
}

/* z of the sums of rows. */
static void means(const Layer *l)
{
    const int64_t width = padded(l->C), blocks = width / LANES;
    if (!l->z) return;
    for (int64_t i = 0; i < l->N * blocks; i++) {
        const int64_t n = i / blocks, block = i % blocks * LANES;
        floats sum = {0};
        for (int64_t row = 0; row < l->Y; row++) sum += load(l->room + (n * l->Y + row) * width + block);
        store(l->z + n * l->C + (block + LANES <= l->C ? block : l->C - LANES), sum / (float)(l->X * l->Y));
    }
}

int lanes(void) { return LANES; }

/* How many floats of scratch memory z needs. */
int64_t scratch(int64_t N, int64_t C, int64_t Y) { return N * Y * padded(C); }

static void lines(const void *context, Work *work)
{
    const Layer *l = context;
    for (int64_t i; (i = work->next(work)) >= 0;) any_line(l, i / l->Y, i % l->Y, NULL, 0);
}

void depthwise(const int64_t *a, Parallel *parallel)
{
    const Layer l = {(const float *)a[0], (const float *)a[1], (const float *)a[2], (const float *)a[3], (float *)a[4],
                     (float *)a[5], (float *)a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], (int)a[15],
                     (int)a[16], (int)a[17], (int)a[18]};
    parallel(l.threads, l.N * l.Y, lines, &l);
    means(&l);
}

/* `rows` positions of h = act(w1 x + b1), from channel c on. */
INLINE void expand_tile(const int rows, const float *x, const float *w1, const float *b1, float *h, int64_t I, int64_t C,
                        int64_t c, int act)
{
    const int64_t n = C - c;
    floats v[2 * ROWS];
    product(rows, 2, x, w1 + c * I, I, I, NR, v);
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++)
            if (b1) v[i * 2 + j] += load_part(b1 + c + j * LANES, n - j * LANES);
    activate(v, 2 * rows, act);
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) store_part(h + i * C + c + j * LANES, v[i * 2 + j], n - j * LANES);
}

/* Functions of their own: in a large one the compiler keeps the sums in memory. */
#define EACH(r) \
    static __attribute__((noinline)) void expand_##r(const float *x, const float *w1, const float *b1, float *h, int64_t I, \
                                                     int64_t C, int64_t c, int act) \
    { \
        expand_tile(r, x, w1, b1, h, I, C, c, act); \
    }
FOR_ROWS(EACH)
#undef EACH

/* m positions of h = act(w1 x + b1), I channels of x to C of h; w1 is packed in panels, as for conv1x1. */
static void expand(const float *x, const float *w1, const float *b1, float *h, int64_t m, int64_t I, int64_t C, int act)
{
    for (int64_t c = 0; c < C; c += NR)
        for (int64_t i = 0; i < m; i += ROWS)
            switch (m - i < ROWS ? (int)(m - i) : ROWS) {
#define EACH(r) case r: expand_##r(x + i * I, w1, b1, h + i * C, I, C, c, act); break;
                FOR_ROWS(EACH)
#undef EACH
            }
}

/* Columns of a row of h, with zeros around. */
static int64_t columns(int64_t X, int64_t K, int64_t S) { return ((X + T - 1) / T * T - 1) * S + K; }

/* How many floats of scratch memory a thread needs for rows of h. */
int64_t ring(int64_t C, int64_t X, int64_t K, int64_t S) { return K * columns(X, K, S) * C; }

typedef struct {
    Layer l;
    const float *x, *w1, *b1;
    float *room;
    int64_t I;
    int act;
} Expanded;

static void expanded_lines(const void *context, Work *work)
{
    const Expanded *e = context;
    const Layer *l = &e->l;
    const int64_t I = e->I, K = l->K, most = columns(l->X, K, l->S), width = most * l->C;
    const int64_t end = l->px + l->W < most ? l->px + l->W : most;
    float *kept = e->room + work->id * ring(l->C, l->X, K, l->S);
    int64_t before = -2, done = 0; /* the line before, and how many rows of this image were computed */
    memset(kept, 0, K * width * sizeof *kept);
    for (int64_t i; (i = work->next(work)) >= 0; before = i) {
        const int64_t n = i / l->Y, row = i % l->Y, top = row * l->S - l->py, to = top + K < l->H ? top + K : l->H;
        if (i != before + 1 || !row) done = 0;
        if (done < top) done = top;
        for (; done < to && l->px < end; done++)
            expand(e->x + (n * l->H + done) * l->W * I, e->w1, e->b1, kept + done % K * width + l->px * l->C, end - l->px, I,
                   l->C, e->act);
        any_line(l, n, row, kept, width);
    }
}

void expanded(const int64_t *a, Parallel *parallel)
{
    const Expanded e = {{NULL, (const float *)a[3], (const float *)a[4], NULL, (float *)a[5], (float *)a[6], (float *)a[7], a[9],
                     a[10], a[11], a[13], a[14], a[15], a[16], a[17], (int)a[18], (int)a[19], (int)a[21], (int)a[22]},
                        (const float *)a[0], (const float *)a[1], (const float *)a[2], (float *)a[8], a[12], (int)a[20]};
    parallel(e.l.threads, e.l.N * e.l.Y, expanded_lines, &e);
    means(&e.l);
}
