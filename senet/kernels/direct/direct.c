/* Convolution of few channels in a group: grouped ones, and the first layer of a network, float32:

       y[n][i][j] = act(sum_ab w[a][b] h[n][i s + a - py][j s + b - px] + b + e[n][i][j])

   y and e (N, Y, X, C) are channels-last, h is (N, H, W, K) by its strides. With G groups each k = K / G channels of h
   make c = C / G of y. w is packed: [G][panels][A B k][width], in the order
   of a band, the last panel padded with zeros; a panel is up to three
   vectors wide. b and e may be NULL, and y may be e.

   `order`, if not NULL, are the channels of h in the order in which groups take them. A band of rows is copied, padded with
   zeros, as [group][rows][columns][k], or as [group][k][rows][columns] if `planar`: then all results of a tile along a row
   are a product of matrices, whose sums stay in registers. */

#include "floats.h"
#include "threads.h"

enum { BAND = 32768, WIDE = ROWS / 3 * 4 }; /* floats of a band; rows of a tile that is one vector wide */

typedef struct {
    const float *h, *w, *b, *e;
    float *y;
    int64_t N, H, W, K, C, G, A, B, s, py, px, Y, X, image, channel, down, right, planar;
    int act;
    int64_t k, c, vectors, panels, many, blocks, columns, rows, bands, height, step;
    const int32_t *order;
    const int32_t *at; /* where the numbers that meet a weight are, from that of the first weight on */
} Plan;

int lanes(void) { return LANES; }

/* Width of panels of c channels, in vectors. */
int64_t vectors(int64_t c) { return c <= 3 * LANES ? (c + LANES - 1) / LANES : 2; }

static Plan plan_of(const int64_t *a)
{
    Plan p = {(const float *)a[0], (const float *)a[1], (const float *)a[2], (const float *)a[3], (float *)a[4],
              a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15], a[16], a[17], a[18], a[19], a[20], a[21],
              a[22], a[23], a[24], (int)a[25]};
    p.k = p.K / p.G, p.c = p.C / p.G;
    p.vectors = vectors(p.c);
    p.panels = (p.c + p.vectors * LANES - 1) / (p.vectors * LANES);
    const int64_t some = 32 / p.k > 1 ? 32 / p.k : 1;
    p.many = some < p.G ? some : p.G;
    p.blocks = (p.G + p.many - 1) / p.many;
    p.columns = (p.X - 1) * p.s + p.B;
    const int64_t fit = (BAND / (p.many * p.k * p.columns) - p.A) / p.s + 1;
    p.rows = fit < 1 ? 1 : fit < p.Y ? fit : p.Y;
    p.bands = (p.Y + p.rows - 1) / p.rows;
    p.rows = (p.Y + p.bands - 1) / p.bands;
    p.height = (p.rows - 1) * p.s + p.A;
    p.step = p.planar ? p.s : p.s * p.k;
    p.at = (const int32_t *)a[5], p.order = (const int32_t *)a[6];
    return p;
}

static int64_t band_of(const Plan *p) { return p->height * p->columns * p->many * p->k; }

/* How many floats `direct` needs as scratch memory. */
int64_t scratch(const int64_t *a)
{
    const Plan p = plan_of(a);
    return p.N > 0 && p.C > 0 && p.Y > 0 && p.X > 0 ? p.A * p.B * p.k + a[26] * band_of(&p) : 0;
}

/* Copy `n` numbers `apart` between `left` and `right` zeros, `k` side by side. */
INLINE void copy_row(float *to, const float *from, int64_t n, int64_t left, int64_t right, int64_t k, int64_t apart)
{
    memset(to, 0, left * k * sizeof *to);
    memset(to + (left + n) * k, 0, right * k * sizeof *to);
    if (apart == k) memcpy(to + left * k, from, n * k * sizeof *to);
    else
        for (int64_t j = 0; j < n; j++) {
            float *at = to + (left + j) * k;
            int64_t c = 0;
            for (; c + LANES <= k; c += LANES) store(at + c, load(from + j * apart + c));
            for (; c < k; c++) at[c] = from[j * apart + c];
        }
}

/* The same of the channels that `order` names. */
INLINE void gather_row(float *to, const float *from, const int32_t *order, int64_t n, int64_t left, int64_t right, int64_t k,
                       int64_t channel, int64_t apart)
{
    memset(to, 0, left * k * sizeof *to);
    memset(to + (left + n) * k, 0, right * k * sizeof *to);
    for (int64_t j = 0; j < n; j++)
        for (int64_t c = 0; c < k; c++) to[(left + j) * k + c] = from[j * apart + order[c] * channel];
}

/* Copy the groups from g on of the rows that a band of y, from row `first` on, is made of. */
static void copy(const Plan *p, float *to, int64_t n, int64_t g, int64_t groups, int64_t first)
{
    const int64_t k = p->k, planes = p->planar ? k : 1, side = p->planar ? 1 : k;
    const int64_t left = p->px < p->columns ? p->px : p->columns, width = p->columns - left;
    const int64_t there = width < p->W ? width : p->W;
    for (int64_t of = 0; of < groups * planes; of++)
        for (int64_t i = 0; i < p->height; i++, to += p->columns * side) {
            const int64_t row = first * p->s + i - p->py, is_row = row >= 0 && row < p->H, x = is_row ? there : 0;
            const float *from = p->h + n * p->image + row * p->down;
            if (p->order) {
                gather_row(to, from, p->order + (g + of) * k, x, left, width - x, k, p->channel, p->right);
                continue;
            }
            from += (g * k + of * side) * p->channel;
            copy_row(to, from, x, left, width - x, side, p->right);
        }
}

