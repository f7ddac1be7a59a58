/* A unit, float32: the squeeze of channels-last feature maps u (N, P positions, C), gates by two fully connected layers,
   and the scaling of u by gates, with a sum and an activation.

       z[n][c] = mean_p u[n][p][c],    y[n][p][c] = act(s[n][c] u[n][p][c] + e[n][p][c])
       t[r] = act(sum_c w1[r][c] z[c] + b1[r]),    s[c] = gate(sum_r w2[r][c] t[r] + b2[c])

   or, of a unit that convolves its channels (ECA),    s[c] = gate(sum_i w[i] z[c + i - k / 2]).   z (N, K), w1 (R, K), w2 (R, C), s (N, C), t (N, R) to work in; b1, b2 and e may be NULL, and y may be e or u. */

#include "floats.h"
#include "threads.h"

#ifdef __AVX512F__
#define MANY 1
enum { MOST = 12 };
#else
#define MANY 0
enum { MOST = 6 };
#endif
enum { WIDTH = MOST * LANES, ROUND = 64, BAND = 64 };

/* Sums of ROUND positions are added up, for less rounding; a thread has channels of its own. */
INLINE void mean(const float *u, float *z, int64_t P, int64_t C, const int vectors, int64_t of)
{
    floats sum[MOST];
#pragma GCC unroll 12
    for (int i = 0; i < vectors; i++) sum[i] = (floats){0};
    for (int64_t p = 0; p < P; p += ROUND) {
        const float *at = u + p * C, *end = u + (p + ROUND < P ? p + ROUND : P) * C;
        floats part[MOST];
#pragma GCC unroll 12
        for (int i = 0; i < vectors; i++) part[i] = (floats){0};
        for (; at < end; at += C)
#pragma GCC unroll 12
            for (int i = 0; i < vectors; i++)
                part[i] += i < vectors - 1 ? load(at + i * LANES) : load_part(at + i * LANES, of - i * LANES);
#pragma GCC unroll 12
        for (int i = 0; i < vectors; i++) sum[i] += part[i];
    }
#pragma GCC unroll 12
    for (int i = 0; i < vectors; i++) store_part(z + i * LANES, sum[i] / (float)P, of - i * LANES);
}

static void means(const void *context, Work *work)
{
    const int64_t *a = context;
    const float *u = (const float *)a[0];
    float *z = (float *)a[1];
    const int64_t P = a[3], C = a[4], blocks = (C + WIDTH - 1) / WIDTH;
    for (int64_t i; (i = work->next(work)) >= 0;) {
        const int64_t n = i / blocks, c = i % blocks * WIDTH, of = C - c < WIDTH ? C - c : WIDTH;
        const float *from = u + n * P * C + c;
        float *to = z + n * C + c;
        switch ((of + LANES - 1) / LANES) {
#define EACH(v) case v: mean(from, to, P, C, v, of); break;
        EACH(1) EACH(2) EACH(3) EACH(4) EACH(5) EACH(6)
#if MANY
        EACH(7) EACH(8) EACH(9) EACH(10) EACH(11) EACH(12)
#endif
#undef EACH
        }
    }
}

void global_mean(const int64_t *a, Parallel *parallel)
{
    const int64_t N = a[2], P = a[3], C = a[4];
    parallel(N * P * C > 65536 ? (int)a[5] : 1, N * ((C + WIDTH - 1) / WIDTH), means, a);
}

static float activated1(float v, int act) { return activated((floats){0} + v, act)[0]; }

