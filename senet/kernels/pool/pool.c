/* Pooling of channels-last feature maps over windows, float32:

       y[n][i][j][c] = max or mean over a, b of h[n][i sy + a - py][j sx + b - px][c]

   h (N, H, W, C), y (N, Y, X, C). A maximum is over what lies inside of h, and NaN if one of it is. A mean is divided by the
   numbers inside of h, or, if `counts`, by those inside of h and its padding. */

#include "floats.h"
#include "threads.h"

enum { MANY = 4 };

/* NaN of either is kept. */
INLINE floats most(floats a, floats b)
{
    const ints is_b = (ints)(b > a) | (ints)(b != b);
    return (floats)(((ints)a & ~is_b) | ((ints)b & is_b));
}

/* `vectors` of a window of `height` rows, `down` apart, by `width` positions, C apart, of which n numbers count. */
INLINE void window(const int vectors, const int is_mean, const float *h, int64_t height, int64_t width, int64_t down,
                   int64_t C, int64_t n, float divisor, float *y)
{
    floats v[MANY];
    for (int i = 0; i < vectors; i++) v[i] = is_mean ? (floats){0} : load_part(h + i * LANES, n - i * LANES);
    for (int64_t a = 0; a < height; a++)
        for (int64_t b = 0; b < width; b++) {
            const float *from = h + a * down + b * C;
            for (int i = 0; i < vectors; i++) {
                const floats one = i < vectors - 1 ? load(from + i * LANES) : load_part(from + i * LANES, n - i * LANES);
                v[i] = is_mean ? v[i] + one : most(v[i], one);
            }
        }
    for (int i = 0; i < vectors; i++)
        store_part(y + i * LANES, is_mean ? v[i] / divisor : v[i], n - i * LANES);
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void rows(const void *context, Work *work)
{
    const int64_t *a = context;
    const float *h = (const float *)a[0];
    float *y = (float *)a[1];
    const int64_t H = a[3], W = a[4], C = a[5], Y = a[6], X = a[7], A = a[8], B = a[9], sy = a[10], sx = a[11];
    const int64_t py = a[12], px = a[13], is_mean = a[14], counts = a[15];
    for (int64_t row; (row = work->next(work)) >= 0;)
        for (int64_t j = 0; j < X; j++) {
            const int64_t n = row / Y, top = row % Y * sy - py, left = j * sx - px;
            const int64_t up = top > 0 ? top : 0, west = left > 0 ? left : 0;
            const int64_t height = least(top + A, H) - up, width = least(left + B, W) - west;
            const int64_t all = (least(top + A, H + py) - top) * (least(left + B, W + px) - left);
            const float divisor = (float)(counts ? all : height * width), *from = h + ((n * H + up) * W + west) * C;
            float *to = y + (row * X + j) * C;
            for (int64_t c = 0; c < C; c += MANY * LANES)
                switch (least((C - c + LANES - 1) / LANES, MANY) * 2 + is_mean) {
#define EACH(v) \
    case v * 2: window(v, 0, from + c, height, width, W * C, C, C - c, divisor, to + c); break; \
    case v * 2 + 1: window(v, 1, from + c, height, width, W * C, C, C - c, divisor, to + c); break;
                    EACH(1) EACH(2) EACH(3) EACH(4)
#undef EACH
                }
        }
}

void pool(const int64_t *a, Parallel *parallel)
{
    const int64_t N = a[2], C = a[5], Y = a[6], X = a[7];
    parallel(N * Y * X * C > 16384 ? (int)a[16] : 1, N * Y, rows, a);
}

/* act(h), of M positions and c channels, into the channels of y (M, C) from `at` on. */
enum { POSITIONS = 64 };

static void copied(const void *context, Work *work)
{
    const int64_t *a = context, M = a[2], c = a[3], C = a[4], at = a[5];
    const float *h = (const float *)a[0];
    float *y = (float *)a[1];
    const int act = (int)a[6];
    for (int64_t i; (i = work->next(work)) >= 0;)
        for (int64_t m = i * POSITIONS; m < M && m < (i + 1) * POSITIONS; m++)
            for (int64_t k = 0; k < c; k += LANES)
                store_part(y + m * C + at + k, activated(load_part(h + m * c + k, c - k), act), c - k);
}

void place(const int64_t *a, Parallel *parallel)
{
    const int64_t M = a[2], c = a[3];
    parallel(M * c > 65536 ? (int)a[7] : 1, (M + POSITIONS - 1) / POSITIONS, copied, a);
}
