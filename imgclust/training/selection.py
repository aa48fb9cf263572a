"""Which nodes of the condensed tree become clusters: those that other samples of the images show again.

HDBSCAN's own choice, the excess of mass, flips between few giant clusters and many small ones when a few
images come or go. Here the clustering is repeated on samples of the points; a node's **stability** is how
well it is found again, the mean over the repetitions of its best Jaccard index with any node there (Hennig,
"Cluster-wise assessment of cluster stability", 2007; below a half he calls a cluster dissolved). The clusters
are the nodes, none above another, with the largest sum of √(size × excess of mass) × (stability − ½), as
`values` has it: mass alone leaves more to "other", size alone joins what is well apart. Where whole fits on
samples of the images were made (`imgclust.training.consensus`), stability is how well a node is found again
by these, `AMONG_FITS` says what counts, and a node is worth more for being a cluster that these agree on. It
changes what is chosen from the tree, and nothing of how a new image finds its place in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from imgclust.errors import FitError
from imgclust.model.freeze import selected_nodes
from imgclust.training.antichains import antichain, counted_antichain
from imgclust.training.before import Before
from imgclust.training.coassociation import Refits
from imgclust.training.dedupe import Rows
from imgclust.training.hierarchy import Floats64, Hierarchy, Sample, best_jaccard, found_again
from imgclust.training.levels import Level, joined, level_above
from imgclust.training.parameters import Parameters, sample_size
from imgclust.training.umap_hdbscan import fit_hdbscan
from imgclust.types import Floats, Ints

DISSOLVED = 0.5  # stability below which a cluster is not found again
# weight of being a cluster of the previous model, or one that refits agree on; see decisions 0027 and 0028
KEPT = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """What a node is worth by its size, its excess of mass and its stability; see `values`.

    Attributes:
        size: the power of the size; that of the mass is what is left to 1.
        dissolved: stability from which a node is worth something.
    """

    size: float
    dissolved: float


AMONG_SAMPLES = Rule(0.5, DISSOLVED)
AMONG_FITS = Rule(0.75, 0.45)  # their borders differ more


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """A choice of clusters in figures.

    Attributes:
        value: that the choice makes as large as it can; see `values`.
        other: share of the images that are in no cluster.
        stability: mean over the images that are in one.
    """

    clusters: int
    value: float
    other: float
    stability: float

    @classmethod
    def of(cls, nodes: Rows, value: Floats64, stability: Floats64, hierarchy: Hierarchy) -> Cut:
        size = hierarchy.size[nodes]
        mean = float(np.average(stability[nodes], weights=size)) if len(nodes) else 0.0
        other = 1 - float(size.sum() / hierarchy.size[0])
        return cls(len(nodes), round(float(value[nodes].sum()), 4), round(other, 4), round(mean, 4))


@dataclasses.dataclass(frozen=True, slots=True)
class Bounded:
    """What it costs to have as many clusters as are wanted: the choice, and the one without the bound."""

    least: int
    most: int
    chosen: Cut
    default: Cut

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """Chosen clusters.

    Attributes:
        nodes: int64 (k,), ascending; nodes of the condensed tree, counted as hdbscan does (the root is n).
        stability: float64 (k,), 0..1; NaN where it is not known (no refits).
        bounded: where a number of clusters was asked for.
        level: the groups above them, where there are two levels.
    """

    nodes: Rows
    stability: Floats64
    bounded: Bounded | None = None
    level: Level | None = None

    def known(self) -> list[float | None]:
        """The clusters' stabilities, rounded; None where it is not known."""
        return [None if np.isnan(value) else round(float(value), 4) for value in self.stability]


def select(
    clusterer: Any,
    points: Floats,
    p: Parameters,
    progress: Callable[[float], None] | None = None,
    before: Before | None = None,
    refits: Refits | None = None,
) -> Selection:
    """Choose clusters from a fitted HDBSCAN's condensed tree, as `cluster_selection_method` says.

    Args:
        clusterer: fitted on `points` with these parameters.
        progress: called with the share that is done.
        before: what the previous model says of the points: its clusters and groups are preferred.
        refits: whole fits on samples, which say how stable clusters are; else samples of the points do.

    Raises:
        FitError: there is none.
    """
    tree = clusterer._condensed_tree
    hierarchy = Hierarchy.of(tree)
    if refits is None:
        samples, rule = point_samples(points, p, progress), AMONG_SAMPLES
    else:
        samples, rule = fit_samples(refits), AMONG_FITS
    stability = found_again(hierarchy, samples)
    bounded = level = None
    if p.cluster_selection_method == "stable":
        value = values(hierarchy, stability, p.max_cluster_share, rule)
        for known in (before, refits):
            value = value if known is None else value + kept_values(hierarchy, known.labels)
        chosen = antichain(hierarchy, value)
        if p.max_clusters:
            chosen, bounded = _bounded(hierarchy, value, stability, chosen, p)
    else:
        chosen = selected_nodes(tree, np.asarray(clusterer.labels_, np.int32)) - len(points)
    if not len(chosen):
        raise FitError(
            f"no cluster was found among {len(points)} images: give more images, or lower "
            f"min_cluster_size (now {p.min_cluster_size}) or min_samples (now {p.min_samples})"
        )
    if p.levels == 2:
        level = _groups(hierarchy, chosen, samples, rule, p, before)
    return Selection(chosen + len(points), stability[chosen], bounded, level)