static void all_gates(const void *context, Work *work)
{
    const int64_t *a = context;
    const float *z = (const float *)a[0], *w1 = (const float *)a[1], *b1 = (const float *)a[2];
    const float *w2 = (const float *)a[3], *b2 = (const float *)a[4];
    float *s = (float *)a[5], *t = (float *)a[6];
    const int64_t K = a[8], R = a[9], C = a[10];
    const int act = (int)a[11], gate = (int)a[12];
    for (int64_t n; (n = work->next(work)) >= 0;) {
        for (int64_t r = 0; r < R; r++) {
            floats sum[4] = {{0}};
            int64_t k = 0;
            for (; k + 4 * LANES <= K; k += 4 * LANES)
                for (int i = 0; i < 4; i++)
                    sum[i] += load(z + n * K + k + i * LANES) * load(w1 + r * K + k + i * LANES);
            for (; k < K; k += LANES) sum[0] += load_part(z + n * K + k, K - k) * load_part(w1 + r * K + k, K - k);
            sum[0] = sum[0] + sum[1] + (sum[2] + sum[3]);
            float of = b1 ? b1[r] : 0;
            for (int i = 0; i < LANES; i++) of += sum[0][i];
            t[n * R + r] = activated1(of, act);
        }
        /* Rows of w2 are read in order, four at a time: they come from memory. */
        float *to = s + n * C;
        if (b2) memcpy(to, b2, C * sizeof *to);
        else memset(to, 0, C * sizeof *to);
        for (int64_t r = 0; r < R; r += 4) {
            const float *w = w2 + r * C, *of = t + n * R + r;
            if (R - r >= 4)
                for (int64_t c = 0; c < C; c += LANES) {
                    floats sum = load_part(to + c, C - c);
                    for (int i = 0; i < 4; i++) sum += of[i] * load_part(w + i * C + c, C - c);
                    store_part(to + c, sum, C - c);
                }
            else
                for (int64_t i = 0; i < R - r; i++)
                    for (int64_t c = 0; c < C; c += LANES)
                        store_part(to + c, load_part(to + c, C - c) + of[i] * load_part(w + i * C + c, C - c), C - c);
        }
        for (int64_t c = 0; c < C; c += LANES) store_part(to + c, activated(load_part(to + c, C - c), gate), C - c);
    }
}

void gates(const int64_t *a, Parallel *parallel) { parallel((int)a[13], a[7], all_gates, a); }

/* `t` is z between zeros, (k / 2) + C + (k / 2) + LANES. */
void channel_gates(const int64_t *a, Parallel *parallel)
{
    (void)parallel;
    const float *z = (const float *)a[0], *w = (const float *)a[1];
    float *s = (float *)a[2], *t = (float *)a[3];
    const int64_t N = a[4], C = a[5], k = a[6];
    const int gate = (int)a[7];
    memset(t, 0, (2 * (k / 2) + C + LANES) * sizeof *t);
    for (int64_t n = 0; n < N; n++) {
        memcpy(t + k / 2, z + n * C, C * sizeof *t);
        for (int64_t c = 0; c < C; c += LANES) {
            floats sum = {0};
            for (int64_t i = 0; i < k; i++) sum += w[i] * load(t + c + i);
            store_part(s + n * C + c, activated(sum, gate), C - c);
        }
    }
}

/* A row of `n` vectors: of all positions of one image in turn, and a part of one at its end. */
static void bands(const void *context, Work *work)
{
    const int64_t *a = context;
    const float *u = (const float *)a[0], *s = (const float *)a[1], *e = (const float *)a[2];
    float *y = (float *)a[3];
    const int64_t P = a[5], C = a[6], count = (P + BAND - 1) / BAND;
    const int act = (int)a[7];
    for (int64_t i; (i = work->next(work)) >= 0;) {
        const int64_t n = i / count, first = i % count * BAND, last = first + BAND < P ? first + BAND : P;
        for (int64_t p = first; p < last; p++) {
            const int64_t at = (n * P + p) * C;
            int64_t c = 0;
            for (; c + 4 * LANES <= C; c += 4 * LANES) {
                floats v[4];
                for (int i = 0; i < 4; i++) v[i] = load(u + at + c + i * LANES) * load(s + n * C + c + i * LANES);
                if (e)
                    for (int i = 0; i < 4; i++) v[i] += load(e + at + c + i * LANES);
                activate(v, 4, act);
                for (int i = 0; i < 4; i++) store(y + at + c + i * LANES, v[i]);
            }
            for (; c < C; c += LANES) {
                floats v = load_part(u + at + c, C - c) * load_part(s + n * C + c, C - c);
                if (e) v += load_part(e + at + c, C - c);
                store_part(y + at + c, activated(v, act), C - c);
            }
        }
    }
}

void gated(const int64_t *a, Parallel *parallel)
{
    const int64_t N = a[4], P = a[5], C = a[6];
    parallel(N * P * C > 65536 ? (int)a[8] : 1, N * ((P + BAND - 1) / BAND), bands, a);
}
