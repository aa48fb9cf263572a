/* umap_transform.py and repulsion.py. */
#include "kernels.h"

typedef struct {
    int64_t stride, capacity, count; /* of neighbours (padded), of entries, and of entries in use */
    float *places, *weights, *differences, *share, *sum; /* the pull: (dim, stride) or (stride,) */
    double *exactly, *before, *scratch, *beyond;
    float *entries; /* the push: (dim + 2, capacity): places, softening, weight */
    int32_t *nodes, *below;
    float total;
} Work;

static void release(Work *w) {
    free(w->places);
    free(w->exactly);
    free(w->entries);
    free(w->nodes);
}

static int allocate(Work *w, const Umap *u) {
    int64_t k = u->neighbours, leaves = (int64_t)1 << u->depth;
    w->stride = (k + GROUP - 1) / GROUP * GROUP;
    w->capacity = leaves * u->width + 2 * leaves + GROUP;
    w->places = calloc((size_t)((2 * u->dim + 3) * w->stride), sizeof(float));
    w->exactly = calloc((size_t)(4 * w->stride), sizeof(double));
    w->entries = malloc((size_t)((u->dim + 2) * w->capacity) * sizeof(float));
    w->nodes = malloc((size_t)(2 * leaves) * sizeof(int32_t));
    if (!w->places || !w->exactly || !w->entries || !w->nodes) return 0;
    w->differences = w->places + u->dim * w->stride;
    w->weights = w->differences + u->dim * w->stride;
    w->share = w->weights + w->stride;
    w->sum = w->share + w->stride;
    w->before = w->exactly + w->stride;
    w->scratch = w->before + w->stride;
    w->beyond = w->scratch + w->stride;
    w->below = w->nodes + leaves;
    return 1;
}

/* UmapTransform._nearest */
static double nearest_distance(const Umap *u, const double *distances) {
    if (u->local == 0.0) return 0.0;
    int64_t last = u->neighbours - 1, zeros = 0, whole = (int64_t)u->local;
    double share = u->local - (double)whole;
    for (int64_t j = 0; j <= last; j++) zeros += distances[j] == 0.0;
    int64_t first = zeros + (whole > 1 ? whole - 1 : 0);
    if (first > last) first = last;
    int64_t second = first + 1 > last ? last : first + 1;
    double low = distances[first], high = distances[second];
    return whole ? low + share * (high - low) : share * low;
}

/* UmapTransform._weights */
EVERY_PROCESSOR static void weigh(const Umap *u, const double *distances, Work *w) {
    int64_t k = u->neighbours;
    double near = nearest_distance(u, distances);
    double *restrict beyond = w->beyond, *restrict values = w->scratch, *restrict slopes = w->before;
    for (int64_t j = 0; j < k; j++) {
        double gap = distances[j] - near;
        beyond[j] = gap > 0.0 ? gap : 0.0;
        values[j] = distances[j];
    }
    double mean = ordered_sum(values, k) / (double)k;
    double most = mean > 0.0 ? 1.0 / (1e-3 * mean) : 1.0;
    memcpy(values, beyond + 1, (size_t)(k - 1) * sizeof(double));
    double spread = ordered_sum(values, k - 1) / (double)(k - 1);
    double inverse = spread > 0.0 ? u->first / spread : 0.0;
    for (int step = 0; step < 20; step++) {
        for (int64_t j = 1; j < k; j++) {
            double value = exact_exp(-beyond[j] * inverse);
            values[j - 1] = value;
            slopes[j - 1] = value * beyond[j];
        }
        double total = ordered_sum(values, k - 1), slope = ordered_sum(slopes, k - 1);
        double move = slope > 0.0 ? (total - u->target) / slope : 0.0;
        inverse += move;
        if (!(inverse > 0.0)) inverse = 0.0;
        if (inverse > most) inverse = most;
        if (!(fabs(move) > 1e-7 * inverse)) break;
    }
    double largest = exact_exp(-beyond[0] * inverse), least = 1.0 / (double)u->epochs;
    for (int64_t j = 0; j < k; j++) {
        double strength = exact_exp(-beyond[j] * inverse) / largest;
        w->exactly[j] = strength < least ? 0.0 : strength;
        w->weights[j] = (float)w->exactly[j];
        w->sum[j] = w->weights[j];
    }
    w->total = ordered_sum_single(w->sum, k);
}

static void add(const Umap *u, Work *w, const float *entry) {
    if (!(entry[u->dim + 1] > 0.0f)) return;
    for (int64_t a = 0; a < u->dim + 2; a++) w->entries[a * w->capacity + w->count] = entry[a];
    w->count++;
}

