/* 3x3 convolution of stride 1 of channels-last feature maps by Winograd's algorithm, float32:

       y = act(w * h + b + e)           h (N, H, W, K), y and e (N, Y, X, C), Y = H + 2 py - 2, X = W + 2 px - 2

   A tile of 4x4 results needs 6x6 of h, and 36 products for each pair of channels where a direct sum needs 144:

       y_tile = A' [(G w G') . (B' h_tile B)] A

   (Lavin and Gray, arXiv:1509.09308): the product of polynomials of 3 and 4 coefficients has 6, known by its values at 6
   points, and a row of 4 results of 3 weights is its transpose. The points are 0, +-p, +-q and infinity, p = 3/4 and
   q = 3/2: with the usual 1 and 2 the rounding is twice as large.
   For each of the 36 points it is a matrix product of tiles by channels, which takes most of the time.

   With G groups each k = K / G channels of h make c = C / G of y. w is packed: G w G' as [36][G][panels][k][width], the
   last panel padded with zeros; a panel is up to three vectors wide. b and e may be NULL; y may be e. */

#include "floats.h"
#include "threads.h"

enum { OUT = 4, IN = 6, POINTS = IN * IN };
enum { BLOCK = 32 };

#define P 0.75f
#define Q 1.5f
#define P2 (P * P)
#define Q2 (Q * Q)

/* v = B' d: six numbers of a row or column. */
INLINE void into(const floats d[IN], floats v[IN])
{
    floats p = d[4] - Q2 * d[2], odd_p = P * (d[3] - Q2 * d[1]), q = d[4] - P2 * d[2], odd_q = Q * (d[3] - P2 * d[1]);
    v[0] = P2 * Q2 * d[0] - (P2 + Q2) * d[2] + d[4];
    v[1] = p + odd_p;
    v[2] = p - odd_p;
    v[3] = q + odd_q;
    v[4] = q - odd_q;
    v[5] = P2 * Q2 * d[1] - (P2 + Q2) * d[3] + d[5];
}

/* y = A' m: four numbers from six. */
INLINE void out_of(const floats m[IN], floats y[OUT])
{
    floats p = m[1] + m[2], odd_p = m[1] - m[2], q = m[3] + m[4], odd_q = m[3] - m[4];
    y[0] = m[0] + p + q;
    y[1] = P * odd_p + Q * odd_q;
    y[2] = P2 * p + Q2 * q;
    y[3] = P2 * P * odd_p + Q2 * Q * odd_q + m[5];
}

/* One tile of h, n of whose K channels count and whose first position is (y, x), to its 36 points, `apart` from each
   other. */
static void tile_in(const float *h, float *v, int64_t apart, int64_t H, int64_t W, int64_t K, int64_t n, int64_t y,
                    int64_t x)
{
    const int inside = y >= 0 && x >= 0 && y + IN <= H && x + IN <= W;
    for (int64_t k = 0; k < n; k += LANES) {
        floats edge[POINTS], t[POINTS];
        const float *from = h + (y * W + x) * K + k;
        int64_t down = W * K, right = K;
        if (!inside || n - k < LANES) {
            for (int i = 0; i < IN; i++)
                for (int j = 0; j < IN; j++) {
                    int is_there = y + i >= 0 && y + i < H && x + j >= 0 && x + j < W;
                    edge[i * IN + j] = is_there ? load_part(from + i * down + j * right, n - k) : (floats){0};
                }
            from = (const float *)edge, down = IN * LANES, right = LANES;
        }
#pragma GCC unroll 6
        for (int j = 0; j < IN; j++) {
            floats d[IN], of[IN];
            for (int i = 0; i < IN; i++) d[i] = load(from + i * down + j * right);
            into(d, of);
            for (int i = 0; i < IN; i++) t[i * IN + j] = of[i];
        }
#pragma GCC unroll 6
        for (int i = 0; i < IN; i++) {
            floats of[IN];
            into(t + i * IN, of);
            for (int j = 0; j < IN; j++) store(v + (i * IN + j) * apart + k, of[j]);
        }
    }
}

