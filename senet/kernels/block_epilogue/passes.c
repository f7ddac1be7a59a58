/* The passes of the fused block epilogue over dense float32 feature maps. reference.py defines each.

   A feature map is images x positions x channels, channels last. A contiguous one (N, C, P) is passed as N C images of
   one channel. C is the number of channels in both cases. Vectors (C) and arrays (N, C) may be NULL where they may be
   None in reference.py.

   A task is some positions and at most LANES channels of one image. It runs row by row, and the loop over the lanes of
   a row is what the compiler makes vectors of. Where channels are few, a row is several positions, and `fold` adds up
   the lanes of a channel. Sums are of a task first, so they do not depend on the threads. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 1024, SHORT = 128, PLANE = 256, TASK = 1 << 15 };

#define INLINE static inline __attribute__((always_inline))

typedef struct {
    int64_t images, positions, channels, C;
    int64_t copies; /* positions in a row */
    int64_t step;   /* positions in a task */
    int64_t chunks, blocks, size;
    int threads;
} Map;

static Map map_of(int64_t images, int64_t positions, int64_t channels, int64_t C, int threads)
{
    Map m = {.images = images, .positions = positions, .channels = channels, .C = C, .copies = 1};
    if (channels == 1) m.copies = PLANE;
    else if (channels < SHORT) m.copies = (SHORT + channels - 1) / channels;
    m.step = TASK / (channels < LANES ? channels : LANES) / m.copies * m.copies;
    m.chunks = (positions + m.step - 1) / m.step;
    m.blocks = (channels + LANES - 1) / LANES;
    m.size = images * channels;
    m.threads = m.size * positions < TASK ? 1 : threads;
    return m;
}

typedef struct {
    int64_t start, rows, stride, lanes, rest; /* `rows` rows of `lanes` lanes, then one of `rest` */
    int64_t width, positions;
    int64_t f, c;                             /* first channel, counted over all images, and within its own */
    int64_t chunk;
} Part;

static Part part_of(const Map *m, int64_t task)
{
    int64_t block = task % m->blocks, chunk = task / m->blocks % m->chunks, image = task / m->blocks / m->chunks;
    int64_t c = block * LANES, width = m->channels - c < LANES ? m->channels - c : LANES;
    int64_t from = chunk * m->step, n = m->positions - from < m->step ? m->positions - from : m->step;
    int64_t f = image * m->channels + c;
    return (Part){
        .start = (image * m->positions + from) * m->channels + c, .stride = m->channels * m->copies,
        .rows = n / m->copies, .lanes = m->copies * width, .rest = n % m->copies * width,
        .width = width, .positions = n, .f = f, .c = f % m->C, .chunk = chunk,
    };
}

#define FOR_PARTS(m, p) \
    _Pragma("omp parallel for schedule(static) num_threads((m).threads)") \
    for (int64_t task = 0; task < (m).images * (m).chunks * (m).blocks; task++) \
        for (Part p = part_of(&(m), task), *once = &p; once; once = NULL)

#define FOR_LANES(p, i, l) \
    for (int64_t row = 0, i = (p).start, n; n = row < (p).rows ? (p).lanes : (p).rest, row <= (p).rows; \
         row++, i += (p).stride) \
        for (int64_t l = 0; l < n; l++)

/* Copy the first `width` lanes into all others. With one channel the loops read v[0] only. */
static void spread(float *v, const Map *m, const Part *p)
{
    if (m->channels > 1)
        for (int64_t l = p->width; l < p->lanes; l++) v[l] = v[l - p->width];
}

/* Reduce the lanes of each channel into its first lane: their sum or maximum. */
INLINE void fold(const int maximum, float *v, const Part *p)
{
    for (int64_t copies = p->lanes / p->width; copies > 1;) {
        int64_t half = copies / 2, n = half * p->width, upper = (copies - half) * p->width;
        for (int64_t l = 0; l < n; l++) {
            float w = v[l + upper];
            v[l] = !maximum ? v[l] + w : w > v[l] || w != w ? w : v[l];
        }
        copies -= half;
    }
}

/* s (a (x - mu) + beta) = gain (x - mu) + shift */
typedef struct {
    float mu[LANES], gain[LANES], shift[LANES];
} Affine;

static void affine_of(Affine *f, const Map *m, const Part *p, const float *mu, const float *a, const float *beta,
                      const float *s)
{
    for (int64_t c = 0; c < p->width; c++) {
        float gate = s ? s[p->f + c] : 1;
        f->mu[c] = mu ? mu[p->c + c] : 0;
        f->gain[c] = a ? a[p->c + c] * gate : gate;
        f->shift[c] = beta ? beta[p->c + c] * gate : 0;
    }
    spread(f->mu, m, p);
    spread(f->gain, m, p);
    spread(f->shift, m, p);
}