/* Repulsion.sources */
static void find_sources(const Umap *u, const float *point, double care, Work *w) {
    double opening = u->opening * care, negligible = u->negligible * care;
    int64_t level = u->start_level, count = (int64_t)1 << level;
    int32_t *nodes = w->nodes, *below = w->below;
    for (int64_t i = 0; i < count; i++) nodes[i] = (int32_t)i;
    w->count = 0;
    for (;; level++) {
        int64_t kept = 0;
        for (int64_t i = 0; i < count; i++) {
            int64_t box = ((int64_t)1 << level) - 1 + nodes[i];
            const double *mean = u->means + box * u->dim;
            double gap = (double)point[0] - mean[0];
            gap *= gap;
            for (int64_t a = 1; a < u->dim; a++) {
                double x = (double)point[a] - mean[a];
                gap += x * x;
            }
            double spread = u->variances[box];
            if (spread <= gap * opening || u->shares[box] * spread <= negligible * (gap + spread)) {
                add(u, w, u->entries + box * (u->dim + 2));
            } else if (level == u->depth) {
                below[kept++] = nodes[i];
            } else {
                below[kept++] = 2 * nodes[i];
                below[kept++] = 2 * nodes[i] + 1;
            }
        }
        int32_t *swap = nodes;
        nodes = below;
        below = swap;
        count = kept;
        if (level == u->depth) break;
    }
    for (int64_t i = 0; i < count; i++) {
        const float *leaf = u->leaves + nodes[i] * (u->dim + 2) * u->width;
        int64_t size = u->leaf_sizes[nodes[i]];
        for (int64_t a = 0; a < u->dim + 2; a++)
            memcpy(w->entries + a * w->capacity + w->count, leaf + a * u->width, (size_t)size * sizeof(float));
        w->count += size;
    }
    for (; w->count % GROUP; w->count++)
        for (int64_t a = 0; a < u->dim + 2; a++) w->entries[a * w->capacity + w->count] = 0.0f;
}

/* Repulsion.force */
EVERY_PROCESSOR static void push_force(const Umap *u, const float *point, const Work *w, float *force) {
    int64_t dim = u->dim, capacity = w->capacity;
    float total[MOST_AXES][GROUP] = {{0}};
    for (int64_t start = 0; start < w->count; start += GROUP) {
        float gaps[MOST_AXES][GROUP], coefficient[GROUP];
        const float *entries = w->entries + start;
        for (int64_t a = 0; a < dim; a++)
            for (int i = 0; i < GROUP; i++) gaps[a][i] = point[a] - entries[a * capacity + i];
        for (int i = 0; i < GROUP; i++) coefficient[i] = gaps[0][i] * gaps[0][i];
        for (int64_t a = 1; a < dim; a++)
            for (int i = 0; i < GROUP; i++) coefficient[i] += gaps[a][i] * gaps[a][i];
        for (int i = 0; i < GROUP; i++) {
            float square = coefficient[i] + entries[dim * capacity + i];
            coefficient[i] = lookup(u->repulsion, u->repulsion_size, square);
        }
        for (int64_t a = 0; a < dim; a++)
            for (int i = 0; i < GROUP; i++) {
                float x = gaps[a][i] * coefficient[i];
                x = x < -4.0f ? -4.0f : x > 4.0f ? 4.0f : x;
                total[a][i] += x * entries[(dim + 1) * capacity + i];
            }
    }
    for (int64_t a = 0; a < dim; a++) force[a] = ordered_sum_single(total[a], GROUP);
}

/* UmapTransform._strengths, into w->share; the differences are left in w->differences. */
EVERY_PROCESSOR static void strengths(const Umap *u, const float *point, Work *w) {
    int64_t k = u->neighbours;
    float *restrict share = w->share;
    for (int64_t a = 0; a < u->dim; a++) {
        const float *restrict places = w->places + a * w->stride;
        float *restrict gap = w->differences + a * w->stride, x = point[a];
        for (int64_t j = 0; j < k; j++) gap[j] = x - places[j];
        if (a == 0)
            for (int64_t j = 0; j < k; j++) share[j] = gap[j] * gap[j];
        else
            for (int64_t j = 0; j < k; j++) share[j] += gap[j] * gap[j];
    }
    for (int64_t j = 0; j < k; j++) share[j] = lookup(u->attraction, u->attraction_size, share[j]);
}

