/* ivf.py and neighbours.py: cells by integer products, a shortlist, and its true distances. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define LANES 32
#define ROWS 16    /* of codes at once: they stay in the first cache for all queries */
#define TOGETHER 4 /* queries for which a row is loaded once */

DEFINE_SELECT(select_key, int64_t)

typedef struct {
    double distance;
    int64_t row;
} Neighbour;

/* Products of rows of codes with up to TOGETHER queries, into rows of ROWS. Queries are shifted by 128, as the
 * instruction wants one factor without a sign: 128 times the rows' sums are taken off again. */
typedef void Dots(const int8_t *codes, const int32_t *sums, int64_t rows, int64_t width,
                  const uint8_t *const *queries, int64_t count, int32_t *out);

EVERY_PROCESSOR static void dots(const int8_t *codes, const int32_t *sums, int64_t rows, int64_t width,
                                 const uint8_t *const *queries, int64_t count, int32_t *out) {
    for (int64_t q = 0; q < count; q++)
        for (int64_t r = 0; r < rows; r++) {
            int32_t total = 0;
            for (int64_t e = 0; e < width; e++) total += (int32_t)codes[r * width + e] * (int32_t)queries[q][e];
            out[q * ROWS + r] = total - 128 * sums[r];
        }
}

#if defined(__x86_64__)
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

/* Four sums of sixteen: pairs of rows side by side, then lanes upon lanes. */
VNNI static inline __m128i four_sums(const __m512i *total) {
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(total[0], total[1]),
                                  _mm512_unpackhi_epi32(total[0], total[1]));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(total[2], total[3]),
                                  _mm512_unpackhi_epi32(total[2], total[3]));
    __m512i four = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i two = _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64(four, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
}

/* `count` is a constant wherever this is inlined, so that all sums are in registers. */
VNNI __attribute__((always_inline)) static inline void dots_of(
    const int8_t *codes, const int32_t *sums, int64_t rows, int64_t width, const uint8_t *const *queries,
    int64_t count, int32_t *out) {
    int64_t whole = width & ~(int64_t)63;
    __mmask64 tail = ((__mmask64)1 << (width & 63)) - 1;
    for (int64_t r = 0; r < rows; r += 4) {
        const int8_t *row[4];
        __m512i total[TOGETHER][4];
        for (int i = 0; i < 4; i++) row[i] = codes + (r + i < rows ? r + i : rows - 1) * width;
        for (int64_t q = 0; q < count; q++)
            for (int i = 0; i < 4; i++) total[q][i] = _mm512_setzero_si512();
        for (int64_t e = 0; e < width; e += 64) {
            __mmask64 there = e < whole ? ~(__mmask64)0 : tail;
            __m512i code[4];
            for (int i = 0; i < 4; i++) code[i] = _mm512_maskz_loadu_epi8(there, row[i] + e);
            for (int64_t q = 0; q < count; q++) {
                __m512i query = _mm512_maskz_loadu_epi8(there, queries[q] + e);
                for (int i = 0; i < 4; i++) total[q][i] = _mm512_dpbusd_epi32(total[q][i], query, code[i]);
            }
        }
        __mmask8 there = (__mmask8)((1u << (rows - r < 4 ? rows - r : 4)) - 1);
        __m128i shift = _mm_slli_epi32(_mm_maskz_loadu_epi32(there, sums + r), 7);
        for (int64_t q = 0; q < count; q++)
            _mm_mask_storeu_epi32(out + q * ROWS + r, there, _mm_sub_epi32(four_sums(total[q]), shift));
    }
}

VNNI static void dots_vnni(const int8_t *codes, const int32_t *sums, int64_t rows, int64_t width,
                           const uint8_t *const *queries, int64_t count, int32_t *out) {
    switch (count) {
        case 4: dots_of(codes, sums, rows, width, queries, 4, out); break;
        case 3: dots_of(codes, sums, rows, width, queries, 3, out); break;
        case 2: dots_of(codes, sums, rows, width, queries, 2, out); break;
        default: dots_of(codes, sums, rows, width, queries, 1, out);
    }
}
#endif

static Dots *fastest(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw")) return dots_vnni;
#endif
    return dots;
}

/* A candidate as a number that is smaller the better it is: falling score, then place. */
INLINE int64_t key(int32_t score, int64_t place) { return -(int64_t)score * ((int64_t)1 << 32) + place; }