/* Below, `own` is 0 if all lanes belong to one channel, else 1. */

/* Subtracting the task's mean keeps the digits of the sum of squares. x is in cache the second time. */
INLINE void moments_part(const int own, const Map *m, Part p, const float *restrict x, float *restrict center,
                         float *restrict s1, float *restrict s2)
{
    for (int64_t l = 0; l < p.lanes; l++) s1[l] = 0;
    FOR_LANES(p, i, l) s1[l] += x[i + l];
    fold(0, s1, &p);
    for (int64_t c = 0; c < p.width; c++) center[c] = s1[c] / p.positions;
    spread(center, m, &p);
    for (int64_t l = 0; l < p.lanes; l++) s1[l] = s2[l] = 0;
    FOR_LANES(p, i, l) {
        float v = x[i + l] - center[l * own];
        s1[l] += v;
        s2[l] += v * v;
    }
    fold(0, s1, &p);
    fold(0, s2, &p);
}

INLINE void extremum_part(const int own, Part p, const float *restrict x, const float *restrict sign,
                          float *restrict most)
{
    for (int64_t l = 0; l < p.lanes; l++) most[l] = -INFINITY;
    FOR_LANES(p, i, l) {
        float v = x[i + l] * sign[l * own];
        most[l] = v > most[l] || v != v ? v : most[l];
    }
    fold(1, most, &p);
}

/* Results of tasks are merged by Chan's formula. */
void moments(const float *x, const float *sign, float *mean, float *m2, float *extremum,
             int64_t images, int64_t positions, int64_t channels, int64_t C, int threads)
{
    Map m = map_of(images, positions, channels, C, threads);
    float *parts = malloc(m.chunks * m.size * 3 * sizeof *parts);
    FOR_PARTS(m, p) {
        float s1[LANES], s2[LANES], center[LANES], *out = parts + p.chunk * m.size * 3 + p.f;
        if (channels == 1) moments_part(0, &m, p, x, center, s1, s2);
        else moments_part(1, &m, p, x, center, s1, s2);
        for (int64_t c = 0; c < p.width; c++) {
            float off = s1[c] / p.positions;
            out[c] = center[c] + off;
            out[c + m.size] = s2[c] - s1[c] * off;
        }
        if (!sign) continue;
        for (int64_t c = 0; c < p.width; c++) center[c] = sign[p.c + c] < 0 ? -1 : 1;
        spread(center, &m, &p);
        if (channels == 1) extremum_part(0, p, x, center, s1);
        else extremum_part(1, p, x, center, s1);
        memcpy(out + 2 * m.size, s1, p.width * sizeof *out);
    }
#pragma omp parallel for schedule(static) num_threads(m.threads)
    for (int64_t f = 0; f < m.size; f++) {
        double average = 0, squares = 0, seen = 0;
        float most = -INFINITY;
        for (int64_t k = 0; k < m.chunks; k++) {
            const float *part = parts + k * m.size * 3 + f;
            double now = positions - k * m.step < m.step ? positions - k * m.step : m.step;
            double off = part[0] - average, share = now / (seen + now);
            squares += part[m.size] + off * off * seen * share;
            average += off * share;
            seen += now;
            if (sign) most = part[2 * m.size] > most || isnan(part[2 * m.size]) ? part[2 * m.size] : most;
        }
        mean[f] = average;
        m2[f] = squares;
        if (sign) extremum[f] = sign[f % C] < 0 ? -most : most;
    }
    free(parts);
}

INLINE void apply_part(const int own, const int sum, Part p, const float *restrict x, const float *restrict e,
                       const Affine *restrict f, float low, float *restrict y)
{
    FOR_LANES(p, i, l) {
        float v = f->gain[l * own] * (x[i + l] - f->mu[l * own]) + f->shift[l * own];
        if (sum) v += e[i + l];
        y[i + l] = v < low ? low : v; /* keeps NaN, as torch does */
    }
}

