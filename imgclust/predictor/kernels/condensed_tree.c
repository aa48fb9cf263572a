/* kdtree.py, condensed_tree.py (the nearest point by mutual reachability) and soft_membership.py. */
#include "kernels.h"

DEFINE_SELECT(select_double, double)

typedef struct {
    int64_t count;
    double *distance, *scratch;
    int64_t *row;
} Found;

INLINE double gap_to_box(const Tree *t, int64_t box, const double *x) {
    double total = 0.0;
    for (int64_t a = 0; a < t->dim; a++) {
        double below = t->low[box * t->dim + a] - x[a], above = x[a] - t->high[box * t->dim + a];
        double gap = below > above ? below : above;
        gap = gap > 0.0 ? gap : 0.0;
        total += gap * gap;
    }
    return total;
}

/* Distances from x to the points of a leaf. */
EVERY_PROCESSOR static void leaf_distances(const Tree *t, int64_t leaf, const double *x, double *out) {
    const double *points = t->leaf_points + leaf * t->dim * t->width;
    for (int64_t j = 0; j < t->width; j++) out[j] = 0.0;
    for (int64_t a = 0; a < t->dim; a++)
        for (int64_t j = 0; j < t->width; j++) {
            double gap = x[a] - points[a * t->width + j];
            out[j] += gap * gap;
        }
    for (int64_t j = 0; j < t->width; j++) out[j] = sqrt(out[j]);
}

/* KDTree.within, for one query. */
static void within(const Tree *t, const double *x, double radius, Found *f) {
    double reach = radius * radius * (1.0 + 1e-12), distances[64];
    int64_t stack[128], top = 0;
    f->count = 0;
    stack[top++] = 0;
    int64_t first_leaf = ((int64_t)1 << t->depth) - 1;
    while (top) {
        int64_t box = stack[--top];
        if (!(gap_to_box(t, box, x) <= reach)) continue;
        if (box < first_leaf) {
            stack[top++] = 2 * box + 2;
            stack[top++] = 2 * box + 1;
            continue;
        }
        int64_t leaf = box - first_leaf;
        leaf_distances(t, leaf, x, distances);
        for (int64_t j = 0; j < t->width; j++) {
            f->distance[f->count] = distances[j];
            f->row[f->count] = t->rows[leaf * t->width + j];
            f->count += distances[j] <= radius && distances[j] < INFINITY;
        }
    }
}

/* KDTree.home: radii to begin with, from the points of the leaf whose box is nearest. */
static void guess(const Tree *t, const double *x, double *radius, double *sure) {
    double distances[64];
    int64_t box = 0;
    for (int64_t level = 0; level < t->depth; level++) {
        int64_t left = 2 * box + 1;
        box = left + (gap_to_box(t, left + 1, x) < gap_to_box(t, left, x));
    }
    int64_t leaf = box - (((int64_t)1 << t->depth) - 1);
    leaf_distances(t, leaf, x, distances);
    *radius = *sure = INFINITY;
    for (int64_t j = 0; j < t->width; j++) {
        double core = t->core[t->rows[leaf * t->width + j]];
        double near = core + 0.7 * distances[j], far = core + distances[j];
        *radius = near < *radius ? near : *radius;
        *sure = far < *sure ? far : *sure;
    }
    *sure *= 1.01;
}

/* The distance at a rank, counted from 0; infinite where there are fewer points. */
static double ranked(Found *f, int64_t rank) {
    if (rank >= f->count) return INFINITY;
    memcpy(f->scratch, f->distance, (size_t)f->count * sizeof(double));
    return select_double(f->scratch, f->count, rank);
}

/* ClusterTree._best among the points no farther than `limit`. */
static double best(const Tree *t, const Found *f, double limit, double core, int64_t *row) {
    double lowest = INFINITY, nearest = INFINITY;
    for (int64_t i = 0; i < f->count; i++) {
        double reach = t->core[f->row[i]];
        reach = f->distance[i] > reach ? f->distance[i] : reach;
        if (f->distance[i] <= limit && reach < lowest) lowest = reach;
    }
    lowest = lowest > core ? lowest : core;
    *row = -1;
    for (int64_t i = 0; i < f->count; i++) {
        double distance = f->distance[i], reach = t->core[f->row[i]];
        reach = distance > reach ? distance : reach;
        if (!(distance <= limit && reach <= lowest)) continue;
        if (distance < nearest || (distance == nearest && f->row[i] < *row) || *row < 0) {
            nearest = distance;
            *row = f->row[i];
        }
    }
    return lowest;
}