/* `rows` results along a row from position m of y on, `vectors` of the channels from c on, of which n count. */
INLINE void tile(const Plan *p, const int rows, const int vectors, const float *h, const float *w, int64_t m, int64_t c,
                 int64_t n)
{
    const float *e = p->e ? p->e + m * p->C + c : NULL, *b = p->b ? p->b + c : NULL;
    float *y = p->y + m * p->C + c;
    floats v[2 * ROWS];
    product_at(rows, vectors, h, p->at, w, p->step, p->A * p->B * p->k, vectors * LANES, v);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int j = 0; j < vectors; j++) {
            if (b) v[i * vectors + j] += load_part(b + j * LANES, n - j * LANES);
            if (e) v[i * vectors + j] += load_part(e + i * p->C + j * LANES, n - j * LANES);
        }
    activate(v, rows * vectors, p->act);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int j = 0; j < vectors; j++) store_part(y + i * p->C + j * LANES, v[i * vectors + j], n - j * LANES);
}

/* Functions of their own: in a large one the compiler keeps the sums in memory. */
#define EACH(r) \
    static __attribute__((noinline)) void tile_##r(const Plan *p, int64_t vectors, const float *h, const float *w, \
                                                   int64_t m, int64_t c, int64_t n) \
    { \
        if (vectors == 1) tile(p, r, 1, h, w, m, c, n); \
        else if (vectors == 2 && r <= ROWS) tile(p, r, 2, h, w, m, c, n); \
        else if (r <= ROWS * 2 / 3) tile(p, r, 3, h, w, m, c, n); \
    }
FOR_ROWS(EACH) FOR_WIDE(EACH)
#undef EACH

/* A row of results, in tiles of about equal width. */
static void line(const Plan *p, const float *h, const float *w, int64_t m, int64_t c, int64_t n)
{
    const int64_t most = p->vectors == 1 ? WIDE : p->vectors == 2 ? ROWS : ROWS * 2 / 3;
    int64_t x = 0;
    for (int64_t left = (p->X + most - 1) / most; left > 0; left--) {
        const int64_t rows = left == 1 ? p->X - x : (p->X - x + left - 1) / left;
#define EACH(r) case r: tile_##r(p, p->vectors, h + x * p->step, w, m + x, c, n); break;
        switch (rows) { FOR_ROWS(EACH) FOR_WIDE(EACH) }
#undef EACH
        x += rows;
    }
}

/* Bands of rows of some groups. */
static void bands(const void *context, Work *work)
{
    const Plan p = *(const Plan *)context;
    const int64_t row = p.columns * (p.planar ? 1 : p.k), K = p.A * p.B * p.k, panel = K * p.vectors * LANES;
    float *band = (float *)p.at + K + work->id * band_of(&p);
    for (int64_t item; (item = work->next(work)) >= 0;) {
        const int64_t n = item / (p.blocks * p.bands), g = item / p.bands % p.blocks * p.many;
        const int64_t groups = p.G - g < p.many ? p.G - g : p.many, first = item % p.bands * p.rows;
        const int64_t rows = p.Y - first < p.rows ? p.Y - first : p.rows;
        copy(&p, band, n, g, groups, first);
        /* A panel stays in a core's first cache for all rows, or all panels do for each row. */
        const int64_t each = p.panels * panel <= 4096 ? 1 : rows;
        for (int64_t of = 0; of < groups; of++)
            for (int64_t top = 0; top < rows; top += each)
                for (int64_t j = 0; j < p.panels; j++)
                    for (int64_t i = top; i < top + each; i++) {
                        const int64_t from = j * p.vectors * LANES, c = (g + of) * p.c + from;
                        const int64_t m = (n * p.Y + first + i) * p.X;
                        const float *h = band + of * p.height * p.columns * p.k + i * p.s * row;
                        const float *w = p.w + ((g + of) * p.panels + j) * panel;
                        line(&p, h, w, m, c, p.c - from);
                    }
    }
}

void direct(const int64_t *a, Parallel *parallel)
{
    const Plan p = plan_of(a);
    const int threads = (int)a[26];
    const int64_t items = p.N > 0 && p.C > 0 && p.Y > 0 && p.X > 0 ? p.N * p.blocks * p.bands : 0;
    const int64_t row = p.columns * (p.planar ? 1 : p.k), K = p.A * p.B * p.k;
    int32_t *at = (int32_t *)a[5];
    for (int64_t i = 0; items && i < K; i++) {
        const int64_t c = p.planar ? i / (p.A * p.B) : 0, j = p.planar ? i % (p.A * p.B) : i;
        const int64_t width = p.planar ? p.B : p.B * p.k;
        at[i] = (int32_t)((c * p.height + j / width) * row + j % width);
    }
    parallel(threads, items, bands, &p);
}