void apply(const float *x, const float *e, const float *mu, const float *a, const float *beta, const float *s, float *y,
           int64_t images, int64_t positions, int64_t channels, int64_t C, int relu, int threads)
{
    Map m = map_of(images, positions, channels, C, threads);
    float low = relu ? 0 : -INFINITY;
    FOR_PARTS(m, p) {
        Affine f;
        affine_of(&f, &m, &p, mu, a, beta, s);
        if (channels == 1) {
            if (e) apply_part(0, 1, p, x, e, &f, low, y);
            else apply_part(0, 0, p, x, e, &f, low, y);
        } else {
            if (e) apply_part(1, 1, p, x, e, &f, low, y);
            else apply_part(1, 0, p, x, e, &f, low, y);
        }
    }
}

/* What masks g. */
enum { NOTHING, Y, X };

INLINE void reduce_part(const int own, const int by, const int keep, Part p, const float *restrict g,
                        const float *restrict x, const float *restrict y, const Affine *restrict f,
                        float *restrict t, float *restrict s0, float *restrict s1)
{
    for (int64_t l = 0; l < p.lanes; l++) s0[l] = s1[l] = 0;
    FOR_LANES(p, i, l) {
        float v = x[i + l] - f->mu[l * own], d = g[i + l];
        if (by == Y) d = y[i + l] <= 0 ? 0 : d; /* keeps d where y is NaN, as torch does */
        if (by == X) d = f->gain[l * own] * v + f->shift[l * own] <= 0 ? 0 : d;
        if (keep) t[i + l] = d;
        s0[l] += d;
        s1[l] += d * v;
    }
    fold(0, s0, &p);
    fold(0, s1, &p);
}

INLINE void reduce_kind(const int own, Part p, const float *g, const float *x, const float *y, const Affine *f,
                        int relu, float *t, float *s0, float *s1)
{
    if (!relu) reduce_part(own, NOTHING, 0, p, g, x, y, f, t, s0, s1);
    else if (y && t) reduce_part(own, Y, 1, p, g, x, y, f, t, s0, s1);
    else if (y) reduce_part(own, Y, 0, p, g, x, y, f, t, s0, s1);
    else if (t) reduce_part(own, X, 1, p, g, x, y, f, t, s0, s1);
    else reduce_part(own, X, 0, p, g, x, y, f, t, s0, s1);
}

INLINE void ties_part(const int own, Part p, const float *restrict x, const float *restrict extremum,
                      float *restrict ties)
{
    for (int64_t l = 0; l < p.lanes; l++) ties[l] = 0;
    FOR_LANES(p, i, l) ties[l] += x[i + l] == extremum[l * own] ? 1 : 0;
    fold(0, ties, &p);
}

void reduce(const float *g, const float *x, const float *y, const float *mu, const float *a, const float *beta,
            const float *s, const float *extremum, float *t, float *T0, float *T1, float *ties,
            int64_t images, int64_t positions, int64_t channels, int64_t C, int relu, int threads)
{
    Map m = map_of(images, positions, channels, C, threads);
    float *parts = malloc(m.chunks * m.size * 3 * sizeof *parts);
    FOR_PARTS(m, p) {
        Affine f;
        float s0[LANES], s1[LANES], *out = parts + p.chunk * m.size * 3 + p.f;
        affine_of(&f, &m, &p, mu, a, beta, s);
        if (channels == 1) reduce_kind(0, p, g, x, y, &f, relu, t, s0, s1);
        else reduce_kind(1, p, g, x, y, &f, relu, t, s0, s1);
        memcpy(out, s0, p.width * sizeof *out);
        memcpy(out + m.size, s1, p.width * sizeof *out);
        if (!extremum) continue;
        memcpy(s0, extremum + p.f, p.width * sizeof *s0);
        spread(s0, &m, &p);
        if (channels == 1) ties_part(0, p, x, s0, s1);
        else ties_part(1, p, x, s0, s1);
        memcpy(out + 2 * m.size, s1, p.width * sizeof *out);
    }
#pragma omp parallel for schedule(static) num_threads(m.threads)
    for (int64_t f = 0; f < m.size; f++) {
        double sum[3] = {0, 0, 0};
        for (int64_t k = 0; k < m.chunks; k++)
            for (int i = 0; i < (extremum ? 3 : 2); i++) sum[i] += parts[(k * 3 + i) * m.size + f];
        T0[f] = sum[0];
        T1[f] = sum[1];
        if (extremum) ties[f] = sum[2];
    }
    free(parts);
}

INLINE void input_part(const int own, const int by, Part p, const float *restrict t, const float *restrict x,
                       const Affine *restrict f, const float *restrict gain, const float *restrict shift,
                       const float *restrict slope, float *restrict dx)
{
    FOR_LANES(p, i, l) {
        float v = x[i + l] - f->mu[l * own], d = t[i + l];
        if (by == X) d = f->gain[l * own] * v + f->shift[l * own] <= 0 ? 0 : d;
        dx[i + l] = gain[l * own] * d + shift[l * own] - slope[l * own] * v;
    }
}

