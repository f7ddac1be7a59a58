/* Vectors of float32 by extensions of GCC and Clang, as wide as this machine's registers, and a tile of a matrix product
   that stays in registers. */

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#ifdef __AVX512F__
enum { LANES = 16, ROWS = 12 }; /* 24 of the 32 registers accumulate */
#else
enum { LANES = 8, ROWS = 6 };   /* 12 of 16 */
#endif
enum { NR = 2 * LANES };        /* the width of a panel of weights */

typedef float floats __attribute__((vector_size(LANES * 4)));
typedef int32_t ints __attribute__((vector_size(LANES * 4)));

INLINE floats load(const float *p) { floats v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, floats v) { memcpy(p, &v, sizeof v); }
INLINE floats positive(floats v) { return (floats)((ints)v & ~(v < 0)); } /* keeps NaN, as torch does */

/* acc[i] = sum_k h[i][k] w[k], rows of h `step` apart, w a panel [K][NR]; `rows` is a constant where it is inlined. */
INLINE void product(const int rows, const float *h, const float *w, int64_t step, int64_t K, floats acc[ROWS][2])
{
    for (int i = 0; i < rows; i++) acc[i][0] = acc[i][1] = (floats){0};
    for (int64_t k = 0; k < K; k++) {
        floats w0 = load(w + k * NR), w1 = load(w + k * NR + LANES);
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            float a = h[i * step + k];
            acc[i][0] += a * w0;
            acc[i][1] += a * w1;
        }
    }
}

/* EACH(n) for every number of rows, so that it is a constant to the compiler. */
#ifdef __AVX512F__
#define FOR_ROWS(EACH) \
    EACH(1) EACH(2) EACH(3) EACH(4) EACH(5) EACH(6) EACH(7) EACH(8) EACH(9) EACH(10) EACH(11) EACH(12)
#else
#define FOR_ROWS(EACH) EACH(1) EACH(2) EACH(3) EACH(4) EACH(5) EACH(6)
#endif