static int by_row(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static int by_distance(const void *a, const void *b) {
    const Neighbour *x = a, *y = b;
    if (x->distance != y->distance) return x->distance < y->distance ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

/* Exact: a product of two float16 numbers fits a float, and a sum of such products of unit vectors a double. */
EVERY_PROCESSOR static double exact_product(const uint16_t *half, const float *query, int64_t dim) {
    double sums[LANES] = {0}, total = 0.0;
    for (int64_t start = 0; start < dim; start += LANES) {
        int64_t size = dim - start < LANES ? dim - start : LANES;
        uint32_t bits[LANES] = {0};
        float wide[LANES], other[LANES] = {0};
        if (size == LANES) {
            for (int i = 0; i < LANES; i++) bits[i] = half[start + i];
            for (int i = 0; i < LANES; i++) other[i] = query[start + i];
        } else {
            for (int i = 0; i < size; i++) bits[i] = half[start + i];
            for (int i = 0; i < size; i++) other[i] = query[start + i];
        }
        uint32_t moved[LANES];
        for (int i = 0; i < LANES; i++) moved[i] = (bits[i] & 0x8000) << 16 | (bits[i] & 0x7fff) << 13;
        memcpy(wide, moved, sizeof wide);
        for (int i = 0; i < LANES; i++) sums[i] += (double)(wide[i] * 0x1p112f * other[i]);
    }
    for (int i = 0; i < LANES; i++) total += sums[i];
    return total;
}

/* Neighbours.nearest, for one query and its `n->shortlist` rows. */
static void by_true_distance(const Ivf *n, const float *query, const int32_t *chosen, Neighbour *near,
                             int64_t *rows, double *distances, double *similarity) {
    double own = 0.0, highest = -INFINITY;
    for (int64_t e = 0; e < n->dim; e++) own += (double)query[e] * (double)query[e];
    for (int64_t i = 0; i < n->shortlist; i++) {
        int64_t row = chosen[i];
        if (i + 2 < n->shortlist)
            for (int64_t e = 0; e < n->dim; e += 32) __builtin_prefetch(n->embeddings + chosen[i + 2] * n->dim + e);
        double product = exact_product(n->embeddings + row * n->dim, query, n->dim), square = n->squares[row];
        double cosine = product / sqrt(square * own), apart = square + own - 2.0 * product;
        near[i].row = row;
        near[i].distance = n->cosine ? 1.0 - cosine : sqrt(apart > 0.0 ? apart : 0.0);
        highest = cosine > highest ? cosine : highest;
    }
    qsort(near, (size_t)n->shortlist, sizeof(Neighbour), by_distance);
    for (int64_t i = 0; i < n->neighbours; i++) {
        rows[i] = near[i].row;
        distances[i] = near[i].distance > 0.0 ? near[i].distance : 0.0;
    }
    *similarity = highest < 1.0 ? highest : 1.0;
}

EVERY_PROCESSOR static int32_t highest_of(const int32_t *scores, int64_t n) {
    int32_t highest = scores[0];
    for (int64_t i = 1; i < n; i++) highest = scores[i] > highest ? scores[i] : highest;
    return highest;
}

typedef struct {
    uint8_t *codes;      /* (m, width) of the queries, shifted by 128 */
    uint8_t *read;       /* (m, cells): 1: read, 2: the nearest, which is read first */
    int64_t *kept;       /* (m, most) candidates */
    int64_t *count;      /* (m,) of them */
    int64_t *least;      /* (m,) score of the last candidate that was kept: lower ones cannot be among the best */
    int64_t *asking;     /* queries that read a cell */
    int32_t *scores, *chosen;
    Neighbour *near;
    int64_t most; /* candidates that fit */
} Search;

static void begin(const Ivf *n, const float *queries, int64_t m, Dots *product, Search *s) {
    memset(s->codes, 128, (size_t)(m * n->width));
    for (int64_t i = 0; i < m; i++) {
        uint8_t *code = s->codes + i * n->width;
        for (int64_t e = 0; e < n->dim; e++) {
            double x = rint((double)queries[i * n->dim + e] * n->scale);
            code[e] = (uint8_t)(128 + (int)(x < -127.0 ? -127.0 : x > 127.0 ? 127.0 : x));
        }
        const uint8_t *one = code;
        for (int64_t c = 0; c < n->cells; c += ROWS) {
            int64_t size = n->cells - c < ROWS ? n->cells - c : ROWS;
            product(n->centres + c * n->width, n->centre_sums + c, size, n->width, &one, 1, s->scores + c);
        }
        int32_t highest = highest_of(s->scores, n->cells);
        for (int64_t c = 0; c < n->cells; c++)
            s->read[i * n->cells + c] = s->scores[c] == highest ? 2 : s->scores[c] >= highest - n->margin;
        s->least[i] = INT32_MIN;
    }
}

/* Keep what may be among the best of query i, of the rows from `start` on. */
static void keep(const Ivf *n, int64_t i, int64_t start, int64_t size, const int32_t *scores, Search *s) {
    int64_t *mine = s->kept + i * s->most, count = s->count[i], least = s->least[i];
    for (int64_t r = 0; r < size; r++) {
        mine[count] = key(scores[r], start + r);
        count += scores[r] >= least && n->code_rows[start + r] >= 0;
    }
    if (count > s->most - ROWS - 1) {
        int64_t last = select_key(mine, count, n->shortlist - 1);
        s->least[i] = -((last - (last & 0xffffffff)) / ((int64_t)1 << 32));
        count = n->shortlist;
    }
    s->count[i] = count;
}

/* Have a part of memory on its way to the second cache. */
INLINE void fetch(const int8_t *from, int64_t bytes) {
    for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(from + b, 0, 2);
}

static void scan(const Ivf *n, int64_t m, uint8_t which, Dots *product, Search *s) {
    for (int64_t c = 0; c < n->cells; c++) {
        int64_t asking = 0;
        for (int64_t i = 0; i < m; i++)
            if (s->read[i * n->cells + c] == which) s->asking[asking++] = i;
        for (int64_t start = n->starts[c]; asking && start < n->starts[c + 1]; start += ROWS) {
            int64_t size = n->starts[c + 1] - start < ROWS ? n->starts[c + 1] - start : ROWS;
            const int8_t *codes = n->codes + start * n->width, *next = codes + size * n->width;
            int64_t bytes = start + size < n->starts[n->cells] ? ROWS * n->width : 0;
            for (int64_t a = 0; a < asking; a += TOGETHER) {
                int64_t count = asking - a < TOGETHER ? asking - a : TOGETHER;
                const uint8_t *queries[TOGETHER];
                for (int64_t q = 0; q < count; q++) queries[q] = s->codes + s->asking[a + q] * n->width;
                int64_t from = bytes * a / asking / 64 * 64, to = bytes * (a + count) / asking / 64 * 64;
                fetch(next + from, to - from);
                product(codes, n->sums + start, size, n->width, queries, count, s->scores);
                for (int64_t q = 0; q < count; q++) {
                    const int32_t *scores = s->scores + q * ROWS;
                    int64_t i = s->asking[a + q];
                    if (highest_of(scores, size) >= s->least[i]) keep(n, i, start, size, scores, s);
                }
            }
        }
    }
}

/* Neighbours.search: rows and distances, (m, neighbours), and the largest cosine, (m,); 0 without memory. */
int imgclust_search(const Ivf *n, int64_t m, const float *queries, int64_t *rows, double *distances,
                    double *similarities) {
    Dots *product = fastest();
    Search s = {.most = 4 * n->shortlist + ROWS + 1};
    s.codes = malloc((size_t)(m * n->width));
    s.read = malloc((size_t)(m * n->cells));
    s.kept = malloc((size_t)(m * s.most) * sizeof(int64_t));
    s.count = calloc((size_t)(3 * m), sizeof(int64_t));
    s.scores = malloc((size_t)(n->cells + TOGETHER * ROWS + n->shortlist) * sizeof(int32_t));
    s.near = malloc((size_t)n->shortlist * sizeof(Neighbour));
    int done = s.codes && s.read && s.kept && s.count && s.scores && s.near;
    if (done) {
        s.least = s.count + m;
        s.asking = s.least + m;
        s.chosen = s.scores + n->cells + TOGETHER * ROWS;
        begin(n, queries, m, product, &s);
        scan(n, m, 2, product, &s); /* first where the best are, so that little of the rest is kept */
        scan(n, m, 1, product, &s);
    }
    for (int64_t i = 0; done && i < m; i++) {
        int64_t *mine = s.kept + i * s.most;
        select_key(mine, s.count[i], n->shortlist - 1);
        for (int64_t j = 0; j < n->shortlist; j++) s.chosen[j] = n->code_rows[mine[j] & 0xffffffff];
        qsort(s.chosen, (size_t)n->shortlist, sizeof(int32_t), by_row);
        by_true_distance(n, queries + i * n->dim, s.chosen, s.near, rows + i * n->neighbours,
                         distances + i * n->neighbours, similarities + i);
    }
    free(s.codes);
    free(s.read);
    free(s.kept);
    free(s.count);
    free(s.scores);
    free(s.near);
    return done;
}

/* Whether rows are finite, not all zeros, no larger than `largest`, and hold nothing but float16 values: multiples
 * of 2**-24 below 2**-14, and numbers whose last 13 bits are 0 above. */
EVERY_PROCESSOR int imgclust_are_embeddings(const float *rows, int64_t m, int64_t dim, float largest) {
    for (int64_t i = 0; i < m; i++) {
        uint32_t wrong = 0, any = 0;
        for (int64_t e = 0; e < dim; e++) {
            union { float value; uint32_t bits; } x = {.value = rows[i * dim + e]};
            float size = fabsf(x.value);
            uint32_t small = size < 0x1p-14f;
            float steps = (small ? size : 0.0f) * 0x1p24f;
            wrong |= (uint32_t)!(size <= largest) | (uint32_t)(steps != (float)(int32_t)steps);
            wrong |= (small ^ 1) & (uint32_t)((x.bits & 0x1fff) != 0);
            any |= x.bits << 1;
        }
        if (wrong || !any) return 0;
    }
    return 1;
}