def _groups(
    hierarchy: Hierarchy,
    clusters: Rows,
    samples: Sequence[Sample],
    rule: Rule,
    p: Parameters,
    before: Before | None,
) -> Level:
    """The groups above the clusters, from how these lie together in the samples; see `joined`."""
    above, nodes = joined(hierarchy, clusters, samples, None if before is None else before.groups)
    stability = found_again(above, samples)
    value = values(above, stability, p.max_cluster_share, rule)
    if before is not None:
        value = value + kept_values(above, before.groups)
    return level_above(above, nodes, value, stability, p)


def _bounded(
    hierarchy: Hierarchy, value: Floats64, stability: Floats64, default: Rows, p: Parameters
) -> tuple[Rows, Bounded]:
    """As many clusters as are wanted, or as near to it as the tree comes; the default where it is so many."""
    least, most = p.min_clusters, p.max_clusters
    fits = least <= len(default) <= most
    chosen = default if fits else counted_antichain(hierarchy, value, least, most)
    cuts = (Cut.of(nodes, value, stability, hierarchy) for nodes in (chosen, default))
    return chosen, Bounded(least, most, *cuts)


def values(hierarchy: Hierarchy, stability: Floats64, share: float, rule: Rule = AMONG_SAMPLES) -> Floats64:
    """float64 (k,): what each node is worth as a cluster; the root, which is everything, is worth nothing.

    A node of half of all points has an index of a half with everything, so its stability counts from there;
    and one of more than `share` of them is worth less by as much: it has to be far steadier than what lies
    below it.
    """
    part = hierarchy.size / hierarchy.size[0]
    beyond_chance = (stability - part) / np.maximum(1 - part, np.finfo(float).tiny)
    own_choice = antichain(hierarchy, np.where(part < 1, hierarchy.mass, -np.inf))
    total = hierarchy.mass[own_choice].sum()
    mass = hierarchy.mass * (hierarchy.size[0] / total if total > 0 else 0.0)
    worth = hierarchy.size**rule.size * mass ** (1 - rule.size)
    value = worth * (beyond_chance - rule.dissolved) * np.minimum(1, share / part)
    return np.where(part < 1, value, -np.inf)


def kept_values(hierarchy: Hierarchy, before: Ints) -> Floats64:
    """float64 (k,): what each node is worth for being one of these clusters, in `values`' unit.

    The Jaccard index counts all points: where most of a node is in no cluster, it is none of them, and room
    is left for what is new.

    Args:
        before: int (n,); the clusters of the previous model, or those that refits agree on; -1: in none.
    """
    count = int(before.max(initial=-1)) + 1
    if not count:
        return np.zeros(len(hierarchy.parent))
    sizes = np.bincount(before[before >= 0], minlength=count).astype(np.float64)
    shared = hierarchy.shared(hierarchy.node_of, before, count)
    index = best_jaccard(shared, hierarchy.size.astype(np.float64), sizes)
    return np.asarray(KEPT * hierarchy.size * np.maximum(index - DISSOLVED, 0), np.float64)


def point_samples(
    points: Floats, p: Parameters, progress: Callable[[float], None] | None = None
) -> list[Sample]:
    """What HDBSCAN finds in samples of the points."""
    n, found = len(points), []
    m = sample_size(n)
    smaller = p.scaled(m / n)
    for refit in range(p.refits):
        rows = np.sort(np.random.default_rng([p.random_state, refit]).permutation(n)[:m])
        tree = fit_hdbscan(points[rows], smaller, prediction_data=False)._condensed_tree
        found.append(Sample(Hierarchy.of(tree), rows))
        if progress:
            progress((refit + 1) / p.refits)
    return found


def fit_samples(refits: Refits) -> list[Sample]:
    """What whole fits found in samples of the images."""
    return [Sample(Hierarchy.of(fit.tree), fit.rows) for fit in refits.fits]
