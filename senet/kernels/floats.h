/* Vectors of float32 by extensions of GCC and Clang, as wide as this machine's registers, activations, and a tile of a
   matrix product that stays in registers. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

#ifdef __AVX512F__
enum { LANES = 16, ROWS = 12 }; /* 24 of the 32 registers accumulate */
#else
enum { LANES = 8, ROWS = 6 };   /* 12 of 16 */
#endif
enum { NR = 2 * LANES };        /* the width of a panel of weights */

typedef float floats __attribute__((vector_size(LANES * 4)));
typedef int32_t ints __attribute__((vector_size(LANES * 4)));

/* Rows of n floats that follow each other collide in a first cache of 4 KiB ways, which then keeps a few of a tile; whether
   they do, and how far apart rows are that do not. */
INLINE int collide(int64_t n) { return n % 1024 == 0; }
INLINE int64_t apart(int64_t n) { return collide(n) ? n + LANES : n; }

INLINE floats load(const float *p) { floats v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, floats v) { memcpy(p, &v, sizeof v); }
/* Else the compiler reads a number of memory again for each product. */
#ifdef __AVX__
#define IN_REGISTER(number) __asm__("" : "+v"(number))
#else
#define IN_REGISTER(number)
#endif

INLINE floats all(float number) { return (floats){0} + number; }

