"""One cluster → parts: where its own images lie densest, or as many as are asked for."""

from __future__ import annotations

import numpy as np

from imgclust.editing.mapping import nearest
from imgclust.errors import ModelError
from imgclust.types import Floats, Ints

ANCHORS = 32  # points that stand for a part, at most
LEAST = 5  # images in a part
TRIED = (
    3,
    4,
    6,
    8,
    12,
    16,
    24,
    32,
)  # the smallest part of a cluster, as one over its images: coarse ones first
MAX_ROWS = 20_000  # more are sampled: HDBSCAN and k-means see enough of a cluster in these


def split_points(points: Floats, into: int | None = None) -> list[Floats]:
    """The anchors of each part, the largest part first.

    Args:
        points: float32 (m, d), of one cluster's training images in the UMAP space.
        into: how many parts; by default those that HDBSCAN finds, in the coarsest of several settings that
            finds two or more.

    Returns:
        float32 (a, d) for each part, a at most `ANCHORS`.

    Raises:
        ModelError: too few images, or no parts to be found.
    """
    least = 2 * LEAST if into is None else 2 * into
    if len(points) < least:
        raise ModelError(
            f"a cluster of {len(points)} training images is too small to split: {least} are needed"
        )
    if into is not None and into < 2:
        raise ModelError(f"a cluster is split into 2 parts or more, not {into}")
    sample = points
    if len(points) > MAX_ROWS:
        sample = points[np.sort(np.random.default_rng(0).permutation(len(points))[:MAX_ROWS])]
    labels = _by_density(sample) if into is None else _k_means(sample, into)
    if labels is None:
        raise ModelError(
            "the cluster does not fall into parts that differ: say how many you want (--into 2), or leave it"
        )
    parts = [anchors_of(sample[labels == part]) for part in range(int(labels.max()) + 1)]
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    sizes = np.bincount(owners[nearest(points, np.concatenate(parts))], minlength=len(parts))
    return [parts[part] for part in np.argsort(-sizes, kind="stable")]


def _by_density(points: Floats) -> Ints | None:
    """int32 (m,) labels of the coarsest split into clusters that HDBSCAN finds; −1: in none of them."""
    from hdbscan import HDBSCAN

    for share in TRIED:
        size = max(LEAST, len(points) // share)
        found = HDBSCAN(min_cluster_size=size, min_samples=LEAST).fit(points.astype(np.float64)).labels_
        if found.max() >= 1:
            return np.asarray(found, np.int32)
    return None


def _k_means(points: Floats, parts: int) -> Ints | None:
    if len(np.unique(points, axis=0)) < parts:
        return None
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(parts, n_init=4, random_state=0).fit(points).labels_, np.int32)


def anchors_of(points: Floats) -> Floats:
    """Points that cover a part: all of few, the centres of k-means of many."""
    different = np.unique(points, axis=0)
    if len(different) <= ANCHORS:
        return np.asarray(different, np.float32)
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(ANCHORS, n_init=1, random_state=0).fit(points).cluster_centers_, np.float32)