/* The inverse: n of the C channels of one tile of y, whose first position is (y, x). */
static void tile_out(const float *m, int64_t apart, const float *b, const float *e, float *out, int64_t Y, int64_t X,
                     int64_t C, int64_t n, int64_t y, int64_t x, int act)
{
    const int rows = Y - y < OUT ? (int)(Y - y) : OUT, columns = X - x < OUT ? (int)(X - x) : OUT;
    for (int64_t c = 0; c < n; c += LANES) {
        floats t[OUT * IN], bias = b ? load_part(b + c, n - c) : (floats){0};
#pragma GCC unroll 6
        for (int j = 0; j < IN; j++) {
            floats d[IN], of[OUT];
            for (int i = 0; i < IN; i++) d[i] = load(m + (i * IN + j) * apart + c);
            out_of(d, of);
            for (int i = 0; i < OUT; i++) t[i * IN + j] = of[i];
        }
        for (int i = 0; i < rows; i++) {
            floats r[OUT];
            int64_t at = ((y + i) * X + x) * C + c;
            out_of(t + i * IN, r);
            for (int j = 0; j < OUT; j++) {
                r[j] += bias;
                if (e && j < columns) r[j] += load_part(e + at + j * C, n - c);
            }
            activate(r, OUT, act);
            for (int j = 0; j < columns; j++) store_part(out + at + j * C, r[j], n - c);
        }
    }
}

/* Sums of BLOCK channels are added up, for less rounding: the inverse transform enlarges it. */
INLINE void rows_of(const int rows, const int vectors, const float *v, const float *w, float *m, int64_t k,
                    int64_t from, int64_t to)
{
    const int width = vectors * LANES;
    for (int64_t at = 0; at < k; at += BLOCK) {
        floats acc[ROWS * 2];
        product(rows, vectors, v + at, w + at * width, from, k - at < BLOCK ? k - at : BLOCK, width, acc);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < vectors; j++) {
                float *sum = m + i * to + j * LANES;
                store(sum, at ? load(sum) + acc[i * vectors + j] : acc[i * vectors + j]);
            }
    }
}

/* m = v w at one point and for one panel: n tiles, in `parts` of about equally many rows; rows of v and m are `from` and
   `to` apart. */
INLINE void point_of(const int most, const int vectors, int64_t n, int64_t parts, const float *v, const float *w,
                     float *m, int64_t k, int64_t from, int64_t to)
{
    for (int64_t left = parts, rows; left > 0; left--, n -= rows, v += rows * from, m += rows * to) {
        rows = left == 1 ? n : (n + left - 1) / left;
#define EACH(r) case r: if (r <= most) rows_of(r, vectors, v, w, m, k, from, to); break;
        switch (rows) { FOR_ROWS(EACH) }
#undef EACH
    }
}

static void point(int64_t vectors, int64_t n, int64_t parts, const float *v, const float *w, float *m, int64_t k,
                  int64_t from, int64_t to)
{
    if (vectors == 1) point_of(ROWS, 1, n, parts, v, w, m, k, from, to);
    else if (vectors == 2) point_of(ROWS, 2, n, parts, v, w, m, k, from, to);
    else point_of(ROWS * 2 / 3, 3, n, parts, v, w, m, k, from, to);
}

/* How threads share the work. Small weights, which fit a core's cache: every thread has chunks of tiles of its own, which
   fit too; of groups it takes `many` at a time. Large weights or few tiles: all threads work on one chunk at a time and
   share its products.

   `from` and `to` are the widths of v and m. A panel may be wider than c: it writes over the next group's first channels,
   which are written later. */
typedef struct {
    int64_t k, c, vectors, panels, many, blocks, from, to, down, across, tiles, chunk;
    int own;
} Plan;

int lanes(void) { return LANES; }

/* Width of panels of c channels, in vectors. */
int64_t vectors(int64_t c, int64_t groups) { return groups > 1 && c <= 3 * LANES ? (c + LANES - 1) / LANES : 2; }

static Plan plan_of(int64_t N, int64_t Y, int64_t X, int64_t K, int64_t C, int64_t G, int threads)
{
    Plan p = {.k = K / G, .c = C / G, .down = (Y + OUT - 1) / OUT, .across = (X + OUT - 1) / OUT};
    p.vectors = vectors(p.c, G);
    p.panels = (p.c + p.vectors * LANES - 1) / (p.vectors * LANES);
    p.tiles = N * p.down * p.across;
    const int64_t some = 64 / p.c > 1 ? 64 / p.c : 1;
    p.many = some < G ? some : G;
    p.blocks = (G + p.many - 1) / p.many;
    p.from = (p.many * p.k + LANES - 1) / LANES * LANES;
    p.to = (p.many - 1) * p.c + p.panels * p.vectors * LANES;
    p.to = (p.to + LANES - 1) / LANES * LANES;
    p.own = G > 1 || (p.k * p.to <= 20480 && p.tiles >= 96 * threads);
    const int64_t chunks = (p.tiles + 63) / 64, fit = 65536 / (POINTS * (p.from + p.to));
    p.chunk = G > 1 ? (fit < 6 ? 6 : fit) : p.own ? 24 : chunks ? (p.tiles + chunks - 1) / chunks : 0;
    return p;
}