INLINE void extremum_gradient_part(const int own, Part p, const float *restrict x, const float *restrict extremum,
                                   const float *restrict share, float *restrict dx)
{
    FOR_LANES(p, i, l) dx[i + l] += x[i + l] == extremum[l * own] ? share[l * own] : 0;
}

void input_gradient(const float *t, const float *x, const float *mu, const float *a, const float *beta, const float *s,
                    const float *r, const float *dz, const float *extremum, const float *ties, const float *b0,
                    const float *b1, float *dx,
                    int64_t images, int64_t positions, int64_t channels, int64_t C, int64_t count, int relu,
                    int threads)
{
    Map m = map_of(images, positions, channels, C, threads);
    FOR_PARTS(m, p) {
        Affine f;
        float shift[LANES], slope[LANES];
        affine_of(&f, &m, &p, mu, a, beta, s);
        for (int64_t c = 0; c < p.width; c++) {
            int64_t k = p.c + c;
            float gain = a ? a[k] : 1;
            shift[c] = gain * ((dz && !extremum ? dz[p.f + c] / positions : 0) - (b0 ? b0[k] / count : 0));
            slope[c] = b1 ? gain * r[k] * r[k] * (b1[k] / count) : 0;
        }
        spread(shift, &m, &p);
        spread(slope, &m, &p);
        if (channels == 1 && relu) input_part(0, X, p, t, x, &f, f.gain, shift, slope, dx);
        else if (channels == 1) input_part(0, NOTHING, p, t, x, &f, f.gain, shift, slope, dx);
        else if (relu) input_part(1, X, p, t, x, &f, f.gain, shift, slope, dx);
        else input_part(1, NOTHING, p, t, x, &f, f.gain, shift, slope, dx);
        if (!extremum || !dz) continue;
        memcpy(slope, extremum + p.f, p.width * sizeof *slope);
        for (int64_t c = 0; c < p.width; c++) shift[c] = (a ? a[p.c + c] : 1) * (dz[p.f + c] / ties[p.f + c]);
        spread(shift, &m, &p);
        spread(slope, &m, &p);
        if (channels == 1) extremum_gradient_part(0, p, x, slope, shift, dx);
        else extremum_gradient_part(1, p, x, slope, shift, dx);
    }
}

/* The small passes, over (N, C) and (C) numbers. */

void combine(const float *mean, const float *m2, float *mu, float *var, int64_t N, int64_t C, int64_t positions)
{
    for (int64_t c = 0; c < C; c++) {
        double average = 0, within = 0, between = 0;
        for (int64_t f = c; f < N * C; f += C) average += mean[f], within += m2[f];
        average /= N;
        for (int64_t f = c; f < N * C; f += C) between += (mean[f] - average) * (mean[f] - average);
        mu[c] = average;
        var[c] = (within / positions + between) / N;
    }
}

void normalise(const float *z0, const float *mu, const float *var, const float *gamma, const float *beta, float *r,
               float *a, float *z, int64_t N, int64_t C, double eps)
{
    for (int64_t c = 0; c < C; c++) {
        r[c] = 1 / sqrt(var[c] + eps);
        a[c] = gamma ? gamma[c] * r[c] : r[c];
    }
    for (int64_t n = 0; z0 && n < N; n++)
        for (int64_t c = 0; c < C; c++) z[n * C + c] = a[c] * (z0[n * C + c] - mu[c]) + (beta ? beta[c] : 0);
}

void gate_gradient(const float *T0, const float *T1, const float *a, const float *beta, float *ds, int64_t N, int64_t C)
{
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0, f = n * C; c < C; c++, f++)
            ds[f] = (a ? a[c] : 1) * T1[f] + (beta ? beta[c] * T0[f] : 0);
}

void sums(const float *T0, const float *T1, const float *s, const float *dz, const float *z0, const float *mu,
          float *b0, float *b1, int64_t N, int64_t C)
{
    for (int64_t c = 0; c < C; c++) {
        double u = 0, v = 0;
        for (int64_t f = c; f < N * C; f += C) {
            double gate = s ? s[f] : 1, d = dz ? dz[f] : 0;
            u += gate * T0[f] + d;
            v += gate * T1[f] + (dz ? d * (z0[f] - mu[c]) : 0);
        }
        b0[c] = u;
        b1[c] = v;
    }
}
