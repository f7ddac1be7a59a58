/* 3x3 convolution of stride 1 of channels-last feature maps by Winograd's algorithm, float32:

       y = relu(w * h + b + e)          h (N, H, W, K), y and e (N, Y, X, C), Y = H + 2 py - 2, X = W + 2 px - 2

   A tile of 4x4 results needs 6x6 of h, and 36 products for each pair of channels where a direct sum needs 144:

       y_tile = A' [(G w G') . (B' h_tile B)] A

   (Lavin and Gray, arXiv:1509.09308): the product of polynomials of 3 and 4 coefficients has 6, known by its values at 6
   points, and a row of 4 results of 3 weights is its transpose. The points are 0, +-p, +-q and infinity, p = 3/4 and
   q = 3/2: with the usual 1 and 2 the rounding is twice as large.
   For each of the 36 points it is a matrix product of tiles by channels, which takes most of the time.

   w is packed: G w G' as [36][panels][K][NR], the last panel padded with zeros; b and e may be NULL; y may be e.
   K and C are multiples of LANES. */

#include <omp.h>

#include "floats.h"

enum { OUT = 4, IN = 6, POINTS = IN * IN };
enum { BLOCK = 32 };

#define P 0.75f
#define Q 1.5f
#define P2 (P * P)
#define Q2 (Q * Q)

/* v = B' d, of a row or column: six numbers `step` apart. */
INLINE void into(const floats *d, floats *v, const int step)
{
    floats d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step];
    floats p = d4 - Q2 * d2, odd_p = P * (d3 - Q2 * d1), q = d4 - P2 * d2, odd_q = Q * (d3 - P2 * d1);
    v[0] = P2 * Q2 * d[0] - (P2 + Q2) * d2 + d4;
    v[step] = p + odd_p;
    v[2 * step] = p - odd_p;
    v[3 * step] = q + odd_q;
    v[4 * step] = q - odd_q;
    v[5 * step] = P2 * Q2 * d1 - (P2 + Q2) * d3 + d[5 * step];
}

/* y = A' m: four numbers from six. */
INLINE void out_of(const floats *m, const int from, floats *y, const int to)
{
    floats p = m[from] + m[2 * from], odd_p = m[from] - m[2 * from];
    floats q = m[3 * from] + m[4 * from], odd_q = m[3 * from] - m[4 * from];
    y[0] = m[0] + p + q;
    y[to] = P * odd_p + Q * odd_q;
    y[2 * to] = P2 * p + Q2 * q;
    y[3 * to] = P2 * P * odd_p + Q2 * Q * odd_q + m[5 * from];
}

/* One tile of h, whose first position is (y, x), to its 36 points, `apart` from each other. */
static void tile_in(const float *h, const float *zeros, float *v, int64_t apart, int64_t H, int64_t W, int64_t K,
                    int64_t y, int64_t x)
{
    const float *from[POINTS];
    for (int i = 0; i < IN; i++)
        for (int j = 0; j < IN; j++) {
            int inside = y + i >= 0 && y + i < H && x + j >= 0 && x + j < W;
            from[i * IN + j] = inside ? h + ((y + i) * W + x + j) * K : zeros;
        }
    for (int64_t k = 0; k < K; k += LANES) {
        floats d[POINTS], t[POINTS];
        for (int i = 0; i < POINTS; i++) d[i] = load(from[i] + k);
        for (int i = 0; i < IN; i++) into(d + i * IN, t + i * IN, 1);
        for (int j = 0; j < IN; j++) into(t + j, d + j, IN);
        for (int i = 0; i < POINTS; i++) store(v + i * apart + k, d[i]);
    }
}

/* The inverse: one tile of y, whose first position is (y, x). */
static void tile_out(const float *m, int64_t apart, const float *b, const float *e, float *out, int64_t Y, int64_t X,
                     int64_t C, int64_t y, int64_t x, int relu)
{
    const int rows = Y - y < OUT ? (int)(Y - y) : OUT, columns = X - x < OUT ? (int)(X - x) : OUT;
    for (int64_t c = 0; c < C; c += LANES) {
        floats d[POINTS], t[OUT * IN], r[OUT * OUT], bias = b ? load(b + c) : (floats){0};
        for (int i = 0; i < POINTS; i++) d[i] = load(m + i * apart + c);
        for (int j = 0; j < IN; j++) out_of(d + j, IN, t + j, IN);
        for (int i = 0; i < OUT; i++) out_of(t + i * IN, 1, r + i * OUT, 1);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++) {
                int64_t at = ((y + i) * X + x + j) * C + c;
                floats v = r[i * OUT + j] + bias;
                if (e) v += load(e + at);
                store(out + at, relu ? positive(v) : v);
            }
    }
}