/* How many floats `conv3x3` needs as scratch memory. */
int64_t scratch(int64_t N, int64_t Y, int64_t X, int64_t K, int64_t C, int64_t G, int threads)
{
    const Plan p = plan_of(N, Y, X, K, C, G, threads);
    return (p.own ? threads : 1) * POINTS * p.chunk * (p.from + p.to);
}

/* A chunk: tiles from `first` on, n of them, of `groups` groups from g on. */
typedef struct {
    Plan p;
    const float *h, *w, *b, *e;
    float *y, *v, *m;
    int64_t H, W, K, C, G, py, px, Y, X, g, groups, first, n;
    int act;
    Parallel *parallel;
} Chunk;

static void tiles_in(const void *context, Work *work)
{
    const Chunk *k = context;
    const Plan *p = &k->p;
    for (int64_t t; (t = work->next(work)) >= 0;) {
        const int64_t image = (k->first + t) / (p->down * p->across), at = (k->first + t) % (p->down * p->across);
        tile_in(k->h + image * k->H * k->W * k->K + k->g * p->k, k->v + t * p->from, p->chunk * p->from, k->H, k->W, k->K,
                k->groups * p->k, at / p->across * OUT - k->py, at % p->across * OUT - k->px);
    }
}

static void products(const void *context, Work *work)
{
    const Chunk *k = context;
    const Plan *p = &k->p;
    const int64_t most = p->vectors == 3 ? ROWS * 2 / 3 : ROWS, panel = p->k * p->vectors * LANES;
    for (int64_t i; (i = work->next(work)) >= 0;) {
        const int64_t a = i / (k->groups * p->panels), of = i / p->panels % k->groups, c = i % p->panels;
        point(p->vectors, k->n, (k->n + most - 1) / most, k->v + a * p->chunk * p->from + of * p->k,
              k->w + ((a * k->G + k->g + of) * p->panels + c) * panel,
              k->m + a * p->chunk * p->to + of * p->c + c * p->vectors * LANES, p->k, p->from, p->to);
    }
}

static void tiles_out(const void *context, Work *work)
{
    const Chunk *k = context;
    const Plan *p = &k->p;
    for (int64_t t; (t = work->next(work)) >= 0;) {
        const int64_t image = (k->first + t) / (p->down * p->across), at = (k->first + t) % (p->down * p->across);
        const int64_t to = image * k->Y * k->X * k->C + k->g * p->c;
        tile_out(k->m + t * p->to, p->chunk * p->to, k->b ? k->b + k->g * p->c : NULL, k->e ? k->e + to : NULL, k->y + to,
                 k->Y, k->X, k->C, k->groups * p->c, at / p->across * OUT, at % p->across * OUT, k->act);
    }
}

/* Chunk i, by `threads`. */
static void chunk(Chunk *k, int64_t i, int threads)
{
    const Plan *p = &k->p;
    const int64_t chunks = (p->tiles + p->chunk - 1) / p->chunk;
    k->g = i / chunks * p->many, k->groups = k->G - k->g < p->many ? k->G - k->g : p->many;
    k->first = i % chunks * p->chunk, k->n = p->tiles - k->first < p->chunk ? p->tiles - k->first : p->chunk;
    k->parallel(threads, k->n, tiles_in, k);
    k->parallel(threads, POINTS * k->groups * p->panels, products, k);
    k->parallel(threads, k->n, tiles_out, k);
}

static void chunks(const void *context, Work *work)
{
    Chunk k = *(const Chunk *)context;
    k.v += work->id * POINTS * k.p.chunk * (k.p.from + k.p.to);
    k.m = k.v + POINTS * k.p.chunk * k.p.from;
    for (int64_t i; (i = work->next(work)) >= 0;) chunk(&k, i, 1);
}

void conv3x3(const int64_t *a, Parallel *parallel)
{
    const int64_t N = a[6], H = a[7], W = a[8], K = a[9], C = a[10], G = a[11], py = a[12], px = a[13];
    const int64_t Y = H + 2 * py - 2, X = W + 2 * px - 2;
    const int threads = (int)a[15];
    Chunk k = {plan_of(N, Y, X, K, C, G, threads), (const float *)a[0], (const float *)a[1], (const float *)a[2],
               (const float *)a[3], (float *)a[4], (float *)a[5], NULL, H, W, K, C, G, py, px, Y, X, 0, 0, 0, 0,
               (int)a[14], parallel};
    const Plan *p = &k.p;
    const int64_t count = p->chunk ? p->blocks * ((p->tiles + p->chunk - 1) / p->chunk) : 0;
    k.m = k.v + POINTS * p->chunk * p->from;
    if (p->own) parallel(threads, count, chunks, &k);
    else
        for (int64_t i = 0; i < count; i++) chunk(&k, i, threads);
}
