/* 1x1 convolution of channels-last feature maps with the end of an SE block as its epilogue, float32:

       y[m][c] = relu(s[n][c] * (sum_k h[m][k] w[k][c] + b[c]) + e[m][c])

   over positions m = 0..M-1, P per image, n = m / P. The wide feature map is written once and never read back: each tile
   is finished in registers. y may be e.

   w is packed: panels of NR channels, each [k][NR], the last one padded with zeros; b, s and e may be NULL. */

#include "floats.h"

/* One tile: `rows` positions by one panel; `rows` and `cut` are constants where it is inlined. */
INLINE void tile(
    const int rows, const int cut, const float *h, const float *w, const float *b, const float *s, const float *e,
    float *y, int64_t m, int64_t P, int64_t K, int64_t C, int64_t width, int relu)
{
    floats acc[ROWS][2];
    if (e) /* loads while the sums are computed */
        for (int i = 0; i < rows; i++) {
            __builtin_prefetch(e + i * C, 1);
            __builtin_prefetch(e + i * C + LANES, 1);
        }
    product(rows, h, w, K, K, acc);
    for (int i = 0; i < rows; i++) {
        const float *gate = s ? s + (m + i) / P * C : NULL;
        if (cut) {
            for (int64_t c = 0; c < width; c++) {
                float v = acc[i][c / LANES][c % LANES] + (b ? b[c] : 0);
                if (gate) v *= gate[c];
                if (e) v += e[i * C + c];
                y[i * C + c] = relu && v < 0 ? 0 : v;
            }
            continue;
        }
        for (int j = 0; j < 2; j++) {
            floats v = acc[i][j];
            if (b) v += load(b + j * LANES);
            if (gate) v *= load(gate + j * LANES);
            if (e) v += load(e + i * C + j * LANES);
            store(y + i * C + j * LANES, relu ? positive(v) : v);
        }
    }
}

static void cut_tile(int rows, const float *h, const float *w, const float *b, const float *s, const float *e, float *y,
                     int64_t m, int64_t P, int64_t K, int64_t C, int64_t width, int relu)
{
    for (int i = 0; i < rows; i++)
        tile(1, 1, h + i * K, w, b, s, e ? e + i * C : NULL, y + i * C, m + i, P, K, C, width, relu);
}

static void any_tile(int rows, const float *h, const float *w, const float *b, const float *s, const float *e, float *y,
                     int64_t m, int64_t P, int64_t K, int64_t C, int relu)
{
#define EACH(n) case n: tile(n, 0, h, w, b, s, e, y, m, P, K, C, NR, relu); break;
    switch (rows) { FOR_ROWS(EACH) }
#undef EACH
}

int panel(void) { return NR; }

void conv1x1(const float *h, const float *w, const float *b, const float *s, const float *e, float *y,
             int64_t M, int64_t P, int64_t K, int64_t C, int relu, int threads)
{
    /* Few weights fit every core's cache: threads share the positions. Few positions: threads share the panels. Else
       blocks of both. */
    const int64_t panels = (C + NR - 1) / NR, weights = panels * NR * K, fit = 65536 / (NR * K);
    const int few = weights <= 131072, flat = !few && M * K <= 262144;
    const int64_t block = few ? 2 * ROWS : flat ? M : 8 * ROWS, group = few ? panels : flat || fit < 1 ? 1 : fit;
    const int64_t blocks = (M + block - 1) / block, groups = (panels + group - 1) / group;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t i = 0; i < blocks; i++)
        for (int64_t g = 0; g < groups; g++) {
            int64_t to = (i + 1) * block < M ? (i + 1) * block : M;
            int64_t last = (g + 1) * group < panels ? (g + 1) * group : panels;
            for (int64_t p = g * group; p < last; p++)
                for (int64_t m = i * block; m < to; m += ROWS) {
                    int rows = to - m < ROWS ? (int)(to - m) : ROWS;
                    int64_t c = p * NR, width = C - c;
                    const float *bc = b ? b + c : NULL, *sc = s ? s + c : NULL, *ec = e ? e + m * C + c : NULL;
                    if (width < NR)
                        cut_tile(rows, h + m * K, w + p * K * NR, bc, sc, ec, y + m * C + c, m, P, K, C, width, relu);
                    else
                        any_tile(rows, h + m * K, w + p * K * NR, bc, sc, ec, y + m * C + c, m, P, K, C, relu);
                }
        }
}