/* Sums of BLOCK channels are added up, for less rounding: the inverse transform enlarges it. */
INLINE void rows_of(const int rows, const float *v, const float *w, float *m, int64_t K, int64_t width)
{
    for (int64_t k = 0; k < K; k += BLOCK) {
        floats acc[ROWS][2];
        product(rows, v + k, w + k * NR, K, K - k < BLOCK ? K - k : BLOCK, acc);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < 2; j++) {
                float *at = m + i * width + j * LANES;
                store(at, k ? load(at) + acc[i][j] : acc[i][j]);
            }
    }
}

/* m = v w at one point and for one panel: n tiles, in groups of about equally many rows. */
static void point(int64_t n, const float *v, const float *w, float *m, int64_t K, int64_t width)
{
    const int64_t groups = (n + ROWS - 1) / ROWS;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t at = n * g / groups;
#define EACH(r) case r: rows_of(r, v + at * K, w, m + at * width, K, width); break;
        switch (n * (g + 1) / groups - at) { FOR_ROWS(EACH) }
#undef EACH
    }
}

/* How threads share the tiles. Small weights, which fit a core's cache: every thread has chunks of its own, which fit
   too. Large weights or few tiles: all threads work on one chunk at a time and share its products. */
typedef struct { int64_t panels, width, down, across, tiles, chunk; int own; } Plan;

static Plan plan_of(int64_t N, int64_t Y, int64_t X, int64_t K, int64_t C, int threads)
{
    Plan p = {.panels = (C + NR - 1) / NR, .down = (Y + OUT - 1) / OUT, .across = (X + OUT - 1) / OUT};
    p.width = p.panels * NR;
    p.tiles = N * p.down * p.across;
    p.own = K * p.width <= 20480 && p.tiles >= 96 * threads;
    const int64_t chunks = (p.tiles + 63) / 64;
    p.chunk = p.own ? 24 : chunks ? (p.tiles + chunks - 1) / chunks : 0;
    return p;
}

int lanes(void) { return LANES; }
int panel(void) { return NR; }

/* How many floats `conv3x3` needs as scratch memory. */
int64_t scratch(int64_t N, int64_t Y, int64_t X, int64_t K, int64_t C, int threads)
{
    const Plan p = plan_of(N, Y, X, K, C, threads);
    return K + (p.own ? threads : 1) * POINTS * p.chunk * (K + p.width);
}

void conv3x3(const float *h, const float *w, const float *b, const float *e, float *y, float *room, int64_t N,
             int64_t H, int64_t W, int64_t K, int64_t C, int64_t py, int64_t px, int relu, int threads)
{
    const int64_t Y = H + 2 * py - 2, X = W + 2 * px - 2;
    const Plan p = plan_of(N, Y, X, K, C, threads);
    const int64_t T = p.chunk, chunks = T ? (p.tiles + T - 1) / T : 0;
    float *zeros = room;
    memset(zeros, 0, K * sizeof *zeros);
    /* Two barriers per chunk are enough: a thread that is ahead writes v, which no thread reads by then, and waits. */
#pragma omp parallel num_threads(threads)
    {
        const int id = omp_get_thread_num(), all = omp_get_num_threads();
        const int64_t part = p.own ? 0 : id, parts = p.own ? 1 : all, items = POINTS * p.panels;
        float *v = room + K + (p.own ? id : 0) * POINTS * T * (K + p.width), *m = v + POINTS * T * K;
        for (int64_t i = p.own ? id : 0; i < chunks; i += p.own ? all : 1) {
            const int64_t first = i * T, n = p.tiles - first < T ? p.tiles - first : T;
            for (int64_t t = part; t < n; t += parts) {
                int64_t image = (first + t) / (p.down * p.across), at = (first + t) % (p.down * p.across);
                tile_in(h + image * H * W * K, zeros, v + t * K, T * K, H, W, K, at / p.across * OUT - py,
                        at % p.across * OUT - px);
            }
            if (!p.own) {
#pragma omp barrier
            }
            for (int64_t j = items * part / parts; j < items * (part + 1) / parts; j++) {
                int64_t a = j / p.panels, c = j % p.panels * NR;
                point(n, v + a * T * K, w + j * K * NR, m + a * T * p.width + c, K, p.width);
            }
            if (!p.own) {
#pragma omp barrier
            }
            for (int64_t t = part; t < n; t += parts) {
                int64_t image = (first + t) / (p.down * p.across), at = (first + t) % (p.down * p.across);
                int64_t to = image * Y * X * C;
                tile_out(m + t * p.width, T * p.width, b, e ? e + to : NULL, y + to, Y, X, C, at / p.across * OUT,
                         at % p.across * OUT, relu);
            }
        }
    }
}