/* UmapTransform._settle: how far the last step went. */
EVERY_PROCESSOR static float settle(const Umap *u, float *point, Work *w, int steps, float stride) {
    int64_t k = u->neighbours;
    float share = (float)u->negatives * w->total, force[MOST_AXES], furthest = 0.0f;
    for (int step = 0; step < steps; step++) {
        push_force(u, point, w, force);
        strengths(u, point, w);
        for (int64_t j = 0; j < k; j++) w->share[j] *= w->weights[j];
        memcpy(w->sum, w->share, (size_t)k * sizeof(float));
        float all = ordered_sum_single(w->sum, k);
        furthest = 0.0f;
        for (int64_t a = 0; a < u->dim; a++) {
            const float *places = w->places + a * w->stride;
            for (int64_t j = 0; j < k; j++) w->sum[j] = w->share[j] * places[j];
            float move = (ordered_sum_single(w->sum, k) + share * force[a]) / all - point[a];
            move = move < -stride ? -stride : move > stride ? stride : move;
            point[a] += move;
            furthest = fabsf(move) > furthest ? fabsf(move) : furthest;
        }
    }
    return furthest;
}

/* UmapTransform._replay */
EVERY_PROCESSOR static void replay(const Umap *u, float *point, Work *w, int64_t epochs) {
    int64_t k = u->neighbours, all = u->epochs;
    int64_t before = all - epochs - 1 > 0 ? all - epochs - 1 : 0, first = all - epochs > 1 ? all - epochs : 1;
    double *restrict done = w->before, *restrict later = w->scratch;
    for (int64_t j = 0; j < k; j++) done[j] = floor((double)before * w->exactly[j]);
    for (int64_t epoch = first; epoch < all; epoch++) {
        double rate = u->rate * (1.0 - (double)epoch / (double)all);
        float force[MOST_AXES], pace = (float)rate, pushing = (float)(rate * u->negatives);
        push_force(u, point, w, force);
        strengths(u, point, w);
        for (int64_t j = 0; j < k; j++) {
            float largest = fabsf(w->differences[j]);
            for (int64_t a = 1; a < u->dim; a++) {
                float gap = fabsf(w->differences[a * w->stride + j]);
                largest = gap > largest ? gap : largest;
            }
            largest = largest > 1e-30f ? largest : 1e-30f;
            float bound = 4.0f / largest, strength = w->share[j];
            double after = floor((double)epoch * w->exactly[j]);
            float due = after > done[j] ? 1.0f : 0.0f;
            done[j] = after;
            w->share[j] = pace * (strength < bound ? strength : bound) * due;
            w->differences[j] = due; /* the first axis is read by now */
        }
        double product = 1.0;
        for (int64_t j = k - 1; j >= 0; j--) {
            later[j] = (double)(float)product; /* of the pulls that come after */
            product *= (double)(1.0f - w->share[j]);
        }
        float kept = (float)product;
        for (int64_t a = 0; a < u->dim; a++) {
            const float *places = w->places + a * w->stride;
            float push = pushing * force[a];
            for (int64_t j = 0; j < k; j++)
                w->sum[j] = (w->share[j] * places[j] + w->differences[j] * push) * (float)later[j];
            point[a] = kept * point[a] + ordered_sum_single(w->sum, k);
        }
    }
}

/* UmapTransform._move of one point: whether it settled. */
static int move(const Umap *u, const int64_t *rows, const double *distances, float *point, Work *w) {
    int64_t k = u->neighbours;
    for (int64_t j = 0; j < k; j++)
        for (int64_t a = 0; a < u->dim; a++) w->places[a * w->stride + j] = u->points[rows[j] * u->dim + a];
    weigh(u, distances, w);
    for (int64_t a = 0; a < u->dim; a++) {
        const float *places = w->places + a * w->stride;
        for (int64_t j = 0; j < k; j++) w->sum[j] = w->weights[j] * places[j];
        point[a] = distances[0] == 0.0 ? places[0] : ordered_sum_single(w->sum, k) / w->total;
    }
    find_sources(u, point, u->roughly, w);
    settle(u, point, w, 4, 4.0f);
    find_sources(u, point, 1.0, w);
    int settled = settle(u, point, w, 8, 0.5f) <= 0.02f;
    if (!settled) find_sources(u, point, 1.0, w);
    replay(u, point, w, settled ? 8 : 20);
    return settled;
}

/* Places of m images, float32 (m, dim), and whether they settled; 0 without memory. */
int imgclust_transform(const Umap *u, int64_t m, const int64_t *rows, const double *distances, float *points,
                       uint8_t *settled) {
    Work w;
    int done = allocate(&w, u);
    for (int64_t i = 0; done && i < m; i++)
        settled[i] = (uint8_t)move(u, rows + i * u->neighbours, distances + i * u->neighbours,
                                   points + i * u->dim, &w);
    release(&w);
    return done;
}