/* The smaller and the larger of two; b if one of them is NaN. */
#if defined(__AVX512F__)
INLINE floats smaller(floats a, floats b) { return (floats)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE floats larger(floats a, floats b) { return (floats)_mm512_max_ps((__m512)a, (__m512)b); }
#elif defined(__AVX__)
INLINE floats smaller(floats a, floats b) { return (floats)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE floats larger(floats a, floats b) { return (floats)_mm256_max_ps((__m256)a, (__m256)b); }
#else
INLINE floats where(ints mask, floats a, floats b) { return (floats)(((ints)a & mask) | ((ints)b & ~mask)); }
INLINE floats smaller(floats a, floats b) { return where(a < b, a, b); }
INLINE floats larger(floats a, floats b) { return where(a > b, a, b); }
#endif

/* The first `n` numbers, none below 1; the others are 0, or stay as they are. */
#if defined(__AVX512F__)
INLINE __mmask16 first(int64_t n) { return n >= LANES ? 0xffff : n > 0 ? (1 << n) - 1 : 0; }
INLINE floats load_part(const float *p, int64_t n) { return (floats)_mm512_maskz_loadu_ps(first(n), p); }
INLINE void store_part(float *p, floats v, int64_t n) { _mm512_mask_storeu_ps(p, first(n), (__m512)v); }
#elif defined(__AVX__)
INLINE __m256i first(int64_t n)
{
    const int m = n >= LANES ? LANES : n > 0 ? (int)n : 0;
    return (__m256i)((ints){0, 1, 2, 3, 4, 5, 6, 7} < m);
}
INLINE floats load_part(const float *p, int64_t n)
{
    return n >= LANES ? load(p) : (floats)_mm256_maskload_ps(p, first(n));
}
INLINE void store_part(float *p, floats v, int64_t n)
{
    if (n >= LANES) store(p, v);
    else _mm256_maskstore_ps(p, first(n), (__m256)v);
}
#else
INLINE floats load_part(const float *p, int64_t n)
{
    floats v = {0};
    if (n >= LANES) return load(p);
    if (n > 0) memcpy(&v, p, n * sizeof *p);
    return v;
}
INLINE void store_part(float *p, floats v, int64_t n)
{
    if (n >= LANES) store(p, v);
    else if (n > 0) memcpy(p, &v, n * sizeof *p);
}
#endif

/* e^v to 2 units in the last place: 2^n e^r with |r| <= ln 2 / 2; infinite above 88.3, 1e-38 below -87.3, NaN of NaN. */
INLINE floats exponential(floats v)
{
    const float magic = 12582912.0f; /* 1.5 2^23: a number added to it is rounded to an integer, in its last bits */
    floats x = larger(all(-87.3f), smaller(all(89), v));
    floats of_n = x * 1.44269504f + magic, n = of_n - magic;
    floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    floats y = r * 1.9875691e-4f + 1.3981999e-3f;
    y = y * r + 8.3334519e-3f;
    y = y * r + 4.1665796e-2f;
    y = y * r + 1.6666665e-1f;
    y = y * r + 0.5f;
    y = y * (r * r) + (r + 1.0f);
    return y * (floats)(((ints)of_n << 23) + (127 << 23));
}

/* Activations, by their numbers in packed.py. */
enum { IDENTITY, RELU, RELU6, HARDSWISH, SILU, GELU, SIGMOID, HARDSIGMOID };

/* They keep NaN, as torch does. */
INLINE floats positive(floats v) { return larger((floats){0}, v); }
INLINE floats hardsigmoid(floats v) { return smaller(all(6), positive(v + 3)) * 0.16666667f; }

__attribute__((noinline)) static floats gelu(floats v)
{
    for (int i = 0; i < LANES; i++) v[i] *= 0.5f + 0.5f * erff(0.70710678f * v[i]);
    return v;
}

INLINE floats activated(floats v, const int act)
{
    switch (act) {
    case RELU: return positive(v);
    case RELU6: return smaller(all(6), positive(v));
    case HARDSWISH: return v * hardsigmoid(v);
    case SILU: return v / (1 + exponential(-v));
    case GELU: return gelu(v);
    case SIGMOID: return 1 / (1 + exponential(-v));
    case HARDSIGMOID: return hardsigmoid(v);
    }
    return v;
}

/* Activate `n` vectors, a constant: one decision for all. */
INLINE void activate(floats *v, const int n, const int act)
{
    switch (act) {
#define EACH(a) case a: _Pragma("GCC unroll 24") for (int i = 0; i < n; i++) v[i] = activated(v[i], a); break;
        EACH(RELU) EACH(RELU6) EACH(HARDSWISH) EACH(SILU) EACH(GELU) EACH(SIGMOID) EACH(HARDSIGMOID)
#undef EACH
    }
}

/* acc[i * vectors + j] = sum_k h[i][at[k]] w[k][j], rows of h `step` apart, w a panel [K][width] of which the first
   `vectors` (1 to 3) count; at[k] = k if it is NULL. `rows`, `vectors`, `width` and whether `at` is NULL are constants where
   it is inlined. */
INLINE void product_at(const int rows, const int vectors, const float *h, const int32_t *at, const float *w, int64_t step,
                       int64_t K, const int width, floats *acc)
{
#pragma GCC unroll 36
    for (int i = 0; i < rows * vectors; i++) acc[i] = (floats){0};
    for (int64_t k = 0; k < K; k++) {
        const float *from = h + (at ? at[k] : k);
        floats v[3];
#pragma GCC unroll 3
        for (int j = 0; j < vectors; j++) {
            v[j] = load(w + k * width + j * LANES);
            IN_REGISTER(v[j]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            float a = from[i * step];
#pragma GCC unroll 3
            for (int j = 0; j < vectors; j++) acc[i * vectors + j] += a * v[j];
        }
    }
}

INLINE void product(const int rows, const int vectors, const float *h, const float *w, int64_t step, int64_t K,
                    const int width, floats *acc)
{
    product_at(rows, vectors, h, NULL, w, step, K, width, acc);
}

/* EACH(n) for every number of rows, so that it is a constant to the compiler; FOR_WIDE the rest of tiles that are one vector
   wide. */
#ifdef __AVX512F__
#define FOR_ROWS(EACH) \
    EACH(1) EACH(2) EACH(3) EACH(4) EACH(5) EACH(6) EACH(7) EACH(8) EACH(9) EACH(10) EACH(11) EACH(12)
#define FOR_WIDE(EACH) EACH(13) EACH(14) EACH(15) EACH(16)
#else
#define FOR_ROWS(EACH) EACH(1) EACH(2) EACH(3) EACH(4) EACH(5) EACH(6)
#define FOR_WIDE(EACH) EACH(7) EACH(8)
#endif
