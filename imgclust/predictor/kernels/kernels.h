/* The predictor's steps for one image at a time. The same operations in the same order as in the Python modules
 * of the same names, so the same bits: compiled with -ffp-contract=off, and nothing here reassociates a sum of
 * floats. What a step is for is written there. */
#ifndef IMGCLUST_KERNELS_H
#define IMGCLUST_KERNELS_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__)
#define EVERY_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EVERY_PROCESSOR
#endif

#define MOST_AXES 32 /* of the low-dimensional space; see compiled.py */
#define GROUP 16     /* repulsion._GROUP */

/* The structures are filled by compiled.py, field by field. Boxes of all levels follow each other: level L begins
 * at 2**L - 1. Pointers may be NULL only where a comment says so. */

typedef struct {
    int64_t n, dim, depth, width, rank, count;
    const double *low, *high;    /* (boxes, dim) */
    const double *leaf_points;   /* (leaves, dim, width), infinite where there is none */
    const int64_t *rows;         /* (leaves, width) */
    const double *core;          /* (n,) */
} Tree;

typedef struct {
    int64_t n, dim, depth, width, neighbours, epochs, start_level, attraction_size, repulsion_size;
    const float *points;         /* (n, dim) */
    const float *attraction, *repulsion;
    const double *means;         /* (boxes, dim) */
    const double *variances, *shares;
    const float *entries;        /* (boxes, dim + 2) */
    const float *leaves;         /* (leaves, dim + 2, width) */
    const int32_t *leaf_sizes;
    double opening, negligible, roughly, negatives, rate, local, target, first;
} Umap;

typedef struct {
    int64_t n, dim, width, cells, margin, neighbours, shortlist, cosine;
    const int8_t *codes;         /* (starts[cells], width) */
    const int8_t *centres;       /* (cells, width) */
    const int32_t *starts;       /* (cells + 1,) */
    const int32_t *code_rows;    /* (starts[cells],), -1 for a repeated row */
    const uint16_t *embeddings;  /* float16 (n, dim) */
    const double *squares;       /* (n,) */
    const int32_t *sums;         /* of each row of codes */
    const int32_t *centre_sums;
    double scale;
} Ivf;

typedef struct {
    int64_t clusters, nodes, exemplars_size, dim;
    const double *exemplars;     /* (dim, exemplars_size) */
    const int64_t *first;        /* (clusters,) */
    const double *height;        /* (clusters, nodes) */
    const double *densest;       /* (nodes,) */
    const int64_t *selected;     /* (clusters,) */
} Soft;

/* exact.ordered_sum: halves added to halves. `x` is overwritten. */
INLINE double ordered_sum(double *x, int64_t n) {
    while (n > 1) {
        int64_t half = n >> 1;
        double last = x[n - 1];
#pragma GCC ivdep
        for (int64_t i = 0; i < half; i++) x[i] += x[half + i];
        if (n & 1) x[0] += last;
        n = half;
    }
    return x[0];
}

INLINE float ordered_sum_single(float *x, int64_t n) {
    while (n > 1) {
        int64_t half = n >> 1;
        float last = x[n - 1];
#pragma GCC ivdep
        for (int64_t i = 0; i < half; i++) x[i] += x[half + i];
        if (n & 1) x[0] += last;
        n = half;
    }
    return x[0];
}

/* exact.exp: e**x for x <= 0. */
INLINE double exact_exp(double x) {
    static const double taylor[] = {1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0,
                                    1.0 / 6.0, 1.0 / 2.0, 1.0, 1.0};
    double clamped = x < -700.0 ? -700.0 : x > 0.0 ? 0.0 : x;
    double n = floor(clamped * 1.4426950408889634 + 0.5);
    double r = (clamped - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    double total = taylor[0];
    for (int i = 1; i < 9; i++) total = total * r + taylor[i];
    union { int64_t bits; double value; } power = {.bits = (int64_t)((uint64_t)((int64_t)n + 1023) << 52)};
    return x < -700.0 ? 0.0 : total * power.value;
}

/* exact.lookup: bins of equal width within each power of two, 2**-30 to 2**17. */
INLINE float lookup(const float *table, int64_t size, float x) {
    union { float value; int32_t bits; } number = {.value = x};
    int32_t index = (number.bits >> 14) - (127 - 30) * 512;
    index = index < 0 ? 0 : index;
    return table[index < size ? index : (int32_t)size - 1];
}

/* The value at a place, counted from 0, of an ascending order; `x` is reordered. */
#define DEFINE_SELECT(NAME, TYPE)                                             \
    static TYPE NAME(TYPE *x, int64_t n, int64_t place) {                     \
        int64_t low = 0, high = n - 1;                                        \
        while (low < high) {                                                  \
            TYPE pivot = x[low + (high - low) / 2];                           \
            int64_t i = low, j = high;                                        \
            while (i <= j) {                                                  \
                while (x[i] < pivot) i++;                                     \
                while (pivot < x[j]) j--;                                     \
                if (i <= j) {                                                 \
                    TYPE swap = x[i];                                         \
                    x[i++] = x[j];                                            \
                    x[j--] = swap;                                            \
                }                                                             \
            }                                                                 \
            if (place <= j) high = j;                                         \
            else if (place >= i) low = i;                                     \
            else break;                                                       \
        }                                                                     \
        return x[place];                                                      \
    }

#endif