/* ClusterTree.nearest: rows and distances, (m,); 0 without memory. */
int imgclust_nearest(const Tree *t, int64_t m, const float *points, int64_t *rows, double *reach) {
    int64_t most = ((int64_t)1 << t->depth) * t->width + 1;
    Found f = {0, malloc((size_t)most * 2 * sizeof(double)), NULL, malloc((size_t)most * sizeof(int64_t))};
    int done = f.distance && f.row;
    f.scratch = f.distance + most;
    double step = 0.0;
    for (int64_t a = 0; a < t->dim; a++) step = t->high[a] - t->low[a] > step ? t->high[a] - t->low[a] : step;
    step = step * 0x1p-20 + DBL_MIN; /* KDTree.step */
    for (int64_t i = 0; done && i < m; i++) {
        double x[MOST_AXES], radius, sure;
        for (int64_t a = 0; a < t->dim; a++) x[a] = (double)points[i * t->dim + a];
        guess(t, x, &radius, &sure);
        for (within(t, x, radius, &f); f.count <= t->rank; within(t, x, radius, &f)) {
            radius = radius * 1.3 + step;
            radius = radius > sure ? radius : sure;
        }
        double core = ranked(&f, t->rank);
        reach[i] = best(t, &f, INFINITY, core, rows + i);
        if (reach[i] > core) {
            within(t, x, reach[i], &f);
            reach[i] = best(t, &f, ranked(&f, t->count - 1), core, rows + i);
        }
    }
    free(f.distance);
    free(f.row);
    return done;
}

/* SoftMembership._scores of one point, into `score`. */
EVERY_PROCESSOR static void score_clusters(const Soft *s, const float *point, int64_t node, double lambda,
                                           double *score, double *lateness, double *sum, double *squares) {
    int64_t k = s->clusters, all = s->exemplars_size;
    double limit = DBL_MAX / (double)k, single = (double)(float)lambda, most = -INFINITY, highest = -INFINITY;
    for (int64_t e = 0; e < all; e++) squares[e] = 0.0;
    for (int64_t a = 0; a < s->dim; a++) {
        const double *exemplars = s->exemplars + a * all;
        double x = (double)point[a];
        for (int64_t e = 0; e < all; e++) {
            double gap = exemplars[e] - x;
            squares[e] += gap * gap;
        }
    }
    int64_t nearest_cluster = 0, broken = 0;
    double densest = s->densest[node];
    for (int64_t c = 0; c < k; c++) {
        int64_t stop = c + 1 < k ? s->first[c + 1] : all;
        double least = squares[s->first[c]];
        for (int64_t e = s->first[c] + 1; e < stop; e++) least = squares[e] < least ? squares[e] : least;
        least = sqrt(least);
        score[c] = sum[c] = least > 0.0 ? 1.0 / least : limit;
        double height = s->height[c * s->nodes + node];
        double late = isnan(height) ? single : height, inside = isnan(height) ? lambda : height;
        double rest = densest - late;
        lateness[c] = densest / (rest > 0.0 ? rest : 1e-8);
        broken |= isnan(lateness[c]);
        most = lateness[c] > most ? lateness[c] : most;
        if (inside > highest || c == 0) {
            highest = inside;
            nearest_cluster = c;
        }
    }
    if (broken) most = NAN;
    double total = ordered_sum(sum, k);
    for (int64_t c = 0; c < k; c++) {
        score[c] = score[c] / total;
        lateness[c] = sum[c] = exact_exp(lateness[c] - most);
    }
    total = ordered_sum(sum, k);
    for (int64_t c = 0; c < k; c++) {
        double late = lateness[c] / total;
        score[c] = sum[c] = sqrt(score[c]) * (late * late);
    }
    total = ordered_sum(sum, k);
    double dense = s->densest[s->selected[nearest_cluster]];
    double inside = highest / ((lambda > dense ? lambda : dense) + 1e-8);
    for (int64_t c = 0; c < k; c++) {
        score[c] = score[c] / total * inside;
        score[c] = isfinite(score[c]) ? score[c] : 0.0;
    }
}

/* SoftMembership.best: clusters and scores, (m, 3); 0 without memory.
 * nodes, lambdas: (m,), where the points join and at which lambda, no later than their neighbour left. */
int imgclust_best(const Soft *s, int64_t m, const float *points, const int64_t *nodes, const double *lambdas,
                  int32_t *clusters, float *scores) {
    int64_t k = s->clusters;
    double *score = malloc((size_t)(3 * k + s->exemplars_size) * sizeof(double));
    for (int64_t i = 0; score && i < m; i++) {
        score_clusters(s, points + i * s->dim, nodes[i], lambdas[i], score, score + k, score + 2 * k, score + 3 * k);
        for (int place = 0; place < 3; place++) {
            clusters[3 * i + place] = -1;
            scores[3 * i + place] = 0.0f;
        }
        for (int64_t c = 0; c < k; c++) {
            float value = (float)score[c];
            for (int place = 0; value > 0.0f && place < 3; place++) {
                if (!(value > scores[3 * i + place])) continue;
                for (int move = 2; move > place; move--) {
                    scores[3 * i + move] = scores[3 * i + move - 1];
                    clusters[3 * i + move] = clusters[3 * i + move - 1];
                }
                scores[3 * i + place] = value;
                clusters[3 * i + place] = (int32_t)c;
                break;
            }
        }
    }
    int done = score != NULL;
    free(score);
    return done;
}
